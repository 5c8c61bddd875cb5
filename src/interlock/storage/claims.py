"""Idempotency keys: the first call under a key claims it; others find out what became of that call.

Role interlock_lender. A claim is left `running` by a worker that dies; it counts as lost once the worker's log is in
the ledger, which says what became of the call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection

EXPIRED_AT_ONCE = 50
"""Expired claims of anybody that are removed along with each new one."""


class Claim(NamedTuple):
    """A call that claims a key. `subject`: whose data its answer is. `keep_s`: how long the claim stands."""

    tenant_id: str
    principal_id: str
    digest: bytes
    fingerprint: bytes
    subject: str
    epoch: str
    request: str
    keep_s: int


class Found(NamedTuple):
    """What there is under the key: "fresh" (claimed just now), "other" (it stands for another request), "running",
    "done" (with its answer, b"" when that was too large to keep) or "lost". `request`: id of the call that has it."""

    state: str
    request: str = ""
    answer: bytes = b""


async def claim(conn: AsyncConnection[Any], wanted: Claim) -> Found:
    """Claim a key, or find out who has it. A transaction of the caller's."""
    given = wanted._asdict()
    await conn.execute(
        "DELETE FROM interlock.idempotency_keys WHERE ctid = ANY(ARRAY(SELECT ctid FROM interlock.idempotency_keys"
        " WHERE expires_at < now() LIMIT %s FOR UPDATE SKIP LOCKED))",
        (EXPIRED_AT_ONCE,),
    )
    await conn.execute(
        "DELETE FROM interlock.idempotency_keys WHERE tenant_id = %(tenant_id)s AND principal_id = %(principal_id)s"
        " AND digest = %(digest)s AND expires_at < now()",
        given,
    )
    while True:
        made = await conn.execute(
            "INSERT INTO interlock.idempotency_keys"
            " (tenant_id, principal_id, digest, fingerprint, subject, epoch, request, state, expires_at)"
            " VALUES (%(tenant_id)s, %(principal_id)s, %(digest)s, %(fingerprint)s, %(subject)s, %(epoch)s,"
            " %(request)s, 'running', now() + %(keep_s)s * interval '1 second') ON CONFLICT DO NOTHING",
            given,
        )
        if made.rowcount:
            return Found("fresh", wanted.request)
        cursor = await conn.execute(
            "SELECT k.fingerprint, k.request, k.answer, CASE WHEN k.state = 'running' AND EXISTS (SELECT 1 FROM"
            " interlock.ledger_epochs AS e WHERE e.epoch = k.epoch AND e.settled IS NOT NULL) THEN 'lost'"
            " ELSE k.state END FROM interlock.idempotency_keys AS k WHERE k.tenant_id = %(tenant_id)s"
            " AND k.principal_id = %(principal_id)s AND k.digest = %(digest)s",
            given,
        )
        row = await cursor.fetchone()
        if row is not None:  # else it was released in between
            fingerprint, request, answer, state = row
            if bytes(fingerprint) != wanted.fingerprint:
                return Found("other", request)
            return Found(state, request, bytes(answer))


async def end(
    conn: AsyncConnection[Any],
    tenant_id: str,
    principal_id: str,
    digest: bytes,
    request: str,
    state: str,
    answer: bytes,
) -> None:
    """The call that has the key ended: "done" with its answer, "lost", or "free": nothing was done, and the key may be
    claimed again."""
    place = (tenant_id, principal_id, digest, request)
    if state == "free":
        await conn.execute(
            "DELETE FROM interlock.idempotency_keys WHERE tenant_id = %s AND principal_id = %s AND digest = %s"
            " AND request = %s",
            place,
        )
        return
    await conn.execute(
        "UPDATE interlock.idempotency_keys SET state = %s, answer = %s WHERE tenant_id = %s AND principal_id = %s"
        " AND digest = %s AND request = %s",
        (state, answer, *place),
    )


def erase(conn: Connection[Any], tenant_id: str, subject: str) -> int:
    """Remove the answers of a subject. In the name of the tenant. Returns how many."""
    return conn.execute(
        "DELETE FROM interlock.idempotency_keys WHERE tenant_id = %s AND subject = %s", (tenant_id, subject)
    ).rowcount
