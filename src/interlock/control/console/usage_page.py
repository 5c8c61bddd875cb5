"""Usage: what was called, by whom, and what it cost and took."""

from __future__ import annotations

import csv
import datetime
import io
from typing import TYPE_CHECKING

from starlette.responses import Response

from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.identity import tenant_of
from interlock.control.permissions import Action
from interlock.control.services import usage
from interlock.errors import BadRequest

if TYPE_CHECKING:
    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

DAYS = 30
BY = (
    ("team", "team"),
    ("cost_center", "cost centre"),
    ("principal", "caller"),
    ("model", "model"),
    ("source", "source"),
    ("class", "request class"),
    ("day", "day"),
)
"""What a report can be by, and what people call it."""


def page(visit: Visit, _: Sessions) -> Response:
    """The report of some days as a table, a line for each day, and a file."""
    tenant, names = chosen(visit, Action.usage_read)
    api = visit.api
    tenant_id = tenant_of(api.store, visit.who(), tenant)
    today = api.tools.now().date()
    first = _day(visit, "from", today - datetime.timedelta(days=DAYS - 1))
    last = _day(visit, "to", today)
    by = [name for name, _ in BY if visit.query.get(f"by_{name}")] or ["team", "model"]
    after = last + datetime.timedelta(days=1)
    with api.store.tenant(tenant_id) as conn:
        report = usage.report(conn, tenant_id, by, first, after)
        days = usage.report(conn, tenant_id, ["day"], first, after)
    if visit.query.get("form") == "csv":
        return _csv(report, tenant)
    return visit.page(
        "usage.html",
        tenant=tenant,
        tenants=names,
        report=report,
        days=_series(days, first, last),
        by=by,
        columns=BY,
        first=first,
        last=last,
    )


def _day(visit: Visit, name: str, default: datetime.date) -> datetime.date:
    text = visit.query.get(name, "")
    try:
        return datetime.date.fromisoformat(text) if text else default
    except ValueError:
        raise BadRequest(f"{name} is a day such as 2026-03-01", param=name) from None


def _series(report: usage.Report, first: datetime.date, last: datetime.date) -> list[list[float]]:
    """For the chart: days as Unix seconds, calls, USD, kilojoules; days without calls are zeroes."""
    rows = {row.by["day"]: row for row in report.rows}
    out: list[list[float]] = [[], [], [], []]
    for number in range((last - first).days + 1):
        day = first + datetime.timedelta(days=number)
        row = rows.get(day.isoformat())
        out[0].append(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())
        out[1].append(row.calls if row else 0)
        out[2].append(row.nusd / 1e9 if row else 0)
        out[3].append(row.uj / 1e9 if row else 0)
    return out


def _csv(report: usage.Report, tenant: str) -> Response:
    """The table as a file. Cells that a spreadsheet would take for a formula begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    figures = ("calls", "refusals", "failures", "prompt_tokens", "cached_tokens", "completion_tokens", "usd", "uj")
    writer.writerow([*report.by, *figures])
    for row in report.rows:
        writer.writerow([_cell(row.by[name]) for name in report.by] + [getattr(row, name) for name in figures])
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in tenant)
    headers = {"content-disposition": f'attachment; filename="usage-{name}-{report.first}-{report.after}.csv"'}
    return Response(out.getvalue(), headers=headers, media_type="text/csv")


def _cell(text: str) -> str:
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


PAGES = (Page("GET", "/usage", page),)
