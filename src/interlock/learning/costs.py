"""What a call is expected to cost at each model, fitted to a log in which the cost of every model is known.

A prompt tells how long it is itself, and something of how long its answer will be. Costs differ by factors, so that
their logarithms are fitted, each beside its model's mean; in the same two layers as outcomes have (`fit.Fitted`): what
makes a prompt dear with all models together, and what with one of them. What is expected is then scaled so that over
the log it is as much as was paid.

To expect the cost of a prompt beside its quality is known from CARROT (Somerstep and others, 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.fit import Fitted, Map

LEAST = 1e-3
"""Of a model's mean: what costs less counts as this much, for nothing has no logarithm."""

_T = TypeVar("_T")


class FittedCosts:
    """Fitted weights: costs of new prompts."""

    def __init__(
        self,
        view: Callable[[Sequence[_T]], Map],
        prompts: Sequence[_T],
        costs: NDArray[np.float64],
        rng: Generator,
    ) -> None:
        """`view`: what is seen of prompts. `costs`: at least 0, one row per prompt and one column per model, in any
        unit. At least eight prompts. A model that costs nothing is expected to cost nothing."""
        means = costs.mean(0)
        beside = np.log(np.maximum(costs / np.where(means > 0, means, 1.0), LEAST))
        self._fitted = Fitted(view, prompts, beside, rng)
        self._scale = means / np.exp(self._fitted.predict(view(prompts))).mean(0)

    def predict(self, design: Map) -> NDArray[np.float64]:
        """Expected costs, one row per prompt and one column per model, in the log's unit."""
        found: NDArray[np.float64] = np.exp(self._fitted.predict(design)) * self._scale
        return found
