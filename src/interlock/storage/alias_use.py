"""What went through an alias, as the ledger has it. Reads only."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from psycopg import Connection


class User(NamedTuple):
    """Whose calls went through an alias, with which credential; `last_ns`: the last one, Unix nanoseconds."""

    team_id: str
    principal_id: str
    credential_id: str
    calls: int
    last_ns: int


def users(conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int, limit: int) -> list[User]:
    """Who called through the alias within [since, until), most calls first. Shadows are nobody's calls."""
    rows = conn.execute(
        "SELECT e.team_id, e.principal_id, l.leaf #>> '{who,credential}', count(*), max(e.at_ns)"
        " FROM interlock.ledger_entries AS e"
        " CROSS JOIN LATERAL (SELECT convert_from(e.leaf, 'UTF8')::jsonb AS leaf) AS l"
        " WHERE e.tenant_id = %s AND e.at_ns >= %s AND e.at_ns < %s AND e.kind = 'call'"
        " AND position(%s::bytea IN e.leaf) > 0 AND NOT l.leaf ?| ARRAY['shadow_of', 'judge_of', 'challenger_of']"
        " GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2, 3 LIMIT %s",
        (tenant_id, since_ns, until_ns, _mark(alias), limit),
    )
    return [User(*row) for row in rows]


def leaves(conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int, limit: int) -> list[bytes]:
    """The leaves of at most `limit` calls through the alias within [since, until), the newest first."""
    rows = conn.execute(
        "SELECT leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND at_ns >= %s AND at_ns < %s"
        " AND kind = 'call' AND position(%s::bytea IN leaf) > 0 ORDER BY at_ns DESC LIMIT %s",
        (tenant_id, since_ns, until_ns, _mark(alias), limit),
    )
    return [bytes(leaf) for (leaf,) in rows]


def span(conn: Connection[Any], tenant_id: str, since_ns: int, until_ns: int) -> tuple[int, int]:
    """Places of a tenant's tree that entries of [since, until) are at, from the first to behind the last; (0, 0): none.
    Entries are placed about in the order of their instants, so some that are late may be beyond."""
    first = conn.execute(
        "SELECT position FROM interlock.ledger_entries WHERE tenant_id = %s AND at_ns >= %s AND at_ns < %s"
        " ORDER BY at_ns LIMIT 1",
        (tenant_id, since_ns, until_ns),
    ).fetchone()
    last = conn.execute(
        "SELECT position FROM interlock.ledger_entries WHERE tenant_id = %s AND at_ns >= %s AND at_ns < %s"
        " ORDER BY at_ns DESC LIMIT 1",
        (tenant_id, since_ns, until_ns),
    ).fetchone()
    return (first[0], last[0] + 1) if first is not None and last is not None else (0, 0)


def leaves_at(
    conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int, places: list[int]
) -> list[bytes]:
    """Of the entries at these places, in their order, the leaves of calls through the alias within [since, until)."""
    rows = conn.execute(
        "SELECT leaf FROM interlock.ledger_entries WHERE tenant_id = %s AND position = ANY(%s) AND at_ns >= %s"
        " AND at_ns < %s AND kind = 'call' AND position(%s::bytea IN leaf) > 0 ORDER BY position",
        (tenant_id, places, since_ns, until_ns, _mark(alias)),
    )
    return [bytes(leaf) for (leaf,) in rows]


def _mark(alias: str) -> bytes:
    """What the leaf of a call through an alias has, and no other leaf.

    A leaf is canonical JSON, its keys sorted, and within a text a quotation mark is escaped: so this is found where a
    call's `what` begins, and nowhere else.
    """
    return b'"what":{"alias":' + msgspec.json.encode(alias)
