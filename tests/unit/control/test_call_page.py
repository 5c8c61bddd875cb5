"""What the page of a call says of its objectives."""

from __future__ import annotations

from typing import Any

from interlock.control.console.call_page import Decision, objectives_of
from interlock.types.decision import Candidate, RouteDecision
from interlock.types.slo import MET, Foreseen


def test_objectives_are_told_with_what_was_predicted_and_what_became_of_them() -> None:
    told: dict[str, Any] = {
        "ttft_ms": 500, "latency_ms": 0, "cost_nusd": 10_000_000, "strict": True, "predicted": {"verdict": "met"},
        "ttft": "missed", "cost": "met", "outcome": "missed",
    }  # fmt: skip
    assert objectives_of({"slo": told}) == (
        "first byte within 500 ms, at most 0.01 USD, strictly; predicted: met; measured: first byte missed, cost met"
    )
    assert objectives_of({}) == ""


def test_a_candidates_remark_has_its_prediction() -> None:
    seen = Foreseen(MET, 200_000, 900_000, 1000)
    route = RouteDecision(
        "own", (Candidate("a::m", 1, overflow=True), Candidate("b::m", 1)), (), (), 0, 1, foreseen=(seen, seen)
    )
    first, second = Decision(None, route, (1, 0, 0, 0), [], ()).remarks
    assert second == "predicted met: 200 ms to its first byte, 900 ms in all, 0.000001 USD"
    assert first == f"{second}; takes the excess of a saturated one that is preferred"
