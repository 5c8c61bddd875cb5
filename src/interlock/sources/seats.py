"""Who is next for a seat at a source: what the workers of a node know of each other's waiting calls.

A *seat* is one call in flight that a source may have more (`interlock.routing.room`). While calls wait for seats of a
source it is *contended*, and nobody takes one past them. Of all that wait, over all workers of the node, the next is

1. of the most urgent class: a call that has waited for `promote_ns` counts as one class more urgent, and so on;
2. then of the tenant that has the fewest in flight there for its weight;
3. then the one that has waited longest.

So a tenant above its share of a contended source waits while another one below its share wants it, and what nobody
else wants is used by whoever does.

Each row of the board has a block here, made when the row is first contended: places of tenants, each with a weight and,
for every worker, its calls in flight and since when its oldest call of each class waits. A worker writes its own
columns only, under the lock, so that a choice is made of one state; it shows by its *beat* that it still looks. What a
worker that is stopped or dead had said counts for nobody after `BEAT_NS`; `clear_worker` takes it away. Tenants for
which there is no place of their own share one.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from interlock.errors import Unavailable
from interlock.metering.shared import HEADER_WORDS, USER_WORD, WORD, SharedFile, word_pair

MAGIC = b"ilSeats1"
CLASSES = 3
WEIGHT, COLUMNS = 2, 3
"""Word offsets in a place; 0 and 1 are the tenant's digest. In a column: calls in flight, then by class since when."""
COLUMN_WORDS = 1 + CLASSES
BEAT_NS = 250_000_000
"""What a worker said longer ago than this counts no more: it does not look for seats now."""
SCALE = 1 << 20
WORKERS_MAX = HEADER_WORDS - USER_WORD
DIGESTS_MAX = 4096
"""Tenants whose digests are remembered."""


class Head(NamedTuple):
    """The oldest of a worker's waiting calls of one tenant and class at a row. `since_ns`: the monotonic clock."""

    tenant: str
    weight: int
    workload: int
    since_ns: int


Rank = tuple[int, int, int, int]
"""(class, calls in flight for the weight, since when, worker): the lower, the sooner; no two are equal."""


