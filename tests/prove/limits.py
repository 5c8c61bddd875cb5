"""Limits are never exceeded over four worker processes, three of which are killed under way.

The workers' limits run on a clock that is `SPEED` times as fast, so that many windows pass. Each worker notes what it
was admitted only after it was admitted, and what it gives back before it gives it back: what is noted is at most what
was held. (`tests/property/metering` does the same to the table alone; here it is behind HTTP, with real calls.)
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from typing import Any

from interlock.metering.limits import LimitTable
from interlock.types.identity import LimitSet
from tests.gateway import Who
from tests.property.metering.test_limit_processes import most_at_once, most_in_a_window

from .client import Client, Received
from .gateway import Gateway, gateway, wait_gone
from .worker import SPEED, Admitted, admitted_in, mark_of

WORKERS = 4
KILLS = 3
WINDOW_NS = 60_000_000_000
CLIENTS_PER_KEY = 10
REACHED = 0.75
"""A limit that is never nearly reached was not tested."""

KEY = LimitSet(requests_per_minute=50, concurrency=5)
PRINCIPAL = LimitSet(tokens_per_minute=1_500)
TEAM = LimitSet(requests_per_minute=130, concurrency=8)
PEOPLE = {"alice": (KEY, None), "bob": (None, PRINCIPAL), "carol": (KEY, PRINCIPAL)}


def prove(*, seconds: float, seed: int, progress: bool = True) -> dict[str, Any]:
    """Load for `seconds`, `KILLS` workers killed at random moments; returns the evidence."""
    rng = random.Random(f"limits {seed}")
    people = [
        Who(name=name, key_limits=key, limits=principal, team_limits=TEAM) for name, (key, principal) in PEOPLE.items()
    ]
    with gateway(people, workers=WORKERS) as made:
        notes = made.home / "admissions"
        notes.mkdir()
        made.environment["PROVE_ADMISSIONS"] = str(notes)
        made.start()
        received, died_ns = asyncio.run(_load(made, rng, seconds, seed))
        time.sleep(0.2)
        failures = [f"seed {seed}: {words}" for words in _concurrency_left(made)]
        by_worker = {int(file.name): admitted_in(file.read_bytes()) for file in notes.iterdir()}
        code = made.stop()
        if code != 0:
            failures.append(f"seed {seed}: the node ended with exit code {code}")
    calls = [
        call._replace(ended_ns=call.ended_ns or died_ns.get(pid, 0))
        for pid, noted in by_worker.items()
        for call in noted
    ]
    most: dict[str, Any] = {}
    failures.extend(f"seed {seed}: {words}" for words in _judge(calls, received, most))
    if progress:
        sys.stderr.write(f"limits: {len(calls)} admitted, {most}, {len(failures)} failures\n")
    statuses = Counter(str(each.status or "none") for each in received)
    return {
        "seed": seed,
        "seconds": seconds,
        "workers": WORKERS,
        "windows": round(seconds * SPEED / 60, 1),
        "killed": len(died_ns),
        "calls_held_by_the_killed": sum(1 for pid in died_ns for call in by_worker.get(pid, ()) if not call.ended_ns),
        "processes_that_admitted": sum(1 for noted in by_worker.values() if noted),
        "admitted": len(calls),
        "answers": dict(sorted(statuses.items())),
        "most": most,
        "failures": failures,
    }


async def _load(made: Gateway, rng: random.Random, seconds: float, seed: int) -> tuple[list[Received], dict[int, int]]:
    clients = [
        Client(lambda: made.port, who.key, _markers(seed, index, number))
        for index, who in enumerate(made.people)
        for number in range(CLIENTS_PER_KEY)
    ]
    running = [asyncio.create_task(client.run()) for client in clients]
    died_ns: dict[int, int] = {}
    try:
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.5, 1.0) * seconds / (KILLS + 1))
            victim = rng.choice(made.workers())
            made.kill_worker(victim)
            await asyncio.to_thread(wait_gone, victim)
            died_ns[victim] = time.monotonic_ns()
        await asyncio.sleep(seconds / (KILLS + 1))
    finally:
        for client in clients:
            client.stop()
        await asyncio.gather(*running)
    return [each for client in clients for each in client.received], died_ns


def _markers(seed: int, index: int, client: int) -> Any:
    numbers = itertools.count()
    return lambda: f"{seed}:limits:{index}.{client}:{next(numbers)}"


def _subjects() -> list[tuple[str, str, LimitSet]]:
    keys = [("key", f"key_acme_{name}", key) for name, (key, _) in PEOPLE.items() if key is not None]
    principals = [("principal", f"prn_acme_{name}", p) for name, (_, p) in PEOPLE.items() if p is not None]
    return [*keys, *principals, ("team", "team_acme_research", TEAM)]


def _judge(calls: list[Admitted], received: list[Received], most: dict[str, Any]) -> list[str]:
    failures = []
    for kind, subject_id, limits in _subjects():
        mine = [call for call in calls if getattr(call, kind) == mark_of(subject_id)]
        found = {
            "requests_per_minute": most_in_a_window([(c.at_ns, 1) for c in mine], WINDOW_NS),
            "tokens_per_minute": most_in_a_window([(c.at_ns, c.tokens) for c in mine], WINDOW_NS),
            "concurrency": most_at_once([(c.started_ns, c.ended_ns or time.monotonic_ns()) for c in mine]),
        }
        for name, value in found.items():
            limit = getattr(limits, name)
            if limit is None:
                continue
            most[f"{subject_id} {name}"] = f"{value} of {limit}"
            if value > limit:
                failures.append(f"{name} of {subject_id}: {value} of {limit}")
    for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        reached = [int(value.split()[0]) / int(value.split()[2]) for key, value in most.items() if key.endswith(name)]
        if max(reached) < REACHED:
            failures.append(f"{name} was never nearly reached: {most}")
    answered = sum(1 for each in received if each.status == 200)
    if answered > len(calls):
        failures.append(f"{answered} calls were answered, {len(calls)} admitted")
    if not any(each.status == 429 for each in received):
        failures.append("nobody was refused")
    for each in received:
        if each.status == 429 and "retry-after" not in each.headers:
            failures.append(f"{each.request_id}: 429 without retry-after")
        elif each.status not in (0, 200, 404, 429, 502, 503):
            failures.append(f"{each.request_id}: answered {each.status}")
    return failures


def _concurrency_left(made: Gateway) -> list[str]:
    """Nobody calls any more: what the killed worker held must be free again."""
    failures = []
    with LimitTable.open(made.home / "node" / "run" / "limits.shm", worker=0) as table:
        for kind, subject_id, _ in _subjects():
            used = table.used(kind, subject_id, time.monotonic_ns() * SPEED)
            if used.concurrency:
                failures.append(f"{subject_id} still holds {used.concurrency} calls, and there are none")
    return failures
