"""The driver's errors as ours: what a client did wrong, what is in conflict, and what the database could not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from interlock.errors import BadRequest, Conflict, InterlockError, StoreError

_IN_USE = {
    "principal_teams": "it still has members",
    "role_bindings": "roles are still bound to it",
    "api_keys": "it still has API keys",
    "principals": "it still has principals",
    "teams": "it still has teams",
}


def translate(error: Exception) -> InterlockError | None:
    """The error of ours that says what a driver error means; None when it is not one of the driver's."""
    if isinstance(error, TooManyRequests | PoolTimeout):
        return StoreError(
            "every database connection is in use, and none became free in time; try again", code="store_busy"
        )
    if not isinstance(error, psycopg.Error):
        return None
    diag = error.diag
    constraint, table = diag.constraint_name or "", diag.table_name or ""
    if isinstance(error, pg.UniqueViolation):
        return Conflict(_taken(constraint, table), code="already_exists")
    if isinstance(error, pg.ForeignKeyViolation):
        return _reference(constraint, diag.message_detail or "")
    if isinstance(error, pg.CheckViolation | pg.NotNullViolation):
        what = diag.constraint_name or diag.column_name
        return BadRequest(f"the database refuses the value: {what} of {diag.table_name} does not hold", param=what)
    if isinstance(error, pg.SerializationFailure | pg.DeadlockDetected):
        return Conflict("another change was made at the same moment; repeat this one", code="concurrent_change")
    if isinstance(error, pg.InsufficientPrivilege):
        return StoreError(f"the database role may not do this: {diag.message_primary}", code="store_forbidden")
    if isinstance(error, pg.LockNotAvailable):
        return Conflict("someone else holds this for a change; try again", code="locked")
    if isinstance(error, pg.QueryCanceled):
        return StoreError("a statement ran longer than database_statement_timeout_ms", code="store_timeout")
    if isinstance(error, pg.UndefinedTable | pg.UndefinedColumn | pg.InvalidSchemaName):
        return StoreError(f"the database schema does not fit this version: {diag.message_primary}", code="store_schema")
    if isinstance(error, psycopg.DataError):
        return BadRequest(f"the database cannot hold this value: {first_line(error)}", code="invalid_value")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreError(f"the database is away: {first_line(error)}", code="store_away")
    return StoreError(f"the database failed: {first_line(error)}")


@contextmanager
def mapped() -> Iterator[None]:
    """Inside, what the driver raises becomes an error of ours; other exceptions pass as they are."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests) as e:
        known = translate(e)
        assert known is not None  # noqa: S101  INVARIANT: exactly these classes are translated
        raise known from e


def first_line(error: Exception) -> str:
    """The first line of a driver's message, short and without a password that a connection string may have held."""
    lines = str(error).strip().splitlines()
    return (
        re.sub(r"(?i)(password=)\S+|(?<=://)[^/@\s]+(?=@)", r"\1***", lines[0])[:300] if lines else type(error).__name__
    )


def _taken(constraint: str, table: str) -> str:
    """From the constraint's name alone: under row-level security the server does not say which values met."""
    what = constraint.removeprefix(f"{table}_").removesuffix("_key")
    if what == "digest":
        return "this key exists already"
    if what.endswith("name"):
        return f"the name is taken: {table.replace('_', ' ')} has one of this name already"
    if what == "pkey":
        return f"{table.replace('_', ' ')} has one with this id already"
    return (
        f"{table.replace('_', ' ')} has one with this {what.removeprefix('tenant_id_').replace('_', ' and ')} already"
    )


def _reference(constraint: str, detail: str) -> InterlockError:
    if "still referenced" in detail:
        match = re.search(r'from table "(\w+)"', detail)
        words = _IN_USE.get(match[1] if match else "", "something still refers to it")
        return Conflict(f"it cannot be removed: {words}", code="still_used")
    column = next((c for c in ("team_id", "principal_id", "tenant_id") if constraint.endswith(f"{c}_fkey")), "id")
    return Conflict(f"its {column} names nothing that exists in its tenant", code="unknown_reference", param=column)
