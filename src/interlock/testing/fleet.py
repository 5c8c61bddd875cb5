"""Gateway nodes before a fleet of simulated engines, in virtual time: what an order of candidates is worth.

A discrete-event simulation without clock, sockets or threads: the same arguments give the same figures. The engines are
`Simulator`s, whose cache keeps blocks of prompts; the order is made by the router itself (`decide`), by each node on
its own: it knows what it sent, and of each engine a reading that was taken every `reading_interval_s`, became known
`reading_delay_s` later, and says what `interlock.sources.load` would make of it.

Not simulated: the gateway's own work and network, failures, and calls that wait at a node for a seat.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from interlock.routing.choose import decide
from interlock.routing.placement import KEY_BYTES, slot
from interlock.routing.score import latency_micro
from interlock.sources.load import saturated_now
from interlock.sources.stay import Stay
from interlock.testing.simulator import EngineShape, Job, Simulator
from interlock.testing.workloads import Conversation, Turn
from interlock.types.decision import Placement
from interlock.types.identity import DataClass
from interlock.types.request import Features, Target
from interlock.types.source import LoadReading, Model, Offer, Source, SourceKind, SourceLimits

POLICIES = ("placement", "no-affinity", "least-load", "round-robin")
"""`no-affinity`: the router's order for calls without a slot; `least-load`: by load alone."""
TARGET = Target(kind="model", model="m")
SHAPE = EngineShape(slots=32, queue_max=1_000_000, kv_blocks=8192)
LIMITS = SourceLimits()
PLACEMENT = Placement(4, 1200, 950, 2000)
"""As the settings have it."""
LATENCY_WEIGHT = 8
NS_PER_S = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What there is. Times in seconds."""

    replicas: int = 4
    nodes: int = 2
    shape: EngineShape = SHAPE
    limits: SourceLimits = LIMITS
    placement: Placement = PLACEMENT
    reading_interval_s: float = 0.5
    reading_delay_s: float = 0.02
    reading_age_s_max: float = 2.0


class Ended(NamedTuple):
    """One call that was answered. Times in seconds."""

    replica: int
    arrived_s: float
    first_token_s: float
    finished_s: float
    turn: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """How one policy did. Times in milliseconds; `load_*`: calls at a replica, running or waiting, all along."""

    policy: str
    calls: int
    seconds: float
    tokens_per_s: float
    ttft_ms_mean: float
    ttft_ms_p50: float
    ttft_ms_p95: float
    ttft_ms_p99: float
    prefix_hit_share: float
    load_mean: float
    load_max_over_mean: float
    calls_max_over_mean: float
    ttft_ms: tuple[float, ...]
    """Of every call, sorted."""


class _Seen:
    """What a node knows of one engine."""

    def __init__(self) -> None:
        self.inflight = 0
        self.entered = 0
        self.read_at_s = -math.inf
        self.load = (-1, -1, -1)
        self.mark = 0
        self.saturated = False
        self.stay = Stay()
        self.stay_ms = -1
        self.mean_us = -1


class _Node:
    def __init__(self, fleet: Fleet, policy: str, offers: Sequence[Offer], key: bytes, rng: random.Random) -> None:
        self._fleet, self._policy, self._offers, self._key, self._random = fleet, policy, offers, key, rng
        self._turn = rng.randrange(len(offers))
        self.seen = [_Seen() for _ in offers]

    def choose(self, conversation: Conversation, turn: Turn, now_s: float) -> int:
        """Which engine a call goes to."""
        self._turn += 1
        if self._policy == "round-robin":
            return self._turn % len(self._offers)
        placing = self._policy == "placement"
        affinity = slot(self._key, (b"tenant", b"text", conversation.opening)) if placing else 0
        prompt = turn.prompt_tokens * 4
        decision = decide(
            Features(
                "chat",
                "m",
                DataClass.internal,
                prompt_bytes=prompt,
                prompt_tokens_max=prompt,
                completion_tokens_max=turn.completion_tokens,
                affinity=affinity,
            ),
            TARGET,
            self._offers,
            {offer.source.id: self._reading(n, now_s) for n, offer in enumerate(self._offers)},
            latencies={} if self._policy == "least-load" else self._latencies(),
            seed=self._random.getrandbits(63),
            placement=None if self._policy == "least-load" else self._fleet.placement,
        )
        first = decision.candidates[0].offer
        return next(n for n, offer in enumerate(self._offers) if offer.key == first)

    def _latencies(self) -> dict[str, int]:
        both = zip(self._offers, self.seen, strict=True)
        return {offer.key: latency_micro(seen.mean_us) for offer, seen in both if seen.mean_us >= 0}

    def _reading(self, replica: int, now_s: float) -> LoadReading:
        seen = self.seen[replica]
        since = min(seen.entered - seen.mark, seen.inflight)
        age_s = now_s - seen.read_at_s
        if age_s > self._fleet.reading_age_s_max:
            return LoadReading(inflight=seen.inflight, inflight_since=since)
        return LoadReading(
            *seen.load, seen.inflight, since, round(age_s * 1000), True, seen.saturated, stay_ms=seen.stay_ms
        )

    def learn(self, replica: int, read_at_s: float, mark: int, load: tuple[int, int, int]) -> None:
        """A reading has become known."""
        seen = self.seen[replica]
        seen.read_at_s, seen.mark, seen.load = read_at_s, mark, load
        seen.saturated = saturated_now(seen.saturated, load[0], self._fleet.limits)
        seen.stay_ms = seen.stay.look(round(read_at_s * NS_PER_S) + 1, seen.inflight, seen.entered)

    def observe(self, replica: int, first_byte_s: float) -> None:
        """A first token came: the running mean of the gateway's workers."""
        seen, took_us = self.seen[replica], round(first_byte_s * 1e6)
        seen.mean_us = took_us if seen.mean_us < 0 else seen.mean_us + (took_us - seen.mean_us) // LATENCY_WEIGHT


