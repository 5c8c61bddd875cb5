"""The worths of a set of offers as columns of integers, for what is worked out of many of them at once.

Of many different models a decision takes less than half as long by columns as in a loop; of few it is the other way
round. A column has 64 bits, integers in Python have any number: where a product might not fit, the loop is to be taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from struct import pack_into
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.routing.explore import DOUBT_MAX_MICRO, DUE_PARTS, MICRO, SHARPNESS
from interlock.routing.score import (
    ALIKE,
    COST_HALF_NUSD_PER_MTOK,
    ENERGY_HALF_UJ_PER_TOKEN,
    UNKNOWN_MICRO,
    Parts,
    Weights,
)
from interlock.types.learned import Estimates

if TYPE_CHECKING:
    from interlock.routing.facts import Worth

FIT = 1 << 62
"""What is below fits in a column of 64-bit integers, with something to spare for a sum."""
_AS_THE_MEAN: Mapping[str, int] = {}
Column = NDArray[np.int64]
_NONE, _ONE, _ALIKE, _SHARPNESS = np.array(0), np.array(MICRO), np.array(ALIKE), np.array(SHARPNESS)
"""Numbers as arrays without a dimension: NumPy takes twice as long for a column and an integer of Python."""
Scores = tuple[list[Parts], list[int]]
"""Of each offer the parts of its merit, and the score that it and its latency make."""


class Lengths(NamedTuple):
    """`milli`: of the answers of each model beside the mean, in thousandths. `rates`: the table's, by input and by
    output, with prices by that. `most`: none of its rates, and of these figures, is above it; from `FIT` on the others
    mean nothing."""

    verbosities: Mapping[str, int]
    milli: Column
    rates: Column
    most: int


class Table:
    """Worths by column, in their order. `per_input` and `per_output` have two rows: price, and energy. `free`,
    `unmetered`: where no price and no energy is known, None where all are."""

    __slots__ = (
        "_credited", "_lengths", "_most", "_trial", "_unit", "arms", "free", "halves", "per_input", "per_output",
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
        self.halves = np.array([[COST_HALF_NUSD_PER_MTOK], [ENERGY_HALF_UJ_PER_TOKEN]]).repeat(len(arms), 1)
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
        length: Column = self.lengths(verbosities).milli * np.array(completion)
        length //= _ALIKE
        length *= per_output
        length += per_input * np.array(prompt)
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
            rates = np.stack((self.per_input, rates)).reshape(2, -1)
            kept = self._lengths = Lengths(verbosities, column, rates, most)
        return kept

    def scores(
        self,
        prompt: int,
        completion: int,
        weights: Weights,
        estimates: Estimates | None,
        numbers: Sequence[int] | None,
        latencies: Sequence[int],
    ) -> Scores | None:
        """`scores_at_once` of this table."""
        return scores_at_once(self, prompt, completion, weights, estimates, numbers, latencies)

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
        gaps, whose = _filled(keys, numbers)
        gaps -= np.array(keys[0])
        gaps -= self.credited(estimates.doubt_micro, weights.quality)[whose]
        costs = self.costs(prompt, completion, verbosities)[whose]
        most = self.cost_max(tokens, verbosities)
        return chances_at_once(gaps, costs, most, estimates.share_micro, estimates.money_micro, due)


def _filled(first: Sequence[int], second: Sequence[int], more: int = 0) -> Column:
    """An array of these two rows, as long as each other, and so many to be filled."""
    made = np.empty((2 + more, len(first)), np.int64)
    pack_into(f"@{2 * len(first)}q", made.data, 0, *first, *second)
    return made


@lru_cache(maxsize=64)
def _weighed(weights: Weights) -> tuple[Column, Column]:
    """(what latency, quality, cost and energy count for, what a score is without them)."""
    quality, cost, latency, energy = weights
    return np.array((-latency, quality, -cost, -energy)), np.array((cost + latency + energy) * MICRO)


def scores_at_once(
    table: Table,
    prompt_tokens: int,
    completion_tokens: int,
    weights: Weights,
    estimates: Estimates | None,
    numbers: Sequence[int] | None,
    latencies: Sequence[int],
) -> Scores | None:
    """What `score.merits` and latencies make, the same to the last digit, by columns; None when a figure might not fit
    in one. `numbers`: whose worth each offer has, as many as latencies; None: each its own, in order."""
    tokens = (prompt_tokens + completion_tokens) or 1
    verbosities = estimates.verbosity_milli if estimates is not None else _AS_THE_MEAN
    if not table.fits(tokens, weights, verbosities) or min(latencies) < 0 or max(latencies) > MICRO:
        return None
    qualities = table.priors
    if estimates is not None:
        qualities = tuple(map(estimates.quality_micro.get, table.arms, qualities))
    if numbers is not None:
        qualities = tuple([qualities[number] for number in numbers])
    whole = _filled(latencies, qualities, 2)
    parts = whole[2:] if numbers is None else np.empty_like(table.halves)
    np.array((prompt_tokens, completion_tokens)).dot(table.lengths(verbosities).rates, out=parts.reshape(-1))
    parts //= np.array(tokens)
    unpriced = None if table.free is None else table.free & (parts[0] == 0)
    halves = parts + table.halves
    parts *= _ONE
    parts //= halves
    if unpriced is not None:
        parts[0, unpriced] = UNKNOWN_MICRO
    if table.unmetered is not None:
        parts[1, table.unmetered] = UNKNOWN_MICRO
    if numbers is not None:
        whole[2:] = parts[:, numbers]
    counts, most = _weighed(weights)
    score = counts.dot(whole)
    score += most
    score //= _ONE
    costs, energies = whole[2:].tolist()
    return list(zip(qualities, costs, energies, strict=True)), score.tolist()


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
    rest = np.maximum(gaps, _NONE)
    rest *= _SHARPNESS
    rest += _ONE
    np.floor_divide(np.array(MICRO * MICRO // number), rest, out=rest)
    beyond = costs - np.array(best_cost)
    np.maximum(beyond, _NONE, out=beyond)
    if money_micro <= 0:
        rest[beyond > 0] = 0
    rest[0] = 0
    apart = [i for i in due if rest[i]]
    own = share_micro // DUE_PARTS // len(apart) if apart else 0
    left, total = share_micro - own * len(apart), int(np.add.reduce(rest))
    if total > left:
        rest *= np.array(left)
        rest //= np.array(total)
    for i in apart:
        rest[i] += own
    extra = int(rest.dot(beyond))
    if extra > most:
        less = rest * np.array(most)
        less //= np.array(extra)
        rest = np.where(beyond, less, rest)
    likely: list[int] = rest.tolist()
    likely[0] = MICRO - sum(likely)
    return likely
