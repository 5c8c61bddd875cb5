"""The pivot of the usage page: departments or aliases and their models down, days or months across, newest first.
Pure."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from interlock.storage.ledger_read import WITHOUT
from interlock.storage.usage import Figures, Part

SHARE = "objectives"
FIGURES = (
    *(("cost", "cost"), ("calls", "calls"), ("tokens", "tokens"), ("energy", "energy"), ("carbon", "carbon")),
    (SHARE, "objectives met"),
)
DEPARTMENTS = (("team", "team"), ("cost_center", "cost centre"), ("alias", "alias"))
DAYS_MAX = 31
"""Of a longer time than this, months are shown, not days."""
SHADES = 5
ROWS_MAX = 500
FILTERS = ("team", "cost_center", "principal", "model", "alias", "source", "class")
"""Columns of reports that the ledger is searched by; calls that have none are found of those in `WITHOUT`."""


class Sum(NamedTuple):
    """What some calls add up to. `of`: of a share, the calls that it is a share of, `value` being those among them that
    count; 0 where the figure is none."""

    value: int = 0
    of: int = 0

    def plus(self, more: Sum) -> Sum:
        """The sum of both; of shares, the share of all calls together."""
        return Sum(self.value + more.value, self.of + more.of)


NONE = Sum()
_Key = tuple[str, str]
"""Department and model."""


class Cell(NamedTuple):
    """One number. `shade`: 0 to SHADES, how large beside the largest of its kind, of a share beside the whole. `link`:
    the ledger search that shows the calls behind it, "" where there is none."""

    sum: Sum
    shade: int
    link: str


class Line(NamedTuple):
    """A department (`model` "" and `whole`), or one of its models. `before`: the total of the period before."""

    department: str
    model: str
    whole: bool
    cells: list[Cell]
    total: Cell
    before: Sum


class Pivot(NamedTuple):
    """`columns`: days or months, as ISO text, newest first. `more`: departments and models left out, those that
    took least."""

    columns: list[str]
    lines: list[Line]
    totals: list[Sum]
    total: Sum
    before: Sum
    more: int


class Shown(NamedTuple):
    """Which number is shown (a name of FIGURES), and of what: team, cost_center or alias."""

    figure: str
    department: str


class Links(NamedTuple):
    """Where numbers lead: the ledger search of a tenant. Days are the tenant's own, in `zone`. `allowed`: whether the
    visitor may search there."""

    tenant: str
    zone: ZoneInfo
    allowed: bool

    def to(
        self, by: Mapping[str, str], first: datetime.date, after: datetime.date, kind: str = "call", state: str = ""
    ) -> str:
        """The search for what a line of a report is of, within the days [from, to); "" where no filter of the ledger
        says the same: of what is on no team's, caller's or cost centre's account."""
        if "day" in by:
            first = datetime.date.fromisoformat(by["day"])
            after = first + datetime.timedelta(days=1)
            by = {name: value for name, value in by.items() if name != "day"}
        begin = self.begin(by, kind, state)
        return begin + span(first, after, self.zone) if begin else ""

    def begin(self, by: Mapping[str, str], kind: str = "call", state: str = "") -> str:
        """What `to` begins with, to which the `span` of its days is added; "" without a link."""
        without = [name for name, value in by.items() if not value]
        if not self.allowed or not by.keys() <= {*FILTERS} or not {*without} <= WITHOUT.keys():
            return ""
        said = {name: value for name, value in by.items() if value}
        ends = {name: value for name, value in (("state", state), ("without", ",".join(without))) if value}
        return "/console/calls?" + urlencode({"tenant": self.tenant, "kind": kind, **said, **ends})


@functools.lru_cache(maxsize=4096)
def span(first: datetime.date, after: datetime.date, zone: ZoneInfo) -> str:
    """What a link ends with: from when until when, the same few in all the lines of a page."""
    return "&" + urlencode({"since": _utc(first, zone), "until": _utc(after, zone)})


def _utc(day: datetime.date, zone: ZoneInfo) -> str:
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=zone)
    return midnight.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def unit_of(first: datetime.date, after: datetime.date) -> str:
    """What the columns of a time are: day or month."""
    return "day" if (after - first).days <= DAYS_MAX else "month"


