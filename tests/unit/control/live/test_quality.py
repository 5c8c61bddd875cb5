"""Signals of quality: what counts, of what, and that what nobody told is not shown as a zero."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.control.live.quality import KINDS, QualityRow, Signal, quality, signals, verdicts
from interlock.control.live.window import Call, Window
from interlock.types.snapshot import AliasTarget, Canary

from .leaves import leaf, refusal


def calls(*changed: dict[str, Any]) -> list[Call]:
    kept = Window(1000, 300)
    for number, each in enumerate(changed):
        kept.add(leaf(number, 100, **each))
    kept.add(refusal(999, 100))
    return list(kept)


def one(*changed: dict[str, Any]) -> QualityRow:
    (row,) = quality(calls(*changed))
    return row


def test_what_nobody_told_is_absent() -> None:
    row = one({}, {})
    assert {each.name for each in row.signals} == {"malformed", "retried", "untold"}
    assert row.get("length") is None and row.get("broken") is None and row.get("declined") is None
    assert signals([]) == []


STREAM = {"what__stream": True, "result__chunks": 3}


@pytest.mark.parametrize(
    ("name", "hit", "miss"),
    [
        ("length", {"result__finish": ["length"]}, {"result__finish": ["stop"]}),
        ("filtered", {"result__finish": ["content_filter"]}, {"result__finish": ["stop"]}),
        ("filtered", {"result__state": "refused", "result__code": "content_filter"}, {"result__finish": ["stop"]}),
        ("declined", {"compared": {"refused": True}}, {"compared": {"refused": False}}),
        ("agreed", {"compared": {"equal": True}}, {"compared": {"equal": False}}),
        ("malformed", {"result__state": "failed", "result__code": "upstream_malformed"}, {}),
        (
            "malformed",
            {"result__state": "failed", "result__code": "untranslatable"},
            {"result__code": "upstream_error"},
        ),
        ("broken", {**STREAM, "result__state": "interrupted"}, STREAM),
        ("left", {**STREAM, "result__state": "disconnected"}, STREAM),
        ("retried", {"where__attempts": 2}, {}),
        ("untold", {"tokens__origin": "reserved"}, {}),
    ],
)
def test_each_signal_counts_what_it_says(name: str, hit: dict[str, Any], miss: dict[str, Any]) -> None:
    assert one(hit, miss, miss).get(name) == Signal(name, 1, 3)
    assert one(miss).get(name) == Signal(name, 0, 1)


def test_a_stream_without_words_is_no_broken_one() -> None:
    row = one({"what__stream": True, "result__state": "failed"}, {"result__chunks": 4, "result__state": "failed"})
    assert row.get("broken") is None


def test_rows_are_by_source_and_model_and_refusals_are_none() -> None:
    rows = quality(calls({"where__model": "a"}, {"where__model": "a"}, {"where__model": "b"}, {"where__name": ""}))
    assert [(row.model, row.calls) for row in rows] == [("a", 2), ("b", 1)]
    assert len({kind.name for kind in KINDS}) == len(KINDS) and all(kind.hint.endswith(".") for kind in KINDS)


def test_verdicts_are_of_ones_own_tenant_and_failures_come_first() -> None:
    running = Canary("c1", AliasTarget("m"), 100, 0)
    failed = Canary("c2", AliasTarget("m"), 100, 0, state="failed", ended_why="too many failures")
    known = {("ten_a", "fast"): running, ("ten_a", "slow"): failed, ("ten_b", "other"): failed, ("", "all"): running}
    assert [name for _, name, _ in verdicts(known, "ten_a")] == ["slow", "fast"]
    assert [name for _, name, _ in verdicts(known, "")] == ["slow", "other", "all", "fast"]
