"""The sources package against a real llama.cpp engine."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import uvloop

from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.discovery import discover
from interlock.sources.fields import FieldClass, classify
from interlock.sources.load import LoadWatcher
from interlock.sources.requests import build_head
from interlock.types.clock import SystemClock
from interlock.types.source import Source, SourceKind
from interlock.wire.fields import FOREIGN
from tests.engines import Engine, llamacpp, llamacpp_engine, tool_example
from tests.unit.sources.upstream import PATIENT, Recorder, pool_to, until

__all__ = ["llamacpp"]


def _source(engine: Engine) -> Source:
    return Source("src_1", "local", SourceKind.llamacpp, engine.base_url)


def _request(source: Source, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps({"model": "smollm2", "temperature": 0, **body}).encode()
    return build_head(source, path, len(data)) + data


def _ask(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


def test_discovery(llamacpp: Engine) -> None:
    found = discover(_source(llamacpp), Settings())
    assert found.engine == "llama.cpp"
    assert found.engine_version
    (model,) = found.models
    assert model.name == "smollm2"
    assert model.context_length == 4096, "of one slot, not of the whole cache"
    assert set(model.abilities) == {"chat", "completions", "tools", "json_schema", "logprobs"}
    assert found.warnings == ()


def test_discovery_of_an_engine_without_metrics_with_embeddings_and_without_tools() -> None:
    with llamacpp_engine(
        slots=1, context_length=1024, metrics=False, embeddings=True, tools=False, alias="other/model:1"
    ) as engine:
        (model,) = discover(_source(engine), Settings()).models
        assert model.name == engine.model == "other/model:1"
        assert set(model.abilities) == {"chat", "completions", "embeddings", "json_schema", "logprobs"}
        assert model.context_length == 1024


def test_an_answer_a_stream_and_a_tool_call(llamacpp: Engine) -> None:
    source = _source(llamacpp)
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    example = tool_example("weather", {"city": "Oslo"}, "12 degrees", "What is the weather in Oslo?")
    bodies: list[dict[str, Any]] = [
        {"messages": _ask("Say hello."), "max_tokens": 8},
        {"messages": _ask("Count to five."), "max_tokens": 8, "stream": True},
        {"messages": [*example, *_ask("What is the weather in Paris?")], "max_tokens": 48, "tools": [tool]},
    ]

    async def main() -> list[Recorder]:
        async with pool_to(0, source=source) as pool:
            recorders = []
            for body in bodies:
                for _ in range(2):  # the engine may have closed a connection that it kept: as the gateway, once more
                    recorder = Recorder()
                    pool.send(_request(source, "/chat/completions", body), recorder, deadlines=PATIENT)
                    await asyncio.wait_for(recorder.over, 60)
                    if recorder.code != "upstream_stale":
                        break
                recorders.append(recorder)
            return recorders

    plain, stream, called = uvloop.run(main())
    assert [r.code for r in (plain, stream, called)] == ["", "", ""]
    assert json.loads(plain.body)["choices"][0]["message"]["content"]
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert len(stream.pieces) > 4, "events are delivered one by one"
    call = json.loads(called.body)["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}


def test_fields_that_would_slip_past_a_checked_bound_are_what_the_lists_say(llamacpp: Engine) -> None:
    """The engine reads `n_cmpl` before `n`, and `n_predict` before `max_tokens`: that is why both are refused."""
    source = _source(llamacpp)

    async def main() -> list[Recorder]:
        async with pool_to(0, source=source) as pool:
            recorders = []
            for extra in ({"n": 1, "n_cmpl": 2}, {"n_predict": 3, "ignore_eos": True}):
                recorder = Recorder()
                body = {"messages": _ask("Say hello."), "max_tokens": 2, **extra}
                pool.send(_request(source, "/chat/completions", body), recorder, deadlines=PATIENT)
                await asyncio.wait_for(recorder.over, 60)
                recorders.append(recorder)
            return recorders

    several, longer = uvloop.run(main())
    assert len(json.loads(several.body)["choices"]) == 2
    assert json.loads(longer.body)["usage"]["completion_tokens"] == 3
    for field in ("n_cmpl", "n_predict"):
        assert field in FOREIGN
        assert classify(SourceKind.llamacpp, "chat", field) is FieldClass.unknown


def test_cancelling_stops_the_engine(llamacpp: Engine) -> None:
    source = _source(llamacpp)

    async def main() -> None:
        async with pool_to(0, source=source) as pool:
            recorder = Recorder()
            body = {"messages": _ask("Tell a long story."), "max_tokens": 2000, "stream": True, "ignore_eos": True}
            call = pool.send(_request(source, "/chat/completions", body), recorder, deadlines=PATIENT)
            await until(lambda: len(recorder.pieces) > 2)
            call.cancel()

    uvloop.run(main())
    deadline = time.monotonic() + 10
    while b"llamacpp:requests_processing 0" not in llamacpp.get("/metrics"):
        assert time.monotonic() < deadline, "the engine goes on generating"
        time.sleep(0.05)


def test_the_queue_of_a_busy_engine_is_seen(llamacpp: Engine, tmp_path: Path) -> None:
    source = _source(llamacpp)
    settings = Settings(load_interval_ms=50)

    async def main() -> None:
        clock = SystemClock()
        with Board.create(tmp_path / "board.shm", rows=4, workers=1, settings=settings) as board:
            watcher = LoadWatcher(board, settings, clock)
            watcher.update([source])
            watching = asyncio.create_task(watcher.run())
            async with pool_to(0, source=source) as pool:
                body = {"messages": _ask("Tell a story."), "max_tokens": 2000, "stream": True, "ignore_eos": True}
                request = _request(source, "/chat/completions", body)
                calls = [pool.send(request, Recorder(), deadlines=PATIENT) for _ in range(5)]
                row = board.row(source.id)
                await until(lambda: board.reading(row, clock.mono_ns()).waiting == 3)
                assert board.reading(row, clock.mono_ns()).running == 2
                for call in calls:
                    call.cancel()
                await until(lambda: board.reading(row, clock.mono_ns()).waiting == 0)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    uvloop.run(main())
