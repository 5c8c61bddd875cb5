"""One worker's place in a node: start a process, talk to it, and start another when it dies.

A worker that dies is replaced at once; one that keeps dying is replaced after growing pauses, and its listening
socket is closed meanwhile so that the others get the connections. What it held in shared memory is cleared in
between: INVARIANT: two processes never live in one slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Protocol

from interlock.gateway.link import (
    CallsTold,
    Configure,
    FeedbackClaim,
    KeyClaim,
    KeyEnd,
    LeaseReturned,
    LeaseWanted,
    LinkError,
    NodeEnd,
    Ping,
    Pong,
    Ready,
    RefreshKeys,
    Rejected,
    Runs,
    State,
    StateDropped,
    StateKept,
    StateWanted,
    Stop,
    ToNode,
    ToWorker,
    Worked,
    node_end,
)
from interlock.types.clock import Clock

log = logging.getLogger("interlock.gateway.node")

LIVED_NS = 10_000_000_000
"""A worker that lived this long did not die of its start: the next one starts at once."""
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 5.0
KILL_AFTER_S = 1.5
"""How long after the grace a worker that was told to stop may still take."""
RETIRED_EXIT = 7
"""Exit code of a shipper whose workers must be replaced: they write to epochs that were given up."""
SECRET_ENVIRONMENT = ("INTERLOCK_DATABASE_URL", "INTERLOCK_ADMIN_KEY")
"""What a worker does not need and is not given."""


class Host(Protocol):
    """What a slot asks of its node."""

    def configure(self, slot: int, generation: int) -> tuple[Configure, socket.socket]:
        """What the next worker is told, and the socket it listens on. Raises InterlockError."""

    def pausing(self, slot: int) -> None:
        """The slot stays empty for a while."""

    def died(self, slot: int) -> None:
        """The slot's worker is gone: clear what it held in shared memory."""

    def changed(self) -> None:
        """A worker became ready, or took a snapshot over, or is gone."""

    def rejected(self, slot: int, message: Rejected) -> None:
        """The slot's worker could not load a snapshot."""

    def refresh_keys(self, issuer_id: str) -> None:
        """The slot's worker met an unknown key id of this issuer."""

    def worked(self, slot: int, message: Worked) -> None:
        """The slot's worker tells what it did at sources with a meter."""

    def lease(self, slot: int, message: LeaseWanted | LeaseReturned) -> None:
        """The slot's worker needs a share of a budget, or gives some of one back."""

    def key(self, slot: int, message: KeyClaim | KeyEnd | FeedbackClaim) -> None:
        """A call of the slot's worker claims an idempotency key, or ends; or it takes feedback on one."""

    def state(self, slot: int, message: State) -> None:
        """The slot's worker reads, keeps or deletes stored responses."""

    def calls(self, slot: int, message: CallsTold) -> None:
        """The slot's worker tells which calls run."""


