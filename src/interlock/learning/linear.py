"""Capability as a linear function of what a prompt shows, learned one outcome at a time.

The outcome of model m on features f is f.(w + u_m) and noise: w is shared by all models, u_m is the model's own.
Both are Gaussian; one outcome moves both by one step of a Kalman filter in which they are kept as independent. A
model's own certainty decays towards what it was at first, so that a model that changes is learned anew.
"""

from __future__ import annotations

import numpy as np

from interlock.learning.kin import UNKNOWN, Numbers
from interlock.learning.prompt import SURFACE, Floats
from interlock.learning.understanding import MEANINGS

WIDTH = 1 + MEANINGS + len(SURFACE)
NOISE = 0.2
"""Variance of an outcome around what is expected: that of a coin a little off balance."""
SURFACE_WEIGHT = 0.45
"""How much the surface counts beside the meaning."""
_SHARED_LEVEL, _SHARED = 0.1, 0.02
_OWN_LEVEL, _OWN = 0.04, 0.008
OF_OWN = NOISE / _OWN_LEVEL
"""Outcomes that what is expected of a model beforehand counts for."""


def features(meaning: Floats, surface: Floats) -> Numbers:
    """Features of one prompt, `WIDTH` values, from its meaning and its standardised surface (`Understanding.view`)."""
    out = np.empty(WIDTH)
    out[0] = 1.0
    out[1 : 1 + MEANINGS] = meaning[:MEANINGS]
    out[1 + MEANINGS :] = surface
    out[1 + MEANINGS :] *= SURFACE_WEIGHT
    return out


class Linear:
    """Weights and their certainty; memory is models x `WIDTH`^2 x 4 bytes, whatever the traffic."""

    def __init__(self, models: int, fade: float) -> None:
        """`fade`: how far one outcome of a model lets its certainty fall back."""
        self._fade = fade
        self._first: Floats = np.diag([_OWN_LEVEL, *[_OWN] * (WIDTH - 1)]).astype(np.float32)
        self._shared = np.zeros(WIDTH)
        self._shared[0] = UNKNOWN
        self._shared_cov = np.diag([_SHARED_LEVEL, *[_SHARED] * (WIDTH - 1)])
        self._own = np.zeros((models, WIDTH))
        self._own_cov = np.repeat(self._first[None], models, 0)

    def learn(self, model: int, seen: Numbers, outcome: float, weight: float = 1.0) -> None:
        """One outcome of one model on a prompt's features: in [0, 1] on average, its variance `NOISE` / `weight`."""
        own = self._own_cov[model]
        shared_gain, own_gain = self._shared_cov @ seen, own @ seen.astype(np.float32)
        spread = NOISE / weight + float(seen @ shared_gain) + float(seen @ own_gain)
        step = (outcome - float(seen @ (self._shared + self._own[model]))) / spread
        self._shared += step * shared_gain
        self._own[model] += step * own_gain
        self._shared_cov -= np.multiply.outer(shared_gain, shared_gain / spread)
        own -= np.multiply.outer(own_gain, own_gain / spread)
        own += self._fade * weight * (self._first - own)

    def expected(self, seen: Numbers) -> Numbers:
        """Expected outcomes: one value per model; for rows of features, one row each."""
        return seen @ (self._own + self._shared).T

    def shared(self, seen: Numbers) -> float:
        """What all models together make expect."""
        return float(seen @ self._shared)

    def doubt_again(self, model: int) -> None:
        """What is expected of this model is as uncertain as at first."""
        self._own_cov[model] = self._first

    def weights(self) -> Numbers:
        """What is expected as a linear map: one row of `WIDTH` values per model."""
        return self._own + self._shared

    def doubt(self, seen: Numbers) -> Numbers:
        """Standard deviation of a model's own part of what is expected, per model, for one prompt."""
        near = seen.astype(np.float32)
        squares = np.multiply.outer(near, near).ravel()
        variance = self._own_cov.reshape(len(self._own), -1) @ squares  # one product for all models
        deviation: Numbers = np.sqrt(np.maximum(variance, 0)).astype(np.float64)
        return deviation
