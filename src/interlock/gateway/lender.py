"""The node's side of budgets: brings workers' wishes for shares to the database, and asks workers for shares back.

    worker  -- LeaseWanted -->  node  -- give -->  database
    worker  <- LeaseGranted --  node  <- granted --
                                node  -- not enough: recall, tell all nodes -->
    worker  <- LeaseRecalled -  node of each worker that holds something
    worker  -- LeaseReturned ->       -- give back, tell all nodes -->
                                node  -- give again ...

A wish is refused for good when everybody who holds something has said what can be spared, and when `lease_wait_ms` is
over. What a worker gave back and could not be written (the database is away) is kept, and written later: until then it
counts as used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from interlock.errors import InterlockError
from interlock.gateway.link import LeaseGranted, LeaseRecalled, LeaseRefused, LeaseReturned, LeaseWanted
from interlock.storage import leases, roles
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection, connect_node
from interlock.types.clock import Clock

if TYPE_CHECKING:
    from interlock.settings import Settings

log = logging.getLogger("interlock.gateway.node")

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0
POLL_S = 0.05
"""How often time limits are looked at while somebody waits."""
LISTEN_S = 1.0
WAIT_SHARE_NS = 800_000
"""Nanoseconds of each millisecond that a call waits: the answer has to reach it in time."""


class Worker(Protocol):
    """A slot of the node, as far as this module needs it."""

    number: int
    ready: bool

    def send(self, message: LeaseGranted | LeaseRefused | LeaseRecalled, /) -> bool:
        """Tell the worker; False when there is none."""


class _Wish(NamedTuple):
    """A worker's wish that waits for others to answer."""

    slot: int
    wanted: LeaseWanted
    deadline_ns: int


class _Recall:
    """A recall on its way round this node's workers: who still has to answer, what came back by epoch."""

    def __init__(self, budget: str, start_s: int, slots: set[int], deadline_ns: int) -> None:
        self.budget = budget
        self.start_s = start_s
        self.slots = slots
        self.deadline_ns = deadline_ns
        self.spare: dict[str, int] = {}


_decode_notice = msgspec.json.Decoder(leases.Notice).decode
_Period = tuple[str, int]


