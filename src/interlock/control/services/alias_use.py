"""Who uses an alias, and how a candidate does beside it: reports over the ledger's entries, without contents."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.base import Names
from interlock.settings import Settings
from interlock.storage import alias_use
from interlock.types.record import Comparison

USERS_MAX = 10_000
CALLS_MAX = 50_000
"""Newest calls of a period that are compared; the report says when there were more."""
Z95 = 1.959964
MASK = 0xFFFF_FFFF
SPREAD = 2_654_435_769
"""2**32 divided by the golden ratio: its multiples, modulo 2**32, are spread evenly (Weyl's sequence)."""


class AliasUser(msgspec.Struct, frozen=True):
    """Whose calls went through an alias. `credential`: the id of the API key, or of the issuer."""

    team: str
    principal: str
    credential: str
    calls: int
    last: datetime.datetime


class Share(msgspec.Struct, frozen=True):
    """`count` of `of`, in thousandths, and the bounds of its 95 % confidence interval (Wilson)."""

    count: int
    of: int
    milli: int
    low_milli: int
    high_milli: int


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of what `of` calls took, in milliseconds; null when there is none."""

    of: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Arm(msgspec.Struct, frozen=True):
    """One way through the alias. `arm`: "" (its targets; no canary was running), "stable", "canary", "off", "barred" or
    "shadow". Tokens, cost and energy are means of a call that was completed."""

    arm: str
    model: str
    calls: int
    failed: Share
    first_byte: Spread
    total: Spread
    prompt_tokens: float
    completion_tokens: float
    nusd: float
    uj: float
    total_nusd: int
    total_uj: int
    finish: dict[str, int]


class Agreement(msgspec.Struct, frozen=True):
    """How a shadow's answers compare with those that callers got, over the calls where both were completed and could be
    read. `json`: of the first answers that were JSON, how many of the shadow's were; `json_equal`: of these, how many
    had the same value. `refused_*`: the model declined. Lengths are means, in characters."""

    model: str
    compared: int
    equal: Share
    finish_equal: Share
    json: Share
    json_equal: Share
    refused_first: Share
    refused: Share
    similarity_mean_milli: int
    similarity_low_milli: int
    similarity_high_milli: int
    first_chars: float
    chars: float


class CompareReport(msgspec.Struct, frozen=True):
    """An alias over a period. `complete` is false when there were more calls than are looked at: the newest count; or,
    when `sampled` is not 0, those among so many of the period's `entries`, spread evenly over it."""

    alias: str
    since: datetime.datetime
    until: datetime.datetime
    complete: bool
    arms: list[Arm]
    agreement: list[Agreement]
    sampled: int = 0
    entries: int = 0


class _What(msgspec.Struct):
    stream: bool = False
    arm: str = ""
    model: str = ""


class _Where(msgspec.Struct):
    model: str = ""


class _Result(msgspec.Struct):
    state: str = ""
    finish: tuple[str, ...] = ()


class _Times(msgspec.Struct):
    first_us: int = 0
    total_us: int = 0


class _Tokens(msgspec.Struct):
    prompt: int = 0
    completion: int = 0


class _Cost(msgspec.Struct):
    nusd: int = 0


class _Energy(msgspec.Struct):
    uj: int = 0


class _Leaf(msgspec.Struct):
    what: _What
    where: _Where
    result: _Result
    times: _Times
    tokens: _Tokens
    cost: _Cost
    energy: _Energy
    compared: dict[str, int | bool] | None = None


_decode = msgspec.json.Decoder(_Leaf).decode


def users(conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int) -> list[AliasUser]:
    """Who called through the alias within the period."""
    names = Names(conn)
    found = alias_use.users(conn, tenant_id, alias, since_ns, until_ns, USERS_MAX)
    names.learn_all(id_ for each in found for id_ in (each.team_id, each.principal_id))
    return [
        AliasUser(
            names.of(each.team_id) if each.team_id else "",
            names.of(each.principal_id),
            each.credential_id,
            each.calls,
            instant(each.last_ns),
        )
        for each in found
    ]


def compare(conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int) -> CompareReport:
    """How the ways through the alias did within the period."""
    found = alias_use.leaves(conn, tenant_id, alias, since_ns, until_ns, CALLS_MAX + 1)
    return report(alias, since_ns, until_ns, found[:CALLS_MAX], complete=len(found) <= CALLS_MAX)


def sample(
    conn: Connection[Any], tenant_id: str, alias: str, since_ns: int, until_ns: int, settings: Settings
) -> CompareReport:
    """`compare` within a bounded time, whatever the length of the period: when it has more than
    `alias_compare_entries_max` entries, of so many, spread evenly over it, and of at most `alias_compare_calls_max`
    calls through the alias among these."""
    most, calls_max = settings.alias_compare_entries_max, settings.alias_compare_calls_max
    first, behind = alias_use.span(conn, tenant_id, since_ns, until_ns)
    count = behind - first
    if count <= most:
        return compare(conn, tenant_id, alias, since_ns, until_ns)
    looked = places(first, count, most)
    found = alias_use.leaves_at(conn, tenant_id, alias, since_ns, until_ns, looked)
    if len(found) > calls_max:
        found = [found[n] for n in places(0, len(found), calls_max)]
    made = report(alias, since_ns, until_ns, found, complete=False)
    return msgspec.structs.replace(made, sampled=len(looked), entries=count)


def places(first: int, count: int, some: int) -> list[int]:
    """`some` (at most `count`) of the `count` places from `first` on: one of each of as many equal parts, at another
    point of each, so that traffic with a rhythm is not met at one beat only. The same for the same arguments."""
    edges = [n * count // some for n in range(some + 1)]
    return [first + at + (n * SPREAD & MASK) * (to - at) // (MASK + 1) for n, (at, to) in enumerate(pairwise(edges))]


def report(alias: str, since_ns: int, until_ns: int, leaves: Iterable[bytes], *, complete: bool) -> CompareReport:
    """The report of these entries. Pure."""
    arms: dict[tuple[str, str], list[_Leaf]] = {}
    compared: dict[str, list[Comparison]] = {}
    for leaf in map(_decode, leaves):
        model = leaf.where.model or leaf.what.model
        arms.setdefault((leaf.what.arm, model), []).append(leaf)
        if leaf.compared is not None:
            compared.setdefault(model, []).append(Comparison(**leaf.compared))  # type: ignore[arg-type]
    return CompareReport(
        alias,
        instant(since_ns),
        instant(until_ns),
        complete,
        [_arm(arm, model, found) for (arm, model), found in sorted(arms.items())],
        [_agreement(model, found) for model, found in sorted(compared.items())],
    )


def instant(ns: int) -> datetime.datetime:
    """Unix nanoseconds as a time."""
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)


def share(count: int, of: int) -> Share:
    """A share with its 95 % interval (Wilson's, without continuity correction); of nothing it may be anything."""
    if not of:
        return Share(0, 0, 0, 0, 1000)
    p, z2 = count / of, Z95 * Z95
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = Z95 / (1 + z2 / of) * math.sqrt(p * (1 - p) / of + z2 / (4 * of * of))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Share(count, of, round(1000 * p), math.floor(1000 * low), math.ceil(1000 * high))


def spread(us: Sequence[int]) -> Spread:
    """Percentiles (nearest rank) of times in microseconds."""
    ranked = sorted(us)

    def at(percent: int) -> float | None:
        return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)] / 1000 if ranked else None

    return Spread(len(ranked), at(50), at(95), at(99))


