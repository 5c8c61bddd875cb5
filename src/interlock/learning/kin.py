"""What a model is likely to do before it has done anything: as models of its price, its size and its family do.

Over the models that outcomes are known of, a line through price and number of parameters, both as logarithms beside the
other models': level while little is known. What models of one family do beyond that line, the others of it are expected
to do too. What is not known of a model (a free one's price, the size of one that nobody tells) says nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

UNKNOWN = 0.5
"""Capability of a model while nothing at all is known."""
OF_KIN = 8.0
"""Outcomes that what is expected of a model by its kin counts for."""
OF_FAMILY = 1.0
"""Models that a family's part beyond the line is shrunk by: of one well known relative half of it counts."""
LEAST, MOST = 0.02, 0.98
"""What is expected is no nearer to certainty than that."""


class Kin(NamedTuple):
    """What is known of models beforehand, in their order. `prices`, `parameters`: any unit, 0: not known. `families`:
    "": not known."""

    prices: Numbers
    parameters: Numbers
    families: tuple[str, ...]

    @classmethod
    def of_prices(cls, prices: Sequence[float] | Numbers) -> Self:
        """Of models of which only the price is known."""
        known = np.asarray(prices, float)
        return cls(known, np.zeros(len(known)), ("",) * len(known))


class Likeness:
    """How models resemble each other, and what that makes of what some of them have done."""

    def __init__(self, kin: Kin) -> None:
        """At least one model."""
        self._price, self._size = _beside(kin.prices), _beside(kin.parameters)
        numbers = {name: number for number, name in enumerate(sorted({*kin.families} - {""}))}
        self._families = np.array([numbers.get(name, -1) for name in kin.families], np.int64)
        self._number = len(numbers)

    def expected(self, seen: Numbers, won: Numbers) -> Numbers:
        """Of each model, from how many outcomes each has and their sums; a model's own count as its relatives' do."""
        weight = seen / (seen + OF_KIN)
        mean = won / np.maximum(seen, 1e-9)
        level = (weight @ mean + UNKNOWN) / (weight.sum() + 1)
        line = level + self._slopes(weight, mean - level)
        found: Numbers = np.clip(line + self._of_family(weight, mean - line), LEAST, MOST)
        return found

    def _slopes(self, weight: Numbers, above: Numbers) -> Numbers:
        """The line's part above its level: two slopes by least squares, each shrunk as one model shrinks it."""
        price, size = self._price, self._size
        a, b, c = weight @ price**2 + 1, weight @ (price * size), weight @ size**2 + 1
        p, s = weight @ (price * above), weight @ (size * above)
        whole = a * c - b * b
        slopes: Numbers = price * ((c * p - b * s) / whole) + size * ((a * s - b * p) / whole)
        return slopes

    def _of_family(self, weight: Numbers, beyond: Numbers) -> Numbers:
        """What the others of each model's family do beyond the line."""
        if not self._number:
            return np.zeros(len(weight))
        at, related = np.maximum(self._families, 0), self._families >= 0
        part = np.where(related, weight, 0.0)
        total = np.bincount(at, part, self._number)[at] - part
        sums = np.bincount(at, part * beyond, self._number)[at] - part * beyond
        found: Numbers = np.where(related, sums / (total + OF_FAMILY), 0.0)
        return found


def _beside(values: Numbers) -> Numbers:
    """Logarithms beside their mean, in standard deviations; 0 where nothing is known."""
    known = values > 0
    if not known.any():
        return np.zeros(len(values))
    logs = np.log(np.where(known, values, 1.0))
    centre, spread = logs[known].mean(), logs[known].std()
    beside: Numbers = np.where(known, (logs - centre) / (spread + 1e-9), 0.0)
    return beside
