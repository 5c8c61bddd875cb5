"""Spans of finished calls: their form on the wire, and that nobody waits for a collector."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from interlock.errors import ConfigError
from interlock.settings import Settings
from interlock.telemetry.metrics import Metrics
from interlock.telemetry.tracing import AttemptFigures, CallFigures, Tracer, open_tracer, span_builder
from interlock.testing.clock import START_NS, FakeClock
from interlock.types.usage import Usage


def zeros(size: int) -> bytes:
    return b"\0" * (size - 1) + b"\7"


FAILED = AttemptFigures("gpu-1", "mock", "vllm", "10.0.0.1", 8000, 100, 900, status=503, code="upstream_error")
WORKED = AttemptFigures("gpu-2", "mock", "vllm", "10.0.0.2", 8000, 950, 5_000, first_byte_us=1_950, status=200)
CALL = CallFigures(
    "req_e_1", "chat", "auto", "ten_1", START_NS, 6_000, 200, "completed", True, Usage(11, 4, 22), (FAILED, WORKED),
    served_model="mock-v1", finish_reasons=("stop",), max_tokens=64, trace_id="0af7651916cd43dd8448eb211c80319c",
    parent_span_id="b7ad6b7169203331",
)  # fmt: skip


@contextmanager
def collector(status: int = 200) -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector on loopback: its URL and what it was sent."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def values(span: Any) -> dict[str, Any]:
    out = {}
    for a in span.attributes:
        kind = a.value.WhichOneof("value")
        value = getattr(a.value, kind)
        out[a.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return out


def test_spans_reach_the_collector_in_genai_form() -> None:
    with collector() as (url, got):
        tracer = open_tracer(Settings(otlp_endpoint=url), "1.0", "node-1", zeros)
        assert tracer is not None
        tracer.record(CALL)
        tracer.close()
    (resource,) = got[0].resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.instance.id"] == "node-1"
    server, first, second = resource.scope_spans[0].spans
    assert server.name == "chat auto" and server.kind == server.SPAN_KIND_SERVER
    assert server.trace_id.hex() == CALL.trace_id and server.parent_span_id.hex() == CALL.parent_span_id
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (START_NS, START_NS + 6_000_000)
    assert values(server)["interlock.request_id"] == "req_e_1" and values(server)["interlock.attempts"] == 2
    assert first.parent_span_id == second.parent_span_id == server.span_id
    assert first.status.code == first.status.STATUS_CODE_ERROR and values(first)["error.type"] == "upstream_error"
    assert "gen_ai.usage.input_tokens" not in values(first)
    shown = values(second)
    assert shown["gen_ai.provider.name"] == "vllm" and shown["gen_ai.response.model"] == "mock-v1"
    assert (shown["gen_ai.usage.input_tokens"], shown["gen_ai.usage.output_tokens"]) == (11, 22)
    assert shown["gen_ai.usage.cache_read.input_tokens"] == 4
    assert shown["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.001)
    assert shown["gen_ai.response.finish_reasons"] == ["stop"] and shown["server.address"] == "10.0.0.2"


def test_a_refusing_collector_is_counted_not_raised() -> None:
    with collector(status=400) as (url, _):
        tracer = open_tracer(Settings(otlp_endpoint=url + "/v1/traces"), "1.0", "n", zeros)
        assert tracer is not None
        tracer.record(CALL)
        tracer.close()
        metrics = Metrics(None, "0", Settings(), FakeClock())
        tracer.fill(metrics)
        tracer.fill(metrics)
    assert metrics.spans.cells == {("failed",): 3}


def test_a_full_queue_drops_and_unsampled_calls_give_no_span() -> None:
    class Stuck:
        def __init__(self) -> None:
            self.go = threading.Event()
            self.spans = 0

        def export(self, spans: Any) -> Any:
            self.go.wait(60)
            self.spans += len(spans)
            raise RuntimeError("no route")

        def shutdown(self) -> None:
            pass

    exporter = Stuck()
    tracer = Tracer(exporter, span_builder("1", "n", zeros), 5)  # type: ignore[arg-type]
    unsampled = CallFigures(**{f: getattr(CALL, f) for f in CALL.__struct_fields__} | {"sampled": False})
    for _ in range(50):
        tracer.record(unsampled)
        tracer.record(CALL)
    assert tracer.dropped >= 40 and exporter.spans == 0, "nobody waited for the exporter"
    exporter.go.set()
    tracer.close()
    assert exporter.spans == 3 * (50 - tracer.dropped) == tracer.failed


def test_nothing_is_imported_or_started_without_an_endpoint() -> None:
    assert open_tracer(Settings(), "1", "n", zeros) is None
    code = "import sys, interlock.telemetry.tracing; sys.exit(any('opentelemetry' in m for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("url", ["collector:4318", "ftp://x", "http://"])
def test_a_wrong_endpoint_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="otlp_endpoint must be"):
        open_tracer(Settings(otlp_endpoint=url), "1", "n", zeros)
