"""What went through an alias, as the ledger has it. Reads only."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

_THROUGH = (
    " FROM interlock.ledger_entries AS e CROSS JOIN LATERAL (SELECT convert_from(e.leaf, 'UTF8')::jsonb AS leaf) AS l"
    " WHERE e.tenant_id = %s AND e.at_ns >= %s AND e.at_ns < %s AND e.kind = 'call'"
    " AND position(%s::bytea IN e.leaf) > 0 AND l.leaf #>> '{what,alias}' = %s"
)
"""A leaf is canonical JSON: one that has not the alias's bytes need not be read as JSON."""


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
        + _THROUGH
        + " AND NOT l.leaf ? 'shadow_of' GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2, 3 LIMIT %s",
        (tenant_id, since_ns, until_ns, _bytes(alias), alias, limit),
    )
    return [User(*row) for row in rows]


def leaves(conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int, limit: int) -> list[bytes]:
    """The leaves of at most `limit` calls through the alias within [since, until), the newest first."""
    rows = conn.execute(
        "SELECT e.leaf" + _THROUGH + " ORDER BY e.at_ns DESC LIMIT %s",
        (tenant_id, since_ns, until_ns, _bytes(alias), alias, limit),
    )
    return [bytes(leaf) for (leaf,) in rows]


def _bytes(alias: str) -> bytes:
    """What the leaf of a call through an alias has somewhere."""
    return b'"alias":' + msgspec.json.encode(alias)
