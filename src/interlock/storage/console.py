"""Who signs in to the console: accounts with a password, sign-ins under way, sessions. Role interlock_platform.

Tokens are given as their SHA-256. What has expired is removed along with what is made new.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

EXPIRED_AT_ONCE = 100
"""Expired rows that are removed along with each new one."""


class Account(msgspec.Struct, frozen=True):
    """A principal that may sign in with a password. `failures`: wrong ones in a row."""

    principal_id: str
    password_hash: str
    failures: int
    locked_until: datetime


class Login(msgspec.Struct, frozen=True):
    """A sign-in that has been sent to an identity provider (RFC 7636: `verifier`; OpenID Connect Core: `nonce`)."""

    issuer_id: str
    nonce: str
    verifier: str
    goes_to: str


class Session(msgspec.Struct, frozen=True):
    """A signed-in person. `groups`: as the identity provider named them at the sign-in. `id_token`: of that sign-in,
    sealed under a key that follows from the session's token; "" when it is not kept."""

    csrf: str
    method: str
    principal_id: str
    name: str
    tenant_id: str
    issuer_id: str
    groups: list[str]
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    id_token: str = ""


def set_password(conn: Connection[Any], principal_id: str, password_hash: str, at: datetime) -> None:
    """Give an account its password, the first or another; every session of it ends."""
    conn.execute(
        "INSERT INTO interlock.console_accounts (principal_id, password_hash, changed_at) VALUES (%s, %s, %s)"
        " ON CONFLICT (principal_id) DO UPDATE SET password_hash = excluded.password_hash,"
        " changed_at = excluded.changed_at, failures = 0, locked_until = to_timestamp(0)",
        (principal_id, password_hash, at),
    )
    conn.execute(
        "DELETE FROM interlock.console_sessions WHERE principal_id = %s AND method = 'password'", (principal_id,)
    )


def has_accounts(conn: Connection[Any]) -> bool:
    """Whether anybody may sign in with a password."""
    row = conn.execute("SELECT 1 FROM interlock.console_accounts LIMIT 1").fetchone()
    return row is not None


def account(conn: Connection[Any], tenant_id: str, name: str) -> Account | None:
    """The account of a tenant's principal, locked until the end of the transaction, so that tries are counted."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT a.principal_id, a.password_hash, a.failures, a.locked_until"
            " FROM interlock.console_accounts a JOIN interlock.principals p ON p.id = a.principal_id"
            " WHERE p.tenant_id = %s AND p.name = %s FOR UPDATE OF a",
            (tenant_id, name),
        ).fetchone()
    return msgspec.convert(row, Account) if row is not None else None


def note_try(conn: Connection[Any], principal_id: str, failures: int, locked_until: datetime) -> None:
    """How many wrong passwords in a row there were, and until when none is looked at."""
    conn.execute(
        "UPDATE interlock.console_accounts SET failures = %s, locked_until = %s WHERE principal_id = %s",
        (failures, locked_until, principal_id),
    )


def begin_login(
    conn: Connection[Any], state_hash: bytes, login: Login, now: datetime, expires_at: datetime, *, most: int
) -> bool:
    """Remember a sign-in that is sent to an identity provider; False when `most` are under way already."""
    conn.execute(
        "DELETE FROM interlock.console_logins WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM interlock.console_logins WHERE expires_at < %s LIMIT %s FOR UPDATE SKIP LOCKED))",
        (now, EXPIRED_AT_ONCE),
    )
    cursor = conn.execute(
        "INSERT INTO interlock.console_logins (state_hash, issuer_id, nonce, verifier, goes_to, expires_at)"
        " SELECT %s, %s, %s, %s, %s, %s WHERE (SELECT count(*) FROM interlock.console_logins) < %s",
        (state_hash, login.issuer_id, login.nonce, login.verifier, login.goes_to, expires_at, most),
    )
    return cursor.rowcount == 1


def take_login(conn: Connection[Any], state_hash: bytes, now: datetime) -> Login | None:
    """The sign-in of that state, which can be taken once."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "DELETE FROM interlock.console_logins WHERE state_hash = %s AND expires_at >= %s"
            " RETURNING issuer_id, nonce, verifier, goes_to",
            (state_hash, now),
        ).fetchone()
    return msgspec.convert(row, Login) if row is not None else None


def begin_session(conn: Connection[Any], token_hash: bytes, session: Session) -> None:
    """Somebody has signed in."""
    conn.execute(
        "DELETE FROM interlock.console_sessions WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM interlock.console_sessions WHERE expires_at < %s LIMIT %s FOR UPDATE SKIP LOCKED))",
        (session.created_at, EXPIRED_AT_ONCE),
    )
    given = {"token_hash": token_hash, **msgspec.structs.asdict(session), "groups": Jsonb(_said(session))}
    conn.execute(
        "INSERT INTO interlock.console_sessions (token_hash, csrf, method, principal_id, name, tenant_id, issuer_id,"
        " groups, created_at, seen_at, expires_at) VALUES (%(token_hash)s, %(csrf)s, %(method)s, %(principal_id)s,"
        " %(name)s, %(tenant_id)s, %(issuer_id)s, %(groups)s, %(created_at)s, %(seen_at)s, %(expires_at)s)",
        given,
    )


def session(conn: Connection[Any], token_hash: bytes) -> Session | None:
    """The session of a token, expired or not."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "SELECT csrf, method, principal_id, name, tenant_id, issuer_id, groups, created_at, seen_at, expires_at"
            " FROM interlock.console_sessions WHERE token_hash = %s",
            (token_hash,),
        ).fetchone()
    if row is None:
        return None
    if isinstance(row["groups"], dict):
        row |= row["groups"]
    return msgspec.convert(row, Session)


def _said(session: Session) -> list[str] | dict[str, Any]:
    """What the provider said, as the column `groups` has it: the groups alone, or with the sealed ID token."""
    return {"groups": session.groups, "id_token": session.id_token} if session.id_token else session.groups


def seen(conn: Connection[Any], token_hash: bytes, at: datetime) -> None:
    """The session is in use."""
    conn.execute("UPDATE interlock.console_sessions SET seen_at = %s WHERE token_hash = %s", (at, token_hash))


def end_session(conn: Connection[Any], token_hash: bytes) -> None:
    """Somebody signed out, or the session is over."""
    conn.execute("DELETE FROM interlock.console_sessions WHERE token_hash = %s", (token_hash,))
