"""Reports of usage: what was called, by whom, at what cost, energy and carbon. Sums of the ledger's entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
from psycopg import Connection

from interlock.control.services.base import Names
from interlock.errors import BadRequest
from interlock.ledger.sums import Sums
from interlock.storage import feedback, usage
from interlock.types.feedback import quality
from interlock.types.usage import divide_half_even

ROWS_MAX = 100_000
COLUMNS = {
    "tenant": "tenant_id",
    "day": "day",
    "month": "day",
    "team": "team_id",
    "cost_center": "team_id",
    "principal": "principal_id",
    "source": "source",
    "model": "model",
    "alias": "alias",
    "class": "request_class",
    "workload": "workload",
}
"""What a report can be by, and where that is kept."""
_NAMED = ("tenant", "team", "principal")
_PARTS = {"team": "team_id", "cost_center": "cost_center", "alias": "alias"}


class Carbon(msgspec.Struct, frozen=True):
    """Software carbon intensity (ISO/IEC 21031) as far as it is known: `o_ug` operational emissions, micrograms of CO2
    equivalent; `m_ug`, those of making the hardware, is not known here; `r` functional units, which are calls.
    `o_ug_per_call`: rounded half to even. `uj_without_factor`: energy for whose place no carbon factor is known."""

    o_ug: int
    m_ug: int | None
    r: int
    o_ug_per_call: int
    uj_without_factor: int


class Quality(msgspec.Struct, frozen=True):
    """What was said of answers: the mean reward in millionths of [0, 1] over `calls` calls that have one, and the
    bounds that it lies within at 95 % (`interlock.types.feedback.quality`). `source`: what it is made of."""

    source: str
    calls: int
    mean_micro: int
    low_micro: int
    high_micro: int


class Row(msgspec.Struct, frozen=True):
    """One line of a report. `by`: what the report is by, names where they are known. `steps`: of cascades, that ran
    here, of whatever call; what they took is in the line. `usd`: `nusd` as a decimal, exact.
    `reserved_nusd`: the part of it where nobody knows what was used. Energy in microjoules with its range. `quality`:
    null where nobody said anything. `slo_calls`: the part of `calls` that had objectives; `slo_met`: of these, those
    known to have met all of them."""

    by: dict[str, str]
    calls: int
    refusals: int
    failures: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    nusd: int
    usd: str
    reserved_nusd: int
    uj: int
    low_uj: int
    high_uj: int
    measured_uj: int
    sci: Carbon
    quality: Quality | None = None
    steps: int = 0
    slo_calls: int = 0
    slo_met: int = 0


class Report(msgspec.Struct, frozen=True):
    """Days [from, to) in each tenant's time zone, what the report is by, its lines, and their sum."""

    first: date = msgspec.field(name="from")
    after: date = msgspec.field(name="to")
    by: list[str]
    rows: list[Row]
    total: Row


def report(conn: Connection[Any], tenant_id: str, by: Sequence[str], first: date, after: date) -> Report:
    """The report of what the connection may see. Raises BadRequest for a column that there is none of, twice, or too
    many lines. `tenant_id`: "" for all tenants."""
    for name in by:
        if name not in COLUMNS:
            raise BadRequest(f"a report is by {', '.join(COLUMNS)}; not by {name!r}", param="by")
    if len(set(by)) != len(by):
        raise BadRequest("by names a column twice", param="by")
    if first >= after:
        raise BadRequest("from must be before to", param="from")
    dimensions = _dimensions(by)
    found = usage.report(conn, dimensions, first, after, ROWS_MAX + 1)
    if len(found) > ROWS_MAX:
        raise BadRequest(f"the report has more than {ROWS_MAX} lines: take fewer days, or columns", param="by")
    words = Words(conn, by, (values for values, _ in found))
    sums: dict[tuple[str, ...], Sums] = {}
    for values, each in found:
        if tenant_id and values[0] != tenant_id:
            continue
        key = words.key(values)
        sums[key] = sums[key].plus(each) if key in sums else each
    said = said_of(conn, tenant_id, words, first, after)
    total = Sums()
    for each in sums.values():
        total = total.plus(each)
    return _report(by, first, after, sums, total, said)


