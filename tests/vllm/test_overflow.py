"""Overflow by the engine's real queue, and its return."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import openai

from interlock.types.record import Intent
from tests.e2e.stack import Answer, until

from .conftest import note
from .engines import MODEL, SLOTS
from .site import WAITING_MAX, Site

CLIENTS = 24
BOUND = 6
"""So many of the clients belong to the tenant that must stay in the EU."""
EVERY_S = 0.25
TOKENS = 24
"""So many that the calls of the bound tenant alone come faster than two slots work them off."""
OVERFLOW_S = 5.0
"""Longest time from the moment the engine's queue is too long until a call goes elsewhere."""
RETURN_S = 5.0
"""Longest time from the moment the engine's queue is empty until a call goes there again."""
MEASURE_S, OVERLOAD_S = 10.0, 60.0
OVERLOAD = 1.2
TRIES = 3
"""So often is it measured anew what the engine can do, when what was offered turns out to be less."""
BOUND_EVERY = 5
"""Of the overload's calls, every fifth is of the tenant that must stay in the EU: less than the engine can do."""
BUSY_MIN = 0.85
"""Least share of looks at the engine, while it was offered too much, at which all its slots were taken."""
EXCESS_SPARE = 0.2
"""So much more of all calls may go elsewhere than the excess, as the queue moves. What the engine can do is measured
before and after, for on a busy machine it changes."""


class Served(NamedTuple):
    """One call of a burst."""

    tenant: str
    source: str
    decision: str
    request_id: str
    text: str


