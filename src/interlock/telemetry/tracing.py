"""OpenTelemetry spans of finished calls, by the GenAI semantic conventions (1.37 and later names).

Nothing is traced while a call runs: when it has ended, its figures become one server span and a client span for each
attempt, which a thread sends to the collector in `otlp_endpoint`. The queue before that thread is bounded by
`otlp_queue_max`; what finds it full is dropped and counted. Spans hold names and figures, never payloads. Needs the
extra `otel`; without an endpoint nothing of it is imported, and nothing leaves the machine (P9).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from interlock.errors import ConfigError
from interlock.settings import Settings
from interlock.telemetry.metrics import Metrics
from interlock.types.usage import Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

BATCH_MAX = 256
FLUSH_S = 1.0
CLOSE_WAIT_S = 3.0
_SAMPLED = 1
OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""Our operation -> `gen_ai.operation.name`."""


class AttemptFigures(msgspec.Struct, frozen=True):
    """One try at a source. Times in microseconds since the call began. `code`: "" or the error's code.

    `first_byte_us` is -1 when nothing came. `provider`: the source's kind.
    """

    source: str
    model: str
    provider: str
    host: str
    port: int
    start_us: int
    end_us: int
    first_byte_us: int = -1
    status: int = 0
    code: str = ""


class CallFigures(msgspec.Struct, frozen=True):
    """What a span is made of. `trace_id` (32 hex digits) and `parent_span_id` (16) from `traceparent`, or empty.

    `span_id` (16 hex digits): the id already given to sources as their parent, or empty. `start_wall_ns`: Unix ns.
    """

    request_id: str
    operation: str
    asked: str
    tenant_id: str
    start_wall_ns: int
    total_us: int
    status: int
    state: str
    stream: bool
    usage: Usage
    attempts: tuple[AttemptFigures, ...] = ()
    served_model: str = ""
    finish_reasons: tuple[str, ...] = ()
    code: str = ""
    max_tokens: int = 0
    trace_id: str = ""
    parent_span_id: str = ""
    span_id: str = ""
    sampled: bool = True
    """The sampled flag of `traceparent`: a call that its caller does not sample gives no span."""


class Tracer:
    """Makes spans of finished calls and sends them. Make one with `open_tracer`; close it.

    `random`: gives so many random bytes (span ids). `record` costs about a microsecond: spans are built by the thread.
    """

    def __init__(
        self, exporter: SpanExporter, build: Callable[[CallFigures], list[ReadableSpan]], queue_max: int
    ) -> None:
        self._exporter = exporter
        self._build = build
        self._queue: deque[CallFigures] = deque()
        self._queue_max = queue_max
        self._wake = threading.Event()
        self._stop = False
        self.sent = self.dropped = self.failed = 0
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def record(self, call: CallFigures) -> None:
        """Queue a finished call, or count it as dropped when the queue is full."""
        if not call.sampled:
            return
        if len(self._queue) >= self._queue_max:
            self.dropped += 1
            return
        self._queue.append(call)

    def fill(self, metrics: Metrics) -> None:
        """Bring the counts into `metrics`; for `Metrics.before_publish`."""
        metrics.spans.follow(("sent",), self.sent)
        metrics.spans.follow(("dropped",), self.dropped)
        metrics.spans.follow(("failed",), self.failed)

    def close(self) -> None:
        """Send what is queued, for at most a few seconds, and stop."""
        self._stop = True
        self._wake.set()
        self._thread.join(CLOSE_WAIT_S)
        self._exporter.shutdown()

    def _run(self) -> None:
        while True:
            stop = self._stop
            while self._queue:
                self._send([self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))])
            if stop:
                return
            self._wake.wait(FLUSH_S)

    def _send(self, calls: Sequence[CallFigures]) -> None:
        spans = [span for call in calls for span in self._build(call)]
        try:
            done = self._exporter.export(spans).name == "SUCCESS"
        except Exception as e:  # noqa: BLE001 - whatever a collector's answer does to the exporter, calls go on
            logging.getLogger(__name__).warning("Spans could not be sent: %s", e)
            done = False
        if done:
            self.sent += len(spans)
        else:
            self.failed += len(spans)


