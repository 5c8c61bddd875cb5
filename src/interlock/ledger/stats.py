"""Figures of a log, for metrics."""

from __future__ import annotations

import msgspec


class LogStats(msgspec.Struct, frozen=True):
    """Figures of one log since it was opened. `pending_bytes`: appended and not durable yet.

    `dropped`: records given up on a full disk. `lost_outcomes`: of these, ends of calls that could not be written
    later either; the next start finds them as interrupted.
    """

    epoch: str
    segments: int
    bytes: int
    records: int
    writes: int
    fsyncs: int
    fsync_us_sum: int
    pending_bytes: int
    open_calls: int
    dropped: int
    lost_outcomes: int
