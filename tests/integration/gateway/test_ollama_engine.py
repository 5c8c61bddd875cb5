"""Ollama's own client before a real engine that is not Ollama: llama.cpp, through the gateway."""

from __future__ import annotations

from typing import Any

import ollama

from interlock.types.record import Outcome
from interlock.types.source import SourceKind
from tests.engines import Engine, llamacpp, tool_example
from tests.gateway import WorkerHarness, World, model, source
from tests.integration.gateway.test_ollama_face import client_of

__all__ = ["llamacpp"]

OPTIONS = {"num_predict": 12, "seed": 1, "temperature": 0.0, "num_ctx": 2048}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def before(engine: Engine) -> WorkerHarness:
    return WorkerHarness(World([source("engine", engine.base_url, model(engine.model), kind=SourceKind.llamacpp)]))


def test_whole_and_streamed_say_the_same(llamacpp: Engine) -> None:
    asked: Any = {"model": llamacpp.model, "messages": [{"role": "user", "content": "Name a colour."}]}
    with before(llamacpp) as gateway, client_of(gateway) as client:
        whole = client.chat(**asked, options=OPTIONS)
        pieces = list(client.chat(**asked, options=OPTIONS, stream=True))
        assert whole.message.content
        assert "".join(p.message.content or "" for p in pieces) == whole.message.content
        assert (pieces[-1].eval_count, pieces[-1].done_reason) == (whole.eval_count, whole.done_reason)
        raw = client.generate(llamacpp.model, "One, two,", raw=True, stream=True, options=OPTIONS)
        assert "".join(p.response for p in raw)
        assert {o.usage.origin for o in gateway.records_of(Outcome)} == {"engine"}


def test_a_tool_is_called(llamacpp: Engine) -> None:
    """The example that the model copies from is in Ollama's form: arguments decoded, results by the tool's name."""
    question, called, result, said = tool_example(
        "weather", {"city": "Oslo"}, "12 degrees", "What is the weather in Oslo?"
    )
    shown = ollama.Message.ToolCall.Function(name="weather", arguments={"city": "Oslo"})
    messages: list[Any] = [
        question,
        {**called, "tool_calls": [{"function": shown.model_dump()}]},
        {"role": "tool", "tool_name": "weather", "content": result["content"]},
        said,
        {"role": "user", "content": "What is the weather in Paris?"},
    ]
    with before(llamacpp) as gateway, client_of(gateway) as client:
        pieces = list(
            client.chat(llamacpp.model, messages, tools=[TOOL], stream=True, options={**OPTIONS, "num_predict": 48})
        )
    calls = [call.function for piece in pieces for call in piece.message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in calls] == [("weather", {"city": "Paris"})]