class SeatTable:
    """The node's table. The node creates it, each worker opens it; a handle belongs to one thread."""

    def __init__(self, file: SharedFile, worker: int | None) -> None:
        self.rows, self.tenants, self.workers = file.geometry[:3]
        self._file = file
        self._words = file.words
        self._worker = worker
        self._place_words = COLUMNS + self.workers * COLUMN_WORDS
        self._row_words = self.tenants * self._place_words
        self._column = COLUMNS + (worker or 0) * COLUMN_WORDS
        self._backed: set[int] = set()
        self._posted: dict[int, dict[int, int]] = {}
        """By row: word -> what this worker has written there of its waiting calls."""

    @classmethod
    def create(cls, path: Path, *, rows: int, tenants: int, workers: int, anonymous: bool = True) -> SeatTable:
        """A table for `rows` rows of the board, `tenants` places each. Raises Unavailable."""
        if workers > WORKERS_MAX:
            raise Unavailable(f"{path}: a node has at most {WORKERS_MAX} workers")
        place_words = COLUMNS + workers * COLUMN_WORDS
        file = SharedFile.create(
            path,
            magic=MAGIC,
            geometry=(rows, tenants, workers),
            size=(HEADER_WORDS + rows * tenants * place_words) * WORD,
            reserved=HEADER_WORDS * WORD,
            wait_ms=0,
            anonymous=anonymous,
        )
        return cls(file, None)

    @classmethod
    def open(cls, path: Path, *, worker: int, wait_ms: int) -> SeatTable:
        """The node's table, for a worker. Raises Unavailable."""
        return cls(SharedFile.open(path, magic=MAGIC, wait_ms=wait_ms), worker)

    def seat(
        self, row: int, heads: Sequence[Head], now_ns: int, promote_ns: int, enter: Callable[[int], bool], *, post: bool
    ) -> int:
        """Which of this worker's `heads` is next of all that wait at the row and got its seat; -1 when none of them.

        `enter(class)` takes the seat, or says that there is none for this class. `post`: the heads are all of this
        worker that wait here, for the others to see; else it is only asked whether one of them would be next.
        """
        if not self._back(row):
            # no memory for it: by class and age alone, and this worker for itself
            i = min(range(len(heads)), key=lambda n: (heads[n].workload, heads[n].since_ns))
            return i if enter(heads[i].workload) else -1
        if not self._file.lock():
            return -1
        try:
            places: list[int] = []
            for head in heads:
                places.append(self._place(row, head, places))
            if post:
                self._post(row, heads, places)
                self._words[USER_WORD + (self._worker or 0)] = now_ns
            return self._next(row, heads, places, now_ns, promote_ns, enter, post=post)
        finally:
            self._file.unlock()

    def count(self, row: int, tenants: dict[str, int]) -> None:
        """This worker has so many calls of these tenants in flight at the row, and none of others."""
        if not self._back(row) or not self._file.lock():
            return
        try:
            for at in range(self._first(row), self._first(row) + self._row_words, self._place_words):
                self._words[at + self._column] = 0
            for tenant, calls in tenants.items():
                if calls:
                    self._words[self._place(row, Head(tenant, 0, 0, 0)) + self._column] += calls
        finally:
            self._file.unlock()

    def withdraw(self, row: int) -> None:
        """None of this worker's calls waits at the row any more."""
        posted = self._posted.pop(row, None)
        if posted:
            for word in posted:
                self._words[word] = 0

    def inflight(self, row: int, tenant: str) -> int:
        """Calls of a tenant in flight at the row, over all workers that count there."""
        at = self._find(row, _digest(tenant)) if self._back(row) else -1
        return 0 if at < 0 else sum(self._words[at + COLUMNS + w * COLUMN_WORDS] for w in range(self.workers))

    def clear_worker(self, worker: int) -> None:
        """Forget what a dead worker had in flight and waiting. Only after the process is gone."""
        self._words[USER_WORD + worker] = 0
        for row in range(self.rows):
            if not self._used(row):
                continue
            for place in range(self.tenants):
                at = self._first(row) + place * self._place_words + COLUMNS + worker * COLUMN_WORDS
                for word in range(at, at + COLUMN_WORDS):
                    self._words[word] = 0

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._file.close()

    def __enter__(self) -> SeatTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the choice, with the lock held

    def _next(
        self,
        row: int,
        heads: Sequence[Head],
        places: Sequence[int],
        now_ns: int,
        promote_ns: int,
        enter: Callable[[int], bool],
        *,
        post: bool,
    ) -> int:
        """INVARIANT: a seat goes to the first of all that wait, or to nobody."""
        own = self._worker or 0
        best, mine = self._first_posted(row, now_ns, promote_ns, without=own if post else -1), -1
        for i, head in enumerate(heads):
            rank = self._rank(places[i], own, head.workload, head.since_ns, now_ns, promote_ns)
            if best is None or rank < best:
                best, mine = rank, i
        if mine < 0 or best is None or not enter(best[0]):
            return -1
        self._words[places[mine] + self._column] += 1
        return mine

    def _first_posted(self, row: int, now_ns: int, promote_ns: int, *, without: int) -> Rank | None:
        words, best = self._words, None
        beats = [words[USER_WORD + worker] for worker in range(self.workers)]
        looking = [w for w, beat_ns in enumerate(beats) if w != without and beat_ns and now_ns - beat_ns < BEAT_NS]
        first = self._first(row)
        for at in range(first, first + self._row_words, self._place_words):
            if not words[at + 1]:
                break
            for worker in looking:
                column = at + COLUMNS + worker * COLUMN_WORDS
                for workload in range(CLASSES):
                    since_ns = words[column + 1 + workload]
                    if since_ns:
                        rank = self._rank(at, worker, workload, since_ns, now_ns, promote_ns)
                        if best is None or rank < best:
                            best = rank
        return best

    def _rank(self, at: int, worker: int, workload: int, since_ns: int, now_ns: int, promote_ns: int) -> Rank:
        words = self._words
        if promote_ns and workload:
            workload = max(0, workload - max(0, now_ns - since_ns) // promote_ns)
        calls = sum([words[at + COLUMNS + w * COLUMN_WORDS] for w in range(self.workers)])
        return workload, (calls + 1) * SCALE // (words[at + WEIGHT] or 1), since_ns, worker

    def _post(self, row: int, heads: Sequence[Head], places: Sequence[int]) -> None:
        """Write since when this worker's calls wait. Calls of tenants that share a place: the oldest."""
        posted: dict[int, int] = {}
        for head, place in zip(heads, places, strict=True):
            word = place + self._column + 1 + head.workload
            posted[word] = min(head.since_ns, posted.get(word, head.since_ns))
        for word in self._posted.get(row, {}):
            if word not in posted:
                self._words[word] = 0
        for word, since_ns in posted.items():
            self._words[word] = since_ns
        self._posted[row] = posted

    # -- places

    def _place(self, row: int, head: Head, kept: Sequence[int] = ()) -> int:
        """The first word of the tenant's place at the row, taken for it if it had none. `kept`: places that others are
        about to use, whatever stands in them."""
        high, low = _digest(head.tenant)
        at = self._find(row, (high, low))
        if at < 0:
            at = self._take(row, high, low, kept)
        if head.weight:
            self._words[at + WEIGHT] = head.weight
        return at

    def _find(self, row: int, digest: tuple[int, int]) -> int:
        words, first = self._words, self._first(row)
        for at in range(first, first + self._row_words, self._place_words):
            if words[at + 1] == digest[1] and words[at] == digest[0]:
                return at
            if not words[at + 1]:
                return -1
        return -1

    def _take(self, row: int, high: int, low: int, kept: Sequence[int]) -> int:
        """A place that nobody has, or whose tenant neither runs nor waits anywhere; else one to share."""
        words, first = self._words, self._first(row)
        for at in range(first, first + self._row_words, self._place_words):
            if not words[at + 1] or (at not in kept and not any(words[at + COLUMNS : at + self._place_words])):
                words[at], words[at + 1], words[at + WEIGHT] = high, low, 1
                return at
        return first + low % self.tenants * self._place_words

    def _first(self, row: int) -> int:
        return HEADER_WORDS + row * self._row_words

    def _back(self, row: int) -> bool:
        """Make sure that the row's block has memory behind it; False when there is none left."""
        if row not in self._backed:
            if not self._file.reserve(self._first(row) * WORD, self._row_words * WORD):
                return False
            self._backed.add(row)
        return True

    def _used(self, row: int) -> bool:
        """Whether anybody ever waited at the row. Reads through the descriptor: a block without memory stays so."""
        return row in self._backed or any(os.pread(self._file.fd, WORD, (self._first(row) + 1) * WORD))


@functools.lru_cache(maxsize=DIGESTS_MAX)
def _digest(tenant: str) -> tuple[int, int]:
    return word_pair(hashlib.blake2b(tenant.encode(), digest_size=16).digest())
