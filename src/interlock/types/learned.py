"""What the router has learned of one tenant's traffic, as it is published: how prompts are read, and what models do.

A tenant's state has two parts in the snapshot, made together. `Words` says how a prompt becomes signals, 8-bit
integers; it is large, changes seldom, and past decisions do not need it, because a record holds the signals.
`Weights` says what to expect of each model for such signals, in integers alone, so that a decision made again from its
record gives the same figures; it is small, changes with every few outcomes, and is kept for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from interlock.types.source import Model

LEARNED = ("words/", "weights/")
"""How names of the parts begin that hold what was learned."""
SET = "set"
"""The origin of what an administrator says."""
SHARED = "shared"
"""The origin of what other tenants have seen."""
FEW, AGREES, UNVARIED, CHANCE, CONSTANT = "few", "agrees", "unvaried", "chance", "constant"
"""Why a judge counts: too few words of others yet, its scores go with these, these never vary; or does not: its scores
go with them no more than chance, or are all the same."""
JUDGE_COUNTS = frozenset((FEW, AGREES, UNVARIED))
JUDGE_PAIRS_MIN = 30
"""Answers with a judge's score and somebody else's word, from which on the judge is held against these."""
SIGNAL_ONE = 127
"""The signal that stands for 1.0."""


class Words(msgspec.Struct, frozen=True, array_like=True):
    """How the prompts of one tenant are read. Arrays are little-endian.

    `version`: of this reading. `rarity`: uint8, of every slot that a word can be hashed into, in `rarity_step`s; 0: not
    known. `slots`: uint16, ascending: those whose words tell most. `rows`: int8, one row of `directions` for each of
    these, in `row_step`s. `mean`, `spread`: float32, of the surface signals.
    """

    version: int
    directions: int
    rarity: bytes
    rarity_step: float
    slots: bytes
    rows: bytes
    row_step: float
    mean: bytes
    spread: bytes


class Capability(msgspec.Struct, frozen=True, array_like=True):
    """What a model does in one task: expected outcome and its 95 % interval in millionths, and how many outcomes that
    rests on, in thousandths (older ones count for less)."""

    mean_micro: int
    low_micro: int
    high_micro: int
    outcomes_milli: int


class ArmWeights(msgspec.Struct, frozen=True, array_like=True):
    """What is expected of one arm (see `arm_of`).

    `weights`: int32, little-endian: millionths of outcome for the constant, then per signal and step of it. Empty when
    only tasks tell. `doubts_micro`: standard deviation of what is expected, per task. `capabilities`: per task.
    `verbosity_milli`: tokens of its answers beside the mean of all arms, in thousandths. `origins`: where outcomes came
    from, how many of each ("feedback", "validation", "judge", "evaluation"; `SET`, `SHARED`: as how many the
    word of an administrator, and of other tenants, counts).
    """

    arm: str
    weights: bytes
    doubts_micro: tuple[int, ...]
    capabilities: tuple[Capability, ...]
    verbosity_milli: int = 1000
    origins: dict[str, int] = {}
    due: bool = False
    """It is tried with a part of the share that is its own: it became worse, and is to be found out to be as it was; or
    it is new."""
    due_new: bool = False
    """Of one that is `due`: because it is new. To be shown."""


class Profile(msgspec.Struct, frozen=True, array_like=True):
    """What was seen of one offer: calls, thousandths of a percent that failed, time to the first byte and per token."""

    offer: str
    calls: int
    failure_micro: int
    first_byte_us: int = -1
    token_us: int = -1
    cost_nusd: int = -1
    """Mean cost of a call, nano-USD; -1: none has a price."""
    energy_uj: int = -1
    completion_tokens: int = -1
    """Mean length of an answer."""


class JudgeTrust(msgspec.Struct, frozen=True, array_like=True):
    """How far a judge is believed, to be shown: its scores beside what others said of the same answers.

    `judge`: its model (see `arm_of`). `trusted`: its verdicts count. `why`: `FEW` to `CONSTANT`. `origins`: by whom the
    words are that its scores are held against, how many of each. `agreement_milli`: their correlation in thousandths,
    `least_milli`: its lower bound at 95 %; None where it cannot be told. `waiting`: verdicts that wait for controls.
    """

    judge: str
    trusted: bool
    why: str
    origins: dict[str, int] = {}
    agreement_milli: int | None = None
    least_milli: int | None = None
    waiting: int = 0


class Weights(msgspec.Struct, frozen=True, array_like=True):
    """What is expected of each arm, for one tenant.

    `version`: grows with each publication, from 1. `words`: version of the `Words` that its signals are of; 0: nothing
    of a prompt is read. `made_s`: Unix seconds. `share_micro`: probability with which others than the best may be tried
    together, `money_micro`: expected cost beyond the best's, as a share of the best's; both until the next version.
    `centres`: int8, one row per task: the signals of meaning in its middle. `task_shares_micro`: of prompts, per task.
    """

    version: int
    words: int
    made_s: int
    share_micro: int
    money_micro: int
    centres: bytes
    task_shares_micro: tuple[int, ...]
    arms: tuple[ArmWeights, ...]
    profiles: tuple[Profile, ...] = ()
    data_class_max: int = 0
    """The highest data class of calls with which others than the best are tried."""
    surfaces: bytes = b""
    """int8, one row per task: the mean surface signals of its prompts, to be shown. Nothing is decided by it."""
    judges: tuple[JudgeTrust, ...] = ()
    """Likewise."""


class Estimates(NamedTuple):
    """`quality_micro`: expected outcome. `doubt_micro`: its standard deviation. `verbosity_milli`: length of answers
    beside the mean, thousandths. An arm that is in none of them is new: its model's prior counts. `failure_micro`: by
    offer, the share of tries that failed. `share_micro`, `money_micro`: how much may be tried (`routing.explore`).
    `due`: arms that became worse or are new, and have a part of that share.

    INVARIANT: a mapping here never changes once it was given to a decision, which keeps what follows from it.
    """

    version: int
    task: int
    quality_micro: Mapping[str, int]
    doubt_micro: Mapping[str, int]
    verbosity_milli: Mapping[str, int]
    failure_micro: Mapping[str, int]
    share_micro: int = 0
    money_micro: int = 0
    due: frozenset[str] = frozenset()


def arm_of(model: Model) -> str:
    """The name under which outcomes of a model count: a version that is known is a model of its own."""
    return arm_named(model.name, model.version)


def arm_named(model: str, version: str) -> str:
    """The arm of an answer of this model; `version` "": unknown."""
    return f"{model}@{version}" if version else model


def words_part(tenant_id: str) -> str:
    """Name of the snapshot part with a tenant's `Words`."""
    return f"words/{tenant_id}"


def weights_part(tenant_id: str) -> str:
    """Name of the snapshot part with a tenant's `Weights`."""
    return f"weights/{tenant_id}"
