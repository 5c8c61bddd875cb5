"""Now and then another model than the best is tried, to keep learning: how likely each is, in integers.

Others are tried the more seldom, the farther their score lies behind (inverse gap weighting), so that every probability
is known exactly, recorded, and comes out the same in a replay. What is tried is one of the candidates: nothing that
policy did not allow, no saturated source, nothing that may not fit.

Two bounds hold at each call: all others together get at most `share_micro`, and what they are expected to cost more
than the best is at most `money_micro` of what that costs. Where the best is free, nothing that costs is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from interlock.routing.draws import mix

MICRO = 1_000_000
SHARPNESS = 40
"""How quickly a gap in score makes a trial unlikely: a gap of a fortieth halves it."""
DOUBT_MAX_MICRO = 150_000
"""The most credit that doubt gives, in quality."""
_SALT = 0x6578706C


class Option(NamedTuple):
    """One arm's first candidate. `credit_micro`: what doubt about it could add to its score. `cost`: expected, in any
    unit."""

    score_micro: int
    credit_micro: int
    cost: int


def chances(options: Sequence[Option], share_micro: int, money_micro: int) -> list[int]:
    """Probability of each option, in millionths; together one million. The first is the best."""
    rest = [0] * len(options)
    best = options[0]
    if share_micro > 0 and len(options) > 1:
        for i, option in enumerate(options):
            if i and (option.cost <= best.cost or money_micro > 0):
                gap = max(best.score_micro - option.score_micro - option.credit_micro, 0)
                rest[i] = MICRO * MICRO // (len(options) * (MICRO + SHARPNESS * gap))
        total = sum(rest)
        if total > share_micro:
            rest = [chance * share_micro // total for chance in rest]
        extra = sum(c * max(o.cost - best.cost, 0) for c, o in zip(rest, options, strict=True))
        most = money_micro * best.cost
        if extra > most:
            rest = [
                chance * most // extra if option.cost > best.cost else chance
                for chance, option in zip(rest, options, strict=True)
            ]
    rest[0] = MICRO - sum(rest[1:])
    return rest


def drawn(probabilities: Sequence[int], seed: int) -> int:
    """Number of the option that a call's seed draws."""
    point = mix(seed, _SALT) % MICRO
    for i, chance in enumerate(probabilities):
        point -= chance
        if point < 0:
            return i
    return 0
