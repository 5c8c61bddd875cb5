"""Stored responses: what conversations of the Responses API go on from, and the keys that they are sealed with.

Role interlock_lender. A response belongs to a subject of a tenant, which every statement names; it refers to the one
before it, so that a conversation of n turns has n rows. Expired rows are as good as gone, and are removed in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection

FETCHED_AT_ONCE = 16
"""Rows of a conversation held in memory."""


class Owner(NamedTuple):
    """Whose response it is."""

    tenant_id: str
    subject: str


class Key(NamedTuple):
    """A subject's key, wrapped."""

    name: bytes
    wrapped: bytes


class Row(NamedTuple):
    """A stored response."""

    id: str
    previous: str
    sealed: bytes


class Bounds(NamedTuple):
    """How far back a conversation is followed: rows, and bytes that are sealed."""

    turns: int
    sealed_bytes: int


async def key(conn: AsyncConnection[Any], owner: Owner, new: Key | None) -> Key | None:
    """The owner's key; `new` becomes it where there is none. A transaction of the caller's."""
    if new is not None:
        await conn.execute(
            "INSERT INTO interlock.stored_response_keys (tenant_id, subject, name, wrapped) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (*owner, new.name, new.wrapped),
        )
    cursor = await conn.execute(
        "SELECT name, wrapped FROM interlock.stored_response_keys WHERE tenant_id = %s AND subject = %s", owner
    )
    row = await cursor.fetchone()
    return None if row is None else Key(bytes(row[0]), bytes(row[1]))


_CHAIN = """
WITH RECURSIVE chain AS (
    SELECT id, previous, 1 AS depth, octet_length(sealed)::bigint AS total FROM interlock.stored_responses
    WHERE tenant_id = %(tenant)s AND subject = %(subject)s AND id = %(id)s AND expires_at > now()
    UNION ALL
    SELECT r.id, r.previous, c.depth + 1, c.total + octet_length(r.sealed) FROM chain AS c
    JOIN interlock.stored_responses AS r ON r.tenant_id = %(tenant)s AND r.subject = %(subject)s AND r.id = c.previous
        AND r.expires_at > now()
    WHERE c.previous <> '' AND c.depth < %(turns)s AND c.total <= %(bytes)s
)
SELECT id, previous, depth, total FROM chain ORDER BY depth DESC
"""


async def chain(conn: AsyncConnection[Any], owner: Owner, name: str, bounds: Bounds) -> tuple[str, list[str]]:
    """What a response goes on from, itself the last: ("found", ids, the oldest first), or with no ids "missing",
    "broken" (one before it is gone) or "too_long"."""
    given = {
        "tenant": owner.tenant_id,
        "subject": owner.subject,
        "id": name,
        "turns": bounds.turns,
        "bytes": bounds.sealed_bytes,
    }
    rows = await (await conn.execute(_CHAIN, given)).fetchall()
    if not rows:
        return "missing", []
    _, previous, depth, total = rows[0]
    if total > bounds.sealed_bytes or (previous and depth >= bounds.turns):
        return "too_long", []
    return ("broken", []) if previous else ("found", [row[0] for row in rows])


async def read(conn: AsyncConnection[Any], owner: Owner, names: list[str]) -> AsyncIterator[Row]:
    """These stored responses, in this order."""
    for at in range(0, len(names), FETCHED_AT_ONCE):
        some = names[at : at + FETCHED_AT_ONCE]
        cursor = await conn.execute(
            "SELECT id, previous, sealed FROM interlock.stored_responses WHERE tenant_id = %s AND subject = %s"
            " AND id = ANY(%s) AND expires_at > now()",
            (*owner, some),
        )
        found = {row[0]: Row(row[0], row[1], bytes(row[2])) for row in await cursor.fetchall()}
        for each in some:
            if each in found:
                yield found[each]


async def keep(conn: AsyncConnection[Any], owner: Owner, row: Row, key_name: bytes, keep_s: int) -> bool:
    """Store a response. False when the key that it is sealed with is none any more."""
    done = await conn.execute(
        "INSERT INTO interlock.stored_responses (tenant_id, subject, id, key_name, previous, sealed, expires_at)"
        " SELECT k.tenant_id, k.subject, %s, k.name, %s, %s, now() + %s * interval '1 second'"
        " FROM interlock.stored_response_keys AS k WHERE k.tenant_id = %s AND k.subject = %s AND k.name = %s",
        (row.id, row.previous, row.sealed, keep_s, *owner, key_name),
    )
    return done.rowcount == 1


async def drop(conn: AsyncConnection[Any], owner: Owner, name: str) -> bool:
    """Delete a stored response. False when there was none."""
    done = await conn.execute(
        "DELETE FROM interlock.stored_responses WHERE tenant_id = %s AND subject = %s AND id = %s"
        " AND expires_at > now()",
        (*owner, name),
    )
    return done.rowcount == 1


async def sweep(conn: AsyncConnection[Any], batch: int) -> int:
    """Remove expired responses of anybody, at most `batch`. Returns how many."""
    done = await conn.execute(
        "DELETE FROM interlock.stored_responses WHERE ctid = ANY(ARRAY(SELECT ctid FROM interlock.stored_responses"
        " WHERE expires_at < now() ORDER BY expires_at LIMIT %s))",
        (batch,),
    )
    return done.rowcount


def erase(conn: Connection[Any], tenant_id: str, subject: str) -> int:
    """Destroy the key of a subject, and with it its stored responses. In the name of the tenant. Returns how many
    keys."""
    return conn.execute(
        "DELETE FROM interlock.stored_response_keys WHERE tenant_id = %s AND subject = %s", (tenant_id, subject)
    ).rowcount
