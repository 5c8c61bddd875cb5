"""Principals: users, services and agents of a tenant, and the teams they are in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row

from interlock.storage.changes import Author
from interlock.storage.snapshots import mark_dirty
from interlock.storage.table import Stored, Table
from interlock.types.identity import Principal
from interlock.types.snapshot import bucket_of, bucket_part, principal_digest

_TEAMS = (
    "ARRAY(SELECT m.team_id::text FROM interlock.principal_teams m WHERE m.principal_id = t.id ORDER BY m.position)"
)


class _Principals(Table[Principal]):
    def write_links(self, conn: Connection[Any], value: Principal) -> None:
        """Write the memberships in their order; the first team is the one whose limits and costs calls count on."""
        conn.execute("DELETE FROM interlock.principal_teams WHERE principal_id = %s", (value.id,))
        conn.execute(
            "INSERT INTO interlock.principal_teams (tenant_id, principal_id, team_id, position)"
            " SELECT %s, %s, team_id, position FROM unnest(%s::text[]) WITH ORDINALITY AS m (team_id, position)",
            (value.tenant_id, value.id, list(value.team_ids)),
        )


def bucket(principal_id: str) -> int:
    """The snapshot bucket of a principal."""
    return bucket_of(principal_digest(principal_id))


def part(principal_id: str) -> str:
    """The snapshot part in which a principal is."""
    return bucket_part("principals", bucket(principal_id))


TABLE = _Principals(
    "principals",
    "principal",
    Principal,
    ("id", "tenant_id", "kind", "name", "limits", "may_act_for", "active", "workload"),
    json=("limits",),
    parts=lambda p: (part(p.id),),
    computed={"team_ids": _TEAMS},
)


def insert(conn: Connection[Any], principal: Principal, by: Author) -> Stored[Principal]:
    """Store a new principal. Raises Conflict when the tenant has one of that name, or a team is not the tenant's."""
    return TABLE.insert(conn, principal, by)


def update(
    conn: Connection[Any], principal: Principal, by: Author, *, revision: int | None = None
) -> Stored[Principal]:
    """Replace a principal. Raises NotFound, Conflict (name taken, unknown team, or another revision)."""
    return TABLE.update(conn, principal, by, revision=revision)


def delete(conn: Connection[Any], principal_id: str, by: Author, *, revision: int | None = None) -> Stored[Principal]:
    """Remove a principal with its keys and role bindings. Raises NotFound, Conflict (another revision).

    Records name the principal for as long as they are kept; to shut someone out, prefer `active=False`.
    """
    TABLE.lock(conn, principal_id, revision)
    rows = conn.execute("DELETE FROM interlock.api_keys WHERE principal_id = %s RETURNING bucket", (principal_id,))
    mark_dirty(conn, {bucket_part("keys", b) for (b,) in rows.fetchall()})
    conn.execute("DELETE FROM interlock.role_bindings WHERE principal_id = %s", (principal_id,))
    conn.execute("DELETE FROM interlock.principal_teams WHERE principal_id = %s", (principal_id,))
    return TABLE.delete(conn, principal_id, by)


def get(conn: Connection[Any], principal_id: str) -> Stored[Principal] | None:
    """A principal by id, or None."""
    return TABLE.get(conn, principal_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[Principal] | None:
    """A principal by name, or None."""
    return TABLE.by_name(conn, name, tenant_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[Principal]]:
    """At most `limit` principals in id order behind `after`; of one tenant when `tenant_id` is given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def principals_in_buckets(conn: Connection[Any], buckets: Iterable[int]) -> dict[int, list[Principal]]:
    """The principals of each given bucket in id order, for the snapshot; a bucket without any has an empty list."""
    found: dict[int, list[Principal]] = {b: [] for b in buckets}
    query = (
        "SELECT t.bucket, t.id, t.tenant_id, t.kind, t.name, t.limits, t.may_act_for, t.active, t.workload, m.team_ids"
        " FROM interlock.principals t LEFT JOIN LATERAL"
        " (SELECT coalesce(array_agg(team_id::text ORDER BY position), '{}') AS team_ids"
        " FROM interlock.principal_teams WHERE principal_id = t.id) m ON true"
        " WHERE t.bucket = ANY(%s) ORDER BY t.id"
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, (list(found),)):
            found[row["bucket"]].append(msgspec.convert(row, Principal))
    return found
