"""Percentiles, rates and sums over calls. Pure. Percentiles are exact: nearest rank over every call that counts."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from interlock.control.live.window import Call
from interlock.ledger.sums import Asked
from interlock.types.slo import MET, MISSED, VERDICTS

RATE_S = 30
"""Seconds that rates are over: long enough to stand still, short enough to be of now."""
SETTLE_S = 1
"""A call is in the ledger about half a second after its end: rates end this long ago."""
STEP_S = 5
"""Seconds of one point of the charts."""
NS = 1_000_000_000


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of `count` durations in microseconds, by nearest rank; zeros without any."""

    count: int = 0
    p50_us: int = 0
    p95_us: int = 0
    p99_us: int = 0


class Kept(msgspec.Struct, frozen=True):
    """Of `calls` that were made with an objective: how many `met` it and how many `missed` it. Of the others it is not
    known: they failed or have no price, and were not over it until then."""

    calls: int = 0
    met: int = 0
    missed: int = 0

    @property
    def unknown(self) -> int:
        """Those of which it is not known."""
        return self.calls - self.met - self.missed


class Objectives(msgspec.Struct, frozen=True):
    """Of calls with objectives, all that each of them asked for (`outcome`), and one by one: time to the first byte,
    time to the end, cost; None where none of them asked for it."""

    outcome: Kept
    ttft: Kept | None = None
    latency: Kept | None = None
    cost: Kept | None = None


class Figures(msgspec.Struct, frozen=True):
    """Figures of some calls over the window; what is `_per_s` or `_per_h`, and watts, over the last `RATE_S` seconds.

    `failures`: calls not completed. `latency` is of completed calls, `first` (time to first token) of streamed ones.
    `watts` with their range, from energy that was measured or estimated by `methods`. Of the `recent` calls of the last
    `RATE_S` seconds, `unknown_energy` took energy that nobody knows, and `unpriced` cost what nobody named a price for.
    `objectives`: None where no call had any.
    """

    calls: int = 0
    refusals: int = 0
    failures: int = 0
    first: Spread = Spread()
    latency: Spread = Spread()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nusd: int = 0
    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    nusd_per_h: int = 0
    watts: float = 0.0
    low_watts: float = 0.0
    high_watts: float = 0.0
    methods: tuple[str, ...] = ()
    recent: int = 0
    unknown_energy: int = 0
    unpriced: int = 0
    objectives: Objectives | None = None

    @property
    def error_share(self) -> float:
        """Failed calls of all that were made, 0 to 1."""
        return self.failures / self.calls if self.calls else 0.0


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One step of the charts: when it begins (Unix seconds), and of the calls that ended in it: calls, failures and
    refusals a second, tokens a second, latency p50 and p95 in seconds, time to first token p50 (None: there was none).
    """

    at_s: int
    calls: float
    failures: float
    refusals: float
    tokens: float
    p50_s: float | None
    p95_s: float | None
    first_s: float | None


def spread(values: list[int]) -> Spread:
    """Exact percentiles, by nearest rank: the smallest value that so many percent are not above."""
    values.sort()
    count = len(values)
    if not count:
        return Spread()
    return Spread(count, *(values[-(-count * percent // 100) - 1] for percent in (50, 95, 99)))


def figures(calls: Iterable[Call], now_ns: int) -> Figures:
    """Of these calls, which are those of the window."""
    until_ns = now_ns - SETTLE_S * NS
    since_ns = until_ns - RATE_S * NS
    made = refusals = failures = prompt = completion = nusd = 0
    recent = tokens = recent_nusd = uj = low_uj = high_uj = unknown = unpriced = 0
    firsts: list[int] = []
    totals: list[int] = []
    methods: set[str] = set()
    asked: list[Asked] = []
    for call in calls:
        if call.refused:
            refusals += 1
            continue
        made += 1
        prompt += call.prompt_tokens
        completion += call.completion_tokens
        nusd += call.nusd
        if call.state == "completed":
            totals.append(call.total_us)
        else:
            failures += 1
        if call.first_us:
            firsts.append(call.first_us)
        if call.asked is not None:
            asked.append(call.asked)
        if since_ns < call.ended_ns <= until_ns:
            recent += 1
            tokens += call.prompt_tokens + call.completion_tokens
            recent_nusd += call.nusd
            unpriced += not call.priced
            if call.method:
                methods.add(call.method)
                uj, low_uj, high_uj = uj + call.uj, low_uj + call.low_uj, high_uj + call.high_uj
            else:
                unknown += 1
    watt = 1e6 * RATE_S
    return Figures(
        made, refusals, failures, spread(firsts), spread(totals), prompt, completion, nusd,
        recent / RATE_S, tokens / RATE_S, recent_nusd * 3600 // RATE_S,
        uj / watt, low_uj / watt, high_uj / watt, tuple(sorted(methods)), recent, unknown, unpriced, _objectives(asked),
    )  # fmt: skip


def _objectives(asked: Sequence[Asked]) -> Objectives | None:
    if not asked:
        return None
    return Objectives(
        _kept(each.outcome for each in asked) or Kept(),
        _kept(each.ttft for each in asked),
        _kept(each.latency for each in asked),
        _kept(each.cost for each in asked),
    )


def _kept(verdicts: Iterable[str]) -> Kept | None:
    """Of calls that asked for it, which is where there is a verdict; None where none did."""
    found = collections.Counter(verdicts)
    calls = found.total() - found[""]
    return Kept(calls, found[VERDICTS[MET]], found[VERDICTS[MISSED]]) if calls else None


def grouped(calls: Iterable[Call], key: Callable[[Call], str]) -> Mapping[str, Sequence[Call]]:
    """Calls by what `key` says of them."""
    out: dict[str, list[Call]] = {}
    for call in calls:
        out.setdefault(key(call), []).append(call)
    return out


def points(calls: Iterable[Call], now_ns: int, window_s: int) -> list[Point]:
    """The steps of the window that are over, oldest first; steps without calls too."""
    last = (now_ns // NS - SETTLE_S) // STEP_S
    first = last - window_s // STEP_S
    steps = grouped(calls, lambda call: str(call.ended_ns // NS // STEP_S))
    return [_point(step, steps.get(str(step), ())) for step in range(first, last)]


def _point(step: int, calls: Sequence[Call]) -> Point:
    made = [call for call in calls if not call.refused]
    latency = spread([call.total_us for call in made if call.state == "completed"])
    first = spread([call.first_us for call in made if call.first_us])
    return Point(
        step * STEP_S,
        len(made) / STEP_S,
        sum(call.failed for call in made) / STEP_S,
        (len(calls) - len(made)) / STEP_S,
        sum(call.prompt_tokens + call.completion_tokens for call in made) / STEP_S,
        latency.p50_us / 1e6 if latency.count else None,
        latency.p95_us / 1e6 if latency.count else None,
        first.p50_us / 1e6 if first.count else None,
    )
