"""JWT issuers that a tenant trusts."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.identity import Issuer

TABLE = Table(
    "issuers",
    "issuer",
    Issuer,
    (
        "id",
        "tenant_id",
        "issuer",
        "audience",
        "jwks_url",
        "algorithms",
        "subject_claim",
        "groups_claim",
        "group_teams",
        "kind",
        "data_class",
        "group_roles",
        "login",
    ),
    json=("group_teams", "group_roles", "login"),
    parts=lambda _: ("issuers",),
)


def insert(conn: Connection[Any], issuer: Issuer, by: Author) -> Stored[Issuer]:
    """Store a new issuer. Raises Conflict when any tenant trusts the same issuer for the same audience already:
    a token must name one tenant."""
    return TABLE.insert(conn, issuer, by)


def update(conn: Connection[Any], issuer: Issuer, by: Author, *, revision: int | None = None) -> Stored[Issuer]:
    """Replace an issuer. Raises NotFound, Conflict (issuer and audience taken, or another revision)."""
    return TABLE.update(conn, issuer, by, revision=revision)


def delete(conn: Connection[Any], issuer_id: str, by: Author, *, revision: int | None = None) -> Stored[Issuer]:
    """Remove an issuer. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, issuer_id, by, revision=revision)


def get(conn: Connection[Any], issuer_id: str) -> Stored[Issuer] | None:
    """An issuer by id, or None."""
    return TABLE.get(conn, issuer_id)


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[Issuer]]:
    """At most `limit` issuers in id order behind `after`; of one tenant when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)


def everything(conn: Connection[Any]) -> list[Issuer]:
    """All issuers."""
    return TABLE.all_as(conn, Issuer)
