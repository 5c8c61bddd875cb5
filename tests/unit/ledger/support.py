"""Records, logs and faults that the tests of the record log share."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from interlock.errors import LogError
from interlock.ledger.files import Files
from interlock.ledger.flusher import Flushed, ThreadFlusher, Work
from interlock.ledger.log import RecordLog
from interlock.settings import Settings
from interlock.types.clock import SystemClock
from interlock.types.decision import Candidate, RouteDecision
from interlock.types.identity import DataClass
from interlock.types.record import Attempt, Held, Intent, Outcome, Refusal
from interlock.types.request import Features, Target
from interlock.types.usage import Usage

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async test."""

    async def entry() -> T:
        return await main()

    return asyncio.run(entry())


def intent(call: int, *, body: bytes = b'{"model":"m"}', reserved: int = 100) -> Intent:
    return Intent(
        call=call,
        wall_ns=1_753_000_000_000_000_000 + call,
        mono_ns=1000 + call,
        tenant_id="ten_1",
        team_id="team_1",
        principal_id="prn_1",
        principal_kind="user",
        delegator_id="",
        delegation="",
        auth_method="api_key",
        credential_id="key_1",
        dialect="openai",
        features=Features("chat", "m", DataClass.internal),
        target=Target("model", model="m"),
        snapshot_version=7,
        snapshot_root=b"\x00" * 32,
        permits=(),
        route=RouteDecision("balanced", (Candidate("local::m", 1),), (), (), 0, 42),
        parameters={"temperature": 0.5},
        body_sha256=b"\x01" * 32,
        body=body,
        reserved_tokens=reserved,
    )


def held(call: int) -> Held:
    return Held(call, 1_753_000_000_000_000_000 + call, "ten_1", "prn_1", "", "m")


def refusal(call: int) -> Refusal:
    return Refusal(
        call=call,
        wall_ns=1_753_000_000_000_000_000 + call,
        tenant_id="ten_1",
        team_id="team_1",
        principal_id="prn_1",
        delegator_id="",
        auth_method="api_key",
        credential_id="key_1",
        dialect="openai",
        operation="chat",
        asked="m",
        data_class=1,
        snapshot_version=7,
        status=403,
        code="policy_denied",
        words="no policy permits it",
    )


def attempt(call: int, number: int = 0) -> Attempt:
    return Attempt(call, number, 1001, "src_1", "local", "m", "llamacpp", "1", "", False)


def outcome(call: int, *, state: str = "completed", body: bytes = b"", chunks: int = 0) -> Outcome:
    return Outcome(
        call=call,
        mono_ns=2000 + call,
        state=state,
        status=200,
        attempt=0,
        source="local",
        model="m",
        served_model="m",
        finish_reasons=("stop",),
        usage=Usage(10, 0, 5),
        first_byte_us=100,
        total_us=200,
        chunks=chunks,
        body=body,
    )


def open_log(
    folder: Path,
    *,
    files: Files | None = None,
    flusher: Callable[[Callable[[], object]], ManualFlusher] | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    **settings: int,
) -> RecordLog:
    """A log with quiet defaults: no disk checks, no gap between fsyncs."""
    values: dict[str, Any] = {"log_disk_free_bytes_min": 0, "log_check_ms": 60_000, "log_sync_gap_ms": 0, **settings}
    return RecordLog.open(
        folder,
        node="test",
        slot=0,
        version="0",
        settings=Settings(**values),
        loop=asyncio.get_running_loop(),
        clock=SystemClock(),
        files=files,
        entropy=entropy,
        flusher=flusher or ThreadFlusher,
    )


def manual_log(folder: Path, **settings: Any) -> tuple[RecordLog, ManualFlusher]:
    """A log whose flusher works only when told to."""
    made: list[ManualFlusher] = []

    def flusher(notify: Callable[[], object]) -> ManualFlusher:
        made.append(ManualFlusher(notify))
        return made[-1]

    log = open_log(folder, flusher=flusher, **settings)
    return log, made[0]


def refused(log: RecordLog) -> str:
    """The code of the refusal, "" when there is none."""
    return log.refusal.code if log.refusal else ""


async def durable(log: RecordLog, seq: int) -> LogError | None:
    """Wait for `on_durable`; the error it was given."""
    future: asyncio.Future[LogError | None] = asyncio.get_running_loop().create_future()
    log.on_durable(seq, future.set_result)
    return await asyncio.wait_for(future, 60)


async def written(log: RecordLog) -> None:
    """Wait for `on_written`."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    log.on_written(lambda: future.set_result(None))
    await asyncio.wait_for(future, 60)


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true: what the log does by itself takes as long as the machine is busy."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come true")


class ManualFlusher:
    """Runs work when the test says so, on its thread."""

    def __init__(self, notify: Callable[[], object]) -> None:
        self._notify = notify
        self.work: deque[Work] = deque()
        self._results: deque[Flushed] = deque()

    def submit(self, work: Work) -> None:
        self.work.append(work)

    def step(self) -> bool:
        """Run one piece of work, if there is one."""
        if not self.work:
            return False
        self._results.append(self.work.popleft()())
        self._notify()
        return True

    def take(self) -> Flushed | None:
        return self._results.popleft() if self._results else None

    def wait(self) -> Flushed:
        if not self._results:
            self._results.append(self.work.popleft()())
        return self._results.popleft()

    def stop(self) -> None:
        while self.step():
            pass


class FaultyFiles(Files):
    """Real files that fail on request.

    `room`: bytes that writes may still take before ENOSPC, None for no bound. `short`: most bytes one write takes.
    `failing`: system call name -> errno, as long as it is there. `interrupts`: how many writes are interrupted first.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.short: int | None = None
        self.failing: dict[str, int] = {}
        self.interrupts = 0
        self.free = 1 << 40
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            number = self.failing[name]
            raise OSError(number, os.strerror(number))

    def open(self, path: Path, flags: int) -> int:
        self._call("open")
        return super().open(path, flags)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._call("write")
        if self.interrupts > 0:
            self.interrupts -= 1
            raise InterruptedError(errno.EINTR, "interrupted")
        size = len(data)
        if self.short is not None:
            size = min(size, self.short)
        if self.room is not None:
            size = min(size, self.room)
            if size == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= size
        return super().write(fd, memoryview(data)[:size])

    def fdatasync(self, fd: int) -> None:
        self._call("fdatasync")
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._call("fsync")
        super().fsync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self._call("ftruncate")
        super().ftruncate(fd, size)

    def free_bytes(self, path: Path) -> int:
        self._call("free_bytes")
        return self.free
