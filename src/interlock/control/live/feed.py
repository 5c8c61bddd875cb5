"""The feed: what happens now, from the database, while somebody watches.

Every second, and only then, one thread reads what was added to the trees of the tenants that are watched, and what
nodes told of their sources. Each control process has a feed of its own; they share nothing but the database, and no
gateway waits for any of them.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Mapping

import msgspec
import psycopg

from interlock.control.live import quality, running, states, view
from interlock.control.live.quality import Scores, Verdict
from interlock.control.live.view import Scope, View
from interlock.control.live.window import Call, Window
from interlock.control.services import base, router
from interlock.errors import InterlockError
from interlock.storage import aliases, learned, ledger_read, nodes, sources, usage
from interlock.storage.nodes import Told
from interlock.storage.pool import Store
from interlock.storage.sources import SourceRow
from interlock.types.snapshot import Canary

logger = logging.getLogger(__name__)

TICK_S = 1.0
STALE_S = 2.0
"""Older than this, what is known is brought up to date before it is shown."""
LINGER_S = 20.0
"""How long a tenant is followed after somebody last asked."""
ASK_S, ASK_AGAIN_S = 12.0, 4.0
"""Nodes are asked to tell often for so long, and asked again so often."""
NAMES_S = 30.0
"""How long a name, a cost centre or the list of sources is remembered."""
READ = 500
"""Entries read at a time."""
SOURCES_MAX, NODES_MAX, ALIASES_MAX = 500, 200, 2000
NS = 1_000_000_000


class LiveFeed:
    """One control process's. Any thread may ask; `close` ends its own."""

    def __init__(self, store: Store, tools: base.Tools, scores: Scores | None = None) -> None:
        self._store = store
        self._scores = scores
        self._tools = tools
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[], None]] = []
        self._wanted: dict[str, float] = {}
        """When somebody last asked for a tenant ("": all), on the monotonic clock."""
        self._read_once: set[str] = set()
        """Of these, those that were read, or tried."""
        self._windows: dict[str, Window] = {}
        self._places: dict[str, int] = {}
        """How many entries of each tenant's tree were read."""
        self._told: list[Told] = []
        self._prefixes = states.PrefixRates()
        self._running = running.Running(tools.settings.live_silent_s)
        self._sources: list[SourceRow] = []
        self._centers: dict[str, str] = {}
        self._canaries: dict[tuple[str, str], Canary] = {}
        self._names: dict[str, str] = {}
        self._remembered_s = -NAMES_S
        self._asked_s = -ASK_S
        self._advanced_s = -STALE_S
        self._qualities: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._views: dict[Scope, View] = {}
        self._totals: dict[tuple[str, str, str], view.Totals] = {}
        self._failing = ""

    def listen(self, call: Callable[[], None]) -> None:
        """`call()` after each second's reading, on the feed's thread."""
        self._listeners.append(call)

    def view(self, scope: Scope) -> View:
        """What is known now. Brought up to date first when nobody has watched. Raises BadRequest; a database that is
        away is told in `View.failing`."""
        scope = scope.checked()
        with self._lock:
            now_s = self._now_s()
            self._wanted[scope.tenant_id] = now_s
            if scope.tenant_id not in self._read_once or now_s - self._advanced_s > STALE_S:
                self._advance()
            self._work()
            if scope not in self._views:
                self._views[scope] = self._make(scope)
            return self._views[scope]

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin to end: whoever listens is told, and open streams end. Does not wait."""
        self._stop.set()
        for call in self._listeners:
            call()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(5)

    # -- the thread

    def _work(self) -> None:
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="live", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause_s = TICK_S
        while not self._stop.wait(pause_s):
            began_s = self._now_s()
            with self._lock:
                self._forget(began_s)
                if not self._wanted:
                    self._thread = None
                    self._running.clear()
                    return
                self._advance()
            for call in self._listeners:
                try:
                    call()
                except Exception:
                    logger.exception("the live view could not be made")
            took_s = self._now_s() - began_s
            pause_s = max(TICK_S - took_s, 2 * took_s)  # at most a third of a core, whatever there is to count

    def _forget(self, now_s: float) -> None:
        """Let go of what nobody watches any more."""
        self._wanted = {t: at_s for t, at_s in self._wanted.items() if now_s - at_s < LINGER_S}
        self._read_once &= self._wanted.keys()
        if "" not in self._wanted:
            for tenant_id in [t for t in self._places if t not in self._wanted]:
                self._places.pop(tenant_id, None)
                self._windows.pop(tenant_id, None)

    # -- reading, with the lock held

    def _advance(self) -> None:
        """Read what is new. A failure is kept in `_failing`, and what was known stays."""
        now_s = self._now_s()
        try:
            with self._store.platform() as conn:
                if now_s - self._asked_s >= ASK_AGAIN_S:
                    nodes.watch(conn, ASK_S)
                    self._asked_s = now_s
                self._told = nodes.told(conn, NODES_MAX)
                if now_s - self._remembered_s >= NAMES_S:
                    self._sources = [stored.value for stored in sources.page(conn, limit=SOURCES_MAX)]
                    self._centers = usage.cost_centers(conn)
                    known = aliases.page(conn, limit=ALIASES_MAX)
                    self._canaries = {
                        (each.value.tenant_id, each.value.name): each.value.canary
                        for each in known
                        if each.value.canary is not None
                    }
                    self._names.clear()
                    self._remembered_s = now_s
                every = "" in self._wanted
                grown = ledger_read.sizes(conn, None if every else list(self._wanted))
            for tenant_id, size in grown.items():
                self._read(tenant_id, size)
            self._failing = ""
        except (InterlockError, psycopg.Error) as e:
            words = e.message if isinstance(e, InterlockError) else type(e).__name__
            if words != self._failing:
                logger.warning("the live view stands still: %s", words)
            self._failing = words
        self._read_once |= self._wanted.keys()
        self._prefixes.note(self._told, now_s)
        if not self._failing:
            self._running.note(self._told, self._entry, now_s)
        self._bound()
        self._advanced_s = now_s
        self._views.clear()
        self._totals.clear()

    def _read(self, tenant_id: str, size: int) -> None:
        """What was added to a tree; of one that is new here, or far ahead, the entries of the window.

        INVARIANT: read in the name of the tenant, so that its window holds nothing that the database hides from it.
        """
        if self._places.get(tenant_id) == size and tenant_id in self._windows:
            self._windows[tenant_id].prune(self._tools.clock.wall_ns())
            return
        with self._store.tenant(tenant_id) as conn:
            self._take(conn, tenant_id, size)

    def _take(self, conn: psycopg.Connection[object], tenant_id: str, size: int) -> None:
        settings = self._tools.settings
        place = self._places.get(tenant_id)
        window = self._windows.get(tenant_id)
        if place is None or window is None or size - place > settings.live_calls_max:
            self._places.pop(tenant_id, None)
            window = self._windows[tenant_id] = Window(settings.live_calls_max, settings.live_window_s)
            place = self._places[tenant_id] = self._begin(conn, tenant_id, size, window)
        while place < size:
            until = min(place + READ, size)
            for leaf in ledger_read.leaves(conn, tenant_id, place, until):
                try:
                    window.add(leaf)
                except msgspec.MsgspecError:
                    logger.warning("an entry of %s cannot be read for the live view", tenant_id)
            place = self._places[tenant_id] = until
        window.prune(self._tools.clock.wall_ns())

    def _begin(self, conn: psycopg.Connection[object], tenant_id: str, size: int, window: Window) -> int:
        """From which place on entries are of the window: looked for from the end of the tree, some at a time."""
        settings = self._tools.settings
        oldest_ns = self._tools.clock.wall_ns() - settings.live_window_s * NS
        place, least = size, max(0, size - settings.live_calls_max)
        while place > least:
            before = max(least, place - READ)
            first = ledger_read.leaves(conn, tenant_id, before, before + 1)
            place = before
            if not first or _at(first[0]).at < oldest_ns:
                return place  # older, or pruned
            if place == least > 0:
                window.dropped_ns = _at(first[0]).at
        return place

    def _bound(self) -> None:
        """Keep the windows together within `live_bytes_max`: the largest gives way."""
        most = self._tools.settings.live_bytes_max
        total = sum(window.bytes for window in self._windows.values())
        while total > most:
            largest = max(self._windows.values(), key=lambda window: window.bytes)
            before = largest.bytes
            for _ in range(max(1, len(largest) // 16)):
                largest.give_up_oldest()
            total -= before - largest.bytes

    # -- making a view, with the lock held

    def _make(self, scope: Scope) -> View:
        settings, now_ns = self._tools.settings, self._tools.clock.wall_ns()
        names = view.Names(self._named, self._centers)
        since_ns = now_ns - settings.live_window_s * NS
        shared = (scope.tenant_id, scope.field, scope.value)
        if shared not in self._totals:
            calls = view.counted(self._windows, scope, self._centers, since_ns)
            self._totals[shared] = view.totals(calls, now_ns, settings.live_window_s)
        counted = self._totals[shared]
        table, more = view.rows(counted.calls, scope, names, now_ns)
        runs = self._running.of(scope, self._centers) if scope.calls else []
        if scope.by == "model" and scope.tenant_id:
            table = view.judged(table, self._learned(scope.tenant_id))
        dropped_ns = max((self._windows[t].dropped_ns for t in counted.calls if t in self._windows), default=0)
        return View(
            datetime.datetime.fromtimestamp(now_ns / NS, datetime.UTC),
            self._named({scope.tenant_id}).get(scope.tenant_id, "") if scope.tenant_id else "",
            scope.by,
            settings.live_window_s,
            (now_ns - dropped_ns) // NS if dropped_ns > since_ns else settings.live_window_s,
            counted.total,
            table,
            more,
            counted.points,
            self._lines(scope) if scope.sources else None,
            view.newest(counted.calls, names) if scope.calls else None,
            self._failing,
            running.lines(runs, scope.order, names, (self._now_s(), now_ns), settings.live_lines_max)
            if scope.calls
            else None,
            self._running.count(scope, runs) if scope.calls else 0,
            counted.quality,
            self._verdicts(scope) if not scope.field else [],
            list(self._scores(scope.tenant_id)) if self._scores is not None else None,
        )

    def _verdicts(self, scope: Scope) -> list[Verdict]:
        shown = quality.verdicts(self._canaries, scope.tenant_id)
        names = self._named({tenant_id for tenant_id, _, _ in shown if tenant_id})
        return [Verdict(alias, names.get(t, t), canary.state, canary.ended_why) for t, alias, canary in shown]

    def _entry(self, tenant_id: str, request: str) -> Call | None:
        window = self._windows.get(tenant_id)
        return window.find(request) if window is not None else None

    def _lines(self, scope: Scope) -> list[states.SourceLine]:
        shown = [s for s in self._sources if scope.sources in ("*", s.tenant_id)]
        ended: dict[str, int] = {}
        for tenant_id in [scope.tenant_id] if scope.tenant_id else self._windows:
            for call in self._windows.get(tenant_id, ()):
                ended[call.source] = ended.get(call.source, 0) + 1
        whose = f"call of {self._named({scope.tenant_id})[scope.tenant_id]}" if scope.tenant_id else "call"
        return states.lines(shown, self._told, self._prefixes, ended, f"no {whose} ended there in the window")

    def _learned(self, tenant_id: str) -> Mapping[str, int]:
        """What a tenant's router expects of models, at most NAMES_S old.

        INVARIANT: read in the name of the tenant.
        """
        at_s, known = self._qualities.get(tenant_id, (-NAMES_S, {}))
        if self._now_s() - at_s >= NAMES_S:
            try:
                with self._store.tenant(tenant_id) as conn:
                    known = router.by_model(learned.current(conn, tenant_id))
            except (InterlockError, psycopg.Error):
                pass
            self._qualities = {t: q for t, q in self._qualities.items() if t in self._wanted}
            self._qualities[tenant_id] = (self._now_s(), known)
        return known

    def _named(self, ids: set[str]) -> Mapping[str, str]:
        unknown = ids - self._names.keys()
        if unknown:
            try:
                with self._store.platform() as conn:
                    names = base.Names(conn)
                    self._names.update((each, names.of(each)) for each in unknown)
            except (InterlockError, psycopg.Error):
                return {each: self._names.get(each, each) for each in ids}
        return self._names

    def _now_s(self) -> float:
        return self._tools.clock.mono_ns() / 1e9


class _Admitted(msgspec.Struct):
    at: int


_at = msgspec.json.Decoder(_Admitted).decode
