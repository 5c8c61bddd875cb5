"""The worths of a set of offers as columns of integers, for what is worked out of many of them at once.

Of many different models a decision takes less than half as long by columns as in a loop; of few it is the other way
round. A column has 64 bits, integers in Python have any number: where a product might not fit, the loop is to be taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.routing.explore import DOUBT_MAX_MICRO, FIT, MICRO

if TYPE_CHECKING:
    from interlock.routing.facts import Worth

MANY = 24
"""From so many different worths on columns are quicker than a loop (measured; about equal from 18 to 24)."""
ALIKE = 1000
"""The verbosity, in thousandths, of a model whose answers are as long as the mean."""
Column = NDArray[np.int64]


class Lengths(NamedTuple):
    """`milli`: of the answers of each model beside the mean, in thousandths. `per_output`: the table's, with prices by
    that. `most`: none of its rates, and of these figures, is above it; from `FIT` on the others mean nothing."""

    verbosities: Mapping[str, int]
    milli: Column
    per_output: Column
    most: int


class Table:
    """Worths by column, in their order. `per_input` and `per_output` have two rows: price, and energy. `free`,
    `unmetered`: where no price and no energy is known, None where all are."""

    __slots__ = (
        "_credited", "_lengths", "_most", "_trial", "_unit", "arms", "free", "per_input", "per_output", "prior",
        "priors", "unmetered",
    )  # fmt: skip

    def __init__(self, worths: Sequence[Worth], unit: int) -> None:
        """`worths`: at least one. `unit`: what all prices are multiples of, in nano-USD per million."""
        arms, priors, prices_in, prices_out, per_call, priced, energies_in, energies_out = zip(*worths, strict=True)
        self.arms: tuple[str, ...] = arms
        self.priors: tuple[int, ...] = priors
        rates = (*prices_in, *prices_out, *per_call, *energies_in, *energies_out)
        fit = min(rates) >= 0 and max(rates) < FIT and 0 <= min(priors) <= max(priors) <= MICRO
        self._most = max(rates) if fit else FIT
        zeros = (0,) * len(arms)
        self.prior = np.array(priors if fit else zeros, np.int64)
        self.per_input = np.array((prices_in, energies_in) if fit else (zeros, zeros), np.int64)
        self.per_output = np.array((prices_out, energies_out) if fit else (zeros, zeros), np.int64)
        self._unit = unit
        costs = np.array((prices_in, prices_out, per_call) if fit else (zeros,) * 3, np.int64) // unit
        self._trial = costs[0], costs[1], costs[2] if any(per_call) else None
        free, unmetered = ~np.array(priced), ~(self.per_input[1] | self.per_output[1]).astype(bool)
        self.free = free if free.any() else None
        self.unmetered = unmetered if unmetered.any() else None
        self._lengths: Lengths | None = None
        self._credited: tuple[Mapping[str, int], int, Column] | None = None

    def fits(self, tokens: int, weights: Sequence[int], verbosities: Mapping[str, int]) -> bool:
        """Whether whatever is worked out of these figures fits in a column."""
        return self.lengths(verbosities).most * (tokens if tokens > MICRO else MICRO) < FIT and max(weights) <= MICRO

    def costs(self, prompt: int, completion: int, verbosities: Mapping[str, int]) -> Column:
        """What a call is expected to cost at each, in a unit of all of them. Only where such figures fit."""
        per_input, per_output, per_call = self._trial
        length = self.lengths(verbosities).milli * completion
        length //= ALIKE
        length *= per_output
        length += per_input * prompt
        if per_call is not None:
            length += per_call
        return length

    def cost_max(self, tokens: int, verbosities: Mapping[str, int]) -> int:
        """What none of these `costs` is above."""
        return self.lengths(verbosities).most * (tokens + 1) // self._unit

    def credited(self, doubts: Mapping[str, int], w_quality: int) -> Column:
        """What doubt about each model could add to its score, in millionths. Not to be changed: it is kept."""
        kept = self._credited
        if kept is None or kept[0] is not doubts or kept[1] != w_quality:
            doubted = [min(doubts.get(arm, DOUBT_MAX_MICRO), DOUBT_MAX_MICRO) for arm in self.arms]
            kept = self._credited = doubts, w_quality, np.array(doubted, np.int64) * w_quality // MICRO
        return kept[2]

    def lengths(self, verbosities: Mapping[str, int]) -> Lengths:
        """What follows from how long the answers of each model are. Kept, as what doubts add is, until they are given
        anew: what was learned is published seldom, and never changes once it is."""
        kept = self._lengths
        if kept is None or kept.verbosities is not verbosities:
            milli = [verbosities.get(arm, ALIKE) for arm in self.arms]
            most = self._most * max(ALIKE, *milli) // ALIKE + max(milli)
            if min(milli) < 0 or most * MICRO >= FIT:
                milli, most = [0] * len(milli), FIT
            column = np.array(milli, np.int64)
            rates = self.per_output.copy()
            rates[0] = rates[0] * column // ALIKE
            kept = self._lengths = Lengths(verbosities, column, rates, most)
        return kept
