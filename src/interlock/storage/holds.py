"""Legal holds: while one stands, nothing that it is on is removed, by retention or by an erasure.

INVARIANT: a hold is added, and whatever removes contents looks for holds, under the same lock: `alone`. So a hold that
was added is respected by everything that is removed afterwards.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import class_row

from interlock.errors import Conflict, NotFound
from interlock.storage.ledger_keys import GENERATION
from interlock.storage.shipping import CONTENTS_LOCK_SPACE

EVERYTHING = ""
"""The subject of a hold on everything of a tenant."""


class Hold(msgspec.Struct, frozen=True):
    """A hold on a subject (id of a principal; "": on the whole tenant). `released_at` None: it stands."""

    id: str
    subject: str
    reason: str
    added_by: str
    added_at: datetime
    released_by: str | None = None
    released_at: datetime | None = None
    released_reason: str | None = None


def alone(conn: Connection[Any], tenant_id: str) -> None:
    """Until the transaction ends nobody adds contents of the tenant, removes any, or adds a hold."""
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (CONTENTS_LOCK_SPACE, tenant_id))


def add(conn: Connection[Any], tenant_id: str, hold: Hold) -> None:
    """Add a hold; afterwards nothing that it is on is removed."""
    alone(conn, tenant_id)
    conn.execute(
        "INSERT INTO interlock.ledger_holds (id, tenant_id, subject, reason, added_by, added_at)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (hold.id, tenant_id, hold.subject, hold.reason, hold.added_by, hold.added_at),
    )


def release(conn: Connection[Any], tenant_id: str, hold_id: str, by: str, at: datetime, reason: str) -> Hold:
    """End a hold; its row stays. Raises NotFound, Conflict (`released`)."""
    changed = conn.execute(
        "UPDATE interlock.ledger_holds SET released_by = %s, released_at = %s, released_reason = %s"
        " WHERE tenant_id = %s AND id = %s AND released_at IS NULL",
        (by, at, reason, tenant_id, hold_id),
    ).rowcount
    found = next((hold for hold in every(conn, tenant_id) if hold.id == hold_id), None)
    if found is None:
        raise NotFound(f"there is no hold {hold_id!r}", param="hold")
    if not changed:
        raise Conflict(f"hold {hold_id} was released already, on {found.released_at:%Y-%m-%d}", code="released")
    return found


def every(conn: Connection[Any], tenant_id: str) -> list[Hold]:
    """All holds of a tenant, released ones too, oldest first."""
    with conn.cursor(row_factory=class_row(Hold)) as cursor:
        return list(
            cursor.execute(
                "SELECT id, subject, reason, added_by, added_at, released_by, released_at, released_reason"
                " FROM interlock.ledger_holds WHERE tenant_id = %s ORDER BY added_at, id",
                (tenant_id,),
            )
        )


def held(conn: Connection[Any], tenant_id: str) -> list[str]:
    """The subjects on which a hold stands; ask under `alone` before anything is removed."""
    rows = conn.execute(
        "SELECT DISTINCT subject FROM interlock.ledger_holds WHERE tenant_id = %s AND released_at IS NULL", (tenant_id,)
    )
    return [subject for (subject,) in rows]


def refuse_held(conn: Connection[Any], tenant_id: str, subject: str) -> None:
    """Raise Conflict (`legal_hold`) when a hold stands on a subject, or on all of its tenant. Ask under `alone`."""
    subject = subject.split(GENERATION)[0]
    for hold in every(conn, tenant_id):
        if hold.released_at is None and hold.subject in (EVERYTHING, subject):
            what = f"of {subject!r}" if hold.subject else "of this tenant"
            raise Conflict(
                f"nothing {what} may be erased: legal hold {hold.id} stands since {hold.added_at:%Y-%m-%d}",
                code="legal_hold",
                param="subject",
            )
