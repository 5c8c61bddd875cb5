"""Anthropic's dialect at a whole worker: the `anthropic` SDK before sources of OpenAI's form, the `openai` SDK before a
source of Anthropic's, and the dialect on both sides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from interlock.ledger.entry import call_entry
from interlock.ledger.fold import records_of
from interlock.ledger.vault import SubjectKey
from interlock.testing import answers, faults, messages
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import STREAM_HEAD, chunk, event
from interlock.types.budget import Budget
from interlock.types.identity import LimitSet
from interlock.types.record import AttemptEnd, Chunk, Intent, Outcome, Refusal
from interlock.types.source import SourceKind
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import WAIT_S, Answer, ask, eventually, serving

PATH = "/v1/messages"
SAID: Any = [{"role": "user", "content": "Say something."}]
HELLO: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": SAID}
TOOL: Any = {"name": "switch", "description": "Throws one.", "input_schema": {"type": "object", "properties": {}}}
PIXEL: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
CALLS = Budget("bdg_1", "ten_acme", "calls", "tenant", ("ten_acme",), "calls", 1)
Served = tuple[anthropic.Anthropic, WorkerHarness, ScriptedEngine]


def world(url: str) -> World:
    return World([source("local", url)], policies=[permit_all(features=("use_images",))])


def sdk(gateway: WorkerHarness) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key(), max_retries=0, timeout=WAIT_S)


def claude(engine: ScriptedEngine) -> ScriptedEngine:
    engine.default = messages.message({"type": "text", "text": "It works."})
    return engine


def claude_world(url: str, **fields: Any) -> World:
    kind = {"kind": SourceKind.anthropic, **fields}
    return World([source("claude", url, **kind)], policies=[permit_all(features=("use_images", "fetch_remote"))])


@pytest.fixture
def served() -> Iterator[Served]:
    """The SDK before a source of OpenAI's form."""
    with serving(world) as (gateway, engine), sdk(gateway) as client:
        yield client, gateway, engine


@pytest.fixture
def native() -> Iterator[Served]:
    """The SDK before a source of its own dialect."""
    engine = claude(ScriptedEngine(kind="anthropic", models=("m",)))
    with serving(claude_world, engine) as (gateway, _), sdk(gateway) as client:
        yield client, gateway, engine


@pytest.fixture
def outside() -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    """OpenAI's SDK before a source of Anthropic's dialect."""
    engine = claude(ScriptedEngine(kind="anthropic", models=("m",)))
    with (
        serving(claude_world, engine) as (gateway, _),
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=WAIT_S) as client,
    ):
        yield client, gateway, engine


# -- the face


def test_a_message(served: Served) -> None:
    client, gateway, engine = served
    engine.script(answers.answer(cached_tokens=1))
    raw = client.messages.with_raw_response.create(**HELLO, system="Be brief.", stop_sequences=["END"])
    message = raw.parse()
    assert message.content[0].type == "text" and message.content[0].text == answers.TEXT
    assert (message.role, message.type, message.stop_reason, message.model) == ("assistant", "message", "end_turn", "m")
    assert raw.headers["request-id"] == raw.headers["x-interlock-request-id"]
    assert message.id == "msg_" + raw.headers["request-id"].removeprefix("req_")
    assert message.usage.cache_read_input_tokens == 1
    (outcome,), (intent,) = gateway.records_of(Outcome), gateway.records_of(Intent)
    assert message.usage.input_tokens == outcome.usage.prompt_tokens - 1
    assert (intent.dialect, json.loads(intent.body)["system"]) == ("anthropic", "Be brief.")
    (call,) = engine.calls
    assert call.path == "/v1/chat/completions"
    asked = [{"role": "system", "content": "Be brief."}, *SAID]
    assert call.json == {"model": "m", "messages": asked, "max_completion_tokens": 100, "stop": ["END"]}


ORDER = [
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
]


