"""The snapshot compiler: rows that changed become parts that changed.

A change marks the parts it touches in its own transaction. `compile_once` takes the compile lock (one compiler at a
time, however many control processes there are), reads the marked parts' rows in one REPEATABLE READ transaction,
encodes them, and stores those whose bytes differ under the next version together with the new root. Nodes are told
when that transaction commits, so a version is either whole or not there.

Bodies are msgpack, sorted by id or digest, so that the same rows always give the same bytes and the same root.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.storage import (
    aliases,
    budgets,
    issuers,
    keys,
    learned,
    policies,
    policy_drafts,
    principals,
    snapshots,
    sources,
    teams,
    tenants,
)
from interlock.storage.notify import Listener
from interlock.storage.pool import Store
from interlock.types.clock import Clock
from interlock.types.learned import LEARNED
from interlock.types.snapshot import BUCKETS, FORMAT, SMALL_PARTS, Head, Part, bucket_part, root_hash

logger = logging.getLogger(__name__)

CLOSED_KEPT_S = 86_400
"""How long revoked and expired keys stay in the snapshot, so that the answer to their bearer can say which it was."""
_SWEEP_S = 3600
_RETRY_S_MAX = 5.0

_encode = msgspec.msgpack.Encoder().encode


class Compiled(msgspec.Struct, frozen=True):
    """What one compilation did: the newest version, which parts changed, and how long it took in microseconds."""

    version: int
    changed: tuple[str, ...]
    took_us: int


class _Done(NamedTuple):
    version: int
    changed: tuple[str, ...]
    hashes: dict[str, bytes]
    swept_s: int


class SnapshotCompiler:
    """Compiles what is marked. One thread calls it; `run` is that thread's life."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._hashes: tuple[int, dict[str, bytes]] = (0, {})
        self._swept_s = 0
        self.last: Compiled | None = None
        self.failure = ""

    def compile_once(self) -> Compiled | None:
        """Compile what is marked now. None when another process holds the compile lock.

        Raises StoreError when the database is away; whatever was marked stays marked.
        """
        started = self._clock.mono_ns()
        with self._store.compiling() as conn:
            if conn is None:
                return None
            done = self._compile(conn)
        # INVARIANT: only after the commit; had it failed, the hashes would belong to a version that does not exist
        self._hashes = (done.version, done.hashes)
        self._swept_s = done.swept_s
        took = (self._clock.mono_ns() - started) // 1000
        self.last = Compiled(done.version, done.changed, took)
        return self.last

    def _compile(self, conn: Connection[Any]) -> _Done:
        head = snapshots.head(conn)
        hashes = self._known_hashes(conn, head)
        marks = snapshots.dirty(conn)
        names = set(marks.parts)
        if head is None or head.format != FORMAT:
            names |= {*SMALL_PARTS, *snapshots.buckets_in_use(conn), *hashes}
        lapsed, swept_s = self._lapsed(conn)
        names |= lapsed
        version = (head.version if head else 0) + 1
        parts = []
        for name, body in self._bodies(conn, names):
            digest = hashlib.sha256(body).digest()
            if hashes.get(name) != digest:
                parts.append(Part(name, version, digest, body))
        hashes |= {p.name: p.sha256 for p in parts}
        if parts or (head is not None and head.format != FORMAT):
            new = Head(version, root_hash(hashes), FORMAT, self._clock.wall_ns())
            snapshots.publish(conn, new, parts, marks)
            return _Done(version, tuple(p.name for p in parts), hashes, swept_s)
        snapshots.forget(conn, marks)
        return _Done(head.version if head else 0, (), hashes, swept_s)

    def _known_hashes(self, conn: Connection[Any], head: Head | None) -> dict[str, bytes]:
        """A copy of the newest parts' hashes, read again only when another process compiled meanwhile."""
        if head is None:
            return {}
        version, hashes = self._hashes
        return dict(hashes) if version == head.version else snapshots.part_hashes(conn)

    def _lapsed(self, conn: Connection[Any]) -> tuple[set[str], int]:
        """Buckets with keys whose time in the snapshot ran out since the last look (hourly), and when that was."""
        now_s = self._clock.wall_ns() // 1_000_000_000
        if now_s - self._swept_s < _SWEEP_S:
            return set(), self._swept_s
        since_s = max(0, self._swept_s - CLOSED_KEPT_S)
        buckets = keys.buckets_lapsed(conn, since_s=since_s, until_s=now_s - CLOSED_KEPT_S)
        return {bucket_part("keys", b) for b in buckets}, now_s

    def _bodies(self, conn: Connection[Any], names: Iterable[str]) -> Iterable[tuple[str, bytes]]:
        chosen = sorted(names)
        key_buckets = _buckets(chosen, "keys")
        principal_buckets = _buckets(chosen, "principals")
        now = datetime.datetime.fromtimestamp(self._clock.wall_ns() / 1e9, datetime.UTC)
        for name in chosen:
            if name in SMALL:
                yield name, SMALL[name](conn)
            elif name.startswith(LEARNED):
                yield name, learned.body(conn, name)
        if key_buckets:
            found = keys.keys_in_buckets(conn, key_buckets, now=now, keep_s=CLOSED_KEPT_S)
            for bucket in key_buckets:
                yield bucket_part("keys", bucket), _encode(dict(sorted(found[bucket].items())))
        if principal_buckets:
            members = principals.principals_in_buckets(conn, principal_buckets)
            for bucket in principal_buckets:
                values = {p.id: p for p in sorted(members[bucket], key=lambda p: p.id)}
                yield bucket_part("principals", bucket), _encode(values)

    def prune(self) -> int:
        """Remove superseded bodies of keys and principals older than `snapshot_history_versions`. Returns how many."""
        removed = 0
        with self._store.compiling() as conn:
            head = snapshots.head(conn) if conn is not None else None
            if conn is None or head is None:
                return 0
            before = head.version - self._settings.snapshot_history_versions
            for kind in ("keys", "principals", "words"):
                removed += snapshots.prune(conn, kind=kind, before_version=before)
        return removed

    def run(self, stop: threading.Event) -> None:
        """Compile whenever the database says that something changed, and every `snapshot_poll_ms`, until `stop`.

        An outage is waited out; what happened is in `failure` until the next success.
        """
        poll_s = self._settings.snapshot_poll_ms / 1000
        retry_s = 0.1
        next_prune = 0
        with Listener(self._store.url, self._settings, snapshots.DIRTY_CHANNEL) as listener:
            while not stop.is_set():
                try:
                    compiled = self.compile_once()
                    if compiled is not None and compiled.changed:
                        logger.info("snapshot %d: %d parts changed", compiled.version, len(compiled.changed))
                    if self._clock.mono_ns() >= next_prune:
                        self.prune()
                        next_prune = self._clock.mono_ns() + 60 * 1_000_000_000
                    self.failure, retry_s = "", 0.1
                    _wait(listener, poll_s, stop)
                except InterlockError as e:
                    if not self.failure:
                        logger.warning("the snapshot cannot be compiled for now: %s", e.message)
                    self.failure = e.message
                    stop.wait(retry_s)
                    retry_s = min(retry_s * 2, _RETRY_S_MAX)


