"""Calls that are not interactive: one's own sources come before those off-prem that are no better."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.routing.constraints import may_not_fit
from interlock.routing.load import saturated
from interlock.routing.room import UNBOUNDED, room
from interlock.routing.score import MICRO, WEIGHTS
from interlock.types.decision import RouteDecision
from interlock.types.identity import Workload
from interlock.types.request import Features
from interlock.types.source import LoadReading, Offer, SourceLimits

from .test_decide import cases, offers_in, run

LESS = (Workload.batch, Workload.background)


def decided(case: dict[str, object], workload: Workload) -> RouteDecision:
    asked = case["features"]
    assert isinstance(asked, Features)
    return run(case, features=msgspec.structs.replace(asked, workload=workload))


def merit(decision: RouteDecision, key: str) -> int:
    """What a candidate is worth without its latency, in the millionths of a millionth that scores are made of."""
    (c,) = (c for c in decision.candidates if c.offer == key)
    w = WEIGHTS[decision.mode]
    return w.quality * c.quality_micro + w.cost * (MICRO - c.cost_micro) + w.energy * (MICRO - c.energy_micro)


@given(cases(), st.sampled_from(LESS))
@settings(max_examples=200, deadline=None)
def test_what_is_off_prem_and_no_better_stays_behind_ones_own(case: dict[str, object], workload: Workload) -> None:
    by_key = {o.key: o for o in offers_in(case)}
    asked = case["features"]
    assert isinstance(asked, Features)
    decision = decided(case, workload)
    keys = [c.offer for c in decision.candidates]
    own = [k for k in keys if by_key[k].source.labels.on_prem]
    if not own:
        return

    def better(key: str) -> tuple[bool, int]:
        return not may_not_fit(asked, by_key[key]), merit(decision, key)

    best = max(better(k) for k in own)
    for key in keys:
        if key not in own and better(key) <= best:
            assert keys.index(key) > max(keys.index(k) for k in own)
    spent = {c.offer for c in decision.candidates if c.overflow and c.offer not in own}
    full = [k for k in own if is_full(case, by_key[k])]
    for key in keys:
        if key not in own and better(key) <= best and any(better(key) <= better(k) for k in full):
            assert key in spent, "it would take the excess of one that is better and full"


def is_full(case: dict[str, object], offer: Offer) -> bool:
    known = case["readings"]
    assert isinstance(known, dict)
    return saturated(offer, known.get(offer.source.id, LoadReading()))


@given(cases(), st.sampled_from(LESS))
@settings(max_examples=100, deadline=None)
def test_the_class_changes_the_order_and_nothing_else(case: dict[str, object], workload: Workload) -> None:
    urgent, less = decided(case, Workload.interactive), decided(case, workload)
    assert {c.offer for c in urgent.candidates} == {c.offer for c in less.candidates}
    assert (urgent.rejected, urgent.readings) == (less.rejected, less.readings)
    assert less == decided(case, workload)


@given(st.builds(LoadReading, st.integers(-1, 20), st.integers(-1, 20), st.just(-1), st.integers(0, 30)))
@settings(max_examples=200, deadline=None)
def test_a_source_that_is_idle_always_has_a_seat(reading: LoadReading) -> None:
    limits = SourceLimits(waiting_max=4, waiting_resume=1)
    most, lower = room(limits, reading)
    assert most >= 1 and lower <= most
    assert room(msgspec.structs.replace(limits, concurrency=3), reading)[0] <= 3
    if reading.waiting <= 0:
        assert most == lower == UNBOUNDED, "nothing waits there"


@pytest.mark.parametrize(
    ("reading", "limits", "expected"),
    [
        (LoadReading(), SourceLimits(), (UNBOUNDED, UNBOUNDED)),
        (LoadReading(), SourceLimits(concurrency=3), (3, 3)),
        (LoadReading(7, 4), SourceLimits(), (UNBOUNDED, UNBOUNDED)),
        (LoadReading(8, 4), SourceLimits(), (UNBOUNDED, 12)),
        (LoadReading(7, 4, -1, 12, 1), SourceLimits(), (UNBOUNDED, 12)),
        (LoadReading(9, 4), SourceLimits(), (13, 12)),
        (LoadReading(9, 4, saturated=True), SourceLimits(), (13, 0)),
        (LoadReading(9, -1), SourceLimits(), (UNBOUNDED, UNBOUNDED)),
        (LoadReading(3, 4, saturated=True), SourceLimits(), (UNBOUNDED, 0)),
        (LoadReading(9, 4, saturated=True), SourceLimits(concurrency=5), (5, 0)),
        (LoadReading(1, 2), SourceLimits(waiting_max=0, waiting_resume=0), (3, 2)),
        (LoadReading(0, 2), SourceLimits(waiting_max=0, waiting_resume=0), (UNBOUNDED, UNBOUNDED)),
    ],
)
def test_seats_of_a_source(reading: LoadReading, limits: SourceLimits, expected: tuple[int, int]) -> None:
    assert room(limits, reading) == expected
