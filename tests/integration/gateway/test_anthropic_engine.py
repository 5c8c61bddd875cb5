"""The `anthropic` SDK before a real llama.cpp server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from interlock.types.record import Intent, Outcome
from interlock.types.source import SourceKind
from tests.engines import MODEL, Engine, llamacpp
from tests.gateway import WorkerHarness, World, model, source

__all__ = ["llamacpp"]
SAID: Any = [{"role": "user", "content": "What is the capital of France?"}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 16, "extra_body": {"temperature": 0}, "messages": SAID}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def gateway(llamacpp: Engine) -> Iterator[WorkerHarness]:
    made = source("local", llamacpp.base_url, model(MODEL, context_length=4096), kind=SourceKind.llamacpp)
    with WorkerHarness(World([made])) as harness:
        yield harness


@pytest.fixture(scope="module")
def client(gateway: WorkerHarness) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key(), max_retries=0, timeout=60) as made:
        yield made


def test_a_message_and_its_stream_say_the_same(client: anthropic.Anthropic, gateway: WorkerHarness) -> None:
    whole = client.messages.create(**ASK)
    with client.messages.stream(**ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text" and text == whole.content[0].text and text
    assert final.stop_reason == whole.stop_reason in ("end_turn", "max_tokens")
    assert 0 < final.usage.output_tokens == whole.usage.output_tokens <= 16
    counts = [u.input_tokens + (u.cache_read_input_tokens or 0) for u in (whole.usage, final.usage)]
    assert counts == [o.usage.prompt_tokens for o in gateway.records_of(Outcome)[-2:]]
    assert {intent.dialect for intent in gateway.records_of(Intent)[-2:]} == {"anthropic"}


def test_the_bound_is_kept(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**ASK | {"max_tokens": 3})
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 3


def test_the_engine_counts_as_it_will_charge(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": SAID, "system": "Be brief."}
    counted = client.messages.count_tokens(**asked).input_tokens
    usage = client.messages.create(**ASK | asked).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_goes_back(client: anthropic.Anthropic, streamed: bool) -> None:
    past: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    use = {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"city": "Rome"}}
    past.append({"role": "assistant", "content": [use]})
    past.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_0", "content": "sunny"}]})
    past.append({"role": "assistant", "content": "It is sunny."})
    past.append({"role": "user", "content": "What is the weather in Paris?"})
    asked: dict[str, Any] = {**ASK, "max_tokens": 60, "messages": past, "tools": [WEATHER]}
    asked["tool_choice"] = {"type": "any"}
    for _ in range(4):  # whether this small model calls the tool is up to it, the first time above all
        if streamed:
            with client.messages.stream(**asked) as stream:
                answer = stream.get_final_message()
        else:
            answer = client.messages.create(**asked)
        uses = [block for block in answer.content if block.type == "tool_use"]
        if uses:
            break
    (called,) = uses
    assert called.name == "weather" and answer.stop_reason == "tool_use"
    assert isinstance(called.input, dict) and isinstance(called.input["city"], str)
    said: Any = [
        *past,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": called.id, "content": "rain"}]},
    ]
    again = client.messages.create(**ASK | {"messages": said, "tools": [WEATHER]})
    assert again.content


def test_an_answer_in_a_schema(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    schema["additionalProperties"] = False
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(**ASK | {"max_tokens": 60}, output_config=form)
    assert answer.content[0].type == "text" and set(json.loads(answer.content[0].text)) == {"city"}


def test_what_does_not_fit_is_refused_in_the_dialect(client: anthropic.Anthropic) -> None:
    long: Any = [{"role": "user", "content": "word " * 6000}]
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**ASK | {"messages": long})
    assert caught.value.status_code in (400, 404, 529, 503) and caught.value.request_id