def _wait(listener: Listener, timeout_s: float, stop: threading.Event) -> None:
    """Until told of a change, at most `timeout_s`, in steps short enough for a prompt stop."""
    left = timeout_s
    while left > 0 and not stop.is_set():
        step = min(left, 0.25)
        if listener.wait(step):
            return
        left -= step


def _sorted(values: Collection[Any], *fields: str) -> bytes:
    return _encode(sorted(values, key=lambda v: tuple(getattr(v, f) for f in fields)))


SMALL: dict[str, Callable[[Connection[Any]], bytes]] = {
    "tenants": lambda conn: _sorted(tenants.everything(conn), "id"),
    "teams": lambda conn: _sorted(teams.everything(conn), "id"),
    "sources": lambda conn: _sorted(sources.everything(conn), "id"),
    "policies": lambda conn: _sorted(policies.everything(conn), "tenant_id", "id"),
    "trials": lambda conn: _sorted(policy_drafts.trials(conn), "tenant_id"),
    "aliases": lambda conn: _sorted(aliases.everything(conn), "tenant_id", "name"),
    "issuers": lambda conn: _sorted([msgspec.structs.replace(i, login=None) for i in issuers.everything(conn)], "id"),
    "budgets": lambda conn: _sorted(budgets.everything(conn), "id"),
}
"""How each small part is made."""


def _buckets(names: Iterable[str], kind: str) -> list[int]:
    head = f"{kind}/"
    found = [int(name[len(head) :], 16) for name in names if name.startswith(head)]
    return [b for b in found if b < BUCKETS]
