"""The decision: filter, score, least load among equals, saturated sources behind free ones.

The order of candidates, first to last:

0. of a call that asks for objectives (`routing.slo`): offers predicted to meet them, then those of which that is not
   known, then those predicted to miss; all that follows holds among the offers of one of these three;
1. offers where the prompt fits before offers where it may not; of both, those of the preferred version first;
2. the higher score;
3. at equal score, on-prem before the rest;
4. then the shorter queue, then fewer calls running;
5. then an order drawn from the seed, so that idle replicas take turns.

With bounds on placement the replicas of one model stand in its order instead, where the first of them stood: by the
call's affinity, or by the seed when it has none. Of 2 the latency is then the replicas' best one.

Now and then the best candidate of another model is put before all of them, to learn about it (`routing.explore`).

INVARIANT: the candidates are a subset of the offers passed in. Policy has decided; this only orders.

Then saturated candidates go behind all others, in the same order. A candidate that so came before a preferred one
(by 1-3) is marked `overflow`. For a call that is not interactive this is done among the candidates that are on-prem or
better than the best on-prem one, and then among the others: these stay behind a source of one's own that is full.
Whether a source is saturated has hysteresis (it is published with its reading), and our own calls since that reading
count on top of it: only the excess goes elsewhere, and it comes back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from interlock.routing.constraints import BYTES_PER_TOKEN_MAX, may_not_fit, out_of_service, unable
from interlock.routing.draws import mixed_all
from interlock.routing.explore import DOUBT_MAX_MICRO, chances, drawn
from interlock.routing.facts import Facts, facts_of
from interlock.routing.placement import place, replicated
from interlock.routing.score import MICRO, OWN, UNKNOWN_MICRO, Weights, parts, scored, weights_of
from interlock.routing.slo import NO_PACES, Foresight, foresight
from interlock.types.decision import Candidate, Placement, Reason, RouteDecision
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.slo import Pace, tighter
from interlock.types.source import LoadReading, Offer

UNKNOWN = LoadReading()
"""The reading of a source that nothing is known of: not idle, not saturated, taken for healthy."""
LOAD_HALF = 8
"""Queue depth at which `load_micro` is one half."""
CUT_CODES = ("candidates_max", "reasons_max")
"""Codes of the reasons that say how much more was considered than is kept."""

_NO_LATENCIES: Mapping[str, int] = {}


def decide(
    features: Features,
    target: Target,
    offers: Sequence[Offer],
    readings: Mapping[str, LoadReading],
    *,
    open_breakers: Collection[str] = (),
    latencies: Mapping[str, int] = _NO_LATENCIES,
    candidates_max: int = 50,
    estimates: Estimates | None = None,
    seed: int = 0,
    placement: Placement | None = None,
    beyond: Mapping[str, str] | None = None,
    weights: Weights | None = None,
    paces: Mapping[str, Pace] = NO_PACES,
) -> RouteDecision:
    """Order the offers that policy allows for one request. Pure: the same arguments give the same decision.

    - `offers`: what the request may use; their order does not matter. Version and abilities are checked here.
    - `readings`: by source id; a source without one counts as unknown.
    - `open_breakers`: ids of the sources whose circuit breaker lets nothing through now (half-open: not among them).
    - `latencies`: by `Offer.key`, in millionths (`score.latency_micro`); an offer without one counts as unknown.
    - `candidates_max`: most candidates kept; the worst are dropped, and one reason says how many.
    - `estimates`: what is expected of each model for this prompt; without them their priors count.
    - `placement`: the bounds on placing replicas by `features.affinity`, or by the seed where that is 0; without them
      replicas are ordered by latency, then load.
    - `beyond`: why replicas are beyond these bounds, by `Offer.key`, where that is known already: of a decision that
      was cut, whose other replicas are not.
    - `weights`: in place of those of the mode, or of the call's own.
    - `paces`: by `Offer.key`, for a call with objectives; an offer without one has unknown times.

    `candidates` may be empty: `explain.no_candidate` makes the error of it.
    """
    weights = weights or weights_of(features, target)
    foreseeing = _foreseeing(features, target, paces)
    if len(offers) == 1:
        # Nothing to order: the same decision as the general way gives, without its work.
        offer = offers[0]
        source_id = offer.source.id
        reading = readings.get(source_id, UNKNOWN)
        reason = unable(features, target, offer) or out_of_service(offer, reading, source_id in open_breakers)
        considered = ((source_id, reading),)
        version, task = (estimates.version, estimates.task) if estimates is not None else (0, -1)
        mode = _mode(features, target)
        if reason is not None:
            return RouteDecision(mode, (), (reason,), considered, version, seed, task)
        facts = facts_of(offer)
        latency = latencies.get(offer.key, UNKNOWN_MICRO)
        if reading.loaded >= 0 and not reading.loaded & facts.bit:
            latency = MICRO
        prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
        scores = scored(facts, prompt, completion, weights, latency, estimates)
        queue = load_of(offer, reading)[0]
        candidate = Candidate(offer.key, *scores, _load_micro(queue))
        if foreseeing is None:
            return RouteDecision(mode, (candidate,), (), considered, version, seed, task)
        foreseeing.verdict(offer, reading, queue)
        seen = (foreseeing.seen[offer.key],)
        return RouteDecision(mode, (candidate,), (), considered, version, seed, task, foreseen=seen)
    placement = _placing(features, offers, placement)
    request = _Request(
        features, target, readings, open_breakers, latencies, weights, estimates, seed, placement, beyond, foreseeing
    )
    return _decide_many(request, offers, candidates_max)


def spread(
    features: Features,
    target: Target,
    offers: Sequence[Offer],
    readings: Mapping[str, LoadReading],
    *,
    open_breakers: Collection[str] = (),
    latencies: Mapping[str, int] = _NO_LATENCIES,
    estimates: Estimates | None = None,
    seed: int = 0,
    placement: Placement | None = None,
    weights: Weights | None = None,
    paces: Mapping[str, Pace] = NO_PACES,
) -> tuple[tuple[str, int], ...]:
    """(offer, probability in millionths) of every candidate that `decide` may put first, the best one first; together
    one million. `seed` orders equals, as in `decide`; which one is tried is not drawn. Empty: there is no candidate."""
    weights = weights or weights_of(features, target)
    placement = _placing(features, offers, placement)
    foreseeing = _foreseeing(features, target, paces)
    request = _Request(
        features, target, readings, open_breakers, latencies, weights, estimates, seed, placement, None, foreseeing
    )
    ranked, _rejected, _considered = _rank(request, offers)
    kept = _in_order(request, ranked)
    if estimates is not None and estimates.share_micro > 0 and len(kept) > 1:
        places, likely = _likely(kept, ranked, request, estimates)
        if places:
            return tuple((kept[at].offer, chance) for at, chance in zip(places, likely, strict=True) if chance)
    return ((kept[0].offer, MICRO),) if kept else ()


def saturated(offer: Offer, reading: LoadReading) -> bool:
    """True when the source should get no more than it has: its queue is too long, or our own cap on it is reached."""
    if reading.saturated:
        return True
    limits = offer.source.limits
    if reading.waiting >= 0 and reading.waiting + sent_since(reading) > limits.waiting_max:
        return True
    return limits.concurrency is not None and reading.inflight >= limits.concurrency


def sent_since(reading: LoadReading) -> int:
    """By how many calls the engine may hold more than it said, through us: those it did not know of, still waited for.

    Calls that ended since made room for as many. So when the engine says how many it held, only what we have in
    flight beyond that counts; else a fast engine with an empty queue would seem saturated by its own throughput.
    """
    since = reading.inflight_since
    if not since or reading.running < 0:
        return since
    beyond = reading.inflight - reading.running - reading.waiting
    if beyond >= since:
        return since
    return beyond if beyond > 0 else 0


def load_of(offer: Offer, reading: LoadReading) -> tuple[int, int]:
    """(queue, busy): requests that wait there or came on top since the reading, and requests that run or are ours.

    An unknown queue counts as half of the one that saturates, never as empty.
    """
    inflight = reading.inflight
    if reading.waiting < 0:
        return max(1, offer.source.limits.waiting_max // 2), inflight
    running = reading.running
    return reading.waiting + sent_since(reading), running if running > inflight else inflight


def _placing(features: Features, offers: Sequence[Offer], placement: Placement | None) -> Placement | None:
    return placement if features.affinity or replicated(offers) else None


class _Request(NamedTuple):
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


_Ranked = tuple[int, int, bool, int, int, str, Facts, tuple[Any, ...], bool]
"""Sort key (disfavour, -score, off-prem, queue, busy, offer), total; then what is known of the offer, what its
`Candidate` is made of, and whether it is full."""
_CLASS_SHIFT = 2
"""Above these bits of the disfavour: whether the call's objectives are predicted to be met."""
_PREFERENCE = 3
"""How much of the sort key is preference; then comes load."""
_MERIT = 5
"""How much of the sort key decides; candidates that are equal so far are ordered by the seed."""


