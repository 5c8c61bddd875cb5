"""Quality of answers per model, department and task: a number with its interval, and where it comes from.

There are three things that a report can be made of, and it says which (`basis`):

- `feedback`: what callers said of the calls of some days, by anything that usage is reported by;
- `state`: what the router expects of each model in each task, learned and borrowed from what is like it;
- `outcomes`: what was seen, in the outcomes that the learner holds: the only one by department and task together.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec
from psycopg import Connection

from interlock.control.services.base import Names
from interlock.control.services.router import State, shown
from interlock.control.services.usage import COLUMNS, Words, said_of
from interlock.errors import BadRequest
from interlock.storage import learned, router_quality, usage
from interlock.types.feedback import quality
from interlock.types.quality import NO_TASK, OTHERS, Qualities, QualityCell, Sum

TASK = "task"
WITH_TASK = ("model", "team", "cost_center", TASK)
"""What a report by task can be by."""
FEEDBACK, STATE, OUTCOMES = "feedback", "state", "outcomes"


class Figure(msgspec.Struct, frozen=True):
    """Quality in millionths of [0, 1] with the bounds at 95 %, of `count` outcomes."""

    mean_micro: int
    low_micro: int
    high_micro: int
    count: float


class QualityRow(msgspec.Struct, frozen=True):
    """Quality in millionths of [0, 1] with the bounds at 95 %. `by`: what it is of; a `task` by its number, "": not
    known; "*": those that are not told apart. `count`: how many outcomes it rests on; of basis "outcomes", how many
    answers, each with its strongest outcome. `sources`: where outcomes came from, and how many, of basis "outcomes" all
    of them; of basis "state", older ones count for less. `origins`: the figure of each origin by itself; empty
    where it is not kept apart."""

    by: dict[str, str]
    mean_micro: int
    low_micro: int
    high_micro: int
    count: float
    sources: dict[str, int]
    origins: dict[str, Figure] = {}


class Window(msgspec.Struct, frozen=True):
    """What figures of basis "outcomes" are of: the last `outcomes` outcomes of the tenant, of at most `outcomes_max`
    that are held, of calls from `since` to `until` (null without any). `version`: of the state whose tasks they are."""

    outcomes: int
    outcomes_max: int
    since: datetime.datetime | None
    until: datetime.datetime | None
    version: int


class QualityReport(msgspec.Struct, frozen=True):
    """`basis`: "feedback", of calls of the days [from, to); "state", what is expected; "outcomes", what was seen in
    `window`. `tasks` says how prompts of each differ from the others."""

    first: datetime.date = msgspec.field(name="from")
    after: datetime.date = msgspec.field(name="to")
    by: list[str]
    rows: list[QualityRow]
    tasks: dict[str, str]
    basis: str = FEEDBACK
    window: Window | None = None


def report(
    conn: Connection[Any], tenant_id: str, by: Sequence[str], first: datetime.date, after: datetime.date
) -> QualityReport:
    """The report of a tenant. Raises BadRequest for a column that there is none of, or twice."""
    names = [name for name in COLUMNS if name != "tenant"]
    for name in by:
        if name != TASK and name not in names:
            raise BadRequest(f"quality is by {', '.join([*names, TASK])}; not by {name!r}", param="by")
    if len(set(by)) != len(by):
        raise BadRequest("by names a column twice", param="by")
    if first >= after:
        raise BadRequest("from must be before to", param="from")
    if TASK not in by:
        return QualityReport(first, after, list(by), _said(conn, tenant_id, by, first, after), {})
    if not set(by) <= set(WITH_TASK):
        words = f"quality by task is by {', '.join(WITH_TASK)}: no entry of the ledger says which task its call was of"
        raise BadRequest(words, param="by")
    state = shown(learned.current(conn, tenant_id), {}, "on")
    told = {str(task.number): task.words for task in state.tasks}
    if set(by) == {TASK, "model"}:
        return QualityReport(first, after, list(by), _expected(state, by), told, STATE)
    found = router_quality.current(conn, tenant_id)
    rows = seen(found.cells, by, Departments(conn, found.cells)) if found is not None else []
    return QualityReport(first, after, list(by), rows, told, OUTCOMES, window_of(found))


class Called(Protocol):
    """What teams are called in a report, by their ids."""

    def team(self, team_id: str) -> str:
        """The team itself."""

    def cost_center(self, team_id: str) -> str:
        """Its cost centre."""


class Departments(Called):
    """What teams and their cost centres are called, as in reports of usage."""

    def __init__(self, conn: Connection[Any], cells: Iterable[QualityCell]) -> None:
        self._names = Names(conn)
        self._names.learn_all({cell.team for cell in cells} - {"", OTHERS})
        self._centers = usage.cost_centers(conn)

    def team(self, team_id: str) -> str:
        """Its name; "" for none, OTHERS for several."""
        return team_id if team_id in ("", OTHERS) else self._names.of(team_id)

    def cost_center(self, team_id: str) -> str:
        """That of a team, "" where it has none."""
        return OTHERS if team_id == OTHERS else self._centers.get(team_id, "")


def seen(cells: Iterable[QualityCell], by: Sequence[str], departments: Called | None = None) -> list[QualityRow]:
    """Rows of what was seen, in their order: all origins together, where an answer counts once, and each by itself.
    `departments`: where `by` has team or cost_center."""
    sums: dict[tuple[str, ...], dict[str, Sum]] = {}
    once: dict[tuple[str, ...], Sum] = {}
    for cell in cells:
        shown_as = {"model": cell.arm, TASK: "" if cell.task == NO_TASK else str(cell.task)}
        if departments is not None:
            shown_as |= {"team": departments.team(cell.team), "cost_center": departments.cost_center(cell.team)}
        key = tuple(shown_as[name] for name in by)
        origins = sums.setdefault(key, {})
        origins[cell.origin] = origins.get(cell.origin, Sum()) + cell.sum
        once[key] = once.get(key, Sum()) + cell.once
    at = by.index(TASK) if TASK in by else -1

    def order(key: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
        return tuple((int(part or -1) if number == at else 0, part) for number, part in enumerate(key))

    return [_row(dict(zip(by, key, strict=True)), sums[key], once[key]) for key in sorted(sums, key=order)]


def _row(of: dict[str, str], origins: dict[str, Sum], whole: Sum) -> QualityRow:
    figures = {origin: _figure(origins[origin]) for origin in sorted(origins)}
    together = _figure(whole)
    counts = {origin: each.outcomes for origin, each in sorted(origins.items())}
    return QualityRow(of, together.mean_micro, together.low_micro, together.high_micro, together.count, counts, figures)


def _figure(of: Sum) -> Figure:
    found = quality(*of)
    assert found is not None  # noqa: S101 - a cell has an outcome
    return Figure(found.mean_micro, found.low_micro, found.high_micro, found.calls)


def window_of(found: Qualities | None) -> Window | None:
    """What figures are of; None where nothing is known."""
    if found is None:
        return None
    since, until = (_at(ns) if ns else None for ns in (found.since_ns, found.until_ns))
    return Window(found.outcomes, found.outcomes_max, since, until, found.version)


def _said(
    conn: Connection[Any], tenant_id: str, by: Sequence[str], first: datetime.date, after: datetime.date
) -> list[QualityRow]:
    sums = said_of(conn, tenant_id, Words(conn, by, ()), first, after)
    return [
        _row(dict(zip(by, key, strict=True)), {FEEDBACK: Sum(calls, total)}, Sum(calls, total))
        for key, (calls, total) in sorted(sums.items())
        if calls
    ]


def _expected(state: State, by: Sequence[str]) -> list[QualityRow]:
    out = []
    for arm in state.arms:
        for number, cell in enumerate(arm.tasks):
            of = {name: arm.arm if name == "model" else str(number) for name in by}
            row = QualityRow(of, cell.mean_micro, cell.low_micro, cell.high_micro, cell.outcomes, arm.origins)
            out.append(row)
    return out


def _at(ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