def test_the_events_of_a_stream_come_in_their_order(served: Served) -> None:
    _, gateway, _ = served
    answer = ask(gateway, HELLO | {"stream": True}, PATH)
    assert answer.headers["content-type"].startswith("text/event-stream")
    kinds = [line[7:].decode() for line in answer.body.splitlines() if line.startswith(b"event: ")]
    data = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert [each["type"] for each in data] == kinds
    assert list(dict.fromkeys(kinds)) == ORDER and kinds.count("content_block_delta") == len(answers.TEXT.split())
    assert data[0]["message"]["content"] == [] and data[0]["message"]["stop_reason"] is None
    delta = data[-2]
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert set(delta["usage"]) == {
        "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"
    }  # fmt: skip


def test_the_streaming_helper(served: Served) -> None:
    client, gateway, _ = served
    with client.messages.stream(**HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answers.TEXT and final.stop_reason == "end_turn" and final.usage.output_tokens == 10
    eventually(lambda: gateway.records_of(Outcome))
    assert "".join(c.text for c in gateway.records_of(Chunk)) == answers.TEXT


def test_streams_side_by_side(served: Served) -> None:
    _, gateway, _ = served

    async def one(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(**HELLO) as stream:
            return await stream.get_final_text()

    async def main() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=gateway.url, auth_token=gateway.key(), max_retries=0) as client:
            return await asyncio.gather(*(one(client) for _ in range(8)))

    assert asyncio.run(main()) == [answers.TEXT] * 8


@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_tools_and_their_results(served: Served, streamed: bool) -> None:
    client, _, engine = served
    engine.script(answers.answer(tools=[("switch", {"to": "left"}), ("switch", {"to": "right"})]))
    asked: dict[str, Any] = {**HELLO, "tools": [TOOL], "tool_choice": {"type": "any"}}
    if streamed:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    uses = [b for b in message.content if b.type == "tool_use"]
    assert [use.input for use in uses] == [{"to": "left"}, {"to": "right"}]
    assert message.stop_reason == "tool_use" and len({use.id for use in uses}) == 2
    sent = engine.calls[0].json
    assert sent["tool_choice"] == "required" and sent["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    results: Any = [
        {"type": "tool_result", "tool_use_id": uses[0].id, "content": "done"},
        {"type": "tool_result", "tool_use_id": uses[1].id, "is_error": True,
         "content": [{"type": "text", "text": "stuck"}, PIXEL]},
        {"type": "text", "text": "Go on."},
    ]  # fmt: skip
    said: Any = message.content
    client.messages.create(**HELLO | {"messages": [*SAID, {"role": "assistant", "content": said},
                                                   {"role": "user", "content": results}]}, tools=[TOOL])  # fmt: skip
    turns = engine.calls[1].json["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert [json.loads(c["function"]["arguments"]) for c in turns[1]["tool_calls"]] == [{"to": "left"}, {"to": "right"}]
    assert [turn["content"] for turn in turns[2:4]] == ["done", "Error: stuck"]
    assert turns[2]["tool_call_id"] == uses[0].id
    assert turns[4]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "Go on."},
    ]


def reasoning(received: Any) -> Iterator[bytes]:
    deltas: list[dict[str, Any]] = [{"reasoning_content": "Let me see. "}, {"content": "Green."}]
    yield STREAM_HEAD
    for delta in deltas:
        yield event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    finish = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}
    yield event({"model": "m", "choices": [finish]})
    yield event("[DONE]") + chunk(b"")


def test_thoughts_are_shown_to_who_asks_for_them(served: Served) -> None:
    client, gateway, engine = served
    engine.script(reasoning, reasoning)
    with client.messages.stream(**HELLO, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        shown = stream.get_final_message()
    with client.messages.stream(**HELLO) as stream:
        hidden = stream.get_final_message()
    assert [b.type for b in shown.content] == ["thinking", "text"] and [b.type for b in hidden.content] == ["text"]
    assert (shown.stop_reason, shown.stop_sequence) == ("stop_sequence", "END")
    assert b"Let me see." in b"".join(c.raw for c in gateway.records_of(Chunk))
    said: Any = shown.content
    client.messages.create(**HELLO | {"messages": [*SAID, {"role": "assistant", "content": said}, *SAID]})
    assert engine.calls[-1].json["messages"][1] == {
        "role": "assistant", "content": "Green.", "reasoning_content": "Let me see. "
    }  # fmt: skip


def test_a_refusal_of_the_model(served: Served) -> None:
    client, _, engine = served
    engine.script(answers.answer(finish_reason="content_filter"), answers.answer(finish_reason="length"))
    assert client.messages.create(**HELLO).stop_reason == "refusal"
    assert client.messages.create(**HELLO).stop_reason == "max_tokens"


def test_images_are_a_matter_of_policy() -> None:
    remote = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}

    def asked(part: Any) -> dict[str, Any]:
        return HELLO | {"messages": [{"role": "user", "content": [part]}]}

    with serving() as (gateway, engine), sdk(gateway) as client:
        with pytest.raises(anthropic.PermissionDeniedError, match="may not send images"):
            client.messages.create(**asked(PIXEL))
        assert not engine.calls
    with serving(world) as (gateway, engine), sdk(gateway) as client:
        client.messages.create(**asked(PIXEL))
        with pytest.raises(anthropic.PermissionDeniedError, match="may not"):
            client.messages.create(**asked(remote))
        assert len(engine.calls) == 1


