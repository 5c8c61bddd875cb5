"""The online learner: it chooses, sees the outcome of its own choice only, and learns.

It begins with nothing but prices, and is the next simpler thing while it cannot be more: models' means before enough
prompts were seen to tell tasks apart; then the table of tasks, and with `linear` the finer estimate over it. As
traffic doubles it looks at its last prompts anew, finds rare words, directions and tasks again, and learns its last
outcomes over in their terms. Everything it keeps is bounded: the last prompts as hashes, tables, weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.choose import Choice, choose, worth
from interlock.learning.linear import Linear, features
from interlock.learning.prompt import Prompt
from interlock.learning.tasks import Numbers, Tasks
from interlock.learning.understanding import Understanding

REMEMBERED = 4096
"""Last prompts with their outcomes that are kept."""
FIRST_LOOK = 128
"""Prompts after which tasks are looked for the first time; then each time that traffic has doubled."""
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


class _Seen(NamedTuple):
    prompt: Prompt
    model: int
    outcome: float


class Learner:
    """State of one learner. Not thread-safe; deterministic for its generator and what it is told."""

    def __init__(
        self, prices: Numbers, rng: Generator, bounds: Bounds = BOUNDS, *, linear: bool = True, fade: float = 1e-4
    ) -> None:
        """`prices`: expected cost of a request per model, USD. `linear`: False stops at the table of tasks."""
        self._prices = prices
        self._rng = rng
        self._bounds = bounds
        self._fade = fade
        self._with_linear = linear
        self._tasks = Tasks(len(prices), 1, prices, fade)
        self._linear: Linear | None = None
        self._understanding: Understanding | None = None
        self._remembered: deque[_Seen] = deque(maxlen=REMEMBERED)
        self._next_look = FIRST_LOOK
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
        quality, doubts = self._expected(prompt)
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
        seen = _Seen(prompt, model, outcome)
        self._remembered.append(seen)
        if self.requests >= self._next_look:
            self._look_again()
        else:
            self._take_in(seen)

    def expected(self, prompts: Sequence[Prompt]) -> Numbers:
        """Expected outcomes, one row per prompt and one column per model."""
        return np.stack([self._expected(p)[0] for p in prompts])

    def _expected(self, prompt: Prompt) -> tuple[Numbers, Numbers]:
        if self._understanding is None:
            return self._tasks.expected()[:, 0], self._tasks.doubt()[:, 0]
        meaning, surface = self._understanding.view(prompt)
        if self._linear is None:
            task = self._understanding.task_of(meaning)
            return self._tasks.expected()[:, task], self._tasks.doubt()[:, task]
        seen = features(meaning, surface)
        return self._linear.expected(seen), self._linear.doubt(seen)

    def _take_in(self, seen: _Seen) -> None:
        if self._understanding is None:
            self._tasks.learn(seen.model, 0, seen.outcome)
            return
        meaning, surface = self._understanding.view(seen.prompt)
        if self._linear is None:
            self._tasks.learn(seen.model, self._understanding.task_of(meaning), seen.outcome)
        else:
            self._linear.learn(seen.model, features(meaning, surface), seen.outcome)

    def _look_again(self) -> None:
        self._next_look = min(self._next_look * 2, self._next_look + REMEMBERED)
        self._understanding = Understanding([s.prompt for s in self._remembered], self._rng)
        if self._with_linear:
            self._linear = Linear(len(self._prices), self._fade)
        self._tasks = Tasks(len(self._prices), len(self._understanding.tasks), self._prices, self._fade)
        for seen in self._remembered:
            self._take_in(seen)

    def _allowance(self, costs: Numbers) -> tuple[float, float]:
        """(probability, USD) that may go into trying others now, so that the sums stay within the bounds."""
        cold = self._bounds.cold * len(costs)
        share = self._bounds.share * (self.requests + 1) + cold - self.explored
        money = self._bounds.money * self.spent + cold * float(costs.mean()) - self.extra
        return min(max(share, 0.0), 1.0), max(money, 0.0)
