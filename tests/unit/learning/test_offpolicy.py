"""What other decisions would have brought, on made-up logs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.learning import offpolicy
from interlock.learning.kin import Numbers
from interlock.learning.offpolicy import Quality, Rewarded, Side

GOOD = np.array([[0.9, 0.5, 0.2], [0.3, 0.6, 0.8]])
"""Chance of a good answer, by task and model."""
LOGGED = np.array([[0.7, 0.2, 0.1], [0.6, 0.2, 0.2]])
OTHER = np.array([[0.05, 0.15, 0.8], [0.1, 0.1, 0.8]])
"""What is asked about: mostly the third model."""
SHARE = np.array([0.6, 0.4])
TRUTH = float((SHARE[:, None] * OTHER * GOOD).sum())
TRUTH_LOGGED = float((SHARE[:, None] * LOGGED * GOOD).sum())


def log(number: int, seed: int, outcome_model: Numbers = GOOD) -> Rewarded:
    """Calls decided by `LOGGED`."""
    rng = np.random.default_rng(seed)
    task = rng.choice(2, number, p=SHARE)
    model = np.array([rng.choice(3, p=LOGGED[t]) for t in task])
    reward = (rng.random(number) < GOOD[task, model]).astype(float)
    return Rewarded(
        reward,
        LOGGED[task, model],
        outcome_model[task, model],
        LOGGED[task, model],
        OTHER[task, model],
        (LOGGED * outcome_model).sum(1)[task],
        (OTHER * outcome_model).sum(1)[task],
    )


def told(seen: Rewarded) -> Quality:
    found = offpolicy.quality(seen)
    assert found is not None
    return found


WRONG = np.full((2, 3), 0.5)


@pytest.mark.parametrize("outcome_model", [GOOD, WRONG], ids=["right model", "wrong model"])
def test_over_many_logs_the_truth_comes_out(outcome_model: Numbers) -> None:
    found = [told(log(600, seed, outcome_model)) for seed in range(150)]
    for name, tolerance in (("snips", 0.01), ("dr", 0.01)):
        methods = [getattr(each, name) for each in found]
        assert abs(np.mean([m.after.mean for m in methods]) - TRUTH) < tolerance
        assert abs(np.mean([m.before.mean for m in methods]) - TRUTH_LOGGED) < tolerance
        assert abs(np.mean([m.difference.mean for m in methods]) - (TRUTH - TRUTH_LOGGED)) < tolerance


@pytest.mark.parametrize("number", [60, 200, 800])
def test_intervals_hold_the_truth_as_often_as_they_say(number: int) -> None:
    found = [told(log(number, 1000 + seed)) for seed in range(200)]
    for name in ("snips", "dr"):
        for side, truth in (("before", TRUTH_LOGGED), ("after", TRUTH), ("difference", TRUTH - TRUTH_LOGGED)):
            intervals = [getattr(getattr(each, name), side) for each in found]
            held = np.mean([i.low <= truth <= i.high for i in intervals])
            assert held >= 0.9, (name, side, held)
            assert all(i.low <= i.mean <= i.high for i in intervals)


def test_a_right_outcome_model_narrows_the_interval() -> None:
    right, wrong = told(log(800, 3)), told(log(800, 3, 1 - GOOD))
    assert right.dr.after.high - right.dr.after.low < wrong.dr.after.high - wrong.dr.after.low


def test_decisions_that_stay_change_nothing_and_their_mean_is_that_of_the_rewards() -> None:
    seen = log(300, 5)
    same = told(seen._replace(after=seen.before, value_after=seen.value_before))
    assert same.snips.difference == same.dr.difference == (0.0, 0.0, 0.0)
    assert same.snips.before.mean == pytest.approx(seen.reward.mean())
    assert same.weight.effective == pytest.approx(300) and same.weight.largest == 1


def test_choices_that_were_never_made_are_told_by_what_counts() -> None:
    seen = log(400, 6)
    nowhere = seen._replace(after=np.zeros(400))
    assert offpolicy.quality(nowhere) is None
    few = np.zeros(400)
    few[:5] = 1.0
    assert told(seen._replace(after=few)).weight.effective <= 5
    with pytest.raises(ValueError, match="chance"):
        offpolicy.weights(np.ones(2), np.array([1.0, 0.0]))


def test_a_weight_is_cut_off_and_it_is_told() -> None:
    chance = np.full(100, 0.5)
    chance[0] = 1e-6
    ones = np.ones(100)
    found = told(Rewarded(ones, chance, 0.5 * ones, ones, ones, 0.5 * ones, 0.5 * ones))
    assert found.weight.largest == offpolicy.WEIGHT_MAX and found.weight.clipped == 1


def test_few_calls_that_agree_prove_little() -> None:
    ones = np.ones(20)
    found = told(Rewarded(ones, ones, ones, ones, ones, ones, ones))
    for method in (found.snips, found.dr):
        assert method.after.mean == 1 and method.after.high == 1 and method.after.low < 0.93


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 200))
def test_order_does_not_matter_and_all_stays_within_bounds(seed: int, number: int) -> None:
    seen = log(number, seed)
    order = np.random.default_rng(seed).permutation(number)
    found, other = told(seen), told(Rewarded(*(column[order] for column in seen)))
    for name in ("snips", "dr"):
        one, two = getattr(found, name), getattr(other, name)
        for side in ("before", "after", "difference"):
            assert np.allclose(getattr(one, side), getattr(two, side))
        assert all(0 <= value <= 1 for value in (*one.before, *one.after))
    assert 0 < found.weight.effective <= number + 1e-9


# -- means of what calls took


def used(number: int, seed: int, models: int = 2) -> tuple[Numbers, offpolicy.Integers, Numbers]:
    """(what each call took, its cells, the model of each): the second model takes three times as much."""
    rng = np.random.default_rng(seed)
    model = rng.choice(models, number, p=[0.7, 0.3])
    took = rng.lognormal(np.log(100.0 * (1 + 2 * model)), 0.5)
    return took, np.stack([model, np.full(number, -1)], 1).astype(np.int64), model


def test_what_the_same_offer_answered_is_as_it_was_and_of_others_their_means_count() -> None:
    took, members, model = used(500, 1)
    zeros, nowhere = np.zeros(500), np.full(500, -1, np.int64)
    before = Side(took, zeros, nowhere)
    to_second = Side(np.where(model == 1, took, 0.0), np.ones(500), np.where(model == 1, -1, 1).astype(np.int64))
    rng = np.random.default_rng(0)
    first, second, apart = offpolicy.means(took, members, 2, before, to_second, rng)
    assert first.mean == pytest.approx(took.mean())
    assert second.mean == pytest.approx(took[model == 1].mean())
    assert apart.mean == pytest.approx(second.mean - first.mean) and apart.low > 0
    same = offpolicy.means(took, members, 2, before, before, np.random.default_rng(0))
    assert same[2] == (0.0, 0.0, 0.0)
    again = offpolicy.means(took, members, 2, before, to_second, np.random.default_rng(0))
    assert again == (first, second, apart), "the same seed gives the same intervals"


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = 300 * np.exp(0.5**2 / 2)
    held = 0
    for seed in range(120):
        took, members, model = used(250, seed)
        zeros, nowhere = np.zeros(250), np.full(250, -1, np.int64)
        to_second = Side(np.where(model == 1, took, 0.0), np.ones(250), np.where(model == 1, -1, 1).astype(np.int64))
        after = offpolicy.means(took, members, 2, Side(took, zeros, nowhere), to_second, np.random.default_rng(seed))[1]
        held += after.low <= truth <= after.high
    assert held / 120 >= 0.9


def test_what_is_not_known_of_a_call_does_not_count_in_a_mean() -> None:
    took = np.array([10.0, np.nan, 30.0, 50.0])
    members = np.zeros((4, 1), np.int64)
    side = Side(np.zeros(4), np.ones(4), np.zeros(4, np.int64))
    assert offpolicy.means(took, members, 1, side, side, np.random.default_rng(0))[0].mean == pytest.approx(30)