def _decide_many(request: _Request, offers: Sequence[Offer], candidates_max: int) -> RouteDecision:
    estimates, seed, foreseeing = request.estimates, request.seed, request.foreseeing
    ranked, rejected, considered = _rank(request, offers)
    kept = _in_order(request, ranked)
    chance, best = MICRO, ""
    if estimates is not None and estimates.share_micro > 0 and len(kept) > 1:
        chance, best = _try_another(kept, ranked, request, estimates)
    if len(kept) > candidates_max:
        rejected.insert(0, _left_over(len(kept) - candidates_max, candidates_max))
        kept = kept[:candidates_max]
    return RouteDecision(
        _mode(request.features, request.target),
        tuple(kept),
        _bounded(rejected, candidates_max),
        tuple(sorted(considered.items())),
        estimates.version if estimates is not None else 0,
        seed,
        estimates.task if estimates is not None else -1,
        chance,
        best,
        request.placement,
        () if foreseeing is None else tuple([foreseeing.seen[candidate.offer] for candidate in kept]),
    )


def _foreseeing(features: Features, target: Target, paces: Mapping[str, Pace]) -> Foresight | None:
    if features.slo is None and target.slo is None:
        return None
    slo = tighter(features.slo, target.slo)
    return foresight(features, slo, paces) if slo is not None else None


