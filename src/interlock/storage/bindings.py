"""Role bindings: which administrative role a principal has, in a tenant or ("") over the whole platform.

A principal can be bound in its own tenant; only principals of the platform's tenant can be bound elsewhere or
platform-wide. The database enforces it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection, sql
from psycopg.rows import dict_row

from interlock.errors import NotFound
from interlock.storage.changes import Author
from interlock.storage.table import Stored, Table
from interlock.types.identity import AdminRole


class RoleBinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """`principal_id` has `role` in `tenant_id` ("": platform-wide)."""

    id: str
    principal_id: str
    role: AdminRole
    tenant_id: str = ""


TABLE = Table(
    "role_bindings",
    "binding",
    RoleBinding,
    ("id", "principal_id", "role", "tenant_id"),
    unseen=("principal_tenant_id",),
)


def insert(conn: Connection[Any], binding: RoleBinding, by: Author) -> Stored[RoleBinding]:
    """Give a role. Raises NotFound (no such principal that this connection may see), Conflict (given already, or the
    principal is another tenant's)."""
    row = conn.execute("SELECT tenant_id FROM interlock.principals WHERE id = %s", (binding.principal_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no principal {binding.principal_id!r}", param="principal")
    return TABLE.insert(conn, binding, by, unseen={"principal_tenant_id": row[0]})


def delete(conn: Connection[Any], binding_id: str, by: Author, *, revision: int | None = None) -> Stored[RoleBinding]:
    """Take a role away. Raises NotFound, Conflict (another revision)."""
    return TABLE.delete(conn, binding_id, by, revision=revision)


def get(conn: Connection[Any], binding_id: str) -> Stored[RoleBinding] | None:
    """A binding by id, or None."""
    return TABLE.get(conn, binding_id)


def of_principal(conn: Connection[Any], principal_id: str) -> list[RoleBinding]:
    """Every binding of one principal that this connection may see; the platform role sees them all."""
    query = sql.Composed([TABLE.select, sql.SQL("WHERE t.principal_id = %s ORDER BY t.id")])
    with conn.cursor(row_factory=dict_row) as cursor:
        return [msgspec.convert(row, RoleBinding) for row in cursor.execute(query, (principal_id,))]


def page(
    conn: Connection[Any], *, tenant_id: str | None = None, after: str = "", limit: int = 100
) -> list[Stored[RoleBinding]]:
    """At most `limit` bindings in id order behind `after`; of one tenant ("": platform-wide ones) when given."""
    return TABLE.page(conn, tenant_id=tenant_id, after=after, limit=limit)