def top(
    conn: Connection[Any], tenant_id: str, by: Sequence[str], first: date, after: date, figure: str, lines_max: int
) -> tuple[Report, int]:
    """Of a tenant's report the `lines_max` lines that took most of a figure (a name in `usage.Figures`), with the
    total of all, and how many lines it has more. `by`: columns of `report`, without month, at least one."""
    columns = [name if name == "cost_center" else COLUMNS[name] for name in by]
    found = usage.top(conn, tenant_id, columns, first, after, figure, lines_max)
    words = Words(conn, by, (values for values, _ in found.rows))
    sums: dict[tuple[str, ...], Sums] = {}
    for values, each in found.rows:
        key = tuple(
            words.names.of(value) if name in _NAMED and value else str(value)
            for name, value in zip(by, values, strict=True)
        )
        sums[key] = sums[key].plus(each) if key in sums else each
    said = said_of(conn, tenant_id, words, first, after)
    return _report(by, first, after, sums, found.total, said), found.lines - len(found.rows)


def parts(
    conn: Connection[Any], tenant_id: str, department: str, unit: str, first: date, after: date, earlier: date
) -> usage.Parts:
    """As `storage.usage.parts`, with `department` team, cost_center or alias, and names of teams for their ids."""
    found = usage.parts(conn, tenant_id, _PARTS[department], unit, first, after, earlier)
    if department != "team":
        return found
    names = Names(conn)
    names.learn_all({part.department for part in found.parts})
    named = [usage.Part(names.of(team), model, slot, figures) for team, model, slot, figures in found.parts]
    return found._replace(parts=named)


def _dimensions(by: Sequence[str]) -> list[str]:
    """What is asked of storage for a report: the tenant first."""
    return list(dict.fromkeys(["tenant_id", *(COLUMNS[name] for name in by)]))


class Words:
    """What a report calls the values of its `_dimensions`."""

    def __init__(self, conn: Connection[Any], by: Sequence[str], found: Iterable[Sequence[Any]]) -> None:
        """`found`: rows in which ids of teams and principals may be, whose names are looked up together."""
        self._dimensions = dimensions = _dimensions(by)
        self._at = [(name, dimensions.index(COLUMNS[name])) for name in by]
        self.names = Names(conn)
        self.learn(found)
        self._centers = usage.cost_centers(conn) if "cost_center" in by else {}

    def learn(self, found: Iterable[Sequence[Any]]) -> None:
        """Look up the names of what is in these rows."""
        self.names.learn_all({value for values in found for value in values if isinstance(value, str)})

    @property
    def dimensions(self) -> list[str]:
        """What `key` takes values of, in this order."""
        return self._dimensions

    def key(self, values: Sequence[Any]) -> tuple[str, ...]:
        """What a line is called in each column of the report."""
        return tuple([self._shown(name, values[at]) for name, at in self._at])

    def _shown(self, name: str, value: Any) -> str:
        if name == "month":
            return f"{value:%Y-%m}"
        if name == "cost_center":
            return self._centers.get(value, "")
        return self.names.of(value) if name in _NAMED and value else str(value)


def said_of(
    conn: Connection[Any], tenant_id: str, words: Words, first: date, after: date
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Calls with a reward and the sum of their rewards, by the report's lines."""
    said: dict[tuple[str, ...], tuple[int, int]] = {}
    found = feedback.sums(conn, words.dimensions, first, after)
    words.learn(values for values, _, _ in found)
    for values, calls, reward_micro in found:
        if tenant_id and values[0] != tenant_id:
            continue
        key = words.key(values)
        before = said.get(key, (0, 0))
        said[key] = (before[0] + calls, before[1] + reward_micro)
    return said


def _report(
    by: Sequence[str],
    first: date,
    after: date,
    sums: dict[tuple[str, ...], Sums],
    total: Sums,
    said: dict[tuple[str, ...], tuple[int, int]],
) -> Report:
    rows = [_row(dict(zip(by, key, strict=True)), each, *said.get(key, (0, 0))) for key, each in sorted(sums.items())]
    counts, rewards = (sum(each[at] for each in said.values()) for at in (0, 1))
    return Report(first, after, list(by), rows, _row({}, total, counts, rewards))


def _row(by: dict[str, str], sums: Sums, rewarded: int, reward_micro: int) -> Row:
    per_call = divide_half_even(sums.co2e_ug, sums.calls) if sums.calls else 0
    return Row(
        by,
        sums.calls,
        sums.refusals,
        sums.failures,
        sums.prompt_tokens,
        sums.cached_tokens,
        sums.completion_tokens,
        sums.nusd,
        f"{Decimal(sums.nusd).scaleb(-9):.9f}",
        sums.reserved_nusd,
        sums.uj,
        sums.low_uj,
        sums.high_uj,
        sums.measured_uj,
        Carbon(sums.co2e_ug, None, sums.calls, per_call, sums.unplaced_uj),
        Quality("feedback", *found) if (found := quality(rewarded, reward_micro)) is not None else None,
        sums.steps,
        sums.slo_calls,
        sums.slo_met,
    )
