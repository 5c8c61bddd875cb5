"""Entries of a ledger as log records: their form on the wire, and that nothing counts as sent that was not taken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from tests.collector import Collected, collecting, plain

from interlock.errors import ConfigError, InterlockError, Unavailable
from interlock.ledger.entry import encode_leaf
from interlock.ledger.proof.merkle import leaf_hash
from interlock.telemetry.log_records import LogCollector, attributes
from interlock.types.followed import FollowedEntry

NOW_NS = 1_800_000_000_000_000_000
LEAF: dict[str, Any] = {
    "v": 1, "tree": "ten_1", "epoch": "0123456789abcdef", "n": 5, "kind": "call", "at": 1_753_000_000_000_000_001,
    "clock": 1_753_000_000_000_000_001, "request": "req_1",
    "who": {"subject": "prn_2", "team": "team_1", "principal": "prn_1", "kind": "agent", "delegator": "prn_2",
            "delegation": "token", "auth": "api_key", "credential": "key_1"},
    "what": {"operation": "chat", "model": "big", "alias": "auto:eco", "mode": "", "data_class": 2, "stream": True,
             "class": "summaries", "dialect": "openai"},
    "decided": {"snapshot": 7, "root": "00", "router": 1, "seed": (1 << 64) - 1},
    "where": {"attempts": 2, "source": "src_1", "name": "gpu", "model": "big", "version": "", "engine": "vllm",
              "engine_version": "1", "off_prem": False, "served": "big-v2"},
    "result": {"state": "completed", "status": 200, "code": "", "finish": ["stop"], "chunks": 3, "bytes": 99},
    "times": {"first_us": 10, "total_us": 400},
    "tokens": {"prompt": 11, "cached": 4, "cache_write": 0, "completion": 22, "origin": "engine"},
    "cost": {"nusd": 1234, "price": "source", "version": "v"}, "energy": {"uj": 77, "method": "measured"},
    "contents": [{"role": "answer", "id": "ab", "sha256": "cd", "bytes": 3}],
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "v": 1, "tree": "ten_1", "epoch": "0123456789abcdef", "n": 6, "kind": "refusal", "at": 5, "request": "req_2",
    "what": {"operation": "embeddings", "model": "big", "alias": ""}, "contents": [],
    "result": {"state": "refused", "status": 403, "code": "policy_denied"},
}  # fmt: skip
ERASED: dict[str, Any] = {
    "v": 1, "tree": "ten_1", "epoch": "0000000000000000", "n": 1, "kind": "erasure", "at": 6, "subject": "prn_2",
    "keys": ["prn_2"], "by": "prn_9", "request": "", "contents": [],
}  # fmt: skip


def entry(position: int, leaf: dict[str, Any]) -> FollowedEntry:
    return FollowedEntry(position, leaf_hash(encode_leaf(leaf)).hex(), leaf)


ENTRIES = [entry(4, LEAF), entry(5, REFUSED), entry(6, ERASED)]


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    with collecting() as collected:
        yield collected


def sender(url: str) -> Any:
    return closing(_Sender(url))


class _Sender(LogCollector):
    def __init__(self, url: str) -> None:
        super().__init__(url, "1.0", lambda: NOW_NS)


def test_entries_reach_the_collector_with_genai_names(got: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t0ken")
    with sender(got.url) as collector:
        collector.send(ENTRIES)
    assert got.headers[0]["authorization"] == "Bearer t0ken"
    (resource,) = got.requests[0].resource_logs
    said = {each.key: plain(each.value) for each in resource.resource.attributes}
    assert said == {"service.name": "interlock", "service.version": "1.0"}
    call, refusal, erasure = got.records
    assert [r.event_name for r in got.records] == [f"interlock.ledger.{k}" for k in ("call", "refusal", "erasure")]
    assert (call.time_unix_nano, call.observed_time_unix_nano) == (LEAF["at"], NOW_NS)
    assert [r.severity_text for r in got.records] == ["INFO", "WARN", "INFO"]
    assert [r.severity_number for r in got.records] == [9, 13, 9]
    body = plain(call.body)
    assert body.pop("decided")["seed"] == str((1 << 64) - 1), "what OTLP has no integer for is text"
    assert body == {name: value for name, value in LEAF.items() if name != "decided"}
    assert plain(erasure.body) == ERASED
    assert {each.key: plain(each.value) for each in call.attributes} == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "auto:eco",
        "gen_ai.request.stream": True, "gen_ai.response.model": "big-v2", "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 22, "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 0, "http.response.status_code": 200,
        "interlock.tenant_id": "ten_1", "interlock.position": 4, "interlock.hash": ENTRIES[0].hash,
        "interlock.request_id": "req_1", "interlock.epoch": "0123456789abcdef", "interlock.n": 5,
        "interlock.principal": "prn_1", "interlock.subject": "prn_2", "interlock.team": "team_1",
        "interlock.delegator": "prn_2", "interlock.auth": "api_key", "interlock.credential": "key_1",
        "interlock.data_class": 2, "interlock.class": "summaries", "interlock.source": "gpu",
        "interlock.off_prem": False, "interlock.attempts": 2, "interlock.state": "completed",
        "interlock.tokens_origin": "engine", "interlock.cost_nusd": 1234, "interlock.energy_uj": 77,
        "interlock.duration_us": 400,
    }  # fmt: skip
    denied = {each.key: plain(each.value) for each in refusal.attributes}
    assert denied["error.type"] == "policy_denied" and denied["gen_ai.operation.name"] == "embeddings"
    assert denied["gen_ai.request.model"] == "big" and "gen_ai.response.model" not in denied
    assert "gen_ai.request.model" not in {each.key for each in erasure.attributes}


def rejected(count: int, words: str) -> bytes:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = count
    answer.partial_success.error_message = words
    return answer.SerializeToString()


@pytest.mark.parametrize("status", [302, 304, 400, 401, 404, 413, 429, 500, 503])
def test_what_the_collector_did_not_take_may_be_sent_again(got: Collected, status: int) -> None:
    got.answers = [(status, b"", {"location": "/elsewhere"})] * 3
    with sender(got.url) as collector:
        with pytest.raises(Unavailable, match=f"answered {status}"):
            collector.send(ENTRIES)
        assert got.records == []
        got.answers.clear()
        collector.send(ENTRIES)
    assert len(got.records) == 3


def test_what_the_collector_rejects_is_an_error_that_names_it(got: Collected) -> None:
    protobuf = {"content-type": "application/x-protobuf"}
    got.answers = [(200, rejected(2, "too old"), protobuf)]
    with sender(got.url) as collector:
        with pytest.raises(InterlockError, match="rejected 2 of the 3 entries from position 4 on \\(too old\\)") as e:
            collector.send(ENTRIES)
        assert not isinstance(e.value, Unavailable), "to send it again would not help"
        for harmless in ((200, rejected(0, "slow"), protobuf), (200, b"\xff", protobuf), (202, b"{}", {})):
            got.answers = [harmless]
            collector.send(ENTRIES)


def test_nobody_there_is_an_outage() -> None:
    with collecting() as got:
        url = got.url
    with sender(url) as collector, pytest.raises(Unavailable, match="cannot be reached"):
        collector.send(ENTRIES)


def test_a_url_that_is_none_and_a_missing_extra_are_said() -> None:
    for url in ("", "127.0.0.1:4318", "ftp://x", "http://"):
        with pytest.raises(ConfigError, match="http or https URL"):
            sender(url)
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        sender("https://user:secret@collector")
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from interlock.telemetry.log_records import LogCollector\n"
        "from interlock.errors import ConfigError\n"
        "try:\n    LogCollector('http://x', '0', int)\nexcept ConfigError as e:\n    print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "interlock[otel]" in done.stdout


def test_what_administrators_do_is_no_operation_of_a_model() -> None:
    leaf = {"tree": "t", "kind": "change", "at": 1, "what": {"object": "ledger", "operation": "ledger.follow"}}
    said = attributes(entry(7, leaf))
    assert (said["interlock.operation"], said["interlock.object"]) == ("ledger.follow", "ledger")
    assert not [name for name in said if name.startswith("gen_ai.")]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_parts = ("who", "what", "where", "result", "tokens", "cost", "energy", "times")


@given(
    parts=st.fixed_dictionaries({}, optional={name: st.dictionaries(st.text(), _json) for name in _parts}), more=_json
)
def test_a_leaf_of_another_form_becomes_a_record_too(parts: dict[str, Any], more: Any) -> None:
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    from interlock.telemetry.log_records import record_builder

    leaf = {"tree": "ten_1", "kind": "new", "at": 1, "more": more, **parts}
    one = FollowedEntry(0, "00", leaf)
    record = encode_logs([record_builder("1.0", lambda: 2)(one)]).resource_logs[0].scope_logs[0].log_records[0]
    assert plain(record.body)["more"] == _as_sent(more)
    assert attributes(one)["interlock.position"] == 0


def _as_sent(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_sent(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_sent(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return str(value)
    return value
