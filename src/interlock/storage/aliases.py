"""Aliases: a company's own model names."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.snapshot import Alias


class AliasRow(Alias, frozen=True, omit_defaults=True):
    """An alias with its own id (`als_...`); unique by name in its tenant ("": the platform's, for all)."""

    id: str = ""


TABLE = Table(
    "aliases",
    "alias",
    AliasRow,
    (
        "id",
        "name",
        "tenant_id",
        "targets",
        "mode",
        "max_tokens",
        "data_class",
        "sunset_s",
        "request_class",
        "recording",
        "canary",
        "deprecated_s",
        "successor",
        "shadow",
        "workload",
        "cascade",
        "slo",
        "weights",
    ),
    json=("targets", "canary", "shadow", "cascade", "slo", "weights"),
    parts=lambda _: ("aliases",),
)


def insert(conn: Connection[Any], alias: AliasRow, by: Author) -> Stored[AliasRow]:
    """Store a new alias. Raises Conflict when the name is taken."""
    return TABLE.insert(conn, alias, by)


def update(
    conn: Connection[Any], alias: AliasRow, by: Author, *, revision: int | None = None, action: str = "update"
) -> Stored[AliasRow]:
    """Replace an alias. `action`: how the change is called. Raises NotFound, Conflict (name taken, or another
    revision)."""
    return TABLE.update(conn, alias, by, revision=revision, action=action)


def delete(conn: Connection[Any], alias_id: str, by: Author, *, revision: int | None = None) -> Stored[AliasRow]:
    """Remove an alias. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, alias_id, by, revision=revision)


def get(conn: Connection[Any], alias_id: str) -> Stored[AliasRow] | None:
    """An alias by id, or None."""
    return TABLE.get(conn, alias_id)


def lock(conn: Connection[Any], alias_id: str) -> Stored[AliasRow]:
    """An alias, locked until the end of the transaction. Raises NotFound."""
    return TABLE.lock(conn, alias_id)


def by_name(conn: Connection[Any], tenant_id: str, name: str) -> Stored[AliasRow] | None:
    """An alias by name in a tenant ("": the platform's), or None."""
    return TABLE.by_name(conn, name, tenant_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[AliasRow]]:
    """At most `limit` aliases in id order behind `after`; of one tenant ("": the platform's) when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[Alias]:
    """All aliases, for the snapshot."""
    return TABLE.all_as(conn, Alias)
