"""Brings the schema to this version: roles, schema, then alembic's steps as the migrator, all or nothing.

A database that is newer than this version, or that refuses, stops the start with one plain sentence (MigrationError).
Several processes may start at once: one migrates under an advisory lock, the others wait for it and find it done.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg import errors as pg

from interlock.errors import MigrationError, StoreError
from interlock.settings import Settings
from interlock.storage import roles
from interlock.storage.faults import first_line, translate
from interlock.storage.pool import connect

HEAD = "0035"
"""The schema version this code works with: the number of the last step in `migrations/versions`."""

MIGRATION_LOCK = 0x494C_0001
"""Advisory lock of a migration (per database)."""

SCRIPTS = Path(__file__).parent / "migrations"
_LOG = logging.getLogger("interlock.storage")


def migrate(url: str, settings: Settings | None = None) -> bool:
    """Bring the database at `url` to this version. Returns whether anything had to be done.

    Raises MigrationError (a plain sentence; the database is as it was before) and StoreError when it is away.
    """
    settings = settings or Settings()
    with connect(url, settings, name="migration") as conn:
        try:
            if current(conn) == HEAD and _ready(conn):
                return False
            _refuse_newer(current(conn))
            roles.ensure(conn)
            _own_schema(conn)
            return _run(url, settings)
        except psycopg.Error as e:
            known = translate(e)
            if isinstance(known, StoreError) and known.code == "store_away":
                raise known from e
            raise MigrationError(f"the database could not be prepared: {first_line(e)}") from e


def current(conn: Connection[Any]) -> str | None:
    """The schema version of the database, or None when it has none yet. Raises MigrationError when it cannot be read.

    Needs no role: the version table may be read by all who may use the database.
    """
    row = conn.execute("SELECT to_regnamespace('interlock') IS NOT NULL").fetchone()
    if not (row and row[0]):
        return None
    try:
        with conn.transaction():
            conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(roles.MIGRATOR)))
            row = conn.execute("SELECT to_regclass('interlock.schema_version') IS NOT NULL").fetchone()
            if not (row and row[0]):
                return None
            row = conn.execute("SELECT version_num FROM interlock.schema_version").fetchone()
            return None if row is None else str(row[0])
    except (pg.InsufficientPrivilege, pg.UndefinedObject, pg.InvalidParameterValue):
        return None  # the roles are not there, or not ours yet: `roles.ensure` sees to it, or says why it cannot


def _ready(conn: Connection[Any]) -> bool:
    """Whether the login is a member of every role."""
    names = [role.name for role in roles.ROLES]
    row = conn.execute(
        "SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s) AND pg_has_role(current_user, oid, 'SET')", (names,)
    ).fetchone()
    return row is not None and row[0] == len(names)


def _refuse_newer(version: str | None) -> None:
    if version is not None and version > HEAD:
        raise MigrationError(
            f"the database has schema {version}, and this version of Interlock knows schemas up to {HEAD}: it was"
            " used by a newer version; start that one, or restore the backup made before the upgrade",
            code="migration_refused",
        )


def _own_schema(conn: Connection[Any]) -> None:
    """The schema, owned by the migrator. Raises MigrationError when the login may not create it."""
    row = conn.execute("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'interlock'").fetchone()
    if row is not None and row[0] != roles.MIGRATOR:
        raise MigrationError(
            f"the database has a schema named interlock that belongs to {row[0]!r}, not to Interlock; give Interlock a"
            " database of its own",
            code="migration_refused",
        )
    if row is None:
        statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS interlock AUTHORIZATION {}")
        try:
            conn.execute(statement.format(sql.Identifier(roles.MIGRATOR)))
        except pg.UniqueViolation:
            return  # another process was faster
        except pg.InsufficientPrivilege as e:
            raise MigrationError(
                f"the database login {conn.info.user!r} may not create the schema ({e.diag.message_primary}); let an"
                f' administrator run:\nGRANT CREATE ON DATABASE "{conn.info.dbname}" TO "{conn.info.user}";',
                code="migration_refused",
            ) from None


def _run(url: str, settings: Settings) -> bool:
    """Run what is missing in one transaction under the lock. Imports alembic only now: it takes 0.4 s."""
    import sqlalchemy
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: _plain(url, settings), poolclass=sqlalchemy.pool.NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    step = "the lock"
    try:
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"SET LOCAL ROLE {roles.MIGRATOR}")
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {settings.migration_lock_timeout_ms}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            context = MigrationContext.configure(
                connection, opts={"version_table": "schema_version", "version_table_schema": "interlock"}
            )
            before = context.get_current_revision()
            _refuse_newer(before)
            config.attributes["connection"] = connection
            step = f"the step from schema {before or 'none'} to {HEAD}"
            command.upgrade(config, HEAD)
        after = ScriptDirectory.from_config(config).get_current_head()
        if after != HEAD:
            raise MigrationError(f"this installation is inconsistent: its last migration is {after}, not {HEAD}")
    except sqlalchemy.exc.DBAPIError as e:
        reason = first_line(e.orig) if isinstance(e.orig, Exception) else str(e)
        if isinstance(e.orig, pg.LockNotAvailable):
            raise MigrationError(
                "another process has been migrating this database for longer than migration_lock_timeout_ms",
                code="migration_locked",
            ) from None
        raise MigrationError(f"the migration failed in {step}; the schema is as it was: {reason}") from e.orig
    except CommandError as e:
        raise MigrationError(f"the migration failed in {step}; the schema is as it was: {e}") from e
    finally:
        engine.dispose()
    if before != HEAD:
        _LOG.info("database schema brought from %s to %s", before or "none", HEAD)
    return before != HEAD


def _plain(url: str, settings: Settings) -> psycopg.Connection[Any]:
    """A connection as SQLAlchemy wants it: not in autocommit mode, and without our time limit for statements."""
    conn = connect(url, settings, name="migration")
    conn.autocommit = False
    return conn
