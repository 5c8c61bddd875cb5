"""What tracing is told of a finished call: figures taken from its record and its attempts, never content."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.sources.requests import split_url
from interlock.telemetry.tracing import AttemptFigures, CallFigures, Tracer

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.run import Run
    from interlock.types.record import Outcome

_SAMPLED = 1


def tell(tracer: Tracer) -> Callable[[Run, Outcome], None]:
    """The callback for `Runtime.on_finished`: queues the span of each ended call."""

    def finished(run: Run, outcome: Outcome) -> None:
        tracer.record(figures(run, outcome))

    return finished


def tried(run: Run, attempt: Attempt, end_ns: int, code: str, status: int) -> AttemptFigures:
    """The figures of one attempt that has ended. `end_ns`: monotonic nanoseconds."""
    source = attempt.link.source
    _, host, port, _ = split_url(source.base_url, "base_url")
    began = run.call.started_ns
    relay = attempt.relay
    first_us = (relay.first_ns - began) // 1000 if relay is not None and relay.first_ns else -1
    return AttemptFigures(
        source=source.name,
        model=attempt.offer.model.name,
        provider=source.kind.value,
        host=host,
        port=port,
        start_us=(attempt.sent_ns - began) // 1000,
        end_us=(end_ns - began) // 1000,
        first_byte_us=first_us,
        status=status,
        code=code,
    )


def figures(run: Run, outcome: Outcome) -> CallFigures:
    """The figures of a call that has ended, its last attempt included."""
    call = run.call
    attempts = list(run.tried)
    last = run.last_attempt
    if last is not None and len(attempts) <= last.number:
        attempts.append(tried(run, last, outcome.mono_ns, outcome.code, outcome.status))
    parent, flags = "", _SAMPLED
    traceparent = call.request.headers.get(b"traceparent")
    if traceparent is not None and call.trace_id:
        parent = traceparent[36:52].decode("latin-1")
        flags = int(traceparent[53:55], 16) if traceparent[53:55].isalnum() else _SAMPLED
    return CallFigures(
        request_id=call.id,
        operation=call.operation,
        asked=run.parsed.model,
        tenant_id=call.identity.tenant_id if call.identity is not None else "",
        start_wall_ns=call.wall_ns,
        total_us=outcome.total_us,
        status=outcome.status,
        state=outcome.state,
        stream=run.stream,
        usage=outcome.usage,
        attempts=tuple(attempts),
        served_model=outcome.served_model,
        finish_reasons=outcome.finish_reasons,
        code=outcome.code,
        max_tokens=run.parsed.max_tokens,
        trace_id=call.trace_id,
        parent_span_id=parent,
        sampled=bool(flags & _SAMPLED),
    )
