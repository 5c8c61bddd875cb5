"""The board: what the processes of a node know together about model sources, workers and the snapshot's age.

One row per source: the engine's load as the node last read it, the calls that each worker has in flight, the circuit
breaker. Workers read it on every call, so a reading is one unpacking of the row and takes no lock.

Who writes what, and why it survives a `kill -9` at any instruction:

- *Load* (the node) and *snapshot confirmation* (the node): a seqlock. The sequence is odd while being written, and a
  check word is the sum of the others, so that a torn or half-written value is seen as such and means "unknown".
- *Calls* (each worker its own column): one word with the calls that ever entered above those in flight, so that one
  write changes both and none needs a lock. `clear_worker` ends those of a dead worker.
- *A concurrency cap* needs the lock: the sum over the columns is compared and the own column raised inside it. A call
  that leaves meanwhile makes the sum too high, never too low.
- *Breaker*: written under the lock. Each word alone is meaningful, so a half-done change is a breaker that opens or
  closes one call later.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Collection, Iterable
from fcntl import flock
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from interlock.errors import Unavailable
from interlock.metering.shared import HEADER_WORDS, LOCK, UNLOCK, USER_WORD, WORD, SharedFile, word_pair
from interlock.settings import Settings
from interlock.types.source import LoadReading

MAGIC = b"ilBoard2"
MASK = (1 << 64) - 1

CONFIRMED = USER_WORD
"""Header words: sequence, snapshot version, wall clock (ns), check."""

WORKER_WORDS = 4
"""Of each worker: process id, snapshot version, calls in progress, spare."""

FAILURES, OPEN_UNTIL, PROBES, PROBES_END, COOL_UNTIL = 2, 3, 4, 5, 6
LOAD = 8
"""Nine words: sequence, waiting, running, KV cache permille, flags, read at, calls that are in it, stay (ms), check."""
WAITED, GATE = 7, 17
"""While either is set, calls enter by `interlock.gateway.seats`: until when calls wait for the source's seats
(monotonic ns; any worker), and whether the engine's own queue is full (the node)."""
COLUMNS = 18
"""A word of each worker: calls ever entered above INFLIGHT_BITS bits of calls in flight.
All offsets are words in a row; 0 and 1 are its digest."""
INFLIGHT_BITS = 20
INFLIGHT_MASK = (1 << INFLIGHT_BITS) - 1
ENTER = 1 << INFLIGHT_BITS | 1

HEALTHY, SATURATED, LOADED_KNOWN = 1, 2, 4
"""Bits of the flags."""
LOADED_SHIFT = 3
"""Above them, where LOADED_KNOWN says so, the set of the models that are loaded (`LoadReading.loaded`)."""
READ_TRIES = 16
"""Reads of a value that is being written (under 2 us) before it is called unknown: the writer is dead or stopped."""
NS_PER_MS = 1_000_000


Load = tuple[int, int, int, int, bool, bool, int, int, int, int, int, int]
"""Sequence, waiting, running, KV cache permille, healthy, saturated, read at (monotonic ns), calls entered by then,
models loaded, stay (ms); read at once more: whole ms (`NEVER_MS`: it never was), and ns beyond."""
NEVER_MS = -(1 << 62)
"""Ages from then on are above every bound."""
UNKNOWN: Load = (0, -1, -1, -1, True, False, 0, 0, -1, -1, NEVER_MS, 0)
Seen = tuple[bytes, int, int, int, Load]
"""What a row says whatever the time: its words from `OPEN_UNTIL` on, until when nothing is sent there, calls in flight,
of these not in the figures, load."""


class Rows(NamedTuple):
    """Rows that are looked at together (`Board.rows_of`), ascending. `take`: the words of each from `OPEN_UNTIL` on."""

    numbers: tuple[int, ...]
    take: Callable[[mmap, int], tuple[bytes, ...]]


class WorkerState(NamedTuple):
    """What a worker runs on. `pid` 0: there is no such worker now; `snapshot_version` 0: it is starting."""

    pid: int
    snapshot_version: int
    calls: int


