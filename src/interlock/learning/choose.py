"""Which candidate is taken: the best by its worth, or now and then another one, to keep learning.

Others are tried the more seldom, the farther their worth lies behind (inverse gap weighting), so every probability is
known exactly and can be recorded. Two bounds hold: a share of requests, and money beyond what the best would have
cost. Nothing outside the allowed set is ever taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.kin import Numbers

OPTIMISM = 1.0
"""Standard deviations of doubt that a candidate is given credit for, when others are tried."""
OPTIMISM_MAX = 0.15
"""The most credit, in quality."""
SHARPNESS = 40.0
"""How quickly a gap in worth makes a trial unlikely: a gap of 1 / SHARPNESS x candidates halves it."""


class Choice(NamedTuple):
    """The candidate taken, the best one by what is known, and the probability that each had (0 if not allowed)."""

    taken: int
    best: int
    propensities: Numbers

    @property
    def propensity(self) -> float:
        """Of the one that was taken."""
        return float(self.propensities[self.taken])


def worth(quality: Numbers, cost: Numbers, price: float) -> Numbers:
    """Worth of each candidate: expected quality less `price` (quality per USD) times expected cost in USD."""
    return quality - price * cost


def choose(
    values: Numbers,
    doubts: Numbers,
    costs: Numbers,
    allowed: NDArray[np.bool_],
    share: float,
    money: float,
    rng: Generator,
) -> Choice:
    """Take a candidate. At least one is allowed.

    `values`: worth per candidate. `share`: most probability that others than the best may have together. `money`: most
    expected cost beyond the best's, in the unit of `costs`. With either at 0 or below, the best is always taken.
    """
    open_to = np.flatnonzero(allowed)
    value = values[open_to]
    best = int(value.argmax())
    chances = np.zeros(len(values))
    if share > 0 and money > 0 and len(open_to) > 1:
        credit = np.minimum(OPTIMISM * doubts[open_to], OPTIMISM_MAX)
        gap = np.maximum(value[best] - value - credit, 0)
        tried = 1 / (len(open_to) * (1 + SHARPNESS * gap))
        tried[best] = 0
        tried *= min(1.0, share / float(tried.sum()))
        extra = float(tried @ np.maximum(costs[open_to] - costs[open_to[best]], 0))
        if extra > money:
            tried *= money / extra
        chances[open_to] = tried
    chances[open_to[best]] = max(0.0, 1 - float(chances.sum()))
    taken = int(open_to[best])
    if chances[taken] < 1:
        ends = np.cumsum(chances[open_to])
        taken = int(open_to[min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(open_to) - 1)])
    return Choice(taken, int(open_to[best]), chances)
