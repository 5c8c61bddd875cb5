"""Of the Router page: what outcomes have shown of each model, for the department and the task that are chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import Connection

from interlock.control.console.usage_pivot import DEPARTMENTS
from interlock.control.services import router_quality
from interlock.control.services.router_quality import Figure, QualityRow, Window
from interlock.errors import BadRequest
from interlock.storage import router_quality as stored
from interlock.types.quality import OTHERS

if TYPE_CHECKING:
    from interlock.control.console.visit import Visit

LINES_MAX = 200
EVERY, NONE = "", "-"
"""What is chosen of departments or tasks: each, or those of outcomes without one."""


class Line(NamedTuple):
    """A row of the table. `origins`: the figure of each."""

    department: str
    task: str
    model: str
    figure: Figure
    origins: dict[str, Figure]


class Seen(NamedTuple):
    """What is shown. `kind`: of `kinds`, what a department is. `department`, `task`: what is chosen of `departments`
    and `tasks`, (value, words) each. `more`: lines that are left out."""

    kind: str
    department: str
    task: str
    departments: list[tuple[str, str]]
    tasks: list[tuple[str, str]]
    lines: list[Line]
    more: int
    window: Window | None
    kinds: tuple[tuple[str, str], ...] = DEPARTMENTS


def seen(visit: Visit, conn: Connection[Any], tenant_id: str) -> Seen:
    """As the address asks for. Raises BadRequest."""
    kind = visit.query.get("kind", "") or DEPARTMENTS[0][0]
    if kind not in dict(DEPARTMENTS):
        raise BadRequest(f"kind is {' or '.join(dict(DEPARTMENTS))}", param="kind")
    found = stored.current(conn, tenant_id)
    rows: list[QualityRow] = []
    if found is not None:
        departments = router_quality.Departments(conn, found.cells)
        rows = router_quality.seen(found.cells, (kind, "task", "model"), departments)
    return chosen(
        rows, kind, visit.query.get("department", ""), visit.query.get("task", ""), router_quality.window_of(found)
    )


def chosen(rows: list[QualityRow], kind: str, department: str, task: str, window: Window | None) -> Seen:
    """The rows of a department and a task, and what else there is to choose. Pure."""
    there = sorted({row.by[kind] or NONE for row in rows})
    tasks = sorted({row.by["task"] or NONE for row in rows}, key=lambda name: (name == NONE, name.zfill(9)))
    lines = [
        Line(row.by[kind] or NONE, row.by["task"] or NONE, row.by["model"], _figure(row), row.origins)
        for row in rows
        if department in (EVERY, row.by[kind] or NONE) and task in (EVERY, row.by["task"] or NONE)
    ]
    words = {NONE: f"no {dict(DEPARTMENTS)[kind]}", OTHERS: "others"}
    return Seen(
        kind,
        department,
        task,
        [(name, words.get(name, name)) for name in there],
        [(name, "not known" if name == NONE else f"Task {name}") for name in tasks],
        lines[:LINES_MAX],
        max(0, len(lines) - LINES_MAX),
        window,
    )


def _figure(row: QualityRow) -> Figure:
    return Figure(row.mean_micro, row.low_micro, row.high_micro, row.count)
