"""Engines that misbehave: every call ends with exactly one outcome, and nobody is told more than is recorded."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from interlock.gateway import attempt
from interlock.gateway.relay import Relay
from interlock.gateway.run import Run
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import CLOSE, HANG, STREAM_HEAD, Script, chunk, event, http, steps
from interlock.types.record import Attempt, AttemptEnd, Chunk, Intent, Outcome, Refusal
from interlock.types.source import SourceLimits, Timeouts
from tests.gateway import WorkerHarness, World, source
from tests.integration.gateway.client import CHAT, WAIT_S, Answer, ask, events, eventually, serving, text_of, when

STREAM = {**CHAT, "stream": True}
QUICK = Timeouts(connect_ms=3000, first_event_ms=1000, between_events_ms=500, total_ms=2000)
"""Of sources that are to be waited for in vain. The first event of others comes sooner, on a busy machine too."""


@contextmanager
def two(quick: bool = False, **settings: Any) -> Iterator[tuple[WorkerHarness, ScriptedEngine, ScriptedEngine]]:
    """A gateway before two engines with the same model; the first is always preferred. `quick`: and soon given up."""
    with ExitStack() as stack:
        engines = [stack.enter_context(ScriptedEngine(models=("m",)).in_thread()) for _ in range(2)]
        world = World(
            [
                source("first", engines[0].base_url, timeouts=QUICK if quick else Timeouts()),
                source("second", engines[1].base_url, labels=_cloud()),
            ]
        )
        gateway = stack.enter_context(WorkerHarness(world, **settings))
        yield gateway, engines[0], engines[1]


def _cloud() -> Any:
    from interlock.types.source import Labels

    return Labels(region="eu", on_prem=False)


def one_end_for_each_intent(gateway: WorkerHarness) -> list[Outcome]:
    """INVARIANT of the record: an intent has exactly one outcome, its attempts are numbered from 0 and begun in order,
    its chunks are numbered from 0 and hash to what the outcome says."""
    eventually(lambda: len(gateway.records_of(Intent)) == len(gateway.records_of(Outcome)))
    records = gateway.records()
    outcomes = [r for r in records if isinstance(r, Outcome)]
    counted = Counter(o.call for o in outcomes)
    assert counted == Counter(r.call for r in records if isinstance(r, Intent))
    assert set(counted.values()) <= {1}
    for outcome in outcomes:
        tried = [r.number for r in records if isinstance(r, Attempt) and r.call == outcome.call]
        assert tried == list(range(len(tried)))
        failed = [r.number for r in records if isinstance(r, AttemptEnd) and r.call == outcome.call]
        assert failed == list(range(len(failed)))
        assert len(failed) in (len(tried), len(tried) - 1)
        chunks = [r for r in records if isinstance(r, Chunk) and r.call == outcome.call]
        assert [c.index for c in chunks] == list(range(outcome.chunks))
    return outcomes


def recorded_text(gateway: WorkerHarness) -> str:
    return "".join(c.text for c in gateway.records_of(Chunk))


BEFORE_THE_FIRST_BYTE: dict[str, tuple[Script, str]] = {
    "closes": (faults.closes_at_once(), "upstream_closed"),
    "garbage": (faults.garbage(), "upstream_invalid_response"),
    "huge head": (faults.huge_head(), "upstream_invalid_response"),
    "bad chunk": (faults.bad_chunk(), "upstream_invalid_response"),
    "both lengths": (faults.both_lengths(), "upstream_invalid_response"),
    "redirect": (faults.redirects(), "upstream_error"),
    "429": (answers.error(429), "upstream_rate_limited"),
    "429 with Retry-After": (answers.error(429, retry_after="7"), "upstream_rate_limited"),
    "500": (answers.error(500), "upstream_error"),
    "503": (answers.error(503), "upstream_overloaded"),
    "503 with Retry-After": (answers.error(503, retry_after="7"), "upstream_overloaded"),
    "503 with a date": (answers.error(503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"), "upstream_overloaded"),
    "401": (answers.error(401, message="key sk-secret is wrong"), "upstream_credential"),
    "html with 200": (steps(http(200, b"<html></html>", "text/html")), "upstream_malformed"),
}
ONLY_WHOLE: dict[str, tuple[Script, str]] = {
    "lies about its length": (faults.wrong_content_length(), "upstream_cut_off"),
    "never answers": (faults.never_answers(), "total_timeout"),
    "no choices": (steps(http(200, b'{"choices":[]}')), "upstream_malformed"),
    "error with 200": (steps(http(200, b'{"error":{"message":"x"}}')), "upstream_malformed"),
    "a list": (steps(http(200, b"[1]")), "upstream_malformed"),
    "not UTF-8": (steps(http(200, b'{"choices":[{"finish_reason":"\xff"}]}')), "upstream_malformed"),
    "deep": (steps(http(200, b'{"choices":[{"message":' + b"[" * 5000 + b"]" * 5000 + b"}]}")), "upstream_malformed"),
}
ONLY_STREAMED: dict[str, tuple[Script, str]] = {
    "never answers": (faults.never_answers(), "first_event_timeout"),
    "head then silence": (faults.head_then_silence(), "first_event_timeout"),
    "dies before its first event": (faults.dies_mid_stream(0), "upstream_cut_off"),
    "error event first": (faults.error_event(0), "upstream_error"),
    "not JSON": (faults.malformed_sse("json"), "upstream_malformed"),
    "no data field": (faults.malformed_sse("field"), "upstream_malformed"),
    "not UTF-8": (faults.malformed_sse("utf8"), "upstream_malformed"),
    "a list": (faults.malformed_sse("list"), "upstream_malformed"),
    "a page": (faults.malformed_sse("html"), "upstream_cut_off"),
    "a huge event": (faults.huge_event(20_000), "upstream_event_too_large"),
    "comments for ever": (
        steps(STREAM_HEAD, *[chunk(b": ping\n\n")] * 3, HANG),
        "first_event_timeout",
    ),
}
CASES = [
    *[(name, *case, streamed) for name, case in BEFORE_THE_FIRST_BYTE.items() for streamed in (False, True)],
    *[(name, *case, False) for name, case in ONLY_WHOLE.items()],
    *[(name, *case, True) for name, case in ONLY_STREAMED.items()],
]


@pytest.mark.parametrize(("name", "script", "code", "streamed"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES])
def test_a_failure_before_the_first_byte_goes_to_the_next_source(
    name: str, script: Script, code: str, streamed: bool
) -> None:
    with two(quick=code.endswith("timeout"), event_bytes_max=10_000) as (gateway, first, second):
        first.script(script)
        answer = ask(gateway, STREAM if streamed else CHAT)
        assert answer.status == 200
        assert answer.headers["x-interlock-source"] == "second"
        said = text_of(events(answer.body)) if streamed else answer.json["choices"][0]["message"]["content"]
        assert said == answers.TEXT
        assert (len(first.calls), len(second.calls)) == (1, 1)
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.attempt, outcome.source) == ("completed", 1, "second")
        (end,) = gateway.records_of(AttemptEnd)
        assert (end.number, end.code) == (0, code)
        assert "sk-secret" not in end.words


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("script", "status", "code", "retry_after"),
    [
        (answers.error(500), 502, "upstream_error", None),
        (answers.error(503), 502, "upstream_overloaded", None),
        (answers.error(503, retry_after="7"), 502, "upstream_overloaded", "7"),
        (answers.error(429), 429, "upstream_rate_limited", "1"),
        (answers.error(429, retry_after="7"), 429, "upstream_rate_limited", "7"),
        (answers.error(429, retry_after="999999"), 429, "upstream_rate_limited", "30"),
        (answers.error(400, message="bad temperature"), 400, "upstream_refused", None),
        (answers.error(400, message="maximum context length is 5 tokens"), 400, "context_length_exceeded", None),
        (answers.error(401, message="key sk-secret is wrong"), 502, "upstream_credential", None),
        (faults.closes_at_once(), 502, "upstream_closed", None),
        (faults.never_answers(), 504, "timeout", None),
    ],
)
def test_the_caller_is_told_what_the_last_source_said(
    script: Script, status: int, code: str, retry_after: str | None, streamed: bool
) -> None:
    timeouts = QUICK if code == "timeout" else Timeouts()
    with serving(lambda url: World([source("only", url, timeouts=timeouts)])) as (gateway, engine):
        engine.script(script)
        answer = ask(gateway, STREAM if streamed else CHAT)
        assert answer.status == status
        if code == "timeout":
            code = "first_event_timeout" if streamed else "total_timeout"
        assert answer.error["code"] == code
        assert answer.headers.get("retry-after") == retry_after
        assert ("x-should-retry" in answer.headers) == (status == 400)
        assert b"sk-secret" not in answer.body
        (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.state == ("refused" if status < 500 else "failed")
        assert outcome.code == code


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (faults.dies_mid_stream(3), "upstream_cut_off"),
        (faults.dies_mid_stream(3, CLOSE), "upstream_cut_off"),
        (faults.stalls_mid_stream(3), "between_events_timeout"),
        (faults.ends_without_done(3), "upstream_cut_off"),
        (faults.error_event(3), "upstream_error"),
    ],
)
def test_a_stream_that_breaks_is_told_in_the_stream_and_has_no_end(script: Script, code: str) -> None:
    with two(quick=code.endswith("timeout")) as (gateway, first, second):
        first.script(script)
        answer = ask(gateway, STREAM)
        found = events(answer.body.removesuffix(b"<cut>"))
        assert answer.body.endswith(b"<cut>")
        assert "[DONE]" not in found
        assert found[-1]["error"]["code"] == code
        assert text_of(found) == recorded_text(gateway) != ""
        assert second.calls == []
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.code, outcome.usage.origin) == ("failed", code, "reserved")
        assert gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_first"))) == 0


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_a_call_that_met_a_closed_connection_goes_out_again_as_an_attempt_of_its_own(body: dict[str, Any]) -> None:
    with two(attempts_max=1, breaker_failures=1) as (gateway, first, second):
        first.script(answers.answer(), faults.closes_at_once())
        assert [ask(gateway, body).status for _ in range(3)] == [200] * 3
        assert [r.connection for r in first.calls] == [0, 0, 1, 1] and second.calls == []
        outcomes = one_end_for_each_intent(gateway)
        assert [(o.state, o.attempt) for o in outcomes] == [("completed", n) for n in (0, 1, 0)]
        assert [a.source for a in gateway.records_of(Attempt)] == ["first"] * 4
        assert [e.code for e in gateway.records_of(AttemptEnd)] == ["upstream_stale"]


def test_it_goes_out_again_once_and_then_to_the_next_source() -> None:
    with two() as (gateway, first, second):
        first.script(answers.answer(), faults.closes_at_once(), faults.closes_at_once())
        assert [ask(gateway, CHAT).status for _ in range(2)] == [200] * 2
        assert (len(first.calls), len(second.calls)) == (3, 1)
        assert [e.code for e in gateway.records_of(AttemptEnd)] == ["upstream_stale", "upstream_closed"]
        one_end_for_each_intent(gateway)


def test_after_any_event_has_left_there_is_no_other_source() -> None:
    """An event without choices has reached the caller too: what follows it must come from the same source."""
    first_event = event({"choices": [], "model": "", "prompt_filter_results": ["fine"]})
    with two() as (gateway, first, second):
        first.script(steps(STREAM_HEAD, first_event, event("not json"), chunk(b"")))
        answer = ask(gateway, STREAM)
        assert second.calls == []
        assert b"[DONE]" not in answer.body and b"upstream_malformed" in answer.body
        (record,) = gateway.records_of(Chunk)
        assert b"prompt_filter_results" in record.raw


def test_what_an_engine_adds_under_its_own_name_is_recorded_too() -> None:
    delta = {"index": 0, "delta": {"content": "a", "thinking": "hidden"}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    script = steps(STREAM_HEAD, event({"choices": [delta]}), event({"choices": [end]}), event("[DONE]"), chunk(b""))
    with serving() as (gateway, engine):
        engine.script(script)
        assert b"hidden" in ask(gateway, STREAM).body
        assert b"hidden" in b"".join(c.raw for c in gateway.records_of(Chunk))


def test_a_stream_that_never_stops_after_its_end_is_ended() -> None:
    """What is held back until the outcome is durable has a limit."""
    end = event({"choices": [{"index": 0, "delta": {"content": "x" * 500}, "finish_reason": "stop"}]})

    def script(_received: object) -> Iterator[bytes]:
        yield STREAM_HEAD
        while True:
            yield end

    with serving(write_buffer_bytes_max=20_000) as (gateway, engine):
        engine.script(script)
        answer = ask(gateway, STREAM)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert len(answer.body) < 100_000
        eventually(lambda: engine.calls[0].ended == "gone")
        (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.finish_reasons == ("stop",)
        assert outcome.bytes_sent == len(answer.body)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_stream_cut_anywhere_is_the_same_stream(size: int) -> None:
    with serving() as (gateway, engine):
        engine.default = answers.answer("Züge fahren nicht selbst.")
        whole = ask(gateway, STREAM)
        engine.script(faults.drip(answers.answer("Züge fahren nicht selbst."), size=size))
        dripped = ask(gateway, STREAM)
        assert dripped.body == whole.body
        first, second = (o for o in one_end_for_each_intent(gateway))
        assert (first.chunks, first.chunks_sha256, first.usage) == (second.chunks, second.chunks_sha256, second.usage)
        assert first.bytes_sent == len(whole.body)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_streams_with_other_line_ends_are_read_alike(end: bytes) -> None:
    def script(received: Any) -> Iterator[Any]:
        from interlock.testing.script import DONE

        made = [s for s in answers.answer()(received) if isinstance(s, bytes)][1:-1]
        yield STREAM_HEAD
        for piece in made:
            data = piece.split(b"\r\n", 1)[1].removesuffix(b"\r\n")
            yield chunk(data.replace(b"\n", end))
        yield chunk(b"data: [DONE]" + end * 2) + chunk(b"") if end == b"\r" else DONE + chunk(b"")

    with serving() as (gateway, engine):
        engine.script(script)
        answer = ask(gateway, STREAM)
        assert recorded_text(gateway) == answers.TEXT
        assert answer.body.endswith(b"data: [DONE]\n\n")
        (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.state == "completed" and outcome.usage.origin == "engine"


@pytest.mark.parametrize("streamed", [False, True])
def test_usage_nobody_can_believe_breaks_nothing(streamed: bool) -> None:
    usage = {"prompt_tokens": 10**40, "completion_tokens": -1}
    whole = b'{"model":"m","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":%b}}' % (b"9" * 40)
    end = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}
    script = steps(STREAM_HEAD, event(end), event("[DONE]"), chunk(b"")) if streamed else steps(http(200, whole))
    with serving() as (gateway, engine):
        engine.script(script)
        assert ask(gateway, STREAM if streamed else CHAT).status == 200
        (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.usage.prompt_tokens == 2**31 - 1


def test_bytes_behind_an_answer_never_reach_the_next_caller() -> None:
    with serving() as (gateway, engine):
        engine.script(faults.excess_body())
        ask(gateway, CHAT)
        assert ask(gateway, CHAT).json["choices"][0]["message"]["content"] == answers.TEXT
        assert engine.calls[0].connection != engine.calls[1].connection


def test_an_answer_larger_than_the_limit_is_not_held() -> None:
    with serving(response_bytes_max=10_000) as (gateway, engine):
        engine.script(faults.huge(50_000_000))
        assert ask(gateway, CHAT).error["code"] == "upstream_too_large"
        eventually(lambda: engine.calls[0].ended == "gone")


def test_a_huge_error_answer_is_not_held() -> None:
    with serving() as (gateway, engine):
        engine.script(steps(http(500, b"x" * 5_000_000, "text/plain")))
        answer = ask(gateway, CHAT)
        assert answer.error["code"] == "upstream_error" and len(answer.body) < 2000


@pytest.mark.parametrize(
    ("timeouts", "script", "code"),
    [
        (Timeouts(first_event_ms=200), faults.never_answers(), "first_event_timeout"),
        (Timeouts(first_event_ms=200), faults.head_then_silence(), "first_event_timeout"),
        (Timeouts(between_events_ms=200), faults.stalls_mid_stream(), "between_events_timeout"),
        (Timeouts(total_ms=300), faults.endless(between_ms=20), "total_timeout"),
    ],
)
def test_time_outs_end_the_call_and_the_source_is_let_go(timeouts: Timeouts, script: Script, code: str) -> None:
    with serving(lambda url: World([source("s", url, timeouts=timeouts)])) as (gateway, engine):
        engine.script(script)
        answer = ask(gateway, STREAM)
        assert code.encode() in answer.body
        eventually(lambda: engine.calls[0].ended == "gone")
        assert one_end_for_each_intent(gateway)[0].code == code


def test_a_source_that_cannot_be_connected_times_out() -> None:
    blackhole = "http://198.51.100.1:9"  # TEST-NET-2: nobody there
    world = World([source("far", blackhole, timeouts=Timeouts(connect_ms=200))])
    with WorkerHarness(world) as gateway:
        answer = ask(gateway, CHAT)
        assert answer.status in (502, 504)
        assert one_end_for_each_intent(gateway)[0].state == "failed"


def test_a_call_on_a_source_that_was_changed_meanwhile_still_times_out() -> None:
    with serving(lambda url: World([source("s", url, timeouts=QUICK)])) as (gateway, engine):
        engine.default = faults.never_answers()
        answer: list[Answer] = []
        from threading import Thread

        caller = Thread(target=lambda: answer.append(ask(gateway, CHAT)))
        caller.start()
        eventually(lambda: engine.calls)
        gateway.change(
            World(
                [source("s", engine.base_url, timeouts=QUICK, limits=SourceLimits(concurrency=7))],
                people=gateway.world.people,
            )
        )
        caller.join(2 * WAIT_S)
        assert not caller.is_alive() and answer[0].status == 504


def test_a_breaker_opens_and_closes_again() -> None:
    with serving(breaker_failures=3, breaker_open_ms=3000) as (gateway, engine):
        engine.script(*[answers.error(500)] * 3)
        assert [ask(gateway, CHAT).status for _ in range(3)] == [502] * 3
        refused = ask(gateway, CHAT)
        assert refused.status == 503 and refused.error["code"] == "no_candidate"
        assert len(engine.calls) == 3
        assert "circuit breaker" in refused.error["message"] or "breaker" in str(
            gateway.records_of(Refusal)[-1].reasons
        )
        time.sleep(3.1)
        assert ask(gateway, CHAT).status == 200
        assert ask(gateway, CHAT).status == 200


def test_a_failed_probe_opens_the_breaker_again() -> None:
    with serving(breaker_failures=2, breaker_open_ms=3000) as (gateway, engine):
        engine.script(*[answers.error(500)] * 3)
        assert [ask(gateway, CHAT).status for _ in range(2)] == [502] * 2
        time.sleep(3.1)
        assert ask(gateway, CHAT).status == 502
        assert ask(gateway, CHAT).status == 503
        assert len(engine.calls) == 3


@pytest.mark.parametrize("script", [answers.error(400), answers.error(429)])
def test_what_is_not_the_sources_fault_opens_no_breaker(script: Script) -> None:
    with serving(breaker_failures=2) as (gateway, engine):
        engine.script(*[script] * 4)
        statuses = {ask(gateway, CHAT).status for _ in range(4)}
        assert statuses <= {400, 429} and len(engine.calls) == 4
        assert ask(gateway, CHAT).status == 200


def test_a_retry_after_keeps_calls_away_for_that_time() -> None:
    with serving() as (gateway, engine):
        engine.script(answers.error(503, retry_after="3"))
        assert [ask(gateway, CHAT).status for _ in range(3)] == [502, 503, 503]
        assert len(engine.calls) == 1
        time.sleep(3.1)
        assert ask(gateway, CHAT).status == 200


def test_no_more_than_the_cap_are_in_flight_and_the_rest_go_elsewhere() -> None:
    from threading import Thread

    def world(url: str, other: str) -> World:
        return World([source("a", url, limits=SourceLimits(concurrency=2)), source("b", other, labels=_cloud())])

    with ScriptedEngine(models=("m",)).in_thread() as other, ScriptedEngine(models=("m",)).in_thread() as engine:
        all_are_there = threading.Event()
        engine.default = when(all_are_there, answers.answer())
        with WorkerHarness(world(engine.base_url, other.base_url)) as gateway:
            found: list[Answer] = []
            callers = [Thread(target=lambda: found.append(ask(gateway, CHAT))) for _ in range(6)]
            for caller in callers:
                caller.start()
            eventually(lambda: len(engine.calls) == 2 and len(found) == 4)
            all_are_there.set()
            for caller in callers:
                caller.join(2 * WAIT_S)
            assert [a.status for a in found] == [200] * 6
            assert (len(engine.calls), len(other.calls)) == (2, 4)
            assert gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_a"))) == 0


@pytest.mark.parametrize(
    ("owner", "name", "script"),
    [
        (attempt, "decode_answer", None),
        (Run, "answered", None),
        (Run, "stream_complete", answers.answer()),
        (Relay, "finish", faults.ends_without_done()),
    ],
    ids=["decoding", "answered", "a stream's last event", "a stream's end"],
)
def test_a_defect_of_ours_at_the_end_of_an_answer_fails_the_call_and_no_other(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, script: Script | None
) -> None:
    """Whatever raises when an answer has been heard to its end: the caller is told, and it is on record."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    with serving() as (gateway, engine):
        monkeypatch.setattr(owner, name, broken)
        engine.script(script or answers.answer())
        answer = ask(gateway, CHAT if script is None else STREAM)
        if script is None:
            assert answer.status == 502 and answer.error["code"] == "internal_error"
        else:
            assert b"internal_error" in answer.body and b"[DONE]" not in answer.body
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.code) == ("failed", "internal_error")
        assert "a defect" not in answer.body.decode() + outcome.words
        monkeypatch.undo()
        assert ask(gateway, CHAT).status == 200
        one_end_for_each_intent(gateway)


