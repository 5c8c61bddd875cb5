"""A report as CSV: one list of columns, whatever is in a line."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from interlock.metering.report import COLUMNS, write_csv

CARBON = {"o_ug": 7, "m_ug": None, "r": 2, "o_ug_per_call": 4, "uj_without_factor": 9}
SUMS = {
    "calls": 2, "refusals": 1, "failures": 0, "prompt_tokens": 10, "cached_tokens": 3, "completion_tokens": 5,
    "nusd": 2**70, "usd": "1180591620717.411303424", "reserved_nusd": 0, "uj": 8, "low_uj": 4, "high_uj": 16,
    "measured_uj": 0,
}  # fmt: skip


def written(by: dict[str, str], **more: Any) -> dict[str, str]:
    out = io.StringIO()
    write_csv({"by": list(by), "rows": [{"by": by, **SUMS, "sci": CARBON, **more}]}, out)
    head, line = csv.reader(io.StringIO(out.getvalue()))
    assert head == [*by, *COLUMNS]
    return dict(zip(head, line, strict=True))


def test_each_figure_is_under_its_name() -> None:
    quality = {"source": "feedback", "calls": 4, "mean_micro": 500_000, "low_micro": 1, "high_micro": 2}
    line = written({"team": "lab"}, steps=3, quality=quality, slo_calls=6, slo_met=5)
    assert {name: line[name] for name in SUMS} == {name: str(value) for name, value in SUMS.items()}
    assert (line["team"], line["steps"], line["slo_calls"], line["slo_met"]) == ("lab", "3", "6", "5")
    assert (line["sci_o_ug"], line["sci_r"], line["sci_uj_without_factor"]) == ("7", "2", "9")
    assert (line["quality_calls"], line["quality_source"]) == ("4", "feedback")
    bare = written({"team": "lab"}, quality=None)
    assert (bare["steps"], bare["quality_calls"], bare["slo_met"]) == ("0", "", "0")


@pytest.mark.parametrize(
    ("name", "cell"),
    [("", ""), ("lab", "lab"), ("=1+1", "'=1+1"), ("@x", "'@x"), ("-", "'-"), ("\tx", "'\tx"), ("a=1", "a=1")],
)
def test_no_cell_is_a_formula_and_none_is_changed_else(name: str, cell: str) -> None:
    assert written({"alias": name})["alias"] == cell
