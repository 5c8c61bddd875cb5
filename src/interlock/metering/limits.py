"""The limit table: requests, tokens and concurrency per subject, counted in memory that a node's workers share.

INVARIANT: over all workers, the calls admitted within any 60 seconds (and the tokens reserved for, or used by, them)
are at most the limit. Each subject has a ring of one-second buckets. A call counts in the second of its admission
and in the 60 seconds after it, so every 60-second window lies inside the 61 buckets that are summed: the count may be
up to one second too strict, never too lax. The table's second never goes back: a worker that read its clock and was
then held up is admitted at the beginning of the newest second that any worker has counted in (`Admission.at_ns`).

INVARIANT: a process killed at any instruction leaves counts that are right or too high, never too low. Counts are
written under the lock; `DIRTY` names the one slot being written, and whoever finds it set makes that slot's totals
from its buckets again. Concurrency is one column per worker, written by its owner alone; `clear_worker` empties the
column of a dead one.

Layout: header page | index: two words a slot, the subject's digest | slots, each: generation, newest second, total,
concurrency by worker, RING buckets, the digest again. A total or bucket is one word: tokens above REQUEST_BITS bits of
requests, so that one write changes both.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from fcntl import flock
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from interlock.errors import Unavailable
from interlock.metering.hit import (
    CONCURRENCY,
    CONCURRENCY_RETRY_MS,
    REQUESTS,
    TOKENS,
    LimitHit,
    Subject,
    counters_stuck,
    reached,
    reset,
    table_full,
)
from interlock.metering.shared import HEADER_WORDS, LOCK, UNLOCK, USER_WORD, WORD, SharedFile, word_pair
from interlock.types.identity import LimitSet

__all__ = ["Admission", "LimitHit", "LimitTable", "Subject", "Used"]

MAGIC = b"ilLimits"
WINDOW_S = 60
RING = 64
"""Buckets of a slot: a power of two above WINDOW_S + 1. Buckets outside the window are zero."""
RING_MASK = RING - 1
REQUEST_BITS = 26
"""67 million requests a minute: more than the lock lets through."""
REQUEST_MASK = (1 << REQUEST_BITS) - 1
COUNT_MAX = (1 << 64) - 1
"""2.7e11 tokens a minute; what would count more is refused."""
TOKENS_MAX = 1 << 30
"""A call settled above this (an engine that lies) counts as this."""
PROBES_MAX = 128
"""Places looked at for a subject; all taken means: the table is full."""
PLACES_MAX = 16_384
"""Subjects whose place a worker remembers."""
SECOND_NS = 1_000_000_000
WAIT_MS = 100

DIRTY = USER_WORD
"""Header word: first word of the slot being written, 0 when none is."""
CLAIMED = USER_WORD + 1
"""Header word: slots ever taken."""
NEWEST = USER_WORD + 2
"""Header word: the newest second in which any worker has counted."""

GENERATION, HEAD, TOTAL, COLUMNS = 0, 1, 2, 3
"""Word offsets in a slot; COLUMNS: the first concurrency column."""

Place = tuple[str, int, int, int, int]
"""Where a subject is counted: its kind, first byte of the slot, first word, first word of the ring, generation."""
Part = tuple[Place, int, LimitSet, int]
"""One call on one subject: place, the second it is counted in, the limits, the total with it."""


class Used(NamedTuple):
    """What counts against a subject's limits at an instant."""

    requests: int
    tokens: int
    concurrency: int


