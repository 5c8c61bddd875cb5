"""What metrics say of a call that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.types.slo import NOT_KNOWN, VERDICTS, Slo, measured

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.run import Run
    from interlock.telemetry.metrics import Metrics
    from interlock.types.record import Outcome


def counted(run: Run, attempt: Attempt | None, outcome: Outcome, first_ns: int) -> None:
    """Count a call whose last try was `attempt`. `first_ns`: the monotonic clock at its first byte, 0: none came."""
    runtime, operation = run.runtime, run.call.operation
    tally = runtime.tally(operation, attempt.link.source.name, outcome.model) if attempt else None
    if attempt is None or tally is None:
        runtime.metrics.requests.add((operation, outcome.state))
        runtime.metrics.request_seconds.observe_us((operation,), outcome.total_us)
    else:
        first_us = (first_ns - attempt.sent_ns) // 1000 if first_ns else -1
        tally.count(outcome, first_us, attempt.relay.events if attempt.relay is not None else 0, run.steps)
        if first_us >= 0:
            runtime.observe_latency(attempt.offer.key, first_us)
        if not run.steps:
            runtime.paces.saw(attempt, outcome, first_us)
    if run.call.slo is not None:
        _objectives(run.call.slo, outcome, attempt, runtime.metrics)
    decided = run.call.route
    if decided is not None and decided.router_version:
        runtime.metrics.learned.add(())
        if decided.best:
            runtime.metrics.tried.add(())
    if runtime.on_finished is not None:
        runtime.on_finished(run, outcome)


def _objectives(slo: Slo, outcome: Outcome, attempt: Attempt | None, metrics: Metrics) -> None:
    unpriced = outcome.cost.price == "none" and (attempt is None or attempt.link.off_prem)
    cost = NOT_KNOWN if unpriced else outcome.cost.nusd
    found = measured(
        slo,
        completed=outcome.state == "completed",
        first_us=outcome.first_byte_us,
        total_us=outcome.total_us,
        cost_nusd=cost,
    )
    for what, verdict in found.items():
        metrics.slo_calls.add((what, VERDICTS[verdict]))
