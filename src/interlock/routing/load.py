"""How busy a source is, from its reading: what waits there, what runs there, and whether it should get no more."""

from __future__ import annotations

from interlock.types.source import LoadReading, Offer

UNKNOWN = LoadReading()
"""The reading of a source that nothing is known of: not idle, not saturated, taken for healthy."""


def saturated(offer: Offer, reading: LoadReading) -> bool:
    """True when the source should get no more than it has: its queue is too long, or our own cap on it is reached."""
    if reading.saturated:
        return True
    limits = offer.source.limits
    if reading.waiting >= 0 and reading.waiting + sent_since(reading) > limits.waiting_max:
        return True
    return limits.concurrency is not None and reading.inflight >= limits.concurrency


def sent_since(reading: LoadReading) -> int:
    """By how many calls the engine may hold more than it said, through us: those it did not know of, still waited for.

    Calls that ended since made room for as many. So when the engine says how many it held, only what we have in
    flight beyond that counts; else a fast engine with an empty queue would seem saturated by its own throughput.
    """
    since = reading.inflight_since
    if not since or reading.running < 0:
        return since
    beyond = reading.inflight - reading.running - reading.waiting
    if beyond >= since:
        return since
    return beyond if beyond > 0 else 0


def load_of(offer: Offer, reading: LoadReading) -> tuple[int, int]:
    """(queue, busy): requests that wait there or came on top since the reading, and requests that run or are ours.

    An unknown queue counts as half of the one that saturates, never as empty.
    """
    inflight = reading.inflight
    if reading.waiting < 0:
        return unknown_queue(offer.source.limits.waiting_max), inflight
    running = reading.running
    return reading.waiting + sent_since(reading), running if running > inflight else inflight


def unknown_queue(waiting_max: int) -> int:
    """The queue that counts where none is known."""
    return max(1, waiting_max // 2)
