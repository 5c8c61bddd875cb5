"""What is told: counts that are exact, and estimates, each with its interval and where it comes from."""

from __future__ import annotations

import msgspec


class Share(msgspec.Struct, frozen=True):
    """Calls that go to `name` on either side; "": nowhere, they are denied."""

    name: str
    before: int
    after: int


class Group(msgspec.Struct, frozen=True):
    """Calls of one team or task. `changed`: would go elsewhere, or nowhere. `models`: by model."""

    name: str
    calls: int
    changed: int
    models: tuple[Share, ...]


class Decisions(msgspec.Struct, frozen=True):
    """Decisions made again. `calls`: were looked at; `whole` is false when the period has more, older ones.

    `again`: could be decided again; `left_out`: the others, by reason. `changed`: go to another offer under the change,
    `model_changed` of them to another model; `denied`, `permitted`: come to nowhere, or from there. `drifted`: are
    decided otherwise than then without the change already, because what is stored has changed since. `tried_before`,
    `tried_after`: go to another model than the best one to learn of it. `read`: with signals of their prompts.
    """

    calls: int
    whole: bool
    again: int
    left_out: dict[str, int]
    changed: int
    model_changed: int
    denied: int
    permitted: int
    drifted: int
    tried_before: int
    tried_after: int
    read: int
    models: tuple[Share, ...]
    sources: tuple[Share, ...]
    teams: tuple[Group, ...]
    tasks: tuple[Group, ...]


class Estimate(msgspec.Struct, frozen=True):
    """A mean and the bounds that it lies within at 95 %."""

    mean: float
    low: float
    high: float


class Figure(msgspec.Struct, frozen=True):
    """The mean of a call. `name`: "cost" (`unit` "nano-USD"), "latency" ("ms", of the whole answer) or "energy" ("J").

    Over `calls`, for which it is known on both sides; for `unknown` others it is not. `basis`: what it rests on under
    the change, calls by source: "logged" (the same offer answered), "means" (what that offer's other calls took),
    "verbosity" (tokens by the length of its answers), "declared" (energy of a token). Without `before`, `after` and
    `difference` there are too few calls.
    """

    name: str
    unit: str
    calls: int
    unknown: int
    basis: dict[str, int]
    before: Estimate | None = None
    after: Estimate | None = None
    difference: Estimate | None = None


class Method(msgspec.Struct, frozen=True):
    """Quality by one method: "snips" or "dr" (`interlock.learning.offpolicy`)."""

    name: str
    before: Estimate
    after: Estimate
    difference: Estimate


class Untried(msgspec.Struct, frozen=True):
    """A model that would get a share of traffic for which it had no chance."""

    model: str
    share: float


class Quality(msgspec.Struct, frozen=True):
    """Mean reward of a call. `rewarded`: calls with one that count, `share` of those decided again; `elsewhere`: have
    one and were answered by another model than was decided on. `effective`: effective sample size, `largest`: weight of
    a call, `clipped`: calls whose weight was cut off at `weight_max`. `unsupported`: share of traffic that would go to
    models which had no chance then, by model in `untried`. `tells`: the data can tell; `why` not, in sentences."""

    rewarded: int
    share: float
    elsewhere: int
    effective: float
    largest: float
    clipped: int
    weight_max: float
    unsupported: float
    untried: tuple[Untried, ...]
    tells: bool
    why: tuple[str, ...]
    methods: tuple[Method, ...]
    source: str = "feedback"


class Changed(msgspec.Struct, frozen=True):
    """An entry of the configuration that the change creates, updates or deletes."""

    operation: str
    kind: str
    name: str


class Rerouted(msgspec.Struct, frozen=True):
    """The whole answer. `changes`: of the configuration; `notes`: what has to be known to read it."""

    changes: tuple[Changed, ...]
    decisions: Decisions
    figures: tuple[Figure, ...]
    quality: Quality
    notes: tuple[str, ...]
