"""A clock that moves only when a test moves it."""

from __future__ import annotations

START_NS = 1_800_000_000_000_000_000
"""Where a fake wall clock begins: 2027-01-15T08:00:00Z."""


class FakeClock:
    """Satisfies `interlock.types.clock.Clock`. Wall and monotonic time advance together, in nanoseconds.

    `set_wall_ns` moves only the wall clock, as an administrator or NTP would.
    """

    def __init__(self, wall_ns: int = START_NS, mono_ns: int = 1_000_000_000_000) -> None:
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._wall_ns

    def mono_ns(self) -> int:
        """Monotonic nanoseconds."""
        return self._mono_ns

    def advance(self, *, s: float = 0, ms: float = 0, ns: int = 0) -> None:
        """Let time pass; the parts are added. Raises ValueError when the sum is negative."""
        step = round(s * 1_000_000_000) + round(ms * 1_000_000) + ns
        if step < 0:
            raise ValueError("a clock cannot be advanced backwards; use set_wall_ns")
        self._wall_ns += step
        self._mono_ns += step

    def set_wall_ns(self, wall_ns: int) -> None:
        """Set the wall clock, forwards or back; the monotonic clock does not notice."""
        self._wall_ns = wall_ns
