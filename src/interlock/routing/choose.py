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

from msgspec.structs import force_setattr

from interlock.routing.constraints import out_of_service, unable
from interlock.routing.explore import drawn
from interlock.routing.facts import facts_of, slate_of
from interlock.routing.load import UNKNOWN, load_of
from interlock.routing.ranking import Request, load_micro, ranked
from interlock.routing.rows import CLASS_SHIFT, Row, disfavour_of, preference
from interlock.routing.score import MICRO, OWN, UNKNOWN_MICRO, Weights, scored, weights_of
from interlock.routing.slo import NO_PACES, Foresight, foresight
from interlock.routing.trials import likely
from interlock.types.decision import Candidate, Placement, Reason, RouteDecision
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.slo import Pace, tighter
from interlock.types.source import LoadReading, Offer

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
        candidate = Candidate(offer.key, *scores, load_micro(queue))
        if foreseeing is None:
            return RouteDecision(mode, (candidate,), (), considered, version, seed, task)
        foreseeing.verdict(offer, reading, queue)
        seen = (foreseeing.seen[offer.key],)
        return RouteDecision(mode, (candidate,), (), considered, version, seed, task, foreseen=seen)
    slate = slate_of(offers)
    placement = placement if features.affinity or slate.replicated else None
    request = Request(
        features, target, slate, readings, open_breakers, latencies, weights, estimates, seed, placement, beyond,
        foreseeing,
    )  # fmt: skip
    return _decide_many(request, candidates_max)


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
    slate, foreseeing = slate_of(offers), _foreseeing(features, target, paces)
    placement = placement if features.affinity or slate.replicated else None
    request = Request(
        features, target, slate, readings, open_breakers, latencies, weights, estimates, seed, placement, None,
        foreseeing,
    )  # fmt: skip
    kept = _in_order(request, ranked(request)[0])
    if estimates is not None and estimates.share_micro > 0 and len(kept) > 1:
        places, chances = likely(kept, request, estimates)
        if places:
            return tuple((kept[at][5], chance) for at, chance in zip(places, chances, strict=True) if chance)
    return ((kept[0][5], MICRO),) if kept else ()


def _decide_many(request: Request, candidates_max: int) -> RouteDecision:
    estimates, seed, foreseeing = request.estimates, request.seed, request.foreseeing
    rows, rejected, considered = ranked(request)
    kept = _in_order(request, rows)
    chance, best = MICRO, ""
    if estimates is not None and estimates.share_micro > 0 and len(kept) > 1:
        chance, best = _try_another(kept, request, estimates)
    if len(kept) > candidates_max:
        rejected.insert(0, _left_over(len(kept) - candidates_max, candidates_max))
        kept = kept[:candidates_max]
    return RouteDecision(
        _mode(request.features, request.target),
        tuple([row[7] for row in kept]),
        _bounded(rejected, candidates_max),
        considered,
        estimates.version if estimates is not None else 0,
        seed,
        estimates.task if estimates is not None else -1,
        chance,
        best,
        request.placement,
        () if foreseeing is None else tuple([foreseeing.seen[row[5]] for row in kept]),
    )


def _foreseeing(features: Features, target: Target, paces: Mapping[str, Pace]) -> Foresight | None:
    if features.slo is None and target.slo is None:
        return None
    slo = tighter(features.slo, target.slo)
    return foresight(features, slo, paces) if slo is not None else None


def _mode(features: Features, target: Target) -> str:
    return OWN if features.weights or target.weights else target.mode


def _in_order(request: Request, rows: list[Row]) -> list[Row]:
    """The rows as they are tried. Those that overflow are marked so."""
    if request.foreseeing is None or not rows:
        return _saturated_last(request, rows)
    out: list[Row] = []
    for verdict in range(disfavour_of(rows[0]) >> CLASS_SHIFT, (disfavour_of(rows[-1]) >> CLASS_SHIFT) + 1):
        out += _saturated_last(request, [row for row in rows if disfavour_of(row) >> CLASS_SHIFT == verdict])
    return out


def _saturated_last(request: Request, rows: list[Row]) -> list[Row]:
    return _own_first(rows, request.weights) if request.features.workload else _overflow_last(rows)


def _try_another(kept: list[Row], request: Request, estimates: Estimates) -> tuple[int, str]:
    """Maybe put the first candidate of another model before all, in place: (its probability, who was the best)."""
    places, chances = likely(kept, request, estimates)
    if not places:
        return MICRO, ""
    taken = drawn(chances, request.seed)
    if not taken:
        return chances[0], ""
    before = kept[0][5]
    kept.insert(0, kept.pop(places[taken]))
    return chances[taken], before


def _overflow_last(rows: list[Row]) -> list[Row]:
    """Free candidates, then saturated ones. A free one that was preferred less than a saturated one is marked."""
    full = [row for row in rows if row[8]]
    if not full:
        return rows
    best_full = preference(full[0])
    free = [row for row in rows if not row[8]]
    for row in free:
        if preference(row) > best_full:
            force_setattr(row[7], "overflow", True)
    return free + full


def _own_first(rows: list[Row], weights: Weights) -> list[Row]:
    """Candidates off-prem behind the on-prem one that is preferred to them, also when that is saturated.

    Preferred by all but latency: that a source of one's own is slow because it is busy is no reason to spend.
    """
    merits = {row[5]: (disfavour_of(row), -_merit(row[7], weights)) for row in rows}
    own = min((merits[row[5]] for row in rows if not row[2]), default=None)
    if own is None:
        return _overflow_last(rows)
    full = min((merits[row[5]] for row in rows if row[8] and not row[2]), default=None)
    behind = [row for row in rows if row[2] and merits[row[5]] >= own]
    before = [row for row in rows if not row[2] or merits[row[5]] < own]
    out = _overflow_last(before) + _overflow_last(behind)
    for row in behind:
        if full is not None and merits[row[5]] >= full:
            force_setattr(row[7], "overflow", True)
    return out


def _merit(one: Candidate, weights: Weights) -> int:
    kept = weights.cost * (MICRO - one.cost_micro) + weights.energy * (MICRO - one.energy_micro)
    return weights.quality * one.quality_micro + kept


def _left_over(dropped: int, candidates_max: int) -> Reason:
    return Reason("", "cap", "candidates_max", f"{dropped} more candidates stood behind the first {candidates_max}")


def _bounded(rejected: list[Reason], most: int) -> tuple[Reason, ...]:
    """At most `most` reasons, and one that says how many more there were: a record stays small (P8)."""
    if len(rejected) <= most:
        return tuple(rejected)
    more = Reason("", "cap", "reasons_max", f"{len(rejected) - most} more offers were rejected")
    return (*rejected[:most], more)
