"""How busy sources are: engines' Prometheus metrics read every `load_interval_ms` by the node, and their health.

A reading is a fact with an age: what is not known is -1, never 0, and the board turns a reading older than
`load_age_ms_max` into unknown. Saturation has hysteresis: above `waiting_max` a source is saturated until its queue is
at or below `waiting_resume`.

An engine tells its figures once a step, and a step may take seconds. Calls of ours that it has had for a while and does
not count wait all the same: they are no part of its figures (`LoadReading.inflight_since`), and saturate it.

Health is what `/health` says, and load is what `/metrics` says: a source whose metrics cannot be read is up, with an
unknown load. Of an Ollama server it is `/api/version` and `/api/ps`, which says what is loaded and not how busy it is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.credentials import CredentialStore
from interlock.sources.fetch import Answer, fetch
from interlock.sources.requests import build_get
from interlock.sources.stay import Stay
from interlock.sources.transport import Pool, target_of
from interlock.types.clock import Clock
from interlock.types.source import EngineState, Source, SourceKind, SourceLimits, SourceState, loaded_bit

log = logging.getLogger(__name__)

TICK_S = 0.1
REPORT_S = 1.0
RETRY_S = 5.0
"""How soon a source that could not be watched is tried again."""
HEALTH_EVERY = 4
"""An engine whose metrics answer is asked for its health only every this many readings."""
SAMPLES_MAX = 4096
"""Samples read from one metrics page: five a data-parallel engine."""
LOADED_MAX = 1024
"""Models read from one page of what an Ollama server has in memory."""
PHASES = 8
"""Sources are read in this many turns of an interval, not all at one instant."""
TAKEN_UP_NS = 500_000_000
"""An engine that does not count a call for so long has not taken it up; before that the call may be on its way."""
_BREAKER_LEVELS = {"closed": 0, "cooling": 0, "half_open": 1, "open": 2}


class Load(NamedTuple):
    """What an engine said of itself; -1: it did not say. `prefix_*` count tokens since the engine started."""

    waiting: int = -1
    running: int = -1
    kv_permille: int = -1
    prefix_queries: int = -1
    prefix_hits: int = -1
    loaded: int = -1
    """Models in memory (`LoadReading.loaded`)."""


_SAMPLE = rb'(?:\{(?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+"){0,128}+\})?[ \t]++([^\s]++)'
"""Labels (at most 64) and value of a sample. Possessive, and never past its line: the time a page takes is in
proportion to its size, whatever is in it."""
_SAMPLES = {
    SourceKind.vllm: re.compile(
        rb"\nvllm:(num_requests_waiting|num_requests_running|(?:kv|gpu)_cache_usage_perc"
        rb"|(?:gpu_)?prefix_cache_queries(?:_total)?|(?:gpu_)?prefix_cache_hits(?:_total)?)" + _SAMPLE
    ),
    SourceKind.llamacpp: re.compile(
        rb"\nllamacpp:(requests_deferred|requests_processing|kv_cache_usage_ratio)" + _SAMPLE
    ),
}


_PAGES = {
    SourceKind.vllm: ("/health", "/metrics"),
    SourceKind.llamacpp: ("/health", "/metrics"),
    SourceKind.ollama: ("/version", "/ps"),
}
"""Where each kind of source that is watched tells its health and its load. Ollama's are below its API prefix."""


def _named(page: str) -> str:
    return "metrics page" if page == "/metrics" else f"page {page}"


def parse_loaded(body: bytes, now_s: float) -> Load:
    """Which models an Ollama server has in memory (`/api/ps`), but for those that are about to leave it. It does not
    tell how many requests wait or run. An unknown load when it is no such page."""
    try:
        page = _ps.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Load()
    loaded = 0
    for entry in (page.models or ())[:LOADED_MAX]:
        if not _expired(entry.expires_at, now_s):
            loaded |= loaded_bit(entry.model or entry.name)
    return Load(loaded=loaded)


def _expired(expires_at: str, now_s: float) -> bool:
    """A time long past is how servers write one that is not set."""
    try:
        at_s = datetime.fromisoformat(expires_at).timestamp()
    except (ValueError, OverflowError):
        return False
    return 0 < at_s <= now_s


