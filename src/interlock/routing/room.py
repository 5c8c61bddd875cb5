"""How many calls a source may have in flight through this node before another one waits for its seat."""

from __future__ import annotations

from interlock.routing.load import sent_since
from interlock.types.source import LoadReading, SourceLimits

UNBOUNDED = 1 << 20


def room(limits: SourceLimits, reading: LoadReading) -> tuple[int, int]:
    """(most calls of ours with an interactive one, most with one of another class): one more may be sent while fewer
    are in flight. Pure.

    - Never more than `concurrency`.
    - While calls wait at the engine and its queue is longer than `waiting_max`: what it runs plus one more than that.
      As soon as one of ours has ended another may follow, without waiting for the next reading.
    - Calls of the other classes do not make a queue longer than `waiting_max`, and none goes to a saturated source.
    """
    most = limits.concurrency if limits.concurrency is not None else UNBOUNDED
    if reading.waiting < 0:
        return most, most
    lower = most
    if reading.waiting and reading.running >= 0:
        queue = reading.waiting + sent_since(reading)
        if queue > limits.waiting_max:
            most = min(most, reading.running + limits.waiting_max + 1)
        if queue >= limits.waiting_max:
            lower = min(lower, reading.running + limits.waiting_max)
    return most, 0 if reading.saturated else lower