class Board:
    """The node's board. The node creates it, each worker opens it; a handle belongs to one thread.

    Rows are asked for by source id (`row`) with each new snapshot. All `now_ns` are the monotonic clock.
    """

    def __init__(self, file: SharedFile, worker: int | None, settings: Settings) -> None:
        self.rows, self.workers, self._stride = file.geometry[:3]
        if worker is not None and not 0 <= worker < self.workers:
            file.close()
            raise ValueError(f"board: no worker {worker} among {self.workers}")
        self.worker = worker
        self._file = file
        self._fd = file.fd
        self._words = file.words
        self._buffer = file.buffer
        self._age_ms_max = settings.load_age_ms_max
        self._failures_max = settings.breaker_failures
        self._open_ns = settings.breaker_open_ms * NS_PER_MS
        self._probes_max = settings.breaker_probes
        self._first = HEADER_WORDS + self.workers * WORKER_WORDS
        self._column = self._first + COLUMNS + (worker or 0)
        self._read = struct.Struct("@Q3q3QqQ").unpack_from
        self._write = struct.Struct("@3q3QqQ").pack_into
        self._columns = struct.Struct(f"@{self.workers}Q").unpack_from
        self._turns = struct.Struct(f"@Q16xQ8xQ72x{self.workers}Q").unpack_from
        self._loads: dict[int, Load] = {}
        self._seen: list[Seen] = [(b"", 0, 0, 0, UNKNOWN)] * self.rows
        self._known: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def create(
        cls, path: Path, *, rows: int, workers: int, settings: Settings | None = None, anonymous: bool = True
    ) -> Board:
        """New board with room for `rows` sources and worker numbers below `workers`. Raises Unavailable."""
        settings = settings or Settings()
        stride = COLUMNS + workers
        size = (HEADER_WORDS + workers * WORKER_WORDS + rows * stride) * WORD
        file = SharedFile.create(
            path,
            magic=MAGIC,
            geometry=(rows, workers, stride),
            size=size,
            reserved=size,
            wait_ms=settings.limit_lock_wait_ms,
            anonymous=anonymous,
        )
        return cls(file, None, settings)

    @classmethod
    def open(cls, path: Path, *, worker: int | None, settings: Settings | None = None) -> Board:
        """The node's board: of a worker under its number, or with None for whoever only looks. Raises Unavailable."""
        settings = settings or Settings()
        board = cls(SharedFile.open(path, magic=MAGIC, wait_ms=settings.limit_lock_wait_ms), worker, settings)
        if worker is not None:
            board.set_worker_state(os.getpid(), 0, 0)  # nothing is retired until it says what it runs on
        return board

    # -- rows

    def row(self, source_id: str) -> int:
        """The row of a source, taken for it if it had none; the same until `retire`. Raises Unavailable when full."""
        known = self._known.get(source_id)
        if known is not None:
            row, high, low = known
            base = self._first + row * self._stride
            if self._words[base] == high and self._words[base + 1] == low:
                return row
        self._lock()
        try:
            return self._assign(source_id)
        finally:
            self._file.unlock()

    def retire(self, keep: Collection[str], snapshot_version: int) -> int:
        """Free the rows of sources that are not in `keep` and have no call in flight; how many were freed.

        Nothing is freed while a worker still runs on a snapshot older than `snapshot_version`, the first that is
        without them: it may be about to use the row.
        """
        states = [self.worker_state(worker) for worker in range(self.workers)]
        if any(state.pid and state.snapshot_version < snapshot_version for state in states):
            return 0
        kept = {_digest(source_id) for source_id in keep}
        freed = 0
        self._lock()
        try:
            for row in range(self.rows):
                base = self._first + row * self._stride
                digest = self._words[base], self._words[base + 1]
                if digest[1] and digest not in kept and not self.inflight(row):
                    self._words[base + 1] = 0
                    freed += 1
        finally:
            self._file.unlock()
        return freed

    # -- load

    def publish(
        self,
        row: int,
        *,
        waiting: int,
        running: int,
        kv_permille: int,
        healthy: bool,
        saturated: bool,
        read_at_ns: int,
        entered: int | None = None,
        loaded: int = -1,
        full: bool = False,
        stay_ms: int = -1,
    ) -> None:
        """The node tells what it read of an engine (-1: unknown; `read_at_ns` 0: never read) and what it makes of it.

        `entered`: how many of the calls that ever entered are in its figures, `self.entered(row)` from before it was
        asked or fewer. Without it those sent until now count as known to the engine. `loaded`, `stay_ms`: see
        `LoadReading`. `full`: its queue should get no more without a look at who wants it most.
        """
        self._words[self._first + row * self._stride + GATE] = int(full)
        at = self._first + row * self._stride + LOAD
        sequence = (self._words[at] | 1) + 1
        mark = self.entered(row) if entered is None else entered
        flags = (HEALTHY if healthy else 0) | (SATURATED if saturated else 0)
        if loaded >= 0:
            flags |= LOADED_KNOWN | loaded << LOADED_SHIFT
        check = (sequence + waiting + running + kv_permille + flags + read_at_ns + mark + stay_ms) & MASK
        self._words[at] = sequence - 1
        self._write(
            self._buffer, (at + 1) * WORD, waiting, running, kv_permille, flags, read_at_ns, mark, stay_ms, check
        )
        self._words[at] = sequence

    def reading(self, row: int, now_ns: int) -> LoadReading:
        """What is known of a source's load. A figure older than `load_age_ms_max` is unknown (-1), its age is told."""
        base = self._first + row * self._stride
        load = self._loads.get(row)
        if load is None or self._words[base + LOAD] != load[0]:
            load = self._load(row)
        _, waiting, running, kv_permille, healthy, saturated, read_at_ns, mark, loaded, stay_ms, _, _ = load
        calls = sum(self._columns(self._buffer, (base + COLUMNS) * WORD))
        inflight = calls & INFLIGHT_MASK
        since = (calls >> INFLIGHT_BITS) - mark
        if since > inflight:
            since = inflight
        if not read_at_ns:
            return LoadReading(-1, -1, -1, inflight, since, -1, healthy, False)
        age_ms = (now_ns - read_at_ns) // NS_PER_MS
        if age_ms > self._age_ms_max:
            return LoadReading(-1, -1, -1, inflight, since, age_ms, healthy, False)
        return LoadReading(
            waiting,
            running,
            kv_permille,
            inflight,
            since,
            age_ms if age_ms > 0 else 0,
            healthy,
            saturated,
            loaded,
            stay_ms,
        )

    def rows_of(self, rows: Iterable[int]) -> Rows:
        """What `look` takes for these rows: worth keeping for as long as they are those of the same sources."""
        numbers, size = tuple(sorted(set(rows))), (self._stride - OPEN_UNTIL) * WORD
        gaps = [after - before - 1 for before, after in zip((-1, *numbers), numbers, strict=False)]
        spans = "".join(f"{gap * self._stride * WORD + OPEN_UNTIL * WORD}x{size}s" for gap in gaps)
        return Rows(numbers, struct.Struct(spans).unpack_from)

    def look(self, rows: Rows, now_ns: int) -> tuple[list[LoadReading], list[int]]:
        """(the `reading` of each, the places among them of those with `open_until` after now).

        Of most nothing has changed since the last look but the age of figures: what a row's words say is kept until
        they are others, whichever rows it was looked at together with.
        """
        seen, age_ms_max = self._seen, self._age_ms_max
        now_ms, now_beyond = divmod(now_ns, NS_PER_MS)
        readings: list[LoadReading] = []
        shut: list[int] = []
        for row, words in zip(rows.numbers, rows.take(self._buffer, self._first * WORD), strict=True):
            one = seen[row]
            if one[0] != words:
                one = self._look_again(row, words)
            _, until_ns, inflight, since, load = one
            _, waiting, running, kv, healthy, saturated, _, _, loaded, stay_ms, ms, beyond = load
            if until_ns > now_ns:
                shut.append(len(readings))
            age_ms = now_ms - ms
            if now_beyond < beyond:
                age_ms -= 1
            if age_ms > age_ms_max:
                age_ms = age_ms if ms != NEVER_MS else -1
                readings.append(LoadReading(-1, -1, -1, inflight, since, age_ms, healthy, False))
                continue
            if age_ms < 0:
                age_ms = 0
            readings.append(
                LoadReading(waiting, running, kv, inflight, since, age_ms, healthy, saturated, loaded, stay_ms)
            )
        return readings, shut

    def _look_again(self, row: int, words: bytes) -> Seen:
        """What a row says now. Kept when it is what `words` say: not while it changes."""
        base = self._first + row * self._stride
        load = self._loads.get(row)
        if load is None or self._words[base + LOAD] != load[0]:
            load = self._load(row)
        # Calls after load: what had entered is never less than what the load has of it.
        now: tuple[int, ...] = self._turns(self._buffer, (base + OPEN_UNTIL) * WORD)
        open_until, cool_until, sequence, *columns = now
        calls = sum(columns)
        inflight = calls & INFLIGHT_MASK
        since = (calls >> INFLIGHT_BITS) - load[7]
        until_ns = open_until if open_until > cool_until else cool_until
        made: Seen = words, until_ns, inflight, since if since < inflight else inflight, load
        if sequence == load[0] and self._turns(words) == now:
            self._seen[row] = made
        return made

    def _load(self, row: int) -> Load:
        """The load of a row, read whole and remembered until its sequence changes."""
        at = self._first + row * self._stride + LOAD
        for _ in range(READ_TRIES):
            words: tuple[int, ...] = self._read(self._buffer, at * WORD)
            sequence, waiting, running, kv_permille, flags, read_at_ns, mark, stay_ms, check = words
            if not sequence & 1 and sequence == self._words[at] and sum(words[:8]) & MASK == check:
                healthy, saturated = flags & HEALTHY != 0, flags & SATURATED != 0
                loaded = flags >> LOADED_SHIFT if flags & LOADED_KNOWN else -1
                load: Load = (
                    sequence, waiting, running, kv_permille, healthy, saturated, read_at_ns, mark, loaded, stay_ms,
                    *(divmod(read_at_ns, NS_PER_MS) if read_at_ns else (NEVER_MS, 0)),
                )  # fmt: skip
                self._loads[row] = load
                return load
        return UNKNOWN

    # -- calls in flight

    def enter(self, row: int, cap: int | None, *, queued: bool = False) -> bool:
        """Count a call into a source; False, and not counted, when `cap` calls of this node are in flight.

        Exact over the workers of the node. Without a cap it only counts. Every True needs one `leave`. Also False while
        calls wait for the source or its queue is full, unless `queued`: it is this call's turn.
        """
        column = self._column + row * self._stride
        if not queued:
            at = self._first + row * self._stride
            if self._words[at + WAITED] or self._words[at + GATE]:
                return False
        if cap is None:
            self._words[column] += ENTER
            return True
        try:
            flock(self._fd, LOCK)
        except BlockingIOError:
            if not self._file.wait():
                return False
        try:
            calls: tuple[int, ...] = self._columns(self._buffer, (self._first + row * self._stride + COLUMNS) * WORD)
            if sum(calls) & INFLIGHT_MASK >= cap:
                return False
            self._words[column] += ENTER
        finally:
            flock(self._fd, UNLOCK)
        return True

    def contend(self, row: int, until_ns: int) -> None:
        """Calls of this worker wait for the source, until then at least unless it says so again."""
        at = self._first + row * self._stride + WAITED
        if self._words[at] < until_ns:
            self._words[at] = until_ns

    def contended(self, row: int, now_ns: int) -> bool:
        """Whether calls wait for the source, on any worker of the node."""
        at = self._first + row * self._stride + WAITED
        until_ns = self._words[at]
        if until_ns and until_ns <= now_ns:
            self._words[at] = 0
        return until_ns > now_ns

    def leave(self, row: int) -> None:
        """A call that had entered has ended."""
        column = self._column + row * self._stride
        calls = self._words[column]
        if calls & INFLIGHT_MASK:
            self._words[column] = calls - 1

    def inflight(self, row: int) -> int:
        """Calls in flight to a source, over all workers of the node."""
        return self._calls(row) & INFLIGHT_MASK

    def calls(self, row: int) -> tuple[int, int]:
        """(`inflight`, `entered`) of one moment."""
        calls = self._calls(row)
        return calls & INFLIGHT_MASK, calls >> INFLIGHT_BITS

    def entered(self, row: int) -> int:
        """Calls that ever entered a source on this node; see `publish`."""
        return self._calls(row) >> INFLIGHT_BITS

    def _calls(self, row: int) -> int:
        return sum(self._columns(self._buffer, (self._first + row * self._stride + COLUMNS) * WORD))

    # -- circuit breaker

    def allow(self, row: int, now_ns: int) -> bool:
        """Whether a call may be sent now. When half open a True takes one of the `breaker_probes` probes.

        Ask when about to send, not to rank (`breaker_state` is for that). A probe's call must end in `success`,
        `failure` or `abandon`; one that does not (its worker died) is forgotten after `breaker_open_ms`.
        """
        words = self._words
        base = self._first + row * self._stride
        open_until = words[base + OPEN_UNTIL]
        if now_ns < open_until or now_ns < words[base + COOL_UNTIL]:
            return False
        if not open_until:
            return True
        if not self._file.lock():
            return False
        try:
            open_until = words[base + OPEN_UNTIL]
            if not open_until:
                return True
            probes = words[base + PROBES] if now_ns < words[base + PROBES_END] else 0
            if now_ns < open_until or probes >= self._probes_max:
                return False
            if not probes:
                words[base + PROBES_END] = now_ns + self._open_ns
            words[base + PROBES] = probes + 1
            return True
        finally:
            self._file.unlock()

    def failure(self, row: int, now_ns: int) -> None:
        """A call failed in a way that speaks against the source. Opens the breaker after `breaker_failures` in a row.

        A failed probe opens it again; a late failure while it is open changes nothing.
        """
        words = self._words
        base = self._first + row * self._stride
        if not self._file.lock():
            return
        try:
            if not words[base + OPEN_UNTIL]:
                failures = words[base + FAILURES] + 1
                words[base + FAILURES] = failures
                if failures < self._failures_max:
                    return
            elif not words[base + PROBES]:
                return
            words[base + PROBES] = 0
            words[base + OPEN_UNTIL] = now_ns + self._open_ns
        finally:
            self._file.unlock()

    def success(self, row: int) -> None:
        """A call was answered. Ends a row of failures; closes a half-open breaker.

        While the breaker is open and no probe is out, it is the late answer of an old call and changes nothing.
        """
        words = self._words
        base = self._first + row * self._stride
        if not words[base + FAILURES] and not words[base + OPEN_UNTIL]:
            return
        if not self._file.lock():
            return
        try:
            if words[base + OPEN_UNTIL] and not words[base + PROBES]:
                return
            words[base + FAILURES] = 0
            words[base + OPEN_UNTIL] = 0
            words[base + PROBES] = 0
        finally:
            self._file.unlock()

    def renew(self, row: int) -> None:
        """There is a new engine behind a source: what the one before it did counts no more."""
        if not self._file.lock():
            return
        try:
            base = self._first + row * self._stride
            for word in (FAILURES, OPEN_UNTIL, PROBES, COOL_UNTIL):
                self._words[base + word] = 0
        finally:
            self._file.unlock()

    def abandon(self, row: int) -> None:
        """A call that `allow` let through ended without a verdict (not sent, or cancelled): its probe is free again."""
        probes = self._first + row * self._stride + PROBES
        if not self._words[probes] or not self._file.lock():
            return
        try:
            self._words[probes] = max(0, self._words[probes] - 1)
        finally:
            self._file.unlock()

    def cool_down(self, row: int, until_ns: int) -> None:
        """Send nothing to a source before `until_ns`: it answered with Retry-After. The longest wins."""
        word = self._first + row * self._stride + COOL_UNTIL
        if until_ns > self._words[word]:
            self._words[word] = until_ns

    def breaker_state(self, row: int, now_ns: int) -> str:
        """ "closed", "open", "half_open" (probes pass), or "cooling" (closed, but the source asked for a pause)."""
        base = self._first + row * self._stride
        open_until = self._words[base + OPEN_UNTIL]
        if open_until:
            return "open" if now_ns < open_until else "half_open"
        return "cooling" if now_ns < self._words[base + COOL_UNTIL] else "closed"

    def open_until(self, row: int) -> int:
        """Monotonic nanoseconds before which nothing is sent to a source; 0 or past: it may be tried."""
        base = self._first + row * self._stride
        return max(self._words[base + OPEN_UNTIL], self._words[base + COOL_UNTIL])

    # -- snapshot and workers

    def confirm_snapshot(self, version: int, wall_ns: int) -> None:
        """The node has just made sure that `version` is the newest snapshot (wall clock, nanoseconds)."""
        words = self._words
        sequence = (words[CONFIRMED] | 1) + 1
        words[CONFIRMED] = sequence - 1
        words[CONFIRMED + 1] = version
        words[CONFIRMED + 2] = wall_ns
        words[CONFIRMED + 3] = (sequence + version + wall_ns) & MASK
        words[CONFIRMED] = sequence

    def snapshot_confirmed(self) -> tuple[int, int]:
        """(version, wall clock in ns) of the last confirmation; (0, 0), thus infinitely old, when there is none."""
        words = self._words
        for _ in range(READ_TRIES):
            sequence, version, wall_ns, check = words[CONFIRMED : CONFIRMED + 4]
            if not sequence & 1 and sequence == words[CONFIRMED] and (sequence + version + wall_ns) & MASK == check:
                return version, wall_ns
        return 0, 0

    def set_worker_state(self, pid: int, snapshot_version: int, calls: int) -> None:
        """A worker tells what it runs on. Raises ValueError on a handle that is no worker's."""
        if self.worker is None:
            raise ValueError("board: only a worker has a state")
        at = HEADER_WORDS + self.worker * WORKER_WORDS
        self._words[at + 1] = snapshot_version
        self._words[at + 2] = calls
        self._words[at] = pid

    def worker_state(self, worker: int) -> WorkerState:
        """What a worker said last; each figure by itself, not all of one instant."""
        at = HEADER_WORDS + worker * WORKER_WORDS
        return WorkerState(*self._words[at : at + 3])

    def clear_worker(self, worker: int) -> None:
        """Forget a dead worker: its state and the calls it had in flight.

        Only after the process is gone, and before another one opens the board under its number.
        """
        for row in range(self.rows):
            self._words[self._first + row * self._stride + COLUMNS + worker] &= ~INFLIGHT_MASK
        at = HEADER_WORDS + worker * WORKER_WORDS
        for i in range(WORKER_WORDS):
            self._words[at + i] = 0

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._file.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> None:
        if not self._file.lock():
            raise Unavailable("The node's board is held by a process that does not answer; ask again later.")

    def _assign(self, source_id: str) -> int:
        """The row of a source, or the first free one; with the lock held."""
        high, low = _digest(source_id)
        free: int | None = None
        for row in range(self.rows):
            base = self._first + row * self._stride
            taken = self._words[base + 1]
            if taken == low and self._words[base] == high:
                break
            if not taken and free is None:
                free = row
        else:
            if free is None:
                raise Unavailable(f"The node's board has no row left of {self.rows} for source {source_id}.")
            row = free
            base = self._first + row * self._stride
            for start, end in ((FAILURES, LOAD), (GATE, self._stride)):
                self._buffer[(base + start) * WORD : (base + end) * WORD] = bytes((end - start) * WORD)
            # The sequence goes on: readers remember the load of the row's last source by it.
            self.publish(row, waiting=-1, running=-1, kv_permille=-1, healthy=True, saturated=False, read_at_ns=0)
            self._words[base] = high
            self._words[base + 1] = low  # last: it marks the row as taken
        if len(self._known) >= 2 * self.rows:
            self._known.clear()
        self._known[source_id] = (row, high, low)
        return row


def _digest(source_id: str) -> tuple[int, int]:
    return word_pair(hashlib.blake2b(source_id.encode(), digest_size=16).digest())
