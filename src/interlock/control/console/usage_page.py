"""Usage: what was called, by whom, and what it cost and took."""

from __future__ import annotations

import datetime
import io
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
from starlette.responses import Response

from interlock.control.console import usage_pivot
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action
from interlock.control.services import usage
from interlock.errors import BadRequest
from interlock.metering.report import write_csv
from interlock.storage import usage as stored_usage
from interlock.storage.usage import Figures

if TYPE_CHECKING:
    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

DAYS = 30
DAYS_MAX = 1100
"""Three years: what one page can show of."""
LINES_MAX = 500
"""Of the table on the page; its files have all lines."""
BY = (
    ("team", "team"),
    ("cost_center", "cost centre"),
    ("principal", "caller"),
    ("model", "model"),
    ("alias", "alias"),
    ("source", "source"),
    ("class", "request class"),
    ("day", "day"),
)
"""What a report can be by, and what people call it."""


class Change(msgspec.Struct, frozen=True):
    """A figure beside that of the period before. `percent`: None where there was nothing before."""

    now: int
    before: int

    @property
    def percent(self) -> float | None:
        """How much more (or, below zero, less) it is."""
        return (self.now - self.before) * 100 / self.before if self.before else None


def page(visit: Visit, _: Sessions) -> Response:
    """The report of some days beside the days before: as a pivot, as a table, a line for each day, and as files."""
    tenant, names = chosen(visit, Action.usage_read)
    api = visit.api
    tenant_id = tenant_of(api.store, visit.who(), tenant)
    with api.store.tenant(tenant_id) as conn:
        zone = stored_usage.time_zone(conn, tenant_id)
    today = api.tools.now().astimezone(ZoneInfo(zone)).date()
    first = _day(visit, "from", today - datetime.timedelta(days=DAYS - 1))
    last = _day(visit, "to", today)
    if (last - first).days >= DAYS_MAX:
        raise BadRequest(f"a report is of {DAYS_MAX} days at most", param="from")
    by = [name for name, _ in BY if visit.query.get(f"by_{name}")] or ["team", "model"]
    department = _one(visit, "rows", usage_pivot.DEPARTMENTS)
    after = last + datetime.timedelta(days=1)
    earlier = first - (after - first)
    with api.store.tenant(tenant_id) as conn:
        if visit.query.get("form") in ("csv", "json"):
            return _file(usage.report(conn, tenant_id, by, first, after), tenant, visit.query["form"])
        wanted = _one(visit, "figure", usage_pivot.FIGURES, "cost")
        order = "slo_calls" if wanted == usage_pivot.SHARE else wanted
        report, more = usage.top(conn, tenant_id, by, first, after, order, LINES_MAX)
        figure = wanted if visit.query.get("figure") or report.total.nusd else "calls"
        parts = usage.parts(conn, tenant_id, department, usage_pivot.unit_of(first, after), first, after, earlier)
    may_search = visit.may(Action.ledger_read, reach_of(tenant_id))
    links = usage_pivot.Links(tenant, ZoneInfo(zone), may_search)
    shown = usage_pivot.Shown(figure, department)
    return visit.page(
        "usage.html",
        tenant=tenant,
        tenants=names,
        report=report,
        more=more,
        days=_series(parts.days, first, last),
        by=by,
        columns=BY,
        first=first,
        last=last,
        after=after,
        links=links,
        earlier=earlier,
        earlier_last=first - datetime.timedelta(days=1),
        changes=_changes(report.total, parts.before),
        before=parts.before,
        pivot=usage_pivot.pivot(parts.parts, shown, first, after, links),
        figure=figure,
        figures=dict(usage_pivot.FIGURES),
        department=department,
        departments=dict(usage_pivot.DEPARTMENTS),
        zone=zone,
    )


def _one(visit: Visit, name: str, choices: tuple[tuple[str, str], ...], default: str = "") -> str:
    given = visit.query.get(name, "") or default or choices[0][0]
    if given not in dict(choices):
        raise BadRequest(f"{name} is one of {', '.join(dict(choices))}", param=name)
    return given


def _changes(now: usage.Row, before: Figures) -> dict[str, Change]:
    """Each figure beside that of the period before."""
    tokens = now.prompt_tokens + now.completion_tokens
    here = Figures(now.nusd, now.calls, tokens, now.uj, now.sci.o_ug, now.slo_calls, now.slo_met)
    return {name: Change(*each) for name, *each in zip(Figures._fields, here, before, strict=True)}


def _day(visit: Visit, name: str, default: datetime.date) -> datetime.date:
    text = visit.query.get(name, "")
    try:
        return datetime.date.fromisoformat(text) if text else default
    except ValueError:
        raise BadRequest(f"{name} is a day such as 2026-03-01", param=name) from None


def _series(days: dict[datetime.date, Figures], first: datetime.date, last: datetime.date) -> list[list[float]]:
    """For the chart: days as Unix seconds, calls, USD, kilojoules; days without calls are zeroes."""
    out: list[list[float]] = [[], [], [], []]
    for number in range((last - first).days + 1):
        day = first + datetime.timedelta(days=number)
        row = days.get(day)
        out[0].append(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())
        out[1].append(row.calls if row else 0)
        out[2].append(row.cost / 1e9 if row else 0)
        out[3].append(row.energy / 1e9 if row else 0)
    return out


def _file(report: usage.Report, tenant: str, form: str) -> Response:
    """The table as a file: as the admin API answers it, or as the CSV that `interlock usage` writes."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in tenant)
    headers = {"content-disposition": f'attachment; filename="usage-{name}-{report.first}-{report.after}.{form}"'}
    if form == "json":
        return Response(msgspec.json.encode(report), headers=headers, media_type="application/json")
    out = io.StringIO()
    write_csv(msgspec.to_builtins(report), out)
    return Response(out.getvalue(), headers=headers, media_type="text/csv")


PAGES = (Page("GET", "/usage", page),)
