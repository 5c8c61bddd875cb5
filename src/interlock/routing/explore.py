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

from interlock.routing.draws import mix

MICRO = 1_000_000
SHARPNESS = 40
"""How quickly a gap in score makes a trial unlikely: a gap of a fortieth halves it."""
DOUBT_MAX_MICRO = 150_000
"""The most credit that doubt gives, in quality."""
DUE_PARTS = 2
"""Of that many parts of the share options that became worse or are new have one."""
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


def drawn(probabilities: Sequence[int], seed: int) -> int:
    """Number of the option that a call's seed draws."""
    point = mix(seed, _SALT) % MICRO
    for i, chance in enumerate(probabilities):
        point -= chance
        if point < 0:
            return i
    return 0
