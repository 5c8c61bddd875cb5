"""An application with the anthropic SDK, through the gateway, to a real vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from .engines import MODEL, Vllm
from .site import Site

ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 16,
    "extra_body": {"temperature": 0},
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}


@pytest.fixture
def client(site: Site) -> Iterator[anthropic.Anthropic]:
    with (
        site.client() as known,
        anthropic.Anthropic(
            base_url=str(known.base_url).removesuffix("/v1/"), api_key=known.api_key, max_retries=0, timeout=120
        ) as made,
    ):
        yield made


def test_a_message_and_its_stream_say_the_same(client: anthropic.Anthropic, site: Site, vllm: dict[str, Vllm]) -> None:
    raw = client.messages.with_raw_response.create(**ASK)
    whole = raw.parse()
    with client.messages.stream(**ASK) as stream:
        final = stream.get_final_message()
    assert whole.content[0].type == final.content[0].type == "text"
    straight = vllm["near"].says({"messages": ASK["messages"], "max_tokens": 16, "temperature": 0})
    assert whole.content[0].text == final.content[0].text == straight != ""
    assert final.usage.output_tokens == whole.usage.output_tokens
    outcome = site.outcome(raw.headers["request-id"])
    read = whole.usage.cache_read_input_tokens or 0
    assert (outcome.usage.prompt_tokens, outcome.usage.cached_tokens) == (whole.usage.input_tokens + read, read)


def test_the_stop_sequence_that_was_met_is_told(client: anthropic.Anthropic) -> None:
    said = client.messages.create(**ASK).content[0]
    assert said.type == "text"
    word = said.text.split()[2]
    answer = client.messages.create(**ASK, stop_sequences=[word])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", word)


def test_the_engine_counts_as_it_will_charge(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=ASK["messages"]).input_tokens
    usage = client.messages.create(**ASK).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
