"""A decision made again from its record, and compared (P4).

The record holds the features, the target, every reading, the seed and the names of all offers that were considered; an
open circuit breaker is recorded as the reason of what it rejected, an observed latency as the candidate's latency part,
and an observed pace with its prediction. What an offer was (its model, price, labels) comes from the sources of the
snapshot version named in the record. Only that the weights of the modes are still those of the version that decided is
assumed.

Where more was considered than a record keeps (`candidates_max`), the record says so, and what it kept is decided again
among itself: a score depends on its offer alone, so that the order of the kept ones does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from interlock.routing.choose import CUT_CODES
from interlock.routing.slo import recorded_paces
from interlock.routing.steps import decide_steps
from interlock.types.decision import Candidate, Reason, RouteDecision
from interlock.types.learned import Estimates
from interlock.types.record import Intent, Refusal
from interlock.types.request import Features, Target
from interlock.types.source import Offer


class Replay(msgspec.Struct, frozen=True):
    """The decision as it comes out now, and each way in which it differs from the record: none means it replays."""

    decision: RouteDecision
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """True when the decision replays exactly."""
        return not self.differences


def replay(call: Intent | Refusal, offers: Mapping[str, Offer], estimates: Estimates | None = None) -> Replay:
    """Decide a recorded call again.

    `offers`: the tenant's offers by key, from the snapshot that the record names (`Catalog.by_key`). `estimates`: what
    the router's state in that snapshot expects for the recorded signals, if the call used one. Raises ValueError
    for a refusal before offers were ordered.
    """
    features, target, recorded = call.features, call.target, call.route
    if features is None or target is None or recorded is None:
        raise ValueError("the call was refused before its offers were ordered")
    cut = any(reason.code in CUT_CODES for reason in recorded.rejected)
    beyond = {c.offer: c.beyond for c in recorded.candidates} if cut else None
    if cut:
        recorded = _kept(recorded)
    considered = _considered(recorded, () if cut else call.permits)
    missing = [f"{key} is not in the snapshot given" for key in considered if key not in offers]
    known = [offers[key] for key in considered if key in offers]
    again = _again(features, target, recorded, known, offers, estimates, beyond)
    if cut:
        again = _kept(again)
    return Replay(again, tuple(missing + compare(recorded, again)))


def _again(
    features: Features,
    target: Target,
    recorded: RouteDecision,
    known: list[Offer],
    offers: Mapping[str, Offer],
    estimates: Estimates | None,
    beyond: Mapping[str, str] | None,
) -> RouteDecision:
    return decide_steps(
        features,
        target,
        known,
        dict(recorded.readings),
        open_breakers={
            offers[r.offer].source.id for r in recorded.rejected if r.stage == "breaker" and r.offer in offers
        },
        latencies={c.offer: c.latency_micro for c in recorded.candidates},
        candidates_max=(len(known) + 1) * max(1, len(target.steps)),
        estimates=estimates,
        seed=recorded.seed,
        placement=recorded.placement,
        beyond=beyond,
        paces=recorded_paces(recorded),
    )


def compare(recorded: RouteDecision, again: RouteDecision) -> list[str]:
    """Each difference between two decisions in words; empty when they are the same."""
    differences = []
    if recorded.mode != again.mode:
        differences.append(f"mode {recorded.mode} was recorded, {again.mode} comes out")
    before, after = [c.offer for c in recorded.candidates], [c.offer for c in again.candidates]
    if before != after:
        differences.append(f"the order was {_listed(before)}, now it is {_listed(after)}")
    differences.extend(
        f"{name} {getattr(recorded, name)!r} was recorded, {getattr(again, name)!r} comes out"
        for name in ("task", "chance_micro", "best")
        if getattr(recorded, name) != getattr(again, name)
    )
    new = {c.offer: c for c in again.candidates}
    for candidate in recorded.candidates:
        other = new.get(candidate.offer)
        if other is not None and other != candidate:
            differences.append(f"{candidate.offer}: {_changed(candidate, other)}")
    if recorded.foreseen != again.foreseen and before == after:
        differences.append("what was predicted against its objectives comes out otherwise")
    gone = sorted(set(recorded.rejected) - set(again.rejected), key=_offer_of)
    differences.extend(f"{r.offer}: no longer rejected because {r.words}" for r in gone)
    new_ones = sorted(set(again.rejected) - set(recorded.rejected), key=_offer_of)
    differences.extend(f"{r.offer}: now rejected because {r.words}" for r in new_ones)
    return differences


def _considered(recorded: RouteDecision, permits: Iterable[Reason]) -> list[str]:
    names = {c.offer for c in recorded.candidates}
    names.update(r.offer for r in recorded.rejected if r.offer)
    names.update(r.offer for r in permits if r.offer)
    return sorted(names)


def _kept(decision: RouteDecision) -> RouteDecision:
    """What can be compared of a decision that was cut: whether a candidate took an excess, and its place among
    replicas, depended on the others."""
    return msgspec.structs.replace(
        decision,
        candidates=tuple(msgspec.structs.replace(c, overflow=False, place=0, beyond="") for c in decision.candidates),
        rejected=tuple(r for r in decision.rejected if r.code not in CUT_CODES),
    )


def _changed(before: Candidate, after: Candidate) -> str:
    fields = Candidate.__struct_fields__
    return ", ".join(
        f"{name} was {getattr(before, name)}, now {getattr(after, name)}"
        for name in fields
        if getattr(before, name) != getattr(after, name)
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "empty"


def _offer_of(reason: Reason) -> str:
    return reason.offer
