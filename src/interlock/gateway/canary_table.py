"""How the canaries of a node's aliases do, counted by all its workers together, and which of them it has taken back.

One row per canary, in the node's shared memory: counts of the canary and of what it stands beside, in slices of time. A
worker counts each attempt and judges the canary in the same moment, under one lock, so that the verdict falls with the
attempt that brings it about, whichever worker made it. From then on `ended` is true for every worker of the node.

A worker that dies while it counts leaves one attempt counted by half; the lock is given back by the kernel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from interlock.errors import Unavailable
from interlock.metering.shared import HEADER_WORDS, WORD, SharedFile, word_pair
from interlock.settings import Settings
from interlock.types.snapshot import Canary

MAGIC = b"ilCanary"
SLICES = 5
"""Slices that are kept: a window's quarters, and the one that is being filled."""
QUARTERS = 4
STEPS = 8
"""Buckets of a doubling: a time is known to 12 %."""
OCTAVES = 20
BUCKETS = 1 + STEPS * OCTAVES
"""Up to 17 minutes; the last one takes what is longer."""
P95_MILLI = 50
"""As many of a thousand times may be beyond a bound of the 95th percentile."""

ENDED, AT, BAD, CALLS, BOUND = 2, 3, 4, 5, 6
"""Words of a row: which condition was broken (0: none), when (Unix nanoseconds), by how many of how many calls, and the
bound. 0 and 1 are its digest."""
ROW_HEAD = 8
STAMP, SEEN, FAILED, TIMED_FIRST, SLOW_FIRST, TIMED_TOTAL, SLOW_TOTAL = range(7)
SLICE_HEAD = 8
FIRST, TOTAL = SLICE_HEAD, SLICE_HEAD + BUCKETS
SLICE = SLICE_HEAD + 2 * BUCKETS
ROW = ROW_HEAD + 2 * SLICES * SLICE
TRIED, BESIDE = 0, 1
"""The arms: the canary, and what it stands beside."""

REASONS = (
    "",
    "errors",
    "errors_over_stable",
    "first_byte",
    "total",
    "first_byte_over_stable",
    "total_over_stable",
)


class Verdict(NamedTuple):
    """A canary was taken back: which condition, what was found (`bad` of `calls`), the bound (thousandths or ms)."""

    reason: str
    at_ns: int
    bad: int
    calls: int
    bound: int

    @property
    def words(self) -> str:
        """The verdict in one sentence."""
        if self.reason == "errors":
            return f"{self.bad} of {self.calls} calls failed; at most {self.bound / 10:g} % may"
        if self.reason == "errors_over_stable":
            return (
                f"{self.bad} of {self.calls} calls failed; beside it at most {self.bound / 10:g} % were to be expected"
            )
        what = "to the first byte" if self.reason.startswith("first_byte") else "in total"
        whose = " (from the other targets)" if self.reason.endswith("over_stable") else ""
        return f"{self.bad} of {self.calls} calls took longer {what} than {self.bound} ms{whose}; at most 5 % may"