class Lender:
    """One node's lender. `wanted`, `returned`, `died` are called from the loop that `run` works on."""

    def __init__(
        self, node: str, url: str, settings: Settings, clock: Clock, workers: Callable[[], Sequence[Worker]]
    ) -> None:
        self._node = node
        self._url = url
        self._settings = settings
        self._clock = clock
        self._workers = workers
        self._database = NodeConnection(url, settings, roles.LENDER)
        self._queue: list[tuple[int, LeaseWanted]] = []
        self._waiting: dict[_Period, list[_Wish]] = {}
        self._again: set[_Period] = set()
        self._recalls: dict[int, _Recall] = {}
        self._asked: set[leases.Notice] = set()
        self._back: dict[_Period, dict[str, int]] = {}
        self._answers: list[_Recall] = []
        self._number = 0
        self._changed = asyncio.Event()
        self._failing = False

    # -- what workers say

    def wanted(self, slot: int, message: LeaseWanted) -> None:
        """A worker needs a share. Always answered."""
        self._queue.append((slot, message))
        self._changed.set()

    def returned(self, slot: int, message: LeaseReturned) -> None:
        """A worker gives something back, of itself or because it was asked to."""
        recall = self._recalls.get(message.recall)
        if recall is not None and slot in recall.slots:
            recall.slots.discard(slot)
            recall.spare[message.epoch] = recall.spare.get(message.epoch, 0) + message.amount
        elif message.amount:
            period = self._back.setdefault((message.budget, message.start_s), {})
            period[message.epoch] = period.get(message.epoch, 0) + message.amount
        self._changed.set()

    def died(self, slot: int) -> None:
        """A worker is gone: its lease stays until its log is in the ledger."""
        self._queue = [(number, wanted) for number, wanted in self._queue if number != slot]
        for period, wishes in list(self._waiting.items()):
            self._waiting[period] = [wish for wish in wishes if wish.slot != slot]
        for recall in self._recalls.values():
            recall.slots.discard(slot)
        self._changed.set()

    # -- the work

    async def run(self) -> None:
        """Serve until cancelled."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S if self._waiting or self._recalls else LISTEN_S):
                        await self._changed.wait()
                self._changed.clear()
                try:
                    await self._pass()
                    self._failing = False
                except InterlockError as e:
                    await self._fail(e)
        finally:
            listening.cancel()
            await self._database.close()

    async def _pass(self) -> None:
        """Do what there is to do."""
        self._collect()
        while self._answers:
            recall = self._answers[0]
            await self._give_back((recall.budget, recall.start_s), recall.spare, asked=True)
            self._answers.pop(0)
        for period in list(self._back):
            await self._give_back(period, self._back[period], asked=False)
            del self._back[period]
        for notice in list(self._asked):
            self._asked.discard(notice)
            self._ask(notice)
        again, self._again = self._again, set()
        now_ns = self._clock.mono_ns()
        for period in list(self._waiting):
            wishes = self._waiting[period]
            if period in again or any(now_ns >= wish.deadline_ns for wish in wishes):
                await self._give_each(period)
        while self._queue:
            slot, wanted = self._queue[0]
            deadline_ns = self._clock.mono_ns() + self._settings.lease_wait_ms * WAIT_SHARE_NS
            await self._give(_Wish(slot, wanted, deadline_ns), first=True)
            self._queue.pop(0)

    async def _give_each(self, period: _Period) -> None:
        """Try the wishes of a period again. INVARIANT: none is dropped unanswered, whatever is raised."""
        wishes = self._waiting.pop(period)
        try:
            while wishes:
                await self._give(wishes[0], first=False)
                wishes.pop(0)
        finally:
            if wishes:
                self._waiting.setdefault(period, []).extend(wishes)

    async def _give(self, wish: _Wish, *, first: bool) -> None:
        wanted = wish.wanted
        asked = leases.Wish(
            wanted.tenant_id, wanted.budget, wanted.start_s, wanted.epoch, self._node, wanted.need, wanted.want
        )
        conn = await self._database.get()
        with mapped():
            async with conn.transaction():
                answer = await leases.give(conn, asked)
                others = await leases.recall(conn, asked) if first and wanted.need and not answer.granted else 0
        if answer.granted or not wanted.need:
            self._tell(wish.slot, LeaseGranted(wanted.epoch, wanted.budget, wanted.start_s, answer.granted))
            return
        silent = others if first else answer.silent
        if silent and self._clock.mono_ns() < wish.deadline_ns:
            self._waiting.setdefault((wanted.budget, wanted.start_s), []).append(wish)
            return
        why = "held" if silent else "spent"
        refused = LeaseRefused(wanted.epoch, wanted.budget, wanted.start_s, why, answer.used, answer.amount)
        self._tell(wish.slot, refused)

    async def _give_back(self, period: _Period, spare: dict[str, int], *, asked: bool) -> None:
        if not spare:
            return
        conn = await self._database.get()
        with mapped():
            async with conn.transaction():
                await leases.give_back(conn, *period, spare, asked=asked)

    def _ask(self, notice: leases.Notice) -> None:
        """Pass a recall on to the workers here."""
        self._number += 1
        message = LeaseRecalled(notice.budget, notice.start_s, self._number, notice.asker)
        asked = {worker.number for worker in self._workers() if worker.ready and worker.send(message)}
        deadline_ns = self._clock.mono_ns() + self._settings.lease_recall_ms * 1_000_000
        self._recalls[self._number] = _Recall(notice.budget, notice.start_s, asked, deadline_ns)

    def _collect(self) -> None:
        """Take out the recalls that every worker has answered, or that have waited for long enough."""
        now_ns = self._clock.mono_ns()
        for number, recall in list(self._recalls.items()):
            if not recall.slots or now_ns >= recall.deadline_ns:
                del self._recalls[number]
                self._answers.append(recall)

    async def _listen(self) -> None:
        """Hear of recalls, and of what came back."""
        pause_s = RETRY_FIRST_S
        while self._url:
            try:
                conn = await connect_node(self._url, self._settings, leases.CHANNEL)
                pause_s = RETRY_FIRST_S
                async with conn:
                    while True:
                        with mapped():
                            async for heard in conn.notifies(timeout=LISTEN_S):
                                self._hear(heard.payload)
            except InterlockError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)

    def _hear(self, payload: str) -> None:
        try:
            notice = _decode_notice(payload)
        except msgspec.MsgspecError:
            log.error("another node said something about budgets that this version does not understand")
            return
        if notice.asker:
            self._asked.add(notice)
        else:
            self._again.add((notice.budget, notice.start_s))
        self._changed.set()

    async def _fail(self, error: InterlockError) -> None:
        """The database is away: whoever waits is told, what came back is kept."""
        if not self._failing:
            log.warning("no shares of budgets can be had: %s", error.message)
        self._failing = True
        await self._database.close()
        queue, self._queue = self._queue, []
        waiting, self._waiting = self._waiting, {}
        for slot, wanted in (*queue, *((w.slot, w.wanted) for wishes in waiting.values() for w in wishes)):
            self._tell(slot, LeaseRefused(wanted.epoch, wanted.budget, wanted.start_s, "unavailable"))
        await asyncio.sleep(RETRY_FIRST_S)

    def _tell(self, slot: int, message: LeaseGranted | LeaseRefused) -> None:
        for worker in self._workers():
            if worker.number == slot:
                worker.send(message)
