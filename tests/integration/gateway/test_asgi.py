"""The fallback server: the same calls under uvicorn."""

from __future__ import annotations

import openai
import pytest

from interlock.testing.engine import ScriptedEngine
from interlock.testing.faults import dies_mid_stream, endless
from interlock.types.record import Outcome
from tests.gateway import WorkerHarness, World, source
from tests.integration.gateway.client import eventually


def test_calls_streams_errors_and_disconnects_work_under_uvicorn() -> None:
    engine = ScriptedEngine()
    with (
        engine.in_thread(),
        WorkerHarness(World([source("local", engine.base_url)]), gateway_server="uvicorn") as gateway,
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0) as client,
    ):
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        whole = client.chat.completions.create(model="m", messages=messages)
        text = whole.choices[0].message.content
        streamed = client.chat.completions.create(model="m", messages=messages, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices) == text
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=messages)
        engine.script(dies_mid_stream())
        with pytest.raises((openai.APIError, openai.APIConnectionError)):
            for _ in client.chat.completions.create(model="m", messages=messages, stream=True):
                pass
        engine.script(endless(5))
        stream = client.chat.completions.create(model="m", messages=messages, stream=True)
        next(iter(stream))
        stream.close()
        eventually(lambda: len(gateway.records_of(Outcome)) == 4)
        assert [outcome.state for outcome in gateway.records_of(Outcome)] == [
            "completed",
            "completed",
            "failed",
            "disconnected",
        ]
