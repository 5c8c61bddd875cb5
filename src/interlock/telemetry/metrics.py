"""Every metric of a node, in one class, and how a process publishes its share of them.

A process writes its counts to `<home>/node/run/metrics-<slot>.bin` every `metrics_interval_ms`, by atomic rename.
A worker that starts in a slot takes over the counters and histograms it finds there, so that a sum over the node
never falls when a worker is replaced. A `kill -9` loses at most one interval of counts; the record log, not these
numbers, is what calls are accounted by.

Labels are names that an administrator chose (source, model) or words of a fixed list. There is no tenant, key or
principal label. A family that reaches `metrics_series_max` series counts the rest under the label value "other".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from interlock.settings import Settings
from interlock.telemetry.instruments import (
    DUMP_FORMAT,
    LATENCY_BOUNDS_US,
    Counter,
    Dump,
    Family,
    Gauge,
    Histogram,
    Labels,
    decode_dump,
    encode_dump,
)
from interlock.types.clock import Clock

SECONDS = 1_000_000
"""Scale of families that are kept in microseconds and shown in seconds."""


def metrics_file(folder: Path, slot: str) -> Path:
    """Where the process in `slot` ("0", "1", ... for workers, "node" for the node process) publishes its counts."""
    return folder / f"metrics-{slot}.bin"


class Metrics:
    """The instruments of one process. Worker and node process make one each; what one never touches is not shown.

    `folder` None: nothing is published or restored (tests, the catalogue for the documentation).
    """

    def __init__(self, folder: Path | None, slot: str, settings: Settings, clock: Clock) -> None:
        self.families: dict[str, Family] = {}
        self._folder = folder
        self._slot = slot
        self._series_max = settings.metrics_series_max
        self._clock = clock
        self._before_publish: list[Callable[[Metrics], None]] = []
        self._counters: list[Counter] = []
        self._gauges: list[Gauge] = []
        self._histograms: list[Histogram] = []
        self._declare_calls()
        self._declare_trials()
        self._declare_placement()
        self._declare_responses()
        self._declare_log()
        self._declare_snapshot()
        self._declare_sources()
        self._declare_process()
        if folder is not None:
            self._restore(metrics_file(folder, slot))

    # -- the catalogue

    def _declare_calls(self) -> None:
        self.requests = self._counter(
            "interlock_requests_total",
            "Calls that ended, by how: completed, failed, cut, disconnected, refused or unauthenticated.",
            ("operation", "outcome"),
        )
        self.request_seconds = self._histogram(
            "interlock_request_seconds", "From the end of the request's head to the end of its answer.", ("operation",)
        )
        self.first_byte_seconds = self._histogram(
            "interlock_first_byte_seconds",
            "From sending a call to its source to the first event (or the body) of the answer.",
            ("source", "model"),
        )
        self.tokens = self._counter(
            "interlock_tokens_total",
            "Tokens of ended calls and of steps of cascades, by kind: prompt, cached (a part of prompt) or completion.",
            ("source", "model", "kind"),
        )
        self.cost = self._counter(
            "interlock_cost_nusd_total", "Cost of ended calls in nano-USD, as their records have it.",
            ("source", "model"),
        )  # fmt: skip
        self.energy = self._counter(
            "interlock_energy_uj_total", "Estimated energy of ended calls in microjoules, as their records have it.",
            ("source", "model"),
        )  # fmt: skip
        self.energy_metered = self._counter(
            "interlock_energy_metered_uj_total",
            "Energy that meters of sources counted, in microjoules, by share: calls or unallocated.",
            ("source", "share"),
        )
        self.attempts = self._counter(
            "interlock_attempts_total", "Tries at a source, by how they ended: ok, or an error code.",
            ("source", "outcome"),
        )  # fmt: skip
        self.stream_events = self._counter(
            "interlock_stream_events_total", "Streamed events forwarded to callers.", ("source",)
        )
        self.overflows = self._counter(
            "interlock_overflows_total", "Calls that went to this source because a better one was saturated.",
            ("source",),
        )  # fmt: skip
        self.learned = self._counter("interlock_route_learned_total", "Ended calls decided by what was learned.")
        self.tried = self._counter(
            "interlock_route_tried_total", "Ended calls that went to another model than the best, to learn about it."
        )
        self._declare_refusals()
        self._declare_queue()

    def _declare_refusals(self) -> None:
        self.denials = self._counter(
            "interlock_denials_total", "Calls that were not made, by the error code given to the caller.", ("reason",)
        )
        self.limit_hits = self._counter(
            "interlock_limit_hits_total",
            "Calls refused by a limit: of a key, principal or team; of requests, tokens or concurrency.",
            ("level", "limit"),
        )
        self.budget_refusals = self._counter(
            "interlock_budget_refusals_total", "Calls refused by a budget, by the error code given.", ("reason",)
        )
        self.cold_waits = self._counter(
            "interlock_cold_start_waits_total",
            "Calls that waited for an engine that was starting, by how that ended: resumed, refused or gone.",
            ("outcome",),
        )
        self.early_heads = self._counter(
            "interlock_early_heads_total",
            "Streams kept open before their first event, by what they waited for then: seat, engine or answer.",
            ("waits_for",),
        )
        self.policy_trials = self._counter(
            "interlock_policy_trials_total",
            "Calls that policies which only report were evaluated for, by what they would have made of them.",
            ("would",),
        )
        self.budget_waits = self._counter("interlock_budget_waits_total", "Calls that waited for a share of a budget.")

    def _declare_queue(self) -> None:
        self.queue_waiting = self._gauge(
            "interlock_queue_waiting", "Calls that wait for a seat, by class.", ("workload",)
        )
        self.queue_waits = self._counter(
            "interlock_queue_waits_total",
            "Waits for a seat that ended, by how: seated, overflowed, timed_out, displaced or gone.",
            ("workload", "outcome"),
        )
        self.queue_wait_seconds = self._histogram(
            "interlock_queue_wait_seconds", "How long calls waited for a seat.", ("workload",)
        )
        self.inflight = self._gauge("interlock_inflight", "Calls in progress.")
        self.connections = self._gauge("interlock_connections", "Open client connections.")

    def _declare_trials(self) -> None:
        self.canary_attempts = self._counter(
            "interlock_canary_attempts_total",
            "Attempts of aliases with a running canary: of the canary or beside it, answered, failed or late.",
            ("arm", "result"),
        )
        self.canary_rollbacks = self._counter(
            "interlock_canary_rollbacks_total", "Canaries that this node took back, by the condition that was broken.",
            ("reason",),
        )  # fmt: skip
        self.cascade_steps = self._counter(
            "interlock_cascade_steps_total",
            "Steps of cascades that are over: passed, not_passed, unchecked, or time.",
            ("step", "result"),
        )
        self.shadow_calls = self._counter(
            "interlock_shadow_calls_total", "Calls to shadows of aliases that ended, by how.", ("outcome",)
        )
        self.shadows_dropped = self._counter(
            "interlock_shadows_dropped_total", "Calls drawn for a shadow that were not sent to it, by why.", ("reason",)
        )
        self.judge_calls = self._counter(
            "interlock_judge_calls_total",
            "What was asked of judges (score, control, preference) and challengers (challenger), by how that ended.",
            ("kind", "outcome"),
        )
        self.judge_dropped = self._counter(
            "interlock_judge_dropped_total", "What was drawn to be judged or challenged and was not, by why.",
            ("reason",),
        )  # fmt: skip
        self.judge_unheeded = self._counter(
            "interlock_judge_unheeded_total",
            "Verdicts that counted for nothing, as their judge was found to agree with nobody; by its model.",
            ("model",),
        )

    def _declare_placement(self) -> None:
        self.placements = self._counter(
            "interlock_placements_total",
            "Calls placed among replicas of a model: at the home of their conversation (`home`), or `away` from it.",
            ("place",),
        )

        self.slo_calls = self._counter(
            "interlock_slo_calls_total",
            "Calls with objectives that ended, by what was asked (`ttft`, `latency`, `cost`) and what came of it "
            "(`met`, `missed`, `unknown`).",
            ("what", "outcome"),
        )

    def _declare_responses(self) -> None:
        self.responses = self._counter(
            "interlock_responses_total",
            "Stored responses asked for: what was done (`recall`, `keep`, `read`, `delete`), and what came of it.",
            ("operation", "result"),
        )
        self.feedback = self._counter(
            "interlock_feedback_total",
            "Feedback on answers: its kind (`thumb`, `score`, `corrected`; `none` where it was not read), and what came"
            " of it (`linked`, `accepted`, `repeated`, or the code of the refusal).",
            ("kind", "outcome"),
        )

    def _declare_log(self) -> None:
        self.log_records = self._counter("interlock_log_records_total", "Records appended to the record log.")
        self.log_bytes = self._counter("interlock_log_bytes_total", "Bytes written to the record log.")
        self.log_fsyncs = self._counter("interlock_log_fsyncs_total", "Group commits (fdatasync) of the record log.")
        self.log_fsync_seconds = self._counter(
            "interlock_log_fsync_seconds_total", "Time spent in group commits (fdatasync).", scale=SECONDS
        )
        self.log_interrupted = self._counter(
            "interlock_log_interrupted_total", "Calls found interrupted when a dead worker's log was recovered."
        )
        self.log_pending_bytes = self._gauge("interlock_log_pending_bytes", "Record bytes that wait for the disk.")
        self.ledger_shipped = self._counter(
            "interlock_ledger_shipped_records_total", "Records of the log that the shipper has brought to the database."
        )
        self.ledger_failing = self._gauge(
            "interlock_ledger_shipper_failing", "1 while records wait in the log because they cannot be shipped."
        )
        self.log_refusing = self._gauge(
            "interlock_log_refusing", "Workers that refuse calls because their record log can take no more."
        )

    def _declare_snapshot(self) -> None:
        self.snapshot_version = self._gauge(
            "interlock_snapshot_version", "Oldest snapshot version that a process of this node runs on.", merge="min"
        )
        self.snapshot_age_seconds = self._gauge(
            "interlock_snapshot_age_seconds",
            "Time since the snapshot was last confirmed to be the newest.",
            merge="max",
            scale=SECONDS,
        )
        self.snapshot_rejected = self._counter(
            "interlock_snapshot_rejected_total", "Snapshots that could not be taken over; the one before was kept."
        )

    def _declare_sources(self) -> None:
        one = ("source",)
        self.source_up = self._gauge("interlock_source_up", "1 while probes reach the source, else 0.", one, "max")
        self.source_saturated = self._gauge(
            "interlock_source_saturated", "1 while the source's queue is above its threshold.", one, "max"
        )
        self.source_waiting = self._gauge(
            "interlock_source_waiting", "Requests that wait at the engine; -1: unknown.", one, "max"
        )
        self.source_running = self._gauge(
            "interlock_source_running", "Requests that run at the engine; -1: unknown.", one, "max"
        )
        self.source_models_loaded = self._gauge(
            "interlock_source_models_loaded", "Models in an Ollama server's memory.", one, "max"
        )
        self.source_kv_ratio = self._gauge(
            "interlock_source_kv_ratio", "Share of the engine's KV cache in use.", one, "max", 1000
        )
        self.source_inflight = self._gauge("interlock_source_inflight", "This node's calls at the source.", one, "max")
        self.source_not_taken_up = self._gauge(
            "interlock_source_not_taken_up",
            "Of these, those that it has had for half a second and does not count as waiting or running.",
            one,
            "max",
        )
        self.source_prefix_tokens = self._gauge(
            "interlock_source_prefix_tokens",
            "Prompt tokens looked up in the engine's prefix cache since it started, by kind: queried, hit.",
            ("source", "kind"),
            "max",
        )
        self.source_breaker = self._gauge(
            "interlock_source_breaker", "Circuit breaker: 0 closed, 1 half-open, 2 open.", one, "max"
        )
        self.source_engine = self._gauge(
            "interlock_source_engine", "1 for the state that a managed engine is in.", ("source", "state"), "max"
        )
        self.hour_price = self._gauge(
            "interlock_hour_price_nusd", "Declared price of an hour of the source in nano-USD.", one, "max"
        )
        self.source_probes = self._counter(
            "interlock_source_probes_total",
            "Health and load readings, by outcome: ok or failed.",
            ("source", "outcome"),
        )

    def _declare_process(self) -> None:
        self.workers = self._gauge("interlock_workers", "Worker processes that are ready.")
        self.worker_restarts = self._counter("interlock_worker_restarts_total", "Workers that were started again.")
        self.jwks_fetches = self._counter(
            "interlock_jwks_fetches_total", "Fetches of issuers' key sets, by outcome: ok or failed.", ("outcome",)
        )
        self.loop_lag_seconds = self._gauge(
            "interlock_loop_lag_seconds", "Longest delay of a worker's tick since the last publication.", (), "max",
            SECONDS,
        )  # fmt: skip
        self.resident_bytes = self._gauge("interlock_resident_bytes", "Memory of this process kind.", ("process",))
        self.cpu_seconds = self._counter(
            "interlock_cpu_seconds_total", "CPU time of this process kind: worker or node.", ("process",), scale=SECONDS
        )
        self.spans = self._counter(
            "interlock_spans_total", "Spans, by outcome: sent, dropped (queue full) or failed.", ("outcome",)
        )
        self.log_lines_dropped = self._counter(
            "interlock_log_lines_dropped_total", "Structured log lines left out by the rate limit of their event."
        )
        self.series_folded = self._counter(
            "interlock_metrics_series_folded_total", "Counts that went under \"other\" because a family was full.",
            ("family",),
        )  # fmt: skip

    # -- publication

    def before_publish(self, fill: Callable[[Metrics], None]) -> None:
        """Have `fill` called before each publication: gauges and followed totals are read there, not per request."""
        self._before_publish.append(fill)

    def publish(self) -> None:
        """Write this process's counts for the node. Raises OSError when the file cannot be written."""
        for fill in self._before_publish:
            fill(self)
        if self._folder is None:
            return
        file = metrics_file(self._folder, self._slot)
        new = file.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as out:
                out.write(encode_dump(self.dump()))
            new.replace(file)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def dump(self) -> Dump:
        """All counts of this process as they are now."""
        return Dump(
            DUMP_FORMAT,
            self._slot,
            os.getpid(),
            self._clock.mono_ns(),
            {c.family.name: list(c.cells.items()) for c in self._counters if c.cells},
            {g.family.name: list(g.cells.items()) for g in self._gauges if g.cells},
            {h.family.name: (h.bounds, list(h.cells.items())) for h in self._histograms if h.cells},
        )

    def _restore(self, file: Path) -> None:
        """Take over counters and histograms of the slot's last process. What cannot be read counts from zero:
        Prometheus understands a counter that starts again."""
        try:
            found = decode_dump(file.read_bytes())
        except (OSError, msgspec.DecodeError):
            return
        if found.format != DUMP_FORMAT:
            return
        for counter in self._counters:
            wanted = len(counter.family.labels)
            for labels, value in found.counters.get(counter.family.name, ()):
                if len(labels) == wanted:
                    counter.cells[labels] = value
        for histogram in self._histograms:
            bounds, series = found.histograms.get(histogram.family.name, ((), []))
            if bounds == histogram.bounds:
                size, wanted = len(bounds) + 2, len(histogram.family.labels)
                histogram.cells.update((k, v) for k, v in series if len(k) == wanted and len(v) == size)

    # -- declaring

    def _counter(self, name: str, text: str, labels: Labels = (), scale: int = 1) -> Counter:
        counter = Counter(self._family(name, text, labels, "counter", "sum", scale), self._series_max, self._fold)
        self._counters.append(counter)
        return counter

    def _gauge(self, name: str, text: str, labels: Labels = (), merge: str = "sum", scale: int = 1) -> Gauge:
        gauge = Gauge(self._family(name, text, labels, "gauge", merge, scale), self._series_max, self._fold)
        self._gauges.append(gauge)
        return gauge

    def _histogram(
        self, name: str, text: str, labels: Labels, bounds: tuple[int, ...] = LATENCY_BOUNDS_US
    ) -> Histogram:
        family = self._family(name, text, labels, "histogram", "sum", SECONDS, bounds)
        histogram = Histogram(family, self._series_max, self._fold)
        self._histograms.append(histogram)
        return histogram

    def _family(
        self, name: str, text: str, labels: Labels, kind: str, merge: str, scale: int, bounds: tuple[int, ...] = ()
    ) -> Family:
        if name in self.families:
            raise ValueError(f"metric family {name} is declared twice")
        family = self.families[name] = Family(name, text, labels, kind, merge, scale, bounds)
        return family

    def _fold(self, name: str) -> None:
        cells = self.series_folded.cells
        cells[(name,)] = cells.get((name,), 0) + 1  # not `add`: a full family of families would fold itself


def fill_process(metrics: Metrics, process: str) -> None:
    """Bring this process's memory and CPU time into `metrics`. `process`: "worker" or "node". For `before_publish`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    metrics.resident_bytes.set((process,), pages * os.sysconf("SC_PAGE_SIZE"))
    times = os.times()
    metrics.cpu_seconds.follow((process,), int((times.user + times.system) * SECONDS))