class Admission:
    """One admitted call: what was reserved where. To be given to `LimitTable.settle` when the call has ended."""

    __slots__ = ("at_ns", "parts", "settled", "tokens")

    def __init__(self, parts: list[Part], tokens: int, at_ns: int) -> None:
        self.parts = parts
        self.tokens = tokens
        self.at_ns = at_ns
        """The instant of admission, on the monotonic clock: the one that limits are exact for."""
        self.settled = False

    def headers(self) -> list[tuple[str, str]]:
        """The `x-ratelimit-*` fields, for requests and for tokens each of the subject with the least left.

        `remaining` is what was left at admission, this call counted at its reservation; `reset` is how long, in whole
        seconds rounded up, until nothing counts any more if nothing is asked meanwhile.
        """
        fields: list[tuple[str, str]] = []
        requests: tuple[int, int, int] | None = None
        tokens: tuple[int, int, int] | None = None
        for _, second, limits, total in self.parts:
            rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
            if rpm is not None:
                left = rpm - (total & REQUEST_MASK)
                if requests is None or left < requests[0]:
                    requests = (left, rpm, second)
            if tpm is not None:
                left = tpm - (total >> REQUEST_BITS)
                if tokens is None or left < tokens[0]:
                    tokens = (left, tpm, second)
        if requests is not None:
            left, limit, second = requests
            fields.append(("x-ratelimit-limit-requests", str(limit)))
            fields.append(("x-ratelimit-remaining-requests", str(left)))
            fields.append(("x-ratelimit-reset-requests", reset(_until_ms(second, self.at_ns))))
        if tokens is not None:
            left, limit, second = tokens
            fields.append(("x-ratelimit-limit-tokens", str(limit)))
            fields.append(("x-ratelimit-remaining-tokens", str(left)))
            fields.append(("x-ratelimit-reset-tokens", reset(_until_ms(second, self.at_ns))))
        return fields


