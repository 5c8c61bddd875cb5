"""Offers by merit: which of them can answer, how they score, and how the replicas of a model stand to each other.

There are as many rows as offers, at each call: so they are plain tuples, made in one loop, and what a set of offers has
in common from call to call is looked up once (`facts.slate_of`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from interlock.routing.constraints import BYTES_PER_TOKEN_MAX, may_not_fit, out_of_service, unable
from interlock.routing.draws import mixed_lanes, packed
from interlock.routing.facts import Facts, Often, Slate
from interlock.routing.load import UNKNOWN, sent_since, unknown_queue
from interlock.routing.placement import place
from interlock.routing.rows import CLASS_SHIFT, MERIT, SCORE_BITS, Row, by_merit, home_first, merit
from interlock.routing.score import MICRO, UNKNOWN_MICRO, Parts, Weights, failing, merit_of, merits
from interlock.routing.slo import Foresight
from interlock.types.decision import Candidate, Placement, Reason
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.source import LoadReading, Offer

LOAD_HALF = 8
"""Queue depth at which `load_micro` is one half."""
Readings = tuple[tuple[str, LoadReading], ...]
ABOVE_ALL = MICRO + 1


class _Able(NamedTuple):
    """Of each offer that can answer: its facts, its key, the numbers of its kind and its worth, its reading, its
    falling rank among its replicas. `told`: a source among them says which models it has loaded."""

    facts: Sequence[Facts]
    often: Sequence[Often]
    keys: Sequence[str]
    kinds: Sequence[int]
    worth_of: Sequence[int]
    readings: Sequence[LoadReading]
    ranks: Sequence[int]
    told: bool


class Request(NamedTuple):
    """The arguments of one decision besides its offers."""

    features: Features
    target: Target
    slate: Slate
    readings: Mapping[str, LoadReading]
    open_breakers: Collection[str]
    latencies: Mapping[str, int]
    weights: Weights
    estimates: Estimates | None
    seed: int
    placement: Placement | None
    beyond: Mapping[str, str] | None
    foreseeing: Foresight | None


def ranked(request: Request) -> tuple[list[Row], list[Reason], Readings]:
    """(what can answer, by merit; why others cannot, by offer; the reading of each source, by its id).

    A call without an affinity has an order of replicas of its own, drawn from the seed: nodes that took the least
    loaded one by readings of the same age would all send there what comes until the next.
    """
    slate, placement, readings = request.slate, request.placement, request.readings
    looked = list(map(readings.get, slate.source_ids, repeat(UNKNOWN)))
    ranks: Sequence[int] = slate.zeros
    if placement is not None:
        ranks = mixed_lanes(request.features.affinity or request.seed, slate.lanes, len(looked), falling=True)
        if slate.twins:
            ranks = _distinct(ranks, slate.facts)
    able, rejected = _able(request, looked, ranks)
    rows = _rows(request, able, _latencies(able, request.latencies, placement is not None, len(looked)))
    rows.sort()
    if placement is None:
        _take_turns(rows, request.seed)
    else:
        rows = _placed(rows, request, placement)
    considered = zip(slate.source_ids, looked, strict=True)
    return rows, rejected, tuple(considered if slate.single else dict(considered).items())


def _distinct(falling: Sequence[int], facts: Sequence[Facts]) -> list[int]:
    """Falling ranks in the same order, without equals: of these the first by name is the higher one."""
    ordered = sorted(range(len(falling)), key=lambda at: (falling[at], facts[at].key))
    out = [0] * len(falling)
    for number, at in enumerate(ordered):
        out[at] = number
    return out


def _able(request: Request, looked: Sequence[LoadReading], ranks: Sequence[int]) -> tuple[_Able, list[Reason]]:
    """(what can answer; why others cannot, by offer)."""
    features, target, slate, open_breakers = request.features, request.target, request.slate, request.open_breakers
    operation, exacting = features.operation, bool(features.needs or target.version)
    least_context = features.prompt_bytes // BYTES_PER_TOKEN_MAX
    usual = not exacting and operation in slate.abilities and least_context < slate.context and not slate.resting
    unlike = [reading for reading in looked if reading.loaded >= 0 or not reading.healthy]
    if usual and not open_breakers and False not in [reading.healthy for reading in unlike]:
        mine = slate.facts, slate.often, slate.keys, slate.kinds, slate.worth_of
        return _Able(*mine, looked, ranks, bool(unlike)), []
    able: list[int] = []
    rejected: list[Reason] = []
    for at, (facts, reading) in enumerate(zip(slate.facts, looked, strict=True)):
        reason = None
        if exacting or operation not in facts.abilities or 0 < facts.context <= least_context:
            reason = unable(features, target, facts.offer)
        broken = bool(open_breakers) and facts.source_id in open_breakers
        if reason is None and (broken or facts.resting or not reading.healthy):
            reason = out_of_service(facts.offer, reading, broken)
        if reason is None:
            able.append(at)
        else:
            rejected.append(reason)
    rejected.sort(key=_offer_of)
    found = _Able(
        [slate.facts[at] for at in able],
        [slate.often[at] for at in able],
        [slate.keys[at] for at in able],
        [slate.kinds[at] for at in able],
        [slate.worth_of[at] for at in able],
        [looked[at] for at in able],
        [ranks[at] for at in able],
        bool(unlike),
    )
    return found, rejected


def _latencies(able: _Able, latencies: Mapping[str, int], placed: bool, kinds_max: int) -> list[int]:
    """The latency part of each: what is known of it; where they are placed, the best one among its replicas.

    A time to first byte is mostly how much of a prompt was cached and how long the queue was then: it says little about
    a replica, and one that gets no calls for it never gets another one. What waits there now does count (`place`). A
    model that is known not to be loaded has its own: it has to be loaded first, whatever the latency was while it was.
    """
    out = list(map(latencies.get, able.keys, repeat(UNKNOWN_MICRO)))
    cold: list[int] = []
    if able.told:
        told = [at for at, reading in enumerate(able.readings) if reading.loaded >= 0]
        cold = [at for at in told if not able.readings[at].loaded & able.often[at][2]]
    for at in cold:
        out[at] = MICRO
    if placed:
        best, kinds = [ABOVE_ALL] * kinds_max, able.kinds
        for kind, latency in zip(kinds, out, strict=True):
            if latency < best[kind]:
                best[kind] = latency
        out = [best[kind] for kind in kinds]
        for at in cold:
            out[at] = MICRO
    return out


def _rows(request: Request, able: _Able, latencies: Sequence[int]) -> list[Row]:
    features, target, estimates, weights = request.features, request.target, request.estimates, request.weights
    foreseeing, plain = request.foreseeing, not target.preferred_version
    prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
    tokens = prompt + completion
    failures = estimates.failure_micro if estimates is not None else None
    slate, w_latency = request.slate, weights.latency
    rows: list[Row] = []
    found, scores = _scores(able, latencies, request)
    bare = plain and foreseeing is None and tokens <= slate.context
    columns = (able.facts, able.often, found, scores, able.readings, latencies)
    for facts, often, worth, score, reading, latency, rank in zip(*columns, able.ranks, strict=True):
        key, _, _, context, off_prem, waiting_max, concurrency, later = often
        quality, cost, energy = worth
        if failures and (failure := failures.get(key)):
            merit = merit_of(quality, cost, energy, weights)
            quality, merit = failing(quality, merit, failure, weights.quality)
            score = (merit - w_latency * latency) // MICRO
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
        first = -score
        if not bare:
            if not plain or (context and tokens > context):
                first += _disfavour(features, target, facts.offer) << SCORE_BITS
            if foreseeing is not None:
                first += foreseeing.verdict(facts.offer, reading, queue) << CLASS_SHIFT + SCORE_BITS
        waits = load_micro(queue) if queue else 0
        made = Candidate(key, score, quality, cost, latency, energy, waits)
        rows.append((first, rank, off_prem, queue, busy, key, later, made, full, load, reading))
    return rows


def _scores(able: _Able, latencies: Sequence[int], request: Request) -> tuple[Sequence[Parts], Sequence[int]]:
    """(the parts of each, its score), as if none of its tries failed: placed replicas of one worth have the same score,
    unless a source says which models it has loaded."""
    features, slate, weights = request.features, request.slate, request.weights
    asked = features.prompt_tokens_max, features.completion_tokens_max, weights, request.estimates
    whose = able.worth_of
    if slate.table is not None and latencies:
        at_once = slate.table.scores(*asked, None if whose is slate.numbers else whose, latencies)
        if at_once is not None:
            return at_once
    found, w_latency = merits(slate.worths, *asked), weights.latency
    if request.placement is None or able.told or not slate.leads or able.kinds is not slate.kinds:
        scores = [(found[at][3] - w_latency * latency) // MICRO for at, latency in zip(whose, latencies, strict=True)]
    else:
        of_kind = [(found[whose[at]][3] - w_latency * latencies[at]) // MICRO for at in slate.leads]
        scores = [of_kind[kind] for kind in able.kinds]
    parts = [worth[:3] for worth in found]
    return [parts[number] for number in whose], scores


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
    if len({row[0] for row in rows}) == len(rows):
        return  # there are no equals
    start, count = 0, len(rows)
    for end in range(1, count + 1):
        if end < count:
            one, first = rows[end], rows[start]
            if one[0] == first[0] and one[4] == first[4] and one[:MERIT] == first[:MERIT]:
                continue
        if end - start > 1:
            _draw(rows, start, end, seed)
        start = end


def _draw(rows: list[Row], start: int, end: int, seed: int) -> None:
    run = rows[start:end]
    draws = mixed_lanes(seed, packed([row[6][1] for row in run]), len(run))
    rows[start:end] = [row for _, _, row in sorted(zip(draws, [row[5] for row in run], run, strict=True))]


def _placed(rows: list[Row], request: Request, bounds: Placement) -> list[Row]:
    """Replicas of one model that are equal by preference and score: together, in the order of their ranks, where the
    first of them stood. Models that are equal take turns."""
    numbered, known = request.features.affinity != 0, request.beyond
    firsts, kinds = [row[0] for row in rows], [row[6][0] for row in rows]
    out: list[Row] = []
    start, count = 0, len(rows)
    while start < count:
        end = bisect_right(firsts, firsts[start], start)
        run = rows[start:end]
        if end - start == 1:
            out += run
        elif kinds[start:end].count(kinds[start]) == end - start:
            out += place(run, bounds, known, numbered)
        else:
            for group in _by_kind(run, request.seed):
                out += group if len(group) == 1 else place(group, bounds, known, numbered)
        start = end
    return out


def _by_kind(rows: list[Row], seed: int) -> Iterable[list[Row]]:
    """The replicas of each of several models, by rank as the rows are; the models as the first of each stands by
    merit."""
    groups: dict[str, list[Row]] = {}
    for row in _in_turns(sorted(rows, key=by_merit), seed):
        groups.setdefault(row[6][0], []).append(row)
    return [sorted(group, key=home_first) for group in groups.values()]


def _in_turns(rows: list[Row], seed: int) -> list[Row]:
    """Runs of equal merit that are not of one model: by the seed."""
    start, count = 0, len(rows)
    for end in range(1, count + 1):
        if end < count and merit(rows[end]) == merit(rows[start]):
            continue
        if end - start > 1 and any(row[6][0] != rows[start][6][0] for row in rows[start:end]):
            _draw(rows, start, end, seed)
        start = end
    return rows


def _offer_of(reason: Reason) -> str:
    return reason.offer
