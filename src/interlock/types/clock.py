"""Time, passed in: the wall clock that records carry, and the monotonic clock that durations are measured with."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Nothing that decides reads a clock by itself, so that tests can hold it still."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch (UTC). May jump when the machine's clock is set."""

    def mono_ns(self) -> int:
        """Nanoseconds on a clock that never goes back. Comparable between processes of one boot, not across boots."""


class SystemClock:
    """The machine's clocks: CLOCK_REALTIME and CLOCK_MONOTONIC (about 50 ns a call)."""

    wall_ns = staticmethod(time.time_ns)
    mono_ns = staticmethod(time.monotonic_ns)
