"""What budgets were charged, from a worker's log to the counters: the sum over entries, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from interlock.ledger.recovery import recover
from interlock.storage import budgets, tenants
from interlock.storage.budgets import BudgetRow
from interlock.storage.pool import Store
from interlock.types.budget import Charge
from interlock.types.clock import SystemClock
from interlock.types.identity import Tenant
from interlock.types.record import Record
from interlock.types.usage import Cost, Usage
from tests.integration.ledger.harness import shipper_for
from tests.integration.ledger.test_sequencing import sequencer_for
from tests.integration.storage.samples import BY
from tests.unit.ledger.support import attempt, intent, open_log, outcome, written

CLOCK = SystemClock()
CALLS = BudgetRow("bdg_1", "ten_1", "calls", measure="calls", amount=4, alerts=(50, 100))
MONEY = BudgetRow("bdg_2", "ten_1", "money", measure="nusd", amount=1000)


def begun(call: int, *, tried: bool = True) -> list[Record]:
    charges = (Charge("bdg_1", "calls", 0, 1), Charge("bdg_2", "nusd", 0, 500), Charge("bdg_2", "nusd", 86_400, 0, "x"))
    first = msgspec.structs.replace(intent(call), tenant_id="ten_1", wall_ns=CLOCK.wall_ns(), charges=charges)
    return [first, msgspec.structs.replace(attempt(call), reserved=Cost(400, "source", "v"))] if tried else [first]


def ended(call: int, nusd: int) -> Record:
    usage = Usage(3, 0, 4)
    return msgspec.structs.replace(outcome(call), usage=usage, cost=Cost(nusd, "source", "v"), charged=(1, nusd, 0))


def stored(store: Store) -> None:
    with store.platform() as conn:
        tenants.insert(conn, Tenant("ten_1", "acme"), BY)
        for row in (CALLS, MONEY):
            budgets.insert(conn, row, BY)


def used(store: Store) -> dict[tuple[str, int], int]:
    with store.platform() as conn:
        return {(b, s): budgets.use(conn, b, s).used for b, s in (("bdg_1", 0), ("bdg_2", 0), ("bdg_2", 86_400))}


def leaves(store: Store) -> list[dict[str, Any]]:
    with store.sequencing() as conn:
        return [
            json.loads(leaf) for (leaf,) in conn.execute("SELECT leaf FROM interlock.ledger_entries ORDER BY position")
        ]


def test_entries_and_counters_say_the_same_and_the_dead_are_charged_what_they_reserved(
    store: Store, tmp_path: Path
) -> None:
    stored(store)
    log_folder = tmp_path / "log"

    async def main() -> None:
        dead = open_log(log_folder)
        for record in (*begun(1), ended(1, 30), *begun(2), *begun(3, tried=False)):
            dead.append(record)
        await written(dead)
        dead.abandon()
        log = open_log(log_folder)
        recover(log_folder, into=log, clock=CLOCK)
        for record in (*begun(1), ended(1, 7)):
            log.append(record)
        await log.close()

    asyncio.run(main())
    sequencer = sequencer_for(store, tmp_path)
    shipper_for(store, tmp_path).pass_once()
    sequencer.pass_once()
    assert used(store) == {("bdg_1", 0): 3, ("bdg_2", 0): 437, ("bdg_2", 86_400): 0}
    said = [each for leaf in leaves(store) for each in leaf.get("budgets", ())]
    for (budget, start), total in used(store).items():
        assert sum(e["charged"] for e in said if (e["budget"], e["start"]) == (budget, start)) == total
    with store.platform() as conn:
        assert [each.percent for each in budgets.alerts(conn, "bdg_1", 0)] == [50]
    assert sequencer.alerts == 1


def test_finished_epochs_are_folded_and_nothing_is_counted_twice(store: Store, tmp_path: Path) -> None:
    stored(store)

    async def main() -> None:
        log = open_log(tmp_path / "log")
        for record in (*begun(1), ended(1, 5)):
            log.append(record)
        await log.close()

    asyncio.run(main())
    sequencer, shipper = sequencer_for(store, tmp_path), shipper_for(store, tmp_path)
    for _ in range(3):
        shipper.pass_once()
        sequencer.pass_once()
        assert used(store)["bdg_2", 0] == 5
    with store.platform() as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM interlock.budget_charges), settled FROM interlock.budget_periods"
            " WHERE budget_id = 'bdg_2' AND start_s = 0"
        ).fetchone()
    assert row == (0, 5)


def test_a_lease_without_a_call_ends_with_its_epoch(store: Store, tmp_path: Path) -> None:
    stored(store)

    async def main() -> str:
        log = open_log(tmp_path / "log")
        await log.close()
        return log.epoch

    epoch = asyncio.run(main())
    with store.sequencing() as conn:
        conn.execute("SET LOCAL ROLE interlock_lender")
        conn.execute(
            "INSERT INTO interlock.budget_leases (tenant_id, budget_id, start_s, epoch, node, granted)"
            " VALUES ('ten_1', 'bdg_1', 0, %s, 'test', 4)",
            (epoch,),
        )
    with store.platform() as conn:
        assert budgets.use(conn, "bdg_1", 0) == budgets.Use(0, 4)
    sequencer = sequencer_for(store, tmp_path, ledger_quiet_checkpoint_s=3600)
    sequencer.pass_once()
    shipper_for(store, tmp_path).pass_once()
    for _ in range(2):
        sequencer.pass_once()
    with store.platform() as conn:
        assert budgets.use(conn, "bdg_1", 0) == budgets.Use(0, 0)
