"""An Ollama server behind OpenAI's dialect: a scripted server, as its API reference has it, and the `openai` SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from interlock.testing import ollama
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import CLOSE, chunk, steps
from interlock.types.record import AttemptEnd, Chunk, Outcome
from interlock.types.source import SourceKind, SourceLimits, Timeouts
from tests.gateway import WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import CHAT, WAIT_S, ask, events, serving

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
TOOL: Any = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object"}}}
PIXEL = "data:image/png;base64,AAAA"
ABILITIES = ("chat", "completions", "embeddings", "tools", "json_schema", "logprobs", "vision", "thinking")


def at_ollama(name: str, url: str, **fields: Any) -> Any:
    """An Ollama source as control compiles it."""
    return source(name, url, model(abilities=ABILITIES), **{"kind": SourceKind.ollama, "api_prefix": "/api", **fields})


def world(url: str) -> World:
    return World([at_ollama("local", url)], policies=[permit_all(features=("use_images", "fetch_remote", "multiply"))])


@pytest.fixture
def served() -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    with (
        serving(world, ScriptedEngine(kind="ollama", models=("m",))) as (gateway, engine),
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=WAIT_S) as client,
    ):
        yield client, gateway, engine


Served = tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]


def test_a_chat_whole_and_streamed(served: Served) -> None:
    client, gateway, engine = served
    engine.default = ollama.answer("It works well.", thinking="Let me see.")
    whole = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=50, seed=7, stop=["x"])
    assert whole.choices[0].message.content == "It works well."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].message.reasoning_content == "Let me see."  # type: ignore[attr-defined]
    assert whole.usage is not None and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (11, 3)
    sent = engine.calls[0]
    assert sent.path == "/api/chat"
    assert sent.json["options"] == {"seed": 7, "stop": ["x"], "num_predict": 50}
    assert (sent.json["stream"], sent.json["truncate"], sent.json["shift"]) == (False, False, False)

    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It works well."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
    assert len({c.id for c in chunks}) == 1
    first, second = gateway.records_of(Outcome)
    assert (first.state, second.state) == ("completed", "completed")
    assert (second.usage.prompt_tokens, second.usage.completion_tokens, second.usage.origin) == (11, 3, "engine")
    assert "".join(c.text for c in gateway.records_of(Chunk)) == "It works well."


def test_usage_that_was_not_asked_for_stays_here_and_what_was_not_counted_is_not_nothing(served: Served) -> None:
    _, gateway, engine = served
    engine.script(ollama.answer("Well."), ollama.answer("Well.", usage=False))
    for _ in range(2):
        found = events(ask(gateway, {**CHAT, "stream": True, "max_tokens": 40}).body)
        assert all("usage" not in event for event in found[:-1]) and found[-1] == "[DONE]"
    counted, uncounted = gateway.records_of(Outcome)
    assert (counted.usage.origin, counted.usage.prompt_tokens) == ("engine", 11)
    assert (uncounted.usage.origin, uncounted.usage.completion_tokens) == ("reserved", 40)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(served: Served, streamed: bool) -> None:
    client, _, engine = served
    engine.default = ollama.answer("", tools=[("switch", {"to": "left"}), ("switch", {"to": "right"})])
    given: Any = {"model": "m", "messages": MESSAGES, "tools": [TOOL]}
    if streamed:
        with client.chat.completions.stream(**given) as stream:
            stream.until_done()
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**given).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"to": "left"}, {"to": "right"}]
    assert len({call.id for call in calls}) == 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
    said: Any = choice.message.model_dump(exclude_none=True)
    client.chat.completions.create(model="m", messages=[*MESSAGES, said, *results], tools=[TOOL])
    sent = engine.calls[-1].json["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "switch", "arguments": {"to": "left"}}
    assert [m["tool_name"] for m in sent[2:]] == ["switch", "switch"]


def test_images_go_as_base64_and_what_would_be_fetched_is_refused(served: Served) -> None:
    client, gateway, engine = served
    inline: Any = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": inline}])
    assert engine.calls[0].json["messages"] == [{"role": "user", "content": "What is it?", "images": ["AAAA"]}]
    remote: Any = [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": remote}])
    assert refused.value.code == "untranslatable"
    assert len(engine.calls) == 1
    assert gateway.records_of(AttemptEnd)[-1].code == "untranslatable"


def test_what_is_untranslatable_goes_to_a_source_that_can_and_opens_no_breaker() -> None:
    with ScriptedEngine(kind="ollama", models=("m",)).in_thread() as server, ScriptedEngine().in_thread() as other:
        sources = [
            at_ollama("local", server.base_url, limits=SourceLimits(waiting_max=2)),
            source("other", other.base_url, limits=SourceLimits(waiting_max=9)),
        ]
        with WorkerHarness(World(sources), breaker_failures=3) as gateway:
            forced = {**CHAT, "tools": [TOOL], "tool_choice": "required"}
            assert ask(gateway, forced).status == 200
            assert gateway.records_of(AttemptEnd)[0].code == "untranslatable" and len(other.calls) == 1
            for _ in range(4):
                assert ask(gateway, {**forced, "model": "local::m"}).error["code"] == "untranslatable"
            assert not server.calls
            assert ask(gateway, {**CHAT, "model": "local::m"}).status == 200


def test_formats_and_thinking(served: Served) -> None:
    client, _, engine = served
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    client.chat.completions.create(model="m", messages=MESSAGES, response_format=form, reasoning_effort="low")
    client.chat.completions.create(
        model="m", messages=MESSAGES, response_format={"type": "json_object"}, reasoning_effort="none"
    )
    first, second = (call.json for call in engine.calls)
    assert (first["format"], first["think"]) == (schema, "low")
    assert (second["format"], second["think"]) == ("json", False)


def test_completions_are_raw_unless_they_fill_in(served: Served) -> None:
    client, _, engine = served
    done = client.completions.create(model="m", prompt="Once", max_tokens=5)
    assert done.choices[0].text == "A signal at danger must not be passed without authority."
    text = "".join(c.choices[0].text for c in client.completions.create(model="m", prompt="Once", stream=True))
    assert text == done.choices[0].text
    client.completions.create(model="m", prompt="def f():", suffix="return 1")
    raw, _, filled = (call.json for call in engine.calls)
    assert [call.path for call in engine.calls] == ["/api/generate"] * 3
    assert raw["raw"] is True and raw["prompt"] == "Once"
    assert "raw" not in filled and filled["suffix"] == "return 1"


def test_embeddings_in_both_encodings(served: Served) -> None:
    client, gateway, engine = served
    encoded = client.embeddings.create(model="m", input=["one", "three words here"])
    plain = client.embeddings.create(model="m", input=["one", "three words here"], encoding_format="float")
    assert (
        [e.embedding for e in encoded.data]
        == [e.embedding for e in plain.data]
        == [[3 / 128, 0.5, -0.25], [0.125, 0.5, -0.25]]
    )
    given = {"model": "m", "input": "one", "encoding_format": "base64"}
    assert isinstance(ask(gateway, given, "/v1/embeddings").json["data"][0]["embedding"], str)
    assert engine.calls[0].json == {"model": "m", "input": ["one", "three words here"], "truncate": False}
    assert gateway.records_of(Outcome)[0].usage.prompt_tokens == 4


def test_errors_whole_and_in_a_stream(served: Served) -> None:
    client, gateway, engine = served
    engine.script(ollama.error(404, "model 'm' not found"), ollama.error(400, "the input exceeds the context length"))
    with pytest.raises(openai.InternalServerError) as missing:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert "not found" in missing.value.message
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert too_long.value.code == "context_length_exceeded"
    engine.script(ollama.broken("It was", "llama runner process has terminated"))
    found = events(ask(gateway, {**CHAT, "stream": True}).body.removesuffix(b"<cut>"))
    assert found[0]["choices"][0]["delta"]["content"] == "It was"
    assert "llama runner process has terminated" in found[-1]["error"]["message"]
    assert gateway.records_of(Outcome)[-1].state == "failed"


def test_an_error_line_before_any_text_goes_on_to_the_next_source() -> None:
    with (
        ScriptedEngine(kind="ollama", models=("m",)).in_thread() as server,
        ScriptedEngine(models=("m",)).in_thread() as other,
    ):
        server.default = steps(ollama.HEAD + chunk(b'{"error":"cannot load"}\n') + chunk(b""))
        sources = [
            at_ollama("local", server.base_url, limits=SourceLimits(waiting_max=2)),
            source("other", other.base_url, limits=SourceLimits(waiting_max=9)),
        ]
        with WorkerHarness(World(sources)) as gateway:
            found = events(ask(gateway, {**CHAT, "stream": True}).body)
            assert found[-1] == "[DONE]" and len(server.calls) == 1 and len(other.calls) == 1


def test_a_stream_that_ends_early_is_not_whole(served: Served) -> None:
    _, gateway, engine = served
    line = b'{"model":"m","created_at":"","message":{"role":"assistant","content":"It"},"done":false}\n'
    engine.script(steps(ollama.HEAD + chunk(line) + chunk(b"")), steps(ollama.HEAD + chunk(line), CLOSE))
    for _ in range(2):
        answer = ask(gateway, {**CHAT, "stream": True})
        assert answer.body.endswith(b"<cut>") and b'"code":"upstream_cut_off"' in answer.body.replace(b" ", b"")


def test_the_sources_options() -> None:
    def told(url: str) -> World:
        timeouts, limits = Timeouts(keep_loaded_ms=-1), SourceLimits(context_tokens=4096)
        return World([at_ollama("local", url, timeouts=timeouts, limits=limits)])

    with serving(told, ScriptedEngine(kind="ollama", models=("m",))) as (gateway, engine):
        ask(gateway, {**CHAT, "num_ctx": 99_999, "top_k": 3})
        ask(gateway, {"model": "m", "input": "one"}, "/v1/embeddings")
    chat, embed = (call.json for call in engine.calls)
    assert chat["keep_alive"] == embed["keep_alive"] == -1
    assert chat["options"]["num_ctx"] == embed["options"]["num_ctx"] == 4096
    assert chat["options"]["top_k"] == 3 and chat["options"]["num_predict"] > 0


def test_a_cold_model_may_take_as_long_as_loading_takes() -> None:
    engine = ScriptedEngine(kind="ollama", models=("m",), default=ollama.answer(delay_ms=600))
    with serving(world, engine, first_event_timeout_ms=100, model_load_timeout_ms=4000) as (gateway, _):
        assert ask(gateway, {**CHAT, "stream": True}).status == 200
    engine = ScriptedEngine(kind="ollama", models=("m",), default=ollama.answer(delay_ms=2000))
    with serving(world, engine, first_event_timeout_ms=100, model_load_timeout_ms=100) as (gateway, _):
        assert ask(gateway, {**CHAT, "stream": True}).error["code"] == "first_event_timeout"