def pivot(parts: Iterable[Part], shown: Shown, first: datetime.date, after: datetime.date, links: Links) -> Pivot:
    """`parts`: by department, model and `unit_of` the time, and by department and model of the time before. Of a share
    only what it is a share of has lines, and no number leads to calls: the ledger has no filter for those."""
    unit = unit_of(first, after)
    spans = _spans(first, after, unit)
    columns = list(spans)
    named = {start.replace(day=1) if unit == "month" else start: column for column, (start, _) in spans.items()}
    links = links._replace(allowed=links.allowed and shown.figure != SHARE)
    sums, then = _sums(parts, shown.figure, named)
    whole = {key: _all(each.values()) for key, each in sums.items()}
    of: dict[str, list[_Key]] = {}
    for key in sorted({*sums, *then}, key=lambda key: (-_size(whole.get(key, NONE)), key[1])):
        of.setdefault(key[0], []).append(key)
    largest = max((each.value for of_key in sums.values() for each in of_key.values()), default=0)
    departments = sorted(of, key=lambda d: (-sum(_size(whole.get(key, NONE)) for key in of[d]), d))
    across = Across(
        spans, [span(start, end, links.zone) for start, end in spans.values()], span(first, after, links.zone)
    )
    lines: list[Line] = []
    for department in departments:
        mine = of[department]
        joined = {c: _all(sums[key].get(c, NONE) for key in mine if key in sums) for c in columns}
        before = _all(then.get(key, NONE) for key in mine)
        lines.append(_line(Place(shown.department, department, ""), joined, before, None, across, links))
        for key in mine:
            place = Place(shown.department, *key)
            lines.append(_line(place, sums.get(key, {}), then.get(key, NONE), largest, across, links))
    totals = [_all(each.get(c, NONE) for each in sums.values()) for c in columns]
    more = max(0, len(lines) - ROWS_MAX)
    return Pivot(columns, lines[:ROWS_MAX], totals, _all(totals), _all(then.values()), more)


def _sums(
    parts: Iterable[Part], figure: str, columns: Mapping[datetime.date, str]
) -> tuple[dict[_Key, dict[str, Sum]], dict[_Key, Sum]]:
    """A figure by department and model: by column, and of the time before."""
    share = figure == SHARE
    at = Figures._fields.index("slo_met" if share else figure)
    of_at = Figures._fields.index("slo_calls")
    sums: dict[_Key, dict[str, Sum]] = {}
    then: dict[_Key, Sum] = {}
    for department, model, slot, figures in parts:
        each = Sum(figures[at], figures[of_at] if share else 0)
        if share and not each.of:
            continue
        key = (department, model)
        if slot is None:
            then[key] = then.get(key, NONE).plus(each)
        else:
            here, column = sums.setdefault(key, {}), columns[slot]
            here[column] = here.get(column, NONE).plus(each)
    return sums, then


def _all(sums: Iterable[Sum]) -> Sum:
    value = of = 0
    for each in sums:
        value += each.value
        of += each.of
    return Sum(value, of)


def _size(each: Sum) -> int:
    """What the largest comes first by: of shares that of the most calls."""
    return each.of or each.value


class Across(NamedTuple):
    """Columns with their days [from, to), what links of each end with, and what those of all of them do."""

    spans: dict[str, tuple[datetime.date, datetime.date]]
    ends: list[str]
    whole: str


class Place(NamedTuple):
    """Whose numbers a line has. `model` "" with a line that is of the department as a whole."""

    column: str
    department: str
    model: str


def _line(place: Place, sums: dict[str, Sum], before: Sum, largest: int | None, across: Across, links: Links) -> Line:
    """`largest`: what the darkest cell holds; None: a department's own line, which has no shades."""
    whole = largest is None
    begin = links.begin({place.column: place.department} | ({} if whole else {"model": place.model}))
    cells = []
    for column, end in zip(across.spans, across.ends, strict=True):
        each = sums.get(column, NONE)
        shade = -(-each.value * SHADES // (each.of or largest)) if largest else 0
        cells.append(Cell(each, shade, begin + end if begin and each.value else ""))
    total = _all(cell.sum for cell in cells)
    link = begin + across.whole if begin and total.value else ""
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