class LimitTable:
    """Limits of a node. The node creates it; each worker opens it under its own number, on one thread."""

    def __init__(self, file: SharedFile, worker: int | None) -> None:
        self.slots, self.workers, self._stride = file.geometry[:3]
        if worker is not None and not 0 <= worker < self.workers:
            file.close()
            raise ValueError(f"limit table: no worker {worker} among {self.workers}")
        self._file = file
        self._fd = file.fd
        self._words = file.words
        self._buffer = file.buffer
        self._body = HEADER_WORDS + 2 * self.slots
        self._ring = COLUMNS + self.workers
        self._digest = self._ring + RING
        self._column = COLUMNS + worker if worker is not None else 0
        self._read = struct.Struct(f"@{self._ring}Q").unpack_from
        self._read_ring = struct.Struct(f"@{RING}Q").unpack_from
        self._places: dict[str, Place] = {}

    @classmethod
    def create(
        cls, path: Path, *, slots: int, workers: int, wait_ms: int = WAIT_MS, anonymous: bool = True
    ) -> LimitTable:
        """New empty table for `slots` subjects and worker numbers below `workers`. Raises Unavailable."""
        stride = COLUMNS + workers + RING + 2
        index = (HEADER_WORDS + 2 * slots) * WORD
        file = SharedFile.create(
            path,
            magic=MAGIC,
            geometry=(slots, workers, stride),
            size=index + slots * stride * WORD,
            reserved=index,
            wait_ms=wait_ms,
            anonymous=anonymous,
        )
        return cls(file, None)

    @classmethod
    def open(cls, path: Path, *, worker: int, wait_ms: int = WAIT_MS) -> LimitTable:
        """The node's table, for one worker. A new process in a worker's place opens it after `clear_worker`."""
        return cls(SharedFile.open(path, magic=MAGIC, wait_ms=wait_ms), worker)

    def admit(self, subjects: Sequence[Subject], tokens: int, now_ns: int) -> Admission | LimitHit:
        """Count one call of at most `tokens` tokens on all subjects, or on none and say why.

        `now_ns` is the monotonic clock, which all processes of the node share: the call's admission instant.
        Subjects without limits cost nothing.
        """
        if tokens < 0:
            raise ValueError("limit table: a call cannot reserve a negative number of tokens")
        words, buffer, read, places = self._words, self._buffer, self._read, self._places
        now_s = now_ns // SECOND_NS
        cost = tokens << REQUEST_BITS | 1
        parts: list[Part] = []
        locked = False
        try:
            for subject in subjects:
                kind, name, limits = subject
                rpm = limits.requests_per_minute
                tpm = limits.tokens_per_minute
                cap = limits.concurrency
                if rpm is None and tpm is None and cap is None:
                    continue
                if not locked:
                    try:
                        flock(self._fd, LOCK)
                    except BlockingIOError:
                        if not self._file.wait():
                            return counters_stuck()
                    locked = True
                    if words[DIRTY]:
                        self._repair()
                    newest = words[NEWEST]
                    if now_s > newest:
                        words[NEWEST] = now_s
                    elif now_s < newest:
                        now_s = newest
                        now_ns = newest * SECOND_NS
                place = places.get(name)
                row = () if place is None else read(buffer, place[1])
                if place is None or place[0] != kind or row[GENERATION] != place[4] or row[HEAD] < now_s:
                    place = self._place(kind, name, now_s)
                    if place is None:
                        return self._refusal(subject, subjects, parts, tokens, now_ns)
                    row = read(buffer, place[1])
                second = row[HEAD]
                counted = 1 if tpm is None else cost
                total = row[TOTAL] + counted
                if (
                    (rpm is not None and total & REQUEST_MASK > rpm)
                    or (tpm is not None and (total >> REQUEST_BITS > tpm or total > COUNT_MAX))
                    or (cap is not None and sum(row[COLUMNS:]) >= cap)
                ):
                    return self._refusal(subject, subjects, parts, tokens, now_ns)
                _, _, base, ring, _ = place
                words[DIRTY] = base
                words[base + TOTAL] = total
                words[ring + (second & RING_MASK)] += counted
                if cap is not None:
                    words[base + self._column] = row[self._column] + 1
                parts.append((place, second, limits, total))
            if locked:
                words[DIRTY] = 0
        finally:
            if locked:
                flock(self._fd, UNLOCK)
        return Admission(parts, tokens, now_ns)

    def settle(self, admission: Admission, tokens: int, now_ns: int) -> None:
        """The call has ended and used `tokens`: they replace what was reserved, and its concurrency is free again.

        They count in the second of the admission, if that still counts. Idempotent. If the counters cannot be locked
        the reservation stands until it leaves the window.
        """
        if admission.settled:
            return
        admission.settled = True
        words = self._words
        used = 0 if tokens < 0 else TOKENS_MAX if tokens > TOKENS_MAX else tokens
        change = used - admission.tokens << REQUEST_BITS
        gone_s = now_ns // SECOND_NS - WINDOW_S
        locked = False
        try:
            for (_, _, base, ring, generation), second, limits, _ in admission.parts:
                if limits.concurrency is not None:
                    # No lock: the column is ours alone, and while it is not 0 the slot stays this subject's.
                    column = base + self._column
                    if busy := words[column]:
                        words[column] = busy - 1
                if not change or limits.tokens_per_minute is None or second < gone_s:
                    continue
                if not locked:
                    try:
                        flock(self._fd, LOCK)
                    except BlockingIOError:
                        if not self._file.wait():
                            change = 0
                            continue
                    locked = True
                    if words[DIRTY]:
                        self._repair()
                if words[base] == generation and words[base + HEAD] - second <= WINDOW_S:
                    total = words[base + TOTAL] + change
                    if total <= COUNT_MAX:
                        words[DIRTY] = base
                        words[base + TOTAL] = total
                        words[ring + (second & RING_MASK)] += change
            if locked:
                words[DIRTY] = 0
        finally:
            if locked:
                flock(self._fd, UNLOCK)

    def clear_worker(self, worker: int) -> None:
        """Free the concurrency that a dead worker held. What it was admitted stays counted.

        Only after the process is gone, and before another one opens the table under its number.
        """
        for slot in self._taken():
            self._words[self._body + slot * self._stride + COLUMNS + worker] = 0

    def used(self, kind: str, name: str, now_ns: int) -> Used:
        """What counts on a subject now; zeros for one that is not counted. Raises Unavailable."""
        now_s = now_ns // SECOND_NS
        if not self._file.lock():
            raise Unavailable(counters_stuck().words)
        try:
            if self._words[DIRTY]:
                self._repair()
            slot, _, _ = self._find(*_digest(kind, name), now_s)
            if slot is None:
                return Used(0, 0, 0)
            base = self._body + slot * self._stride
            self._slide(base, now_s)
            self._words[DIRTY] = 0
            row = self._read(self._buffer, base * WORD)
            return Used(row[TOTAL] & REQUEST_MASK, row[TOTAL] >> REQUEST_BITS, sum(row[COLUMNS:]))
        finally:
            self._file.unlock()

    @property
    def claimed(self) -> int:
        """Slots that were ever taken, of `slots`; idle ones are taken over when needed."""
        return self._words[CLAIMED]

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._file.close()

    def __enter__(self) -> LimitTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- all below: with the lock held. Whoever writes a slot sets DIRTY first; the caller clears it at the end.

    def _undo(self, parts: list[Part], tokens: int) -> None:
        """Take back what an admission counted on the subjects before the one that refused it."""
        words = self._words
        for (_, _, base, ring, _), second, limits, _ in parts:
            cost = 1 if limits.tokens_per_minute is None else tokens << REQUEST_BITS | 1
            words[DIRTY] = base
            words[base + TOTAL] -= cost
            words[ring + (second & RING_MASK)] -= cost
            if limits.concurrency is not None:
                words[base + self._column] -= 1

    def _refusal(
        self, refuser: Subject, subjects: Sequence[Subject], parts: list[Part], tokens: int, now_ns: int
    ) -> LimitHit:
        """Undo, then find the reached limit that takes longest to pass, or the subject that has no place."""
        self._undo(parts, tokens)
        hits: list[LimitHit] = []
        for subject in subjects:
            place = self._place(subject.kind, subject.id, now_ns // SECOND_NS)
            if place is None:
                self._words[DIRTY] = 0
                return table_full(subject, self.slots)
            times = sum(other[:2] == subject[:2] for other in subjects)
            hits.extend(self._hits(subject, place, times, tokens * times, now_ns))
        self._words[DIRTY] = 0
        if not hits:  # calls end without the lock: the concurrency that refused a moment ago is free by now
            cap = refuser.limits.concurrency or 0
            return reached(refuser, CONCURRENCY, cap, cap, 1, retry_after_ms=CONCURRENCY_RETRY_MS, reset_ms=0)
        return max(hits, key=lambda hit: (hit.asked > hit.value, hit.retry_after_ms))

    def _hits(self, subject: Subject, place: Place, calls: int, tokens: int, now_ns: int) -> Iterator[LimitHit]:
        """The limits of one subject that `calls` more calls with `tokens` tokens together would exceed."""
        _, first, _, ring, _ = place
        row = self._read(self._buffer, first)
        counts = self._read_ring(self._buffer, ring * WORD)
        limits = subject.limits
        tpm = limits.tokens_per_minute
        for limit, value, asked, shift, mask in (
            (REQUESTS, limits.requests_per_minute, calls, 0, REQUEST_MASK),
            (TOKENS, None if tpm is None else min(tpm, COUNT_MAX >> REQUEST_BITS), tokens, REQUEST_BITS, COUNT_MAX),
        ):
            used = row[TOTAL] >> shift & mask
            if value is not None and used + asked > value:
                window = [
                    (s, counts[s & RING_MASK] >> shift & mask) for s in range(row[HEAD] - WINDOW_S, row[HEAD] + 1)
                ]
                retry_s, reset_s = _leaves(window, used + asked - value)
                yield reached(
                    subject,
                    limit,
                    value,
                    used,
                    asked,
                    retry_after_ms=_until_ms(retry_s, now_ns),
                    reset_ms=_until_ms(reset_s, now_ns),
                )
        cap = limits.concurrency
        busy = sum(row[COLUMNS:])
        if cap is not None and busy + calls > cap:
            wait_ms = CONCURRENCY_RETRY_MS
            yield reached(subject, CONCURRENCY, cap, busy, calls, retry_after_ms=wait_ms, reset_ms=0)

    def _slide(self, base: int, now_s: int) -> None:
        """Move a slot's window so that its newest second is `now_s`; nothing when it is there or beyond."""
        words = self._words
        head = words[base + HEAD]
        if head >= now_s:
            return
        words[DIRTY] = base
        ring = base + self._ring
        if now_s - head > WINDOW_S:
            words[base + TOTAL] = 0
            self._buffer[ring * WORD : (ring + RING) * WORD] = bytes(RING * WORD)
        else:
            for second in range(head - WINDOW_S, now_s - WINDOW_S):
                bucket = ring + (second & RING_MASK)
                if words[bucket]:
                    words[base + TOTAL] -= words[bucket]
                    words[bucket] = 0
        words[base + HEAD] = now_s

    def _place(self, kind: str, name: str, now_s: int) -> Place | None:
        """Where a subject is counted, its window at `now_s`; None when it was not and the table is full."""
        high, low = _digest(kind, name)
        slot, free, fresh = self._find(high, low, now_s)
        if slot is None:
            if free is None or not self._claim(free, high, low, now_s, fresh=fresh):
                return None
            slot = free
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        base = self._body + slot * self._stride
        place = self._places[name] = (kind, base * WORD, base, base + self._ring, self._words[base])
        self._slide(base, now_s)
        return place

    def _find(self, high: int, low: int, now_s: int) -> tuple[int | None, int | None, bool]:
        """(the slot of a digest, else the slot to take for it, whether that one was never taken).

        Linear probing. A taken place never becomes empty again, only another subject's, so that chains stay whole.
        """
        words = self._words
        free: int | None = None
        for i in range(min(PROBES_MAX, self.slots)):
            slot = (high + i) % self.slots
            at = HEADER_WORDS + 2 * slot
            if words[at] == high and words[at + 1] == low:
                return slot, None, False
            if not words[at + 1]:
                return None, slot if free is None else free, free is None
            if free is None and self._idle(slot, now_s):
                free = slot
        return None, free, False

    def _idle(self, slot: int, now_s: int) -> bool:
        """Whether nothing counts in a taken slot any more."""
        row = self._read(self._buffer, (self._body + slot * self._stride) * WORD)
        return now_s - row[HEAD] > WINDOW_S + 1 and not any(row[COLUMNS:])

    def _claim(self, slot: int, high: int, low: int, now_s: int, *, fresh: bool) -> bool:
        """Give a slot to a digest. The order of writes lets `_repair` finish or revoke it wherever it ended."""
        words = self._words
        base = self._body + slot * self._stride
        if fresh and not self._file.reserve(base * WORD, self._stride * WORD):
            return False
        at = HEADER_WORDS + 2 * slot
        copy = base + self._digest
        words[DIRTY] = base
        words[base + GENERATION] += 1
        words[copy + 1] = 0
        words[base + TOTAL] = 0
        self._buffer[(base + COLUMNS) * WORD : copy * WORD] = bytes((self._digest - COLUMNS) * WORD)
        words[base + HEAD] = now_s
        words[copy] = high
        words[copy + 1] = low
        words[at] = high
        words[at + 1] = low
        if fresh:
            words[CLAIMED] += 1
        return True

    def _repair(self) -> None:
        """A process died while it wrote the slot that starts at DIRTY: make it whole from what is written."""
        words = self._words
        base = words[DIRTY]
        at = HEADER_WORDS + 2 * ((base - self._body) // self._stride)
        copy = base + self._digest
        if words[copy + 1]:  # 0: a claim had not got as far as the new digest; the old one keeps the emptied slot
            words[at] = words[copy]
            words[at + 1] = words[copy + 1]
        else:
            words[copy] = words[at]
            words[copy + 1] = words[at + 1]
        words[base + TOTAL] = sum(self._read_ring(self._buffer, (base + self._ring) * WORD))
        words[DIRTY] = 0

    def _taken(self) -> list[int]:
        """The slots that were ever taken."""
        lows = self._words[HEADER_WORDS + 1 : self._body : 2].tolist()
        return [slot for slot, low in enumerate(lows) if low]


def _digest(kind: str, name: str) -> tuple[int, int]:
    return word_pair(hashlib.blake2b(f"{kind}\0{name}".encode(), digest_size=16).digest())


def _until_ms(second: int, now_ns: int) -> int:
    """Milliseconds until what was counted in a second has left the window."""
    return (second + WINDOW_S + 1) * 1000 - now_ns // 1_000_000


def _leaves(window: list[tuple[int, int]], excess: int) -> tuple[int, int]:
    """Of (second, count) in order: the second with which `excess` counts have gone, and the last that has any."""
    gone = 0
    enough = last = window[-1][0]
    for second, count in reversed(window):
        if count:
            last = second
            break
    for second, count in window:
        gone += count
        if gone >= excess:
            enough = second
            break
    return enough, last
