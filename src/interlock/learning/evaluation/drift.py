"""How quickly the online learner notices that a model changed: requests until most of the traffic has moved.

Three changes, each after `requests` online ones: the model with the largest share fails on everything from then on;
it works again; and a new model appears that is better and cheaper than the best one. A share is of a set of prompts
that are not learned from, in each mode: those that would go to the model, others than the best not being tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from interlock.learning.choose import worth
from interlock.learning.evaluation.data import Data, Numbers
from interlock.learning.evaluation.splits import split
from interlock.learning.learner import Learner
from interlock.learning.prompt import Prompt

MODES = (0.0, 0.1, 0.5)
"""Quality given up for the dearest model's mean cost, in the modes that online requests come in."""
MOVED = 0.8
"""The part of a share that has to have moved."""
PROBES = 200
"""Prompts that a share is of."""
STEP = 25
"""Requests between two looks at a share."""
LATER = 5000
"""Requests after a change that are watched at most."""
RESCUED = 1 / 3
"""Of the prompts that the best model fails on, those that a new one does."""
CHEAPER = 0.5
"""What a new model costs beside the best one."""


class Moved(NamedTuple):
    """One change over the splits. `requests`: mean until the share had moved, of the `reached` of `splits` in which it
    did within `LATER`; `spread`: standard deviation. `before`, `after`: mean shares."""

    change: str
    splits: int
    reached: int
    requests: float
    spread: float
    before: float
    after: float


class Drift(NamedTuple):
    """All changes. `warm`: requests before the first."""

    warm: int
    moved: list[Moved]


class Told(NamedTuple):
    """One change on one split. `requests`: until the share had moved, infinite or NaN: it did not."""

    requests: float
    before: float
    after: float


class Traffic(Protocol):
    """Requests that are sent one after the other. `quality`: of each prompt's answers by each model."""

    quality: Numbers

    def shares(self) -> Numbers:
        """Of each model by now."""
        ...

    def until(self, there: Callable[[Numbers], bool]) -> float:
        """Requests until the shares are so."""
        ...


def drift(data: Data, prompts: list[Prompt], requests: int, progress: Callable[[str], None]) -> Drift:
    """Measure all changes on every split of a folder. Rows to learn from come again when there are too few."""
    found: dict[str, list[Told]] = {}
    for number, seed in enumerate(data.plan.seeds):
        progress(f"drift, split {number + 1} of {len(data.plan.seeds)}")
        for change, told in (*_degrading(data, prompts, requests, seed), *_arriving(data, prompts, requests, seed)):
            found.setdefault(change, []).append(told)
    return Drift(requests, [over(change, told) for change, told in found.items()])


def over(change: str, told: list[Told]) -> Moved:
    """One change over splits."""
    reached = [one.requests for one in told if np.isfinite(one.requests)]
    return Moved(
        change,
        len(told),
        len(reached),
        float(np.mean(reached)) if reached else nan,
        float(np.std(reached, ddof=1)) if len(reached) > 1 else nan,
        float(np.mean([one.before for one in told])),
        float(np.mean([one.after for one in told])),
    )


class _Traffic:
    """Requests to one learner, from the rows of one split, with what every model makes of each."""

    def __init__(self, data: Data, prompts: list[Prompt], quality: Numbers, cost: Numbers, seed: int) -> None:
        self.learn, test = split(len(prompts), data.plan.test_share, seed, data.groups)
        self._prompts = prompts
        self._probes = [prompts[i] for i in test[:PROBES]]
        self.quality, self._cost = quality, cost
        price = cost[self.learn].mean(0)
        self._scale = float(price.max())
        self._rng = np.random.default_rng(seed)
        self.learner = Learner(price, self._rng)
        self.allowed = np.ones(len(price), bool)
        self._at = 0

    def send(self, number: int) -> None:
        """So many requests, each in a mode drawn at random."""
        for _ in range(number):
            row = int(self.learn[self._at % len(self.learn)])
            self._at += 1
            price = MODES[int(self._rng.integers(len(MODES)))] / self._scale
            model = self.learner.decide(self._prompts[row], price, self.allowed).taken
            self.learner.learn(
                self._prompts[row], model, float(self.quality[row, model]), float(self._cost[row, model])
            )

    def shares(self) -> Numbers:
        """Per model, the share of the probes in all modes that would go to it."""
        quality, costs = self.learner.expected(self._probes), self.learner.costs()
        taken = np.zeros(len(costs))
        for mode in MODES:
            values = np.where(self.allowed, worth(quality, costs, mode / self._scale), -np.inf)
            taken += np.bincount(values.argmax(1), minlength=len(costs))
        share: Numbers = taken / taken.sum()
        return share

    def until(self, reached: Callable[[Numbers], bool]) -> float:
        """Requests sent until shares are as they should be; infinite when that took more than `LATER`."""
        for sent in range(STEP, LATER + STEP, STEP):
            self.send(STEP)
            if reached(self.shares()):
                return float(sent)
        return float("inf")


def _degrading(data: Data, prompts: list[Prompt], requests: int, seed: int) -> Sequence[tuple[str, Told]]:
    traffic = _Traffic(data, prompts, data.quality.copy(), data.cost, seed)
    traffic.send(requests)
    return degraded(traffic, data.quality)


def degraded(traffic: Traffic, quality: Numbers) -> tuple[tuple[str, Told], ...]:
    """The model with the largest share fails, and answers as in `quality` again."""
    shares = traffic.shares()
    model, before = int(shares.argmax()), float(shares.max())
    traffic.quality[:, model] = 0
    lost = traffic.until(lambda now: now[model] <= (1 - MOVED) * before)
    low = float(traffic.shares()[model])
    traffic.quality[:, model] = quality[:, model]
    back = traffic.until(lambda now: now[model] >= MOVED * before)
    return (
        ("a model fails", Told(lost, before, low)),
        ("it works again", Told(back, low, float(traffic.shares()[model]))),
    )


def _arriving(data: Data, prompts: list[Prompt], requests: int, seed: int) -> Sequence[tuple[str, Told]]:
    quality, cost = with_better(data.quality, data.cost, np.random.default_rng(seed))
    traffic = _Traffic(data, prompts, quality, cost, seed)
    traffic.allowed[-1] = False
    traffic.send(requests)
    traffic.allowed[-1] = True
    path: list[float] = []
    for _ in range(LATER // STEP):
        traffic.send(STEP)
        path.append(float(traffic.shares()[-1]))
    final = float(np.mean(path[-4:]))
    there = next((STEP * (n + 1) for n, share in enumerate(path) if share >= MOVED * final), nan)
    return (("a better and cheaper model appears", Told(float(there) if final > 0 else nan, 0.0, final)),)


def with_better(quality: Numbers, cost: Numbers, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """(quality, cost) with one more model: the best one, where it fails drawn `RESCUED`s of it set right, and
    `CHEAPER`."""
    best = int(quality.mean(0).argmax())
    rescued: NDArray[np.bool_] = rng.random(len(quality)) < RESCUED
    better = np.where(rescued, 1.0, quality[:, best])
    return np.column_stack([quality, better]), np.column_stack([cost, cost[:, best] * CHEAPER])
