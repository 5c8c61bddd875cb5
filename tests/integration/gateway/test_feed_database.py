"""The feed against a real PostgreSQL: told at once, over outages, and never a mixture of two versions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from interlock.errors import StoreError
from interlock.gateway.feed import DatabaseStore, SnapshotFeed
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.settings import Settings
from interlock.storage import nodes, snapshots
from interlock.storage.pool import Store
from interlock.types.clock import SystemClock
from tests.unit.gateway.snapshots import Compiler, digest_of, small

SLOW_POLL = Settings(snapshot_poll_ms=60_000, database_connect_timeout_ms=2000)


class Publisher:
    """Writes a test's snapshots as the compiling process does. One per database: parts never disappear."""

    def __init__(self, store: Store, compiler: Compiler) -> None:
        self.store = store
        self.compiler = compiler
        self._published = 0

    def publish(self) -> int:
        with self.store.compiling() as conn:
            assert conn is not None
            head = self.compiler.head()
            snapshots.publish(conn, head, self.compiler.newer(self._published), snapshots.Dirty())
        self._published = head.version
        return head.version


@pytest.fixture(scope="module")
def store(postgres_url: str) -> Iterator[Store]:
    with Store(postgres_url, Settings(database_connect_timeout_ms=2000)) as opened:
        yield opened


@pytest.fixture(scope="module")
def publisher(store: Store) -> Publisher:
    return Publisher(store, small())


class Follower:
    """A running feed and what it has seen."""

    def __init__(self, url: str, folder: Path, settings: Settings = SLOW_POLL) -> None:
        self.views: list[SnapshotView] = []
        self.database = DatabaseStore(url, settings)
        self.row: nodes.Node | None = None
        self.feed = SnapshotFeed(
            self.database,
            SnapshotFolder(folder, deltas_max=16),
            settings,
            SystemClock(),
            on_snapshot=lambda view, _file: self.views.append(view),
            on_confirmed=lambda _version, _ns: None,
            describe=lambda: self.row,
        )

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        async def both() -> None:
            following = asyncio.create_task(self.feed.run())
            try:
                await test()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

        asyncio.run(both())

    async def reaches(self, version: int, seconds: float = 30) -> None:
        """Wait until the feed holds this version: in less time than until it looks without being told."""
        async with asyncio.timeout(seconds):
            while not self.views or self.views[-1].version < version:  # noqa: ASYNC110 - seen by polling
                await asyncio.sleep(0.002)


def test_a_revocation_arrives_at_once(publisher: Publisher, postgres_url: str, tmp_path: Path) -> None:
    follower = Follower(postgres_url, tmp_path)

    async def test() -> None:
        await follower.reaches(await asyncio.to_thread(publisher.publish))
        publisher.compiler.key("one", revoked=True)
        version = await asyncio.to_thread(publisher.publish)
        await follower.reaches(version)
        key = follower.views[-1].key(digest_of("one"))
        assert key is not None and key.revoked

    follower.run(test)


def test_a_lost_connection_is_opened_again_and_nothing_is_missed(
    publisher: Publisher, postgres_url: str, tmp_path: Path
) -> None:
    follower = Follower(postgres_url, tmp_path)

    async def test() -> None:
        await follower.reaches(await asyncio.to_thread(publisher.publish))
        of_nodes = "FROM pg_stat_activity WHERE application_name = 'interlock node' AND datname = current_database()"
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            async with asyncio.timeout(30):  # an earlier test's may still be about to end
                while conn.execute(f"SELECT count(*) {of_nodes}").fetchone() != (1,):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert conn.execute(f"SELECT pg_terminate_backend(pid) {of_nodes}").fetchall() == [(True,)]
        publisher.compiler.key("two")
        await follower.reaches(await asyncio.to_thread(publisher.publish))
        assert follower.views[-1].key(digest_of("two")) is not None

    follower.run(test)


def test_a_node_that_slept_gets_one_delta_over_many_versions(
    publisher: Publisher, postgres_url: str, tmp_path: Path
) -> None:
    follower = Follower(postgres_url, tmp_path)
    publisher.publish()
    asyncio.run(_once(follower))
    for i in range(5):
        publisher.compiler.key(f"k{i}")
        publisher.compiler.principal("prn_1", f"alice {i}")
        version = publisher.publish()
    asyncio.run(_once(follower))
    view = follower.views[-1]
    assert len(follower.views) == 2 and view.version == version and view.root == publisher.compiler.current().root
    principal = view.principal("prn_1")
    assert principal is not None and principal.name == "alice 4"


def test_while_snapshots_are_published_without_pause_every_view_is_of_one_version(
    publisher: Publisher, postgres_url: str, tmp_path: Path
) -> None:
    compiler = publisher.compiler
    stop = threading.Event()
    first = publisher.publish()

    def publish_on() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            # Two buckets that must always agree: a view that mixed versions would see different numbers.
            compiler.principal("prn_1", f"n{n}")
            compiler.key("one", principal_id=f"n{n}")
            publisher.publish()

    follower = Follower(postgres_url, tmp_path)

    async def test() -> None:
        thread = threading.Thread(target=publish_on)
        thread.start()
        try:
            async with asyncio.timeout(60):
                while len(follower.views) < 40:  # noqa: ASYNC110 - seen by polling
                    await asyncio.sleep(0.01)
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)

    follower.run(test)
    assert follower.feed.rejections == 0
    later = [view for view in follower.views if view.version > first]
    assert len(later) >= 30
    for view in later:
        key, principal = view.key(digest_of("one")), view.principal("prn_1")
        assert key is not None and principal is not None
        assert key.principal_id == principal.name


def test_the_nodes_row_is_written_with_the_nodes_role(publisher: Publisher, postgres_url: str, tmp_path: Path) -> None:
    publisher.publish()
    follower = Follower(postgres_url, tmp_path)
    now = datetime.now(UTC)
    follower.row = nodes.Node("gw-1", 2, 1, now, now, "0.1.0", "http://127.0.0.1:8080")
    asyncio.run(_once(follower))
    with publisher.store.platform() as conn:
        assert [n.name for n in nodes.page(conn)] == ["gw-1"]


def test_no_database_is_a_plain_error(tmp_path: Path) -> None:
    follower = Follower("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    with pytest.raises(StoreError):
        asyncio.run(_once(follower))


async def _once(follower: Follower) -> None:
    try:
        await follower.feed.check()
    finally:
        await follower.database.close()


def test_a_database_restored_from_a_backup_is_followed_back(postgres_migrated_url: str, tmp_path: Path) -> None:
    """In a database of its own: the publisher of the others must find there what it published."""
    with Store(postgres_migrated_url, Settings()) as store:
        _restored(Publisher(store, small()), postgres_migrated_url, tmp_path)


def _restored(publisher: Publisher, postgres_url: str, tmp_path: Path) -> None:
    kept = publisher.publish()
    root = publisher.compiler.current().root
    publisher.compiler.key("after-the-backup")
    publisher.publish()
    follower = Follower(postgres_url, tmp_path)
    asyncio.run(_once(follower))
    assert follower.views[-1].version == kept + 1
    with psycopg.connect(postgres_url) as conn:
        conn.execute("SET ROLE interlock_migrator")
        for table in ("snapshot_head", "snapshot_part"):
            conn.execute(f"DELETE FROM interlock.{table} WHERE version > %s", (kept,))
    asyncio.run(_once(follower))
    view = follower.views[-1]
    assert (view.version, view.root) == (kept, root) and view.key(digest_of("after-the-backup")) is None
    assert follower.feed.rejections == 0
