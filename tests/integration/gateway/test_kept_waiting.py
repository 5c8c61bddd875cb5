"""Streams that have to wait, for a seat, an engine or a first event, with the official SDKs: they are kept open, which
the SDKs do not notice, and what fails afterwards is told in the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from interlock.testing import answers, messages
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Pause, Received, Step
from interlock.types.record import Attempt, AttemptEnd, Held, Intent, Outcome, Refusal
from interlock.types.source import SourceKind, SourceLimits
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import (
    CHAT,
    WAIT_S,
    Answer,
    ask,
    ask_watching,
    events,
    eventually,
    serving,
    text_of,
)
from tests.ports import free_port

SAID: Any = [{"role": "user", "content": "Say something."}]
STREAM = {**CHAT, "stream": True}
MESSAGE = {"model": "m", "max_tokens": 100, "messages": SAID, "stream": True}
SOON: dict[str, Any] = {"keepalive_comment_ms": 100}
COMMENT, PING = b": keep-alive\n\n", b"event: ping\n"


def gpt(gateway: WorkerHarness) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=WAIT_S)


def claude(gateway: WorkerHarness) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key(), max_retries=0, timeout=WAIT_S)


def early_heads(gateway: WorkerHarness, waits_for: str) -> float:
    text = ask(gateway, None, "/metrics", method="GET").body.decode()
    line = f'interlock_early_heads_total{{waits_for="{waits_for}"}} '
    return next((float(each.removeprefix(line)) for each in text.splitlines() if each.startswith(line)), 0.0)


@contextmanager
def full(
    *, opens: bool = True, engine: ScriptedEngine | None = None, **settings: Any
) -> Iterator[tuple[WorkerHarness, threading.Event]]:
    """A gateway whose only seat is taken by a call, which ends when the event is set: a while after another call's
    stream was kept open, or when the test says so."""
    engine, opened = engine or ScriptedEngine(models=("m",)), threading.Event()
    usual = engine.default

    def holds(received: Received) -> Iterator[Step]:
        while not opened.is_set():
            yield Pause(5)
        yield from usual(received)  # type: ignore[misc]

    def world(url: str) -> World:
        kind = SourceKind.anthropic if engine.kind == "anthropic" else SourceKind.openai
        return World([source("own", url, kind=kind, limits=SourceLimits(concurrency=1))])

    def watch() -> None:
        while opens and not opened.is_set() and not early_heads(gateway, "seat"):
            time.sleep(0.02)
        opened.wait(0.4 if opens else 5 * WAIT_S)
        opened.set()

    with serving(world, engine, **SOON, **settings) as (gateway, _):
        engine.script(holds)
        first, watching = threading.Thread(target=ask, args=(gateway, CHAT)), threading.Thread(target=watch)
        first.start()
        eventually(lambda: engine.calls)
        watching.start()
        try:
            yield gateway, opened
        finally:
            opened.set()
            first.join(2 * WAIT_S)
            watching.join(2 * WAIT_S)


# -- for a seat


def test_openais_sdk_does_not_notice_that_a_stream_waited_for_its_seat() -> None:
    with full() as (gateway, _), gpt(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(model="m", messages=SAID, stream=True)
        assert len(gateway.records_of(Attempt)) == 1, "the head is here while the call waits"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse())
        assert text == answers.TEXT
        assert raw.headers["x-interlock-request-id"] and raw.headers["content-type"].startswith("text/event-stream")
        assert not [name for name in raw.headers if name in ("x-interlock-source", "x-interlock-decision")]
        _, waited = gateway.records_of(Attempt)
        assert (waited.source, waited.waited_ms > 100) == ("own", True)
        assert [o.state for o in gateway.records_of(Outcome)] == ["completed"] * 2
        assert early_heads(gateway, "seat") == 1 and early_heads(gateway, "answer") == 0


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_anthropics_sdk_does_not_notice_either(kind: str) -> None:
    engine = ScriptedEngine(kind=kind, models=("m",))
    if kind == "anthropic":
        engine.default = messages.message({"type": "text", "text": answers.TEXT})
    with full(engine=engine) as (gateway, _), claude(gateway) as client:
        with client.messages.stream(model="m", max_tokens=100, messages=SAID) as stream:
            assert "".join(stream.text_stream) == answers.TEXT
            assert stream.get_final_message().stop_reason == "end_turn"
            assert "x-interlock-source" not in stream.response.headers
        assert early_heads(gateway, "seat") == 1


def seen_twice(gateway: WorkerHarness, opened: threading.Event, body: dict[str, Any], path: str, mark: bytes) -> bytes:
    """The body of an answer whose call waits for its seat until its caller has seen the mark twice."""
    return ask_watching(gateway, body, lambda got: opened.set() if got.count(mark) >= 2 else None, path)


def test_what_is_sent_while_a_call_waits_is_pings_or_comments_and_nothing_else() -> None:
    with full(opens=False) as (gateway, opened):
        said = seen_twice(gateway, opened, MESSAGE, "/v1/messages", PING)
        before, rest = said.split(b"event: message_start", 1)
        assert before == b'event: ping\ndata: {"type": "ping"}\n\n' * before.count(PING) and before.count(PING) >= 2
        assert b"event: message_stop" in rest
    with full(opens=False) as (gateway, opened):
        said = seen_twice(gateway, opened, STREAM, "/v1/chat/completions", COMMENT)
        before = said[: said.index(b"data: ")]
        assert before == COMMENT * before.count(COMMENT) and before.count(COMMENT) >= 2
        assert text_of(events(said)) == answers.TEXT


def test_a_response_begins_once() -> None:
    with full() as (gateway, _), gpt(gateway) as client:
        seen = list(client.responses.create(model="m", input="Say something.", stream=True, store=False))
        assert [each.type for each in seen[:2]] == ["response.created", "response.in_progress"]
        assert [each.type for each in seen].count("response.created") == 1
        assert seen[-1].type == "response.completed" and seen[-1].response.output_text == answers.TEXT


def test_who_gets_no_seat_is_told_in_the_stream_and_the_sdks_raise() -> None:
    short: dict[str, Any] = {"opens": False, "queue_wait_ms_interactive": 1_000}
    with full(**short) as (gateway, _), gpt(gateway) as client:
        stream = client.chat.completions.create(model="m", messages=SAID, stream=True)
        with pytest.raises(openai.APIError, match="No allowed source had a seat") as raised:
            list(stream)
        assert raised.value.code == "queue_timeout"
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.state, outcome.status, outcome.code, outcome.attempt) == ("failed", 503, "queue_timeout", -1)
    with full(**short) as (gateway, _), claude(gateway) as client:
        with (
            pytest.raises(anthropic.APIStatusError, match="No allowed source had a seat"),
            client.messages.stream(model="m", max_tokens=100, messages=SAID) as stream,
        ):
            list(stream)
        assert gateway.records_of(Outcome)[0].code == "queue_timeout"
    with full(**short) as (gateway, _):
        answer = ask(gateway, STREAM)
        assert answer.status == 200 and b"[DONE]" not in answer.body and answer.body.endswith(b"<cut>")
        assert events(answer.body)[0]["error"]["code"] == "queue_timeout"


def test_the_idempotency_key_of_a_call_that_waited_in_vain_is_free_again() -> None:
    with full(opens=False, queue_wait_ms_interactive=1_000) as (gateway, opened):
        answer = ask(gateway, STREAM, idempotency_key="one")
        assert events(answer.body)[0]["error"]["code"] == "queue_timeout"
        opened.set()
        eventually(lambda: len(gateway.records_of(Outcome)) == 2)
        assert text_of(events(ask(gateway, STREAM, idempotency_key="one").body)) == answers.TEXT


def test_a_call_that_is_not_streamed_and_a_dialect_without_comments_keep_their_status() -> None:
    with full(opens=False, queue_wait_ms_interactive=400) as (gateway, _):
        assert (ask(gateway, CHAT).status, ask(gateway, STREAM, "/api/chat").status) == (503, 503)
        assert [early_heads(gateway, each) for each in ("seat", "engine", "answer")] == [0, 0, 0]


# -- for a first event


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_another_source_takes_a_stream_that_was_kept_open_and_the_record_says_which(dialect: str) -> None:
    with ScriptedEngine(models=("m",)).in_thread() as other:

        def world(url: str) -> World:
            return World([source("a", url), source("b", other.base_url)])

        tries: list[Received] = []

        def fails_once(received: Received) -> Iterator[Step]:
            tries.append(received)
            yield Pause(1_000)
            answer = answers.error(500) if len(tries) == 1 else answers.answer()
            yield from answer(received)  # type: ignore[misc]

        with serving(world, **SOON) as (gateway, engine):
            engine.default = other.default = fails_once  # type: ignore[assignment]
            if dialect == "openai":
                with gpt(gateway) as client:
                    raw = client.chat.completions.with_raw_response.create(model="m", messages=SAID, stream=True)
                    said, named = "".join(c.choices[0].delta.content or "" for c in raw.parse()), raw.headers
            else:
                with claude(gateway) as sdk, sdk.messages.stream(model="m", max_tokens=100, messages=SAID) as stream:
                    said, named = "".join(stream.text_stream), stream.response.headers
            assert said == answers.TEXT and len(tries) == 2
            (failed,), (outcome,) = gateway.records_of(AttemptEnd), gateway.records_of(Outcome)
            assert (failed.number, outcome.attempt, outcome.state) == (0, 1, "completed")
            assert not [name for name in named if name in ("x-interlock-source", "x-interlock-model")]
            assert outcome.source == gateway.records_of(Attempt)[1].source
            assert early_heads(gateway, "answer") == 1


def test_a_head_that_leaves_with_the_first_event_names_the_source() -> None:
    with serving(keepalive_comment_ms=60_000) as (gateway, engine):
        engine.default = answers.answer(delay_ms=200)
        assert ask(gateway, STREAM).headers["x-interlock-source"] == "local"
        assert early_heads(gateway, "answer") == 0


# -- for an engine


def test_a_call_that_met_a_dead_engine_is_kept_open_until_the_next_one_is_there() -> None:
    engine = ScriptedEngine(models=("m",), port=free_port())
    with engine.in_thread():
        world = World([source("s", engine.base_url, engine_state="ready")])
    with WorkerHarness(world, **SOON) as gateway, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ask, gateway, STREAM)
        eventually(lambda: early_heads(gateway, "engine") == 1)
        again = ScriptedEngine(models=("m",), port=int(engine.base_url.rsplit(":", 1)[1]))
        (only,) = world.sources
        gateway.change(World([msgspec.structs.replace(only, engine_state="restarting")], world.people))
        time.sleep(0.3)
        with again.in_thread():
            gateway.call(lambda: gateway.board.renew(gateway.board.row("src_s")))
            gateway.change(World([only], world.people))
            answer = waits.result(WAIT_S)
        assert (answer.status, text_of(events(answer.body))) == (200, answers.TEXT)
        assert [a.number for a in gateway.records_of(Attempt)] == [0, 1]


def cold(url: str) -> World:
    return World([source("s", url, engine_state="starting")])


def ready(gateway: WorkerHarness) -> None:
    world = gateway.world
    gateway.change(World([msgspec.structs.replace(s, engine_state="ready") for s in world.sources], world.people))


def held(gateway: WorkerHarness) -> list[Held]:
    """Of the calls whose callers were sent a head: the records."""
    eventually(lambda: early_heads(gateway, "engine") > 0)
    return gateway.records_of(Held)


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_the_sdks_do_not_notice_that_a_stream_waited_for_an_engine(dialect: str) -> None:
    def use(gateway: WorkerHarness) -> str:
        if dialect == "messages":
            with claude(gateway) as sdk, sdk.messages.stream(model="m", max_tokens=100, messages=SAID) as stream:
                return "".join(stream.text_stream)
        with gpt(gateway) as client:
            if dialect == "chat":
                chunks = client.chat.completions.create(model="m", messages=SAID, stream=True)
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            seen = list(client.responses.create(model="m", input="Say.", stream=True, store=False))
            assert [each.type for each in seen].count("response.created") == 1
            assert seen[-1].type == "response.completed"
            return seen[-1].response.output_text

    with serving(cold, **SOON) as (gateway, engine), ThreadPoolExecutor(1) as pool:
        text = pool.submit(use, gateway)
        (record,) = held(gateway)
        assert (record.tenant_id, record.asked) == ("ten_acme", "m")
        assert engine.calls == [] and gateway.records_of(Intent) == []
        ready(gateway)
        assert text.result(WAIT_S) == answers.TEXT
        (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
        assert intent.call == record.call == outcome.call and outcome.state == "completed"
        assert early_heads(gateway, "engine") == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_who_waited_for_an_engine_in_vain_is_told_in_the_stream(path: str) -> None:
    body = {"model": "m", "input": "Say.", "stream": True, "store": False} if "resp" in path else MESSAGE
    with serving(cold, cold_start_wait_ms=1_500, **SOON) as (gateway, engine):
        answer = ask(gateway, body, path)
        assert answer.status == 200 and answer.body.endswith(b"<cut>") and b"[DONE]" not in answer.body
        assert answer.body.startswith(PING if path == "/v1/messages" else COMMENT)
        assert b"engine_starting" in answer.body or b"overloaded_error" in answer.body
        (refusal,) = gateway.records_of(Refusal)
        assert (refusal.code, refusal.status, refusal.call) == (
            "engine_starting",
            503,
            gateway.records_of(Held)[0].call,
        )
        assert engine.calls == []


def test_what_was_revoked_meanwhile_is_refused_in_the_stream() -> None:
    with serving(cold, **SOON) as (gateway, engine), ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ask, gateway, STREAM)
        held(gateway)
        (person,) = gateway.world.people
        person.revoked = True
        ready(gateway)
        answer: Answer = waits.result(WAIT_S)
        assert (answer.status, events(answer.body)[0]["error"]["code"]) == (200, "revoked_api_key")
        assert engine.calls == [] and gateway.records_of(Intent) == []


def test_a_caller_that_goes_away_ends_the_wait() -> None:
    with serving(cold, **SOON) as (gateway, _), gpt(gateway) as client:
        stream = client.chat.completions.create(model="m", messages=SAID, stream=True)
        stream.close()
        eventually(lambda: gateway.records_of(Refusal))
        assert gateway.records_of(Refusal)[0].code == "client_disconnected"
        assert gateway.call(lambda: gateway.worker.runtime.cold) == 0  # type: ignore[union-attr]


def test_no_receipt_is_given_for_a_call_that_is_not_made_yet() -> None:
    with serving(cold, cold_start_wait_ms=400, **SOON) as (gateway, _):
        answer = ask(gateway, STREAM, x_interlock_receipt="true")
        assert (answer.status, answer.error["code"]) == (503, "engine_starting")
        assert answer.headers["x-interlock-receipt"] and gateway.records_of(Held) == []


def test_a_call_that_was_held_waits_for_a_seat_too_under_one_head() -> None:
    with serving(cold, **SOON) as (gateway, engine), ThreadPoolExecutor(2) as pool:
        world = gateway.world
        waits = pool.submit(ask, gateway, STREAM)
        held(gateway)
        seat = [
            msgspec.structs.replace(s, engine_state="ready", limits=SourceLimits(concurrency=1)) for s in world.sources
        ]

        def slow(received: Received) -> Iterator[Step]:
            yield Pause(400)
            yield from answers.answer()(received)  # type: ignore[misc]

        engine.default = slow  # type: ignore[assignment]
        gateway.change(World(seat, [*world.people, Who("bob", tenant="other", team="")]))
        answer = waits.result(WAIT_S)
        assert text_of(events(answer.body)) == answers.TEXT and answer.body.count(b"HTTP/1.1") == 0
        assert (early_heads(gateway, "engine"), early_heads(gateway, "answer")) == (1, 0)
