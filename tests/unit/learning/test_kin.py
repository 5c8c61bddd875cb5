"""What is expected of a model before it has done anything: by the price, the size and the family of others."""

from __future__ import annotations

import numpy as np
import pytest

from interlock.learning.estimator import Estimator
from interlock.learning.kin import UNKNOWN, Kin, Likeness, Numbers
from interlock.learning.prompt import read
from interlock.learning.published import Expectations
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer

MANY = 500.0


def _expected(kin: Kin, means: list[float | None]) -> Numbers:
    """`means`: of each model over many outcomes; None: it has none."""
    seen = np.array([0.0 if mean is None else MANY for mean in means])
    return Likeness(kin).expected(seen, seen * np.array([mean or 0.0 for mean in means]))


def _kin(sizes: list[float], families: str = "", prices: list[float] | None = None) -> Kin:
    names = tuple(families.split(",")) if families else ("",) * len(sizes)
    return Kin(np.array(prices or [0.0] * len(sizes)), np.array(sizes), names)


def test_of_free_models_the_size_tells() -> None:
    found = _expected(_kin([1, 7, 8, 14, 72, 70]), [0.2, 0.4, 0.42, 0.5, 0.7, None])
    assert found[5] > 0.6
    assert _expected(_kin([1, 7, 8, 14, 72, 2]), [0.2, 0.4, 0.42, 0.5, 0.7, None])[5] < 0.37
    unsized = _expected(_kin([1, 7, 8, 14, 72, 0]), [0.2, 0.4, 0.42, 0.5, 0.7, None])[5]
    assert unsized == pytest.approx((2.22 + UNKNOWN) / 6, abs=0.05), "one of no known size is taken for an average one"


def test_what_a_family_does_beyond_its_sizes_is_expected_of_all_of_it() -> None:
    sizes: list[float] = [7, 70, 7, 70, 7, 70]
    means = [0.3, 0.5, 0.5, 0.7, None, None]
    strangers = _expected(_kin(sizes, "a,a,b,b,c,d"), means)
    related = _expected(_kin(sizes, "a,a,b,b,b,a"), means)
    assert related[4] > strangers[4] + 0.04 and related[5] < strangers[5] - 0.04
    assert strangers[5] > strangers[4] + 0.1, "and of others by their size"
    alone = _expected(_kin(sizes, "a,b,c,d,e,f"), means)
    assert (alone == _expected(_kin(sizes), means)).all(), "a model is no relative of its own"


def test_prices_and_sizes_that_say_the_same_are_not_counted_twice() -> None:
    sizes: list[float] = [1, 7, 14, 70, 100]
    means = [0.2, 0.4, 0.5, 0.7, None]
    by_size = _expected(_kin(sizes), means)[4]
    by_both = _expected(_kin(sizes, prices=[s / 10 for s in sizes]), means)[4]
    assert by_both == pytest.approx(by_size, abs=0.06) and by_both < 0.85


def test_nothing_known_is_level_and_all_stays_within_bounds() -> None:
    kin = _kin([1, 1000], "a,a", [1e-9, 1e9])
    assert (_expected(kin, [None, None]) == UNKNOWN).all()
    cases: list[list[float | None]] = [[1.0, None], [None, 0.0], [0.0, 1.0]]
    for means in cases:
        found = _expected(kin, means)
        assert ((found > 0) & (found < 1)).all()


def _taught(kin: Kin, priors: Numbers | None = None) -> Estimator:
    """After 600 outcomes of all models but the last: the larger, the better."""
    rng = np.random.default_rng(5)
    estimator = Estimator(kin, rng, priors=priors)
    chances = (0.2, 0.4, 0.6, 0.8)
    for n in range(600):
        model = n % 4
        estimator.learn(read(f"what is {n % 13} times {n % 7}, and why?"), model, float(rng.random() < chances[model]))
    assert estimator.linear is not None
    return estimator


def test_a_model_that_comes_to_a_learned_fleet_begins_as_its_kin_do() -> None:
    prompt = read("what is 3 times 5, and why?")
    large, small = (_taught(_kin([1, 7, 30, 100, size])).expected(prompt)[0] for size in (120.0, 1.0))
    assert large[4] > small[4] + 0.25 and large[4] > 0.6 and small[4] < 0.4
    assert np.abs(large[:4] - small[:4]).max() < 0.03, "what is known of the others stays"
    unknown = _taught(Kin.of_prices([0.0] * 5)).expected(prompt)[0][4]
    assert 0.4 < unknown < 0.6


def test_what_its_source_says_of_it_counts_in_a_learned_fleet_too_until_outcomes_do() -> None:
    prompt = read("what is 3 times 5, and why?")
    priors = np.array([np.nan, np.nan, np.nan, np.nan, 0.95])
    estimator = _taught(_kin([1, 7, 30, 100, 1]), priors)
    assert estimator.expected(prompt)[0][4] > 0.9
    before = estimator.expected(prompt)[0][4]
    for n in range(100):
        estimator.learn(read(f"what is {n % 13} times {n % 7}, and why?"), 4, float(n % 10 == 0))
    assert estimator.expected(prompt)[0][4] < 0.3 < before


def test_what_is_published_of_a_new_model_is_what_is_expected_of_it() -> None:
    rng = np.random.default_rng(6)
    trainer = Trainer(Plan(), rng)
    arms = {f"m-{size}b": Arm(0.0, None, size * 1000, "m") for size in (1, 7, 30, 100)}
    trainer.models(arms)
    chances = dict(zip(arms, (0.2, 0.4, 0.6, 0.8), strict=True))
    for n in range(600):
        name = list(arms)[n % 4]
        prompt = read(f"what is {n % 13} times {n % 7}, and why?")
        trainer.outcome(Outcome(name, float(rng.random() < chances[name]), "feedback", prompt))
    trainer.models({**arms, "new": Arm(0.0, None, 120_000, "m"), "little": Arm(0.0, None, 1000, "m")})
    weights, words = trainer.state(1, 0)
    assert words is not None
    found = Expectations(weights).estimates(bytes(54), 1).quality_micro
    assert found["new"] > 600_000 and found["little"] < 400_000
    shown = {arm.arm: arm.capabilities[0] for arm in weights.arms}
    assert abs(shown["new"].mean_micro - found["new"]) < 100_000, "and the table that people read says about the same"