def _mode(features: Features, target: Target) -> str:
    return OWN if features.weights or target.weights else target.mode


def _rank(request: _Request, offers: Sequence[Offer]) -> tuple[list[_Ranked], list[Reason], dict[str, LoadReading]]:
    """(what can answer, by merit; why others cannot, by offer; the reading of each source)."""
    features, target, _, _, latencies, weights, estimates, seed, placement, _, foreseeing = request
    able, rejected, considered = _able(request, offers)
    shared = _best_latencies(able, latencies) if placement is not None else {}
    plain = not target.preferred_version
    prompt, completion = features.prompt_tokens_max, features.completion_tokens_max
    failures = estimates.failure_micro if estimates is not None else _NO_LATENCIES
    w_quality, w_cost, w_latency, w_energy = weights
    known: dict[str, tuple[int, int, int, int]] = {}
    ranked: list[_Ranked] = []
    for facts, reading in able:
        key, terms, kind, context, bit, off_prem = facts.often
        latency = shared[kind] if kind in shared else latencies.get(key, UNKNOWN_MICRO)
        loaded = reading.loaded
        if loaded >= 0 and not loaded & bit:
            latency = MICRO  # it has to be loaded first, whatever the latency was while it was
        same = known.get(terms)
        if same is None:
            quality, cost, energy = parts(facts, prompt, completion, estimates)
            rest = w_cost * (MICRO - cost) + w_energy * (MICRO - energy)
            same = known[terms] = quality, cost, energy, rest
        quality, cost, energy, rest = same
        if key in failures:
            quality = quality * (MICRO - failures[key]) // MICRO
        score = (w_quality * quality + w_latency * (MICRO - latency) + rest) // MICRO  # as `weighted`
        queue, busy, full = _load(facts, reading)
        fits = plain and (not context or prompt + completion <= context)
        disfavour = 0 if fits else _disfavour(features, target, facts.offer)
        if foreseeing is not None:
            disfavour |= foreseeing.verdict(facts.offer, reading, queue) << _CLASS_SHIFT
        ranked.append(
            (
                disfavour,
                -score,
                off_prem,
                queue,
                busy,
                key,
                facts,
                (key, score, quality, cost, latency, energy, _load_micro(queue) if queue else 0),
                full,
            )
        )
    ranked.sort()
    _take_turns(ranked, seed, placement is not None)
    if placement is not None:
        ranked = _placed(ranked, considered, request)
    rejected.sort(key=_offer_of)
    return ranked, rejected, considered


