"""The feed: what a look at the database can find, and what becomes of the snapshot held."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import SnapshotError, StoreError
from interlock.gateway.feed import SnapshotFeed
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.settings import Settings
from interlock.storage.nodes import Node
from interlock.testing.clock import START_NS, FakeClock
from interlock.types.snapshot import Head, Part

from .snapshots import Compiler, digest_of, part, small

SETTINGS = Settings()


class FakeStore:
    """A database that holds what a `Compiler` has; `away` makes it fail, `spoil` changes what a query gives."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self.away = False
        self.registered: list[Node] = []
        self.asked: list[int] = []
        self.closed = 0
        self.spoil: list[Part] | None = None
        self.announced = asyncio.Event()

    async def newest(self, than: int, root: bytes) -> tuple[Head | None, list[Part]]:
        if self.away:
            raise StoreError("the database is away")
        self.asked.append(than)
        if not self.compiler.version:
            return None, []
        head = self.compiler.current()
        if head.root == root:
            return head, []
        if self.spoil is not None:
            parts, self.spoil = self.spoil, None
            return head, parts
        return head, self.compiler.newer(than if head.version > than else 0)

    async def register(self, node: Node) -> None:
        if self.away:
            raise StoreError("the database is away")
        self.registered.append(node)

    async def told(self, timeout_s: float) -> None:
        if self.away:
            raise StoreError("the database is away")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.announced.wait(), timeout_s)
        self.announced.clear()

    async def close(self) -> None:
        self.closed += 1