def _arm(arm: str, model: str, found: list[_Leaf]) -> Arm:
    done = [leaf for leaf in found if leaf.result.state == "completed"]
    failed = sum(leaf.result.state in ("failed", "interrupted") for leaf in found)
    return Arm(
        arm,
        model,
        len(found),
        share(failed, len(found)),
        spread([leaf.times.first_us for leaf in done if leaf.what.stream]),
        spread([leaf.times.total_us for leaf in done]),
        _mean([leaf.tokens.prompt for leaf in done]),
        _mean([leaf.tokens.completion for leaf in done]),
        _mean([leaf.cost.nusd for leaf in done]),
        _mean([leaf.energy.uj for leaf in done]),
        sum(leaf.cost.nusd for leaf in found),
        sum(leaf.energy.uj for leaf in found),
        dict(sorted(Counter(reason or "none" for leaf in done for reason in leaf.result.finish).items())),
    )


def _agreement(model: str, found: list[Comparison]) -> Agreement:
    count = len(found)
    mean = sum(each.similarity_milli for each in found) / count
    variance = sum((each.similarity_milli - mean) ** 2 for each in found) / (count - 1) if count > 1 else 250_000.0
    half = Z95 * math.sqrt(variance / count)
    first_json = [each for each in found if each.first_json]
    both = [each for each in first_json if each.json]
    return Agreement(
        model,
        count,
        share(sum(each.equal for each in found), count),
        share(sum(each.finish_equal for each in found), count),
        share(len(both), len(first_json)),
        share(sum(each.json_equal for each in both), len(both)),
        share(sum(each.first_refused for each in found), count),
        share(sum(each.refused for each in found), count),
        round(mean),
        max(0, math.floor(mean - half)),
        min(1000, math.ceil(mean + half)),
        _mean([each.first_chars for each in found]),
        _mean([each.chars for each in found]),
    )


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0
