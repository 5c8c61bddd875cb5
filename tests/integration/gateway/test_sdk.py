"""The `openai` SDK against a whole worker: what an application sees when only base_url and api_key have changed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Script
from interlock.types.record import Feedback, Intent, Outcome
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import WAIT_S, serving

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
TOOL: Any = {"type": "function", "function": {"name": "switch", "parameters": {"type": "object"}}}
IMAGE: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def world(url: str) -> World:
    return World([source("local", url)], policies=[permit_all(features=("multiply", "use_images"))])


@pytest.fixture
def served() -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    with (
        serving(world) as (gateway, engine),
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=WAIT_S) as client,
    ):
        yield client, gateway, engine


Served = tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]


def test_a_chat(served: Served) -> None:
    client, gateway, _ = served
    answer = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert answer.parse().choices[0].message.content == answers.TEXT
    assert answer.headers["x-interlock-request-id"] == answer.headers["x-request-id"]
    assert gateway.records_of(Outcome)[0].state == "completed"


def test_feedback_as_the_page_on_it_says(served: Served) -> None:
    client, gateway, _ = served
    answer = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    request_id = answer.headers["x-interlock-request-id"]
    taken: Any = client.post("/feedback", cast_to=object, body={"request_id": request_id, "thumb": "up"})
    assert taken["request_id"] == request_id and taken["kinds"] == ["thumb"]
    (record,) = gateway.records_of(Feedback)
    assert (record.request, record.thumb, record.principal_id) == (request_id, "up", "prn_acme_alice")
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/feedback", cast_to=object, body={"request_id": request_id})
    assert caught.value.code == "no_feedback"
    with pytest.raises(openai.NotFoundError):
        client.post("/feedback", cast_to=object, body={"request_id": "req_of_nobody", "thumb": "up"})


def test_a_streamed_chat_with_usage(served: Served) -> None:
    client, _, _ = served
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answers.TEXT
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 10


def test_async_streams_side_by_side(served: Served) -> None:
    _, gateway, _ = served

    async def one(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0) as client:
            return await asyncio.gather(*(one(client) for _ in range(10)))

    assert asyncio.run(main()) == [answers.TEXT] * 10
    assert {o.state for o in gateway.records_of(Outcome)} == {"completed"}


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(served: Served, streamed: bool) -> None:
    client, gateway, engine = served
    engine.default = answers.answer(tools=[("switch", {"to": "left"})])
    if streamed:
        arguments = ""
        for part in client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL], stream=True):
            for call in part.choices[0].delta.tool_calls or ():
                arguments += (call.function and call.function.arguments) or ""
    else:
        message = client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL]).choices[0].message
        assert message.tool_calls is not None
        arguments = message.tool_calls[0].function.arguments  # type: ignore[union-attr]
    assert json.loads(arguments) == {"to": "left"}
    (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
    assert "tools" in intent.features.needs and outcome.finish_reasons == ("tool_calls",)


def test_structured_output_logprobs_and_several_answers(served: Served) -> None:
    client, gateway, engine = served
    engine.default = answers.answer('{"a":1}')
    schema: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    answer = client.chat.completions.create(model="m", messages=MESSAGES, response_format=schema, logprobs=True, n=3)
    assert [json.loads(c.message.content or "") for c in answer.choices] == [{"a": 1}] * 3
    assert answer.choices[0].logprobs is not None
    assert engine.calls[0].json["response_format"] == schema
    (intent,) = gateway.records_of(Intent)
    assert {"json_schema", "logprobs"} <= set(intent.features.needs) and intent.features.actions == ("multiply",)
    stream = client.chat.completions.create(model="m", messages=MESSAGES, n=2, stream=True, logprobs=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ['{"a":1}'] * 2
    assert gateway.records_of(Outcome)[-1].finish_reasons == ("stop", "stop")


def test_images_by_policy(served: Served) -> None:
    client, gateway, engine = served
    content: Any = [{"type": "text", "text": "What is it?"}, IMAGE]
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
    remote: Any = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": remote}])
    assert len(engine.calls) == 1
    gateway.change(World(gateway.world.sources, gateway.world.people))
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])


def test_completions_and_embeddings(served: Served) -> None:
    client, _, _ = served
    assert client.completions.create(model="m", prompt="x").choices[0].text == answers.TEXT
    streamed = client.completions.create(model="m", prompt=["x", "y"], stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == answers.TEXT
    for encoding in ("float", "base64"):
        options: Any = {"encoding_format": encoding}
        found = client.embeddings.create(model="m", input=["a", "b"], **options)
        vector: Any = found.data[1].embedding
        if isinstance(vector, str):
            assert len(base64.b64decode(vector)) == 4 * answers.DIMENSIONS
        else:
            assert vector == answers.vector_of("b")


def test_models_are_those_the_caller_may_use() -> None:
    def two(url: str) -> World:
        made = [source("a", url, model("org/one")), source("b", url, model("two"), granted_to=("ten_other",))]
        return World(made, [Who(), Who("eve", tenant="other")])

    with serving(two) as (gateway, _engine):
        for name, models in (("alice", ["org/one"]), ("eve", ["org/one", "two"])):
            with openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(name), max_retries=0) as client:
                assert [m.id for m in client.models.list()] == models
                assert client.models.retrieve("org/one").id == "org/one"
                if name == "alice":
                    with pytest.raises(openai.NotFoundError):
                        client.models.retrieve("two")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (answers.error(429, retry_after="1"), openai.RateLimitError),
        (answers.error(400, message="bad"), openai.BadRequestError),
        (answers.error(500), openai.InternalServerError),
        (faults.closes_at_once(), openai.InternalServerError),
    ],
)
def test_errors_are_the_sdks_own(served: Served, script: Script, error: type[openai.APIStatusError]) -> None:
    client, _, engine = served
    engine.script(script)
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.body is not None and caught.value.request_id


def test_a_refusal_is_not_retried_and_a_failure_is(served: Served) -> None:
    client, _, engine = served
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.NotFoundError):
        patient.chat.completions.create(model="nope", messages=MESSAGES)
    engine.script(answers.error(500))
    assert patient.chat.completions.create(model="m", messages=MESSAGES).choices
    assert len(engine.calls) == 2


def test_a_broken_stream_raises_in_the_sdk(served: Served) -> None:
    client, gateway, engine = served
    engine.script(faults.dies_mid_stream(3))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert gateway.records_of(Outcome)[0].state == "failed"


def test_leaving_a_stream_cancels_the_source(served: Served) -> None:
    client, gateway, engine = served
    engine.script(faults.endless(between_ms=5))
    with client.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    from tests.integration.gateway.client import eventually

    eventually(lambda: engine.calls[0].ended == "gone")
    eventually(lambda: gateway.records_of(Outcome))
    assert gateway.records_of(Outcome)[0].state == "disconnected"
