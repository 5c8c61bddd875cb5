"""What entries add up to: by day, team, principal, source, model, label and alias. Pure; integers only: sums are exact.

A call counts once, at the source and model whose answer was given. What it took counts where it was taken: each step of
a cascade at its own source and model.

A measurement of energy comes after its call and takes the place of the estimate there: its entry adds the difference.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from interlock.types.slo import MET, VERDICTS
from interlock.types.usage import Energy


class Who(msgspec.Struct, frozen=True):
    """Of a leaf's `who`, what entries are looked up and summed by."""

    subject: str = ""
    team: str = ""
    principal: str = ""
    delegator: str = ""


class What(msgspec.Struct, frozen=True, rename={"request_class": "class"}):
    """Of a leaf's `what`."""

    model: str = ""
    request_class: str = ""
    alias: str = ""
    workload: str = ""
    recording: str = ""


class Where(msgspec.Struct, frozen=True):
    """Of a leaf's `where`."""

    name: str = ""
    model: str = ""
    version: str = ""


class Result(msgspec.Struct, frozen=True):
    """Of a leaf's `result`."""

    state: str = ""


class Work(msgspec.Struct, frozen=True):
    """Of a leaf's `work`: the keyed hash of a document's name, hex."""

    document: str = ""


class Tokens(msgspec.Struct, frozen=True):
    """A leaf's `tokens`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    origin: str = ""


class Money(msgspec.Struct, frozen=True):
    """Of a leaf's `cost`."""

    nusd: int = 0


class Joules(msgspec.Struct, frozen=True):
    """A leaf's `energy`: an estimate with its range, or (kind "energy") what was measured."""

    uj: int = 0
    low_uj: int = 0
    high_uj: int = 0
    method: str = ""
    ug_per_kwh: int = 0


class Step(msgspec.Struct, frozen=True):
    """Of a step of a leaf's `cascade`: where it ran, and what it took there."""

    source: str = ""
    model: str = ""
    tokens: Tokens = Tokens()
    cost: Money = Money()
    energy: Joules = Joules()