# -- errors


def told(answer: Answer) -> tuple[int, str]:
    body = answer.json
    assert set(body) == {"type", "error", "request_id"} and body["type"] == "error" and body["error"]["message"]
    return answer.status, body["error"]["type"]


def test_errors_have_the_dialect_s_shape(served: Served) -> None:
    client, gateway, _ = served
    assert told(ask(gateway, HELLO, PATH, key="")) == (401, "authentication_error")
    both = ask(gateway, HELLO, PATH, x_api_key="il_another")
    assert told(both) == (401, "authentication_error") and "Two different" in both.error["message"]
    assert told(ask(gateway, HELLO | {"model": "no"}, PATH)) == (404, "not_found_error")
    assert told(ask(gateway, b"{", PATH)) == (400, "invalid_request_error")
    assert told(ask(gateway, None, PATH, method="GET")) == (405, "invalid_request_error")
    assert told(ask(gateway, HELLO, "/v1/messages/batches")) == (501, "invalid_request_error")
    assert told(ask(gateway, None, "/v1/nothing", method="GET", anthropic_version="2023-06-01"))[0] == 404
    assert told(ask(gateway, None, "/v1/models", method="GET", key="", anthropic_version="2023-06-01"))[0] == 401
    refused = ask(gateway, HELLO | {"max_tokens": 0}, PATH)
    assert refused.json["request_id"] == refused.headers["request-id"]
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**HELLO | {"model": "no"})
    assert caught.value.request_id is not None
    assert int(caught.value.request_id.rpartition("_")[2], 16) == gateway.records_of(Refusal)[-1].call


def test_a_body_that_is_too_large() -> None:
    with serving(world, body_bytes_max=1000) as (gateway, _):
        big = HELLO | {"messages": [{"role": "user", "content": "x" * 2000}]}
        assert told(ask(gateway, big, PATH)) == (413, "request_too_large")


def test_limits_and_failing_sources() -> None:
    few = Who(key_limits=LimitSet(requests_per_minute=3))
    with serving(lambda url: World([source("s", url)], [few])) as (gateway, engine), sdk(gateway) as client:
        engine.script(answers.error(500))
        with pytest.raises(anthropic.InternalServerError) as failed:
            client.messages.create(**HELLO)
        assert failed.value.status_code == 502
        engine.script(answers.error(503))
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            client.messages.create(**HELLO)
        assert (overloaded.value.status_code, overloaded.value.type) == (502, "api_error")
        client.messages.create(**HELLO)
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(**HELLO)


def test_a_source_that_breaks_in_a_stream(served: Served) -> None:
    client, gateway, engine = served
    engine.default = faults.dies_mid_stream(3)
    body = ask(gateway, HELLO | {"stream": True}, PATH).body
    assert body.endswith(b"<cut>") and b"event: message_stop" not in body
    assert b'event: error\ndata: {"type":"error","error":{"type":"api_error"' in body
    with pytest.raises(anthropic.APIStatusError) as caught, client.messages.stream(**HELLO) as stream:
        stream.get_final_message()
    assert caught.value.request_id is not None


# -- ours