class Case:
    """A feed over a fake database, with everything that it said."""

    def __init__(self, tmp_path: Path, compiler: Compiler | None = None) -> None:
        self.compiler = compiler or small()
        self.store = FakeStore(self.compiler)
        self.clock = FakeClock()
        self.said: list[tuple[Any, ...]] = []
        self.pauses: list[float] = []
        self.row: Node | None = None
        self.feed = SnapshotFeed(
            self.store,
            SnapshotFolder(tmp_path, deltas_max=8),
            SETTINGS,
            self.clock,
            prepare=lambda view: self.said.append(("prepare", view.version)),
            on_snapshot=lambda view, file: self.said.append(("snapshot", view.version, file)),
            on_confirmed=lambda version, wall_ns: self.said.append(("confirmed", version, wall_ns)),
            describe=lambda: self.row,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    def check(self) -> None:
        asyncio.run(self.feed.check())

    def heard(self) -> list[tuple[Any, ...]]:
        heard, self.said = self.said, []
        return heard

    @property
    def view(self) -> SnapshotView:
        assert self.feed.view is not None
        return self.feed.view


def test_the_first_snapshot_then_deltas_then_only_confirmations(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()
    assert case.heard() == [
        ("prepare", 1),
        ("snapshot", 1, "00000001.full"),
        ("confirmed", 1, START_NS),
    ]
    case.compiler.key("two")
    case.compiler.head()
    case.clock.advance(s=1)
    case.check()
    assert case.heard() == [
        ("prepare", 2),
        ("snapshot", 2, "00000002.delta"),
        ("confirmed", 2, START_NS + 10**9),
    ]
    case.check()
    assert case.heard() == [("confirmed", 2, START_NS + 10**9)]
    assert case.store.asked == [0, 1, 2] and case.view.key(digest_of("two")) is not None


def test_no_snapshot_yet_is_not_a_confirmation(tmp_path: Path) -> None:
    case = Case(tmp_path)
    with pytest.raises(SnapshotError, match="no snapshot yet"):
        case.check()
    assert case.heard() == [] and case.feed.view is None


def test_a_delta_that_does_not_fit_is_replaced_by_all_of_it(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()
    case.compiler.key("two")
    case.compiler.head()
    case.store.spoil = [part("teams", [], 2)]
    case.check()
    assert case.view.version == 2 and case.feed.rejections == 1 and case.store.asked == [0, 1, 0]
    assert case.heard()[-2:] == [("snapshot", 2, "00000002.full"), ("confirmed", 2, START_NS)]


def test_when_even_all_of_it_is_not_sound_the_old_one_stays_unconfirmed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()
    old = case.view
    case.heard()
    del case.compiler.parts["teams"]
    case.compiler.key("two")
    bad_head = case.compiler.head()
    case.compiler.parts["teams"] = part("teams", [], 1)
    assert case.compiler.current().root != bad_head.root
    case.store.compiler = _Frozen(case.compiler, bad_head)
    with pytest.raises(SnapshotError, match="do not add up"):
        case.check()
    assert case.view is old and case.heard() == [] and case.feed.rejections == 1


def test_a_restored_database_is_followed_back(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.compiler.key("two", revoked=True)
    case.compiler.head()
    case.check()
    assert case.view.version == 2
    case.store.compiler = restored = small()
    restored.head()
    case.check()
    assert case.view.version == 1 and case.view.key(digest_of("two")) is None
    case.store.compiler = other = small()
    other.key("three")
    other.head()
    case.check()
    assert case.view.version == 1 and case.view.key(digest_of("three")) is not None and case.feed.rejections == 0


def test_a_start_without_a_database_uses_what_was_stored(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()
    later = Case(tmp_path)
    later.clock.advance(s=60)
    later.store.away = True
    assert later.feed.load() and later.view.root == case.view.root
    assert later.heard() == [("prepare", 1), ("confirmed", 1, START_NS)]
    with pytest.raises(StoreError):
        later.check()
    assert later.heard() == []


def test_nothing_or_damage_stored_is_no_snapshot(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert not case.feed.load()
    (tmp_path / "00000001.full").write_bytes(b"damaged")
    assert not case.feed.load() and case.feed.view is None
    case.compiler.head()
    case.check()
    assert case.view.version == 1 and Case(tmp_path).feed.load()


def test_a_source_without_a_row_keeps_the_old_snapshot(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()

    def full(_view: SnapshotView) -> None:
        raise StoreError("no row")

    case.feed._prepare = full
    case.compiler.key("two")
    case.compiler.head()
    with pytest.raises(StoreError):
        case.check()
    assert case.view.version == 1 and Case(tmp_path).feed.load()


def test_the_nodes_row_is_written_when_it_changes_and_now_and_then(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.row = node(workers=0)
    for _ in range(3):
        case.check()
    assert len(case.store.registered) == 1
    case.row = node(workers=2)
    case.check()
    assert [n.workers for n in case.store.registered] == [0, 2]
    case.clock.advance(s=5)
    case.check()
    assert len(case.store.registered) == 3


def test_the_confirmation_is_stored_now_and_then(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.compiler.head()
    case.check()
    case.clock.advance(s=3)
    case.check()
    assert case.feed._folder.confirmed_ns(case.view) == START_NS
    case.clock.advance(s=3)
    case.check()
    assert case.feed._folder.confirmed_ns(case.view) == START_NS + 6 * 10**9


def test_an_outage_is_survived_with_growing_pauses_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(tmp_path)
    case.compiler.head()

    async def run() -> None:
        following = asyncio.create_task(case.feed.run())
        await until(lambda: ("confirmed", 1, START_NS) in case.said)
        case.store.away = True
        case.store.announced.set()
        await until(lambda: len(case.pauses) >= 8)
        assert case.feed.failure == "the database is away" and case.view.version == 1
        case.compiler.key("two", revoked=True)
        case.compiler.head()
        case.store.away = False
        await until(lambda: case.view.version == 2)
        await until(lambda: case.feed.failure == "")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    with caplog.at_level("WARNING", logger="interlock.gateway.feed"):
        asyncio.run(run())
    assert case.pauses[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert len([r for r in caplog.records if "could not be confirmed" in r.message]) == 1
    assert case.store.closed >= 8


def test_after_an_unsound_snapshot_the_next_announcement_is_heard_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path)

    async def run() -> None:
        following = asyncio.create_task(case.feed.run())
        await until(lambda: case.feed.failure == "the database holds no snapshot yet")
        case.compiler.head()
        case.store.announced.set()
        await until(lambda: case.feed.view is not None)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())
    assert case.pauses == []


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is heard by several
            await asyncio.sleep(0)


def node(workers: int) -> Node:
    return Node(
        name="n",
        workers=workers,
        snapshot_version=1,
        seen_at=datetime(2027, 1, 1, tzinfo=UTC),
        started_at=datetime(2027, 1, 1, tzinfo=UTC),
    )


class _Frozen(Compiler):
    """A compiler whose head does not fit its parts."""

    def __init__(self, compiler: Compiler, head: Head) -> None:
        super().__init__()
        self.version, self.parts, self._head = compiler.version, compiler.parts, head

    def current(self) -> Head:
        return self._head
