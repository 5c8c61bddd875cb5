"""Sums of usage: added to where entries are placed, read by whoever pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from psycopg import Connection, sql

from interlock.ledger.sums import Key, Leaf, Sums, decode_leaf

DIMENSIONS = ("tenant_id", "day", "team_id", "principal_id", "source", "model", "request_class", "workload")
_KEYS, _SUMS = Key._fields, Sums._fields


def time_zone(conn: Connection[Any], tenant_id: str) -> str:
    """The tenant's time zone, UTC for one that was deleted."""
    row = conn.execute("SELECT time_zone FROM interlock.tenants WHERE id = %s", (tenant_id,)).fetchone()
    return str(row[0]) if row is not None and row[0] else "UTC"


def call_leaf(conn: Connection[Any], tenant_id: str, request: str) -> Leaf | None:
    """The entry of a call, None when it has none."""
    row = conn.execute(
        "SELECT leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND request = %s AND kind = 'call'",
        (tenant_id, request),
    ).fetchone()
    return None if row is None else decode_leaf(row[0])


def add(conn: Connection[Any], tenant_id: str, sums: Mapping[Key, Sums]) -> None:
    """Add to the sums of a tenant."""
    columns = sql.SQL(", ").join(map(sql.Identifier, (*_KEYS, *_SUMS)))
    more = sql.SQL(", ").join(
        sql.SQL("{name} = t.{name} + excluded.{name}").format(name=sql.Identifier(name)) for name in _SUMS
    )
    values = sql.SQL(", ").join([sql.Placeholder()] * (1 + len(_KEYS) + len(_SUMS)))
    query = sql.SQL(
        "INSERT INTO interlock.ledger_usage AS t (tenant_id, {}) VALUES ({}) ON CONFLICT"
        " (tenant_id, day, team_id, principal_id, source, model, request_class, workload) DO UPDATE SET {}"
    ).format(columns, values, more)
    with conn.cursor() as cursor:
        cursor.executemany(query, [(tenant_id, *key, *each) for key, each in sorted(sums.items())])


def cost_centers(conn: Connection[Any]) -> dict[str, str]:
    """The cost centre of each team that the connection may see, by its id; "" for one without."""
    rows = conn.execute("SELECT id, cost_center FROM interlock.teams")
    return dict(rows)


def report(
    conn: Connection[Any], by: Sequence[str], first: date, after: date, limit: int
) -> list[tuple[tuple[Any, ...], Sums]]:
    """Sums over the days [first, after) by some of `DIMENSIONS`, in their order; of what the connection may see."""
    names = [sql.Identifier(name) for name in by]
    sums = [sql.SQL("sum({})::bigint").format(sql.Identifier(name)) for name in _SUMS]
    query = sql.SQL("SELECT {} FROM interlock.ledger_usage WHERE day >= %s AND day < %s{} LIMIT %s").format(
        sql.SQL(", ").join([*names, *sums]),
        sql.SQL(" GROUP BY {0} ORDER BY {0}").format(sql.SQL(", ").join(names)) if names else sql.SQL(""),
    )
    rows = conn.execute(query, (first, after, limit))
    return [(tuple(row[: len(by)]), Sums(*[value or 0 for value in row[len(by) :]])) for row in rows]
