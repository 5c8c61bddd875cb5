"""What is held against an engine is never more than the truth: calls it has had for long and has not taken up."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from interlock.sources.load import TAKEN_UP_NS, Load, Marks, not_taken_up

SECOND_NS = 1_000_000_000
times = st.integers(0, 10 * SECOND_NS)


class Past(NamedTuple):
    """A call: when it was sent, when the engine took it up, when it ended. One may end without being taken up."""

    sent_ns: int
    taken_ns: int
    ended_ns: int


@st.composite
def calls(draw: st.DrawFn) -> Past:
    """A call of up to some seconds."""
    sent = draw(times)
    return Past(sent, sent + draw(times), sent + 1 + draw(times))


@given(
    ours=st.lists(calls(), max_size=30),
    others=st.integers(0, 5),
    readings=st.lists(st.tuples(times, st.integers(0, SECOND_NS)), min_size=1, max_size=20),
)
def test_never_more_than_the_truth(ours: list[Past], others: int, readings: list[tuple[int, int]]) -> None:
    marks = Marks()
    now = 1
    for pause, answer in sorted(readings):
        asked = now = max(now, pause)
        settled = marks.settled(asked, sum(call.sent_ns <= asked for call in ours))
        now += answer
        there = [call for call in ours if call.sent_ns <= now < call.ended_ns]
        entered = sum(call.sent_ns <= now for call in ours)
        counted = sum(call.taken_ns <= now for call in there)
        found = not_taken_up(Load(waiting=others, running=counted), len(there), entered - settled)
        truth = [call for call in there if call.sent_ns <= asked - TAKEN_UP_NS and call.taken_ns > now]
        assert found <= len(truth)


@given(waiting=st.integers(1, 50), period=st.integers(TAKEN_UP_NS, 2 * SECOND_NS))
def test_all_of_them_once_they_have_waited_for_two_readings(waiting: int, period: int) -> None:
    marks = Marks()
    marks.settled(1, 0)
    found = [
        not_taken_up(Load(0, 0), waiting, waiting - marks.settled(1 + number * period, waiting)) for number in (1, 2)
    ]
    assert found == [0, waiting]
