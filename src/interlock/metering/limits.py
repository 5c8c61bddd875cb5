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
from interlock.metering.admission import (
    COUNT_MAX,
    REQUEST_BITS,
    REQUEST_MASK,
    WINDOW_S,
    Admission,
    Change,
    Part,
    Place,
    place_of,
    until_ms,
)
from interlock.metering.hit import (
    CONCURRENCY,
    CONCURRENCY_RETRY_MS,
    REQUESTS,
    TOKENS,
    LimitHit,
    Subject,
    counters_stuck,
    reached,
    table_full,
)
from interlock.metering.shared import HEADER_WORDS, LOCK, UNLOCK, USER_WORD, WORD, SharedFile, word_pair
from interlock.types.identity import LimitSet

__all__ = ["Admission", "LimitHit", "LimitTable", "Subject", "Used"]

MAGIC = b"ilLimits"
RING = 64
"""Buckets of a slot: a power of two above WINDOW_S + 1. Buckets outside the window are zero."""
RING_MASK = RING - 1
TOKENS_MAX = 1 << 30
"""A call settled above this (an engine that lies) counts as this."""
PROBES_MAX = 128
"""Places looked at for a subject; all taken means: the table is full."""
PLACES_MAX = 16_384
"""Subjects, and sets of subjects, whose places a worker remembers."""
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
_NOWHERE = (-1,)
"""The row of a subject that has no place yet: of no generation."""
_UNLIMITED = LimitSet()


class Used(NamedTuple):
    """What counts against a subject's limits at an instant."""

    requests: int
    tokens: int
    concurrency: int


