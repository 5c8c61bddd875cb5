"""Service level objectives of calls: what is asked, what was predicted, and what became of it. Integers only."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

MET, UNKNOWN, MISSED = range(3)
"""What a prediction says of an offer, or a measurement of a call: in this order offers stand."""
VERDICTS = ("met", "unknown", "missed")
SLO_MS_MAX = 86_400_000
"""The longest time that may be asked for: a day."""
SLO_USD_MAX = 1_000_000
WEIGHT_MAX = 1_000_000
"""The largest weight that may be given."""
NOT_KNOWN = -1
UNASKED = -1


class Slo(msgspec.Struct, frozen=True, array_like=True):
    """What a call asks of where it goes. `ttft_ms`: time to its first byte; `latency_ms`: to its end, both from 1 on
    and 0 where nothing is asked. `cost_nusd`: what it may cost, nano-USD; `UNASKED`: anything. `strict`: where it is
    predicted to be missed everywhere, the call is refused."""

    ttft_ms: int = 0
    latency_ms: int = 0
    cost_nusd: int = UNASKED
    strict: bool = False


class Pace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How quickly an offer answers, as moving means; `NOT_KNOWN` where nothing was seen.

    Of streams: `first_us` to their first byte, then `token_us` per token. `tokens`: of an answer. `whole_us`: of an
    answer that is not streamed, in all.
    """

    first_us: int = NOT_KNOWN
    token_us: int = NOT_KNOWN
    tokens: int = NOT_KNOWN
    whole_us: int = NOT_KNOWN


class Foreseen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a call is predicted to take at one candidate, `NOT_KNOWN` where that cannot be said, and whether that meets
    what it asks (`MET`, `UNKNOWN`, `MISSED`). `pace`: what it was made from besides the record's other figures."""

    verdict: int
    ttft_us: int = NOT_KNOWN
    latency_us: int = NOT_KNOWN
    cost_nusd: int = NOT_KNOWN
    pace: Pace | None = None


def tighter(one: Slo | None, other: Slo | None) -> Slo | None:
    """The objective that holds where both do: of each figure the smaller one; strict where either is."""
    if one is None or other is None:
        return one or other
    return Slo(
        min(one.ttft_ms or other.ttft_ms, other.ttft_ms or one.ttft_ms),
        min(one.latency_ms or other.latency_ms, other.latency_ms or one.latency_ms),
        min((cost for cost in (one.cost_nusd, other.cost_nusd) if cost != UNASKED), default=UNASKED),
        one.strict or other.strict,
    )


def measured(slo: Slo, *, completed: bool, first_us: int, total_us: int, cost_nusd: int) -> dict[str, int]:
    """Of each figure that is asked ("ttft", "latency", "cost"), whether a call that ended met it.

    `first_us`: to its first byte, 0: none came. `total_us`: until it ended. `cost_nusd`: `NOT_KNOWN` where it had no
    price. What is over its bound is missed, however the call ended; what is not may be said only of what came to be.
    """
    out = {}
    if slo.ttft_ms:
        bound_us = slo.ttft_ms * 1000
        out["ttft"] = _verdict(first_us or total_us, bound_us, known=first_us > 0)
    if slo.latency_ms:
        out["latency"] = _verdict(total_us, slo.latency_ms * 1000, known=completed)
    if slo.cost_nusd != UNASKED:
        out["cost"] = _verdict(cost_nusd, slo.cost_nusd, known=completed and cost_nusd != NOT_KNOWN)
    return out


def altogether(verdicts: Iterable[int]) -> int:
    """Of several verdicts: missed where one is, else unknown where one is."""
    return MISSED if MISSED in (found := set(verdicts)) else max(found, default=UNKNOWN)


def attained_permille(met: int, calls: int) -> int:
    """How many of so many calls met what they asked, rounded down: 1000 is said of all of them only."""
    return 1000 * met // calls if calls else 0


def _verdict(value: int, bound: int, *, known: bool) -> int:
    if value > bound:
        return MISSED
    return MET if known else UNKNOWN
