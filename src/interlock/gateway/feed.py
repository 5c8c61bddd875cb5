"""The node's side of the snapshot: follow the database, prove what comes, store it, hand it on.

`SnapshotFeed.run` is the loop; `check` is one look at the database. What can happen in one:

- Nothing newer: the snapshot held is confirmed (its age starts again from when the question was asked).
- Newer parts: they are applied to the snapshot held, and the result must have the root of the new head.
- It does not, or the database is behind us (it was restored from a backup): all parts are fetched once. If even these
  do not add up, the snapshot held stays, unconfirmed, and it is said so: its age then limits what may be served (P7).
- The database is away: the same, and the connection is opened again with growing pauses.

Head and parts are read in one REPEATABLE READ transaction, so that a compilation in between cannot mix versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from interlock.errors import InterlockError, SnapshotError, StoreError
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.storage.faults import mapped
from interlock.storage.nodes import Node, seen_async
from interlock.storage.notify import connect_node
from interlock.storage.snapshots import HEAD_SQL, NEWER_SQL, SNAPSHOT_CHANNEL
from interlock.types.clock import Clock
from interlock.types.snapshot import Head, Part

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from interlock.settings import Settings

log = logging.getLogger("interlock.gateway.feed")

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
CONFIRM_STORED_NS = 5_000_000_000
"""How often the confirmation is written to disk; after a start without a database it may seem older by this."""

REGISTER_NS = 5_000_000_000
"""How often this node's row is written when nothing in it changed."""


class Store(Protocol):
    """Where snapshots come from: the database, or a test's stand-in."""

    async def newest(self, than: int, root: bytes) -> tuple[Head | None, list[Part]]:
        """The newest head, and the parts above version `than` up to it; no parts when its root is `root`. One state
        of the database. Raises StoreError."""

    async def register(self, node: Node) -> None:
        """Write this node's row. Raises StoreError."""

    async def told(self, timeout_s: float) -> None:
        """Wait until a new snapshot was announced, at most `timeout_s`. Raises StoreError when the connection ended."""

    async def close(self) -> None:
        """Give the connection up; the next use opens one."""


class DatabaseStore:
    """Snapshots in PostgreSQL, over one connection of role interlock_node that also listens."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._conn: AsyncConnection[Any] | None = None

    async def newest(self, than: int, root: bytes) -> tuple[Head | None, list[Part]]:
        """See Store."""
        conn = await self._connection()
        with mapped():
            row = await (await conn.execute(HEAD_SQL)).fetchone()
            head = _head(row)
            if head is None or head.root == root:
                return head, []
            async with conn.transaction():
                await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                head = _head(await (await conn.execute(HEAD_SQL)).fetchone())
                if head is None:
                    return None, []
                start = than if head.version > than else 0
                rows = await (await conn.execute(NEWER_SQL, (start, head.version))).fetchall()
        return head, [Part(name, version, bytes(digest), bytes(body)) for name, version, digest, body in rows]

    async def register(self, node: Node) -> None:
        """See Store."""
        conn = await self._connection()
        with mapped():
            await seen_async(conn, node)

    async def told(self, timeout_s: float) -> None:
        """See Store."""
        conn = await self._connection()
        with mapped():
            async for _ in conn.notifies(timeout=timeout_s, stop_after=1):
                pass

    async def close(self) -> None:
        """See Store."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    async def _connection(self) -> AsyncConnection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = await connect_node(self._url, self._settings, SNAPSHOT_CHANNEL)
        return self._conn


