"""Spans reach a collector when one is configured, carry GenAI names, and never content."""

from __future__ import annotations

import http.server
import threading

import openai
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from interlock.testing.engine import ScriptedEngine
from interlock.testing.faults import closes_at_once
from interlock.types.source import Labels
from tests.gateway import WorkerHarness, World, source

SECRET = "the prompt that no collector may see"


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: list[bytes] = []

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_call_with_a_failover_becomes_one_server_span_and_a_span_per_attempt() -> None:
    Collector.received = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    bad, good = ScriptedEngine(), ScriptedEngine()
    bad.script(closes_at_once())
    with bad.in_thread(), good.in_thread():
        world = World(
            [
                source("bad", bad.base_url),
                source("good", good.base_url, labels=Labels(on_prem=False)),
            ]
        )
        endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        parent = {"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
        with (
            WorkerHarness(world, otlp_endpoint=endpoint) as gateway,
            openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0) as client,
        ):
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": SECRET}], extra_headers=parent
            )
    server.shutdown()
    server.server_close()
    thread.join()
    spans = []
    for body in Collector.received:
        assert SECRET.encode() not in body
        request = ExportTraceServiceRequest.FromString(body)
        spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
    assert len(spans) == 3
    assert {span.trace_id.hex() for span in spans} == {"ab" * 16}
    keys = {attribute.key for span in spans for attribute in span.attributes}
    assert {"gen_ai.request.model", "gen_ai.operation.name", "gen_ai.usage.output_tokens"} <= keys
