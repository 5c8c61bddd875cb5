"""Leases on budgets: what of a period a gateway worker's epoch may use.

INVARIANT: for each period, what was settled, plus for each unfinished epoch the larger of its lease and its charges, is
at most the budget's amount as it was when leases were last given. A worker uses no more than its lease; an epoch is
finished, and its lease replaced by what its entries were charged, when all of them are in the ledger (`fold`).

Whoever gives or folds holds the period's row first. Roles: interlock_lender (all but `charge`, `fold`, `foldable`),
interlock_sequencer (these).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

CHANNEL = "interlock_budgets"
"""Notifications between nodes: see `Notice`."""


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """What nodes tell each other of a period. `asker`: the epoch for which others shall give back what they can spare;
    "": something came back."""

    budget: str
    start_s: int
    asker: str


class Wish(NamedTuple):
    """What a worker asks for: `need` at least (0: nothing in particular), `want` if there is plenty."""

    tenant_id: str
    budget: str
    start_s: int
    epoch: str
    node: str
    need: int
    want: int


class Answer(NamedTuple):
    """What it got. `granted` 0 with a need: it cannot be had. `used`: charged so far; `amount`: the budget's, -1 when
    there is no such budget any more. `silent`: others that hold something and have not said yet what they can spare."""

    granted: int
    used: int
    amount: int
    silent: int


async def give(conn: AsyncConnection[Any], wish: Wish) -> Answer:
    """Give a worker a lease, or more of it. A transaction of the caller's."""
    w = wish
    await conn.execute(
        "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (w.tenant_id, w.budget, w.start_s),
    )
    cursor = await conn.execute(
        "SELECT settled FROM interlock.budget_periods WHERE budget_id = %s AND start_s = %s FOR UPDATE",
        (w.budget, w.start_s),
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - made above
    # a statement of its own: it must see what was committed while this one waited for the row
    cursor = await conn.execute(
        "SELECT coalesce((SELECT amount FROM interlock.budgets WHERE id = %(b)s AND tenant_id = %(t)s), -1),"
        " (SELECT settled FROM interlock.budget_periods WHERE budget_id = %(b)s AND start_s = %(s)s),"
        " coalesce(sum(charged), 0), coalesce(sum(greatest(granted, charged)), 0),"
        " count(*) FILTER (WHERE epoch <> %(e)s), count(*) FILTER (WHERE epoch <> %(e)s AND answered < asked)"
        " FROM (SELECT coalesce(l.epoch, c.epoch) AS epoch, coalesce(l.granted, 0) AS granted,"
        " coalesce(c.charged, 0) AS charged, coalesce(l.asked, 0) AS asked, coalesce(l.answered, 0) AS answered FROM"
        " (SELECT * FROM interlock.budget_leases WHERE budget_id = %(b)s AND start_s = %(s)s) AS l FULL JOIN"
        " (SELECT * FROM interlock.budget_charges WHERE budget_id = %(b)s AND start_s = %(s)s) AS c"
        " ON c.epoch = l.epoch) AS joined",
        {"b": w.budget, "t": w.tenant_id, "s": w.start_s, "e": w.epoch},
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    amount, settled, charged, held, others, silent = map(int, row)
    left = amount - settled - held
    granted = share(left, w.need, w.want, others)
    if granted:
        await conn.execute(
            "INSERT INTO interlock.budget_leases AS t (tenant_id, budget_id, start_s, epoch, node, granted)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (budget_id, start_s, epoch)"
            " DO UPDATE SET granted = t.granted + excluded.granted",
            (w.tenant_id, w.budget, w.start_s, w.epoch, w.node, granted),
        )
    return Answer(granted, settled + charged, amount, silent)


def share(left: int, need: int, want: int, others: int) -> int:
    """How much of what is left one asker gets: what it needs, and of the rest at most what leaves as much for each of
    the others. 0 when the need cannot be met."""
    if left < need or left <= 0:
        return 0
    return need + max(min(want - need, (left - need) // (2 * (others + 1))), 0)


async def recall(conn: AsyncConnection[Any], wish: Wish) -> int:
    """Ask the others that hold something of a period for what they can spare. Returns how many are asked."""
    cursor = await conn.execute(
        "UPDATE interlock.budget_leases SET asked = asked + 1"
        " WHERE budget_id = %s AND start_s = %s AND epoch <> %s AND granted > 0",
        (wish.budget, wish.start_s, wish.epoch),
    )
    if cursor.rowcount:
        await _tell(conn, Notice(wish.budget, wish.start_s, wish.epoch))
    return cursor.rowcount


async def give_back(
    conn: AsyncConnection[Any], budget: str, start_s: int, spare: Mapping[str, int], *, asked: bool
) -> None:
    """Take back what epochs can spare. `asked`: this answers the recalls so far."""
    await conn.execute(
        "SELECT 1 FROM interlock.budget_periods WHERE budget_id = %s AND start_s = %s FOR UPDATE", (budget, start_s)
    )
    for epoch, amount in sorted(spare.items()):
        await conn.execute(
            "UPDATE interlock.budget_leases SET granted = greatest(granted - %s, 0),"
            " answered = CASE WHEN %s THEN asked ELSE answered END"
            " WHERE budget_id = %s AND start_s = %s AND epoch = %s",
            (amount, asked, budget, start_s, epoch),
        )
    if spare:
        await _tell(conn, Notice(budget, start_s, ""))


async def _tell(conn: AsyncConnection[Any], notice: Notice) -> None:
    await conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, msgspec.json.encode(notice).decode()))


class Passed(NamedTuple):
    """A threshold that was passed just now."""

    tenant_id: str
    name: str
    measure: str
    start_s: int
    percent: int
    used: int
    amount: int


def charge(conn: Connection[Any], tenant_id: str, charges: Mapping[tuple[str, int, str], int]) -> list[Passed]:
    """Add what entries were charged that get their places in this transaction, by (budget, period, epoch).

    Returns thresholds that were passed.
    """
    if not charges:
        return []
    rows = sorted(charges.items())
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO interlock.budget_charges AS t (tenant_id, budget_id, start_s, epoch, charged)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (budget_id, start_s, epoch)"
            " DO UPDATE SET charged = t.charged + excluded.charged",
            [(tenant_id, *key, charged) for key, charged in rows],
        )
    periods = sorted({(budget, start_s) for (budget, start_s, _), _ in rows})
    with conn.cursor(row_factory=class_row(_Level)) as cursor2:
        levels = cursor2.execute(
            "SELECT b.id, b.name, b.measure, g.start_s, b.amount, b.alerts,"
            " coalesce((SELECT settled FROM interlock.budget_periods AS p"
            " WHERE p.budget_id = g.budget_id AND p.start_s = g.start_s), 0)"
            " + coalesce((SELECT sum(charged) FROM interlock.budget_charges AS c"
            " WHERE c.budget_id = g.budget_id AND c.start_s = g.start_s), 0) AS used"
            " FROM unnest(%s::text[], %s::bigint[]) AS g (budget_id, start_s)"
            " JOIN interlock.budgets AS b ON b.id = g.budget_id ORDER BY b.id",
            ([budget for budget, _ in periods], [start_s for _, start_s in periods]),
        ).fetchall()
    return [passed for level in levels for passed in _passed(conn, tenant_id, level, int(level.used))]


class _Level(msgspec.Struct, frozen=True):
    id: str
    name: str
    measure: str
    start_s: int
    amount: int
    alerts: list[int]
    used: Decimal


def _passed(conn: Connection[Any], tenant_id: str, level: _Level, used: int) -> list[Passed]:
    out = []
    for percent in sorted(level.alerts):
        if used * 100 < level.amount * percent:
            continue
        new = conn.execute(
            "INSERT INTO interlock.budget_alerts (tenant_id, budget_id, start_s, percent, used, amount)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (tenant_id, level.id, level.start_s, percent, used, level.amount),
        ).rowcount
        if new:
            out.append(Passed(tenant_id, level.name, level.measure, level.start_s, percent, used, level.amount))
    return out


def foldable(conn: Connection[Any]) -> list[str]:
    """Tenants with leases or charges of epochs that are settled in their trees."""
    rows = conn.execute(
        "SELECT DISTINCT tenant_id FROM (SELECT tenant_id, epoch FROM interlock.budget_leases"
        " UNION SELECT tenant_id, epoch FROM interlock.budget_charges) AS held"
        " JOIN interlock.ledger_epochs AS e USING (epoch) JOIN interlock.ledger_trees AS t USING (tenant_id)"
        " WHERE e.settled <= t.settled"
    )
    return [tenant_id for (tenant_id,) in rows]


def unfinished(conn: Connection[Any]) -> list[str]:
    """Tenants with leases of epochs that are settled, but not in their trees yet."""
    rows = conn.execute(
        "SELECT DISTINCT l.tenant_id FROM interlock.budget_leases AS l JOIN interlock.ledger_epochs AS e USING (epoch)"
        " LEFT JOIN interlock.ledger_trees AS t ON t.tenant_id = l.tenant_id"
        " WHERE e.settled IS NOT NULL AND e.settled > coalesce(t.settled, 0)"
    )
    return [tenant_id for (tenant_id,) in rows]


def fold(conn: Connection[Any], tenant_id: str) -> int:
    """Replace the leases of finished epochs by what their entries were charged. Returns how many epochs' parts."""
    periods = conn.execute(
        "SELECT DISTINCT budget_id, start_s FROM (SELECT budget_id, start_s, epoch FROM interlock.budget_leases"
        " WHERE tenant_id = %(t)s UNION SELECT budget_id, start_s, epoch FROM interlock.budget_charges"
        " WHERE tenant_id = %(t)s) AS held JOIN interlock.ledger_epochs AS e USING (epoch)"
        " WHERE e.settled <= (SELECT settled FROM interlock.ledger_trees WHERE tenant_id = %(t)s) ORDER BY 1, 2",
        {"t": tenant_id},
    ).fetchall()
    count = 0
    for budget, start_s in periods:
        count += _fold_period(conn, tenant_id, budget, start_s)
    return count


def _fold_period(conn: Connection[Any], tenant_id: str, budget: str, start_s: int) -> int:
    given = {"t": tenant_id, "b": budget, "s": start_s}
    conn.execute(
        "INSERT INTO interlock.budget_periods (tenant_id, budget_id, start_s) VALUES (%(t)s, %(b)s, %(s)s)"
        " ON CONFLICT DO NOTHING",
        given,
    )
    conn.execute("SELECT 1 FROM interlock.budget_periods WHERE budget_id = %(b)s AND start_s = %(s)s FOR UPDATE", given)
    row = conn.execute(
        "WITH finished AS (SELECT epoch FROM interlock.ledger_epochs WHERE settled <="
        " (SELECT settled FROM interlock.ledger_trees WHERE tenant_id = %(t)s)),"
        " gone AS (DELETE FROM interlock.budget_leases WHERE budget_id = %(b)s AND start_s = %(s)s"
        " AND epoch IN (SELECT epoch FROM finished) RETURNING epoch),"
        " paid AS (DELETE FROM interlock.budget_charges WHERE budget_id = %(b)s AND start_s = %(s)s"
        " AND epoch IN (SELECT epoch FROM finished) RETURNING epoch, charged)"
        " SELECT coalesce((SELECT sum(charged) FROM paid), 0),"
        " (SELECT count(*) FROM (SELECT epoch FROM gone UNION SELECT epoch FROM paid) AS joined)",
        given,
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    charged, count = row
    conn.execute(
        "UPDATE interlock.budget_periods SET settled = settled + %(charged)s WHERE budget_id = %(b)s AND"
        " start_s = %(s)s",
        {**given, "charged": charged},
    )
    return int(count)
