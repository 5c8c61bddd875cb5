"""What other decisions would have brought, estimated from logged ones whose chances are known. Pure.

Quality, from calls with a reward r in [0, 1]: the logged model had the chance p of being taken and would have the
chance t under the other decisions, so that it counts w = t / p, at most `WEIGHT_MAX`.

- SNIPS (self-normalised inverse propensity; Swaminathan and Joachims 2015): sum(w r) / sum(w).
- DR (doubly robust; Dudik, Langford and Li 2011): mean(v + w (r - q)), where q is what was expected of the logged model
  and v what is expected under the other decisions.

Intervals are 95 % ones from the asymptotic variance: that of the mean of each call's influence, with Student's
quantile for as many calls as count (the effective sample size). An interval is never narrower than one call in as many
could make it, so that few calls which agree prove little.

Cost, latency and energy, where another model would have answered: that model's own mean in the task. Intervals are
from bootstrap samples of the calls, in each of which those means are taken again.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from interlock.learning.kin import Numbers

WEIGHT_MAX = 50.0
"""The most that one call counts for; beyond it an estimate is drawn towards the logged decisions."""
EFFECTIVE_MIN = 30.0
"""Effective sample size below which the data cannot tell."""
UNSUPPORTED_MAX = 0.05
"""Share of traffic that would go to models which had no chance, above which the data cannot tell."""
CALLS_MIN = 20
"""Calls below which there are no figures."""
CELL_MIN = 5
"""Calls of an offer in a task from which on their mean stands for it."""
SAMPLES = 400
"""Bootstrap samples."""
Z_95 = 1.959963984540054
Integers = NDArray[np.int64]


class Interval(NamedTuple):
    """A mean and the bounds that it lies within at 95 %."""

    mean: float
    low: float
    high: float


class Rewarded(NamedTuple):
    """Calls with a reward, one value each. `chance`: of the logged model, in (0, 1]. `expected`: of it, in [0, 1].
    `before`, `after`: the chance of the logged model under either decisions. `value_before`, `value_after`: what is
    expected under them, over all models."""

    reward: Numbers
    chance: Numbers
    expected: Numbers
    before: Numbers
    after: Numbers
    value_before: Numbers
    value_after: Numbers


class Method(NamedTuple):
    """What one method makes of both decisions and of their difference."""

    before: Interval
    after: Interval
    difference: Interval


class Weight(NamedTuple):
    """How much calls count for. `effective`: as many calls of equal weight would tell as much (Kish)."""

    effective: float
    largest: float
    clipped: int


class Quality(NamedTuple):
    """Both methods, and the weights of the other decisions."""

    snips: Method
    dr: Method
    weight: Weight


class _Part(NamedTuple):
    """A mean, with what each call adds to it."""

    mean: float
    influence: Numbers
    effective: float


def weights(target: Numbers, chance: Numbers) -> Numbers:
    """How much each call counts for. Raises ValueError when a logged model had no chance."""
    if len(chance) and (chance.min() <= 0 or chance.max() > 1):
        raise ValueError("a chance that was logged is not in (0, 1]")
    clipped: Numbers = np.minimum(target / chance, WEIGHT_MAX)
    return clipped


def effective_size(weight: Numbers) -> float:
    """Kish's effective sample size: sum(w)^2 / sum(w^2); 0 when nothing counts."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def quality(seen: Rewarded) -> Quality | None:
    """Both estimates; None when no call with a reward would go where it went."""
    after, before = weights(seen.after, seen.chance), weights(seen.before, seen.chance)
    if not after.sum() or not before.sum():
        return None
    snips = _snips(seen.reward, before), _snips(seen.reward, after)
    dr = _robust(seen, before, seen.value_before), _robust(seen, after, seen.value_after)
    raw = seen.after / seen.chance
    return Quality(
        _method(*snips), _method(*dr), Weight(effective_size(after), float(after.max()), int((raw > WEIGHT_MAX).sum()))
    )


