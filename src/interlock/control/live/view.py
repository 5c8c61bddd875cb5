"""What the live view shows, and how it is put together from windows: pure but for the names, which are passed in."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from interlock.control.live.figures import Figures, Point, figures, points
from interlock.control.live.quality import QualityRow, Score, Verdict, quality
from interlock.control.live.running import RunningLine
from interlock.control.live.states import SourceLine
from interlock.control.live.window import SHADOW, Call, Window
from interlock.errors import BadRequest

BY = ("source", "model", "team", "cost_center", "principal", "tenant")
"""What the table can be by; by tenant only over all tenants."""
FILTERS = ("source", "model", "cost_center")
"""What figures can be narrowed to."""
ORDERS = ("newest", "longest")
"""Of the calls that run: those that came last first, or those that have run for longest."""
ROWS_MAX = 50
LINES = 20
NS = 1_000_000_000


class Scope(NamedTuple):
    """Whose figures, and what of them may be seen. `tenant_id` "": all tenants. `sources`: "*" all sources, "" none,
    else the id of the tenant whose own are shown. `calls`: whether single calls are shown. `order`: of those that
    run."""

    tenant_id: str
    by: str
    field: str = ""
    value: str = ""
    sources: str = ""
    calls: bool = False
    order: str = ORDERS[0]

    def checked(self) -> Scope:
        """This scope. Raises BadRequest when there is no such column."""
        if self.by not in BY or (self.by == "tenant" and self.tenant_id):
            raise BadRequest(f"by is one of {', '.join(BY)}; tenant only over all tenants", param="by")
        if self.order not in ORDERS:
            raise BadRequest(f"requests are in the order {' or '.join(ORDERS)}", param="order")
        if self.field and self.field not in FILTERS:
            raise BadRequest(f"figures are narrowed by {', '.join(FILTERS)}", param=self.field)
        return self


class Row(msgspec.Struct, frozen=True):
    """A line of the table. `name`: "" for calls that have none. `tenant`: its name, "" where tenants are together.
    `quality_micro`: what the tenant's router expects of a model, in millionths of [0, 1]; null: nothing is learned."""

    name: str
    tenant: str
    figures: Figures
    quality_micro: int | None = None


class Line(msgspec.Struct, frozen=True):
    """One of the newest calls, by names. `how`: how its source was found. Durations in microseconds."""

    at: datetime.datetime
    tenant: str
    request: str
    kind: str
    who: str
    team: str
    model: str
    source: str
    state: str
    code: str
    how: str
    first_us: int
    total_us: int
    tokens: int
    nusd: int
    uj: int


class View(msgspec.Struct, frozen=True):
    """Everything of one moment. `since_s`: how far back the figures go, `window_s` unless there were too many calls.
    `more`: rows that were left out. `failing`: why figures stand still, or ""."""

    at: datetime.datetime
    tenant: str
    by: str
    window_s: int
    since_s: int
    total: Figures
    rows: list[Row]
    more: int
    points: list[Point]
    sources: list[SourceLine] | None
    calls: list[Line] | None
    failing: str = ""
    running: list[RunningLine] | None = None
    running_count: int = 0
    """How many run, whether or not they are in `running`."""
    quality: list[QualityRow] = []
    verdicts: list[Verdict] = []
    """Of aliases with a canary."""
    scores: list[Score] | None = None
    """By model and task; None where nobody knows any."""

    @property
    def looked_at(self) -> set[str]:
        """Names of the tenants whose single calls are in it."""
        return {line.tenant for each in (self.calls, self.running) for line in each or ()}


class Names(NamedTuple):
    """`of(ids)`: names of tenants, teams and principals. `centers`: cost centres by team id."""

    of: Callable[[set[str]], Mapping[str, str]]
    centers: Mapping[str, str]


def counted(
    windows: Mapping[str, Window], scope: Scope, centers: Mapping[str, str], since_ns: int
) -> dict[str, list[Call]]:
    """The calls that a scope's figures are of, by tenant.

    INVARIANT: of a scope with a tenant, this tenant's only.
    """
    tenants = [scope.tenant_id] if scope.tenant_id else list(windows)
    out: dict[str, list[Call]] = {}
    for tenant_id in tenants:
        window = windows.get(tenant_id)
        if window is None:
            continue
        calls = [call for call in window if call.ended_ns >= since_ns]
        if scope.field == "cost_center":
            calls = [call for call in calls if centers.get(call.team, "") == scope.value]
        elif scope.field:
            calls = [call for call in calls if getattr(call, scope.field) == scope.value]
        if calls:
            out[tenant_id] = calls
    return out


class Totals(NamedTuple):
    """What scopes with other tables share."""

    calls: dict[str, list[Call]]
    total: Figures
    points: list[Point]
    quality: list[QualityRow]


def totals(calls: dict[str, list[Call]], now_ns: int, window_s: int) -> Totals:
    """Figures and chart of these calls."""
    together = [call for each in calls.values() for call in each]
    return Totals(calls, figures(together, now_ns), points(together, now_ns, window_s), quality(together))


def rows(calls: Mapping[str, Sequence[Call]], scope: Scope, names: Names, now_ns: int) -> tuple[list[Row], int]:
    """The table, most calls first, and how many lines were left out. Teams, callers and cost centres of several
    tenants are apart, as their names say nothing across tenants."""
    groups: dict[tuple[str, str], list[Call]] = {}
    together = scope.by in ("source", "model") and not scope.tenant_id
    for tenant_id, each in calls.items():
        for call in each:
            key = ("" if together else tenant_id, _key(call, tenant_id, scope.by, names.centers))
            groups.setdefault(key, []).append(call)
    largest = sorted(groups, key=lambda key: (-len(groups[key]), key))[:ROWS_MAX]
    known = names.of({text for key in largest for text in key if text})
    out = [
        Row(known.get(name, name), known.get(tenant_id, tenant_id), figures(groups[tenant_id, name], now_ns))
        for tenant_id, name in largest
    ]
    return out, len(groups) - len(largest)


def judged(rows: Sequence[Row], qualities: Mapping[str, int]) -> list[Row]:
    """Lines of models with what the router expects of each."""
    return [msgspec.structs.replace(row, quality_micro=qualities.get(row.name)) for row in rows]


def _key(call: Call, tenant_id: str, by: str, centers: Mapping[str, str]) -> str:
    if by == "tenant":
        return tenant_id
    if by == "cost_center":
        return SHADOW if call.shadow else centers.get(call.team, "")
    return str(getattr(call, by))


def newest(calls: Mapping[str, Sequence[Call]], names: Names) -> list[Line]:
    """The newest of these calls, the last first."""
    found: list[tuple[int, str, Call]] = []
    for tenant_id, each in calls.items():
        found += [(call.ended_ns, tenant_id, call) for call in each[-LINES:]]
    found.sort(key=lambda each: -each[0])
    del found[LINES:]
    known = names.of({text for _, t, call in found for text in (t, call.team, call.principal) if text})
    return [
        Line(
            datetime.datetime.fromtimestamp(call.ended_ns / NS, datetime.UTC),
            known.get(tenant_id, tenant_id),
            call.request,
            "refusal" if call.refused else "call",
            known.get(call.principal, call.principal),
            known.get(call.team, call.team),
            call.model,
            call.source,
            call.state,
            call.code,
            call.how,
            call.first_us,
            call.total_us,
            call.prompt_tokens + call.completion_tokens,
            call.nusd,
            call.uj,
        )
        for _, tenant_id, call in found
    ]
