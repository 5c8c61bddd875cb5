"""Entries of a ledger as OpenTelemetry log records, by the GenAI semantic conventions where they say something.

A batch is sent at once, over OTLP/HTTP in protobuf, and counts as sent when the collector has answered that it took all
of it. The SDK's own batching is not used: it drops what it cannot send. Needs the extra `otel`. Headers (such as a
token), certificates, time-out and compression are those of the OTEL_EXPORTER_OTLP_* variables of the environment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from interlock.errors import ConfigError, InterlockError, Unavailable
from interlock.telemetry.tracing import OPERATIONS
from interlock.types.followed import FollowedEntry

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from requests import Response

LEAF_INT_MAX = (1 << 63) - 1
"""OTLP has integers of 64 bits with sign; a larger one is sent as text."""
_UNEXPECTED = ("refused", "failed", "cut", "interrupted")
"""States of a result whose records are warnings."""


class LogCollector:
    """Sends entries to a collector, batch by batch. Close it."""

    def __init__(self, url: str, version: str, now_ns: Callable[[], int]) -> None:
        """`url`: of the collector; `/v1/logs` is added when it has no path. `now_ns`: Unix ns, when it is observed.

        Raises ConfigError: extra missing, bad URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError("--otlp must be an http or https URL of a collector", param="otlp")
        if parts.username or parts.password:
            raise ConfigError(
                "--otlp holds a user or password; give a token by OTEL_EXPORTER_OTLP_HEADERS in the environment",
                param="otlp",
            )
        try:
            import requests
            from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        except ImportError:
            raise ConfigError(
                "--otlp needs OpenTelemetry, which is not installed; install interlock[otel]", param="otlp"
            ) from None
        self.url = url if parts.path.strip("/") else url.rstrip("/") + "/v1/logs"
        self._answer: Response | None = None
        session = requests.Session()
        session.hooks["response"].append(self._answered)
        _silence()
        self._exporter = OTLPLogExporter(endpoint=self.url, session=session)
        self._record = record_builder(version, now_ns)

    def send(self, entries: Sequence[FollowedEntry]) -> None:
        """Send entries; returns when the collector took every one.

        Raises Unavailable when it did not, and may when asked again; InterlockError when it took some and will never
        take the others.
        """
        self._answer = None
        done = self._exporter.export([self._record(entry) for entry in entries]).name == "SUCCESS"
        answer: Response | None = self._answer
        if answer is None:
            raise Unavailable(f"the collector at {self.url} cannot be reached")
        # the exporter takes a redirection for a success, and does not look into the answer
        if not done or answer.status_code // 100 != 2:
            raise Unavailable(f"the collector at {self.url} answered {answer.status_code}")
        rejected, words = _rejected(answer)
        if rejected:
            raise InterlockError(
                f"the collector at {self.url} rejected {rejected} of the {len(entries)} entries from position"
                f" {entries[0].position} on ({words or 'it does not say why'})",
                code="collector_rejected",
            )

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _answered(self, response: Response, *_: object, **__: object) -> None:
        self._answer = response


def record_builder(version: str, now_ns: Callable[[], int]) -> Callable[[FollowedEntry], ReadableLogRecord]:
    """The function that makes the log record of an entry."""
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    resource = Resource({"service.name": "interlock", "service.version": version})
    scope = InstrumentationScope("interlock.ledger", version)

    def build(entry: FollowedEntry) -> ReadableLogRecord:
        leaf = entry.leaf
        warn = leaf.get("result", {}).get("state") in _UNEXPECTED
        record = LogRecord(
            timestamp=leaf["at"],
            observed_timestamp=now_ns(),
            severity_number=SeverityNumber.WARN if warn else SeverityNumber.INFO,
            severity_text="WARN" if warn else "INFO",
            body=_bounded(leaf),
            attributes=attributes(entry),
            event_name=f"interlock.ledger.{leaf['kind']}",
        )
        return ReadableLogRecord(record, resource, scope)

    return build