class Queues(threading.Thread):
    """What the engines themselves say of their queues, every 200 ms: (seconds, near, far)."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._over = threading.Event()
        self.seen: list[tuple[float, tuple[int, int], tuple[int, int]]] = []

    def run(self) -> None:
        while not self._over.wait(0.2):
            near, far = self._site.near.queue(), self._site.far.queue()
            self.seen.append((time.time(), near, far))

    def stop(self) -> None:
        self._over.set()
        self.join()


def burst(site: Site) -> list[Served]:
    """24 clients, one every 250 ms, every third streamed."""

    async def one(number: int, tenant: str, client: openai.AsyncOpenAI) -> Served:
        await asyncio.sleep(number * EVERY_S)
        given: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
            "max_tokens": TOKENS,
            "extra_body": {"ignore_eos": True},
        }
        if number % 3:
            raw = await client.chat.completions.with_raw_response.create(**given)
            text = raw.parse().choices[0].message.content or ""
        else:
            raw = await client.chat.completions.with_raw_response.create(**given, stream=True)
            text = "".join([c.choices[0].delta.content or "" async for c in raw.parse()])
        names = ("x-interlock-source", "x-interlock-decision", "x-interlock-request-id")
        source, decision, request_id = (raw.headers[name] for name in names)
        return Served(tenant, source, decision, request_id, text)

    async def main() -> list[Served]:
        async with site.client_async("acme") as acme, site.client_async("globex") as globex:
            every = CLIENTS // BOUND
            whose = [("globex", globex) if n % every == 1 else ("acme", acme) for n in range(CLIENTS)]
            return list(await asyncio.gather(*(one(n, *whose[n]) for n in range(CLIENTS))))

    return asyncio.run(main())


def test_a_burst_overflows_by_queue_depth_and_comes_back(site: Site) -> None:
    queues = Queues(site)
    queues.start()
    try:
        calls = burst(site)
    finally:
        queues.stop()
    assert all(call.text for call in calls)
    bound = [call for call in calls if call.tenant == "globex"]
    assert len(bound) == BOUND
    assert {call.source for call in bound} == {"near"}, "whoever must stay in the region waits"
    assert not any("overflow" in call.decision for call in bound)
    over = [call for call in calls if call.source == "far"]
    assert over, "some calls went to the other instance"
    assert all("; overflow" in call.decision for call in over)
    assert len([call for call in calls if call.source == "near"]) > SLOTS

    intents = {call.request_id: site.record(call.request_id, Intent) for call in calls}
    names = site.names()
    over.sort(key=lambda call: intents[call.request_id].wall_ns)
    readings = [site.readings(intents[call.request_id], names)["near"] for call in over]
    for reading in readings:
        assert reading.saturated or reading.waiting + reading.inflight_since > WAITING_MAX
    for call in calls:
        if call.tenant == "acme" and call.source == "near":
            reading = site.readings(intents[call.request_id], names)["near"]
            assert not reading.saturated
            assert reading.waiting <= WAITING_MAX
    deepest = max(near[0] for _, near, _ in queues.seen)
    assert deepest > WAITING_MAX
    began = min(intent.wall_ns for intent in intents.values())
    first = intents[over[0].request_id].wall_ns
    explained = site.up.run("route", "explain", over[0].request_id).out
    assert "waiting" in explained

    answer = site.chat()
    assert (answer.status, answer.headers["x-interlock-source"]) == (200, "near")
    assert "overflow" not in answer.headers["x-interlock-decision"]
    free, r = CLIENTS - BOUND, readings[0]
    note(
        f"burst of {CLIENTS} in {CLIENTS * EVERY_S:.0f} s: {len(over)} of {free} free calls overflowed "
        f"({len(over) / free:.0%}), none of the {BOUND} bound ones; the first one {(first - began) / 1e9:.1f} s after "
        f"the first call, with {r.waiting} waiting, {r.running} running and {r.inflight_since} more of ours not in "
        f"these figures; the engine's own queue was at most {deepest} deep"
    )


def sent_to(
    site: Site, pool: ThreadPoolExecutor, source: str, within_s: float, why: Callable[[Answer], bool] = lambda _: True
) -> tuple[float, Answer]:
    """(seconds from now until the first call that went to `source`, and for this reason, was sent, its answer). One
    call every 250 ms: those that go elsewhere may wait there and hold up nobody."""
    began = time.monotonic()
    found = threading.Event()

    def probe(number: int) -> tuple[float, Answer] | None:
        if found.wait(number * EVERY_S):
            return None
        sent_s = time.monotonic() - began
        return sent_s, site.chat(max_tokens=1)

    try:
        for done in as_completed(pool.submit(probe, number) for number in range(int(within_s / EVERY_S))):
            one = done.result()
            if one is not None and one[1].headers.get("x-interlock-source") == source and why(one[1]):
                return one
    finally:
        found.set()
    raise AssertionError(f"no call went to {source} within {within_s} s")


def test_a_queue_that_others_made_counts(site: Site) -> None:
    """The load comes past the gateway: it knows of it from the engine's metrics alone."""
    body = {"model": MODEL, "max_tokens": 60, "ignore_eos": True, "prompt": "Once upon a time"}
    crowd = SLOTS + WAITING_MAX + 2
    with ThreadPoolExecutor(max_workers=64) as pool:
        for _ in range(crowd):
            pool.submit(site.near.post, "/v1/completions", body)
        until(lambda: site.near.queue()[0] > WAITING_MAX, 60, "a long queue", 0.05)
        names = site.names()

        def by_the_engines_figures(answer: Answer) -> bool:
            """And not by what this test has under way there itself."""
            reading = site.readings(site.record(answer.request_id, Intent), names)["near"]
            return reading.waiting > WAITING_MAX and reading.inflight < reading.waiting

        over_s, over = sent_to(site, pool, "far", OVERFLOW_S, by_the_engines_figures)
        assert "; overflow" in over.headers["x-interlock-decision"]
        until(lambda: site.near.queue()[0] == 0, 120, "the queue to drain", 0.05)
        back_s, back = sent_to(site, pool, "near", RETURN_S)
        assert "overflow" not in back.headers["x-interlock-decision"]
    note(
        f"queue made past the gateway: a call overflowed {over_s:.2f} s after it was too long, "
        f"and one came back {back_s:.2f} s after it was empty"
    )


