"""Offers by merit: which of them can answer, how they score, and how the replicas of a model stand to each other.

There are as many rows as offers, at each call: so they are plain tuples, made in one loop, and what a set of offers has
in common from call to call is looked up once (`facts.slate_of`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from interlock.routing.constraints import BYTES_PER_TOKEN_MAX, may_not_fit, out_of_service, unable
from interlock.routing.draws import mixed_lanes, packed
from interlock.routing.facts import Facts, Slate, slate_of
from interlock.routing.load import UNKNOWN, sent_since, unknown_queue
from interlock.routing.placement import place
from interlock.routing.rows import CLASS_SHIFT, MERIT, Row
from interlock.routing.score import MICRO, UNKNOWN_MICRO, Weights, parts
from interlock.routing.slo import Foresight
from interlock.types.decision import Candidate, Placement, Reason
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.source import LoadReading, Offer

LOAD_HALF = 8
"""Queue depth at which `load_micro` is one half."""
Readings = tuple[tuple[str, LoadReading], ...]
_Able = tuple[Sequence[Facts], Sequence[LoadReading], Sequence[int]]
"""Of each offer that can answer: its facts, its reading, its rank among its replicas."""
ABOVE_ALL = MICRO + 1
_NOTHING: Mapping[str, int] = {}


class Request(NamedTuple):
    """The arguments of one decision besides its offers."""

    features: Features
    target: Target
    readings: Mapping[str, LoadReading]
    open_breakers: Collection[str]
    latencies: Mapping[str, int]
    weights: Weights
    estimates: Estimates | None
    seed: int
    placement: Placement | None
    beyond: Mapping[str, str] | None
    foreseeing: Foresight | None


def ranked(request: Request, offers: Sequence[Offer]) -> tuple[list[Row], list[Reason], Readings]:
    """(what can answer, by merit; why others cannot, by offer; the reading of each source, by its id).

    A call without an affinity has an order of replicas of its own, drawn from the seed: nodes that took the least
    loaded one by readings of the same age would all send there what comes until the next.
    """
    slate, placement, readings = slate_of(offers), request.placement, request.readings
    looked = [readings.get(source_id, UNKNOWN) for source_id in slate.source_ids]
    ranks: Sequence[int] = slate.zeros
    if placement is not None:
        ranks = mixed_lanes(request.features.affinity or request.seed, slate.lanes, len(looked))
    able, rejected = _able(request, slate, looked, ranks)
    shared = _best_latencies(able, request.latencies) if placement is not None else _NOTHING
    rows = _rows(request, able, shared)
    rows.sort()
    if placement is None:
        _take_turns(rows, request.seed)
    else:
        rows = _placed(rows, request, placement)
    return rows, rejected, tuple([(source_id, readings.get(source_id, UNKNOWN)) for source_id in slate.sources])


def _able(
    request: Request, slate: Slate, looked: Sequence[LoadReading], ranks: Sequence[int]
) -> tuple[_Able, list[Reason]]:
    """(what can answer; why others cannot, by offer)."""
    features, target, open_breakers = request.features, request.target, request.open_breakers
    operation, exacting = features.operation, bool(features.needs or target.version)
    least_context = features.prompt_bytes // BYTES_PER_TOKEN_MAX
    usual = not exacting and operation in slate.abilities and least_context < slate.context and not slate.resting
    if usual and not open_breakers and False not in [reading.healthy for reading in looked]:
        return (slate.facts, looked, ranks), []
    able: list[tuple[Facts, LoadReading, int]] = []
    rejected: list[Reason] = []
    for facts, reading, rank in zip(slate.facts, looked, ranks, strict=True):
        reason = None
        if exacting or operation not in facts.abilities or 0 < facts.context <= least_context:
            reason = unable(features, target, facts.offer)
        broken = bool(open_breakers) and facts.source_id in open_breakers
        if reason is None and (broken or facts.resting or not reading.healthy):
            reason = out_of_service(facts.offer, reading, broken)
        if reason is None:
            able.append((facts, reading, rank))
        else:
            rejected.append(reason)
    rejected.sort(key=_offer_of)
    return ([each[0] for each in able], [each[1] for each in able], [each[2] for each in able]), rejected


def _best_latencies(able: _Able, latencies: Mapping[str, int]) -> dict[str, int]:
    """The best latency part among the replicas of each kind, which they all have.

    A time to first byte is mostly how much of a prompt was cached and how long the queue was then: it says little about
    a replica, and one that gets no calls for it never gets another one. What waits there now does count (`place`). A
    model that is known not to be loaded keeps its own.
    """
    best: dict[str, int] = {}
    facts_of_each, readings, _ = able
    for facts, reading in zip(facts_of_each, readings, strict=True):
        loaded = reading.loaded
        if loaded < 0 or loaded & facts.bit:
            kind, known = facts.kind, latencies.get(facts.key, UNKNOWN_MICRO)
            if known < best.get(kind, ABOVE_ALL):
                best[kind] = known
    return best


def _rows(request: Request, able: _Able, shared: Mapping[str, int]) -> list[Row]:
    features, target, latencies, estimates = request.features, request.target, request.latencies, request.estimates
    w_quality, w_cost, w_latency, w_energy = request.weights
    foreseeing, plain = request.foreseeing, not target.preferred_version
    prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
    tokens = prompt + completion
    failures = estimates.failure_micro if estimates is not None else _NOTHING
    known: dict[str, list[int]] = {}
    rows: list[Row] = []
    for facts, reading, rank in zip(*able, strict=True):
        key, terms, kind, context, bit, off_prem, waiting_max, concurrency = facts.often
        loaded = reading.loaded
        if loaded >= 0 and not loaded & bit:
            latency = MICRO  # it has to be loaded first, whatever the latency was while it was
        elif kind in shared:
            latency = shared[kind]
        else:
            latency = latencies.get(key, UNKNOWN_MICRO)
        same = known.get(terms)
        if same is None:
            quality, cost, energy = parts(facts, prompt, completion, estimates)
            rest = w_cost * (MICRO - cost) + w_energy * (MICRO - energy)
            same = known[terms] = [quality, cost, energy, rest, -1, 0]
        quality, cost, energy, rest, at_latency, score = same
        failure = failures.get(key) if failures else None
        if failure:
            quality = quality * (MICRO - failure) // MICRO
        if failure or latency != at_latency:
            score = (w_quality * quality + w_latency * (MICRO - latency) + rest) // MICRO  # as `weighted`
            if not failure:
                same[4], same[5] = latency, score
        # `load.load_of` and `load.saturated` at once, and the calls there, by the engine's figures or ours, if more:
        busy, queue, full = reading.inflight, reading.waiting, reading.saturated
        if concurrency is not None and busy >= concurrency:
            full = True
        if queue < 0:
            queue = unknown_queue(waiting_max)
            load = queue + busy
        else:
            running = reading.running
            if reading.inflight_since:
                queue += sent_since(reading)
            if queue > waiting_max:
                full = True
            load = queue + running if running > 0 else queue
            if running > busy:
                busy = running
            if busy > load:
                load = busy
        disfavour = 0
        if not plain or (context and tokens > context):
            disfavour = _disfavour(features, target, facts.offer)
        if foreseeing is not None:
            disfavour |= foreseeing.verdict(facts.offer, reading, queue) << CLASS_SHIFT
        waits = load_micro(queue) if queue else 0
        made = Candidate(key, score, quality, cost, latency, energy, waits)
        rows.append((disfavour, -score, off_prem, queue, busy, key, facts, made, full, -rank, load, reading))
    return rows


def load_micro(queue: int) -> int:
    """The load part of a candidate with so many calls before this one: 0 to 1,000,000."""
    return MICRO * queue // (queue + LOAD_HALF)


def _disfavour(features: Features, target: Target, offer: Offer) -> int:
    """What stands before the score: whether the prompt fits, then whether it is the preferred version."""
    tight = 2 if may_not_fit(features, offer) else 0
    preferred = target.preferred_version
    return tight + 1 if preferred and offer.model.version != preferred else tight


def _take_turns(rows: list[Row], seed: int) -> None:
    """Order each run of candidates of equal merit by the seed, in place, so that idle replicas take turns."""
    start, count = 0, len(rows)
    for end in range(1, count + 1):
        if end < count:
            one, first = rows[end], rows[start]
            if one[1] == first[1] and one[4] == first[4] and one[:MERIT] == first[:MERIT]:
                continue
        if end - start > 1:
            _draw(rows, start, end, seed)
        start = end


def _draw(rows: list[Row], start: int, end: int, seed: int) -> None:
    run = rows[start:end]
    draws = mixed_lanes(seed, packed([row[6].salt for row in run]), len(run))
    rows[start:end] = [row for _, _, row in sorted(zip(draws, [row[5] for row in run], run, strict=True))]


def _placed(rows: list[Row], request: Request, bounds: Placement) -> list[Row]:
    """Replicas of one model that are equal by preference and score: together, in the order of their ranks, where the
    first of them stood. Models that are equal take turns."""
    numbered, known = request.features.affinity != 0, request.beyond
    out: list[Row] = []
    start, count = 0, len(rows)
    for end in range(1, count + 1):
        first = rows[start]
        if end < count and rows[end][1] == first[1] and rows[end][0] == first[0]:
            continue
        if end - start == 1:
            out.append(first)
            start = end
            continue
        for group in _by_kind(rows[start:end], request.seed):
            if len(group) == 1:
                out.append(group[0])
                continue
            out += place(group, bounds, known, numbered)
        start = end
    return out


def _by_kind(rows: list[Row], seed: int) -> Iterable[list[Row]]:
    kind = rows[0][6].kind
    if not [row for row in rows if row[6].kind != kind]:
        return (rows,)
    groups: dict[str, list[Row]] = {}
    for row in _in_turns(rows, seed):
        groups.setdefault(row[6].kind, []).append(row)
    return groups.values()


def _in_turns(rows: list[Row], seed: int) -> list[Row]:
    """Runs of equal merit that are not of one model: by the seed."""
    start, count = 0, len(rows)
    for end in range(1, count + 1):
        if end < count and rows[end][:MERIT] == rows[start][:MERIT]:
            continue
        if end - start > 1 and any(row[6].kind != rows[start][6].kind for row in rows[start:end]):
            _draw(rows, start, end, seed)
        start = end
    return rows


def _offer_of(reason: Reason) -> str:
    return reason.offer
