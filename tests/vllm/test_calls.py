"""An application with the openai SDK, through the gateway, to a real vLLM."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from pydantic import BaseModel, Field

from interlock.types.record import Attempt, Outcome
from tests.e2e.stack import fetch, until

from .engines import CONTEXT, MODEL, VERSION, Vllm
from .site import Site

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_a_chat_completion(site: Site, vllm: dict[str, Vllm]) -> None:
    with site.client() as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=16, temperature=0)
    answer = raw.parse()
    straight = vllm["near"].says({"messages": ASK, "max_tokens": 16, "temperature": 0})
    assert answer.choices[0].message.content == straight != "", "the engine's own words, unchanged"
    assert answer.usage is not None
    request_id = raw.headers["x-interlock-request-id"]
    assert answer.id == f"chatcmpl-{request_id}", "the engine's own log knows the call by the same id"
    assert raw.headers["x-interlock-source"] == "near"
    assert "overflow" not in raw.headers["x-interlock-decision"]
    attempt, outcome = site.record(request_id, Attempt), site.outcome(request_id)
    assert (attempt.engine, attempt.engine_version) == ("vllm", VERSION)
    assert (outcome.state, outcome.served_model) == ("completed", MODEL)
    assert outcome.usage.prompt_tokens == answer.usage.prompt_tokens
    assert outcome.usage.completion_tokens == answer.usage.completion_tokens
    assert outcome.usage.origin == "engine"


def test_a_stream_has_the_same_text_and_hides_usage(site: Site) -> None:
    given: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 12, "temperature": 0}
    with site.client() as client:
        whole = client.chat.completions.create(**given)
        with client.chat.completions.with_streaming_response.create(**given, stream=True) as raw:
            request_id = raw.headers["x-interlock-request-id"]
            chunks = list(raw.parse())
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert all(chunk.choices and chunk.usage is None for chunk in chunks), "usage was not asked for"
    outcome = site.outcome(request_id)
    assert whole.usage is not None
    assert outcome.usage.completion_tokens == whole.usage.completion_tokens, "and is recorded all the same"


def test_a_stream_with_usage(site: Site) -> None:
    with site.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_completions_streamed_and_not(site: Site) -> None:
    given: dict[str, Any] = {"model": MODEL, "prompt": "One, two, three,", "max_tokens": 8, "temperature": 0}
    with site.client() as client:
        whole = client.completions.create(**given)
        pieces = list(client.completions.create(**given, stream=True))
        several = client.completions.create(**{**given, "prompt": ["Red and", "Up and"], "max_tokens": 3})
    assert "four" in whole.choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert [choice.index for choice in several.choices] == [0, 1]


def test_tools_go_where_there_is_a_parser(site: Site) -> None:
    """`near` is preferred, and would refuse them."""
    given: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "max_tokens": 40, "temperature": 0}
    with site.client() as client:
        raw = client.chat.completions.with_raw_response.create(
            **given, messages=ASK, tool_choice="required", stream=True
        )
        assert raw.headers["x-interlock-source"] == "far"
        assert "overflow" not in raw.headers["x-interlock-decision"]
        deltas = [choice.delta for chunk in raw.parse() for choice in chunk.choices]
        called = [call for delta in deltas for call in delta.tool_calls or []]
        assert called[0].function is not None
        assert called[0].function.name == "weather"
        none = client.chat.completions.with_raw_response.create(**given, messages=ASK, tool_choice="none")
        assert none.headers["x-interlock-source"] == "near"
        assert none.parse().choices[0].message.tool_calls in (None, [])


def test_tools_that_no_source_can_take_are_refused(site: Site) -> None:
    with site.client("globex") as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=ASK, tools=[TOOL], max_tokens=8)
    assert refused.value.code == "model_cannot"
    assert "near cannot do tools" in refused.value.message


def test_what_an_engine_refuses_is_refused_in_its_words(site: Site) -> None:
    with site.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=ASK, temperature=9, max_tokens=8)
    assert "temperature must be in [0, 2], got 9.0" in refused.value.message
    assert refused.value.code == "upstream_refused"
    request_id = refused.value.response.headers["x-interlock-request-id"]
    assert site.outcome(request_id).state == "refused"
    assert site.chat().headers["x-interlock-source"] == "near", "the source is not to blame"


class City(BaseModel):
    """What the structured answer holds."""

    name: str = Field(max_length=12)
    capital: bool


def test_structured_output(site: Site) -> None:
    with site.client() as client:
        answer = client.chat.completions.parse(
            model=MODEL, messages=ASK, response_format=City, max_tokens=60, temperature=0
        )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_engine_fields_reach_the_engine(site: Site) -> None:
    choice = {"choice": ["signal", "switch"]}
    answer = site.chat(text="What comes next?", max_tokens=8, structured_outputs=choice)
    assert answer.json()["choices"][0]["message"]["content"] in choice["choice"]


def test_several_answers_are_a_matter_of_policy(site: Site) -> None:
    answer = site.chat("acme", n=2)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]
    assert len(site.outcome(answer.request_id).finish_reasons) == 2
    denied = site.chat("globex", n=2)
    assert (denied.status, denied.error["code"]) == (403, "policy_denied")


def test_two_streamed_answers(site: Site) -> None:
    with site.client() as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, n=2, max_tokens=5, stream=True))
    finished = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(finished) == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(site: Site, stream: bool) -> None:
    with site.client() as client:
        answer: Any = client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=3, logprobs=True, top_logprobs=2, stream=stream
        )
        choices = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [len(token.top_logprobs) for token in tokens] == [2, 2, 2]


def test_a_prompt_that_cannot_fit_is_refused_before_the_engine(site: Site) -> None:
    answer = site.chat(text="word " * (CONTEXT * 2))
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert f"a context of {CONTEXT} tokens" in answer.error["message"]


def test_a_prompt_that_does_not_fit_is_refused_by_the_engine(site: Site) -> None:
    answer = site.chat(text="word " * 1400)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert f"maximum context length is {CONTEXT} tokens" in answer.error["message"]
    assert site.record(answer.request_id, Outcome).state == "refused"


def test_a_bound_above_the_context_is_refused_in_the_engines_words(site: Site) -> None:
    answer = site.chat(max_tokens=CONTEXT + 1)
    assert answer.status == 400
    assert f"max_tokens={CONTEXT + 1} cannot be greater than max_model_len={CONTEXT}" in answer.error["message"]


@pytest.mark.parametrize("name", [MODEL, "wordy"])
def test_a_missing_bound_never_asks_for_more_than_the_context(site: Site, name: str) -> None:
    """The default bound and the alias's cap (5000) are both larger; vLLM refuses such a `max_tokens`."""
    answer = site.chat("acme", name, max_tokens=None, stop=[" "])
    assert answer.status == 200, answer.body


def test_embeddings_are_not_offered(site: Site) -> None:
    body = {"model": MODEL, "input": "text"}
    answer = fetch(site.up.gateway, "/v1/embeddings", site.keys["acme"], body)
    assert (answer.status, answer.error["code"]) == (400, "model_cannot")


def test_a_gone_reader_frees_the_engine(site: Site) -> None:
    parts = urlsplit(site.up.gateway)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    body = {"model": MODEL, "messages": ASK, "max_tokens": 900, "ignore_eos": True, "stream": True}
    headers = {"authorization": f"Bearer {site.keys['acme']}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    request_id = answer.headers["x-interlock-request-id"]
    answer.read1(100)
    until(lambda: site.near.queue() == (0, 1), 20, "the engine to count it", 0.2)
    answer.close()
    connection.close()
    until(lambda: site.near.queue() == (0, 0), 20, "the engine to stop generating", 0.2)
    assert site.outcome(request_id).state == "disconnected"
