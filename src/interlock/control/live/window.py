"""The calls of the last minutes, of one tenant: bounded in time and number."""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Iterator

import msgspec

from interlock.ledger import sums
from interlock.types.slo import UNASKED, UNKNOWN, VERDICTS

CALL_BYTES = 800
"""Memory of a call with its place in the window, without the text that is its own (measured: see tests)."""
FINISH_CHARS = 60
SHADOW = "(shadow)"
"""Stands for team and caller of a shadow, a challenger or a judge: nobody asked for it."""


class Call(msgspec.Struct, gc=False):
    """A call or a refusal. Instants in Unix nanoseconds, durations in microseconds, energy in microjoules.

    `ended_ns`: admission and all that it took. `first_us`: until the first byte of a stream, 0 for whole answers.
    `how`: how its source was found, in a few words. `priced`: somebody named its price.
    Its energy changes when a measurement takes the estimate's place.
    """

    ended_ns: int
    request: str
    refused: bool
    team: str
    principal: str
    source: str
    model: str
    state: str
    code: str
    how: str
    first_us: int
    total_us: int
    prompt_tokens: int
    completion_tokens: int
    nusd: int
    uj: int
    low_uj: int
    high_uj: int
    method: str
    priced: bool
    shadow: bool
    attempts: int = 0
    finish: str = ""
    """Why its source says that it ended; of several choices, all reasons."""
    streamed: bool = False
    """Text of a stream was forwarded."""
    reserved: bool = False
    """Nobody told what it used."""
    declined: bool | None = None
    """Of a shadow's answer that was compared: the model declined."""
    agreed: bool | None = None
    """Likewise: it was the same as the caller's."""
    asked: sums.Asked | None = None
    """What became of its objectives; None: it had none. Shared by all calls of which the same can be said."""

    @property
    def failed(self) -> bool:
        """Whether it was made and not completed, as usage reports count it."""
        return not self.refused and self.state != "completed"


class _What(sums.What, frozen=True):
    mode: str = ""
    arm: str = ""
    stream: bool = False


class _Where(sums.Where, frozen=True):
    attempts: int = 0
    overflow: bool = False


class _Result(sums.Result, frozen=True):
    code: str = ""
    finish: tuple[str, ...] = ()
    chunks: int = 0


class _Compared(msgspec.Struct, frozen=True):
    equal: bool = False
    refused: bool = False


class _Slo(sums.Asked, frozen=True):
    ttft_ms: int = 0
    latency_ms: int = 0
    cost_nusd: int = UNASKED


class _Money(sums.Money, frozen=True):
    price: str = ""


class _Times(msgspec.Struct, frozen=True):
    first_us: int = 0
    total_us: int = 0


class _Leaf(sums.Leaf, frozen=True, kw_only=True):
    what: _What = _What()
    where: _Where = _Where()
    result: _Result = _Result()
    cost: _Money = _Money()
    times: _Times = _Times()
    compared: _Compared | None = None
    slo: _Slo | None = None


_decode = msgspec.json.Decoder(_Leaf).decode


