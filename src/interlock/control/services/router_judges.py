"""How far judges of answers are believed, for people: see `docs/judging.md`."""

from __future__ import annotations

import msgspec

from interlock.types.identity import Judging
from interlock.types.learned import AGREES, CHANCE, CONSTANT, FEW, JUDGE_PAIRS_MIN, UNVARIED, JudgeTrust

WORDS = {
    FEW: f"its verdicts count unexamined, until people or checks said something of {JUDGE_PAIRS_MIN} answers it scored",
    AGREES: "its scores go with what people and checks say, by more than chance",
    UNVARIED: "people and checks say the same of every answer, so that nothing can be told; its verdicts count",
    CHANCE: "its scores go with what people and checks say no more than chance would have it",
    CONSTANT: "it scores every answer alike, whatever people and checks say",
}
"""Why a judge counts or does not, in plain words."""


class Asked(msgspec.Struct, frozen=True):
    """What a tenant has judged. `model`: the judge, a model or an alias. Thousandths: `share_milli` of chats get a
    score, `challenger_milli` of those with a choice go to another model too."""

    model: str
    share_milli: int
    challenger_milli: int


class Judge(msgspec.Struct, frozen=True):
    """How far a judge is believed. `trusted`: its verdicts count. `why`: "few", "agrees", "unvaried", "chance" or
    "constant", and in plain `words`. `pairs`: answers that have its score and somebody else's word, of the last that
    are kept; `sources`: whose word. `agreement_milli`: correlation of both in thousandths, from -1000 to 1000,
    `least_milli`: its lower bound at 95 %; null where it cannot be told. `waiting`: verdicts that wait for controls."""

    judge: str
    trusted: bool
    why: str
    words: str
    pairs: int
    sources: dict[str, int]
    agreement_milli: int | None
    least_milli: int | None
    waiting: int


def asked(judging: Judging | None) -> Asked | None:
    """What a tenant has judged, if anything."""
    return None if judging is None else Asked(judging.model, judging.share_milli, judging.challenger_milli)


def judge(of: JudgeTrust) -> Judge:
    """A judge for people."""
    return Judge(
        of.judge,
        of.trusted,
        of.why,
        WORDS.get(of.why, ""),
        sum(of.origins.values()),
        of.origins,
        of.agreement_milli,
        of.least_milli,
        of.waiting,
    )
