"""When a budget will be used up if it goes on as it did. Pure, in integers.

The rate is the average since counting began: what was used, divided by the time since the period's start or since the
budget was set, whichever is later. It knows nothing of nights, weekends or of what is planned: a straight line.
"""

from __future__ import annotations

from typing import NamedTuple

from interlock.metering.periods import END_OF_TIME_S

COUNTED_MIN_S = 300
"""For a shorter time than this nothing is foretold: a first call would look like a flood."""
DAY_S = 86_400


class Forecast(NamedTuple):
    """`per_day`: units used in 24 hours at the average rate, rounded down. `runs_out_s`: Unix seconds at which the
    amount is used up at that rate, None when the period ends before. `at_end`: units that will be used when the period
    ends, None for one that never does."""

    per_day: int
    runs_out_s: int | None
    at_end: int | None


def forecast(used: int, amount: int, since_s: int, now_s: int, end_s: int) -> Forecast | None:
    """What is to be expected of a period counted since `since_s`; None when there is too little to tell by."""
    counted_s = now_s - since_s
    if used <= 0 or counted_s < COUNTED_MIN_S:
        return None
    runs_out_s: int | None = now_s if used >= amount else now_s + -((used - amount) * counted_s // used)
    if runs_out_s is not None and runs_out_s >= end_s:
        runs_out_s = None
    at_end = None if end_s == END_OF_TIME_S else used + used * max(end_s - now_s, 0) // counted_s
    return Forecast(used * DAY_S // counted_s, runs_out_s, at_end)