def test_a_minute_at_120_percent_sends_away_the_excess_and_nothing_that_must_stay(site: Site) -> None:
    async def one(client: openai.AsyncOpenAI, tenant: str, number: int) -> Served:
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Tell me story number {number}."}],
            max_tokens=TOKENS,
            extra_body={"ignore_eos": True},
        )
        names = ("x-interlock-source", "x-interlock-decision", "x-interlock-request-id")
        source, decision, request_id = (raw.headers[name] for name in names)
        return Served(tenant, source, decision, request_id, raw.parse().choices[0].message.content or "")

    async def capacity() -> float:
        """Calls a second that `near` works off: of the tenant that may go nowhere else."""
        done = 0
        over = time.monotonic() + MEASURE_S

        async def caller(client: openai.AsyncOpenAI) -> None:
            nonlocal done
            while time.monotonic() < over:
                await one(client, "globex", done)
                done += time.monotonic() < over

        async with site.client_async("globex") as globex:
            await asyncio.gather(*(caller(globex) for _ in range(2 * SLOTS)))
        return done / MEASURE_S

    async def overload(every_s: float) -> list[Served]:
        async with site.client_async("acme") as acme, site.client_async("globex") as globex:
            began, tasks = time.monotonic(), []
            for number in range(int(OVERLOAD_S / every_s)):
                await asyncio.sleep(max(0.0, began + number * every_s - time.monotonic()))
                tenant, client = ("acme", acme) if number % BOUND_EVERY else ("globex", globex)
                tasks.append(asyncio.create_task(one(client, tenant, number)))
            return list(await asyncio.gather(*tasks))

    for _ in range(TRIES):
        per_s = asyncio.run(capacity())
        assert per_s > 0
        queues = Queues(site)
        queues.start()
        try:
            calls = asyncio.run(overload(1 / (OVERLOAD * per_s)))
        finally:
            queues.stop()
        assert all(call.text for call in calls)
        assert {call.source for call in calls if call.tenant == "globex"} == {"near"}, "who must stay has stayed"
        free = [call for call in calls if call.tenant == "acme"]
        over = [call for call in free if call.source == "far"]
        if over or max(near[0] for _, near, _ in queues.seen) > WAITING_MAX:
            break  # else the machine was slower while it was measured: this was no overload
        until(lambda: site.near.queue() == (0, 0), 120, "the engine to be idle", 0.05)
    until(lambda: site.near.queue() == (0, 0), 120, "the engine to be idle", 0.05)
    excess = 1 - min(per_s, asyncio.run(capacity())) / (OVERLOAD * per_s)
    assert 0 < len(over) <= (excess + EXCESS_SPARE) * len(calls), "the excess, and no more, went elsewhere"
    names = site.names()
    for call in over:
        reading = site.readings(site.record(call.request_id, Intent), names)["near"]
        assert reading.saturated or reading.waiting + reading.inflight_since >= WAITING_MAX
    first = next(n for n, (_, near, _) in enumerate(queues.seen) if near[0] > WAITING_MAX)
    last = max(n for n, (_, near, _) in enumerate(queues.seen) if near[0] > 0)
    busy = [near[1] == SLOTS for _, near, _ in queues.seen[first : last + 1]]
    assert sum(busy) >= BUSY_MIN * len(busy), "while calls went elsewhere it had slots free"
    until(lambda: site.near.queue()[0] == 0, 120, "the queue to drain", 0.05)
    with ThreadPoolExecutor(max_workers=64) as pool:
        back_s, back = sent_to(site, pool, "near", RETURN_S)
    assert "overflow" not in back.headers["x-interlock-decision"]
    note(
        f"120 % of {per_s:.2f} calls/s for {OVERLOAD_S:.0f} s: {len(over)} of {len(free)} free calls went elsewhere "
        f"({len(over) / len(calls):.0%} of all), none of the {len(calls) - len(free)} bound ones; one came back "
        f"{back_s:.2f} s after the queue was empty"
    )