class Window:
    """Calls in the order of the tree; the oldest go when they are too many or too old."""

    def __init__(self, calls_max: int, window_s: int) -> None:
        self._calls: collections.deque[Call] = collections.deque()
        self._by_request: dict[str, Call] = {}
        self._calls_max = calls_max
        self._window_ns = window_s * 1_000_000_000
        self.dropped_ns = 0
        """When the newest call ended that had to go although it was not old: figures begin there."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def add(self, leaf: bytes) -> None:
        """Take an entry: a call, a refusal, or a measurement of a call that is here; any other is left out."""
        entry = _decode(leaf)
        if entry.kind == "energy":
            self._measured(entry)
        elif entry.kind in ("call", "refusal"):
            self._keep(_call(entry))

    def newest(self, count: int) -> list[Call]:
        """At most `count` calls, the last of the tree first."""
        last = len(self._calls)
        return [self._calls[last - 1 - n] for n in range(min(count, last))]

    def find(self, request: str) -> Call | None:
        """The call or refusal with this request id, while it is kept."""
        return self._by_request.get(request)

    def prune(self, now_ns: int) -> None:
        """Drop what is too old."""
        oldest_ns = now_ns - self._window_ns
        while self._calls and self._calls[0].ended_ns < oldest_ns:
            self._drop()
        if self.dropped_ns < oldest_ns:
            self.dropped_ns = 0

    def give_up_oldest(self) -> None:
        """Drop the oldest call, although it is not old."""
        self.dropped_ns = max(self.dropped_ns, self._calls[0].ended_ns)
        self._drop()

    def _keep(self, call: Call) -> None:
        self._calls.append(call)
        self._by_request[call.request] = call
        self.bytes += _bytes(call)
        if len(self._calls) > self._calls_max:
            self.give_up_oldest()

    def _measured(self, entry: _Leaf) -> None:
        call = self._by_request.get(entry.request)
        if call is not None:
            call.uj = call.low_uj = call.high_uj = entry.energy.uj
            call.method = sys.intern(entry.energy.method)

    def _drop(self) -> None:
        call = self._calls.popleft()
        self.bytes -= _bytes(call)
        if self._by_request.get(call.request) is call:
            del self._by_request[call.request]


def _bytes(call: Call) -> int:
    return CALL_BYTES + len(call.request)


def _call(entry: _Leaf) -> Call:
    shadow = bool(entry.beside)
    name = sys.intern  # the same few names in every call
    return Call(
        ended_ns=entry.at + entry.times.total_us * 1000,
        request=entry.request,
        refused=entry.kind == "refusal",
        team=SHADOW if shadow else name(entry.who.team),
        principal=SHADOW if shadow else name(entry.who.principal),
        source=name(entry.where.name),
        model=name(entry.model or entry.what.alias),
        state=name(entry.result.state),
        code=name(entry.result.code),
        how=name(_how(entry)),
        first_us=entry.times.first_us if entry.what.stream else 0,
        total_us=entry.times.total_us,
        prompt_tokens=entry.tokens.prompt,
        completion_tokens=entry.tokens.completion,
        nusd=entry.cost.nusd,
        uj=entry.energy.uj,
        low_uj=entry.energy.low_uj,
        high_uj=entry.energy.high_uj,
        method=name(entry.energy.method),
        priced=entry.cost.price not in ("", "none"),
        shadow=shadow,
        attempts=entry.where.attempts,
        finish=name(" ".join(sorted(set(entry.result.finish)))[:FINISH_CHARS]),
        streamed=entry.what.stream and entry.result.chunks > 0,
        reserved=entry.tokens.origin == "reserved",
        declined=entry.compared.refused if entry.compared is not None else None,
        agreed=entry.compared.equal if entry.compared is not None else None,
        asked=None if entry.slo is None else _asked(entry.slo),
    )


def _asked(slo: _Slo) -> sums.Asked:
    """Of a call that was interrupted nothing was said: it is not known."""
    unknown = VERDICTS[UNKNOWN]
    return _shared(
        slo.ttft or (unknown if slo.ttft_ms else ""),
        slo.latency or (unknown if slo.latency_ms else ""),
        slo.cost or (unknown if slo.cost_nusd != UNASKED else ""),
        slo.outcome or unknown,
    )


@functools.lru_cache(maxsize=512)
def _shared(ttft: str, latency: str, cost: str, outcome: str) -> sums.Asked:
    """The one that stands for all of the same: there are few, and a window has many calls."""
    return sums.Asked(ttft, latency, cost, outcome)


def _how(entry: _Leaf) -> str:
    """How its source was found: what the entry says of it. The decision itself is on the call's page."""
    what = entry.what
    if what.alias:
        words = f"alias {what.alias}"
    elif what.mode:
        words = f"chosen: {what.mode}"
    else:
        words = "asked for by name"
    if what.arm:
        words += f", {what.arm}"
    if entry.beside:
        words += f", {entry.beside}"
    if entry.where.overflow:
        words += ", overflow"
    if entry.where.attempts > 1:
        words += f", attempt {entry.where.attempts}"
    return words
