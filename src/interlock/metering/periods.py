"""The periods of a budget's window. Pure.

A window is a calendar unit in the tenant's time zone (`day`, `week` from Monday, `month`, `quarter`, `year`), `total`
(one period for ever), or a length such as `90m`, `6h` or `30d`, whose periods follow each other from the Unix epoch on.
`hour` is `1h`. Periods of a window tile the time: none overlap, none is missed, also where clocks are changed.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

CALENDAR = ("day", "week", "month", "quarter", "year")
TOTAL = "total"
END_OF_TIME_S = 1 << 60
LENGTH_MIN_S = 60
LENGTH_MAX_S = 366 * 86_400
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


class Period(NamedTuple):
    """The instants [start_s, end_s), Unix seconds."""

    start_s: int
    end_s: int


def length_s(window: str) -> int:
    """Seconds of a window that is a length; 0 of one that is not. Raises ValueError for what is no window."""
    if window in CALENDAR or window == TOTAL:
        return 0
    if window == "hour":
        return 3600
    found = _LENGTH.fullmatch(window)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not LENGTH_MIN_S <= seconds <= LENGTH_MAX_S:
        raise ValueError(
            f"{window!r} is no window: hour, day, week, month, quarter, year, total, or a length from 1m to 366d"
        )
    return seconds


def period(window: str, zone: ZoneInfo, at_s: int) -> Period:
    """The period that an instant (Unix seconds) lies in. Raises ValueError for what is no window."""
    length = length_s(window)
    if length:
        start_s = at_s - at_s % length
        return Period(start_s, start_s + length)
    if window == TOTAL:
        return Period(0, END_OF_TIME_S)
    first = _first_day(window, datetime.fromtimestamp(at_s, zone))
    found = Period(_midnight(first, zone), _midnight(_next(window, first), zone))
    if found.end_s <= at_s:  # clocks went back over midnight: the hour that comes again is of the new day
        first = _next(window, first)
        found = Period(found.end_s, _midnight(_next(window, first), zone))
    return found


def _first_day(window: str, day: datetime) -> datetime:
    day = day.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0, fold=0)
    if window == "week":
        return day - timedelta(days=day.weekday())
    if window == "month":
        return day.replace(day=1)
    if window == "quarter":
        return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
    if window == "year":
        return day.replace(month=1, day=1)
    return day


def _next(window: str, first: datetime) -> datetime:
    if window == "day":
        return first + timedelta(days=1)
    if window == "week":
        return first + timedelta(days=7)
    months = {"month": 1, "quarter": 3, "year": 12}[window]
    month = first.month - 1 + months
    return first.replace(year=first.year + month // 12, month=month % 12 + 1)


def _midnight(day: datetime, zone: ZoneInfo) -> int:
    """Unix seconds of a day's first instant: of a midnight that comes twice the first, of one that is skipped the
    instant at which the clock jumps."""
    return int(day.replace(tzinfo=zone).timestamp())
