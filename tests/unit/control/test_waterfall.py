"""The bars of a call: stages that follow each other without gap or overlap, on one scale."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from bench.ledger import intent

from interlock.control.console.waterfall import WIDTH, bars, bars_of_leaf
from interlock.types.record import Attempt, AttemptEnd, Interrupted, Outcome, StepEnd
from interlock.types.usage import Cost, Energy, Usage

START_NS = 5_000_000_000
MS_NS = 1_000_000


def _intent() -> Any:
    return msgspec.structs.replace(intent(1, []), mono_ns=START_NS)


def _attempt(number: int, ms: int, waited_ms: int = 0, *, off_prem: bool = False) -> Attempt:
    at = START_NS + ms * MS_NS
    return Attempt(1, number, at, f"src_{number}", f"s{number}", "m", "", "", "", off_prem, waited_ms=waited_ms)


def _end(number: int, ms: int, code: str = "upstream_refused", status: int = 0) -> AttemptEnd:
    return AttemptEnd(1, number, START_NS + ms * MS_NS, code, status, "words that may quote the call")


def _outcome(ms: int, first_ms: int = 0, state: str = "completed", code: str = "") -> Outcome:
    usage = Usage(1, 0, 1)
    at = START_NS + ms * MS_NS
    return Outcome(1, at, state, 200, 1, "s1", "m", "m", (), usage, first_ms * 1000, ms * 1000, code=code)


def test_stages_follow_each_other_from_the_arrival_to_the_end() -> None:
    records = [
        _intent(),
        _attempt(0, 30, 20),
        _end(0, 50, status=503),
        _attempt(1, 90, 55, off_prem=True),
        _outcome(400, 150),
    ]
    found = bars(records)
    assert [(bar.name, bar.kind, bar.start_us // 1000, bar.us // 1000) for bar in found] == [
        ("Checked and decided", "own", 0, 10),
        ("Waited for a seat", "seat", 10, 20),
        ("Attempt 1", "failed", 30, 20),
        ("Next candidate", "own", 50, 5),
        ("Waited for a seat", "seat", 55, 35),
        ("Attempt 2, until the first byte", "source", 90, 60),
        ("Attempt 2, the answer", "answer", 150, 250),
    ]
    for bar, following in itertools.pairwise(found):
        assert bar.start_us + bar.us == following.start_us
    assert found[2].result == "upstream_refused, status 503" and found[2].where == "s0::m"
    assert [bar.off_prem for bar in found] == [False] * 5 + [True] * 2
    assert found[-1].result == "completed"
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.width > 0 for bar in found)
    assert not any("quote" in str(bar) for bar in found), "what may quote the call is not among the results"


def test_an_answer_that_is_not_streamed_is_one_bar_and_a_failure_is_marked() -> None:
    whole = bars([_intent(), _attempt(0, 0), _outcome(100, 100)])
    assert [(bar.name, bar.kind) for bar in whole] == [("Attempt 1", "source")]
    broken = bars([_intent(), _attempt(0, 10), _outcome(100, 0, "failed", "upstream_closed")])
    assert (broken[-1].kind, broken[-1].result) == ("failed", "failed: upstream_closed")
    gave_up = bars([_intent(), _attempt(0, 10), _end(0, 60), _outcome(100, 0, "failed", "x")])
    assert [(bar.name, bar.us // 1000) for bar in gave_up][-1] == ("Ended", 40)


def test_what_is_not_recorded_is_not_drawn() -> None:
    assert bars([]) == [] and bars([_intent()]) == []
    assert bars([_intent(), _attempt(0, 1), Interrupted("e", 1, 1, 0, 0, 0, 0, False)]) == []
    assert bars_of_leaf({"result": {"state": "refused"}}) == []
    leaf = {"times": {"first_us": 40_000, "total_us": 100_000}, "result": {"state": "completed"}}
    assert [(bar.kind, bar.x, bar.width) for bar in bars_of_leaf(leaf)] == [("source", 0, 400), ("answer", 400, 600)]


@pytest.mark.parametrize("ms", [0, 1])
def test_a_call_of_no_time_has_a_scale(ms: int) -> None:
    assert all(bar.x + bar.width <= WIDTH for bar in bars([_intent(), _attempt(0, 0), _outcome(ms)]))


def test_steps_of_a_cascade_end_when_they_were_checked() -> None:
    steps = [
        StepEnd(1, n, n, START_NS + ms * MS_NS, "m", n == 1, (f"json:{found}",), (), Usage(), Cost(), Energy())
        for n, ms, found in ((0, 100, "failed"), (1, 390, "passed"))
    ]
    records = [_intent(), _attempt(0, 10), steps[0], _attempt(1, 110), steps[1], _outcome(400)]
    drawn = bars(records)
    spans = [(bar.name, bar.start_us, bar.us, bar.result) for bar in drawn]
    assert ("Attempt 1, step 1", 10_000, 90_000, "json:failed") in spans
    assert ("Attempt 2, step 2", 110_000, 280_000, "json:passed") in spans
    assert all(a.start_us + a.us == b.start_us for a, b in itertools.pairwise(drawn))
