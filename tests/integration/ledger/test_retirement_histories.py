"""Random histories of nodes that crash, are lost, retired, and come back: no export that is complete lacks a call.

INVARIANT: an export verifies as complete for a range only if every call admitted in it is there, whatever became of the
machines; what is missing is always told of.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.errors import Conflict, NotFound
from interlock.ledger.log import RecordLog
from interlock.ledger.recovery import recover
from interlock.types.record import request_id
from tests.integration.ledger.harness import verified
from tests.integration.ledger.test_retirement import CLOCK, Cellar, control_over_migrated_quietly
from tests.unit.ledger.support import refusal, written

NODES = ("cellar-1", "cellar-2")


@pytest.fixture
def cellar(postgres_migrated_url: str, tmp_path: Path) -> Iterator[Cellar]:
    with control_over_migrated_quietly(postgres_migrated_url) as running:
        made = Cellar(running, postgres_migrated_url)
        made.folder = tmp_path / "nodes"
        yield made


class Machines:
    """Two nodes. `taken`: when each call was admitted, by request id. A lost node runs nothing until it comes back."""

    def __init__(self, cellar: Cellar, seed: int) -> None:
        self.cellar = cellar
        self.random = random.Random(seed)
        self.logs: dict[str, RecordLog | None] = dict.fromkeys(NODES)
        self.lost: set[str] = set()
        self.retired: set[str] = set()
        self.taken: dict[str, int] = {}
        self.verdicts: list[str] = []

    async def step(self) -> None:
        name = self.random.choice(NODES)
        what = self.random.choice(
            ("call", "call", "call", "ship", "ship", "sequence", "close", "die", "lose", "retire", "retire", "back")
        )
        match what:
            case "call" if name not in self.lost:
                await self.call(name)
            case "ship" if name not in self.lost:
                self.ship(name)
            case "sequence":
                self.cellar.control.sequencer.sequence(self.cellar.acme)
            case "close":
                log, self.logs[name] = self.logs[name], None
                if log is not None:
                    await log.close()
                    self.ship(name)
            case "die" | "lose":
                log, self.logs[name] = self.logs[name], None
                if log is not None:
                    log.abandon()
                if what == "lose":
                    self.lost.add(name)
            case "retire" if name in self.lost:
                self.retire(name)
            case "back" if name in self.lost:
                self.lost.discard(name)
                self.retired.discard(name)
                await self.call(name)
                self.ship(name)

    async def call(self, name: str) -> None:
        log = self.logs[name]
        if log is None:
            log = self.logs[name] = self.cellar.log(name)
            recover(self.cellar.folder / name, into=log, clock=CLOCK)
        number, at_ns = log.next_call(), CLOCK.wall_ns()
        self.taken[request_id(log.epoch, number)] = at_ns
        log.append(msgspec.structs.replace(refusal(number), wall_ns=at_ns, tenant_id=self.cellar.acme))
        await written(log)

    def ship(self, name: str) -> None:
        """Twice: what a first pass finds out, a second one says."""
        for _ in range(2):
            shipper = self.cellar.shipper(name)
            try:
                shipper.pass_once()
            except Conflict as e:
                assert e.code == "retired"
            finally:
                shipper.close()

    def retire(self, name: str) -> None:
        status, answer = self.cellar.owner.call("POST", "/ledger/retire-node", {"node": name})
        if status == 200:
            self.retired.add(name)
        else:
            assert answer["error"]["code"] in (NotFound.code, "already_retired"), answer

    def check(self, folder: Path) -> None:
        """Some ranges, as an auditor would ask for them."""
        self.cellar.sequence(2)
        begun_ns, now_ns = min(self.taken.values()), time.time_ns()
        for number in range(4):
            from_ns, to_ns = sorted(self.random.randrange(begun_ns, now_ns) for _ in range(2))
            if from_ns == to_ns:
                continue
            report = verified(self.cellar.control, self.cellar.acme, folder / str(number), to_ns, from_ns=from_ns)
            self.verdicts.append(report.verdict)
            assert report.verdict != "altered", report
            lines = (folder / str(number) / "entries.jsonl").read_text().splitlines()
            there = {each["request"] for each in map(json.loads, lines) if each["kind"] == "refusal"}
            missing = {each for each, at_ns in self.taken.items() if from_ns <= at_ns < report.until} - there
            if report.verdict in ("complete", "open tail"):
                assert not missing, (missing, report)
        placed = [leaf["request"] for leaf in self.cellar.calls()]
        assert len(placed) == len(set(placed)), "nothing twice"


@pytest.mark.parametrize("seed", range(8))
def test_no_complete_export_lacks_a_call(cellar: Cellar, tmp_path: Path, seed: int) -> None:
    async def main() -> Machines:
        machines = Machines(cellar, seed)
        for name in NODES:
            await machines.call(name)
            machines.ship(name)
        for number in range(12):
            for _ in range(8):
                await machines.step()
            machines.check(tmp_path / f"exports-{number}")
        for log in machines.logs.values():
            if log is not None:
                log.abandon()
        return machines

    verdicts = asyncio.run(main()).verdicts
    assert len(set(verdicts)) >= 2, verdicts
