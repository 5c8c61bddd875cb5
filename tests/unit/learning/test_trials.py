"""How much is tried: shares of calls and money in the long run, and parts for models that are new or became worse."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.learning.trials import DUE_TIMES, MONEY_MAX, Limits, Trials
from interlock.routing.explore import MICRO, Option, chances, drawn

LIMITS = Limits(0.02, 5, 0.05)


def warm(limits: Limits = LIMITS, cost: int = 100) -> Trials:
    """Of two models, past the cold allowance, with nothing left over."""
    trials = Trials(limits)
    trials.models(("a", "b"), ())
    for _ in range(2 * limits.cold_calls):
        trials.call("b", 0, tried=True)
    return trials


def test_money_that_was_not_spent_may_be_later_and_no_more_than_that() -> None:
    trials = warm()
    trials.bounds(any_outcome=True)
    for _ in range(1000):
        trials.call("a", 100, tried=False)
    assert trials.bounds(any_outcome=True)[1] == pytest.approx(0.05 + 0.05, rel=0.06), "a thousand calls' money again"
    for _ in range(50):
        trials.call("a", 100, tried=False)
    assert trials.bounds(any_outcome=True)[1] == pytest.approx(0.05 + 1050 * 0.05 / 50, rel=0.06)
    for _ in range(3):
        trials.call("b", 100_000, tried=True)
    assert trials.bounds(any_outcome=True)[1] == 0.0, "more was spent than there was"


def test_a_trial_that_costs_less_earns_nothing_and_one_of_unknown_cost_is_on_no_account() -> None:
    one, other = warm(), warm()
    for trials in (one, other):
        for _ in range(100):
            trials.call("a", 100, tried=False)
    for _ in range(10):
        one.call("b", 0, tried=True)
        other.call("b", -1, tried=True)
    assert one.bounds(any_outcome=True)[1] == pytest.approx(other.bounds(any_outcome=True)[1], rel=0.01)


def test_money_left_over_has_a_bound_and_a_setting_above_it_holds() -> None:
    rich = warm()
    for _ in range(20_000):
        rich.call("a", 1_000_000, tried=False)
    for _ in range(5000):
        rich.call("a", 1, tried=False)
    rich.bounds(any_outcome=True)
    assert rich.bounds(any_outcome=True)[1] == MONEY_MAX
    trials = Trials(Limits(0.02, 5, 7.0))
    trials.models(("a", "b"), ())
    assert trials.bounds(any_outcome=True)[1] == 7.0
    assert warm(Limits(0.02, 5, 0.0)).bounds(any_outcome=True)[1] == 0.0
    assert Trials(LIMITS).bounds(any_outcome=False) == (0.0, 0.0)


@pytest.mark.parametrize("dear", [3, 20, 100])
@pytest.mark.parametrize("turns", [5000, 100_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_in_the_long_run_shares_of_calls_and_of_money_hold(seed: int, turns: int, dear: int) -> None:
    """Whatever the best costs, and whenever it changes: what is spent on trials is a share of what was spent."""
    rng = np.random.default_rng(seed)
    trials = Trials(LIMITS)
    costs = [100, 100 * dear]
    trials.models(("cheap", "dear"), ())
    spent = extra = tried = 0.0
    share = money = 0.0
    calls = 30_000
    for number in range(calls):
        if number % 100 == 0:
            share, money = trials.bounds(any_outcome=True)
        best = (number // turns) % 2
        options = [Option(900_000, 0, costs[best]), Option(880_000, 0, costs[1 - best])]
        likely = chances(options, round(MICRO * share), round(MICRO * money))
        other = drawn(likely, int(rng.integers(2**62)))
        taken = best if not other else 1 - best
        trials.call(("cheap", "dear")[taken], costs[taken], tried=bool(other))
        spent += costs[taken]
        if other:
            tried += 1
            extra += max(0, costs[taken] - costs[best])
    cold = 2 * LIMITS.cold_calls
    assert tried <= LIMITS.share * calls + cold + 60, "a share of calls, and the cold allowance"
    assert extra <= 1.2 * LIMITS.money * spent + (cold + 3) * costs[1], "a share of money, and the cold allowance"
    if turns < calls:
        assert tried > LIMITS.share * calls / 2, "what is left over is used"


def test_a_new_model_has_a_part_until_it_is_known_or_was_tried_in_vain() -> None:
    trials = warm()
    assert not trials.due, "at first all are new"
    trials.models(("a", "b", "c", "d"), ("c", "d"))
    for number in range(LIMITS.cold_calls):
        assert set(trials.due) == {"c", "d"}
        trials.call("c", 1, tried=number % 2 == 0)
        trials.outcome("a")
        trials.outcome("c")
    assert set(trials.due) == {"d"}
    for _ in range(DUE_TIMES * LIMITS.cold_calls):
        assert set(trials.due) == {"d"}
        trials.call("d", 1, tried=False)
        trials.call("d", 1, tried=True)
    assert not trials.due, "nobody says how good it is"
    trials.models(("a", "b", "c", "d", "e"), ("e",))
    trials.models(("a", "b"), ())
    assert not trials.due, "it is gone"


def test_without_a_cold_allowance_nothing_has_a_part() -> None:
    trials = Trials(Limits(0.02, 0, 0.05))
    trials.models(("a", "b"), ("b",))
    trials.fell("a")
    assert not trials.due
