"""When a budget runs out: a straight line from what was used, exact at its ends."""

from __future__ import annotations

import pytest

from interlock.metering.forecast import COUNTED_MIN_S, DAY_S, Forecast, forecast
from interlock.metering.periods import END_OF_TIME_S


def test_half_used_in_a_third_of_the_time_runs_out_at_two_thirds() -> None:
    assert forecast(50, 100, 0, 10 * DAY_S, 30 * DAY_S) == Forecast(5, 20 * DAY_S, 150)


def test_what_lasts_does_not_run_out() -> None:
    assert forecast(10, 100, 0, 10 * DAY_S, 30 * DAY_S) == Forecast(1, None, 30)
    assert forecast(100, 100, 0, DAY_S, 2 * DAY_S) == Forecast(100, DAY_S, 200)
    just = forecast(50, 100, 0, 600, 1200)
    assert just is not None and just.runs_out_s is None, "used up with the period, not before"


def test_a_total_has_no_end_to_foretell() -> None:
    found = forecast(10, 100, 0, DAY_S, END_OF_TIME_S)
    assert found == Forecast(10, 10 * DAY_S, None)


@pytest.mark.parametrize(("used", "counted_s"), [(0, DAY_S), (5, COUNTED_MIN_S - 1)])
def test_too_little_tells_nothing(used: int, counted_s: int) -> None:
    assert forecast(used, 100, 0, counted_s, 30 * DAY_S) is None


def test_the_instant_is_rounded_away_from_now() -> None:
    found = forecast(3, 10, 0, 1000, DAY_S)
    assert found is not None and found.runs_out_s == 1000 + 2334
