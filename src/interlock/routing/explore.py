"""Now and then another model than the best is tried, to keep learning: how likely each is, in integers.

Others are tried the more seldom, the farther their score lies behind (inverse gap weighting), so that every probability
is known exactly, recorded, and comes out the same in a replay. What is tried is one of the candidates: nothing that
policy did not allow, no saturated source, nothing that may not fit.

An option that became worse would hardly be tried, and so nobody would notice that it is as it was; of one that is new
nobody would soon know how good it is. All such options together have a part of the share that does not depend on their
scores.

Two bounds hold at each call: all others together get at most `share_micro`, and what they are expected to cost more
than the best is at most `money_micro` of what that costs. Where the best is free, nothing that costs is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import mul
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interlock.routing.draws import mix

MICRO = 1_000_000
SHARPNESS = 40
"""How quickly a gap in score makes a trial unlikely: a gap of a fortieth halves it."""
DOUBT_MAX_MICRO = 150_000
"""The most credit that doubt gives, in quality."""
DUE_PARTS = 2
"""Of that many parts of the share options that became worse or are new have one."""
FIT = 1 << 62
"""What is below fits in a column of 64-bit integers, with something to spare for a sum."""
_SALT = 0x6578706C


class Option(NamedTuple):
    """One arm's first candidate. `credit_micro`: what doubt about it could add to its score. `cost`: expected, in any
    unit."""

    score_micro: int
    credit_micro: int
    cost: int


def chances(
    options: Sequence[tuple[int, int, int]], share_micro: int, money_micro: int, due: Collection[int] = ()
) -> list[int]:
    """Probability of each option, in millionths; together one million. The first is the best. `options`: `Option`s, or
    plain tuples of the same. `due`: numbers of those that became worse or are new."""
    number = len(options)
    if share_micro <= 0 or number < 2:
        return [MICRO, *[0] * (number - 1)]
    best_score, _, best_cost = options[0]
    equal, part = MICRO // number, MICRO * MICRO // number
    rest = [
        equal if (gap := best_score - score - credit) <= 0 else part // (MICRO + SHARPNESS * gap)
        for score, credit, _ in options
    ]
    beyond = [cost - best_cost if cost > best_cost else 0 for _, _, cost in options]
    if money_micro <= 0:
        rest = [0 if more else chance for chance, more in zip(rest, beyond, strict=True)]
    rest[0] = 0
    apart = [i for i in due if rest[i]]
    own = share_micro // DUE_PARTS // len(apart) if apart else 0
    left = share_micro - own * len(apart)
    total = sum(rest)
    if total > left:
        rest = [chance * left // total for chance in rest]
    for i in apart:
        rest[i] += own
    extra = sum(map(mul, rest, beyond))
    most = money_micro * best_cost
    if extra > most:
        rest = [chance * most // extra if more else chance for chance, more in zip(rest, beyond, strict=True)]
    rest[0] = MICRO - sum(rest)
    return rest


def chances_at_once(
    gaps: NDArray[np.int64],
    costs: NDArray[np.int64],
    cost_max: int,
    share_micro: int,
    money_micro: int,
    due: Collection[int] = (),
) -> list[int] | None:
    """`chances`, the same to the last digit, of many options by columns; None when a figure might not fit in one.

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


def drawn(probabilities: Sequence[int], seed: int) -> int:
    """Number of the option that a call's seed draws."""
    point = mix(seed, _SALT) % MICRO
    for i, chance in enumerate(probabilities):
        point -= chance
        if point < 0:
            return i
    return 0
