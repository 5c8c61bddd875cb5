"""The node's side of stored responses: brings what workers ask for to the database, in the order of asking.

Nothing is kept here: while the database is away, every question is answered with "unavailable". What workers send and
are sent is sealed; this process has no key to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from interlock.errors import InterlockError, StoreError, Unavailable
from interlock.gateway.link import State, StateAnswer, StateDropped, StateKept, StatePart, StateWanted
from interlock.storage import roles, states
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection

if TYPE_CHECKING:
    from interlock.settings import Settings

log = logging.getLogger("interlock.gateway.node")

IDLE_S = 5.0
RETRY_S = 0.2
SWEEP_S = 60.0
SWEPT_AT_ONCE = 500
UNSENT_MAX = 1_048_576
"""Bytes that may wait for a worker before it is sent more: it must not be taken for one that does not read."""
UNREAD_S = 1.0
"""How long a worker may leave them waiting before its question is given up."""


class Worker(Protocol):
    """A slot of the node, as far as this module needs it."""

    number: int

    @property
    def unsent(self) -> int:
        """Bytes that wait for the worker to read."""

    def send(self, message: StatePart | StateAnswer, /) -> bool:
        """Tell the worker; False when there is none."""


class Keeper:
    """One node's keeper. `ask` is called from the loop that `run` works on."""

    def __init__(self, url: str, settings: Settings, workers: Callable[[], Sequence[Worker]]) -> None:
        self._url = url
        self._workers = workers
        self._bounds = states.Bounds(settings.responses_turns_max, settings.responses_context_bytes_max)
        self._database = NodeConnection(url, settings, roles.LENDER)
        self._queue: deque[tuple[int, State]] = deque()
        self._changed = asyncio.Event()
        self._failing = False
        self._sweep_at = 0.0

    def ask(self, slot: int, message: State) -> None:
        """A worker asks. Always answered."""
        self._queue.append((slot, message))
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._changed.wait()
                self._changed.clear()
                try:
                    while self._queue:
                        await self._next()
                    await self._sweep()
                    self._failing = False
                except InterlockError as e:
                    await self._fail(e)
        finally:
            await self._database.close()

    async def _next(self) -> None:
        slot, message = self._queue.popleft()
        try:
            answer = await self._do(slot, message)
        except StoreError:
            self._queue.appendleft((slot, message))
            raise
        except InterlockError as e:  # this question's alone: an erasure at the same moment, a worker that does not read
            log.warning("stored responses cannot be had for one call: %s", e.message)
            answer = _answer(message, "unavailable")
        await self._tell(slot, answer)

    async def _do(self, slot: int, message: State) -> StateAnswer:
        conn = await self._database.get()
        owner = states.Owner(message.tenant_id, message.subject)
        with mapped():
            async with conn.transaction():
                if isinstance(message, StateWanted):
                    return await self._wanted(slot, message, owner)
                if isinstance(message, StateKept):
                    row = states.Row(message.id, message.previous, message.sealed)
                    kept = await states.keep(conn, owner, row, message.key_name, message.keep_s)
                    return _answer(message, "kept" if kept else "refused")
                dropped = await states.drop(conn, owner, message.id)
                return _answer(message, "dropped" if dropped else "missing")

    async def _wanted(self, slot: int, message: StateWanted, owner: states.Owner) -> StateAnswer:
        conn = await self._database.get()
        new = states.Key(message.key_name, message.new_key) if message.new_key else None
        key = await states.key(conn, owner, new)
        state, names = "found", []
        if message.id and message.alone:
            names = [message.id]
        elif message.id:
            state, names = await states.chain(conn, owner, message.id, self._bounds)
        sent = 0
        async for row in states.read(conn, owner, names):
            part = StatePart(message.epoch, message.number, row.id, row.previous, row.sealed)
            if not await self._tell(slot, part):
                raise Unavailable(f"worker {slot} does not read what it asked for")
            sent += 1
        if sent < len(names):
            state = "missing"
        return StateAnswer(message.epoch, message.number, state, *(key or ()))

    async def _sweep(self) -> None:
        now = time.monotonic()
        if self._url and now >= self._sweep_at:
            conn = await self._database.get()
            with mapped():
                removed = await states.sweep(conn, SWEPT_AT_ONCE)
            self._sweep_at = now + (SWEEP_S if removed < SWEPT_AT_ONCE else 0)

    async def _fail(self, error: InterlockError) -> None:
        """The database is away."""
        if not self._failing:
            log.warning("stored responses cannot be had: %s", error.message)
        self._failing = True
        await self._database.close()
        waiting, self._queue = self._queue, deque()
        for slot, message in waiting:
            await self._tell(slot, _answer(message, "unavailable"))
        self._sweep_at = time.monotonic() + SWEEP_S
        await asyncio.sleep(RETRY_S)

    async def _tell(self, slot: int, message: StatePart | StateAnswer) -> bool:
        """Send it when the worker has read enough of what was sent before. False when it does not read, or is gone."""
        for worker in self._workers():
            if worker.number == slot:
                deadline = time.monotonic() + UNREAD_S
                while worker.unsent > UNSENT_MAX:
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(0.002)
                return worker.send(message)
        return False


def _answer(message: StateWanted | StateKept | StateDropped, state: str) -> StateAnswer:
    return StateAnswer(message.epoch, message.number, state)