def attributes(entry: FollowedEntry) -> dict[str, Any]:
    """The attributes of an entry's record: those of the GenAI conventions, and `interlock.*` for what they lack."""
    leaf = entry.leaf
    out: dict[str, Any] = {
        "interlock.tenant_id": leaf["tree"],
        "interlock.position": entry.position,
        "interlock.hash": entry.hash,
    }
    for name, path in _ATTRIBUTES.items():
        value: Any = leaf
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value not in (None, "", []):
            out[name] = _bounded(value)
    what, where, result = (leaf.get(part, {}) for part in ("what", "where", "result"))
    operation = what.get("operation")
    if isinstance(operation, str) and operation in OPERATIONS:
        out["gen_ai.operation.name"] = OPERATIONS[operation]
    elif operation:  # what an administrator did
        out["interlock.operation"] = _bounded(operation)
    asked = what.get("alias") or what.get("model")
    if asked:
        out["gen_ai.request.model"] = asked
    answered = where.get("served") or where.get("model")
    if answered and result.get("state") == "completed":
        out["gen_ai.response.model"] = answered
    return out


_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gen_ai.provider.name": ("where", "engine"),
    "gen_ai.request.stream": ("what", "stream"),
    "gen_ai.response.finish_reasons": ("result", "finish"),
    "gen_ai.usage.input_tokens": ("tokens", "prompt"),
    "gen_ai.usage.output_tokens": ("tokens", "completion"),
    "gen_ai.usage.cache_read.input_tokens": ("tokens", "cached"),
    "gen_ai.usage.cache_creation.input_tokens": ("tokens", "cache_write"),
    "http.response.status_code": ("result", "status"),
    "error.type": ("result", "code"),
    "interlock.request_id": ("request",),
    "interlock.shadow_of": ("shadow_of",),
    "interlock.judge_of": ("judge_of",),
    "interlock.judge_against": ("judge_against",),
    "interlock.challenger_of": ("challenger_of",),
    "interlock.judged_score_micro": ("result", "judged", "score_micro"),
    "interlock.judged_preferred": ("result", "judged", "preferred"),
    "interlock.judged_control": ("result", "judged", "control"),
    "interlock.arm": ("what", "arm"),
    "interlock.epoch": ("epoch",),
    "interlock.n": ("n",),
    "interlock.principal": ("who", "principal"),
    "interlock.subject": ("who", "subject"),
    "interlock.team": ("who", "team"),
    "interlock.delegator": ("who", "delegator"),
    "interlock.auth": ("who", "auth"),
    "interlock.credential": ("who", "credential"),
    "interlock.mode": ("what", "mode"),
    "interlock.object": ("what", "object"),
    "interlock.data_class": ("what", "data_class"),
    "interlock.class": ("what", "class"),
    "interlock.source": ("where", "name"),
    "interlock.off_prem": ("where", "off_prem"),
    "interlock.attempts": ("where", "attempts"),
    "interlock.state": ("result", "state"),
    "interlock.tokens_origin": ("tokens", "origin"),
    "interlock.cost_nusd": ("cost", "nusd"),
    "interlock.energy_uj": ("energy", "uj"),
    "interlock.duration_us": ("times", "total_us"),
    "interlock.feedback_thumb": ("feedback", "thumb"),
    "interlock.feedback_score_micro": ("feedback", "score_micro"),
    "interlock.feedback_reason": ("feedback", "reason"),
}
"""Attribute -> the field of the leaf that it repeats, where there is one."""


def _bounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _bounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_bounded(each) for each in value]
    if isinstance(value, int) and not -LEAF_INT_MAX <= value <= LEAF_INT_MAX:
        return str(value)
    return value


def _rejected(answer: Response) -> tuple[int, str]:
    """(records that were rejected, why) by the body of an answer; a body that is none of OTLP's says nothing."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    if "protobuf" not in answer.headers.get("content-type", ""):
        return 0, ""
    try:
        part = ExportLogsServiceResponse.FromString(answer.content).partial_success
    except DecodeError:
        return 0, ""
    return part.rejected_log_records, "".join(c for c in part.error_message[:500] if c.isprintable())


def _silence() -> None:
    """What the exporter would write to the log is said in the errors that `send` raises."""
    logging.getLogger("opentelemetry.exporter.otlp.proto.http._log_exporter").disabled = True