class _Loaded(msgspec.Struct):
    name: str = ""
    model: str = ""
    expires_at: str = ""


class _Ps(msgspec.Struct):
    models: list[_Loaded] | None


_ps = msgspec.json.Decoder(_Ps)


def parse_metrics(kind: SourceKind, text: bytes) -> Load:
    """The load in a metrics page (Prometheus text format). Engines of one server (vLLM's label `engine`) are added up;
    of the KV cache the fullest counts. Values that are not numbers are unknown."""
    pattern = _SAMPLES.get(kind)
    if pattern is None:
        return Load()
    sums: dict[str, float] = {}
    for found in itertools.islice(pattern.finditer(b"\n" + text), SAMPLES_MAX):
        try:
            value = float(found[2])
        except ValueError:
            continue
        if not math.isfinite(value) or value < 0:
            continue
        field = _field_of(found[1])
        sums[field] = max(sums.get(field, 0), value) if field == "kv" else sums.get(field, 0) + value
    return Load(
        waiting=_whole(sums.get("waiting")),
        running=_whole(sums.get("running")),
        kv_permille=min(_whole(sums.get("kv"), 1000), 1000),
        prefix_queries=_whole(sums.get("queries")),
        prefix_hits=_whole(sums.get("hits")),
    )


def _field_of(name: bytes) -> str:
    if name.endswith((b"waiting", b"deferred")):
        return "waiting"
    if name.endswith((b"running", b"processing")):
        return "running"
    if b"cache_usage" in name:
        return "kv"
    return "queries" if b"queries" in name else "hits"


def _whole(value: float | None, scale: int = 1) -> int:
    return -1 if value is None else min(round(value * scale), 1 << 40)


class Marks:
    """How many calls had entered a source some time ago: two looks at the count, TAKEN_UP_NS apart or more."""

    def __init__(self) -> None:
        self._older = self._newer = (0, 0)

    def settled(self, now_ns: int, entered: int) -> int:
        """How many had entered TAKEN_UP_NS before `now_ns`, or earlier; `entered`: how many by now."""
        if now_ns - self._newer[0] >= TAKEN_UP_NS:
            self._older, self._newer = self._newer, (now_ns, entered)
        return self._older[1]


def not_taken_up(load: Load, inflight: int, lately: int) -> int:
    """How many of our calls an engine has had for TAKEN_UP_NS and counts neither as waiting nor as running.

    `inflight`: our calls there; `lately`: those among all that were ever sent that came after TAKEN_UP_NS before it was
    asked, or more. A lower bound, for what others have there is in its figures too; 0 when it does not tell both.
    """
    if load.waiting < 0 or load.running < 0:
        return 0
    return max(0, inflight - lately - load.waiting - load.running)


def saturated_now(before: bool, waiting: int, limits: SourceLimits, apart: int = 0) -> bool:
    """The next state of the hysteresis. An unknown queue changes nothing: the reading's age decides then.

    `apart`: calls that wait before the engine's own queue (`not_taken_up`). They make a source saturated like others,
    but only the engine's queue is held to `waiting_resume`: a few readers that stopped reading are in flight for long.
    """
    if waiting < 0:
        return before
    if waiting + apart > limits.waiting_max:
        return True
    return before and waiting > limits.waiting_resume


class _Series(Protocol):
    def set(self, labels: tuple[str, ...], value: int, /) -> None: ...

    def clear(self) -> None: ...


class _Count(Protocol):
    def add(self, labels: tuple[str, ...], /) -> None: ...


class LoadMetrics(Protocol):
    """The instruments a watcher reports to (those of `interlock.telemetry.metrics`)."""

    @property
    def source_up(self) -> _Series: ...
    @property
    def source_saturated(self) -> _Series: ...
    @property
    def source_waiting(self) -> _Series: ...
    @property
    def source_running(self) -> _Series: ...
    @property
    def source_kv_ratio(self) -> _Series: ...
    @property
    def source_models_loaded(self) -> _Series: ...
    @property
    def source_inflight(self) -> _Series: ...
    @property
    def source_not_taken_up(self) -> _Series: ...
    @property
    def source_prefix_tokens(self) -> _Series: ...
    @property
    def source_breaker(self) -> _Series: ...
    @property
    def source_engine(self) -> _Series: ...
    @property
    def source_probes(self) -> _Count: ...


