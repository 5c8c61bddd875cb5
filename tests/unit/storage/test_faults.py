"""The driver's errors as ours, and what must not be in a message or a change."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors as pg
from psycopg_pool import PoolTimeout

from interlock.errors import BadRequest, Conflict, InterlockError, StoreError
from interlock.storage.changes import scrub
from interlock.storage.faults import first_line, mapped, translate


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (pg.UniqueViolation("x"), Conflict, "already_exists"),
        (pg.ForeignKeyViolation("x"), Conflict, "unknown_reference"),
        (pg.CheckViolation("x"), BadRequest, "invalid_request"),
        (pg.SerializationFailure("x"), Conflict, "concurrent_change"),
        (pg.LockNotAvailable("x"), Conflict, "locked"),
        (pg.InsufficientPrivilege("x"), StoreError, "store_forbidden"),
        (pg.QueryCanceled("x"), StoreError, "store_timeout"),
        (pg.UndefinedTable("x"), StoreError, "store_schema"),
        (pg.NumericValueOutOfRange("x"), BadRequest, "invalid_value"),
        (pg.AdminShutdown("x"), StoreError, "store_away"),
        (psycopg.OperationalError("connection refused"), StoreError, "store_away"),
        (PoolTimeout("x"), StoreError, "store_busy"),
        (pg.InternalError_("x"), StoreError, "store_error"),
    ],
)
def test_translation(error: Exception, kind: type[InterlockError], code: str) -> None:
    known = translate(error)
    assert type(known) is kind and known.code == code
    with pytest.raises(kind), mapped():
        raise error


def test_other_errors_pass() -> None:
    assert translate(ValueError("x")) is None
    with pytest.raises(ZeroDivisionError), mapped():
        raise ZeroDivisionError


def test_a_message_holds_no_password_and_one_line() -> None:
    error = psycopg.OperationalError("cannot reach postgresql://u:geheim@h/db password=geheim x\nsecond line")
    assert first_line(error) == "cannot reach postgresql://***@h/db password=*** x"
    assert first_line(psycopg.OperationalError("")) == "OperationalError"


def test_scrub() -> None:
    value = {"url": "http://user:geheim@proxy:3128/x", "list": ["https://t@h", 1, None], "plain": "a@b", "nul": "a\0b"}
    assert scrub(value) == {
        "url": "http://***@proxy:3128/x",
        "list": ["https://***@h", 1, None],
        "plain": "a@b",
        "nul": "ab",
    }
