"""A model that became worse and is as it was: what it did before counts again, after few outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.learning.estimator import REMEMBERED, Estimator
from interlock.learning.kin import Kin
from interlock.learning.prompt import read

BEFORE = 0.8
PROMPTS = [read(f"How does the {word} signal work at box {number}?") for number in range(8) for word in ("home", "far")]


def outcomes(estimator: Estimator, rng: np.random.Generator, model: int, share: float, number: int) -> None:
    """So many outcomes of a model, of which a share is good."""
    for _ in range(number):
        estimator.learn(PROMPTS[int(rng.integers(len(PROMPTS)))], model, float(rng.random() < share))


def degraded(rng: np.random.Generator, *, to: float = 0.0, remembered: int = REMEMBERED) -> Estimator:
    estimator = Estimator(Kin.of_prices([1.0, 1.0]), rng, remembered=remembered)
    for _ in range(150):
        outcomes(estimator, rng, 0, BEFORE, 1)
        outcomes(estimator, rng, 1, 0.5, 1)
    while not estimator.falls:
        outcomes(estimator, rng, 0, to, 1)
    outcomes(estimator, rng, 0, to, 15)
    return estimator


def expected(estimator: Estimator, model: int) -> float:
    return float(np.mean([estimator.expected(prompt)[0][model] for prompt in PROMPTS]))


@pytest.mark.parametrize("seed", range(5))
def test_what_it_did_before_counts_again_after_few_outcomes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimator = degraded(rng)
    assert expected(estimator, 0) < 0.45 and not estimator.returns
    needed = 0
    while not estimator.returns:
        outcomes(estimator, rng, 0, BEFORE, 1)
        needed += 1
        assert needed <= 30
    assert abs(expected(estimator, 0) - BEFORE) < 0.12
    assert expected(estimator, 0) > expected(estimator, 1), "it is the best again"
    assert estimator.tasks.counts()[0].sum() > 100, "of more than those few outcomes it is known"


@pytest.mark.parametrize("seed", range(5))
def test_one_that_is_no_better_or_half_as_good_is_not_taken_for_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    estimator = degraded(rng)
    outcomes(estimator, rng, 0, 0.05, 100)
    assert not estimator.returns
    outcomes(estimator, rng, 0, 0.3, 40)
    assert not estimator.returns and expected(estimator, 0) < 0.5
    outcomes(estimator, rng, 0, 0.3, 500)
    assert not estimator.returns and 0.2 < expected(estimator, 0) < 0.45, "what it is now is learned"


def test_one_that_falls_again_is_noticed_and_may_come_back_again() -> None:
    rng = np.random.default_rng(3)
    estimator = degraded(rng)
    for times in (1, 2, 3):
        outcomes(estimator, rng, 0, BEFORE, 60)
        assert estimator.returns == times
        outcomes(estimator, rng, 0, 0.0, 60)
        assert estimator.falls == times + 1 and expected(estimator, 0) < 0.4


@pytest.mark.parametrize("remembered", [200, 400])
def test_memory_has_its_bound_and_others_keep_theirs(remembered: int) -> None:
    rng = np.random.default_rng(4)
    estimator = degraded(rng, remembered=remembered)
    outcomes(estimator, rng, 1, 0.5, 2 * remembered)
    other = expected(estimator, 1)
    outcomes(estimator, rng, 0, BEFORE, 40)
    assert estimator.returns == 1 and len(estimator._remembered) <= remembered
    assert sum(seen.model == 1 for seen in estimator._remembered) >= remembered // 2
    assert abs(expected(estimator, 1) - other) < 0.1
    assert expected(estimator, 0) > 0.6
