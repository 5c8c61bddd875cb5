"""Leases on budgets in a real database: what is given, charged and folded never adds up to more than there is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection

from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.storage import alert_figures, budgets, leases, roles, shipping, tenants
from interlock.storage.budgets import BudgetRow
from interlock.storage.notify import connect_node
from interlock.storage.pool import Store

from . import samples
from .samples import BY

START_S = 1_000_000


@pytest.fixture
def tenant(store: Store) -> str:
    with store.platform() as conn:
        return tenants.insert(conn, samples.tenant(samples.new_id("tenant")), BY).value.id


def budget(store: Store, tenant_id: str, amount: int, alerts: tuple[int, ...] = ()) -> str:
    row = BudgetRow(samples.new_id("budget"), tenant_id, samples.new_id("budget"), amount=amount, alerts=alerts)
    with store.platform() as conn:
        return budgets.insert(conn, row, BY).value.id


@asynccontextmanager
async def lending(url: str) -> AsyncIterator[AsyncConnection[Any]]:
    conn = await connect_node(url, Settings(), role=roles.LENDER)
    try:
        yield conn
    finally:
        await conn.close()


LARGE = (1 << 63) - 1


@pytest.mark.parametrize(
    ("settled", "charged", "found"),
    [
        (0, (), 0),
        (5, (3, 4), 12),
        (0, (LARGE, LARGE), LARGE),
        (LARGE, (1,), LARGE),
        (LARGE - 5, (2, 2), LARGE - 1),
        (LARGE, (-LARGE, 7), 7),
    ],
)
def test_what_alerts_read_of_a_budget_does_not_overflow(
    store: Store, tenant: str, settled: int, charged: tuple[int, ...], found: int
) -> None:
    """One period that cannot be added up must not keep the others of a reading from being read."""
    large, small = budget(store, tenant, LARGE), budget(store, tenant, 100)
    with store.platform() as conn:
        roles.take(conn, roles.SEQUENCER)
        for of, what in ((large, settled), (small, 9)):
            conn.execute(
                "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s, settled) VALUES (%s, %s, %s, %s)",
                (tenant, of, START_S, what),
            )
        for n, amount in enumerate(charged):
            conn.execute(
                "INSERT INTO interlock.budget_charges (tenant_id, budget_id, start_s, epoch, charged)"
                " VALUES (%s, %s, %s, %s, %s)",
                (tenant, large, START_S, epoch(n), amount),
            )
    with store.platform() as conn:
        used = alert_figures.used(conn, [(large, START_S), (small, START_S)])
    assert used == {large: found, small: 9}
    assert all(type(each) is int for each in used.values())


def test_a_budget_that_was_overrun_beyond_a_bigint_goes_on(store: Store, tenant: str, postgres_url: str) -> None:
    """Charging, folding and giving must not stop at a sum: entries behind it would never get their places."""
    of = budget(store, tenant, LARGE, alerts=(100,))
    ends = [epoch(n) for n in (901, 902)]
    with store.sequencing() as conn:
        assert leases.charge(conn, tenant, {(of, START_S, ends[0]): LARGE - 1}) == []
        (passed,) = leases.charge(conn, tenant, {(of, START_S, ends[1]): LARGE})
    assert passed.used == 2 * LARGE - 1 and type(passed.used) is int

    async def ask() -> leases.Answer:
        async with lending(postgres_url) as conn:
            return await give(conn, wish(tenant, of, 903, 1))

    for left in (2, 0):  # of unfinished epochs; and then of none
        assert asyncio.run(ask()) == leases.Answer(0, 2 * LARGE - 1, LARGE, 0)
        with store.platform() as conn:
            use = budgets.use(conn, of, START_S)
            (alert,) = budgets.alerts(conn, of, START_S)
            assert alert_figures.used(conn, [(of, START_S)]) == {of: LARGE}
        assert use == budgets.Use(2 * LARGE - 1, 0) and alert.used == 2 * LARGE - 1
        assert all(type(each) is int for each in (*use, alert.used))
        if left:
            settled(store, tenant, ends)
            with store.sequencing() as conn:
                assert leases.fold(conn, tenant) == left


def epoch(number: int) -> str:
    return f"{number:016d}"


def wish(tenant_id: str, of: str, number: int, need: int, want: int = 0) -> leases.Wish:
    return leases.Wish(tenant_id, of, START_S, epoch(number), "node", need, max(need, want))


async def give(conn: AsyncConnection[Any], asked: leases.Wish) -> leases.Answer:
    async with conn.transaction():
        return await leases.give(conn, asked)


def settled(store: Store, tenant_id: str, epochs: list[str]) -> None:
    """Everything of these epochs is in the tenant's tree."""
    with store.shipping() as conn:
        shipping.register(conn, "node", dict.fromkeys(epochs, 1), 1)
        conn.execute("UPDATE interlock.ledger_epochs SET whole = true WHERE epoch = ANY(%s)", (epochs,))
        shipping.settle(conn, epochs)
    with store.sequencing() as conn:
        conn.execute(
            "INSERT INTO interlock.ledger_trees (tenant_id, settled_digest, settled) SELECT %s, %s, max(settled)"
            " FROM interlock.ledger_epochs ON CONFLICT (tenant_id) DO UPDATE SET settled = excluded.settled",
            (tenant_id, bytes(32)),
        )


