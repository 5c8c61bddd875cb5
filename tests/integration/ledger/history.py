"""Workers that begin, serve, end in order or die, and the record that they leave."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from interlock.ledger.log import RecordLog
from interlock.ledger.recovery import recover
from interlock.types.clock import SystemClock
from interlock.types.record import Alive, Record, request_id
from interlock.types.usage import Cost
from tests.unit.ledger.support import attempt, intent, open_log, outcome, refusal, written

CLOCK = SystemClock()


class History:
    """Workers that begin, serve, end in order or die, in one log folder; and what a ledger of it must hold."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.logs: list[RecordLog] = []
        self.open: dict[str, list[int]] = {}
        self.expected: dict[str, str] = {}

    async def step(self) -> None:
        """One thing that happens."""
        choice = self.random.random()
        if not self.logs or (choice < 0.08 and len(self.logs) < 3):
            log = open_log(self.folder, segment_bytes=65536)
            self.logs.append(log)
            self.open[log.epoch] = []
            recover(self.folder, into=log, clock=CLOCK)
            return
        log = self.random.choice(self.logs)
        running = self.open[log.epoch]
        if choice < 0.14:
            await self._end(log, dies=self.random.random() < 0.7)
            return
        if choice < 0.55:
            self._begin(log)
        elif running:
            call = running.pop(self.random.randrange(len(running)))
            log.append(outcome(call))
            self.expected[request_id(log.epoch, call)] = "completed"
        else:
            log.append(Alive(CLOCK.wall_ns()))
        await written(log)

    def _intent(self, call: int, body: bytes) -> Record:
        return msgspec.structs.replace(intent(call, body=body), wall_ns=CLOCK.wall_ns(), tenant_id=self._tenant())

    def _tenant(self) -> str:
        return self.random.choice(("ten_1", "ten_1", "ten_2"))

    def _begin(self, log: RecordLog) -> None:
        call = log.next_call()
        if self.random.random() < 0.2:
            log.append(msgspec.structs.replace(refusal(call), wall_ns=CLOCK.wall_ns(), tenant_id=self._tenant()))
            self.expected[request_id(log.epoch, call)] = "refused"
            return
        size = self.random.choice((10, 10, 20_000))
        records: list[Record] = [self._intent(call, b'{"messages":[{"content":"%b"}]}' % (b"y" * size))]
        if self.random.random() < 0.8:
            records.append(msgspec.structs.replace(attempt(call), reserved=Cost(call, "source", "v")))
        for record in records:
            log.append(record)
        self.open[log.epoch].append(call)

    async def _end(self, log: RecordLog, *, dies: bool) -> None:
        self.logs.remove(log)
        running = self.open.pop(log.epoch)
        if dies:
            log.abandon()
            for call in running:
                self.expected[request_id(log.epoch, call)] = "interrupted"
            return
        for call in running:
            log.append(outcome(call, state="cut"))
            self.expected[request_id(log.epoch, call)] = "cut"
        await log.close()

    async def finish(self) -> None:
        """Everyone ends; the dead are recovered."""
        for log in list(self.logs):
            await self._end(log, dies=False)
        last = open_log(self.folder)
        recover(self.folder, into=last, clock=CLOCK)
        await last.close()