class _Call(NamedTuple):
    conversation: Conversation
    number: int
    node: int
    replica: int
    arrived_s: float
    job: Job


class _Run:
    """One simulation. Events are (time, order of making, what, arguments)."""

    def __init__(self, fleet: Fleet, policy: str, conversations: Sequence[Conversation], rng: random.Random) -> None:
        offers = [_offer(number, fleet.limits) for number in range(fleet.replicas)]
        key = rng.randbytes(KEY_BYTES)
        self._fleet, self._random = fleet, rng
        self._engines = [Simulator(fleet.shape) for _ in offers]
        self._nodes = [_Node(fleet, policy, offers, key, rng) for _ in range(fleet.nodes)]
        self._order = count()
        self._events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self._calls: dict[int, _Call] = {}
        self._left = sum(len(each.turns) for each in conversations)
        self.ended: list[Ended] = []
        for each in conversations:
            self._at(each.start_s, "arrive", each, 0)
        for node in range(fleet.nodes):
            for replica in range(fleet.replicas):
                self._at(rng.uniform(0, fleet.reading_interval_s), "read", node, replica)

    def run(self) -> None:
        """Until every call has ended."""
        engines = self._engines
        while self._left:
            now_s = self._events[0][0]
            behind = min((e for e in engines if e.running or e.waiting), key=_now, default=None)
            if behind is not None and behind.now_s < now_s:
                self._step(behind)
                continue
            now_s, _, what, arguments = heapq.heappop(self._events)
            getattr(self, f"_{what}")(now_s, *arguments)

    def _at(self, at_s: float, what: str, *arguments: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), what, arguments))

    def _step(self, engine: Simulator) -> None:
        for job in engine.step():
            call = self._calls[id(job)]
            if job.made == 1:
                self._nodes[call.node].observe(call.replica, job.first_token_s - call.arrived_s)
            if job.done:
                self._at(job.finished_s, "end", call)

    def _arrive(self, now_s: float, conversation: Conversation, number: int) -> None:
        node = self._random.randrange(len(self._nodes))
        turn = conversation.turns[number]
        replica = self._nodes[node].choose(conversation, turn, now_s)
        engine = self._engines[replica]
        if not engine.running and not engine.waiting:
            engine.run_until(now_s)
        job = engine.submit(conversation.words[: turn.prompt_tokens], turn.completion_tokens)
        self._calls[id(job)] = _Call(conversation, number, node, replica, now_s, job)
        seen = self._nodes[node].seen[replica]
        seen.inflight += 1
        seen.entered += 1

    def _end(self, now_s: float, call: _Call) -> None:
        job = call.job
        del self._calls[id(job)]
        self._nodes[call.node].seen[call.replica].inflight -= 1
        self._left -= 1
        self.ended.append(
            Ended(
                call.replica,
                call.arrived_s,
                job.first_token_s,
                job.finished_s,
                call.number,
                len(job.prompt),
                job.cached_tokens,
                job.made,
            )
        )
        following = call.number + 1
        turns = call.conversation.turns
        if following < len(turns):
            self._at(now_s + turns[following].think_s, "arrive", call.conversation, following)

    def _read(self, now_s: float, node: int, replica: int) -> None:
        engine, fleet = self._engines[replica], self._fleet
        load = (len(engine.waiting), len(engine.running), engine.kv_permille)
        mark = self._nodes[node].seen[replica].entered
        self._at(now_s + fleet.reading_delay_s, "know", node, replica, now_s, mark, load)
        self._at(now_s + fleet.reading_interval_s, "read", node, replica)

    def _know(self, _now_s: float, node: int, replica: int, read_at_s: float, mark: int, load: Any) -> None:
        self._nodes[node].learn(replica, read_at_s, mark, load)