@pytest.mark.parametrize(
    ("left", "need", "want", "others", "got"),
    [
        (100, 10, 10, 0, 10),
        (100, 10, 80, 0, 55),
        (100, 10, 20, 0, 20),
        (100, 10, 80, 8, 15),
        (10, 10, 80, 8, 10),
        (9, 10, 80, 0, 0),
        (0, 0, 80, 0, 0),
        (-5, 0, 80, 0, 0),
        (100, 0, 80, 4, 10),
    ],
)
def test_the_less_is_left_the_smaller_is_a_share(left: int, need: int, want: int, others: int, got: int) -> None:
    assert leases.share(left, need, want, others) == got


def test_nothing_is_given_twice_whoever_asks_at_once(store: Store, tenant: str, postgres_url: str) -> None:
    of = budget(store, tenant, 30)

    async def ask(number: int) -> int:
        got = 0
        async with lending(postgres_url) as conn:
            for _ in range(12):
                got += (await give(conn, wish(tenant, of, number, 1))).granted
        return got

    async def main() -> list[int]:
        return await asyncio.gather(*(ask(number) for number in range(6)))

    assert sum(asyncio.run(main())) == 30
    with store.platform() as conn:
        assert budgets.use(conn, of, START_S) == budgets.Use(0, 30)


def test_whoever_asks_waits_until_what_is_given_is_known(store: Store, tenant: str, postgres_url: str) -> None:
    of = budget(store, tenant, 10)

    async def main() -> None:
        async with lending(postgres_url) as one, lending(postgres_url) as other:
            assert (await give(one, wish(tenant, of, 1, 1))).granted == 1
            async with one.transaction():
                assert (await leases.give(one, wish(tenant, of, 1, 9))).granted == 9
                asked = asyncio.create_task(give(other, wish(tenant, of, 2, 1)))
                await waiting_for_a_lock(other, asked)
                assert not asked.done()
            assert (await asked).granted == 0

    async def waiting_for_a_lock(conn: AsyncConnection[Any], asked: asyncio.Task[leases.Answer]) -> None:
        with store.platform() as looker:
            for _ in range(500):
                held = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
                row = looker.execute(held, (conn.info.backend_pid,)).fetchone()
                if asked.done() or (row is not None and row[0]):
                    return
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_what_others_hold_is_asked_for_and_answered(store: Store, tenant: str, postgres_url: str) -> None:
    of = budget(store, tenant, 10)

    async def main() -> None:
        async with lending(postgres_url) as conn:
            await give(conn, wish(tenant, of, 1, 8))
            asked = wish(tenant, of, 2, 5)
            assert (await give(conn, asked)) == leases.Answer(0, 0, 10, 0)
            assert await leases.recall(conn, asked) == 1
            assert (await give(conn, asked)).silent == 1, "nobody has answered yet"
            await leases.give_back(conn, of, START_S, {epoch(1): 0}, asked=False)
            assert (await give(conn, asked)).silent == 1, "what comes of itself is no answer"
            await leases.give_back(conn, of, START_S, {epoch(1): 6}, asked=True)
            assert (await give(conn, asked)).granted == 5
            assert await leases.recall(conn, wish(tenant, of, 3, 5)) == 2

    asyncio.run(main())