def test_without_another_source_a_full_one_is_said_to_be_full() -> None:
    from threading import Thread

    def world(url: str) -> World:
        return World([source("a", url, limits=SourceLimits(concurrency=1))])

    with serving(world, queue_wait_ms_interactive=0) as (gateway, engine):
        refused = threading.Event()
        engine.script(when(refused, answers.answer()))
        caller = Thread(target=lambda: ask(gateway, CHAT))
        caller.start()
        eventually(lambda: engine.calls)
        answer = ask(gateway, CHAT)
        assert answer.status == 503 and "no seat is free" in answer.error["message"]
        assert answer.headers["retry-after"] == "1"
        refused.set()
        caller.join(2 * WAIT_S)
        assert ask(gateway, CHAT).status == 200
        one_end_for_each_intent(gateway)


def test_a_call_that_finds_all_connections_in_use_is_told_to_come_again() -> None:
    from threading import Thread

    with serving(pool_connections_max=1) as (gateway, engine):
        refused = threading.Event()
        engine.script(when(refused, answers.answer()))
        caller = Thread(target=lambda: ask(gateway, CHAT))
        caller.start()
        eventually(lambda: engine.calls)
        answer = ask(gateway, CHAT)
        assert answer.status == 503 and "connections" in answer.error["message"]
        assert answer.headers["retry-after"] == "1"
        refused.set()
        caller.join(2 * WAIT_S)
        assert ask(gateway, CHAT).status == 200
        one_end_for_each_intent(gateway)
