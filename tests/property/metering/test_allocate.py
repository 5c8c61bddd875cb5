"""What a meter counts is split over calls without a microjoule appearing or getting lost."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from interlock.metering.allocate import Allocator, split

S = 1_000_000_000


@settings(deadline=None)
@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), max_size=30))
def test_a_split_adds_up_and_is_fair(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == (total if sum(weights) else 0)
    for part, weight in zip(parts, weights, strict=True):
        if sum(weights):
            assert abs(part - Fraction(total * weight, sum(weights))) < 1


class Metering(RuleBasedStateMachine):
    """A meter and calls in any order: counters that run back, gaps, and more than is held."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator: Allocator[int] = Allocator(samples_max=6, calls_max=8)
        self.now = self.counter = self.settled_at = 0
        self.metered = self.unallocated = 0
        self.ends: list[int] = []
        self.given: dict[int, int] = {}

    @rule(after=st.integers(1, 3 * S), used=st.integers(0, 10**9))
    def read(self, after: int, used: int) -> None:
        self.now += after
        self.counter += used
        self.allocator.sample(self.now, self.counter)

    @rule(after=st.integers(1, 3 * S), counter=st.integers(0, 1000))
    def read_after_a_reset(self, after: int, counter: int) -> None:
        self.now += after
        self.counter = counter
        self.allocator.sample(self.now, self.counter)

    @rule(back=st.integers(0, 8 * S), long=st.integers(0, 5 * S), work=st.integers(0, 10**9))
    def end_a_call(self, back: int, long: int, work: int) -> None:
        end = max(self.now - back, 0) + long
        self.allocator.add(len(self.ends), end - long, end, work)
        self.ends.append(end)

    @rule(back=st.integers(0, 2 * S))
    def lose_sight(self, back: int) -> None:
        self.allocator.void(max(self.now - back, 0))

    @rule(back=st.integers(0, 4 * S))
    def settle(self, back: int) -> None:
        until = max(self.now - back, 0)
        readings = list(self.allocator._samples)
        self.metered += sum(max(b[1] - a[1], 0) for a, b in pairwise(readings) if b[0] <= until)
        done = self.allocator.settle(until)
        self.unallocated += done.unallocated_uj
        for key, uj in done.calls:
            assert key not in self.given and uj >= 0 and self.ends[key] <= until
            self.given[key] = uj
        assert sum(self.given.values()) + self.unallocated + self.allocator.held_uj == self.metered


Metering.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_nothing_appears_and_nothing_is_lost = Metering.TestCase


@settings(deadline=None)
@given(st.integers(1, 10**12), st.integers(1, 50), st.integers(1, 10**9))
def test_a_call_alone_gets_the_share_of_the_time_in_which_it_was_there(uj: int, seconds: int, work: int) -> None:
    allocator: Allocator[str] = Allocator(samples_max=100, calls_max=10)
    allocator.sample(0, 0)
    allocator.sample(100 * S, uj)
    allocator.add("one", 10 * S, (10 + seconds) * S, work)
    done = allocator.settle(100 * S)
    assert done.calls == [("one", uj * seconds // 100)]
    assert done.unallocated_uj == uj - uj * seconds // 100


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(1, 10**6)), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**9), min_size=45, max_size=45),
)
def test_the_order_in_which_calls_are_told_does_not_matter(calls: list[tuple[int, int, int]], used: list[int]) -> None:
    def run(order: list[int]) -> dict[int, int]:
        allocator: Allocator[int] = Allocator(samples_max=100, calls_max=10)
        allocator.sample(0, 0)
        for i in order:
            start, long, work = calls[i]
            allocator.add(i, start * S, (start + long) * S, work)
        for second, _ in enumerate(used, 1):
            allocator.sample(second * S, sum(used[:second]))
        return dict(allocator.settle(45 * S).calls)

    forth, back = run(list(range(len(calls)))), run(list(reversed(range(len(calls)))))
    assert forth.keys() == back.keys() == set(range(len(calls)))
    intervals = max(long for _, long, _ in calls)
    assert all(abs(forth[i] - back[i]) <= intervals for i in forth), "but for a microjoule an interval"