class _Watch:
    """One source being watched: its pool, what was last read, whether it is up."""

    def __init__(self, source: Source, pool: Pool, row: int, before: _Watch | None) -> None:
        self.source = source
        self.pool = pool
        self.row = row
        self.load = Load()
        self.read_at_ns = 0
        self.entered: int | None = None
        """How many of the calls that ever entered are in `load`."""
        self.apart = 0
        """Calls that are not (`not_taken_up`)."""
        self.marks = Marks()
        self.stay = Stay()
        self.stay_ms = -1
        self.queue_at_ns = 0
        """When its queue was last known."""
        self.readings = 0
        self.failures = 0
        self.healthy = True
        self.saturated = False
        self.told_no_load = False
        self.task: asyncio.Task[None] | None = None
        if before is not None and before.source.base_url == source.base_url and before.source.kind is source.kind:
            # its limits or labels changed, the engine is the same
            self.load, self.read_at_ns, self.queue_at_ns = before.load, before.read_at_ns, before.queue_at_ns
            self.entered, self.saturated, self.apart = before.entered, before.saturated, before.apart
            self.failures, self.healthy, self.marks = before.failures, before.healthy, before.marks
            self.stay, self.stay_ms = before.stay, before.stay_ms


class LoadWatcher:
    """Watches the sources of a node and publishes on the board. `update` names them; `run` works until cancelled."""

    def __init__(
        self,
        board: Board,
        settings: Settings,
        clock: Clock,
        *,
        metrics: LoadMetrics | None = None,
        credentials: CredentialStore | None = None,
    ) -> None:
        self._board = board
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._credentials = credentials or CredentialStore(settings)
        self._wanted: dict[str, Source] = {}
        self._watches: dict[str, _Watch] = {}
        self._told_unwatched: set[str] = set()
        self._engines: dict[str, str] = {}
        """States of managed engines, by source id."""
        self._reconcile_at = 0.0
        self._report_at = 0.0

    def update(self, sources: Sequence[Source]) -> None:
        """Watch these sources and no others."""
        # models do not matter here: a new model must not interrupt the watching
        plain = {"models": (), "engine": "", "engine_version": "", "engine_state": ""}
        self._wanted = {s.id: msgspec.structs.replace(s, **plain) for s in sources}
        engines = {s.id: s.engine_state for s in sources if s.engine_state}
        for source_id, state in engines.items():
            if state == EngineState.ready != self._engines.get(source_id, EngineState.ready):
                self._board.renew(self._board.row(source_id))
        self._engines = engines
        self._reconcile_at = 0.0

    def states(self) -> list[SourceState]:
        """What is known now of each source that is watched."""
        board, now_ns = self._board, self._clock.mono_ns()
        out = []
        for watch in self._watches.values():
            reading = board.reading(watch.row, now_ns)
            out.append(
                SourceState(
                    watch.source.id,
                    reading.inflight,
                    reading.waiting,
                    reading.running,
                    reading.kv_permille,
                    reading.healthy,
                    reading.saturated,
                    board.breaker_state(watch.row, now_ns),
                    board.contended(watch.row, now_ns),
                    watch.load.prefix_queries,
                    watch.load.prefix_hits,
                )
            )
        return out

    async def run(self) -> None:
        """Until cancelled: a task per source, and a tick for the pools' time-outs and the credentials.

        May be run again after it ended or failed: it goes on with the sources of the last `update`.
        """
        self._reconcile_at = 0.0
        try:
            while True:
                now = self._clock.mono_ns() / 1e9
                if now >= self._reconcile_at:
                    self._reconcile_at = math.inf
                    await self._reconcile(now)
                self._credentials.check(now)
                for watch in self._watches.values():
                    watch.pool.sweep(now)
                    if watch.task is not None and watch.task.done():
                        self._revive(watch)
                if now >= self._report_at:
                    self._report_at = now + REPORT_S
                    self._report()
                await asyncio.sleep(TICK_S)
        finally:
            await self._end(list(self._watches.values()))

    async def _reconcile(self, now: float) -> None:
        """Make what is watched what is wanted."""
        changed = [w for w in self._watches.values() if self._wanted.get(w.source.id) != w.source]
        before = {watch.source.id: watch for watch in changed}
        await self._end(changed)
        for source in [s for s in self._wanted.values() if s.id not in self._watches]:
            try:
                self._begin(source, before.get(source.id))
                self._told_unwatched.discard(source.id)
            except InterlockError as e:
                self._reconcile_at = min(self._reconcile_at, now + RETRY_S)
                if source.id not in self._told_unwatched:
                    self._told_unwatched.add(source.id)
                    log.warning("source %s cannot be watched: %s", source.name, e.message)
        self._told_unwatched &= self._wanted.keys()

    async def _end(self, watches: Sequence[_Watch]) -> None:
        tasks = [watch.task for watch in watches if watch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watch in watches:
            await watch.pool.close()
            self._watches.pop(watch.source.id, None)

    def _begin(self, source: Source, before: _Watch | None) -> None:
        loop = asyncio.get_running_loop()
        row = self._board.row(source.id)
        pool = Pool(target_of(source, self._credentials), self._settings, loop)
        watch = self._watches[source.id] = _Watch(source, pool, row, before)
        if source.kind in _PAGES:
            watch.task = loop.create_task(self._watch(watch))
        else:
            self._publish(watch)  # nothing to ask: the circuit breaker alone judges its health

    def _revive(self, watch: _Watch) -> None:
        # a defect in reading one engine must end neither its watching nor that of the others
        task = watch.task
        error = task.exception() if task is not None and not task.cancelled() else None
        log.error("watching source %s failed", watch.source.name, exc_info=error)
        watch.task = asyncio.get_running_loop().create_task(self._watch(watch, first_wait_s=1))

    async def _watch(self, watch: _Watch, first_wait_s: float = 0) -> None:
        interval_s = self._settings.load_interval_ms / 1000
        await asyncio.sleep(first_wait_s)
        await self._read(watch)
        await asyncio.sleep(interval_s * (watch.row % PHASES) / PHASES)
        while True:
            await self._read(watch)
            await asyncio.sleep(interval_s)

    async def _read(self, watch: _Watch) -> None:
        problem = ""
        health_due = watch.failures > 0 or watch.readings % HEALTH_EVERY == 0
        watch.readings += 1
        if health_due:
            problem = await self._read_health(watch)
        failed = bool(problem)
        if not problem:
            try:
                no_load = await self._read_load(watch)
            except InterlockError as e:
                no_load, failed = e.message, True
            if no_load and not health_due:
                problem = await self._read_health(watch)
            if not problem:
                self._tell_load(watch, no_load)
        self._judge(watch, problem)
        self._publish(watch)
        if self._metrics is not None:
            self._metrics.source_probes.add((watch.source.name, "failed" if failed or problem else "ok"))

    async def _read_health(self, watch: _Watch) -> str:
        """Why the source is not healthy, or "". An engine without the page is healthy as long as it answers."""
        try:
            answer = await self._ask(watch, _PAGES[watch.source.kind][0])
        except InterlockError as e:
            return e.message
        return "" if answer.status < 500 else f"it says that it is not healthy (status {answer.status})"

    async def _read_load(self, watch: _Watch) -> str:
        """Read the metrics page; why there is no load in it, or "". Raises UpstreamError when it cannot be read."""
        asked_ns, entered = self._clock.mono_ns(), self._board.entered(watch.row)
        settled = watch.marks.settled(asked_ns, entered)
        page = _PAGES[watch.source.kind][1]
        answer = await self._ask(watch, page)
        if answer.status != 200:
            return f"its {_named(page)} answers with status {answer.status}"
        if watch.source.kind is SourceKind.ollama:
            watch.load = parse_loaded(answer.body, self._clock.wall_ns() / 1e9)
            watch.read_at_ns = asked_ns if watch.load.loaded >= 0 else 0
            return "" if watch.load.loaded >= 0 else f"its {_named(page)} does not tell which models are loaded"
        load = parse_metrics(watch.source.kind, answer.body)
        if load.waiting < 0 and load.running < 0:
            return "its metrics page does not tell how many requests wait and run"
        # Of now, not of when it was asked: what has ended meanwhile may be missing in the figures for that reason.
        inflight, ever = self._board.calls(watch.row)
        watch.apart = not_taken_up(load, inflight, ever - settled)
        watch.stay_ms = watch.stay.look(asked_ns, inflight, ever)
        watch.load, watch.read_at_ns, watch.entered = load, asked_ns, entered - watch.apart
        if load.waiting >= 0:
            watch.queue_at_ns = asked_ns
        watch.saturated = saturated_now(watch.saturated, load.waiting, watch.source.limits, watch.apart)
        if asked_ns - watch.queue_at_ns > self._settings.load_age_ms_max * 1_000_000:
            watch.saturated = False
        return ""

    def _tell_load(self, watch: _Watch, no_load: str) -> None:
        if no_load and not watch.told_no_load:
            log.warning("the load of source %s is unknown: %s", watch.source.name, no_load)
        elif watch.told_no_load and not no_load:
            log.info("the load of source %s is known again", watch.source.name)
        watch.told_no_load = bool(no_load)

    async def _ask(self, watch: _Watch, path: str) -> Answer:
        below = watch.source.kind is SourceKind.ollama
        request = build_get(watch.source, path, self._credentials.header(watch.source), api=below)
        settings = self._settings
        timeout_s = settings.probe_timeout_ms / 1000
        return await fetch(watch.pool, request, timeout_s=timeout_s, bytes_max=settings.probe_bytes_max)

    def _judge(self, watch: _Watch, problem: str) -> None:
        if not problem:
            if not watch.healthy:
                log.info("source %s is up again", watch.source.name)
            watch.failures, watch.healthy = 0, True
            return
        watch.failures += 1
        if watch.healthy and watch.failures >= self._settings.health_failures_max:
            watch.healthy = False
            log.warning("source %s is down: %s", watch.source.name, problem)

    def _publish(self, watch: _Watch) -> None:
        load = watch.load
        self._board.publish(
            watch.row,
            waiting=load.waiting,
            running=load.running,
            kv_permille=load.kv_permille,
            healthy=watch.healthy,
            saturated=watch.saturated,
            read_at_ns=watch.read_at_ns,
            entered=watch.entered,
            loaded=load.loaded,
            stay_ms=watch.stay_ms,
            full=watch.saturated or (load.waiting > 0 and load.waiting + watch.apart > watch.source.limits.waiting_max),
        )

    def _report(self) -> None:
        """What is on the board, as metrics."""
        metrics, board, now_ns = self._metrics, self._board, self._clock.mono_ns()
        if metrics is None:
            return
        for series in (
            metrics.source_up,
            metrics.source_saturated,
            metrics.source_waiting,
            metrics.source_running,
            metrics.source_kv_ratio,
            metrics.source_models_loaded,
            metrics.source_inflight,
            metrics.source_not_taken_up,
            metrics.source_prefix_tokens,
            metrics.source_breaker,
            metrics.source_engine,
        ):
            series.clear()  # so that a source that was removed has no series any more
        for watch in self._watches.values():
            labels = (watch.source.name,)
            reading = board.reading(watch.row, now_ns)
            metrics.source_up.set(labels, int(reading.healthy))
            metrics.source_saturated.set(labels, int(reading.saturated))
            metrics.source_waiting.set(labels, reading.waiting)
            metrics.source_running.set(labels, reading.running)
            if reading.kv_permille >= 0:
                metrics.source_kv_ratio.set(labels, reading.kv_permille)
            if reading.loaded >= 0:
                metrics.source_models_loaded.set(labels, reading.loaded.bit_count())
            metrics.source_inflight.set(labels, reading.inflight)
            metrics.source_not_taken_up.set(labels, watch.apart if reading.waiting >= 0 else 0)
            for kind, tokens in (("queried", watch.load.prefix_queries), ("hit", watch.load.prefix_hits)):
                if tokens >= 0:
                    metrics.source_prefix_tokens.set((watch.source.name, kind), tokens)
            if watch.source.id in self._engines:
                metrics.source_engine.set((watch.source.name, self._engines[watch.source.id]), 1)
            metrics.source_breaker.set(labels, _BREAKER_LEVELS[board.breaker_state(watch.row, now_ns)])
