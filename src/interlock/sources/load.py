"""How busy sources are: engines' Prometheus metrics read every `load_interval_ms` by the node, and their health.

A reading is a fact with an age: what is not known is -1, never 0, and the board turns a reading older than
`load_age_ms_max` into unknown. Saturation has hysteresis: above `waiting_max` a source is saturated until its queue is
at or below `waiting_resume`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.credentials import CredentialStore
from interlock.sources.fetch import Answer, fetch
from interlock.sources.requests import build_get
from interlock.sources.transport import Pool, target_of
from interlock.types.clock import Clock
from interlock.types.source import Source, SourceKind, SourceLimits

log = logging.getLogger(__name__)

TICK_S = 0.1
HEALTH_EVERY = 4
"""An engine whose metrics answer is asked for its health only every this many readings."""
_BREAKER_LEVELS = {"closed": 0, "cooling": 0, "half_open": 1, "open": 2}


class Load(NamedTuple):
    """What an engine said of itself; -1: it did not say. `prefix_*` count tokens since the engine started."""

    waiting: int = -1
    running: int = -1
    kv_permille: int = -1
    prefix_queries: int = -1
    prefix_hits: int = -1


_LABELS = rb'(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?'
_LINES = {
    kind: re.compile(rb"^(" + b"|".join(names) + rb")" + _LABELS + rb"[ \t]+([^\s]+)", re.MULTILINE)
    for kind, names in {
        SourceKind.vllm: (
            rb"vllm:num_requests_waiting",
            rb"vllm:num_requests_running",
            rb"vllm:(?:kv|gpu)_cache_usage_perc",
            rb"vllm:(?:gpu_)?prefix_cache_queries(?:_total)?",
            rb"vllm:(?:gpu_)?prefix_cache_hits(?:_total)?",
        ),
        SourceKind.llamacpp: (
            rb"llamacpp:requests_deferred",
            rb"llamacpp:requests_processing",
            rb"llamacpp:kv_cache_usage_ratio",
        ),
    }.items()
}


def parse_metrics(kind: SourceKind, text: bytes) -> Load:
    """The load in a metrics page (Prometheus text format). Engines of one server (vLLM's label `engine`) are added up;
    of the KV cache the fullest counts. Values that are not numbers are unknown."""
    pattern = _LINES.get(kind)
    if pattern is None:
        return Load()
    sums: dict[str, float] = {}
    for found in pattern.finditer(text):
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
    if name.endswith((b"_waiting", b"_deferred")):
        return "waiting"
    if name.endswith((b"_running", b"_processing")):
        return "running"
    if b"cache_usage" in name:
        return "kv"
    return "queries" if b"queries" in name else "hits"


def _whole(value: float | None, scale: int = 1) -> int:
    return -1 if value is None else min(round(value * scale), 1 << 40)


def saturated_now(before: bool, waiting: int, limits: SourceLimits) -> bool:
    """The next state of the hysteresis. An unknown queue changes nothing: the reading's age decides then."""
    if waiting < 0:
        return before
    if before:
        return waiting > min(limits.waiting_resume, limits.waiting_max)
    return waiting > limits.waiting_max


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
    def source_inflight(self) -> _Series: ...
    @property
    def source_breaker(self) -> _Series: ...
    @property
    def source_probes(self) -> _Count: ...


class _Watch:
    """One source being watched: its pool, what was last read, whether it is up."""

    def __init__(self, source: Source, pool: Pool, row: int) -> None:
        self.source = source
        self.pool = pool
        self.row = row
        self.load = Load()
        self.read_at_ns = 0
        self.failures = 0
        self.readings = 0
        self.healthy = True
        self.saturated = False
        self.told_no_metrics = False
        self.task: asyncio.Task[None] | None = None


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
        self._changed = False
        self._report_at = 0.0

    def update(self, sources: Sequence[Source]) -> None:
        """Watch these sources and no others."""
        # models do not matter here: a new model must not interrupt the watching
        self._wanted = {s.id: msgspec.structs.replace(s, models=(), engine="", engine_version="") for s in sources}
        self._changed = True

    async def run(self) -> None:
        """Until cancelled: a task per source, and a tick for the pools' time-outs and the credentials."""
        try:
            while True:
                if self._changed:
                    self._changed = False
                    await self._reconcile()
                now = self._clock.mono_ns() / 1e9
                self._credentials.check(now)
                for watch in self._watches.values():
                    watch.pool.sweep(now)
                    if watch.task is not None and watch.task.done():
                        self._revive(watch)
                if now >= self._report_at:
                    self._report_at = now + 1
                    self._report()
                await asyncio.sleep(TICK_S)
        finally:
            self._wanted = {}
            await self._reconcile()

    async def _reconcile(self) -> None:
        for watch in [w for w in self._watches.values() if self._wanted.get(w.source.id) != w.source]:
            del self._watches[watch.source.id]
            if watch.task is not None:
                watch.task.cancel()
                await asyncio.gather(watch.task, return_exceptions=True)
            await watch.pool.close()
        loop = asyncio.get_running_loop()
        for source in [s for s in self._wanted.values() if s.id not in self._watches]:
            try:
                target = target_of(source, self._credentials)
                row = self._board.row(source.id)
            except InterlockError as e:
                log.warning("source %s cannot be watched: %s", source.name, e.message)
                continue
            watch = self._watches[source.id] = _Watch(source, Pool(target, self._settings, loop), row)
            if source.kind in _LINES:
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
        while True:
            await self._read(watch)
            await asyncio.sleep(interval_s)

    async def _read(self, watch: _Watch) -> None:
        entered = self._board.entered(watch.row)
        asked_ns = self._clock.mono_ns()
        problem = ""
        try:
            answer = await self._ask(watch, "/metrics")
            if answer.status == 200:
                watch.load, watch.read_at_ns = parse_metrics(watch.source.kind, answer.body), asked_ns
                watch.saturated = saturated_now(watch.saturated, watch.load.waiting, watch.source.limits)
            elif not watch.told_no_metrics:
                watch.told_no_metrics = True
                log.warning(
                    "source %s has no metrics (status %d): its load is unknown", watch.source.name, answer.status
                )
            if answer.status != 200 or watch.readings % HEALTH_EVERY == 0 or watch.failures:
                health = await self._ask(watch, "/health")
                problem = "" if health.status < 500 else f"says it is not healthy (status {health.status})"
        except InterlockError as e:
            problem = e.message
        watch.readings += 1
        self._judge(watch, problem)
        self._publish(watch, entered)

    async def _ask(self, watch: _Watch, path: str) -> Answer:
        request = build_get(watch.source, path, self._credentials.header(watch.source), api=False)
        settings = self._settings
        timeout_s = settings.probe_timeout_ms / 1000
        return await fetch(watch.pool, request, timeout_s=timeout_s, bytes_max=settings.probe_bytes_max)

    def _judge(self, watch: _Watch, problem: str) -> None:
        if self._metrics is not None:
            self._metrics.source_probes.add((watch.source.name, "failed" if problem else "ok"))
        if not problem:
            if not watch.healthy:
                log.info("source %s is up again", watch.source.name)
            watch.failures, watch.healthy = 0, True
            return
        watch.failures += 1
        if watch.healthy and watch.failures >= self._settings.health_failures_max:
            watch.healthy = False
            log.warning("source %s is down: %s", watch.source.name, problem)

    def _publish(self, watch: _Watch, entered: int | None = None) -> None:
        load = watch.load
        self._board.publish(
            watch.row,
            waiting=load.waiting,
            running=load.running,
            kv_permille=load.kv_permille,
            healthy=watch.healthy,
            saturated=watch.saturated,
            read_at_ns=watch.read_at_ns,
            entered=entered,
        )

    def _report(self) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        now_ns = self._clock.mono_ns()
        board = self._board
        values: list[tuple[_Series, Callable[[_Watch], int]]] = [
            (metrics.source_up, lambda w: int(w.healthy)),
            (metrics.source_saturated, lambda w: int(board.reading(w.row, now_ns).saturated)),
            (metrics.source_waiting, lambda w: board.reading(w.row, now_ns).waiting),
            (metrics.source_running, lambda w: board.reading(w.row, now_ns).running),
            (metrics.source_kv_ratio, lambda w: board.reading(w.row, now_ns).kv_permille),
            (metrics.source_inflight, lambda w: board.inflight(w.row)),
            (metrics.source_breaker, lambda w: _BREAKER_LEVELS[board.breaker_state(w.row, now_ns)]),
        ]
        for series, value in values:
            series.clear()  # so that a source that was removed has no series any more
            for watch in self._watches.values():
                number = value(watch)
                if series is not metrics.source_kv_ratio or number >= 0:
                    series.set((watch.source.name,), number)
