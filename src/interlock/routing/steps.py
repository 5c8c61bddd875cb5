"""The candidates of a cascade: those of its first step, then those of its second, and so on.

Each step is decided like a call of its own model, among the offers that policy allows; the candidates stand one step
behind the other. A step without a candidate is left out by that: why is with the decision's reasons, or with policy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from interlock.routing.choose import decide
from interlock.routing.score import MICRO
from interlock.types.decision import RouteDecision
from interlock.types.request import Features, Target, TargetStep
from interlock.types.source import LoadReading, Offer


def step_of(steps: Sequence[TargetStep], offer: Offer) -> int:
    """The first step that an offer is for, from 0; -1 when it is for none."""
    for number, step in enumerate(steps):
        if step.model == offer.model.name and step.source in ("", offer.source.name):
            return number
    return -1


def decide_steps(
    features: Features,
    target: Target,
    offers: Sequence[Offer],
    readings: Mapping[str, LoadReading],
    *,
    candidates_max: int = 50,
    **more: Any,
) -> RouteDecision:
    """`decide`, for a cascade step by step. The same arguments; `candidates_max` is shared among the steps."""
    steps = target.steps
    if not steps:
        return decide(features, target, offers, readings, candidates_max=candidates_max, **more)
    most = max(1, candidates_max // len(steps))
    parts = []
    for number, step in enumerate(steps):
        own = [offer for offer in offers if step_of(steps, offer) == number]
        if own:
            single = msgspec.structs.replace(
                target, model=step.model, source=step.source, version=step.version, steps=()
            )
            # Nothing is tried out inside a step: it is of one model.
            parts.append(decide(features, single, own, readings, candidates_max=most, **more))
    if not parts:
        return decide(features, target, (), readings, candidates_max=candidates_max, **more)
    return msgspec.structs.replace(
        parts[0],
        candidates=tuple(candidate for part in parts for candidate in part.candidates),
        rejected=tuple(reason for part in parts for reason in part.rejected),
        readings=tuple(sorted({name: reading for part in parts for name, reading in part.readings}.items())),
        chance_micro=MICRO,
        best="",
        placement=next((part.placement for part in parts if part.placement is not None), None),
        foreseen=tuple(seen for part in parts for seen in part.foreseen),
    )
