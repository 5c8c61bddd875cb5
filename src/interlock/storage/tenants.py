"""Tenants. Only the platform creates or deletes one; a tenant's own administrators may read and update theirs."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from interlock.storage.changes import PLATFORM_TREE, Author
from interlock.storage.learned import has_learned
from interlock.storage.snapshots import mark_dirty
from interlock.storage.table import Stored, Table
from interlock.types.identity import Tenant
from interlock.types.learned import weights_part, words_part
from interlock.types.snapshot import bucket_part

PLATFORM_TENANT = PLATFORM_TREE
"""The tenant in which the platform's own people and services live; it exists from the first migration on.

What the *platform* owns (sources, policies, aliases, role bindings) has no tenant at all (NULL, "" in the types);
who *administers* it is a principal of this tenant."""

TABLE = Table(
    "tenants",
    "tenant",
    Tenant,
    (
        "id",
        "name",
        "time_zone",
        "active",
        "recording",
        "retention",
        "policy_approval",
        "learning",
        "learning_shares",
        "judging",
    ),
    json=("retention", "judging"),
    parts=lambda _: ("tenants",),
)

_CONTENTS = (
    "role_bindings",
    "api_keys",
    "principal_teams",
    "principals",
    "teams",
    "policies",
    "policy_drafts",
    "policy_versions",
    "aliases",
    "issuers",
    "sources",
    "quota_requests",
    "budgets",
)


def insert(conn: Connection[Any], tenant: Tenant, by: Author) -> Stored[Tenant]:
    """Store a new tenant (platform role only). Raises Conflict when the name is taken."""
    return TABLE.insert(conn, tenant, by)


def update(conn: Connection[Any], tenant: Tenant, by: Author, *, revision: int | None = None) -> Stored[Tenant]:
    """Replace a tenant. Raises NotFound, Conflict (name taken, or another revision)."""
    return TABLE.update(conn, tenant, by, revision=revision)


def delete(conn: Connection[Any], tenant_id: str, by: Author, *, revision: int | None = None) -> Stored[Tenant]:
    """Remove a tenant and everything in it (platform role only); its changes stay. Raises NotFound, Conflict."""
    TABLE.lock(conn, tenant_id, revision)
    parts = {"tenants", "teams", "policies", "trials", "aliases", "issuers", "sources", "budgets"}
    parts |= {words_part(tenant_id), weights_part(tenant_id)} if has_learned(conn, tenant_id) else set()
    for kind, table in (("keys", "api_keys"), ("principals", "principals")):
        rows = conn.execute(f"SELECT DISTINCT bucket FROM interlock.{table} WHERE tenant_id = %s", (tenant_id,))  # noqa: S608
        parts |= {bucket_part(kind, bucket) for (bucket,) in rows}
    for table in _CONTENTS:
        conn.execute(f"DELETE FROM interlock.{table} WHERE tenant_id = %s", (tenant_id,))  # noqa: S608
    mark_dirty(conn, parts)
    return TABLE.delete(conn, tenant_id, by)


def get(conn: Connection[Any], tenant_id: str) -> Stored[Tenant] | None:
    """A tenant by id, or None."""
    return TABLE.get(conn, tenant_id)


def by_name(conn: Connection[Any], name: str) -> Stored[Tenant] | None:
    """A tenant by name, or None."""
    return TABLE.by_name(conn, name)


def page(conn: Connection[Any], *, after: str = "", limit: int = 100) -> list[Stored[Tenant]]:
    """At most `limit` tenants in id order behind `after`."""
    return TABLE.page(conn, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[Tenant]:
    """All tenants, for the snapshot."""
    return TABLE.all_as(conn, Tenant)