class LimitTable:
    """Limits of a node. The node creates it; each worker opens it under its own number, on one thread."""

    def __init__(self, file: SharedFile, worker: int | None, changes_max: int = 0) -> None:
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
        self._groups: dict[int, tuple[Sequence[Subject], list[Place]]] = {}
        self._changes: list[Change] = []
        self._changes_max = changes_max

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
    def open(cls, path: Path, *, worker: int, wait_ms: int = WAIT_MS, changes_max: int = 0) -> LimitTable:
        """The node's table, for one worker. A new process in a worker's place opens it after `clear_worker`.

        `changes_max`: how many settled calls may wait for the lock that the next admission takes anyway (see `settle`).
        """
        return cls(SharedFile.open(path, magic=MAGIC, wait_ms=wait_ms), worker, changes_max)

    def admit(self, subjects: Sequence[Subject], tokens: int, now_ns: int) -> Admission | LimitHit:
        """Count one call of at most `tokens` tokens on all subjects, or on none and say why.

        `now_ns` is the monotonic clock, which all processes of the node share: the call's admission instant.
        Subjects without limits cost nothing.
        """
        if tokens < 0:
            raise ValueError("limit table: a call cannot reserve a negative number of tokens")
        group = self._groups.get(id(subjects))
        places = group[1] if group is not None and group[0] is subjects else self._group(subjects)
        parts: list[Part] = []
        if not places:
            return Admission(parts, tokens, now_ns)
        try:
            flock(self._fd, LOCK)
        except BlockingIOError:
            if not self._file.wait():
                return counters_stuck()
        try:
            words, buffer, read, own = self._words, self._buffer, self._read, self._column
            if words[DIRTY]:
                self._repair()
            if self._changes:
                self._apply()
            now_s = now_ns // SECOND_NS
            newest = words[NEWEST]
            if now_s > newest:
                words[NEWEST] = now_s
            elif now_s < newest:
                now_s = newest
                now_ns = newest * SECOND_NS
            cost = tokens << REQUEST_BITS | 1
            for place in places:
                first, base, ring, generation, requests_max, total_end, cap, tokens_max, subject = place
                row = read(buffer, first) if first else _NOWHERE
                if row[GENERATION] != generation or row[HEAD] < now_s:
                    found = self._renew(places, place, now_s)
                    if found is None:
                        return self._refusal(subject, subjects, parts, tokens, now_ns)
                    place = found
                    first, base, ring = place.first, place.base, place.ring
                    row = read(buffer, first)
                counted = cost if tokens_max >= 0 else 1
                total = row[TOTAL] + counted
                if (
                    total & REQUEST_MASK > requests_max
                    or total >= total_end
                    or (cap >= 0 and sum(row[COLUMNS:]) >= cap)
                ):
                    return self._refusal(subject, subjects, parts, tokens, now_ns)
                second = row[HEAD]
                words[DIRTY] = base
                words[base + TOTAL] = total
                words[ring + (second & RING_MASK)] += counted
                if cap >= 0:
                    words[base + own] = row[own] + 1
                parts.append((place, second, total))
            words[DIRTY] = 0
        finally:
            flock(self._fd, UNLOCK)
        return Admission(parts, tokens, now_ns)

    def settle(self, admission: Admission, tokens: int, now_ns: int) -> None:
        """The call has ended and used `tokens`: they replace what was reserved, and its concurrency is free again.

        They count in the second of the admission, if that still counts. Idempotent. What a call gives back may wait
        for the next admission, which takes the lock anyway, or for `flush`: until then it counts as reserved. If the
        counters cannot be locked the reservation stands until it leaves the window.
        """
        if admission.settled:
            return
        admission.settled = True
        words, own = self._words, self._column
        used = 0 if tokens < 0 else TOKENS_MAX if tokens > TOKENS_MAX else tokens
        change = used - admission.tokens << REQUEST_BITS
        gone_s = now_ns // SECOND_NS - WINDOW_S
        changes = self._changes
        for place, second, _ in admission.parts:
            if place.cap >= 0:
                # No lock: the column is ours alone, and while it is not 0 the slot stays this subject's.
                column = place.base + own
                if busy := words[column]:
                    words[column] = busy - 1
            if change and place.tokens_max >= 0 and second >= gone_s:
                changes.append((place, second, change))
        if change > 0 or len(changes) > self._changes_max:
            self.flush()

    def flush(self) -> None:
        """Count what calls gave back or took beyond their reservation. Call now and then while nothing is admitted."""
        if not self._changes:
            return
        if not self._file.lock():
            self._changes.clear()
            return
        try:
            if self._words[DIRTY]:
                self._repair()
            self._apply()
            self._words[DIRTY] = 0
        finally:
            self._file.unlock()

    def clear_worker(self, worker: int) -> None:
        """Free the concurrency that a dead worker held. What it was admitted stays counted.

        Only after the process is gone, and before another one opens the table under its number.
        """
        for slot in self._taken():
            self._words[self._body + slot * self._stride + COLUMNS + worker] = 0

    def used(self, kind: str, name: str, now_ns: int) -> Used:
        """What counts on a subject now; zeros for one that is not counted. Raises Unavailable."""
        self.flush()
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

    def _group(self, subjects: Sequence[Subject]) -> list[Place]:
        """Places of the subjects that have limits, for `admit`; those not known yet lie nowhere."""
        places = []
        for subject in subjects:
            if subject.limits != _UNLIMITED:
                place = self._places.get(subject.id)
                known = place is not None and place.subject == subject
                places.append(place if known and place is not None else place_of(subject, 0, 0, 0))
        if type(subjects) is tuple:  # anything else could change and keep its identity
            if len(self._groups) >= PLACES_MAX:
                self._groups.clear()
            self._groups[id(subjects)] = (subjects, places)
        return places

    # -- all below: with the lock held. Whoever writes a slot sets DIRTY first; the caller clears it at the end.

    def _apply(self) -> None:
        """Bring the waiting changes into the totals of slots that are still their subjects'."""
        words, changes = self._words, self._changes
        for place, second, change in changes:
            base = place.base
            if words[base] == place.generation and words[base + HEAD] - second <= WINDOW_S:
                total = words[base + TOTAL] + change
                if total <= COUNT_MAX:
                    words[DIRTY] = base
                    words[base + TOTAL] = total
                    words[place.ring + (second & RING_MASK)] += change
        changes.clear()

    def _undo(self, parts: list[Part], tokens: int) -> None:
        """Take back what an admission counted on the subjects before the one that refused it."""
        words = self._words
        for place, second, _ in parts:
            cost = tokens << REQUEST_BITS | 1 if place.tokens_max >= 0 else 1
            words[DIRTY] = place.base
            words[place.base + TOTAL] -= cost
            words[place.ring + (second & RING_MASK)] -= cost
            if place.cap >= 0:
                words[place.base + self._column] -= 1

    def _refusal(
        self, refuser: Subject, subjects: Sequence[Subject], parts: list[Part], tokens: int, now_ns: int
    ) -> LimitHit:
        """Undo, then find the reached limit that takes longest to pass, or the subject that has no place."""
        self._undo(parts, tokens)
        hits: list[LimitHit] = []
        for subject in subjects:
            place = self._place(subject, now_ns // SECOND_NS)
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
        row = self._read(self._buffer, place.first)
        counts = self._read_ring(self._buffer, place.ring * WORD)
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
                    retry_after_ms=until_ms(retry_s, now_ns),
                    reset_ms=until_ms(reset_s, now_ns),
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

    def _renew(self, places: list[Place], place: Place, now_s: int) -> Place | None:
        """The place of a subject in a group, its window at `now_s`; None when the table is full."""
        words = self._words
        if place.first and words[place.base] == place.generation:
            self._slide(place.base, now_s)
            return place
        found = self._place(place.subject, now_s)
        if found is not None:
            places[places.index(place)] = found
        return found

    def _place(self, subject: Subject, now_s: int) -> Place | None:
        """Where a subject is counted, its window at `now_s`; None when it was not and the table is full."""
        high, low = _digest(subject.kind, subject.id)
        slot, free, fresh = self._find(high, low, now_s)
        if slot is None:
            if free is None or not self._claim(free, high, low, now_s, fresh=fresh):
                return None
            slot = free
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        base = self._body + slot * self._stride
        place = self._places[subject.id] = place_of(subject, base, base + self._ring, self._words[base])
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
