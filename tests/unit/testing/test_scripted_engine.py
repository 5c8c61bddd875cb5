"""The scripted engine against raw sockets and the official OpenAI client: what other tests rely on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import openai
import pytest

from interlock.testing import faults
from interlock.testing.answers import TEXT, answer, echo, error, vector_of
from interlock.testing.clock import FakeClock
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Gate, Script, http, steps

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "go"}]}


def request_bytes(body: dict[str, Any], path: str = CHAT) -> bytes:
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data)


async def exchange(engine: ScriptedEngine, body: dict[str, Any] = ASK, *, wait_s: float = 0.3) -> bytes:
    """Everything the engine sends for one request until it is done or closes, or says nothing more for `wait_s`. Of
    what never ends there is as much as comes within sixty times as long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    got, before = bytearray(), len(engine.requests)

    async def read() -> None:
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                got.extend(data)

    writer.write(request_bytes(body))
    reading = asyncio.create_task(read())
    clock = asyncio.get_running_loop().time
    while len(engine.requests) == before and not reading.done():  # noqa: ASYNC110 - seen by polling
        await asyncio.sleep(0.001)
    began = spoke = clock()
    size = turns_after = 0
    while not reading.done() and turns_after < 10 and clock() < min(spoke + wait_s, began + 60 * wait_s):
        await asyncio.sleep(0.002)
        if len(got) > size:
            size, spoke, turns_after = len(got), clock(), 0
        elif engine.requests[before].ended:
            turns_after += 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    return bytes(got)


def run_script(script: Script, body: dict[str, Any] = ASK, wait_s: float = 0.3) -> bytes:
    async def main() -> bytes:
        async with ScriptedEngine() as engine:
            engine.script(script)
            return await exchange(engine, body, wait_s=wait_s)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def client_and_engine() -> Any:
    with (
        ScriptedEngine(models=("mock", "mock-lora")).in_thread() as engine,
        openai.OpenAI(base_url=engine.base_url + "/v1", api_key="k", max_retries=0) as client,
    ):
        yield client, engine


def test_openai_client_reads_whole_and_streamed_answers(client_and_engine: Any) -> None:
    client, _ = client_and_engine
    whole = client.chat.completions.create(**ASK)
    assert whole.choices[0].message.content == TEXT
    assert whole.usage.completion_tokens == len(TEXT.split())
    events = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == TEXT
    assert events[-1].usage == whole.usage and events[-1].choices == []
    assert [e.usage for e in client.chat.completions.create(**ASK, stream=True)][-1] is None


def test_openai_client_reads_tools_completions_embeddings_and_models(client_and_engine: Any) -> None:
    client, engine = client_and_engine
    engine.script(answer(tools=[("route", {"to": "A"})]), answer(tools=[("route", {"to": "B"})]))
    call = client.chat.completions.create(**ASK).choices[0]
    assert call.finish_reason == "tool_calls" and json.loads(call.message.tool_calls[0].function.arguments) == {
        "to": "A"
    }
    pieces = [
        tool.function.arguments
        for e in client.chat.completions.create(**ASK, stream=True)
        for tool in e.choices[0].delta.tool_calls or []
    ]
    assert json.loads("".join(pieces)) == {"to": "B"}
    assert client.completions.create(model="mock", prompt="go", max_tokens=2).choices[0].text == "A signal"
    vectors = client.embeddings.create(model="mock", input=["a", "b"]).data
    assert [v.embedding for v in vectors] == [vector_of("a"), vector_of("b")]
    assert [m.id for m in client.models.list().data] == ["mock", "mock-lora"]


def test_queue_order_defaults_errors_and_what_was_sent(client_and_engine: Any) -> None:
    client, engine = client_and_engine
    before = len(engine.calls)
    engine.script(error(429, retry_after="7"), echo())
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ASK)
    assert caught.value.response.headers["retry-after"] == "7"
    assert client.chat.completions.create(**ASK).choices[0].message.content == "go"
    assert client.chat.completions.create(**ASK).choices[0].message.content == TEXT
    calls = engine.calls[before:]
    assert [c.path for c in calls] == [CHAT] * 3
    assert calls[0].header("Authorization") == "Bearer k" and calls[0].json["messages"] == ASK["messages"]
    assert {c.connection for c in calls} == {calls[0].connection}, "the client kept its connection"


def test_metrics_page_follows_the_load() -> None:
    async def main() -> None:
        for kind, name in (("vllm", "vllm:num_requests_waiting"), ("llamacpp", "llamacpp:requests_deferred")):
            async with ScriptedEngine(kind=kind) as engine:
                engine.load.waiting = 5
                reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
                writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                text = (await reader.read(-1)).decode()
                writer.close()
                line = next(x for x in text.splitlines() if x.startswith(name))
                assert float(line.split()[-1]) == 5
                assert engine.calls == []

    asyncio.run(main())


