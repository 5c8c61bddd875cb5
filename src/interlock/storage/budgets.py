"""Budgets: what is declared, and how much of each was used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection, sql

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.budget import Budget


class BudgetRow(msgspec.Struct, frozen=True):
    """A budget as it is kept (`bdg_...`); unique by name in its tenant.

    `subject`: the id of a team or a principal, the name of a key or a model, "" for the tenant. `alerts`: percentages.
    """

    id: str
    tenant_id: str
    name: str
    kind: str = "tenant"
    subject: str = ""
    measure: str = "calls"
    amount: int = 0
    window: str = "month"
    hard: bool = True
    alerts: tuple[int, ...] = ()


TABLE = Table(
    "budgets",
    "budget",
    BudgetRow,
    ("id", "tenant_id", "name", "kind", "subject", "measure", "amount", "window", "hard", "alerts"),
    parts=lambda _: ("budgets",),
)


def insert(conn: Connection[Any], budget: BudgetRow, by: Author) -> Stored[BudgetRow]:
    """Store a new budget. Raises Conflict when the name is taken."""
    return TABLE.insert(conn, budget, by)


def update(conn: Connection[Any], budget: BudgetRow, by: Author, *, revision: int | None = None) -> Stored[BudgetRow]:
    """Replace a budget. Raises NotFound, Conflict (name taken, or another revision)."""
    return TABLE.update(conn, budget, by, revision=revision)


def delete(conn: Connection[Any], budget_id: str, by: Author, *, revision: int | None = None) -> Stored[BudgetRow]:
    """Remove a budget; what was charged to it stays. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, budget_id, by, revision=revision)


def get(conn: Connection[Any], budget_id: str) -> Stored[BudgetRow] | None:
    """The budget of that id, or None."""
    return TABLE.get(conn, budget_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[BudgetRow] | None:
    """A budget by name in a tenant, or None."""
    return TABLE.by_name(conn, name, tenant_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[BudgetRow]]:
    """At most `limit` budgets in id order behind `after`; of one tenant when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def on(conn: Connection[Any], tenant_id: str, kind: str, subject: str) -> list[Stored[BudgetRow]]:
    """The budgets on one team, principal, key, model, shadow or judge."""
    where = sql.SQL("WHERE t.tenant_id = %s AND t.kind = %s AND t.subject = %s ORDER BY t.id")
    return TABLE.where(conn, where, (tenant_id, kind, subject))


def everything(conn: Connection[Any]) -> list[Budget]:
    """All budgets, for the snapshot: one on a key with the ids of all keys of that name."""
    rows = TABLE.all_as(conn, BudgetRow)
    names = {(row.tenant_id, row.subject) for row in rows if row.kind == "key"}
    ids: dict[tuple[str, str], list[str]] = {}
    if names:
        tenants, subjects = zip(*sorted(names), strict=True)
        found = conn.execute(
            "SELECT k.tenant_id, k.name, k.id FROM interlock.api_keys AS k JOIN unnest(%s::text[], %s::text[])"
            " AS given (tenant_id, name) ON k.tenant_id = given.tenant_id AND k.name = given.name ORDER BY k.id",
            (list(tenants), list(subjects)),
        )
        for tenant_id, name, key_id in found:
            ids.setdefault((tenant_id, name), []).append(key_id)
    return [_budget(row, ids) for row in rows]


def _budget(row: BudgetRow, keys: dict[tuple[str, str], list[str]]) -> Budget:
    if row.kind == "tenant":
        subjects: Sequence[str] = (row.tenant_id,)
    elif row.kind == "key":
        subjects = keys.get((row.tenant_id, row.subject), ())
    else:
        subjects = (row.subject,)
    return Budget(
        row.id, row.tenant_id, row.name, row.kind, tuple(subjects), row.measure, row.amount, row.window, row.hard
    )


class Use(NamedTuple):
    """How far a period of a budget is used. `used`: charged to entries of the ledger; `held`: what nobody else gets
    besides (reservations and leases of gateways, and entries on their way)."""

    used: int
    held: int


def use(conn: Connection[Any], budget_id: str, start_s: int) -> Use:
    """How far a period is used, in units of the budget's measure."""
    row = conn.execute(
        "SELECT coalesce((SELECT settled FROM interlock.budget_periods WHERE budget_id = %(b)s AND start_s = %(s)s), 0)"
        " + coalesce(sum(charged), 0),"
        " coalesce(sum(greatest(granted - charged, 0)), 0) FROM (SELECT coalesce(l.granted, 0) AS granted,"
        " coalesce(c.charged, 0) AS charged FROM"
        " (SELECT * FROM interlock.budget_leases WHERE budget_id = %(b)s AND start_s = %(s)s) AS l FULL JOIN"
        " (SELECT * FROM interlock.budget_charges WHERE budget_id = %(b)s AND start_s = %(s)s) AS c"
        " ON c.epoch = l.epoch) AS joined",
        {"b": budget_id, "s": start_s},
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return Use(*map(int, row))


class Lease(NamedTuple):
    """What one worker's life (`epoch`) on a gateway node holds of a period. `granted`: its lease; `charged`: what
    entries of it in the ledger were charged."""

    node: str
    epoch: str
    granted: int
    charged: int


def leases(conn: Connection[Any], budget_id: str, start_s: int, limit: int = 100) -> list[Lease]:
    """The leases that are out on a period, the largest first, at most `limit`."""
    rows = conn.execute(
        "SELECT l.node, l.epoch, l.granted, coalesce(c.charged, 0) FROM interlock.budget_leases AS l"
        " LEFT JOIN interlock.budget_charges AS c USING (budget_id, start_s, epoch)"
        " WHERE l.budget_id = %s AND l.start_s = %s ORDER BY l.granted DESC, l.epoch LIMIT %s",
        (budget_id, start_s, limit),
    )
    return [Lease(*row) for row in rows]


class Alert(NamedTuple):
    """A threshold that a period of a budget passed."""

    percent: int
    used: int
    amount: int
    at: datetime


def alerts(conn: Connection[Any], budget_id: str, start_s: int) -> list[Alert]:
    """The thresholds that a period has passed, lowest first."""
    rows = conn.execute(
        "SELECT percent, used, amount, at FROM interlock.budget_alerts WHERE budget_id = %s AND start_s = %s"
        " ORDER BY percent",
        (budget_id, start_s),
    )
    return [Alert(percent, int(used), amount, at) for percent, used, amount, at in rows]