class Slot:
    """The worker number `number` of a node, over all the processes that live in it one after the other.

    `pid` is 0 between two. `ready`: it accepts connections; `snapshot`: the version it runs on.
    """

    def __init__(self, number: int, host: Host, clock: Clock, *, module: str, silent_ms_max: int) -> None:
        self.number = number
        self.pid = 0
        self.ready = False
        self.snapshot = 0
        self.generation = 0
        self._host = host
        self._clock = clock
        self._module = module
        self._silent_ns_max = silent_ms_max * 1_000_000
        self._process: Process | None = None
        self._end: NodeEnd | None = None
        self._heard_ns = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep a worker in this slot until `stop`. Returns when the last one is gone."""
        failures = 0
        while not self._stopping.is_set():
            started_ns = self._clock.mono_ns()
            code = await self._live()
            self._host.died(self.number)
            self._host.changed()
            if self._stopping.is_set():
                return
            failures = 0 if self._clock.mono_ns() - started_ns >= LIVED_NS else failures + 1
            pause_s = 0.0 if failures < 2 else min(PAUSE_FIRST_S * 2 ** min(failures - 2, 10), PAUSE_MAX_S)
            log.error("worker %d ended (%s); the next one starts in %.1f s", self.number, _ending(code), pause_s)
            if pause_s:
                self._host.pausing(self.number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def stop(self, grace_ms: int) -> None:
        """`renew` without another worker: `run` returns afterwards."""
        self._stopping.set()
        await self.renew(grace_ms)

    async def renew(self, grace_ms: int) -> None:
        """Let the worker finish within the grace, then end it; `run` starts another one in its place.

        One that is not ready yet serves nobody and is ended at once: its log is recovered like any other's.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not self.ready or self._end is None or not self._end.send(Stop(grace_ms)):
            _signal(process, signal.SIGKILL)
        try:
            await asyncio.wait_for(process.wait(), grace_ms / 1000 + KILL_AFTER_S)
        except TimeoutError:
            log.error("worker %d did not stop within %d ms and is killed", self.number, grace_ms)
            _signal(process, signal.SIGKILL)

    def send(self, message: ToWorker) -> bool:
        """Tell the worker something; one that is just starting hears it after its configuration. False without one."""
        return self._end is not None and self._end.send(message)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the worker to read."""
        return self._end.unsent if self._end is not None else 0

    def look(self) -> None:
        """Ask a ready worker for a sign of life, and end one that has given none for too long. Called every second."""
        process, end = self._process, self._end
        if not self.ready or process is None or end is None:
            return
        silent_ns = self._clock.mono_ns() - self._heard_ns
        if silent_ns > self._silent_ns_max:
            log.error("worker %d has not answered for %d ms and is killed", self.number, silent_ns // 1_000_000)
            self.ready = False
            _signal(process, signal.SIGKILL)
            return
        end.send(Ping())

    async def _live(self) -> int | None:
        """One worker's life; returns its exit code, None when it could not be started."""
        try:
            process = await self._start()
        except Exception as e:  # noqa: BLE001 - whatever it was, the node goes on and tries again
            log.error("worker %d cannot be started: %s", self.number, e)
            return None
        try:
            return await process.wait()
        finally:
            if process.returncode is None:  # cancelled: the node itself gives up
                _signal(process, signal.SIGKILL)
            self._forget()

    async def _start(self) -> Process:
        configure, listening = self._host.configure(self.number, self.generation)
        self.generation += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self._module,
                    stdin=theirs.fileno(),
                    pass_fds=(listening.fileno(),),
                    env={k: v for k, v in os.environ.items() if k not in SECRET_ENVIRONMENT},
                    start_new_session=True,  # Ctrl-C reaches the node, which tells its workers
                )
            except BaseException:
                ours.close()
                raise
        self._process = process
        self.pid = process.pid
        self._heard_ns = self._clock.mono_ns()
        try:
            self._end = await node_end(ours, self._receive, self._closed(process))
        except BaseException:
            _signal(process, signal.SIGKILL)
            await process.wait()
            raise
        self._end.send(configure)
        if self._stopping.is_set():
            _signal(process, signal.SIGKILL)
        return process

    def _receive(self, message: ToNode) -> None:
        self._heard_ns = self._clock.mono_ns()
        match message:
            case Pong():
                pass
            case Ready():
                self.ready, self.snapshot = True, message.snapshot
                self._host.changed()
            case Runs():
                self.snapshot = message.snapshot
                self._host.changed()
            case Rejected():
                self._host.rejected(self.number, message)
            case RefreshKeys():
                self._host.refresh_keys(message.issuer_id)
            case Worked():
                self._host.worked(self.number, message)
            case LeaseWanted() | LeaseReturned():
                self._host.lease(self.number, message)
            case KeyClaim() | KeyEnd() | FeedbackClaim():
                self._host.key(self.number, message)
            case StateWanted() | StateKept() | StateDropped():
                self._host.state(self.number, message)
            case CallsTold():
                self._host.calls(self.number, message)

    def _closed(self, process: Process) -> Callable[[LinkError | None], None]:
        def closed(error: LinkError | None) -> None:
            """A worker without its link cannot be told anything: it stops by itself, or is made to."""
            if error is not None:
                log.error("worker %d: %s", self.number, error)
                _signal(process, signal.SIGKILL)

        return closed

    def _forget(self) -> None:
        if self._end is not None:
            self._end.close()
        self._end = None
        self._process = None
        self.pid = 0
        self.ready = False
        self.snapshot = 0


def _ending(code: int | None) -> str:
    if code is None:
        return "not started"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
