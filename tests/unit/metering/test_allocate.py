"""Splitting a meter's energy, by examples."""

from __future__ import annotations

from interlock.metering.allocate import Allocator, Settled, split

S = 1_000_000_000


def _metered(*counter: int) -> Allocator[str]:
    """A meter read every second from 0 on."""
    allocator: Allocator[str] = Allocator(samples_max=100, calls_max=100)
    for second, uj in enumerate(counter):
        allocator.sample(second * S, uj)
    return allocator


def test_two_calls_share_by_their_work() -> None:
    allocator = _metered(0, 900)
    allocator.add("small", 0, S, 100)
    allocator.add("large", 0, S, 200)
    assert allocator.settle(S) == Settled([("small", 300), ("large", 600)], 0)


def test_a_longer_call_works_as_much_in_each_of_its_seconds() -> None:
    allocator = _metered(0, 300, 600)
    allocator.add("short", 0, S, 100)
    allocator.add("long", 0, 2 * S, 100)  # 50 in the first second, 50 in the second
    assert allocator.settle(2 * S) == Settled([("short", 200), ("long", 100 + 300)], 0)


def test_time_in_which_nothing_was_under_way_is_idle() -> None:
    allocator = _metered(0, 1000, 1500)
    allocator.add("one", 0, S // 4, 7)
    assert allocator.settle(2 * S) == Settled([("one", 250)], 750 + 500)


def test_what_is_not_over_is_held() -> None:
    allocator = _metered(0, 100, 200, 300)
    allocator.add("one", 0, 2 * S + S // 2, 10)
    assert allocator.settle(2 * S) == Settled([], 0)
    assert allocator.held_uj == 200
    assert allocator.settle(3 * S) == Settled([("one", 250)], 50)


def test_a_call_that_began_before_the_meter_gets_nothing() -> None:
    allocator: Allocator[str] = Allocator(samples_max=9, calls_max=9)
    allocator.sample(S, 0)
    allocator.sample(2 * S, 100)
    allocator.add("early", S // 2, 2 * S, 10)
    assert allocator.settle(2 * S) == Settled([], 100)


def test_what_was_under_way_unseen_is_nobodys() -> None:
    allocator = _metered(0, 100, 200, 300)
    allocator.add("before", 0, 2 * S, 10)
    allocator.add("after", 2 * S, 3 * S, 10)
    allocator.void(S + 1)  # a worker died, and with it what it knew
    assert allocator.settle(3 * S) == Settled([("after", 100)], 200)


def test_a_counter_that_runs_back_was_reset() -> None:
    allocator = _metered(500, 600, 40, 140)
    allocator.add("during", 0, 2 * S, 10)
    allocator.add("after", 2 * S, 3 * S, 10)
    assert allocator.settle(3 * S) == Settled([("after", 100)], 100)


def test_more_than_is_held_is_nobodys() -> None:
    allocator: Allocator[int] = Allocator(samples_max=9, calls_max=2)
    allocator.sample(0, 0)
    for key in range(3):
        allocator.add(key, 0, S, 10)
    allocator.add(9, S, 2 * S, 10)
    allocator.sample(S, 90)
    allocator.sample(2 * S, 180)
    assert allocator.settle(2 * S).calls == []


def test_readings_are_bounded_by_leaving_some_out() -> None:
    allocator: Allocator[str] = Allocator(samples_max=3, calls_max=2)
    for second in range(10):
        allocator.sample(second * S, second * 100)
    allocator.add("one", 0, S, 10)
    assert allocator.settle(9 * S) == Settled([], 900)


def test_a_split_leaves_nothing_over() -> None:
    assert split(10, [1, 1, 1]) == [4, 3, 3]
    assert split(2, [5, 1, 1]) == [2, 0, 0]
    assert split(7, [0, 0]) == [0, 0]