def _able(
    request: _Request, offers: Sequence[Offer]
) -> tuple[list[tuple[Facts, LoadReading]], list[Reason], dict[str, LoadReading]]:
    """(what can answer, with its reading; why others cannot; the reading of each source)."""
    features, target, readings, open_breakers = request[:4]
    operation, exacting = features.operation, bool(features.needs or target.version)
    least_context = features.prompt_bytes // BYTES_PER_TOKEN_MAX
    able: list[tuple[Facts, LoadReading]] = []
    rejected: list[Reason] = []
    considered: dict[str, LoadReading] = {}
    for offer in offers:
        facts = facts_of(offer)
        source_id = facts.source_id
        reading = considered.get(source_id)
        if reading is None:
            reading = considered[source_id] = readings.get(source_id, UNKNOWN)
        reason = None
        if exacting or operation not in facts.abilities or 0 < facts.context <= least_context:
            reason = unable(features, target, offer)
        broken = bool(open_breakers) and source_id in open_breakers
        if reason is None and (broken or facts.resting or not reading.healthy):
            reason = out_of_service(offer, reading, broken)
        if reason is None:
            able.append((facts, reading))
        else:
            rejected.append(reason)
    return able, rejected, considered


def _in_order(request: _Request, ranked: list[_Ranked]) -> list[Candidate]:
    if request.foreseeing is None or not ranked:
        return _saturated_last(request, ranked)
    out: list[Candidate] = []
    for verdict in range(ranked[0][0] >> _CLASS_SHIFT, (ranked[-1][0] >> _CLASS_SHIFT) + 1):
        out += _saturated_last(request, [row for row in ranked if row[0] >> _CLASS_SHIFT == verdict])
    return out


def _saturated_last(request: _Request, ranked: list[_Ranked]) -> list[Candidate]:
    return _own_first(ranked, request.weights) if request.features.workload else _overflow_last(ranked)


def _try_another(
    kept: list[Candidate], ranked: Sequence[_Ranked], request: _Request, estimates: Estimates
) -> tuple[int, str]:
    """Maybe put the first candidate of another model before all, in place: (its probability, who was the best)."""
    places, likely = _likely(kept, ranked, request, estimates)
    if not places:
        return MICRO, ""
    taken = drawn(likely, request.seed)
    if not taken:
        return likely[0], ""
    before = kept[0].offer
    kept.insert(0, kept.pop(places[taken]))
    return likely[taken], before