def test_a_finished_epoch_leaves_what_it_was_charged(store: Store, tenant: str, postgres_url: str) -> None:
    of = budget(store, tenant, 10)

    async def lend(number: int, need: int) -> int:
        async with lending(postgres_url) as conn:
            return (await give(conn, wish(tenant, of, number, need))).granted

    assert asyncio.run(lend(11, 10)) == 10
    with store.sequencing() as conn:
        leases.charge(conn, tenant, {(of, START_S, epoch(11)): 3})
        assert leases.fold(conn, tenant) == 0, "it may still be charged more"
    assert asyncio.run(lend(12, 1)) == 0
    settled(store, tenant, [epoch(11)])
    with store.sequencing() as conn:
        assert tenant in leases.foldable(conn)
        assert leases.fold(conn, tenant) == 1
        assert tenant not in leases.foldable(conn)
    with store.platform() as conn:
        assert budgets.use(conn, of, START_S) == budgets.Use(3, 0)
    assert asyncio.run(lend(12, 8)) == 0
    assert asyncio.run(lend(12, 7)) == 7
    # a node that had not heard of the end of its worker: what it got is taken back again
    settled(store, tenant, [epoch(12)])
    with store.sequencing() as conn:
        leases.fold(conn, tenant)
    with store.platform() as conn:
        assert budgets.use(conn, of, START_S) == budgets.Use(3, 0)


def test_a_threshold_is_told_once(store: Store, tenant: str) -> None:
    of = budget(store, tenant, 10, alerts=(50, 100))

    def charge(amount: int) -> list[int]:
        with store.sequencing() as conn:
            return [each.percent for each in leases.charge(conn, tenant, {(of, START_S, epoch(21)): amount})]

    assert charge(4) == []
    assert charge(1) == [50]
    assert charge(1) == []
    assert charge(14) == [100]
    with store.platform() as conn:
        assert [(each.percent, each.used) for each in budgets.alerts(conn, of, START_S)] == [(50, 5), (100, 20)]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_amount_holds(store: Store, tenant: str, postgres_url: str, seed: int) -> None:
    """Epochs ask, give back, are charged within what they hold, and end; in the end all of it can be spent."""
    rng = random.Random(seed)
    amount = 120
    of = budget(store, tenant, amount)
    first = 1000 * (seed + 1)
    state = {"next": first}
    granted: dict[int, int] = {}
    charged: dict[int, int] = {}
    total = 0

    def check() -> None:
        with store.platform() as conn:
            use = budgets.use(conn, of, START_S)
        assert use.used == total and use.used + use.held <= amount, f"seed {seed}"

    async def step(conn: AsyncConnection[Any]) -> None:
        nonlocal total
        choice = rng.random()
        if choice < 0.15 or not granted:
            state["next"] += 1
            granted[state["next"]] = charged[state["next"]] = 0
            with store.shipping() as shipped:
                shipping.register(shipped, "node", {epoch(state["next"]): 1}, 1)
            return
        number = rng.choice(list(granted))
        spare = granted[number] - charged[number]
        if choice < 0.5:
            answer = await give(conn, wish(tenant, of, number, rng.randrange(20), rng.randrange(60)))
            granted[number] += answer.granted
        elif choice < 0.65:
            back = rng.randrange(spare + 1)
            granted[number] -= back
            await leases.give_back(conn, of, START_S, {epoch(number): back}, asked=False)
        elif choice < 0.9:
            more = rng.randrange(spare + 1)
            charged[number] += more
            total += more
            with store.sequencing() as sequencing:
                leases.charge(sequencing, tenant, {(of, START_S, epoch(number)): more})
        else:
            del granted[number]
            settled(store, tenant, [epoch(number)])
            with store.sequencing() as sequencing:
                leases.fold(sequencing, tenant)
        check()

    async def main() -> None:
        async with lending(postgres_url) as conn:
            for _ in range(120):
                await step(conn)
            for number in list(granted):
                settled(store, tenant, [epoch(number)])
            with store.sequencing() as sequencing:
                leases.fold(sequencing, tenant)
            check()
            last = await give(conn, wish(tenant, of, state["next"] + 1, amount - total))
            assert last.granted == amount - total, f"seed {seed}: something was lost"

    asyncio.run(main())


def test_a_tenant_sees_its_own_budgets_only(store: Store, tenant: str) -> None:
    of = budget(store, tenant, 10)
    with store.tenant("ten_other") as conn:
        assert budgets.page(conn) == [] and budgets.use(conn, of, START_S) == budgets.Use(0, 0)
    with store.tenant(tenant) as conn:
        assert [row.value.id for row in budgets.page(conn)] == [of]
    forged = "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s) VALUES (%s, %s, 1)"
    with pytest.raises(InterlockError, match="permission denied"), store.tenant(tenant) as conn:
        conn.execute(forged, (tenant, of))
