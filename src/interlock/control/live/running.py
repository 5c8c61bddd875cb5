"""Calls that run now, one by one: what nodes tell of them, until an entry of the ledger says how they ended.

Pure: instants are passed in (any monotonic clock, in seconds). A call whose end nobody tells is shown for a bounded
time, marked with what is known: its worker is gone, or its node is silent.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from interlock.control.live.states import HEARD_S
from interlock.control.live.window import SHADOW, Call
from interlock.types.running import RunningCall

if TYPE_CHECKING:
    from interlock.control.live.view import Names, Scope
    from interlock.storage.nodes import Told

ENDED_S = 10.0
"""How long a call that was seen running is shown after its end."""
KNOWN_MAX = 10_000
"""Calls that are followed at a time, of all tenants; more are left out."""


class RunningLine(msgspec.Struct, frozen=True):
    """A call that runs, or that ran a moment ago, by names.

    `state`: as `RunningCall`'s; or "unrecorded": it has ended and its entry is on its way; "lost": its worker is gone;
    "silent": its node is not heard of; or, when `ended`, how it ended, by its entry, with `code`. `since`: when it
    came. `age_ms`: for how long it has run, or ran. `tokens`: of its answer so far, -1 while nobody knows.
    """

    request: str
    tenant: str
    who: str
    team: str
    since: datetime.datetime
    age_ms: int
    state: str
    why: str
    asked: str
    model: str
    source: str
    tokens: int
    events: int
    attempts: int
    waited_ms: int
    ended: bool = False
    code: str = ""


class Known(NamedTuple):
    """A call that was told of. `began_s`: when it came. `missing_s`: since when it is not told of, "" `state` while it
    is. `ended`: its entry, and when that was seen."""

    call: RunningCall
    node: str
    epoch: str
    began_s: float
    state: str = ""
    missing_s: float = 0.0
    ended: Call | None = None


class Running:
    """What runs, as one feed knows it."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._known: dict[str, Known] = {}
        self._counts: dict[str, int] = {}

    def clear(self) -> None:
        """Nobody watches: forget all of it."""
        self._known.clear()
        self._counts.clear()

    def note(self, told: Sequence[Told], entry: Callable[[str, str], Call | None], now_s: float) -> None:
        """Take what nodes told at this instant. `entry(tenant id, request)`: of a call that is in the ledger."""
        heard = {each.node: each for each in told if each.seconds_ago < HEARD_S and each.workers is not None}
        fresh: dict[str, Known] = {}
        self._counts = {}
        for node, each in heard.items():
            for worker in each.workers or ():
                for tenant_id, count in worker.counts.items():
                    self._counts[tenant_id] = self._counts.get(tenant_id, 0) + count
                for call in worker.calls[: KNOWN_MAX - len(fresh)]:
                    known = Known(call, node, worker.epoch, now_s - each.seconds_ago - call.age_ms / 1000)
                    before = self._known.get(call.request)
                    if before is not None:
                        known = known._replace(began_s=before.began_s)  # the two clocks do not make it jump
                    fresh[call.request] = known
        for request, known in self._known.items():
            if request not in fresh and len(fresh) < KNOWN_MAX:
                left = self._left(known, heard.get(known.node), now_s)
                if left is not None:
                    fresh[request] = left
        self._known = {r: self._looked_up(k, entry, now_s) for r, k in fresh.items()}

    def _left(self, known: Known, told: Told | None, now_s: float) -> Known | None:
        """A call that was told of before and is not now; None when it is to be shown no longer."""
        if known.missing_s and now_s - known.missing_s >= (ENDED_S if known.ended else self._silent_s):
            return None
        missing_s = known.missing_s or now_s
        if known.ended is not None:
            return known._replace(missing_s=missing_s)
        if told is None:
            return known._replace(state="silent", missing_s=missing_s)
        worker = next((each for each in told.workers or () if each.epoch == known.epoch), None)
        if worker is None:
            return known._replace(state="lost", missing_s=missing_s)
        tenant_id = known.call.tenant_id
        if sum(call.tenant_id == tenant_id for call in worker.calls) < worker.counts.get(tenant_id, 0):
            return None  # there are more than it tells of: nothing is known of this one
        return known._replace(state="unrecorded", missing_s=missing_s)

    def _looked_up(self, known: Known, entry: Callable[[str, str], Call | None], now_s: float) -> Known:
        if known.ended is not None:
            return known
        ended = entry(known.call.tenant_id, known.call.request)
        return known if ended is None else known._replace(ended=ended, missing_s=now_s)

    def of(self, scope: Scope, centers: Mapping[str, str]) -> list[Known]:
        """The calls that a scope is of.

        INVARIANT: of a scope with a tenant, this tenant's only.
        """
        return [known for known in self._of(scope) if _matches(known.call, scope, centers)]

    def _of(self, scope: Scope) -> Iterator[Known]:
        return (each for each in self._known.values() if scope.tenant_id in ("", each.call.tenant_id))

    def count(self, scope: Scope, shown: Sequence[Known]) -> int:
        """How many run: also those that nodes count and do not tell of, unless figures are narrowed."""
        seen = sum(not each.state and each.ended is None for each in shown)
        if scope.field:
            return seen
        return max(seen, sum(n for t, n in self._counts.items() if scope.tenant_id in ("", t)))


def _matches(call: RunningCall, scope: Scope, centers: Mapping[str, str]) -> bool:
    if scope.field == "cost_center":
        return centers.get(call.team_id, "") == scope.value
    if scope.field == "model":
        return scope.value in (call.model, call.asked)
    return not scope.field or call.source == scope.value


def lines(known: Sequence[Known], order: str, names: Names, now: tuple[float, int], most: int) -> list[RunningLine]:
    """At most `most` lines: those that run, in this order, then those that do not any more. `now`: on the clock of
    `Running`, and in Unix nanoseconds."""
    now_s, now_ns = now

    def key(each: Known) -> tuple[bool, float, str]:
        return each.ended is not None, each.began_s if order == "longest" else -each.began_s, each.call.request

    shown = sorted(known, key=key)[:most]
    of = names.of({t for each in shown for t in (each.call.tenant_id, *_who(each.call)) if t and t != SHADOW})
    return [_line(each, of, now_s, now_ns) for each in shown]


def _who(call: RunningCall) -> tuple[str, str]:
    return (SHADOW, SHADOW) if call.shadow else (call.team_id, call.principal_id)


def _line(known: Known, names: Mapping[str, str], now_s: float, now_ns: int) -> RunningLine:
    call, ended = known.call, known.ended
    team, who = _who(call)
    until_s = known.missing_s or now_s
    age_ms = ended.total_us // 1000 if ended is not None else max(call.age_ms, int((until_s - known.began_s) * 1000))
    return RunningLine(
        call.request,
        names.get(call.tenant_id, call.tenant_id),
        names.get(who, who),
        names.get(team, team),
        datetime.datetime.fromtimestamp(now_ns / 1e9 - (now_s - known.began_s), datetime.UTC).replace(microsecond=0),
        age_ms,
        ended.state if ended is not None else known.state or call.state,
        call.why,
        call.asked,
        (ended.model if ended is not None else "") or call.model,
        (ended.source if ended is not None else "") or call.source,
        ended.completion_tokens if ended is not None else call.pieces,
        call.events,
        max(call.attempts, ended.attempts if ended is not None else 0),
        call.waited_ms,
        ended is not None,
        ended.code if ended is not None else "",
    )
