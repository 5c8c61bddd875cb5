"""The candidates of a cascade: those of its first step, then those of its second, and so on.

Each step is decided like a call of its own model, among the offers that policy allows; the candidates stand one step
behind the other. A step without a candidate is left out by that: why is with the decision's reasons, or with policy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from interlock.routing.choose import decide
from interlock.routing.facts import SLATES_MAX
from interlock.routing.score import MICRO
from interlock.types.decision import RouteDecision
from interlock.types.request import Features, Target, TargetStep
from interlock.types.source import LoadReading, Offer

_split: dict[tuple[int, tuple[TargetStep, ...]], tuple[Sequence[Offer], tuple[tuple[Offer, ...], ...]]] = {}


def step_of(steps: Sequence[TargetStep], offer: Offer) -> int:
    """The first step that an offer is for, from 0; -1 when it is for none."""
    for number, step in enumerate(steps):
        if step.model == offer.model.name and step.source in ("", offer.source.name):
            return number
    return -1


def split(steps: tuple[TargetStep, ...], offers: Sequence[Offer]) -> tuple[tuple[Offer, ...], ...]:
    """The offers of each step. Remembered per tuple of offers, at most `SLATES_MAX` at a time, so that each step's are
    the same tuple from call to call, and what decisions remember of it (`facts.slate_of`) is found again."""
    found = _split.get((id(offers), steps))
    if found is not None:
        return found[1]
    numbers = [step_of(steps, offer) for offer in offers]
    made = tuple(
        [
            tuple([offer for offer, of in zip(offers, numbers, strict=True) if of == number])
            for number in range(len(steps))
        ]
    )
    if type(offers) is tuple:  # anything else could change and keep its identity
        if len(_split) >= SLATES_MAX:
            _split.clear()
        _split[id(offers), steps] = offers, made
    return made


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
    for step, own in zip(steps, split(steps, offers), strict=True):
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
