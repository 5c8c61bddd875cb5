"""What is said of an answer: kinds, what they are worth as a reward, and how sure a mean of rewards is."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

THUMB, SCORE, CORRECTED = "thumb", "score", "corrected"
KINDS = (THUMB, SCORE, CORRECTED)
"""Kinds of feedback: each is taken once for a call."""
UP, DOWN = "up", "down"
REASONS = ("wrong", "unhelpful", "unsafe", "format", "slow", "other")
MICRO = 1_000_000
"""A reward of 1."""
NO_SCORE = -1
Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: two of them bound 95 %."""


class Given(NamedTuple):
    """One feedback as its caller gave it. `score_micro`: in [0, MICRO], or NO_SCORE. `text`: the corrected answer;
    `text` and `comment` are what somebody wrote, the rest is from lists of ours."""

    request: str
    thumb: str = ""
    score_micro: int = NO_SCORE
    text: str = ""
    reason: str = ""
    comment: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds it has, in the order of KINDS."""
        has = (bool(self.thumb), self.score_micro != NO_SCORE, bool(self.text))
        return tuple(kind for kind, is_there in zip(KINDS, has, strict=True) if is_there)


def reward(thumb: str, score_micro: int) -> int | None:
    """What feedback says of an answer, in millionths of [0, 1]; None where it does not say.

    A score is finer than a thumb and counts instead of it; a thumb is 1 or 0. A correction alone is None: it may be of
    a comma or of everything. What was not said is missing, never 0.
    """
    if score_micro != NO_SCORE:
        return score_micro
    return {UP: MICRO, DOWN: 0}.get(thumb)


class Quality(NamedTuple):
    """The mean reward of `calls` calls, in millionths, and the bounds that it lies within at 95 %."""

    calls: int
    mean_micro: int
    low_micro: int
    high_micro: int


def quality(calls: int, sum_micro: int, square_micro: int = 0) -> Quality | None:
    """The mean of `calls` rewards that add up to `sum_micro`, None where there is none.

    The interval is Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209) at z = 1.96 with the mean as the
    proportion. For thumbs that is what it is made for; scores between 0 and 1 vary less than thumbs of the same mean
    do, so that for them it is rather too wide than too narrow. What vary more are a judge's preferences, which lie in
    [-1, 2]: with `square_micro`, what the squares add up to, it is as much wider. It never leaves [0, 1], and is honest
    for few calls.
    """
    if calls <= 0:
        return None
    raw = sum_micro / calls / MICRO
    mean = min(max(raw, 0.0), 1.0)
    varied = max(mean * (1 - mean), square_micro / calls / MICRO - raw * raw)
    square = Z_95 * Z_95 / calls
    middle = (mean + square / 2) / (1 + square)
    half = Z_95 * sqrt(varied / calls + square / (4 * calls)) / (1 + square)
    low, high = max(0.0, min(middle - half, mean)), min(1.0, max(middle + half, mean))
    return Quality(calls, round(mean * MICRO), round(low * MICRO), round(high * MICRO))
