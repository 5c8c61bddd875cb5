"""Capability of each model for each task, as a table that people can read.

An outcome counts for its cell. What a cell has not seen, it borrows: from its model's mean over all tasks and from
how hard its task is for all models; and a model that has seen nothing borrows from what its kin do (`kin`).

    kin -> model's mean -> plus the task's deviation -> the cell
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.learning.kin import OF_KIN, UNKNOWN, Kin, Likeness, Numbers

OF_MODEL = 30.0
"""Outcomes that a model's mean and a task's deviation count for."""
Z95 = 1.96


class Capability(NamedTuple):
    """One cell: expected outcome, a 95 % interval, and how many outcomes it rests on (faded ones count for less)."""

    mean: float
    low: float
    high: float
    outcomes: float


class Tasks:
    """Sums of outcomes per model and task; memory is models x tasks, whatever the traffic."""

    def __init__(self, kin: Kin, tasks: int, fade: float, priors: Numbers | None = None) -> None:
        """`kin`: of each model. `fade`: share of the old that one outcome displaces. `priors`: what to expect of each
        model before it is known, NaN where its kin are to tell."""
        models = len(kin.prices)
        self._priors: Numbers = np.full(models, np.nan) if priors is None else priors
        self._likeness = Likeness(kin)
        self._keep = 1.0 - fade
        self._count = np.zeros((models, tasks))
        self._sum = np.zeros((models, tasks))
        self._mean: Numbers = np.full((models, tasks), UNKNOWN)
        self._seen, self._won = np.zeros(models), np.zeros(models)
        """Of each model over all tasks: outcomes, and their sum."""
        self._beforehand: Numbers | None = None
        self._stale = True  # priors count before there is any outcome

    def learn(self, model: int, task: int, outcome: float, weight: float = 1.0) -> None:
        """Count one outcome, in [0, 1] on average, for `weight`; everything known of that model fades a little."""
        keep = self._keep**weight
        self._count[model] *= keep
        self._sum[model] *= keep
        self._count[model, task] += weight
        self._sum[model, task] += weight * outcome
        self._add(model, keep, weight, outcome)
        self._stale, self._beforehand = True, None

    def learn_somewhere(self, model: int, outcome: float, weight: float = 1.0) -> None:
        """Count one outcome of an unknown task: a part of it for each, as they occurred."""
        total = float(self._count.sum())
        shares = self._count.sum(0) / total if total else np.full(self._count.shape[1], 1 / self._count.shape[1])
        keep = self._keep**weight
        self._count[model] = self._count[model] * keep + weight * shares
        self._sum[model] = self._sum[model] * keep + weight * shares * outcome
        self._add(model, keep, weight, outcome)
        self._stale, self._beforehand = True, None

    def _add(self, model: int, keep: float, weight: float, outcome: float) -> None:
        self._seen[model] = self._seen[model] * keep + weight
        self._won[model] = self._won[model] * keep + weight * outcome

    def doubt_again(self, model: int, outcomes: float) -> None:
        """What is known of this model counts for no more than so many outcomes."""
        share = min(1.0, outcomes / max(float(self._count[model].sum()), 1e-9))
        for each in (self._count, self._sum, self._seen, self._won):
            each[model] *= share
        self._stale, self._beforehand = True, None

    def learn_all(self, tasks: NDArray[np.int64], outcomes: Numbers) -> None:
        """Count outcomes of every model, one row per prompt, without fading."""
        np.add.at(self._count.T, tasks, 1.0)
        np.add.at(self._sum.T, tasks, outcomes)
        self._seen += len(tasks)
        self._won += outcomes.sum(0)
        self._stale, self._beforehand = True, None

    def expected(self) -> Numbers:
        """Expected outcome of every cell, models by tasks."""
        if self._stale:
            self._mean = self._estimate()
            self._stale = False
        return self._mean

    def beforehand(self) -> Numbers:
        """What is expected of each model without what it has done: as its source says, or else by its kin."""
        if self._beforehand is None:
            of_kin = self._likeness.expected(self._seen, self._won)
            self._beforehand = np.where(np.isnan(self._priors), of_kin, self._priors)
        return self._beforehand

    def seen(self) -> Numbers:
        """Outcomes of each model, faded ones for less."""
        return self._seen

    def doubt(self) -> Numbers:
        """Standard deviation of what is expected of every cell."""
        mean = self.expected()
        borrowed = np.minimum(self._count.sum(1, keepdims=True), OF_MODEL) + 1
        deviation: Numbers = np.sqrt(mean * (1 - mean) / (self._count + borrowed))
        return deviation

    def counts(self) -> Numbers:
        """Outcomes of every cell, faded ones for less."""
        return self._count

    def capability(self, model: int, task: int) -> Capability:
        """One cell, to be shown."""
        mean, half = float(self.expected()[model, task]), Z95 * float(self.doubt()[model, task])
        return Capability(mean, max(mean - half, 0.0), min(mean + half, 1.0), float(self._count[model, task]))

    def _estimate(self) -> Numbers:
        model = (self._won + OF_KIN * self.beforehand()) / (self._seen + OF_KIN)
        surplus = (self._sum - self._count * model[:, None]).sum(0)
        task = surplus / (self._count.sum(0) + OF_MODEL)
        prior = np.clip(model[:, None] + task, 0.01, 0.99)
        mean = (self._sum + OF_MODEL * prior) / (self._count + OF_MODEL)
        # An outcome that a preference stands for lies in [-1, 2]: what a few of them add up to is no share of anything.
        bounded: Numbers = np.clip(mean, 0.0, 1.0)
        return bounded
