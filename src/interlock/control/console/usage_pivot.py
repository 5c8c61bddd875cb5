"""The pivot of the usage page: departments and their models down, days or months across, newest first. Pure."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from interlock.control.services.usage import Row

FIGURES = (("cost", "cost"), ("calls", "calls"), ("tokens", "tokens"), ("energy", "energy"), ("carbon", "carbon"))
DEPARTMENTS = (("team", "team"), ("cost_center", "cost centre"))
DAYS_MAX = 31
"""Of a longer time than this, months are shown, not days."""
SHADES = 5
ROWS_MAX = 500
FILTERS = ("team", "principal", "model", "source")
"""Columns of reports that the ledger is searched by."""

VALUES: dict[str, Callable[[Row], int]] = {
    "cost": lambda row: row.nusd,
    "calls": lambda row: row.calls,
    "tokens": lambda row: row.prompt_tokens + row.completion_tokens,
    "energy": lambda row: row.uj,
    "carbon": lambda row: row.sci.o_ug,
}
"""The number of a row for each figure: nano-USD, calls, tokens, microjoules, micrograms of CO2 equivalent."""


class Cell(NamedTuple):
    """One number. `shade`: 0 to SHADES, how large beside the largest of its kind. `link`: the ledger search that shows
    the calls behind it, "" where there is none."""

    value: int
    shade: int
    link: str


class Line(NamedTuple):
    """A department (`model` "" and `whole`), or one of its models. `before`: the total of the period before."""

    department: str
    model: str
    whole: bool
    cells: list[Cell]
    total: Cell
    before: int


class Pivot(NamedTuple):
    """`columns`: days or months, as ISO text, newest first. `more`: departments and models left out, those that
    took least."""

    columns: list[str]
    lines: list[Line]
    totals: list[int]
    total: int
    before: int
    more: int


class Shown(NamedTuple):
    """Which number is shown (a name of VALUES), and of what: team or cost_center."""

    figure: str
    department: str


class Links(NamedTuple):
    """Where numbers lead: the ledger search of a tenant. Days are the tenant's own, in `zone`. `allowed`: whether the
    visitor may search there."""

    tenant: str
    zone: ZoneInfo
    allowed: bool

    def to(self, by: Mapping[str, str], first: datetime.date, after: datetime.date, kind: str = "call") -> str:
        """The search for what a line of a report is of, within the days [from, to); "" where no filter of the ledger
        says the same: of a cost centre or a request class, and of those without a team."""
        given = {"tenant": self.tenant, "kind": kind}
        for name, value in by.items():
            if name == "day":
                first = datetime.date.fromisoformat(value)
                after = first + datetime.timedelta(days=1)
            elif name in FILTERS and value:
                given[name] = value
            else:
                return ""
        if not self.allowed:
            return ""
        return "/console/calls?" + urlencode({**given, "since": self._utc(first), "until": self._utc(after)})

    def _utc(self, day: datetime.date) -> str:
        return _utc(day, self.zone)


@functools.lru_cache(maxsize=1024)
def _utc(day: datetime.date, zone: ZoneInfo) -> str:
    """When a day begins; the same few in every cell of a page."""
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=zone)
    return midnight.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def unit_of(first: datetime.date, after: datetime.date) -> str:
    """What the columns of a time are: day or month."""
    return "day" if (after - first).days <= DAYS_MAX else "month"


def pivot(
    rows: Sequence[Row], earlier: Iterable[Row], shown: Shown, first: datetime.date, after: datetime.date, links: Links
) -> Pivot:
    """`rows`: by department, model and `unit_of` the time; `earlier`: by department and model, of the time before."""
    value, unit = VALUES[shown.figure], unit_of(first, after)
    spans = _spans(first, after, unit)
    columns = list(spans)
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        here = sums.setdefault((row.by[shown.department], row.by["model"]), {})
        here[row.by[unit]] = here.get(row.by[unit], 0) + value(row)
    then: dict[tuple[str, str], int] = {}
    for row in earlier:
        key = (row.by[shown.department], row.by["model"])
        then[key] = then.get(key, 0) + value(row)
    keys = sorted({*sums, *then}, key=lambda key: (key[0], -sum(sums.get(key, {}).values()), key[1]))
    departments = sorted({key[0] for key in keys}, key=lambda d: (-_of(sums, d), d))
    largest = max((n for each in sums.values() for n in each.values()), default=0)
    lines: list[Line] = []
    for department in departments:
        mine = [key for key in keys if key[0] == department]
        joined = {c: sum(sums.get(key, {}).get(c, 0) for key in mine) for c in columns}
        before = sum(then.get(key, 0) for key in mine)
        lines.append(_line(Place(shown.department, department, ""), joined, before, None, spans, links))
        for key in mine:
            place = Place(shown.department, *key)
            lines += [_line(place, sums.get(key, {}), then.get(key, 0), largest, spans, links)]
    totals = [sum(each.get(c, 0) for each in sums.values()) for c in columns]
    return Pivot(columns, lines[:ROWS_MAX], totals, sum(totals), sum(then.values()), max(0, len(lines) - ROWS_MAX))


def _of(sums: dict[tuple[str, str], dict[str, int]], department: str) -> int:
    return sum(sum(each.values()) for key, each in sums.items() if key[0] == department)


class Place(NamedTuple):
    """Whose numbers a line has. `model` "" with a line that is of the department as a whole."""

    column: str
    department: str
    model: str


def _line(
    place: Place,
    values: dict[str, int],
    before: int,
    largest: int | None,
    spans: dict[str, tuple[datetime.date, datetime.date]],
    links: Links,
) -> Line:
    """`largest`: what the darkest cell holds; None: a department's own line, which has no shades."""
    whole = largest is None
    by = {place.column: place.department} | ({} if whole else {"model": place.model})
    cells = []
    for column, (start, end) in spans.items():
        number = values.get(column, 0)
        shade = -(-number * SHADES // largest) if largest else 0
        cells.append(Cell(number, shade, links.to(by, start, end) if number else ""))
    total = sum(cell.value for cell in cells)
    first, after = min(start for start, _ in spans.values()), max(end for _, end in spans.values())
    link = links.to(by, first, after) if total else ""
    return Line(place.department, place.model, whole, cells, Cell(total, 0, link), before)


def _spans(first: datetime.date, after: datetime.date, unit: str) -> dict[str, tuple[datetime.date, datetime.date]]:
    """The columns of a time with the days [from, to) of each, newest first."""
    out = {}
    day = first
    while day < after:
        nxt = day + datetime.timedelta(days=1)
        if unit == "month":
            nxt = min(after, (day.replace(day=1) + datetime.timedelta(days=32)).replace(day=1))
        out[f"{day:%Y-%m}" if unit == "month" else day.isoformat()] = (day, nxt)
        day = nxt
    return dict(reversed(out.items()))
