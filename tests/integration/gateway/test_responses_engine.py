"""The Responses API to a real llama.cpp: made of chat completions, and, as if it were of another kind, by its own
endpoint, with the same SDK calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest
from pydantic import BaseModel, Field

from interlock.types.record import Attempt, Outcome
from interlock.types.source import SourceKind
from tests.engines import MODEL, Engine, llamacpp
from tests.gateway import ABILITIES, WorkerHarness, World, model, source

__all__ = ["llamacpp"]


class City(BaseModel):
    city: str = Field(max_length=12)


class Asked(NamedTuple):
    """A worker before the engine, which it asks for `model` in one of the two ways."""

    gateway: WorkerHarness
    client: openai.OpenAI
    model: str


@pytest.fixture(params=["translated", "native"])
def asked(request: pytest.FixtureRequest, llamacpp: Engine) -> Iterator[Asked]:
    able = model(MODEL, abilities=(*ABILITIES, "responses"))
    sources = [
        source(name, llamacpp.base_url, able, kind=kind)
        for name, kind in (("translated", SourceKind.llamacpp), ("native", SourceKind.openai))
    ]
    with WorkerHarness(World(sources)) as gateway:
        key = gateway.key()
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=60) as client:
            yield Asked(gateway, client, f"{request.param}::{MODEL}")
        attempts = gateway.records_of(Attempt)
        assert attempts and {attempt.source for attempt in attempts} == {request.param}


def test_a_conversation_whole_and_streamed(asked: Asked) -> None:
    client = asked.client
    given: Any = {"model": asked.model, "max_output_tokens": 12, "temperature": 0}
    question = "What is the capital of France?"
    first = client.responses.create(input=question, **given)
    chat = client.chat.completions.create(
        model=asked.model, messages=[{"role": "user", "content": question}], max_tokens=12, temperature=0
    )
    assert first.output_text == chat.choices[0].message.content and first.usage is not None and chat.usage is not None
    assert first.usage.input_tokens == chat.usage.prompt_tokens, "the model was asked the same"
    outcome = asked.gateway.records_of(Outcome)[0]
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (
        first.usage.input_tokens,
        first.usage.output_tokens,
    )
    events = list(client.responses.create(input="And of Italy?", previous_response_id=first.id, stream=True, **given))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == text != ""
    assert last.response.usage is not None and last.response.usage.input_tokens > first.usage.input_tokens + 10
    assert client.responses.retrieve(last.response.id).output_text == text
    client.responses.delete(last.response.id)


@pytest.mark.parametrize("asked", ["translated"], indirect=True)
def test_structured_output_is_not_left_to_its_own_endpoint_which_leaves_it_out(asked: Asked) -> None:
    made = asked.client.responses.parse(
        model=asked.model, input="The capital of France?", text_format=City, max_output_tokens=40, temperature=0
    )
    assert isinstance(made.output_parsed, City)
