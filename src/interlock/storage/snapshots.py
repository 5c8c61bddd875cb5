"""Snapshots as stored: parts with their history, the head of each version, and what has to be compiled again.

A change marks the parts it touches (`mark_dirty`, done by every aggregate) and tells channel `interlock_dirty`. The
compiler takes the compile lock, reads what is dirty and the data in one REPEATABLE READ transaction, writes new parts
and a head, removes exactly the marks it saw, and tells channel `interlock_snapshot` (`publish`). Marks of a
transaction that commits meanwhile are not seen and stay for the next round.

A part never disappears: a bucket that has become empty is published as an empty document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable

from interlock.types.snapshot import SMALL_PARTS, Head, Part, bucket_part

DIRTY_CHANNEL = "interlock_dirty"
SNAPSHOT_CHANNEL = "interlock_snapshot"
NEWER_SQL = (
    "SELECT DISTINCT ON (name) name, version, sha256, body FROM interlock.snapshot_part"
    " WHERE version > %s AND version <= %s ORDER BY name, version DESC"
)
HEAD_SQL = "SELECT version, root, format, compiled_ns FROM interlock.snapshot_head ORDER BY version DESC LIMIT 1"


class Dirty(msgspec.Struct, frozen=True):
    """Parts to compile again, and the marks that said so."""

    marks: tuple[int, ...] = ()
    parts: frozenset[str] = frozenset()


def mark_dirty(conn: Connection[Any], parts: Iterable[str]) -> None:
    """Mark parts as no longer right, in the transaction of the change that made them so."""
    names = sorted(set(parts))
    if not names:
        return
    conn.execute("INSERT INTO interlock.snapshot_dirty (part) SELECT unnest(%s::text[])", (names,))
    conn.execute("SELECT pg_notify(%s, '')", (DIRTY_CHANNEL,))


def mark_everything(conn: Connection[Any]) -> None:
    """Mark all small parts and every bucket that is or was in use: the next compilation builds all of it anew."""
    mark_dirty(conn, {*SMALL_PARTS, *buckets_in_use(conn), *part_hashes(conn)})


def buckets_in_use(conn: Connection[Any]) -> list[str]:
    """Part names of the buckets that hold at least one key or principal."""
    rows = conn.execute(
        "SELECT DISTINCT 'keys', bucket FROM interlock.api_keys"
        " UNION SELECT DISTINCT 'principals', bucket FROM interlock.principals"
    )
    return sorted(bucket_part(kind, bucket) for kind, bucket in rows)


def dirty(conn: Connection[Any], limit: int = 100_000) -> Dirty:
    """What has to be compiled again: at most `limit` marks, oldest first."""
    rows = conn.execute("SELECT id, part FROM interlock.snapshot_dirty ORDER BY id LIMIT %s", (limit,)).fetchall()
    return Dirty(marks=tuple(r[0] for r in rows), parts=frozenset(r[1] for r in rows))


def head(conn: Connection[Any]) -> Head | None:
    """The newest snapshot's head, or None when nothing was ever compiled."""
    row = conn.execute(HEAD_SQL).fetchone()
    return None if row is None else Head(row[0], bytes(row[1]), row[2], row[3])


def part_hashes(conn: Connection[Any]) -> dict[str, bytes]:
    """SHA-256 of the newest body of every part, by name: what the root is made of."""
    rows = conn.execute(
        "SELECT DISTINCT ON (name) name, sha256 FROM interlock.snapshot_part ORDER BY name, version DESC"
    )
    return {name: bytes(digest) for name, digest in rows}


def newer(conn: Connection[Any], than: int, up_to: int) -> list[Part]:
    """The newest body of every part that changed in versions `than` < v <= `up_to`, in name order."""
    return [Part(n, v, bytes(h), bytes(b)) for n, v, h, b in conn.execute(NEWER_SQL, (than, up_to))]


def head_of(conn: Connection[Any], version: int) -> Head | None:
    """The head of a version, or None when there never was one. Heads are kept for good."""
    row = conn.execute(
        "SELECT version, root, format, compiled_ns FROM interlock.snapshot_head WHERE version = %s", (version,)
    ).fetchone()
    return None if row is None else Head(row[0], bytes(row[1]), row[2], row[3])


def small_parts(conn: Connection[Any], version: int) -> list[Part]:
    """The small parts as they were in a version, in name order: what its decisions were made from."""
    rows = conn.execute(
        "SELECT DISTINCT ON (name) name, version, sha256, body FROM interlock.snapshot_part"
        " WHERE name = ANY(%s) AND version <= %s ORDER BY name, version DESC",
        (list(SMALL_PARTS), version),
    )
    return [Part(n, v, bytes(h), bytes(b)) for n, v, h, b in rows]


def part_in(conn: Connection[Any], name: str, version: int) -> Part | None:
    """One part as it was in a version; None when it had none of that name."""
    row = conn.execute(
        "SELECT name, version, sha256, body FROM interlock.snapshot_part"
        " WHERE name = %s AND version <= %s ORDER BY version DESC LIMIT 1",
        (name, version),
    ).fetchone()
    return None if row is None else Part(row[0], row[1], bytes(row[2]), bytes(row[3]))


def publish(conn: Connection[Any], head: Head, parts: Sequence[Part], done: Dirty) -> None:
    """Store a new snapshot version, remove the marks it answers, and tell the nodes when the transaction commits."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO interlock.snapshot_part (name, version, sha256, body) VALUES (%s, %s, %s, %s)",
            [(p.name, p.version, p.sha256, p.body) for p in parts],
        )
    conn.execute(
        "INSERT INTO interlock.snapshot_head (version, root, format, compiled_ns) VALUES (%s, %s, %s, %s)",
        (head.version, head.root, head.format, head.compiled_ns),
    )
    forget(conn, done)
    conn.execute("SELECT pg_notify(%s, %s)", (SNAPSHOT_CHANNEL, str(head.version)))


def forget(conn: Connection[Any], done: Dirty) -> None:
    """Remove marks without a new version: what was marked turned out to be unchanged."""
    conn.execute("DELETE FROM interlock.snapshot_dirty WHERE id = ANY(%s)", (list(done.marks),))


def take_compile_lock(conn: Connection[Any]) -> bool:
    """Take the compile lock until the end of the transaction; False when another process has it.

    INVARIANT: nothing but SET came before in this REPEATABLE READ transaction. SET and LOCK do not fix what it sees,
    so that it sees everything that the compiler before committed. When False, the transaction has to be rolled back.
    """
    try:
        conn.execute("LOCK TABLE interlock.compile_lock IN EXCLUSIVE MODE NOWAIT")
    except LockNotAvailable:
        return False
    return True


def prune(conn: Connection[Any], *, kind: str, before_version: int, limit: int = 10_000) -> int:
    """Remove up to `limit` superseded bodies of `kind` ("keys", "principals", "words") older than it.

    The small parts and what is learned of models are kept, for replays. Returns how many rows went. The newest body of
    a part is never removed, however old.
    """
    if kind not in ("keys", "principals", "words"):
        raise ValueError(f"only keys, principals and words are pruned, not {kind!r}")
    query = sql.SQL(
        "DELETE FROM interlock.snapshot_part WHERE ctid = ANY(ARRAY("
        " SELECT p.ctid FROM interlock.snapshot_part p WHERE p.name LIKE %s AND p.version < %s"
        " AND EXISTS (SELECT 1 FROM interlock.snapshot_part n WHERE n.name = p.name AND n.version > p.version)"
        " LIMIT %s))"
    )
    return conn.execute(query, (f"{kind}/%", before_version, limit)).rowcount