class Steps(msgspec.Struct, frozen=True):
    """Of a leaf's `cascade`: the steps that are over."""

    tried: tuple[Step, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """Of a leaf's `slo`: what became of each objective, and altogether ("met", "missed", "unknown"; "": not asked, or
    the call has no outcome)."""

    ttft: str = ""
    latency: str = ""
    cost: str = ""
    outcome: str = ""


class Charged(msgspec.Struct, frozen=True):
    """One of a leaf's `budgets`: what of which period a call was charged."""

    budget: str
    start: int
    charged: int


class Said(msgspec.Struct, frozen=True):
    """A leaf's `feedback`. `score_micro`: -1 without one."""

    id: str = ""
    thumb: str = ""
    score_micro: int = -1
    corrected: bool = False
    comment: bool = False
    reason: str = ""


class Leaf(msgspec.Struct, frozen=True):
    """What of a leaf entries are looked up and summed by."""

    tree: str
    at: int
    kind: str
    request: str = ""
    who: Who = Who()
    what: What = What()
    where: Where = Where()
    result: Result = Result()
    tokens: Tokens = Tokens()
    cost: Money = Money()
    energy: Joules = Joules()
    budgets: tuple[Charged, ...] = ()
    work: Work = Work()
    shadow_of: str = ""
    judge_of: str = ""
    challenger_of: str = ""
    feedback: Said = Said()
    cascade: Steps = Steps()
    slo: Asked | None = None

    @property
    def model(self) -> str:
        """The model that answered, else the one that was asked for."""
        return self.where.model or self.what.model

    @property
    def beside(self) -> str:
        """What it is that nobody asked for: "shadow", "judge" or "challenger"; "" for a call that somebody made."""
        if self.shadow_of:
            return "shadow"
        return "judge" if self.judge_of else "challenger" if self.challenger_of else ""


decode_leaf = msgspec.json.Decoder(Leaf).decode


class Key(NamedTuple):
    """What sums are kept by. `alias`: the name of the alias that the call went through, "" without one; only what is
    configured is an alias, so that there are no more of these than somebody has made."""

    day: date
    team_id: str
    principal_id: str
    source: str
    model: str
    request_class: str
    workload: str = ""
    alias: str = ""


class Sums(NamedTuple):
    """Sums over some entries. `calls` were made, `failures` of them not completed; `reserved_nusd`: the part of `nusd`
    where nobody knows what was used. Energy in microjoules, `measured_uj` a part of it; `co2e_ug` micrograms, without
    `unplaced_uj`, for whose place no factor is known. `steps`: of cascades, that ran here; they are parts of calls.
    `slo_calls`: the part of `calls` that had objectives; `slo_met`: of these, those known to have met all of them."""

    calls: int = 0
    refusals: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    nusd: int = 0
    reserved_nusd: int = 0
    uj: int = 0
    low_uj: int = 0
    high_uj: int = 0
    measured_uj: int = 0
    co2e_ug: int = 0
    unplaced_uj: int = 0
    steps: int = 0
    slo_calls: int = 0
    slo_met: int = 0

    def plus(self, other: Sums) -> Sums:
        """The sums over both."""
        return Sums(*[a + b for a, b in zip(self, other, strict=True)])


NOTHING = Sums()


def key_of(leaf: Leaf, zone: ZoneInfo) -> Key:
    """Where a call or a refusal counts: on the day of its admission in the tenant's time zone."""
    seconds = leaf.at // 1_000_000_000
    day = datetime.fromtimestamp(seconds, UTC).astimezone(zone).date()
    what, where = leaf.what, leaf.where
    team, principal = leaf.who.team, leaf.who.principal
    if leaf.beside:  # nobody asked for it: it is on the account of whoever declared the shadow or the judge
        team = principal = ""
    return Key(day, team, principal, where.name, leaf.model, label_of(leaf), what.workload, what.alias)


def label_of(leaf: Leaf) -> str:
    """The request class that a call counts under: one of its own for what nobody asked for."""
    if leaf.beside:
        return f"{leaf.beside}:{leaf.what.alias or leaf.model}"
    return leaf.what.request_class


def lines_of(leaf: Leaf, zone: ZoneInfo) -> list[tuple[Key, Sums]]:
    """What a call or a refusal adds, and where. The first line is the call's own, with what no step that is over took;
    one more for each such step of a cascade. All lines together are `sums_of`."""
    key = key_of(leaf, zone)
    whole, steps = _whole(leaf), [_taken(step) for step in leaf.cascade.tried]
    rest = _rest(leaf, whole, steps)
    if rest is None:
        return [(key, whole)]
    places = [key._replace(source=step.source, model=step.model) for step in leaf.cascade.tried]
    return [(key, rest), *zip(places, steps, strict=True)]


def sums_of(leaf: Leaf) -> Sums:
    """What a call or a refusal adds, wherever."""
    whole, steps = _whole(leaf), [_taken(step) for step in leaf.cascade.tried]
    rest = _rest(leaf, whole, steps)
    return whole if rest is None else _sum([rest, *steps])


def _whole(leaf: Leaf) -> Sums:
    """An entry by its own figures."""
    if leaf.kind == "refusal":
        return Sums(refusals=1)
    return _took(leaf.tokens, leaf.cost, leaf.energy)._replace(
        calls=1,
        failures=int(leaf.result.state != "completed"),
        slo_calls=int(leaf.slo is not None),
        slo_met=int(leaf.slo is not None and leaf.slo.outcome == VERDICTS[MET]),
    )


def _taken(step: Step) -> Sums:
    return _took(step.tokens, step.cost, step.energy)._replace(steps=1)


def _rest(leaf: Leaf, whole: Sums, steps: list[Sums]) -> Sums | None:
    """What a cascade's call took after its steps that are over: nothing, unless it ended within one. None without
    steps, and where these say more than the call: then nothing is counted apart."""
    if not steps:
        return None
    over = _sum(steps)
    uj, nusd = whole.uj - over.uj, whole.nusd - over.nusd
    rest = whole._replace(
        prompt_tokens=whole.prompt_tokens - over.prompt_tokens,
        cached_tokens=whole.cached_tokens - over.cached_tokens,
        completion_tokens=whole.completion_tokens - over.completion_tokens,
        nusd=nusd,
        reserved_nusd=nusd if leaf.tokens.origin == "reserved" else 0,
        uj=uj,
        low_uj=whole.low_uj - over.low_uj,
        high_uj=whole.high_uj - over.high_uj,
        # The factor of the call is the mean of all parts.
        co2e_ug=max(0, whole.co2e_ug - over.co2e_ug) if uj else 0,
        unplaced_uj=uj if whole.unplaced_uj else 0,
    )
    return rest if min(rest) >= 0 else None


def _sum(each: list[Sums]) -> Sums:
    total = NOTHING
    for sums in each:
        total = total.plus(sums)
    return total


def _took(tokens: Tokens, cost: Money, energy: Joules) -> Sums:
    return Sums(
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        nusd=cost.nusd,
        reserved_nusd=cost.nusd if tokens.origin == "reserved" else 0,
        uj=energy.uj,
        low_uj=energy.low_uj,
        high_uj=energy.high_uj,
        co2e_ug=_co2e_ug(energy.uj, energy.ug_per_kwh),
        unplaced_uj=0 if energy.ug_per_kwh else energy.uj,
    )


def measured(call: Leaf, leaf: Leaf) -> Sums:
    """What the measurement of a call adds to what the call has added."""
    uj, estimate = leaf.energy.uj, call.energy
    factor = estimate.ug_per_kwh
    return Sums(
        uj=uj - estimate.uj,
        low_uj=uj - estimate.low_uj,
        high_uj=uj - estimate.high_uj,
        measured_uj=uj,
        co2e_ug=_co2e_ug(uj, factor) - _co2e_ug(estimate.uj, factor),
        unplaced_uj=0 if factor else uj - estimate.uj,
    )


def _co2e_ug(uj: int, ug_per_kwh: int) -> int:
    return Energy(uj, uj, uj, "", ug_per_kwh).co2e_ug
