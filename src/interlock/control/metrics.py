"""What an operator sees of the control process in Prometheus. Few series: no names of tenants, keys or people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

if TYPE_CHECKING:
    from interlock.control.alerts.shown import Alerts
    from interlock.control.web import Api

CONTENT_TYPE = CONTENT_TYPE_LATEST
_OPEN = ("/health", "/ready", "/metrics")


class ControlMetrics:
    """The control process's metric families."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "interlock_control_requests_total",
            "Admin requests by method and class of status.",
            ["method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "interlock_control_request_seconds",
            "Time that admin requests took.",
            registry=self._registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._version = Gauge(
            "interlock_control_snapshot_version", "Newest snapshot compiled here or seen.", registry=self._registry
        )
        self._failing = Gauge(
            "interlock_control_compiler_failing", "1 while the snapshot cannot be compiled.", registry=self._registry
        )
        self._compile = Gauge(
            "interlock_control_compile_seconds", "How long the last compilation took.", registry=self._registry
        )

        self._placed = Counter(
            "interlock_control_ledger_placed_total", "Entries given their place in the ledger.", registry=self._registry
        )
        self._ledger_failing = Gauge(
            "interlock_control_ledger_failing",
            "1 while shipped entries cannot be placed, or trees not be signed.",
            registry=self._registry,
        )
        self._placed_before = 0
        self._alerts = Counter(
            "interlock_control_budget_alerts_total", "Thresholds of budgets passed.", registry=self._registry
        )
        self._alerts_before = 0
        self._removed = Counter(
            "interlock_control_ledger_removed_total", "Contents that retention has removed.", registry=self._registry
        )
        self._retention_failing = Gauge(
            "interlock_control_ledger_retention_failing",
            "1 while retention cannot remove what is over.",
            registry=self._registry,
        )
        self._removed_before = 0
        self._pruned = Counter(
            "interlock_control_ledger_pruned_total", "Entries that retention has pruned.", registry=self._registry
        )
        self._pruned_before = 0
        self._canaries = Counter(
            "interlock_control_canaries_failed_total", "Canaries taken back everywhere.", registry=self._registry
        )
        self._canaries_before = 0
        self._streams = Gauge(
            "interlock_control_live_streams", "Live pages that this process streams to.", registry=self._registry
        )

        self._alert_metrics = AlertMetrics(self._registry)

    def install(self, app: FastAPI) -> None:
        """Count and time every request to the admin API."""

        @app.middleware("http")
        async def count(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
            if request.url.path in _OPEN:
                return await proceed(request)
            with self._seconds.time():
                response = await proceed(request)
            self._requests.labels(request.method, f"{response.status_code // 100}xx").inc()
            return response

    def text(self, api: Api) -> bytes:
        """The exposition of this moment."""
        last = api.compiler.last
        if last is not None:
            self._version.set(last.version)
            self._compile.set(last.took_us / 1e6)
        self._failing.set(1 if api.compiler.failure else 0)
        placed = api.sequencer.placed
        self._placed.inc(placed - self._placed_before)
        self._placed_before = placed
        alerts = api.sequencer.alerts
        self._alerts.inc(alerts - self._alerts_before)
        self._alerts_before = alerts
        self._ledger_failing.set(1 if api.sequencer.failing else 0)
        if api.retention is not None:
            removed = api.retention.removed
            self._removed.inc(removed - self._removed_before)
            self._removed_before = removed
            self._pruned.inc(api.retention.pruned - self._pruned_before)
            self._pruned_before = api.retention.pruned
            self._retention_failing.set(1 if api.retention.failing else 0)
        if api.canaries is not None:
            self._canaries.inc(api.canaries.taken_back - self._canaries_before)
            self._canaries_before = api.canaries.taken_back
        if api.live is not None:
            self._streams.set(api.live.streams)
        if api.alerts is not None:
            self._alert_metrics.take(api.alerts)
        return generate_latest(self._registry)


class AlertMetrics:
    """What alerts count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._firing = Gauge(
            "interlock_control_alerts_firing",
            "Things that alert rules fire for, at the last look.",
            ["severity"],
            registry=registry,
        )
        self._unevaluated = Gauge(
            "interlock_control_alerts_failing", "1 while alert rules cannot be evaluated.", registry=registry
        )
        self._told = Counter(
            "interlock_control_alert_deliveries_total",
            "Attempts at telling channels of alerts, by channel kind and outcome: delivered, retried, failed.",
            ["channel", "outcome"],
            registry=registry,
        )
        self._told_before: dict[tuple[str, str], int] = {}

    def take(self, alerts: Alerts) -> None:
        """The figures of this moment."""
        for severity in ("critical", "warning", "info"):
            self._firing.labels(severity).set(alerts.watch.firing.get(severity, 0))
        self._unevaluated.set(1 if alerts.watch.failing else 0)
        for (channel, outcome), count in list(alerts.sender.outcomes.items()):
            self._told.labels(channel, outcome).inc(count - self._told_before.get((channel, outcome), 0))
            self._told_before[channel, outcome] = count
