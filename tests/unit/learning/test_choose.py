"""Choosing: bounds of exploring, exact probabilities, and the learner that is made of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from interlock.learning.choose import choose
from interlock.learning.estimator import FIRST_LOOK, REMEMBERED
from interlock.learning.learner import Bounds, Learner
from interlock.learning.prompt import Prompt, read
from tests.unit.learning.samples import PRICE, SKILL, TOPICS, texts

ALL = np.ones(4, bool)


def test_the_probability_that_is_told_is_the_one_it_is_taken_with() -> None:
    rng = np.random.default_rng(1)
    values, doubts, costs = np.array([0.5, 0.45, 0.3]), np.full(3, 0.05), np.ones(3)
    choices = [choose(values, doubts, costs, np.ones(3, bool), 0.4, 9.0, rng) for _ in range(20_000)]
    taken = np.bincount([c.taken for c in choices], minlength=3) / len(choices)
    assert np.allclose(taken, choices[0].propensities, atol=0.012)
    assert choices[0].propensities[1] > choices[0].propensities[2] > 0
    assert choices[0].propensity == choices[0].propensities[choices[0].taken]


def test_what_is_not_allowed_is_never_taken_even_if_it_is_the_best() -> None:
    rng = np.random.default_rng(1)
    allowed = np.array([False, True, True])
    choice = choose(np.array([0.9, 0.5, 0.4]), np.full(3, 0.1), np.ones(3), allowed, 0.5, 9.0, rng)
    assert choice.best == 1 and choice.taken in (1, 2) and choice.propensities[0] == 0


@pytest.mark.parametrize("money", [0.3, 0.003])
def test_trying_others_never_costs_more_than_is_left(money: float) -> None:
    costs = np.array([1.0, 11.0, 0.1])
    rng = np.random.default_rng(1)
    choice = choose(np.array([0.5, 0.5, 0.4]), np.zeros(3), costs, np.ones(3, bool), 0.9, money, rng)
    assert 0 < choice.propensities @ np.maximum(costs - 1, 0) <= money + 1e-12


@pytest.mark.parametrize("bounds", [Bounds(share=0, cold=0), Bounds(money=0, cold=0)])
def test_with_a_bound_at_zero_the_best_is_always_taken(bounds: Bounds) -> None:
    learner = Learner(PRICE, np.random.default_rng(2), bounds)
    for text in texts(60, np.random.default_rng(3))[0]:
        choice = learner.decide(read(text), 0.1, ALL)
        assert choice.taken == choice.best and choice.propensity == 1
        learner.learn(read(text), choice.taken, 1.0, 0.5)
    assert learner.explored == 0


def _served(learner: Learner, number: int, seed: int, price: float = 0.3) -> tuple[float, float]:
    """(mean worth of the last third, expected worth of the best single model)."""
    rng = np.random.default_rng(seed)
    made, names = texts(number, rng)
    got = []
    for text, name in zip(made, names, strict=True):
        prompt = read(text)
        model = learner.decide(prompt, price, ALL).taken
        outcome = float(rng.random() < SKILL[model, list(TOPICS).index(name)])
        learner.learn(prompt, model, outcome, float(PRICE[model]))
        got.append(outcome - price * PRICE[model])
    return float(np.mean(got[-number // 3 :])), float((SKILL.mean(1) - price * PRICE).max())


@pytest.mark.parametrize("linear", [True, False])
def test_it_learns_from_the_outcomes_of_its_own_choices_and_stays_within_its_bounds(linear: bool) -> None:
    bounds = Bounds(share=0.05, cold=20, money=0.05)
    learner = Learner(PRICE, np.random.default_rng(4), bounds, linear=linear)
    worth, single = _served(learner, 1500, 5)
    assert worth > single + 0.02
    assert learner.explored <= bounds.share * 1500 + bounds.cold * 4 + 1e-6
    assert learner.extra <= bounds.money * learner.spent + bounds.cold * 4 * PRICE.max()


def test_what_it_remembers_is_bounded() -> None:
    learner = Learner(np.array([1.0, 2.0]), np.random.default_rng(6), linear=False)
    empty = Prompt(np.array([1, 2], np.int32), np.ones(2, np.float32), read("x").surface)
    for _ in range(REMEMBERED + FIRST_LOOK):
        learner.learn(empty, 0, 1.0, 1.0)
    assert len(learner.estimator._remembered) == REMEMBERED


def test_the_same_seed_makes_the_same_choices() -> None:
    def run() -> list[int]:
        learner = Learner(PRICE, np.random.default_rng(11))
        out = []
        for text in texts(200, np.random.default_rng(12))[0]:
            out.append(learner.decide(read(text), 0.3, ALL).taken)
            learner.learn(read(text), out[-1], 1.0 if out[-1] == 1 else 0.0, 1.0)
        return out

    assert run() == run()


def test_a_decision_costs_little_beside_understanding_the_prompt() -> None:
    """50 candidates; measured beside reading a prompt of 4 KB, so that the machine does not matter."""
    learner = Learner(np.linspace(1, 2, 50), np.random.default_rng(13))
    for text in texts(FIRST_LOOK + 5, np.random.default_rng(14))[0]:
        prompt = read(text)
        learner.learn(prompt, learner.decide(prompt, 0.3, np.ones(50, bool)).taken, 1.0, 1.0)
    text = " ".join(texts(40, np.random.default_rng(15))[0])[:4096]
    prompt = read(text)

    def took(what: str) -> float:
        begin = time.process_time()
        for _ in range(20):
            if what == "read":
                read(text)
            else:
                learner.decide(prompt, 0.3, np.ones(50, bool))
        return time.process_time() - begin

    assert min(took("decide") for _ in range(7)) < 2 * min(took("read") for _ in range(7))