def _likely(
    kept: list[Candidate], ranked: Sequence[_Ranked], request: _Request, estimates: Estimates
) -> tuple[list[int], list[int]]:
    """(places of the first candidates of models that may come first, how likely each is); empty: the best alone may.

    Only among free candidates that fit, and are predicted to meet what is asked, as well as the best one does, and when
    that is free itself.
    """
    merits = {r[5]: r for r in ranked}
    best = merits[kept[0].offer]
    if best[8]:
        return [], []
    prompt, completion = request.features.prompt_tokens_max, request.features.completion_tokens_max
    quality, doubts, verbosities = request.weights.quality, estimates.doubt_micro, estimates.verbosity_milli
    arms: set[str] = set()
    order: list[str] = []
    places: list[int] = []
    options: list[tuple[int, int, int]] = []
    for number, candidate in enumerate(kept):
        one = merits[candidate.offer]
        facts = one[6]
        arm = facts.arm
        if arm in arms:
            continue
        if not number or (one[0] == best[0] and not one[8] and not candidate.overflow and facts.priced):
            arms.add(arm)
            order.append(arm)
            places.append(number)
            tokens = completion * verbosities.get(arm, 1000) // 1000
            cost = facts.input_nusd * prompt + facts.output_nusd * tokens + facts.call_nusd * MICRO
            doubt = doubts.get(arm, DOUBT_MAX_MICRO)
            credit = quality * (doubt if doubt < DOUBT_MAX_MICRO else DOUBT_MAX_MICRO) // MICRO
            options.append((-one[1], credit, cost))
    if len(places) < 2:
        return [], []
    due = [i for i, arm in enumerate(order) if arm in estimates.due] if estimates.due else ()
    return places, chances(options, estimates.share_micro, estimates.money_micro, due)


def _disfavour(features: Features, target: Target, offer: Offer) -> int:
    """What stands before the score: whether the prompt fits, then whether it is the preferred version."""
    tight = 2 if may_not_fit(features, offer) else 0
    preferred = target.preferred_version
    return tight + 1 if preferred and offer.model.version != preferred else tight


def _load_micro(queue: int) -> int:
    return MICRO * queue // (queue + LOAD_HALF)


