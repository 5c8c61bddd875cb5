"""What rules of alerts read of the ledger, of budgets and of nodes. Each statement says of which tenant, beside what
row-level security allows: in the name of a tenant nothing of another is counted."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import Connection

USED_MAX = (1 << 63) - 1
"""Largest use of a budget that is told: as much as its amount can be. What is beyond is told as this."""


class Calls(NamedTuple):
    """Calls that were admitted within a window and have ended at a source ("": at none). `failed`: not completed."""

    source: str
    calls: int
    failed: int


class Denied(NamedTuple):
    """Calls that were denied within a window, and within the one before it."""

    now: int
    before: int


class BudgetFigures(NamedTuple):
    """A budget with what identifies its period. `team`: name of the team that it is on, else ""."""

    id: str
    tenant: str
    name: str
    team: str
    measure: str
    window: str
    time_zone: str
    amount: int
    created_s: int


def calls(conn: Connection[Any], tenant_id: str, team: str, since_ns: int) -> list[Calls]:
    """Calls admitted since an instant, by source: of a tenant, of all when "". `team`: of that name only, unless ""."""
    rows = conn.execute(
        "SELECT e.source, count(*), count(*) FILTER (WHERE e.state <> 'completed') FROM interlock.ledger_trees AS t,"
        " LATERAL (SELECT source, state FROM interlock.ledger_entries WHERE tenant_id = t.tenant_id"
        " AND at_ns >= %(since)s AND kind = 'call' AND (%(team)s = '' OR team_id IN (SELECT g.id FROM interlock.teams"
        " AS g WHERE g.tenant_id = t.tenant_id AND g.name = %(team)s))) AS e"
        " WHERE %(tenant)s = '' OR t.tenant_id = %(tenant)s GROUP BY e.source",
        {"tenant": tenant_id, "team": team, "since": since_ns},
    )
    return [Calls(*row) for row in rows]


def denied(conn: Connection[Any], tenant_id: str, team: str, since_ns: int, window_ns: int) -> Denied:
    """Denied calls (answered 403 or 404) since an instant, and in the window before it; as `calls` otherwise."""
    row = conn.execute(
        "SELECT count(*) FILTER (WHERE e.at_ns >= %(since)s), count(*) FILTER (WHERE e.at_ns < %(since)s)"
        " FROM interlock.ledger_trees AS t, LATERAL (SELECT at_ns, leaf FROM interlock.ledger_entries"
        " WHERE tenant_id = t.tenant_id AND at_ns >= %(before)s AND kind = 'refusal' AND (%(team)s = '' OR team_id IN"
        " (SELECT g.id FROM interlock.teams AS g WHERE g.tenant_id = t.tenant_id AND g.name = %(team)s))) AS e"
        " WHERE (%(tenant)s = '' OR t.tenant_id = %(tenant)s)"
        " AND convert_from(e.leaf, 'UTF8')::json #>> '{result,status}' IN ('403', '404')",
        {"tenant": tenant_id, "team": team, "since": since_ns, "before": since_ns - window_ns},
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return Denied(*row)


def budgets(conn: Connection[Any], tenant_id: str, limit: int) -> list[BudgetFigures]:
    """The budgets of a tenant, of all tenants when ""; at most `limit`."""
    rows = conn.execute(
        "SELECT b.id, t.name, b.name, coalesce(g.name, ''), b.measure, b.window, t.time_zone, b.amount,"
        " extract(epoch FROM b.created_at)::bigint FROM interlock.budgets AS b"
        " JOIN interlock.tenants AS t ON t.id = b.tenant_id"
        " LEFT JOIN interlock.teams AS g ON b.kind = 'team' AND g.tenant_id = b.tenant_id AND g.id = b.subject"
        " WHERE (%(tenant)s = '' OR b.tenant_id = %(tenant)s) AND t.active ORDER BY b.id LIMIT %(limit)s",
        {"tenant": tenant_id, "limit": limit},
    )
    return [BudgetFigures(*row) for row in rows]


def used(conn: Connection[Any], periods: list[tuple[str, int]]) -> dict[str, int]:
    """What these periods (budget id, start in Unix seconds) were charged, by budget; at most `USED_MAX`."""
    ids, starts = [each[0] for each in periods], [each[1] for each in periods]
    rows = conn.execute(
        "SELECT p.id, coalesce((SELECT s.settled FROM interlock.budget_periods AS s WHERE s.budget_id = p.id"
        " AND s.start_s = p.start_s), 0) + coalesce((SELECT sum(c.charged) FROM interlock.budget_charges AS c"
        " WHERE c.budget_id = p.id AND c.start_s = p.start_s), 0)"
        " FROM unnest(%s::text[], %s::bigint[]) AS p (id, start_s)",
        (ids, starts),
    )
    return {budget_id: min(int(total), USED_MAX) for budget_id, total in rows}


def inbox(conn: Connection[Any]) -> int:
    """Entries that wait for their place."""
    row = conn.execute("SELECT count(*) FROM interlock.ledger_inbox").fetchone()
    return int(row[0]) if row else 0


def lags(conn: Connection[Any], now_ns: int) -> dict[str, float]:
    """How old the oldest record is that a node has not brought to the ledger, in seconds, by node. In the sequencer's
    name."""
    rows = conn.execute(
        "SELECT node, (%s - min(watermark_ns)) / 1e9 FROM interlock.ledger_epochs"
        " WHERE settled IS NULL AND NOT whole AND node <> '(control)' GROUP BY node",
        (now_ns,),
    )
    return {node: max(0.0, float(lag)) for node, lag in rows}


def silent(conn: Connection[Any], limit: int) -> dict[str, float]:
    """How many seconds ago each node was heard of, by the database's clock where it wrote that."""
    rows = conn.execute(
        "SELECT name, extract(epoch FROM clock_timestamp() - coalesce(stored_at, seen_at))::float8"
        " FROM interlock.nodes ORDER BY name LIMIT %s",
        (limit,),
    )
    return {node: max(0.0, seconds) for node, seconds in rows}


def retired(conn: Connection[Any]) -> set[str]:
    """Nodes that were given up. In the sequencer's name."""
    return {node for (node,) in conn.execute("SELECT node FROM interlock.ledger_nodes WHERE retired_ns IS NOT NULL")}
