"""Reports of usage: what was called, by whom, at what cost, energy and carbon. Sums of the ledger's entries."""

from __future__ import annotations

from collections.abc import Sequence
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
    "class": "request_class",
    "workload": "workload",
}
"""What a report can be by, and where that is kept."""


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
    """One line of a report. `by`: what the report is by, names where they are known. `usd`: `nusd` as a decimal, exact.
    `reserved_nusd`: the part of it where nobody knows what was used. Energy in microjoules with its range. `quality`:
    null where nobody said anything."""

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
    dimensions = list(dict.fromkeys(["tenant_id", *(COLUMNS[name] for name in by)]))
    found = usage.report(conn, dimensions, first, after, ROWS_MAX + 1)
    if len(found) > ROWS_MAX:
        raise BadRequest(f"the report has more than {ROWS_MAX} lines: take fewer days, or columns", param="by")
    names = Names(conn)
    named = [at for at, name in enumerate(dimensions) if name in ("team_id", "principal_id")]
    names.learn_all(values[at] for values, _ in found for at in named)
    centers = usage.cost_centers(conn) if "cost_center" in by else {}
    sums: dict[tuple[str, ...], Sums] = {}
    for values, each in found:
        row = dict(zip(dimensions, values, strict=True))
        if tenant_id and row["tenant_id"] != tenant_id:
            continue
        key = tuple(shown_value(name, row, names, centers) for name in by)
        sums[key] = sums.get(key, Sums()).plus(each)
    said: dict[tuple[str, ...], tuple[int, int]] = {}
    for values, calls, reward_micro in feedback.sums(conn, dimensions, first, after):
        row = dict(zip(dimensions, values, strict=True))
        if tenant_id and row["tenant_id"] != tenant_id:
            continue
        key = tuple(shown_value(name, row, names, centers) for name in by)
        before = said.get(key, (0, 0))
        said[key] = (before[0] + calls, before[1] + reward_micro)
    total = Sums()
    for each in sums.values():
        total = total.plus(each)
    rows = [_row(dict(zip(by, key, strict=True)), each, *said.get(key, (0, 0))) for key, each in sorted(sums.items())]
    counts, rewards = (sum(each[at] for each in said.values()) for at in (0, 1))
    return Report(first, after, list(by), rows, _row({}, total, counts, rewards))


def shown_value(name: str, row: dict[str, Any], names: Names, centers: dict[str, str]) -> str:
    """A value of a column of COLUMNS as a report has it, from a row by dimension."""
    value = row[COLUMNS[name]]
    if name == "month":
        return f"{value:%Y-%m}"
    if name == "cost_center":
        return centers.get(value, "")
    return names.of(value) if name in ("tenant", "team", "principal") and value else str(value)


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
    )