def simulate(fleet: Fleet, policy: str, conversations: Sequence[Conversation], rng: random.Random) -> list[Ended]:
    """Every call of the conversations, in the order of their ends. `policy`: one of POLICIES.

    Raises ValueError for a prompt that fits no engine's cache.
    """
    run = _Run(fleet, policy, conversations, rng)
    run.run()
    return run.ended


def report(policy: str, ended: Sequence[Ended], replicas: int) -> Report:
    """The figures of a simulation of at least one call."""
    first_s = min(call.arrived_s for call in ended)
    seconds = max(call.finished_s for call in ended) - first_s
    waits = sorted(1000 * (call.first_token_s - call.arrived_s) for call in ended)
    loads, calls = [0.0] * replicas, [0] * replicas
    for call in ended:
        loads[call.replica] += call.finished_s - call.arrived_s
        calls[call.replica] += 1

    def percentile(percent: float) -> float:
        return waits[max(0, math.ceil(percent / 100 * len(waits)) - 1)]

    return Report(
        policy,
        len(ended),
        round(seconds, 1),
        round(sum(call.completion_tokens for call in ended) / seconds, 1),
        round(sum(waits) / len(waits), 1),
        round(percentile(50), 1),
        round(percentile(95), 1),
        round(percentile(99), 1),
        round(sum(call.cached_tokens for call in ended) / sum(call.prompt_tokens for call in ended), 4),
        round(sum(loads) / seconds / replicas, 2),
        round(max(loads) * replicas / sum(loads), 3),
        round(max(calls) * replicas / sum(calls), 3),
        tuple(round(each, 3) for each in waits),
    )


def capacity(fleet: Fleet, conversations: Sequence[Conversation]) -> float:
    """Conversations like these that the fleet works off in a second when nothing is cached and all slots are taken."""
    shape = fleet.shape
    step_s = shape.step_base_s / shape.slots + shape.step_per_sequence_s
    turns = [turn for each in conversations for turn in each.turns]
    work_s = sum(t.completion_tokens * step_s + t.prompt_tokens / shape.prefill_tokens_per_s for t in turns)
    return fleet.replicas * len(conversations) / work_s


def _offer(number: int, limits: SourceLimits) -> Offer:
    model = Model(name="m", context_length=0)
    name = f"replica-{number}"
    source = Source(
        id=f"src_{name}", name=name, kind=SourceKind.vllm, base_url="http://none", limits=limits, models=(model,)
    )
    return Offer(source, model, f"{name}::m")


def _now(engine: Simulator) -> float:
    return engine.now_s