def open_tracer(settings: Settings, version: str, node: str, random: Callable[[int], bytes]) -> Tracer | None:
    """The tracer that the settings ask for, or None. Raises ConfigError: extra missing, bad URL."""
    if not settings.otlp_endpoint:
        return None
    url = urlsplit(settings.otlp_endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigError("otlp_endpoint must be an http or https URL of a collector", param="otlp_endpoint")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "otlp_endpoint is set, but OpenTelemetry is not installed; install interlock[otel]", param="otlp_endpoint"
        ) from None
    endpoint = settings.otlp_endpoint if url.path.strip("/") else settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    return Tracer(OTLPSpanExporter(endpoint=endpoint), span_builder(version, node, random), settings.otlp_queue_max)


def span_builder(
    version: str, node: str, random: Callable[[int], bytes]
) -> Callable[[CallFigures], list[ReadableSpan]]:
    """The function that makes a call's spans: the server span first, then one client span for each attempt."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    resource = Resource({"service.name": "interlock", "service.version": version, "service.instance.id": node})
    scope = InstrumentationScope("interlock", version)

    def context(trace_id: int, span_id: int, remote: bool = False) -> SpanContext:
        return SpanContext(trace_id, span_id, remote, TraceFlags(_SAMPLED))

    def new_id(size: int) -> int:
        return int.from_bytes(random(size)) or 1

    def status(code: str) -> Status:
        return Status(StatusCode.ERROR, code) if code else Status(StatusCode.UNSET)

    def build(call: CallFigures) -> list[ReadableSpan]:
        trace_id = int(call.trace_id, 16) if call.trace_id else new_id(16)
        own = context(trace_id, int(call.span_id, 16) if call.span_id else new_id(8))
        parent = context(trace_id, int(call.parent_span_id, 16), True) if call.parent_span_id else None
        operation = OPERATIONS.get(call.operation, call.operation)
        start = call.start_wall_ns
        server = ReadableSpan(
            f"{operation} {call.asked}", own, parent, resource, _call_attributes(call, operation),
            kind=SpanKind.SERVER, status=status(call.code), start_time=start, end_time=start + call.total_us * 1000,
            instrumentation_scope=scope,
        )  # fmt: skip
        spans = [server]
        for number, attempt in enumerate(call.attempts):
            last = number == len(call.attempts) - 1
            spans.append(
                ReadableSpan(
                    f"{operation} {attempt.model}", context(trace_id, new_id(8)), own, resource,
                    _attempt_attributes(call, attempt, operation, last), kind=SpanKind.CLIENT,
                    status=status(attempt.code), start_time=start + attempt.start_us * 1000,
                    end_time=start + attempt.end_us * 1000, instrumentation_scope=scope,
                )
            )  # fmt: skip
        return spans

    return build


Attributes = dict[str, str | int | float | bool | Sequence[str]]


def _call_attributes(call: CallFigures, operation: str) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": call.asked,
        "http.request.method": "POST",
        "http.response.status_code": call.status,
        "interlock.request_id": call.request_id,
        "interlock.tenant_id": call.tenant_id,
        "interlock.state": call.state,
        "interlock.attempts": len(call.attempts),
    }
    if call.code:
        attributes["error.type"] = call.code
    return attributes


def _attempt_attributes(call: CallFigures, attempt: AttemptFigures, operation: str, last: bool) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": attempt.provider,
        "gen_ai.request.model": attempt.model,
        "gen_ai.request.stream": call.stream,
        "server.address": attempt.host,
        "server.port": attempt.port,
        "interlock.source": attempt.source,
    }
    if call.max_tokens:
        attributes["gen_ai.request.max_tokens"] = call.max_tokens
    if attempt.first_byte_us >= 0:
        attributes["gen_ai.response.time_to_first_chunk"] = (attempt.first_byte_us - attempt.start_us) / 1e6
    if attempt.status:
        attributes["http.response.status_code"] = attempt.status
    if attempt.code:
        attributes["error.type"] = attempt.code
    if last and not attempt.code:
        attributes["gen_ai.response.model"] = call.served_model or attempt.model
        attributes["gen_ai.response.finish_reasons"] = list(call.finish_reasons)
        attributes["gen_ai.usage.input_tokens"] = call.usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = call.usage.completion_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = call.usage.cached_tokens
    return attributes