def _load(facts: Facts, reading: LoadReading) -> tuple[int, int, bool]:
    """`load_of` and `saturated` at once."""
    inflight, waiting, full = reading.inflight, reading.waiting, reading.saturated
    if facts.concurrency is not None and inflight >= facts.concurrency:
        full = True
    if waiting < 0:
        return max(1, facts.waiting_max // 2), inflight, full
    running, since = reading.running, reading.inflight_since
    queue = waiting + (sent_since(reading) if since else 0)
    return queue, running if running > inflight else inflight, full or queue > facts.waiting_max


def _best_latencies(able: Sequence[tuple[Facts, LoadReading]], latencies: Mapping[str, int]) -> dict[str, int]:
    """The best latency part among the replicas of each kind, which they all have.

    A time to first byte is mostly how much of a prompt was cached and how long the queue was then: it says little about
    a replica, and one that gets no calls for it never gets another one. What waits there now does count (`place`). A
    model that is known not to be loaded keeps its own.
    """
    best: dict[str, int] = {}
    for facts, reading in able:
        if reading.loaded < 0 or reading.loaded & facts.bit:
            known = latencies.get(facts.key, UNKNOWN_MICRO)
            if known < best.setdefault(facts.kind, known):
                best[facts.kind] = known
    return best


def _take_turns(ranked: list[_Ranked], seed: int, placing: bool) -> None:
    """Order each run of candidates of equal merit by the seed, in place, so that idle replicas take turns.

    `placing`: replicas of one model among themselves are left to placement.
    """
    start, count = 0, len(ranked)
    for end in range(1, count + 1):
        if end < count:
            one, first = ranked[end], ranked[start]
            if one[1] == first[1] and one[4] == first[4] and one[:_MERIT] == first[:_MERIT]:
                continue
        if end - start > 1:
            run = ranked[start:end]
            if not placing or any(row[6].kind != run[0][6].kind for row in run):
                drawn_by = mixed_all(seed, [row[6].salt for row in run])
                ranked[start:end] = [
                    row for _, _, row in sorted(zip(drawn_by, [row[5] for row in run], run, strict=True))
                ]
        start = end


def _placed(ranked: list[_Ranked], readings: Mapping[str, LoadReading], request: _Request) -> list[_Ranked]:
    """Replicas of one model that are equal by preference and score: together, in the order of the call's affinity,
    where the first of them stood.

    A call without one has an order of its own, drawn from the seed: nodes that took the least loaded one by readings of
    the same age would all send there what comes until the next.
    """
    assert request.placement is not None  # noqa: S101 - asked only then
    groups: dict[tuple[int, int, str], list[tuple[int, _Ranked]]] = {}
    affinity = request.features.affinity
    ranks = mixed_all(affinity or request.seed, [row[6].salt for row in ranked])
    for ranking in zip(ranks, ranked, strict=True):
        row = ranking[1]
        groups.setdefault((row[0], row[1], row[6].kind), []).append(ranking)
    bounds, known = request.placement, request.beyond
    out: list[_Ranked] = []
    for group in groups.values():
        if len(group) == 1:
            out.append(group[0][1])
            continue
        replicas = [(-rank, row[5], readings[row[6].source_id], row[3], row[4], row) for rank, row in group]
        for (*_, row), number, beyond in place(replicas, bounds, known):
            out.append((*row[:7], (*row[7], False, number if affinity else 0, beyond), row[8]))
    return out


def _overflow_last(ranked: list[_Ranked]) -> list[Candidate]:
    """Free candidates, then saturated ones. A free one that was preferred less than a saturated one is marked."""
    full = [r for r in ranked if r[8]]
    if not full:
        return [Candidate(*r[7]) for r in ranked]
    best_full = full[0][:_PREFERENCE]
    free = [(Candidate(*r[7]), r[:_PREFERENCE] > best_full) for r in ranked if not r[8]]
    return [*[_marked(c) if over else c for c, over in free], *[Candidate(*r[7]) for r in full]]


def _own_first(ranked: list[_Ranked], weights: Weights) -> list[Candidate]:
    """Candidates off-prem behind the on-prem one that is preferred to them, also when that is saturated.

    Preferred by all but latency: that a source of one's own is slow because it is busy is no reason to spend.
    """
    merits = {r[5]: (r[0], -_merit(r[7], weights)) for r in ranked}
    own = min((merits[r[5]] for r in ranked if not r[2]), default=None)
    if own is None:
        return _overflow_last(ranked)
    full = min((merits[r[5]] for r in ranked if r[8] and not r[2]), default=None)
    behind = [r for r in ranked if r[2] and merits[r[5]] >= own]
    before = [r for r in ranked if not r[2] or merits[r[5]] < own]
    excess = {r[5] for r in behind if full is not None and merits[r[5]] >= full}
    return _overflow_last(before) + [_marked(c) if c.offer in excess else c for c in _overflow_last(behind)]


def _merit(made_of: tuple[Any, ...], weights: Weights) -> int:
    _, _, quality, cost, _, energy = made_of[:6]
    merit: int = weights.quality * quality + weights.cost * (MICRO - cost) + weights.energy * (MICRO - energy)
    return merit


def _marked(c: Candidate) -> Candidate:
    return msgspec.structs.replace(c, overflow=True)


def _left_over(dropped: int, candidates_max: int) -> Reason:
    return Reason("", "cap", "candidates_max", f"{dropped} more candidates stood behind the first {candidates_max}")


def _bounded(rejected: list[Reason], most: int) -> tuple[Reason, ...]:
    """At most `most` reasons, and one that says how many more there were: a record stays small (P8)."""
    if len(rejected) <= most:
        return tuple(rejected)
    more = Reason("", "cap", "reasons_max", f"{len(rejected) - most} more offers were rejected")
    return (*rejected[:most], more)


def _offer_of(reason: Reason) -> str:
    return reason.offer
