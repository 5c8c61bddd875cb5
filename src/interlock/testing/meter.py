"""A scripted energy meter: counts what a test says, fails when told to."""

from __future__ import annotations

from collections.abc import Callable

from interlock.sources.meters import MeterError


class ScriptedMeter:
    """Reads `counter()` microjoules; raises MeterError while `broken`."""

    method = "scripted"

    def __init__(self, counter: Callable[[], int]) -> None:
        self._counter = counter
        self.broken = False
        self.closed = False
        self.read_last = 0

    def read(self) -> int:
        """See `interlock.sources.meters.Meter`."""
        if self.broken:
            raise MeterError("the scripted meter is broken")
        self.read_last = self._counter()
        return self.read_last

    def close(self) -> None:
        """See `interlock.sources.meters.Meter`."""
        self.closed = True
