"""The Responses API of the openai SDK against a real model, through the gateway, with a real database behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .stack import Stack, until

MODEL = "smollm2"


class City(BaseModel):
    city: str = Field(max_length=20)
    size: Literal["small", "large"]


@pytest.fixture(scope="module")
def client(demo: Stack, rosa: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=rosa, max_retries=0) as made:
        # A test before this one may have taken the database away: what is not stored then cannot be gone on from.
        until(lambda: _stores(made), 180, "responses to be stored")
        yield made


def _stores(client: openai.OpenAI) -> bool:
    try:
        return bool(client.responses.create(model=MODEL, input="Hello.", max_output_tokens=1, store=True).store)
    except openai.APIStatusError:
        return False


def test_a_conversation_whole_and_streamed(client: openai.OpenAI) -> None:
    given: Any = {"model": MODEL, "max_output_tokens": 12, "temperature": 0}
    first = client.responses.create(input="What is the capital of France?", instructions="Be brief.", **given)
    assert first.output_text and first.usage is not None and first.usage.output_tokens <= 12
    assert first.status in ("completed", "incomplete")
    second = client.responses.create(input="And of Italy?", previous_response_id=first.id, **given)
    assert second.usage is not None and second.usage.input_tokens > first.usage.input_tokens
    events = list(client.responses.create(input="And of Spain?", previous_response_id=second.id, stream=True, **given))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == text != ""
    assert client.responses.retrieve(last.response.id).output_text == text
    assert [item.type for item in client.responses.input_items.list(last.response.id)] == ["message"]
    by_hand: Any = [{"role": "user", "content": "And of Spain?"}, *second.output, {"role": "user", "content": "Why?"}]
    assert client.responses.create(input=by_hand, store=False, **given).output_text
    for made in (first.id, second.id, last.response.id):
        client.responses.delete(made)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    made = client.responses.parse(model=MODEL, input="Rome?", text_format=City, max_output_tokens=60)
    assert isinstance(made.output_parsed, City)


def test_another_persons_response_is_not_there(demo: Stack, client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=4)
    with openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=demo.key("acme", "felix-laptop"), max_retries=0) as felix:
        for ask in (felix.responses.retrieve, felix.responses.delete):
            with pytest.raises(openai.NotFoundError):
                ask(made.id)
        with pytest.raises(openai.NotFoundError):
            felix.responses.create(model=MODEL, input="And?", previous_response_id=made.id)
    assert client.responses.retrieve(made.id).id == made.id
