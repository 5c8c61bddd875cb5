"""The online learner as it is evaluated: it chooses, sees the outcome of its own choice only, and learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.choose import Choice, choose, worth
from interlock.learning.estimator import Estimator, expected_of
from interlock.learning.kin import Kin, Numbers
from interlock.learning.prompt import Prompt

_COST_OUTCOMES = 2.0
"""Outcomes that a model's price counts for in its mean cost."""


class Bounds(NamedTuple):
    """Limits of exploring. Each at 0 switches it off.

    `share`: of requests, in the long run. `cold`: requests per candidate that may be spent on top while the learner
    is new. `money`: of what is spent, in the long run; the same cold allowance comes on top, at mean prices.
    """

    share: float = 0.05
    cold: float = 20.0
    money: float = 0.05


BOUNDS = Bounds()


class Learner:
    """State of one learner. Not thread-safe; deterministic for its generator and what it is told."""

    def __init__(
        self, prices: Numbers, rng: Generator, bounds: Bounds = BOUNDS, *, linear: bool = True, fade: float = 1e-4
    ) -> None:
        """`prices`: expected cost of a request per model, USD. `linear`: False stops at the table of tasks."""
        self.estimator = Estimator(Kin.of_prices(prices), rng, linear=linear, fade=fade)
        self._rng = rng
        self._bounds = bounds
        self._cost_sum = _COST_OUTCOMES * prices
        self._cost_count = np.full(len(prices), _COST_OUTCOMES)
        self.requests = 0
        self.explored = 0.0
        """Sum of the probabilities with which others than the best were tried."""
        self.extra = 0.0
        """Sum of the expected cost beyond the best's, USD."""
        self.spent = 0.0

    def costs(self) -> Numbers:
        """Expected cost of a request per model, USD."""
        mean: Numbers = self._cost_sum / self._cost_count
        return mean

    def decide(self, prompt: Prompt, price: float, allowed: NDArray[np.bool_]) -> Choice:
        """Take one of the allowed models; `price` is what a USD is worth in quality."""
        quality, doubts = self.estimator.expected(prompt)
        costs = self.costs()
        share, money = self._allowance(costs)
        choice = choose(worth(quality, costs, price), doubts, costs, allowed, share, money, self._rng)
        chances = choice.propensities
        self.requests += 1
        self.explored += 1 - float(chances[choice.best])
        self.extra += float(chances @ np.maximum(costs - costs[choice.best], 0))
        return choice

    def learn(self, prompt: Prompt, model: int, outcome: float, cost: float) -> None:
        """The outcome in [0, 1] of the model that was taken, and what it cost in USD."""
        self._cost_sum[model] += cost
        self._cost_count[model] += 1
        self.spent += cost
        self.estimator.learn(prompt, model, outcome)

    def expected(self, prompts: Sequence[Prompt]) -> Numbers:
        """Expected outcomes, one row per prompt and one column per model."""
        return expected_of(self.estimator, prompts)

    def _allowance(self, costs: Numbers) -> tuple[float, float]:
        """(probability, USD) that may go into trying others now, so that the sums stay within the bounds."""
        cold = self._bounds.cold * len(costs)
        share = self._bounds.share * (self.requests + 1) + cold - self.explored
        money = self._bounds.money * self.spent + cold * float(costs.mean()) - self.extra
        return min(max(share, 0.0), 1.0), max(money, 0.0)