def test_extensions_keys_and_budgets_hold() -> None:
    def limited(url: str) -> World:
        return World([source("s", url)], budgets=[CALLS])

    with serving(limited) as (gateway, engine):
        gateway.purse = {CALLS.id: 1}
        own = {"interlock": {"purpose": "testing", "data_class": "confidential"}}
        first = ask(gateway, HELLO | own, PATH, idempotency_key="k1")
        again = ask(gateway, HELLO | own, PATH, idempotency_key="k1")
        assert first.status == 200 and first.json["type"] == "message"
        assert again.body == first.body and again.headers["x-interlock-replayed"] == "true" and len(engine.calls) == 1
        (intent,) = gateway.records_of(Intent)
        assert intent.features.purpose == "testing" and int(intent.features.data_class) == 2
        assert "interlock" not in engine.calls[0].json
        assert told(ask(gateway, HELLO, PATH)) == (429, "rate_limit_error")


def test_models_in_the_dialect(served: Served) -> None:
    client, gateway, _ = served
    assert [m.id for m in client.models.list()] == ["m"]
    assert client.models.retrieve("m").display_name == "m"
    assert ask(gateway, None, "/v1/models", method="GET").json["object"] == "list"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no")


def test_a_long_conversation_is_stored_once(served: Served) -> None:
    """Each turn of a conversation repeats all before it: what is new of it is what its entry adds."""
    client, gateway, _ = served
    turns: list[Any] = []
    for n in range(40):
        turns.append({"role": "user", "content": [{"type": "text", "text": f"Question {n}. " + "x" * 400}]})
        client.messages.create(**HELLO | {"messages": turns}, system="s" * 4000, tools=[TOOL])
        turns.append({"role": "assistant", "content": [{"type": "text", "text": f"Answer {n}."}]})
    key, stored = SubjectKey(bytes(32)), set[bytes]()
    new, systems = [], set[str]()
    for intent, outcome in zip(gateway.records_of(Intent), gateway.records_of(Outcome), strict=True):
        draft = call_entry(records_of("e" * 16, intent.call, [intent, outcome]), 1, key)
        new.append(sum(len(each.data) for each in draft.contents if each.id not in stored))
        stored |= {each.id for each in draft.contents}
        systems |= {each["id"] for each in draft.leaf["contents"] if each["role"] == "system"}
        assert next(each["count"] for each in draft.leaf["contents"] if each["role"] == "messages") == len(new) * 2 - 1
    assert len(systems) == 1
    assert max(new[30:]) < 1.2 * max(new[1:10]), new


# -- how many tokens


def test_tokens_are_counted_by_who_can(native: Served) -> None:
    client, gateway, engine = native
    engine.script(messages.count(123))
    assert client.messages.count_tokens(model="m", messages=SAID, system="Be brief.").input_tokens == 123
    (call,) = engine.calls
    assert call.path == "/v1/messages/count_tokens" and call.json == {
        "model": "m", "messages": SAID, "system": "Be brief."
    }  # fmt: skip
    (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
    assert intent.dialect == "anthropic/count_tokens" and outcome.usage.total_tokens == 0
    assert intent.features.completion_tokens_max == 0


def test_no_count_is_made_up(served: Served) -> None:
    _, gateway, engine = served
    asked = {"model": "m", "messages": SAID}
    assert told(ask(gateway, asked, "/v1/messages/count_tokens")) == (501, "invalid_request_error")
    assert not engine.calls
    assert told(ask(gateway, asked | {"model": "no"}, "/v1/messages/count_tokens")) == (404, "not_found_error")


# -- sources of the dialect


def test_openai_before_anthropic(outside: tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]) -> None:
    client, gateway, engine = outside
    engine.script(messages.message({"type": "text", "text": "It works."}, cache_read=7, cache_written=5))
    said: Any = [{"role": "system", "content": "Be brief."}, *SAID]
    answer = client.chat.completions.create(model="m", messages=said, temperature=1.5, stop="END")
    assert answer.choices[0].message.content == "It works." and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (37, 15)
    (call,) = engine.calls
    assert call.path == "/v1/messages" and call.header("anthropic-version") == "2023-06-01"
    assert call.json == {
        "model": "m", "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say something."}]}],
        "system": "Be brief.", "temperature": 1, "stop_sequences": ["END"],
    }  # fmt: skip
    (outcome,) = gateway.records_of(Outcome)
    assert (outcome.usage.cached_tokens, outcome.usage.cache_write_tokens) == (7, 5)


