"""What learning is compared with: logistic regression on the same words, and the table of the data's own true tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interlock.learning.evaluation.data import Numbers
from interlock.learning.fit import conjugate
from interlock.learning.prompt import Floats, Prompt
from interlock.learning.understanding import Understanding

_NEWTON_STEPS = 5
_NEWTON_ROUNDS = 15


def logistic(
    understanding: Understanding, learned: Sequence[Prompt], outcomes: Numbers, tested: Sequence[Prompt]
) -> Numbers:
    """One logistic regression per model on words and pairs by rarity, penalty 1/2 |w|^2 (scikit-learn's C = 1).

    Returns the probability of a good outcome, one row per tested prompt. Outcomes in [0, 1].
    """
    rows = understanding.words(learned)
    goal = outcomes.astype(np.float32)
    weights = np.zeros((rows.width, goal.shape[1]), np.float32)
    level = np.log((goal.mean(0) + 1e-3) / (1 - goal.mean(0) + 1e-3)).astype(np.float32)
    for _ in range(_NEWTON_STEPS):
        guess = _sigmoid(rows.times(weights) + level)
        curve = np.maximum(guess * (1 - guess), 1e-4)

        def hessian(step: Floats, curve: Floats = curve) -> Floats:
            return rows.transposed_times(curve * rows.times(step)) + step

        downhill = rows.transposed_times(goal - guess) - weights
        weights += conjugate(hessian, downhill, _NEWTON_ROUNDS)
        guess = _sigmoid(rows.times(weights) + level)
        level += (goal - guess).sum(0) / np.maximum(guess * (1 - guess), 1e-4).sum(0)
    return _sigmoid(understanding.words(tested).times(weights) + level).astype(np.float64)


def table(learned: NDArray[np.int64], outcomes: Numbers, tested: NDArray[np.int64]) -> Numbers:
    """Each model's mean outcome in the task of each tested prompt; of all tasks where one was never seen."""
    number = int(max(learned.max(), tested.max())) + 1
    count = np.bincount(learned, minlength=number)[:, None]
    total = np.zeros((number, outcomes.shape[1]))
    np.add.at(total, learned, outcomes)
    mean: Numbers = np.where(count > 0, total / np.maximum(count, 1), outcomes.mean(0))
    return mean[tested]


def _sigmoid(x: Floats) -> Floats:
    half: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return half
