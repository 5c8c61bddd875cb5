"""Sums of usage: added to where entries are placed, read by whoever pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from psycopg import Connection, sql

from interlock.ledger.sums import Key, Leaf, Sums, decode_leaf

DIMENSIONS = ("tenant_id", *Key._fields)
_KEYS, _SUMS = Key._fields, Sums._fields
_CENTER = sql.SQL("coalesce(t.cost_center, '')")
_WITH_CENTERS = sql.SQL(
    "interlock.ledger_usage AS u LEFT JOIN (SELECT id, cost_center FROM interlock.teams) AS t ON t.id = u.team_id"
)
_WITHOUT = sql.SQL("interlock.ledger_usage AS u")
_FIGURES = {
    "cost": ("nusd",),
    "calls": ("calls",),
    "tokens": ("prompt_tokens", "completion_tokens"),
    "energy": ("uj",),
    "carbon": ("co2e_ug",),
    "slo_calls": ("slo_calls",),
    "slo_met": ("slo_met",),
}
"""The columns that each of `Figures` adds up. Sums are numeric in the database, and have no bound."""
_UNITS = {"day": sql.SQL("day"), "month": sql.SQL("date_trunc('month', day::timestamp)::date")}


class Figures(NamedTuple):
    """Nano-USD, calls, tokens of questions and answers, microjoules, micrograms of CO2 equivalent, calls that had
    objectives and those of them that are known to have met all."""

    cost: int = 0
    calls: int = 0
    tokens: int = 0
    energy: int = 0
    carbon: int = 0
    slo_calls: int = 0
    slo_met: int = 0


class Top(NamedTuple):
    """The largest lines of a report in no order, and what all of its `lines` add up to."""

    rows: list[tuple[tuple[Any, ...], Sums]]
    total: Sums
    lines: int


class Part(NamedTuple):
    """Of a department (team id, cost centre or alias) and a model: what fell on a day or a month, its first day; `slot`
    None: on all days of the time before."""

    department: str
    model: str
    slot: date | None
    figures: Figures


class Parts(NamedTuple):
    """A time by department, model and slot, and by day; days without a call are absent. `before`: all of the time
    before."""

    parts: list[Part]
    days: dict[date, Figures]
    before: Figures


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
        "INSERT INTO interlock.ledger_usage AS t (tenant_id, {}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}"
    ).format(columns, values, sql.SQL(", ").join(map(sql.Identifier, DIMENSIONS)), more)
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
    sums = [sql.SQL("sum({})").format(sql.Identifier(name)) for name in _SUMS]
    query = sql.SQL("SELECT {} FROM interlock.ledger_usage WHERE day >= %s AND day < %s{} LIMIT %s").format(
        sql.SQL(", ").join([*names, *sums]),
        sql.SQL(" GROUP BY {0} ORDER BY {0}").format(sql.SQL(", ").join(names)) if names else sql.SQL(""),
    )
    rows = conn.execute(query, (first, after, limit))
    return [(tuple(row[: len(by)]), Sums(*[int(value or 0) for value in row[len(by) :]])) for row in rows]


def top(
    conn: Connection[Any], tenant_id: str, by: Sequence[str], first: date, after: date, figure: str, limit: int
) -> Top:
    """Of the report of a tenant's days [first, after) by some of `DIMENSIONS` and "cost_center", at least one, the
    `limit` lines of which a figure (a name in `Figures`) is largest; of equal ones those of more calls."""
    names = sql.SQL(", ").join(map(sql.Identifier, by))
    query = sql.SQL(
        "WITH lines AS MATERIALIZED (SELECT {columns}, {sums} FROM {source}"
        " WHERE tenant_id = %(tenant)s AND day >= %(first)s AND day < %(after)s GROUP BY {numbers})"
        " SELECT count(*), {nulls}, {totals} FROM lines UNION ALL (SELECT NULL, {names}, {each} FROM lines"
        " ORDER BY {figure} DESC, calls DESC, {names} LIMIT %(limit)s)"
    ).format(
        source=_WITH_CENTERS if "cost_center" in by else _WITHOUT,
        columns=sql.SQL(", ").join(
            sql.SQL("{} AS cost_center").format(_CENTER) if name == "cost_center" else sql.Identifier(name)
            for name in by
        ),
        sums=sql.SQL(", ").join(sql.SQL("sum({0}) AS {0}").format(sql.Identifier(name)) for name in _SUMS),
        numbers=sql.SQL(", ").join(sql.Literal(at + 1) for at in range(len(by))),
        nulls=sql.SQL(", ").join([sql.SQL("NULL")] * len(by)),
        totals=sql.SQL(", ").join(sql.SQL("coalesce(sum({}), 0)").format(sql.Identifier(name)) for name in _SUMS),
        names=names,
        each=sql.SQL(", ").join(map(sql.Identifier, _SUMS)),
        figure=sql.SQL(" + ").join(map(sql.Identifier, _FIGURES[figure])),
    )
    given = {"tenant": tenant_id, "first": first, "after": after, "limit": limit}
    rows, total, lines = [], Sums(), 0
    for counted, *values in conn.execute(query, given):
        sums = Sums._make(map(int, values[len(by) :]))
        if counted is None:
            rows.append((tuple(values[: len(by)]), sums))
        else:
            total, lines = sums, counted
    return Top(rows, total, lines)


def parts(
    conn: Connection[Any], tenant_id: str, department: str, unit: str, first: date, after: date, earlier: date
) -> Parts:
    """A tenant's days [first, after) beside [earlier, first), read once. `department`: team_id, cost_center or
    alias; `unit`: day or month."""
    query = sql.SQL(
        "SELECT grouping(department), department, model, slot, now, {sums}"
        " FROM (SELECT {department} AS department, model, CASE WHEN day >= %(first)s THEN {unit} END AS slot,"
        " CASE WHEN day >= %(first)s THEN day END AS now, {columns} FROM {source}"
        " WHERE tenant_id = %(tenant)s AND day >= %(earlier)s AND day < %(after)s) AS each"
        " GROUP BY GROUPING SETS ((department, model, slot), (now))"
    ).format(
        sums=sql.SQL(", ").join(
            sql.SQL(" + ").join(sql.SQL("sum({})").format(sql.Identifier(each)) for each in _FIGURES[name])
            for name in Figures._fields
        ),
        source=_WITH_CENTERS if department == "cost_center" else _WITHOUT,
        department=_CENTER if department == "cost_center" else sql.Identifier(department),
        unit=_UNITS[unit],
        columns=sql.SQL(", ").join(sql.Identifier(each) for name in Figures._fields for each in _FIGURES[name]),
    )
    given = {"tenant": tenant_id, "first": first, "after": after, "earlier": earlier}
    out = Parts([], {}, Figures())
    for by_day, of, model, slot, day, *sums in conn.execute(query, given):
        figures = Figures._make(map(int, sums))
        if not by_day:
            out.parts.append(Part(of, model, slot, figures))
        elif day is None:
            out = out._replace(before=figures)
        else:
            out.days[day] = figures
    return out
