"""The record of who follows a tenant's ledger: one change at its beginning, and one an hour while it goes on.

A follower asks every second; a change for each answer would bury what the list of changes is read for. So a change
says from which place on its author reads *every* entry, and covers what he is given for an hour. A look at entries
from before that place is not covered by it, and gets a change of its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from psycopg import Connection

from interlock.storage import changes
from interlock.storage.changes import Author, Change

ACTION = "ledger.follow"
COVERED = timedelta(hours=1)
"""How long one change stands for the looks that go on from it."""
_LOCK_SPACE = 4_704
"""Advisory locks: this number and a hash of tenant and author."""


class Covered(NamedTuple):
    """Looks that are on record: those of one author at entries above place `after`, until an instant."""

    after: int
    until: datetime

    def holds(self, after: int, now: datetime) -> bool:
        """Whether a look at what comes above `after` is among them."""
        return self.after <= after and now < self.until


def note(conn: Connection[Any], tenant_id: str, after: int, size: int, by: Author) -> Covered:
    """Have a look of `by` at the entries above place `after` on record, and say what is. `size`: of the tree now.

    Nothing is written when a change of the last hour covers it, whichever control process wrote that one.
    """
    conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_SPACE, f"{tenant_id} {by.actor_id}"))
    row = conn.execute(
        "SELECT (after->>'after')::bigint, at FROM interlock.changes"
        " WHERE tenant_id = %s AND actor_id = %s AND action = %s AND at > %s ORDER BY id DESC LIMIT 1",
        (tenant_id, by.actor_id, ACTION, by.at - COVERED),
    ).fetchone()
    if row is not None:
        found = Covered(row[0], row[1] + COVERED)
        if found.holds(after, by.at):
            return found
    changes.record(conn, Change(tenant_id, ACTION, "ledger", tenant_id, None, {"after": after, "size": size}), by)
    return Covered(after, by.at + COVERED)
