"""Periods of windows: known days, and that they tile the time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.metering.periods import CALENDAR, END_OF_TIME_S, length_s, period

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


def _at(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


@pytest.mark.parametrize(
    ("window", "first", "after"),
    [
        ("day", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("week", "2026-10-19T00:00", "2026-10-26T00:00"),
        ("month", "2026-10-01T00:00", "2026-11-01T00:00"),
        ("quarter", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("year", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_calendars_are_the_tenants(window: str, first: str, after: str) -> None:
    found = period(window, BERLIN, _at("2026-10-25T12:00"))
    assert found == (_at(first), _at(after))


def test_the_day_on_which_clocks_change_is_one_day() -> None:
    start_s, end_s = period("day", BERLIN, _at("2026-10-25T12:00"))
    assert end_s - start_s == 25 * 3600
    # 00:01 becomes 23:01 of the day before: the minute after midnight belongs to the new day, and so does what follows
    newfoundland = ZoneInfo("America/St_Johns")
    before, after = (period("day", newfoundland, 1225593000 + more) for more in (-3600, 600))
    assert before.end_s == after.start_s


def test_lengths_follow_the_epoch() -> None:
    assert period("90m", BERLIN, 5400 * 7 + 1) == (5400 * 7, 5400 * 8)
    assert period("hour", BERLIN, 7199) == (3600, 7200)
    assert period("total", BERLIN, 7) == (0, END_OF_TIME_S)


@pytest.mark.parametrize("window", ["", "months", "0h", "-1d", "367d", "59s", "1y", "1.5h", "٣h", "1h\n"])
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match="is no window"):
        length_s(window)


@given(
    st.sampled_from([*CALENDAR, "hour", "6h", "30d", "7m"]),
    st.sampled_from(ZONES),
    st.integers(1_000_000_000, 2_200_000_000),
)
@example("day", "America/St_Johns", 1225593900)
@example("month", "Asia/Beirut", 1679781600)
@example("day", "Pacific/Apia", 1325239200)
def test_periods_tile_the_time(window: str, name: str, at_s: int) -> None:
    zone = ZoneInfo(name)
    found = period(window, zone, at_s)
    assert found.start_s <= at_s < found.end_s
    assert period(window, zone, found.start_s) == found
    assert period(window, zone, found.end_s - 1) == found
    assert period(window, zone, found.end_s).start_s == found.end_s
