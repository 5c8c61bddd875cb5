"""Weights over everything that a prompt shows, fitted to a log in which outcomes of every model are known.

Two layers, as the outcomes have two: how hard a prompt is for all models together, and how each model differs from
that. The second is shrunk more, because differences between models are smaller than differences between prompts and
easily drowned by noise. How much, the log itself says: a part of it is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.prompt import Floats, Prompt
from interlock.learning.sparse import Rows
from interlock.learning.understanding import Understanding

RIDGES = (6.0, 15.0, 40.0)
"""Strengths of shrinkage that are tried."""
HELD_OUT = 0.25
_ROUNDS = 40
_TOLERANCE = 1e-3


_T = TypeVar("_T")


class Map(Protocol):
    """A batch of prompts as a linear map: one row per prompt, `width` columns."""

    width: int

    def times(self, matrix: Floats) -> Floats:
        """The product with a matrix of `width` rows."""
        ...

    def transposed_times(self, matrix: Floats) -> Floats:
        """The product of the transpose with a matrix of one row per prompt."""
        ...


class Design:
    """Words, meaning, surface and waves of a batch of prompts side by side, as one linear map."""

    def __init__(self, understanding: Understanding, prompts: Sequence[Prompt]) -> None:
        """One row per prompt."""
        views = understanding.views(prompts)
        self._words: Rows = understanding.words(prompts)
        self._dense: Floats = np.hstack([views.meaning, views.surface, views.waves])
        self.width = self._words.width + self._dense.shape[1]

    def times(self, matrix: Floats) -> Floats:
        """Predictions for weights of `width` rows and one column per model."""
        cut = self._words.width
        return self._words.times(matrix[:cut]) + self._dense @ matrix[cut:]

    def transposed_times(self, matrix: Floats) -> Floats:
        """The transpose's product with one row per prompt."""
        return np.vstack([self._words.transposed_times(matrix), self._dense.T @ matrix])


class Fitted:
    """Fitted weights: predictions for new prompts."""

    def __init__(
        self,
        view: Callable[[Sequence[_T]], Map],
        prompts: Sequence[_T],
        outcomes: NDArray[np.float64],
        rng: Generator,
    ) -> None:
        """`view`: what is seen of prompts. `outcomes`: in [0, 1], one row per prompt and one column per model. At
        least eight prompts."""
        order = rng.permutation(len(prompts))
        cut = max(2, int(len(prompts) * HELD_OUT))
        held, kept = order[:cut], order[cut:]
        layers = _layers(outcomes)
        best = []
        seen, unseen = (view([prompts[i] for i in part]) for part in (kept, held))
        for layer in layers:
            mean = layer[kept].mean(0)
            losses = []
            for strength in RIDGES:
                guess = unseen.times(ridge(seen, layer[kept] - mean, strength)) + mean
                losses.append(float(((guess - layer[held]) ** 2).sum()))
            best.append(RIDGES[int(np.argmin(losses))])
        whole = view(prompts)
        self._means = [layer.mean(0) for layer in layers]
        self._weights = [
            ridge(whole, layer - mean, strength)
            for layer, mean, strength in zip(layers, self._means, best, strict=True)
        ]

    def predict(self, design: Map) -> NDArray[np.float64]:
        """Expected outcomes, one row per prompt and one column per model."""
        parts = [design.times(w) + m for w, m in zip(self._weights, self._means, strict=True)]
        total: NDArray[np.float64] = (parts[0] + parts[1]).astype(np.float64)
        return total


def _layers(outcomes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shared = outcomes.mean(1, keepdims=True)
    return shared, outcomes - shared


def ridge(design: Map, targets: NDArray[np.float64], strength: float) -> Floats:
    """Weights that minimise the squared error plus `strength` times their squares, per column of `targets`."""

    def normal(weights: Floats) -> Floats:
        return design.transposed_times(design.times(weights)) + np.float32(strength) * weights

    return conjugate(normal, design.transposed_times(targets.astype(np.float32)), _ROUNDS)


def conjugate(apply: Callable[[Floats], Floats], right: Floats, rounds: int) -> Floats:
    """Solve `apply(x) = right` for a symmetric positive map, column by column: conjugate gradients."""
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = right.copy()
    size = (residual**2).sum(0)
    enough = size * _TOLERANCE**2 + 1e-12
    for _ in range(rounds):
        if (size <= enough).all():
            break
        image = apply(direction)
        step = np.where(size > enough, size / np.maximum((direction * image).sum(0), 1e-30), 0).astype(np.float32)
        solution += step * direction
        residual -= step * image
        new = (residual**2).sum(0)
        direction = residual + np.where(size > enough, new / np.maximum(size, 1e-30), 0).astype(np.float32) * direction
        size = new
    return solution
