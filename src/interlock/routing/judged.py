"""Which calls are judged, how, and who is sent them besides: pure functions of a call's recorded seed (P4)."""

from __future__ import annotations

from collections.abc import Sequence

from interlock.routing.draws import mix
from interlock.types.identity import Judging

WHOLE = 1000
_SCORE, _CONTROL, _CHALLENGE, _WHOM, _QUESTION, _ORDER, _PROBE = range(0x6A756467, 0x6A756467 + 7)


def scored(judging: Judging, seed: int) -> bool:
    """Whether the answer of a call gets a score."""
    return mix(seed, _SCORE) % WHOLE < judging.share_milli


def controlled(judging: Judging, seed: int) -> bool:
    """Whether an answer that gets a score is also held against an unrelated question."""
    return mix(seed, _CONTROL) % WHOLE < judging.control_milli


def challenged(judging: Judging, seed: int) -> bool:
    """Whether another model is sent the call too."""
    return mix(seed, _CHALLENGE) % WHOLE < judging.challenger_milli


def probed(judging: Judging, seed: int) -> bool:
    """Whether challenger and challenged are also held against an unrelated question."""
    return mix(seed, _PROBE) % WHOLE < judging.control_milli


def whom(doubts: Sequence[int], seed: int) -> int:
    """Number of the model that is sent it, each as likely as its doubt is large."""
    weights = [max(doubt, 1) for doubt in doubts]
    point = mix(seed, _WHOM) % sum(weights)
    for number, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return number
    return len(weights) - 1


def question(seed: int) -> int:
    """Number of the unrelated question."""
    return mix(seed, _QUESTION) >> 8


def turned(seed: int) -> bool:
    """Whether a judge is shown the challenger's answer first."""
    return bool(mix(seed, _ORDER) & 1)
