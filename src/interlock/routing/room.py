"""How many calls a source may have in flight through this node before another one waits for its seat."""

from __future__ import annotations

from interlock.routing.choose import sent_since
from interlock.types.source import LoadReading, SourceLimits

UNBOUNDED = 1 << 20


def room(limits: SourceLimits, reading: LoadReading) -> tuple[int, int]:
    """(most calls of ours with an interactive one, most with one of another class): one more may be sent while fewer
    are in flight. Pure.

    - Never more than `concurrency`.
    - While calls wait at the engine, and its queue is at `waiting_max`, what it runs plus that queue: as soon as one of
      ours has ended, another may follow, without waiting for the next reading.
    - None but interactive ones while the source is saturated.
    """
    most = limits.concurrency if limits.concurrency is not None else UNBOUNDED
    if reading.waiting < 0:
        return most, most
    queue = reading.waiting + sent_since(reading)
    if reading.waiting and queue >= limits.waiting_max and reading.running >= 0:
        most = min(most, max(1, reading.running + limits.waiting_max))
    return most, 0 if reading.saturated else most
