"""An application that changed only base_url and api_key: the openai SDK against a real model, through the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from .stack import Stack, until

MODEL = "smollm2"
ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(demo: Stack, rosa: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=rosa, max_retries=0) as made:
        yield made


def with_key(demo: Stack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=key, max_retries=0)


def test_a_chat_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=ASK, max_tokens=16, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16


def test_a_stream_has_the_same_text(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 12, "temperature": 0, "seed": 7}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices, "usage was not asked for and must not be there"


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_async_calls_side_by_side(demo: Stack, rosa: str) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{demo.gateway}/v1", api_key=rosa, max_retries=0) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=8, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

            return list(await asyncio.gather(*(one() for _ in range(4))))

    texts = asyncio.run(main())
    assert all(texts)


def test_tools_are_refused_in_words_by_a_model_without_them(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="smollm2 at local cannot do tools"):
        client.chat.completions.create(model=MODEL, messages=ASK, tools=[tool], max_tokens=8)


def test_structured_output(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"city", "population"}
    assert isinstance(found["population"], int)


def test_several_choices_where_policy_permits(client: openai.OpenAI) -> None:
    # llama.cpp gives at most as many choices as it has slots: `spare` has four
    answer = client.chat.completions.create(model=f"spare::{MODEL}", messages=ASK, max_tokens=3, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=3, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 3


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5)
    assert answer.choices[0].text
    chunks = list(client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices)


def test_models_are_those_that_the_caller_may_use(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {"assistant", MODEL}
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-7")


def test_an_alias_has_its_cap(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="assistant", messages=ASK, max_tokens=4)
    assert answer.choices[0].message.content


def test_errors_become_the_sdks_own(demo: Stack, rosa: str, client: openai.OpenAI) -> None:
    with with_key(demo, "il_live_nonsense") as nobody, pytest.raises(openai.AuthenticationError) as unknown:
        nobody.chat.completions.create(model=MODEL, messages=ASK)
    assert unknown.value.code == "invalid_api_key"
    with with_key(demo, demo.key("acme", "felix-laptop")) as felix, pytest.raises(openai.PermissionDeniedError) as no:
        felix.chat.completions.create(model=f"spare::{MODEL}", messages=ASK)
    assert no.value.code == "policy_denied"
    assert "base/data-class" in no.value.message
    assert no.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-7", messages=ASK)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=-5)
    assert wrong.value.param == "max_tokens"


def refused(client: openai.OpenAI) -> openai.RateLimitError | None:
    """What a call is refused with; None when it is admitted."""
    try:
        client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)
    except openai.RateLimitError as error:
        return error
    return None


def test_a_limit_is_a_rate_limit_error(demo: Stack) -> None:
    principal = {"name": "hasty", "kind": "service", "teams": ["research"]}
    assert demo.admin("POST", "/tenants/acme/principals", principal).status == 201
    key = {"name": "hasty-key", "principal": "hasty", "limits": {"requests_per_minute": 2}}
    secret = demo.admin("POST", "/tenants/acme/keys", key).json()["key"]
    with with_key(demo, secret) as hasty:
        demo.answers(200, secret, MODEL, "the key to work", max_tokens=1)
        limited = until(lambda: refused(hasty), 180, "the third call within a minute to be refused")
    assert limited is not None and limited.code == "rate_limit_exceeded"
    headers = limited.response.headers
    assert 1 <= int(headers["retry-after"]) <= 61
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_every_answer_says_where_it_came_from(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=2)
    assert raw.headers["x-interlock-request-id"].startswith("req_")
    assert raw.headers["x-interlock-source"] in ("local", "spare")
    assert raw.headers["x-interlock-model"] == MODEL
    assert "offer=" in raw.headers["x-interlock-decision"]
