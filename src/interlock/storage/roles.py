"""The database roles, and who may see across tenants. docs/database-roles.md says the same in prose.

All are NOLOGIN: the login in the database URL is a member of them and takes one per transaction (`SET LOCAL ROLE`).
Membership is granted WITH INHERIT FALSE, so that a connection that has taken no role can do nothing.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from psycopg import Connection, sql
from psycopg import errors as pg

from interlock.errors import MigrationError

Role = Literal[
    "interlock_migrator",
    "interlock_app",
    "interlock_platform",
    "interlock_compiler",
    "interlock_node",
    "interlock_shipper",
    "interlock_sequencer",
    "interlock_lender",
]

MIGRATOR: Role = "interlock_migrator"
APP: Role = "interlock_app"
PLATFORM: Role = "interlock_platform"
COMPILER: Role = "interlock_compiler"
NODE: Role = "interlock_node"
SHIPPER: Role = "interlock_shipper"
SEQUENCER: Role = "interlock_sequencer"
LENDER: Role = "interlock_lender"


class RoleInfo(NamedTuple):
    """A database role: whether it may see several tenants' rows, who uses it and why."""

    name: Role
    crosses_tenants: bool
    used_by: str
    why: str


ROLES: tuple[RoleInfo, ...] = (
    RoleInfo(
        MIGRATOR,
        True,
        "schema migrations at start",
        "owns schema and tables, and has to be able to rewrite any row when their layout changes",
    ),
    RoleInfo(
        APP,
        False,
        "the admin API, in the name of one tenant",
        "bound by row-level security to the tenant that its transaction names; sees nothing when none is named",
    ),
    RoleInfo(
        PLATFORM,
        True,
        "the admin API, in the name of the platform: authentication, tenants, platform-owned sources and policies,"
        " discovery, and configuration files that span tenants",
        "what belongs to no tenant, or to several, cannot be done in the name of one",
    ),
    RoleInfo(
        COMPILER,
        True,
        "the snapshot compiler",
        "reads the configuration of all tenants into one snapshot; writes snapshots only",
    ),
    RoleInfo(
        NODE,
        False,
        "gateway nodes",
        "reads compiled snapshots and writes its own row in the list of nodes; sees no configuration table at all",
    ),
    RoleInfo(
        SHIPPER,
        True,
        "the shippers of gateway nodes",
        "a node's log holds calls of all tenants; adds entries, encrypted contents and wrapped keys to the ledger's"
        " inbox, and changes nothing that is there but the day on which a content was last used",
    ),
    RoleInfo(
        SEQUENCER,
        True,
        "the sequencer",
        "gives the entries of every tenant their place in that tenant's tree and signs it; sees no content",
    ),
    RoleInfo(
        LENDER,
        True,
        "gateway nodes, for leases on budgets, idempotency keys, stored responses, feedback and reports of canaries",
        "a node's workers serve all tenants; reads budgets and what was charged to them, writes leases, idempotency"
        " keys and stored responses, reserves feedback on calls, adds reports of canaries that failed",
    ),
)

_SERVER_VERSION_MIN = 160000
"""PostgreSQL 16: membership options (GRANT ... WITH INHERIT FALSE, SET TRUE)."""


def take(conn: Connection[Any], role: Role) -> None:
    """Go on in another role, until the transaction ends or this is called again."""
    conn.execute("SELECT set_config('role', %s, true)", (role,))


def grants_for(login: str) -> str:
    """The statements a database administrator runs once when the login itself may not create roles."""
    lines = [f"CREATE ROLE {role.name} NOLOGIN;" for role in ROLES]
    names = ", ".join(role.name for role in ROLES)
    lines.append(f'GRANT {names} TO "{login}" WITH INHERIT FALSE, SET TRUE;')
    return "\n".join(lines)


def ensure(conn: Connection[Any]) -> None:
    """Create the roles that are missing, and make the login a member of all. Safe to run again, and side by side.

    `conn` must be in autocommit mode: roles belong to the whole server, so that two databases may race for them.
    Raises MigrationError with the statements to run when the login has no right to.
    """
    if conn.info.server_version < _SERVER_VERSION_MIN:
        raise MigrationError(
            f"the database runs PostgreSQL {conn.info.server_version // 10000}; Interlock needs 16 or newer"
        )
    login = conn.info.user
    try:
        present = {name for (name,) in conn.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'interlock%%'")}
        for role in ROLES:
            if role.name not in present:
                _create(conn, role.name)
        for role in ROLES:
            _join(conn, role.name)
    except pg.InsufficientPrivilege as e:
        raise MigrationError(
            f"the database login {login!r} may not set up Interlock's roles ({e.diag.message_primary}); give it"
            f" CREATEROLE, or let an administrator run:\n{grants_for(login)}",
            code="migration_refused",
        ) from None


def _create(conn: Connection[Any], role: str) -> None:
    try:
        conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    except (pg.DuplicateObject, pg.UniqueViolation):
        return  # another process was faster


def _join(conn: Connection[Any], role: str) -> None:
    row = conn.execute("SELECT pg_has_role(current_user, %s, 'SET')", (role,)).fetchone()
    if row and row[0]:
        return
    statement = sql.SQL("GRANT {} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE").format(sql.Identifier(role))
    try:
        conn.execute(statement)
    except (pg.UniqueViolation, pg.InternalError_) as e:
        # two processes granting at once: one of them meets "tuple concurrently updated"
        row = conn.execute("SELECT pg_has_role(current_user, %s, 'SET')", (role,)).fetchone()
        if not (row and row[0]):
            raise MigrationError(f"cannot become a member of {role}: {e.diag.message_primary}") from None