def test_dies_after_exactly_so_many_events() -> None:
    got = run_script(faults.dies_mid_stream(after=3), ASK | {"stream": True})
    assert got.count(b"data: ") == 3 and b"[DONE]" not in got


@pytest.mark.parametrize("script", [faults.dies_mid_stream(), faults.stalls_mid_stream(), faults.ends_without_done()])
def test_what_breaks_a_stream_cuts_a_whole_answer_short(script: Script) -> None:
    got = run_script(script, wait_s=0.1)
    head, _, body = got.partition(b"\r\n\r\n")
    assert 0 < len(body) < int(head.lower().partition(b"content-length: ")[2].split()[0])


def test_ends_without_done_is_a_complete_body() -> None:
    got = run_script(faults.ends_without_done(after=2), ASK | {"stream": True})
    assert got.count(b"data: ") == 2 and got.endswith(b"0\r\n\r\n") and b"[DONE]" not in got


def test_error_event_comes_inside_status_200() -> None:
    got = run_script(faults.error_event(), ASK | {"stream": True})
    assert got.startswith(b"HTTP/1.1 200") and b'data: {"error":' in got


def test_never_answers_and_closes_at_once() -> None:
    assert run_script(faults.never_answers(), wait_s=0.1) == b""
    assert run_script(faults.closes_at_once()) == b""


def test_wrong_content_length_and_drip() -> None:
    head, _, body = run_script(faults.wrong_content_length()).partition(b"\r\n\r\n")
    assert b"content-length: %d" % (len(body) + 10) in head
    plain = run_script(answer(), wait_s=0.1)
    assert run_script(faults.drip(answer(), size=7), wait_s=0.5) == plain


def test_huge_is_as_large_as_asked_and_huge_head_too() -> None:
    assert len(run_script(faults.huge(300_000))) > 300_000
    assert len(run_script(faults.huge_head(50_000))) > 50_000


def test_every_fault_without_arguments_can_be_played() -> None:
    for script in (
        faults.head_then_silence(), faults.stalls_mid_stream(), faults.excess_body(), faults.both_lengths(),
        faults.garbage(), faults.bad_chunk(), faults.http10(), faults.redirects(), faults.informational(answer()),
        *(faults.malformed_sse(k) for k in ("json", "field", "utf8", "list", "html")),
    ):  # fmt: skip
        assert run_script(script, ASK | {"stream": True}, wait_s=0.05)


def test_gone_client_is_noticed_in_an_endless_stream() -> None:
    async def main() -> None:
        async with ScriptedEngine() as engine:
            engine.script(faults.endless(between_ms=1))
            assert (await exchange(engine, wait_s=0.05)).count(b"data: ") > 2
            for _ in range(3000):
                if engine.calls[0].ended:
                    break
                await asyncio.sleep(0.01)
            assert engine.calls[0].ended == "gone"
            assert engine.open_connections == 0

    asyncio.run(main())


def test_closes_on_accept_only_as_often_as_asked() -> None:
    async def main() -> None:
        async with ScriptedEngine() as engine:
            engine.closes_on_accept = 1
            assert await exchange(engine) == b""
            assert await exchange(engine, wait_s=0.1) != b""
            assert engine.connections == 2

    asyncio.run(main())


def test_gate_holds_the_answer_until_opened() -> None:
    async def main() -> None:
        async with ScriptedEngine() as engine:
            opened = asyncio.Event()
            engine.script(steps(Gate(opened), http(200, b"{}")))
            waiting = asyncio.create_task(exchange(engine, wait_s=60))
            while not engine.calls:  # noqa: ASYNC110 - seen by polling
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert engine.calls[0].ended == ""
            opened.set()
            assert (await waiting).endswith(b"{}")
            assert engine.calls[0].ended == "done"

    asyncio.run(main())


def test_chunked_request_bodies_are_read() -> None:
    async def main() -> None:
        async with ScriptedEngine() as engine:
            reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
            writer.write(b"POST /v1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b'2\r\n{"\r\n5\r\na":1}\r\n0\r\n\r\n')
            await reader.read(-1)
            writer.close()
            assert engine.calls[0].json == {"a": 1}

    asyncio.run(main())


def test_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    wall, mono = clock.wall_ns(), clock.mono_ns()
    clock.advance(s=1, ms=2, ns=3)
    assert clock.wall_ns() - wall == clock.mono_ns() - mono == 1_002_000_003
    clock.set_wall_ns(5)
    assert clock.wall_ns() == 5 and clock.mono_ns() - mono == 1_002_000_003
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(ms=-1)
