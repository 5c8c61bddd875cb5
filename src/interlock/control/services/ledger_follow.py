"""Following a ledger: where to begin, and whose looks are on record."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
from psycopg import Connection

from interlock.settings import Settings
from interlock.storage import follows, ledger_read
from interlock.storage.changes import Author
from interlock.storage.follows import Covered
from interlock.storage.pool import Store

FOLLOWS_MAX = 1024
"""Followers whose record is remembered; one that is forgotten costs a look into the list of changes."""


class FollowedEntry(msgspec.Struct, frozen=True):
    """An entry: its place, the tree's hash of its leaf (hex; SHA-256 of a zero byte and the leaf), and the leaf."""

    position: int
    hash: str
    leaf: msgspec.Raw


def begin(conn: Connection[Any], tenant_id: str, since_ns: int, settings: Settings) -> int:
    """The place above which everything is that was admitted at or after an instant; -1 when nothing is before."""
    # a node's clock may be behind ours: what it admitted later may be named earlier
    margin_ns = settings.ledger_clock_skew_ms * 1_000_000
    found = ledger_read.checkpoint_before(conn, tenant_id, since_ns - margin_ns)
    return found.size - 1 if found is not None else -1


class Follows:
    """Whose looks are on record, as this process knows; the list of changes is asked when it does not."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Covered] = {}
        self._lock = threading.Lock()

    def note(self, store: Store, tenant_id: str, after: int, size: int, by: Author) -> None:
        """Have a look at the entries above place `after` on record. Raises what the database does."""
        who = (tenant_id, by.actor_id)
        known = self._known.get(who)
        if known is not None and known.holds(after, by.at):
            return
        with store.platform() as conn:
            covered = follows.note(conn, tenant_id, after, size, by)
        with self._lock:
            self._known.pop(who, None)
            if len(self._known) >= FOLLOWS_MAX:
                del self._known[next(iter(self._known))]
            self._known[who] = covered
