"""The engine simulator: order, time, cache, and its HTTP face."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.testing.script import Load
from interlock.testing.simulator import EngineShape, QueueFull, SimulatedEngine, Simulator

SHAPE = EngineShape(
    slots=2, queue_max=4, kv_blocks=8, block_tokens=4, prefill_tokens_per_s=1000, step_base_s=0.01,
    step_per_sequence_s=0.001,
)  # fmt: skip


def load_of(simulator: Simulator) -> Load:
    load = Load()
    simulator.fill(load)
    return load


def test_times_are_exact() -> None:
    simulator = Simulator(SHAPE)
    job = simulator.submit(["a"] * 6, 3)
    simulator.run_until(1.0)
    assert job.first_token_s == pytest.approx(0.011 + 0.006)
    assert job.finished_s == pytest.approx(3 * 0.011 + 0.006)
    assert simulator.now_s == 1.0


def test_slots_queue_and_refusal() -> None:
    simulator = Simulator(SHAPE)
    jobs = [simulator.submit([str(n)], 2) for n in range(4)]
    with pytest.raises(QueueFull):
        simulator.submit(["x"], 2)
    simulator.step()
    assert (load_of(simulator).running, load_of(simulator).waiting) == (2, 2)
    simulator.run_until(10)
    assert [j.started_s for j in jobs] == sorted(j.started_s for j in jobs)
    assert jobs[2].started_s == jobs[0].finished_s
    with pytest.raises(ValueError, match="do not fit"):
        simulator.submit(["x"] * 33, 1)


def test_shared_prefixes_are_cached_and_evicted_when_room_is_needed() -> None:
    simulator = Simulator(SHAPE)
    prefix = list("abcdefgh")
    simulator.submit(prefix, 1)
    simulator.run_until(1)
    again = simulator.submit([*prefix, "z"], 1)
    simulator.run_until(2)
    assert again.cached_tokens == 8
    assert again.first_token_s - again.started_s == pytest.approx(0.011 + 0.001)
    assert (simulator.prefix_queries, simulator.prefix_hits) == (17, 8)
    assert load_of(simulator).kv_ratio == 0
    simulator.submit(list("ABCDEFGHIJKLMNOPQRSTUVWXYZab"), 1)
    simulator.run_until(3)
    assert simulator.cached_tokens(prefix) == 0


def test_cancel_frees_slot_and_blocks() -> None:
    simulator = Simulator(SHAPE)
    jobs = [simulator.submit(["a"], 8) for _ in range(3)]
    simulator.step()
    assert load_of(simulator).kv_ratio > 0
    simulator.cancel(jobs[0])
    simulator.cancel(jobs[2])
    simulator.step()
    assert (load_of(simulator).running, load_of(simulator).waiting) == (1, 0)
    simulator.cancel(jobs[1])
    assert load_of(simulator).kv_ratio == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 8), st.integers(0, 3), st.booleans()), min_size=1, max_size=20
    )
)
def test_nothing_is_lost_and_the_cache_never_overflows(calls: list[tuple[int, int, int, bool]]) -> None:
    simulator = Simulator(SHAPE)
    jobs = []
    for length, completion, steps, cancel in calls:
        try:
            jobs.append(simulator.submit(list("abcdefghijklmnopqrst")[:length], completion))
        except QueueFull:
            continue
        for _ in range(steps):
            simulator.step()
            assert len(simulator.running) <= SHAPE.slots
            assert 0 <= load_of(simulator).kv_ratio <= 1
            assert len(simulator._shared) <= SHAPE.kv_blocks
        if cancel:
            simulator.cancel(jobs[0])
    simulator.run_until(simulator.now_s + 1000)
    assert all(j.done for j in jobs)
    assert load_of(simulator).kv_ratio == 0 and not simulator.running and not simulator.waiting


def test_http_face_streams_reports_load_and_frees_on_disconnect() -> None:
    ask: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "go " * 40}], "max_tokens": 5}

    async def main() -> None:
        shape = EngineShape(slots=1, queue_max=1)
        async with (
            SimulatedEngine(shape, speed=20) as engine,
            openai.AsyncOpenAI(base_url=engine.base_url + "/v1", api_key="k", max_retries=0) as client,
        ):
            whole = await client.chat.completions.create(**ask)
            assert whole.usage is not None and whole.usage.completion_tokens == 5
            stream = await client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
            events = [e async for e in stream]
            assert sum(1 for e in events if e.choices) == 5
            usage = events[-1].usage
            assert usage is not None and usage.prompt_tokens_details is not None
            assert usage.prompt_tokens_details.cached_tokens == 32
            long = await client.chat.completions.create(**(ask | {"max_tokens": 30_000}), stream=True)
            await anext(aiter(long))
            waiting = asyncio.create_task(client.chat.completions.create(**ask))
            while (engine.load.running, engine.load.waiting) != (1, 1):  # noqa: ASYNC110 - seen by polling
                await asyncio.sleep(0.01)
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(**ask)
            await long.close()
            answered = (await waiting).usage
            assert answered is not None and answered.completion_tokens == 5
            while (engine.load.running, engine.load.waiting) != (0, 0):  # noqa: ASYNC110 - seen by polling
                await asyncio.sleep(0.01)
            assert json.dumps([c.ended for c in engine.calls]).count("gone") == 1

    asyncio.run(asyncio.wait_for(main(), 60))
