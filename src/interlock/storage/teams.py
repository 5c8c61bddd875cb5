"""Teams of a tenant."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.identity import Team

TABLE = Table(
    "teams",
    "team",
    Team,
    ("id", "tenant_id", "name", "cost_center", "limits", "recording"),
    json=("limits",),
    parts=lambda _: ("teams",),
)


def insert(conn: Connection[Any], team: Team, by: Author) -> Stored[Team]:
    """Store a new team. Raises Conflict when the tenant has one of that name."""
    return TABLE.insert(conn, team, by)


def update(conn: Connection[Any], team: Team, by: Author, *, revision: int | None = None) -> Stored[Team]:
    """Replace a team. Raises NotFound, Conflict (name taken, or another revision)."""
    return TABLE.update(conn, team, by, revision=revision)


def delete(conn: Connection[Any], team_id: str, by: Author, *, revision: int | None = None) -> Stored[Team]:
    """Remove a team. Raises NotFound, Conflict (it still has members, or another revision)."""
    return TABLE.delete(conn, team_id, by, revision=revision)


def get(conn: Connection[Any], team_id: str) -> Stored[Team] | None:
    """A team by id, or None."""
    return TABLE.get(conn, team_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[Team] | None:
    """A team by name, or None."""
    return TABLE.by_name(conn, name, tenant_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[Team]]:
    """At most `limit` teams in id order behind `after`; of one tenant when `tenant_id` is given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[Team]:
    """All teams, for the snapshot."""
    return TABLE.all_as(conn, Team)
