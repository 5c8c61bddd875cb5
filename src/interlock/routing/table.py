"""The worths of a set of offers as columns of integers, for what is worked out of many of them at once.

Of many different models a decision takes less than half as long by columns as in a loop; of few it is the other way
round. A column has 64 bits, integers in Python have any number: where a product might not fit, the loop is to be taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.routing.explore import DOUBT_MAX_MICRO, DUE_PARTS, MICRO, SHARPNESS
from interlock.routing.score import (
    ALIKE,
    COST_HALF_NUSD_PER_MTOK,
    ENERGY_HALF_UJ_PER_TOKEN,
    UNKNOWN_MICRO,
    Merit,
    Weights,
)
from interlock.types.learned import Estimates

if TYPE_CHECKING:
    from interlock.routing.facts import Worth

FIT = 1 << 62
"""What is below fits in a column of 64-bit integers, with something to spare for a sum."""
_HALVES = np.array([[COST_HALF_NUSD_PER_MTOK], [ENERGY_HALF_UJ_PER_TOKEN]])
_AS_THE_MEAN: Mapping[str, int] = {}
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

    def merits(self, prompt: int, completion: int, weights: Weights, estimates: Estimates | None) -> list[Merit] | None:
        """`merits_at_once` of this table."""
        return merits_at_once(self, prompt, completion, weights, estimates)

    def chances(
        self,
        keys: Sequence[int],
        numbers: Sequence[int],
        prompt: int,
        completion: int,
        weights: Weights,
        estimates: Estimates,
        due: Collection[int],
    ) -> list[int] | None:
        """The chances of options, by their worths' `numbers`, the best one first; None when a figure might not fit.

        `keys`: how far the score of each is below one figure of all.
        """
        tokens, verbosities = prompt + completion, estimates.verbosity_milli
        if not self.fits(tokens, weights, verbosities):
            return None
        whose = np.fromiter(numbers, np.int64, len(numbers))
        gaps = np.fromiter(keys, np.int64, len(keys))
        gaps -= keys[0]
        gaps -= self.credited(estimates.doubt_micro, weights.quality).take(whose)
        costs = self.costs(prompt, completion, verbosities).take(whose)
        most = self.cost_max(tokens, verbosities)
        return chances_at_once(gaps, costs, most, estimates.share_micro, estimates.money_micro, due)


def merits_at_once(
    table: Table, prompt_tokens: int, completion_tokens: int, weights: Weights, estimates: Estimates | None
) -> list[Merit] | None:
    """`score.merits`, the same to the last digit, by columns; None when a figure might not fit in one."""
    w_quality, w_cost, w_latency, w_energy = weights
    tokens = (prompt_tokens + completion_tokens) or 1
    verbosities = estimates.verbosity_milli if estimates is not None else _AS_THE_MEAN
    if not table.fits(tokens, weights, verbosities):
        return None
    qualities, quality = table.priors, table.prior
    if estimates is not None:
        qualities = tuple(map(estimates.quality_micro.get, table.arms, qualities))
        quality = np.fromiter(qualities, np.int64, len(qualities))
    parts = table.per_input * prompt_tokens
    parts += table.lengths(verbosities).per_output * completion_tokens
    parts //= tokens
    unpriced = None if table.free is None else table.free & (parts[0] == 0)
    halves = parts + _HALVES
    parts *= MICRO
    parts //= halves
    cost, energy = parts
    if unpriced is not None:
        cost[unpriced] = UNKNOWN_MICRO
    if table.unmetered is not None:
        energy[table.unmetered] = UNKNOWN_MICRO
    merit = quality * w_quality
    merit += (w_cost + w_latency + w_energy) * MICRO
    merit -= cost * w_cost
    merit -= energy * w_energy
    costs, energies = parts.tolist()
    return list(zip(qualities, costs, energies, merit.tolist(), strict=True))


def chances_at_once(
    gaps: NDArray[np.int64],
    costs: NDArray[np.int64],
    cost_max: int,
    share_micro: int,
    money_micro: int,
    due: Collection[int] = (),
) -> list[int] | None:
    """`explore.chances`, the same to the last digit, of many options by columns; None when a figure might not
    fit in one.

    `gaps`: by how much the best one's score is above that of each with its credit. `cost_max`: none of
    `costs`, which are at least 0, is above it.
    """
    number = len(gaps)
    if share_micro <= 0 or number < 2:
        return [MICRO, *[0] * (number - 1)]
    best_cost = int(costs[0])
    most = money_micro * best_cost
    if max(cost_max, most) * MICRO >= FIT or share_micro > MICRO:
        return None
    rest = np.maximum(gaps, 0)
    rest *= SHARPNESS
    rest += MICRO
    np.floor_divide(MICRO * MICRO // number, rest, out=rest)
    beyond = costs - best_cost
    np.maximum(beyond, 0, out=beyond)
    if money_micro <= 0:
        rest[beyond > 0] = 0
    rest[0] = 0
    apart = [i for i in due if rest[i]]
    own = share_micro // DUE_PARTS // len(apart) if apart else 0
    left, total = share_micro - own * len(apart), int(np.add.reduce(rest))
    if total > left:
        rest *= left
        rest //= total
    for i in apart:
        rest[i] += own
    extra = int(rest.dot(beyond))
    if extra > most:
        less = rest * most
        less //= extra
        rest = np.where(beyond, less, rest)
    likely: list[int] = rest.tolist()
    likely[0] = MICRO - sum(likely)
    return likely