class CanaryTable:
    """The node's canaries. The node creates it, each worker opens it; a handle belongs to one thread."""

    def __init__(self, file: SharedFile) -> None:
        self.rows = file.geometry[0]
        self._file = file
        self._words = file.words
        self._known: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def create(cls, path: Path, settings: Settings, *, anonymous: bool = True) -> CanaryTable:
        """A new table with room for `canaries_max` canaries. Raises Unavailable."""
        size = (HEADER_WORDS + settings.canaries_max * ROW) * WORD
        file = SharedFile.create(
            path,
            magic=MAGIC,
            geometry=(settings.canaries_max,),
            size=size,
            reserved=size,
            wait_ms=settings.limit_lock_wait_ms,
            anonymous=anonymous,
        )
        return cls(file)

    @classmethod
    def open(cls, path: Path, settings: Settings) -> CanaryTable:
        """The node's table. Raises Unavailable."""
        return cls(SharedFile.open(path, magic=MAGIC, wait_ms=settings.limit_lock_wait_ms))

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._file.close()

    # -- what workers do

    def ended(self, canary: Canary) -> bool:
        """Whether this node has taken the canary back. Also when it cannot be watched, because the table is full."""
        try:
            return self._words[self._row(canary.id) + ENDED] != 0
        except Unavailable:
            return True

    def count(
        self,
        canary: Canary,
        arm: int,
        now_ns: int,
        wall_ns: int,
        *,
        calls: int = 1,
        failed: int = 0,
        first_us: int = -1,
        total_us: int = -1,
    ) -> Verdict | None:
        """Count an attempt of an arm; the verdict when this one brings it about. Times in microseconds, -1: not known.

        `calls` 0: of an attempt that was counted before, something more is known."""
        try:
            base = self._row(canary.id)
        except Unavailable:
            return None
        if not self._file.lock():
            return None
        try:
            at = self._slice(base, canary, arm, now_ns)
            words = self._words
            words[at + SEEN] += calls
            words[at + FAILED] += failed
            if first_us >= 0:
                self._time(at, FIRST, TIMED_FIRST, first_us, canary.first_byte_ms_max)
            if total_us >= 0:
                self._time(at, TOTAL, TIMED_TOTAL, total_us, canary.total_ms_max)
            if arm != TRIED or words[base + ENDED]:
                return None
            found = self._judge(base, canary, now_ns)
            if found is None:
                return None
            verdict = Verdict(found[0], wall_ns, *found[1:])
            self._end(base, verdict)
            return verdict
        finally:
            self._file.unlock()

    # -- what the node does

    def end(self, canary_id: str, verdict: Verdict) -> None:
        """Take a canary back that was taken back before this table was made. Raises Unavailable."""
        base = self._row(canary_id)
        if self._file.lock():
            try:
                self._end(base, verdict)
            finally:
                self._file.unlock()

    def verdict(self, canary_id: str) -> Verdict | None:
        """Why the canary was taken back, or None."""
        try:
            base = self._row(canary_id)
        except Unavailable:
            return None
        reason, at_ns, bad, calls, bound = self._words[base + ENDED : base + BOUND + 1]
        return Verdict(REASONS[reason], at_ns, bad, calls, bound) if reason else None

    def figures(self, canary: Canary, now_ns: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(calls, failures) within the window, of the canary and of what it stands beside."""
        base = self._row(canary.id)
        of = [self._sums(base, canary, arm, now_ns) for arm in (TRIED, BESIDE)]
        return (of[0][SEEN], of[0][FAILED]), (of[1][SEEN], of[1][FAILED])

    def retire(self, keep: Collection[str]) -> None:
        """Free the rows of all other canaries. Only when no worker runs on a snapshot that has them."""
        kept = {_digest(canary_id) for canary_id in keep}
        if not self._file.lock():
            return
        try:
            for row in range(self.rows):
                base = HEADER_WORDS + row * ROW
                digest = self._words[base], self._words[base + 1]
                if digest[1] and digest not in kept:
                    self._words[base + 1] = 0
        finally:
            self._file.unlock()

    # -- inside

    def _row(self, canary_id: str) -> int:
        """First word of the canary's row, taken for it if it had none. Raises Unavailable when the table is full."""
        known = self._known.get(canary_id)
        if known is not None:
            base, high, low = known
            if self._words[base] == high and self._words[base + 1] == low:
                return base
        if not self._file.lock():
            raise Unavailable("The node's canaries are held by a process that does not answer.")
        try:
            return self._assign(canary_id)
        finally:
            self._file.unlock()

    def _assign(self, canary_id: str) -> int:
        high, low = _digest(canary_id)
        free = -1
        for row in range(self.rows):
            base = HEADER_WORDS + row * ROW
            taken = self._words[base + 1]
            if taken == low and self._words[base] == high:
                break
            if not taken and free < 0:
                free = base
        else:
            if free < 0:
                raise Unavailable(f"This node watches {self.rows} canaries already (canaries_max).")
            base = free
            self._file.buffer[base * WORD : (base + ROW) * WORD] = bytes(ROW * WORD)
            self._words[base] = high
            self._words[base + 1] = low  # last: it marks the row as taken
        if len(self._known) >= 2 * self.rows:
            self._known.clear()
        self._known[canary_id] = (base, high, low)
        return base

    def _slice(self, base: int, canary: Canary, arm: int, now_ns: int) -> int:
        """First word of the slice of this moment, emptied when it was of an earlier one."""
        stamp = _stamp(canary, now_ns)
        at = base + ROW_HEAD + (arm * SLICES + stamp % SLICES) * SLICE
        if self._words[at + STAMP] != stamp:
            self._file.buffer[at * WORD : (at + SLICE) * WORD] = bytes(SLICE * WORD)
            self._words[at + STAMP] = stamp
        return at

    def _time(self, at: int, histogram: int, timed: int, us: int, bound_ms: int) -> None:
        words = self._words
        words[at + timed] += 1
        words[at + histogram + bucket(us)] += 1
        if bound_ms and us > bound_ms * 1000:
            words[at + timed + 1] += 1

    def _sums(self, base: int, canary: Canary, arm: int, now_ns: int, *, times: bool = False) -> list[int]:
        """The words of a slice, added up over the window (the stamp is none of them); with `times` the buckets too."""
        oldest = _stamp(canary, now_ns) - QUARTERS
        size = SLICE if times else SLICE_HEAD
        sums = [0] * size
        for number in range(SLICES):
            at = base + ROW_HEAD + (arm * SLICES + number) * SLICE
            if self._words[at + STAMP] >= oldest:
                sums = [a + b for a, b in zip(sums, self._words[at : at + size], strict=True)]
        return sums

    def _judge(self, base: int, canary: Canary, now_ns: int) -> tuple[str, int, int, int] | None:
        """(reason, bad, calls, bound) of the first condition that is broken; with the lock held."""
        least = canary.calls_min
        tried = self._sums(base, canary, TRIED, now_ns)
        seen, failed = tried[SEEN], tried[FAILED]
        if canary.errors_milli_max >= 0 and too_many(failed, seen, canary.errors_milli_max, least):
            return "errors", failed, seen, canary.errors_milli_max
        for reason, timed, bound in (
            ("first_byte", TIMED_FIRST, canary.first_byte_ms_max),
            ("total", TIMED_TOTAL, canary.total_ms_max),
        ):
            if bound and too_many(tried[timed + 1], tried[timed], P95_MILLI, least):
                return reason, tried[timed + 1], tried[timed], bound
        if canary.errors_milli_over_stable < 0 and not canary.first_byte_percent_max and not canary.total_percent_max:
            return None
        times = canary.first_byte_percent_max > 0 or canary.total_percent_max > 0
        beside = self._sums(base, canary, BESIDE, now_ns, times=times)
        if times:
            tried = self._sums(base, canary, TRIED, now_ns, times=True)
        if canary.errors_milli_over_stable >= 0 and beside[SEEN] >= least:
            bound = -(-1000 * beside[FAILED] // beside[SEEN]) + canary.errors_milli_over_stable
            if too_many(failed, seen, bound, least):
                return "errors_over_stable", failed, seen, bound
        for reason, timed, histogram, percent in (
            ("first_byte_over_stable", TIMED_FIRST, FIRST, canary.first_byte_percent_max),
            ("total_over_stable", TIMED_TOTAL, TOTAL, canary.total_percent_max),
        ):
            if not percent or beside[timed] < least:
                continue
            bound = percentile_ms(beside[histogram : histogram + BUCKETS], beside[timed]) * percent // 100
            first = beyond(bound)
            slow = sum(tried[histogram + first : histogram + BUCKETS])
            if too_many(slow, tried[timed], P95_MILLI, least):
                return reason, slow, tried[timed], bound
        return None

    def _end(self, base: int, verdict: Verdict) -> None:
        words = self._words
        words[base + AT] = verdict.at_ns
        words[base + BAD] = verdict.bad
        words[base + CALLS] = verdict.calls
        words[base + BOUND] = verdict.bound
        words[base + ENDED] = REASONS.index(verdict.reason)  # last: it marks the rest as whole


def too_many(bad: int, calls: int, milli_max: int, calls_min: int) -> bool:
    """More bad calls than `milli_max` of a thousand, where at least `calls_min` calls are taken to have been made.

    So the bad call that no later good one among the first `calls_min` could make up for is the one that decides."""
    return bad * 1000 > milli_max * max(calls, calls_min)


def bucket(us: int) -> int:
    """The bucket of a time: 0 below a millisecond, then eight to a doubling."""
    ms = us // 1000
    if ms < 1:
        return 0
    octave = ms.bit_length() - 1
    step = ((ms << 3) >> octave) & 7
    return min(1 + STEPS * octave + step, BUCKETS - 1)


def lower_ms(number: int) -> int:
    """The least time that falls into a bucket, in milliseconds, rounded up."""
    if not number:
        return 0
    octave, step = divmod(number - 1, STEPS)
    return -(-((8 + step) << octave) // 8)


def percentile_ms(histogram: list[int], count: int) -> int:
    """Upper edge of the bucket that holds the 95th percentile of `count` times, in milliseconds."""
    left = count * 50 // 1000
    for number in range(BUCKETS - 1, -1, -1):
        left -= histogram[number]
        if left < 0:
            return lower_ms(number + 1)
    return 0


def beyond(bound_ms: int) -> int:
    """The first bucket of which every time is above a bound; BUCKETS when there is none."""
    return next((number for number in range(BUCKETS) if lower_ms(number) > bound_ms), BUCKETS)


def _stamp(canary: Canary, now_ns: int) -> int:
    return now_ns // (canary.window_s * 1_000_000_000 // QUARTERS)


def _digest(canary_id: str) -> tuple[int, int]:
    return word_pair(hashlib.blake2b(canary_id.encode(), digest_size=16).digest())