def _snips(reward: Numbers, weight: Numbers) -> _Part:
    mean = float((weight * reward).sum() / weight.sum())
    return _Part(mean, weight * (reward - mean) / weight.mean(), effective_size(weight))


def _robust(seen: Rewarded, weight: Numbers, value: Numbers) -> _Part:
    each = value + weight * (seen.reward - seen.expected)
    mean = float(each.mean())
    return _Part(mean, each - mean, effective_size(weight))


def _method(before: _Part, after: _Part) -> Method:
    same = bool((before.influence == after.influence).all()) and before.mean == after.mean
    apart = after.influence - before.influence
    gap = after.mean - before.mean
    half = 0.0 if same else _half(apart, min(before.effective, after.effective))
    return Method(_bounded(before), _bounded(after), Interval(gap, gap - half, gap + half))


def _bounded(part: _Part) -> Interval:
    """Within [0, 1], where a mean of rewards is."""
    half = _half(part.influence, part.effective)
    mean = min(max(part.mean, 0.0), 1.0)
    return Interval(mean, min(max(part.mean - half, 0.0), mean), max(min(part.mean + half, 1.0), mean))


def _half(influence: Numbers, effective: float) -> float:
    """Half the width of an interval."""
    number = len(influence)
    error = float(np.sqrt((influence**2).sum() / max(number - 1, 1) / number))
    counted = max(effective, 2.0)
    return _student(counted - 1) * max(error * sqrt(counted / (counted - 1)), 1 / (effective + 4))


def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's distribution, by its expansion (Abramowitz and Stegun 26.7.5)."""
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


class Side(NamedTuple):
    """What calls are taken to use under one of the decisions: `fixed` + `factor` x the mean of `cell`, one value per
    call; where `cell` is -1, `fixed` alone."""

    fixed: Numbers
    factor: Numbers
    cell: Integers


def means(
    seen: Numbers, members: Integers, cells: int, before: Side, after: Side, rng: Generator
) -> tuple[Interval, Interval, Interval]:
    """(before, after, after less before): means over calls, with bootstrap intervals.

    `seen`: what each call used, NaN where that is not known. `members`: the cells that each belongs to, one row per
    call, -1: none. `cells`: how many there are. At least one call.
    """
    number = len(before.fixed)
    known = np.isfinite(seen)
    flat = np.where(known[:, None], members, -1).ravel()
    inside = flat >= 0
    places, owners = flat[inside], np.repeat(np.arange(number), members.shape[1])[inside]
    amounts = seen[owners]

    def centres(weight: Numbers) -> Numbers:
        total = np.bincount(places, weight[owners], minlength=cells)
        summed = np.bincount(places, weight[owners] * amounts, minlength=cells)
        found: Numbers = np.divide(summed, total, out=np.full(cells, np.nan), where=total > 0)
        return found

    def both(weight: Numbers, whole: Numbers) -> tuple[float, float]:
        centre = centres(weight)
        centre = np.where(np.isfinite(centre), centre, whole)
        return _mean_of(before, centre, weight), _mean_of(after, centre, weight)

    ones = np.ones(number)
    whole = centres(ones)
    first = both(ones, whole)
    drawn = np.array([both(rng.multinomial(number, ones / number).astype(float), whole) for _ in range(SAMPLES)])
    return (
        _percentiles(first[0], drawn[:, 0]),
        _percentiles(first[1], drawn[:, 1]),
        _percentiles(first[1] - first[0], drawn[:, 1] - drawn[:, 0]),
    )


def _mean_of(side: Side, centre: Numbers, weight: Numbers) -> float:
    modelled = np.zeros(len(side.fixed))
    there = side.cell >= 0
    modelled[there] = side.factor[there] * centre[side.cell[there]]
    return float((weight * (side.fixed + modelled)).sum() / weight.sum())


def _percentiles(mean: float, drawn: Numbers) -> Interval:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(mean, min(float(low), mean), max(float(high), mean))
