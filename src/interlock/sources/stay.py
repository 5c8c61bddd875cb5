"""How long calls stay at a source lately, from nothing but how many of them are there and how many ever ended."""

from __future__ import annotations

import math

WINDOW_S = 30.0
"""What is this long ago counts 1/e."""
ENDED_MIN = 3.0
"""Fewer calls that ended say nothing."""
STAY_MS_MAX = 1 << 31
NS_PER_S = 1_000_000_000


class Stay:
    """The mean stay of a node's own calls at one source, from being sent to their end (Little's law: those there on
    average, over those that end in a second). What others send there is not needed for it."""

    def __init__(self) -> None:
        self._at_ns = 0
        self._inflight = 0
        self._ended = 0
        self._area = 0.0
        """Seconds that calls were there, each counted."""
        self._count = 0.0

    def look(self, now_ns: int, inflight: int, entered: int) -> int:
        """Milliseconds, -1 while it is not known. `entered`: calls that were ever sent; call it at each reading."""
        ended = entered - inflight
        if self._at_ns:
            took_s = max(0, now_ns - self._at_ns) / NS_PER_S
            kept = math.exp(-took_s / WINDOW_S)
            self._area = self._area * kept + took_s * (self._inflight + inflight) / 2
            self._count = self._count * kept + max(0, ended - self._ended)
        self._at_ns, self._inflight, self._ended = now_ns, inflight, ended
        if self._count < ENDED_MIN:
            return -1
        return min(round(1000 * self._area / self._count), STAY_MS_MAX)
