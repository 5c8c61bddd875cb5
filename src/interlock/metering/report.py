"""A report of usage as a table of text: one list of columns, whoever writes the file. Pure."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

SUMS = ("calls", "refusals", "failures", "steps", "prompt_tokens", "cached_tokens", "completion_tokens", "nusd", "usd",
        "reserved_nusd", "uj", "low_uj", "high_uj", "measured_uj")  # fmt: skip
CARBON = ("o_ug", "r", "o_ug_per_call", "uj_without_factor")
QUALITY = ("calls", "mean_micro", "low_micro", "high_micro", "source")
OBJECTIVES = ("slo_calls", "slo_met")
COLUMNS = (*SUMS, *(f"sci_{name}" for name in CARBON), *(f"quality_{name}" for name in QUALITY), *OBJECTIVES)
"""What a file has after the columns that its report is by; units are in `docs/metering.md`."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


def write_csv(report: Mapping[str, Any], out: _Writable) -> None:
    """Write a report, as the admin API answers it: a line of names, then one for each of its lines. Cells that a
    spreadsheet would take for a formula begin with an apostrophe. Lines end as RFC 4180 says."""
    writer = csv.writer(out)
    writer.writerow([*report["by"], *COLUMNS])
    for row in report["rows"]:
        writer.writerow([*(_harmless(row["by"][name]) for name in report["by"]), *_cells(row)])


def _cells(row: Mapping[str, Any]) -> Iterator[Any]:
    """A cell for each of `COLUMNS`. What an older server does not tell is 0; there is no quality where nobody said
    anything."""
    yield from (row.get(name, 0) for name in SUMS)
    yield from (row["sci"][name] for name in CARBON)
    quality = row.get("quality") or dict.fromkeys(QUALITY, "")
    yield from (quality[name] for name in QUALITY)
    yield from (row.get(name, 0) for name in OBJECTIVES)


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