def test_openai_streams_from_anthropic(outside: tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]) -> None:
    client, gateway, engine = outside
    thought = {"type": "thinking", "thinking": "A switch is needed.", "signature": "c2ln"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "switch", "input": {"to": "left"}}
    engine.script(messages.message(thought, use, {**use, "id": "toolu_2", "input": {}}, stop_reason="tool_use"))
    function: Any = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object"}}}
    said: Any = [{"role": "user", "content": [{"type": "text", "text": "Left."},
                  {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]  # fmt: skip
    chunks = list(
        client.chat.completions.create(model="m", messages=said, tools=[function], stream=True, max_tokens=50)
    )
    calls: dict[int, str] = {}
    for each in chunks:
        for call in each.choices[0].delta.tool_calls or ():
            assert call.function is not None
            calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
    assert [json.loads(text) for text in calls.values()] == [{"to": "left"}, {}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[0].choices[0].delta.role == "assistant"
    sent = engine.calls[0].json
    assert sent["max_tokens"] == 50 and sent["tools"] == [{"name": "switch", "input_schema": {"type": "object"}}]
    assert sent["messages"][0]["content"][1] == PIXEL
    (outcome,) = gateway.records_of(Outcome)
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (25, 15)


@pytest.mark.parametrize("stream", [False, True])
def test_an_overloaded_source_is_passed_over(stream: bool) -> None:
    engine = claude(ScriptedEngine(kind="anthropic", models=("m",)))
    with engine.in_thread(), WorkerHarness(
        World([source("a", engine.base_url, kind=SourceKind.anthropic), source("b", engine.base_url,
               kind=SourceKind.anthropic)])
    ) as gateway:  # fmt: skip
        first = messages.failure(529, "overloaded_error")
        start = messages.event("message_start", message={"id": "m", "model": "m", "usage": {}})
        broken = messages.event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        begun = [STREAM_HEAD, chunk(start), chunk(broken), chunk(b"")]
        engine.script(first if not stream else lambda _: iter(begun))
        answer = ask(gateway, {"model": "m", "messages": SAID, "stream": stream})
        assert answer.status == 200 and len(engine.calls) == 2
        assert [end.code for end in gateway.records_of(AttemptEnd)] == ["upstream_overloaded"]


def test_an_error_in_the_midst_of_a_stream(native: Served) -> None:
    client, gateway, engine = native
    engine.default = messages.message({"type": "text", "text": "It wor"}, breaks_with="overloaded_error")
    with pytest.raises(anthropic.APIError), client.messages.stream(**HELLO) as stream:
        stream.get_final_message()
    eventually(lambda: gateway.records_of(Outcome))
    assert [(o.state, o.code) for o in gateway.records_of(Outcome)] == [("failed", "upstream_overloaded")]
    answer = ask(gateway, {"model": "m", "messages": SAID, "stream": True})
    assert b'"code": "upstream_overloaded"' in answer.body and b"It wor" in answer.body


def test_what_cannot_be_said_to_a_source_is_its_caller_s_fault_alone(
    outside: tuple[openai.OpenAI, WorkerHarness, ScriptedEngine],
) -> None:
    client, _, engine = outside
    for _ in range(12):
        with pytest.raises(openai.BadRequestError, match="schema"):
            client.chat.completions.create(model="m", messages=SAID, response_format={"type": "json_object"})
    assert not engine.calls, "and its breaker stays closed"
    assert client.chat.completions.create(model="m", messages=SAID).choices[0].message.content == "It works."


# -- the dialect on both sides


def test_what_only_the_dialect_has_survives(native: Served) -> None:
    client, gateway, engine = native
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}
    engine.default = messages.message(thought, {"type": "text", "text": "It works."}, cache_read=3)
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    past: Any = [*SAID, {"role": "assistant", "content": [thought, {"type": "text", "text": "No."}]}, *SAID]
    asked: dict[str, Any] = {**HELLO, "messages": past, "system": system, "thinking": thinking, "max_tokens": 2000}
    betas = {"anthropic-beta": "interleaved-thinking-2025-05-14, code-execution-2025-08-25"}
    message = client.messages.create(**asked, extra_headers=betas)
    (call,) = engine.calls
    usual = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert call.json == asked | {"system": usual}, "an hour of a cache has a price of its own"
    assert call.header("anthropic-beta") == "interleaved-thinking-2025-05-14"
    assert message.content[0].to_dict() == thought and message.id == messages.MESSAGE_ID
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    assert [b.type for b in final.content] == ["thinking", "text"] and final.content[0].to_dict() == thought
    for outcome in gateway.records_of(Outcome):
        assert (outcome.usage.prompt_tokens, outcome.usage.cached_tokens) == (28, 3)
        assert outcome.finish_reasons == ("stop",)


def test_thoughts_of_other_sources_are_not_shown_to_a_provider(native: Served) -> None:
    client, _, engine = native
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}
    unsigned = {"type": "thinking", "thinking": "Well.", "signature": ""}
    text = {"type": "text", "text": "No."}
    past: Any = [*SAID, {"role": "assistant", "content": [signed, unsigned, text]}, {"role": "assistant",
                 "content": [unsigned]}, *SAID]  # fmt: skip
    client.messages.create(**HELLO | {"messages": past})
    assert engine.calls[0].json["messages"] == [*SAID, {"role": "assistant", "content": [signed, text]}, *SAID]


def test_natively_bytes_pass_as_they_came(native: Served) -> None:
    _, gateway, engine = native
    delta = {"type": "text_delta", "text": "!"}
    odd = messages.event("content_block_delta", index=0, delta=delta, unknown=1).replace(b": ", b":   ")
    head = {"id": "msg_9", "type": "message", "role": "assistant", "model": "m"}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    text = [{"type": "text", "text": "Hello."}]
    usage = {"input_tokens": 1, "output_tokens": 2}
    events = list(messages.stream(text, head, end, usage))
    events.insert(4, odd)
    engine.script(lambda _: iter([STREAM_HEAD, *map(chunk, events), chunk(b"")]))
    answer = ask(gateway, HELLO | {"stream": True}, PATH)
    assert answer.body == b"".join(events)
    assert "".join(c.text for c in gateway.records_of(Chunk)) == "Hello.!"


def test_a_stream_is_ended_at_its_bound(native: Served) -> None:
    client, gateway, engine = native
    budget = Budget("bdg_t", "ten_acme", "tokens", "tenant", ("ten_acme",), "tokens", 100_000)
    gateway.change(World(claude_world(engine.base_url).sources, gateway.world.people, budgets=[budget]))
    gateway.purse = {"bdg_t": 100_000}
    engine.default = messages.message({"type": "text", "text": "word " * 200})
    with client.messages.stream(**HELLO | {"max_tokens": 10}) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "max_tokens" and len(final.content[0].text) < 200  # type: ignore[union-attr]
    eventually(lambda: gateway.records_of(Outcome))
    assert gateway.records_of(Outcome)[0].finish_reasons == ("length",)


@pytest.mark.parametrize("stream", [False, True])
def test_after_a_source_of_the_dialect_another_may_answer(stream: bool) -> None:
    """What failed natively leaves nothing behind: the next source's answer is translated."""
    failing, spare = ScriptedEngine(kind="anthropic", models=("m",)), ScriptedEngine(kind="openai", models=("m",))
    start = messages.event("message_start", message={"id": "m", "model": "m", "usage": {}})
    broken = messages.event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    begun = [STREAM_HEAD, chunk(start), chunk(broken), chunk(b"")]
    failing.default = (lambda _: iter(begun)) if stream else messages.failure(500, "api_error")
    with failing.in_thread(), spare.in_thread():
        first = source("a", failing.base_url, model(quality_milli=1000), kind=SourceKind.anthropic)
        made = World([first, source("b", spare.base_url, model(quality_milli=1))])
        with WorkerHarness(made) as gateway:
            for _ in range(20):
                answer = ask(gateway, HELLO | {"stream": stream, "interlock": {"mode": "quality"}}, PATH)
                assert answer.status == 200 and b"chat.completion" not in answer.body
                assert answer.body.startswith(b"event: message_start" if stream else b'{"id":"msg_')
                if failing.calls:
                    break
            assert failing.calls and gateway.records_of(AttemptEnd)