class SnapshotFeed:
    """Follows the snapshot for one node.

    `prepare(view)`: a newer one was proved and will be stored: whatever a worker needs to take it over is made ready.
    `on_snapshot(view, file)`: it is stored in `file`.
    `on_confirmed(version, wall_ns)`: the database said at `wall_ns` that this is the newest.
    `describe()`: this node's row, written whenever the database was reached (None: not yet).
    `view` is the snapshot held, None before the first. `failure` says why the last look did not confirm it, or "".
    """

    def __init__(
        self,
        store: Store,
        folder: SnapshotFolder,
        settings: Settings,
        clock: Clock,
        *,
        on_snapshot: Callable[[SnapshotView, str], None],
        on_confirmed: Callable[[int, int], None],
        prepare: Callable[[SnapshotView], None] = lambda _view: None,
        describe: Callable[[], Node | None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._on_snapshot = on_snapshot
        self._on_confirmed = on_confirmed
        self._prepare = prepare
        self._describe = describe
        self._sleep = sleep
        self._stored_ns = 0
        self._described: tuple[Node, int] | None = None
        self.view: SnapshotView | None = None
        self.failure = ""
        self.rejections = 0
        """Snapshots that did not prove themselves, since the start."""

    def load(self) -> bool:
        """Take the stored snapshot, so that this node can serve while the database is away. False: there is none."""
        try:
            view = self._folder.load(self._settings.principal_cache_max)
        except (SnapshotError, OSError) as e:
            log.warning("the stored snapshot cannot be used, the database is asked for all of it: %s", e)
            return False
        if view is None:
            return False
        self._prepare(view)
        self.view = view
        self._on_confirmed(view.version, self._folder.confirmed_ns(view))
        return True

    async def run(self) -> None:
        """Follow the database until cancelled."""
        pause = RETRY_FIRST_S
        try:
            while True:
                wait_s = self._settings.snapshot_poll_ms / 1000
                try:
                    try:
                        await self.check()
                        pause = RETRY_FIRST_S
                    except SnapshotError as e:
                        # The database is there: what it says next may be sound, and is heard at once.
                        self._failed(e)
                        wait_s, pause = max(wait_s, pause), min(pause * 2, RETRY_MAX_S)
                    await self._store.told(wait_s)
                except (InterlockError, OSError) as e:
                    self._failed(e)
                    if isinstance(e, StoreError):
                        await self._store.close()
                    await self._sleep(pause)
                    pause = min(pause * 2, RETRY_MAX_S)
        finally:
            with contextlib.suppress(InterlockError, OSError):
                await self._store.close()

    async def check(self) -> None:
        """Look at the database once. Raises StoreError when it is away, SnapshotError when what it has is not sound,
        OSError when the snapshot cannot be stored; the snapshot held stays in all of these."""
        asked_ns = self._clock.wall_ns()
        before = self.view
        head, parts = await self._store.newest(*((0, b"") if before is None else (before.version, before.root)))
        if head is None:
            raise SnapshotError("the database holds no snapshot yet")
        if before is None or head.root != before.root or head.version != before.version:
            await self._take(before, head, parts)
        view = self.view
        assert view is not None  # noqa: S101 - _take has set it or raised
        self._confirm(view, asked_ns)
        await self._register()

    async def _take(self, before: SnapshotView | None, head: Head, parts: list[Part]) -> None:
        cache_max = self._settings.principal_cache_max
        changed = parts
        base = before
        try:
            if before is None or head.version < before.version:
                base = None
                view = SnapshotView.from_parts(parts, head, cache_max=cache_max)
            else:
                view = before.apply(parts, head)
        except SnapshotError as e:
            self.rejections += 1
            if base is None:
                raise
            log.error("a delta does not fit the snapshot held, all of it is fetched: %s", e)
            newest, changed = await self._store.newest(0, b"")
            if newest is None:
                raise
            view = SnapshotView.from_parts(changed, newest, cache_max=cache_max)
            base = None
        self._prepare(view)
        file = await asyncio.to_thread(self._folder.store, view, base, changed)
        self.view = view
        self._stored_ns = 0
        log.info("snapshot %d holds %d changed parts", view.version, len(changed))
        self._on_snapshot(view, file)

    def _confirm(self, view: SnapshotView, asked_ns: int) -> None:
        if self.failure:
            log.info("the snapshot is confirmed again")
            self.failure = ""
        self._on_confirmed(view.version, asked_ns)
        if asked_ns - self._stored_ns >= CONFIRM_STORED_NS or asked_ns < self._stored_ns:
            self._folder.confirm(view.root, asked_ns)
            self._stored_ns = asked_ns

    async def _register(self) -> None:
        node = self._describe()
        if node is None:
            return
        now_ns = self._clock.mono_ns()
        if self._described is not None:
            last, at_ns = self._described
            same = (last.workers, last.snapshot_version) == (node.workers, node.snapshot_version)
            if same and now_ns - at_ns < REGISTER_NS:
                return
        self._described = (node, now_ns)
        try:
            await self._store.register(node)
        except StoreError as e:
            log.warning("this node's row could not be written: %s", e)

    def _failed(self, e: Exception) -> None:
        words = str(e)
        if words != self.failure:
            version = self.view.version if self.view is not None else None
            held = "there is none" if version is None else f"snapshot {version} stays"
            log.warning("the newest snapshot could not be confirmed, %s: %s", held, words)
        self.failure = words


def _head(row: tuple[Any, ...] | None) -> Head | None:
    return None if row is None else Head(row[0], bytes(row[1]), row[2], row[3])
