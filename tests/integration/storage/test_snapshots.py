"""Snapshots in the store: marks, publishing, deltas, notifications, and one compiler at a time."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from datetime import timedelta

import msgspec
import pytest

from interlock.errors import StoreError
from interlock.settings import Settings
from interlock.storage import nodes, snapshots, teams, tenants
from interlock.storage.notify import Listener, connect_node
from interlock.storage.pool import Store
from interlock.types.snapshot import SMALL_PARTS, Head, Part

from . import samples
from .samples import BY, NOW


def _part(name: str, version: int, body: bytes) -> Part:
    return Part(name, version, hashlib.sha256(body).digest(), body)


def _publish(store: Store, *parts: tuple[str, bytes]) -> Head:
    with store.compiling() as conn:
        assert conn is not None
        last = snapshots.head(conn)
        head = Head((last.version if last else 0) + 1, bytes(32), 1, 1_000)
        done = snapshots.dirty(conn)
        snapshots.publish(conn, head, [_part(n, head.version, b) for n, b in parts], done)
        return head


def test_a_new_database_has_everything_to_compile(postgres_empty_url: str) -> None:
    from interlock.storage.migrate import migrate

    migrate(postgres_empty_url)
    with Store(postgres_empty_url, Settings()) as store, store.compiling() as conn:
        assert conn is not None
        assert snapshots.head(conn) is None
        assert snapshots.dirty(conn).parts == set(SMALL_PARTS)


def test_a_delta_is_the_newest_of_what_changed(store: Store) -> None:
    first = _publish(store, ("teams", b"t1"), ("keys/000", b"k1"), ("keys/001", b"x1"))
    second = _publish(store, ("keys/000", b"k2"))
    third = _publish(store, ("keys/000", b"k3"), ("teams", b"t3"))
    with store.node() as conn:
        assert snapshots.head(conn) == third
        new = snapshots.newer(conn, first.version, third.version)
        assert [(p.name, p.version, p.body) for p in new] == [
            ("keys/000", third.version, b"k3"),
            ("teams", third.version, b"t3"),
        ]
        assert [p.body for p in snapshots.newer(conn, first.version, second.version)] == [b"k2"]
        assert [p.body for p in snapshots.newer(conn, first.version - 1, third.version)] == [b"k3", b"x1", b"t3"]
        assert snapshots.newer(conn, third.version, third.version) == []
    with store.compiling() as conn:
        assert conn is not None
        assert snapshots.part_hashes(conn)["keys/000"] == hashlib.sha256(b"k3").digest()
        assert snapshots.prune(conn, kind="keys", before_version=third.version) == 2
        assert [p.body for p in snapshots.newer(conn, 0, third.version)][:2] == [b"k3", b"x1"]
        assert len(snapshots.newer(conn, 0, first.version)) == 2  # keys/001 and teams of then
        with pytest.raises(ValueError, match="policies"):
            snapshots.prune(conn, kind="policies", before_version=9)


def test_marks_of_a_later_change_stay(store: Store) -> None:
    _publish(store)
    with store.platform() as conn:
        home = tenants.insert(conn, samples.tenant("marks"), BY).value
    with store.compiling() as conn:
        assert conn is not None
        seen = snapshots.dirty(conn)
        assert seen.parts == {"tenants"}
        with store.tenant(home.id) as other:
            teams.insert(other, samples.team(home.id), BY)
        assert teams.everything(conn) == [], "the compiler's transaction sees one instant"
        snapshots.forget(conn, seen)
    with store.compiling() as conn:
        assert conn is not None
        assert snapshots.dirty(conn).parts == {"teams"}
        assert len(teams.everything(conn)) == 1
    with store.platform() as conn:
        snapshots.mark_everything(conn)
    with store.compiling() as conn:
        assert conn is not None
        assert snapshots.dirty(conn).parts >= {*SMALL_PARTS, "keys/000"}


def test_one_compiler_at_a_time(store: Store) -> None:
    with store.compiling() as first:
        assert first is not None
        with store.compiling() as second:
            assert second is None
    with pytest.raises(ZeroDivisionError), store.compiling():
        _ = 1 / 0
    with pytest.raises(StoreError), store.compiling() as conn:
        assert conn is not None
        conn.execute("SELECT 1 / 0 FROM interlock.nothing")
    with pytest.raises(StoreError) as caught, store.compiling() as conn:
        assert conn is not None
        with store._pool.connection() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        snapshots.head(conn)
    assert caught.value.code == "store_away"
    with store.compiling() as again:
        assert again is not None, "the lock is free after a failure"


def test_a_compiler_sees_what_the_one_before_committed(store: Store) -> None:
    """Many compilers at once: each version is the successor of the one before, none fails, none is lost."""
    made: list[int] = []

    def compile_some() -> None:
        own = 0
        while own < 5:
            with store.compiling() as conn:
                if conn is None:
                    continue
                last = snapshots.head(conn)
                version = (last.version if last else 0) + 1
                snapshots.publish(conn, Head(version, bytes(32), 1, 0), [], snapshots.dirty(conn))
                made.append(version)
                own += 1

    with store.compiling() as conn:
        assert conn is not None
        last = snapshots.head(conn)
        first = (last.version if last else 0) + 1
    threads = [threading.Thread(target=compile_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(first, first + 20))
    with store.node() as conn:
        newest = snapshots.head(conn)
        assert newest is not None and newest.version == max(made)


def test_listeners_hear_of_changes_and_versions(store: Store, postgres_url: str) -> None:
    channels = (snapshots.DIRTY_CHANNEL, snapshots.SNAPSHOT_CHANNEL)
    with Listener(postgres_url, Settings(), *channels) as listener:
        assert listener.wait(0.01) == []
        with store.platform() as conn:
            tenants.insert(conn, samples.tenant("heard"), BY)
            assert listener.wait(0.05) == [], "not before the transaction commits"
        assert listener.wait(30) == [(snapshots.DIRTY_CHANNEL, "")]
        head = _publish(store)
        assert listener.wait(30) == [(snapshots.SNAPSHOT_CHANNEL, str(head.version))]


def test_a_listener_connects_again(store: Store, postgres_url: str, postgres_server: object) -> None:
    with Listener(postgres_url, Settings(), snapshots.SNAPSHOT_CHANNEL) as listener:
        listener.wait(0)
        assert listener._conn is not None
        pid = listener._conn.info.backend_pid
        with store._pool.connection() as conn:
            conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(StoreError, match="away"):
            listener.wait(30)
        listener.wait(0)
        head = _publish(store)
        assert listener.wait(30) == [(snapshots.SNAPSHOT_CHANNEL, str(head.version))]


def test_a_node_reads_snapshots_and_writes_its_row(store: Store, postgres_url: str) -> None:
    head = _publish(store, ("teams", b"for nodes"))
    node = nodes.Node("edge-1", workers=4, snapshot_version=head.version, seen_at=NOW, started_at=NOW, version="0.1")

    async def run() -> None:
        conn = await connect_node(postgres_url, Settings(), snapshots.SNAPSHOT_CHANNEL)
        try:
            row = await (await conn.execute(snapshots.HEAD_SQL)).fetchone()
            assert row is not None and row[0] == head.version
            parts = await (await conn.execute(snapshots.NEWER_SQL, (head.version - 1, head.version))).fetchall()
            assert [p[3] for p in parts] == [b"for nodes"]
            await nodes.seen_async(conn, node)
            await nodes.seen_async(conn, node)
            with pytest.raises(Exception, match="permission denied"):
                await conn.execute("SELECT * FROM interlock.tenants")
        finally:
            await conn.close()

    asyncio.run(run())
    with store.node() as conn:
        nodes.seen(conn, nodes.Node("edge-0", 1, 0, NOW - timedelta(days=9), NOW))
    with store.platform() as conn:
        assert [n.name for n in nodes.page(conn)] == ["edge-0", "edge-1"]
        (found,) = nodes.page(conn, after="edge-0")
        now = conn.execute("SELECT clock_timestamp()").fetchone()
        assert found.stored_at is not None and now is not None, "the database's time, not the node's"
        assert timedelta(0) <= now[0] - found.stored_at < timedelta(minutes=1)
        assert msgspec.structs.replace(found, stored_at=None) == node
        assert nodes.forget(conn, not_seen_since=NOW - timedelta(days=1)) == 1
        assert nodes.page(conn) == [found]
