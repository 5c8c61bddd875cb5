"""RecordLog: one worker's append-only log, with group commit.

    append -> buffer -> (end of this loop iteration) one write -> (flusher thread) fdatasync -> waiters

Three questions have three answers: `append` returned (the record has its place), `on_written` (it survives the death
of this process), `on_durable` (it survives the loss of power). There is no commit timer: the next fdatasync starts
when the last has ended and somebody waits, so that a batch is as large as the disk is slow; `pace` says when not.

Everything here runs on the event loop's thread except the flusher's work. `docs/record-log.md` has the crash cases.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn
from zlib import crc32

from isal.isal_zlib import crc32 as crc32_of_large

from interlock.errors import LogError
from interlock.ledger.birth import begin_epoch, new_salt
from interlock.ledger.disk import DiskBudget
from interlock.ledger.files import NO_SPACE, Files, put_marker, write_all
from interlock.ledger.flusher import Flushed, Flusher, ThreadFlusher, switch, sync
from interlock.ledger.folder import CLOSED
from interlock.ledger.format import (
    HEAD_BYTES,
    HEADER_BYTES,
    LARGE_BYTES,
    SegmentHeader,
    encode,
    mark,
    pack_head,
    pack_seq,
    whole_frames,
)
from interlock.ledger.losses import Losses
from interlock.ledger.pace import Pace
from interlock.ledger.refusals import again, backlog, closed, failed, full, given_up, too_large
from interlock.ledger.stats import LogStats
from interlock.ledger.waiters import DurableCallback, Waiters
from interlock.settings import Settings
from interlock.types.clock import Clock
from interlock.types.record import EpochClose, EpochOpen, Intent, Outcome, Record

_OPEN = "open"
_SEALING = "sealing"
"""The segment is over its size: writes are held back until the next one exists."""
_FULL = "full"
"""The disk is full: appends are refused until there is room."""
_FAILED = "failed"
"""The disk failed: nothing is claimed durable any more in this epoch."""
_CLOSED = "closed"


class RecordLog:
    """See the module. Make one with `open`; its methods belong to the loop's thread."""

    epoch: str
    refusal: LogError | None
    """Why no new call may be admitted now; None when one may."""
    durable_seq: int
    """Everything up to here is durable, except records that were given up on a full disk (their waiters know)."""
    written_seq: int
    calls: int
    """The number of the last call."""

    def __init__(
        self,
        folder: Path,
        header: SegmentHeader,
        *,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        files: Files,
        entropy: Callable[[int], bytes],
        lock_fd: int,
        fd: int,
        flusher: Callable[[Callable[[], object]], Flusher],
    ) -> None:
        self.epoch = header.epoch
        self.refusal = None
        self.durable_seq = self.written_seq = 0
        self._written = (0, 0)
        self._folder, self._header, self._settings = folder, header, settings
        self._loop, self._clock, self._files, self._entropy = loop, clock, files, entropy
        self._lock_fd, self._fd = lock_fd, fd
        self._call_soon = loop.call_soon
        self._state = _OPEN
        self._gate: LogError | None = None
        self._seq = self.calls = self._marked = self._last_framed = 0
        self._parts: list[bytes] = []
        self._scheduled = self._busy = False
        self._segment_size = HEADER_BYTES
        self._appended_total = self._written_total = self._durable_total = 0
        self._written_callbacks: list[Callable[[], None]] = []
        self._waiters = Waiters()
        self._sync_through = 0
        self._sync_timer: asyncio.TimerHandle | None = None
        gap_ns = settings.log_sync_gap_ms * 1_000_000
        self._pace = Pace(gap_ns, clock.mono_ns, loop.call_soon, lambda: self._seq, self._sync_now)
        self._check_timer: asyncio.TimerHandle | None = None
        self._failure_callbacks: list[Callable[[LogError], None]] = []
        self._losses = Losses(settings.calls_max)
        self._next_header = header
        self._space_back = False
        self._open_calls = 0
        self._writes = self._fsyncs = self._fsync_us = self._fsync_us_sum = 0
        self._disk = DiskBudget(folder, files, settings)
        self._closing = False
        self._record_bytes_max = settings.record_bytes_max
        self._segment_bytes = settings.segment_bytes
        self._pending_max = settings.log_pending_bytes_max
        self._flusher = flusher(self._notify)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        node: str,
        slot: int,
        version: str,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        files: Files | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        flusher: Callable[[Callable[[], object]], Flusher] = ThreadFlusher,
        receipt_key: bytes = b"",
    ) -> RecordLog:
        """Begin an epoch under `folder`; its EpochOpen is durable when this returns. Blocks for a few fsyncs.

        `slot` is the worker's place on its node, `receipt_key` as in EpochOpen. Raises LogError when the disk refuses.
        """
        files = files or Files()
        try:
            header, lock_fd, fd = begin_epoch(folder, files, clock, entropy)
        except OSError as e:
            raise LogError(f"The record log in {folder} cannot be opened: {e}.") from e
        log = cls(
            folder,
            header,
            settings=settings,
            loop=loop,
            clock=clock,
            files=files,
            entropy=entropy,
            lock_fd=lock_fd,
            fd=fd,
            flusher=flusher,
        )
        try:
            now = clock.wall_ns(), clock.mono_ns()
            log.append(EpochOpen(log.epoch, node, slot, os.getpid(), *now, version, receipt_key=receipt_key))
            log.sync()
        except BaseException:
            log.abandon()
            raise
        log._check()
        return log

    # -- appending

    def next_call(self) -> int:
        """The number of a new call, from 1."""
        self.calls += 1
        return self.calls

    def append(self, record: Record) -> int:
        """Give a record its place; returns its sequence number. It is written at the end of this loop iteration.

        Raises LogError when the log takes no records; an Outcome refused by a full disk or a backlog is kept, without
        its body, and written as "cut" when there is room again.
        """
        if self._gate is not None:
            self._turn_away(record)
        body = encode(record)
        size = len(body)
        if size > self._record_bytes_max:
            raise too_large(size)
        kind = type(record)
        if kind is Intent:
            self._open_calls += 1
        elif kind is Outcome:
            self._open_calls -= 1
        seq = self._seq = self._seq + 1
        summed = (crc32 if size < LARGE_BYTES else crc32_of_large)(body, crc32(pack_seq(seq)))
        self._parts += pack_head(size, summed, seq), body
        self._appended_total += size + HEAD_BYTES
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._write)
        return seq

    def append_chunk(self, call: int, index: int, text: str, raw: bytes) -> int:
        """`append(Chunk(call, index, text, raw))`, faster."""
        if self._gate is not None:
            raise again(self._gate)
        body = encode((6, call, index, text, raw))
        size = len(body)
        if size > self._record_bytes_max:
            raise too_large(size)
        seq = self._seq = self._seq + 1
        self._parts.append(pack_head(size, crc32(body, crc32(pack_seq(seq))), seq) + body)
        self._appended_total += size + HEAD_BYTES
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._write)
        return seq

    @property
    def appended_seq(self) -> int:
        """The sequence number of the last record that was appended; 0 when there is none."""
        return self._seq

    # -- being told

    def on_written(self, callback: Callable[[], None]) -> None:
        """Call once when everything appended so far is written; at once if it is.

        Never called when the log fails first: see `on_failure`.
        """
        if self._parts:
            self._written_callbacks.append(callback)
        elif self._state in (_OPEN, _SEALING):
            callback()

    def on_durable(self, seq: int, callback: DurableCallback) -> None:
        """Call once with None when records up to `seq` are durable, or with the error that prevents it for good.

        At once if that is known already; else in the order of `seq`. After an error the record may or may not be
        found later: it was promised to nobody.
        """
        if seq <= self.durable_seq:
            callback(given_up() if self._losses and self._losses.has(seq) else None)
            return
        if self._state == _FAILED or self._state == _CLOSED or (self._state == _FULL and seq > self.written_seq):
            callback(again(self._gate or given_up()))
            return
        self._waiters.add(seq, callback)
        if not self._busy and seq <= self.written_seq:
            self._advance()

    def lost(self, seq: int) -> bool:
        """Whether a record was given up on a full disk. Known once the log takes records again."""
        return self._losses.has(seq)

    def sync_within(self, ms: int) -> None:
        """Make what is appended until now durable within about `ms` milliseconds, though nobody waits for it."""
        if self._sync_timer is None:
            early_ms = max(ms - self._fsync_us / 500 - self._settings.log_sync_gap_ms, ms / 4)
            self._sync_timer = self._loop.call_later(early_ms / 1000, self._sync_due)

    def on_failure(self, callback: Callable[[LogError], None]) -> None:
        """Call each time the log stops taking records: calls in progress must be cut, as they cannot be recorded."""
        self._failure_callbacks.append(callback)

    @property
    def failed(self) -> bool:
        """Whether the disk failed for good: nothing is claimed durable any more, a new epoch has to begin."""
        return self._state == _FAILED

    def stats(self) -> LogStats:
        """Figures for metrics; costs about a microsecond."""
        return LogStats(
            epoch=self.epoch,
            segments=self._header.segment + 1,
            bytes=self._written_total,
            records=self._seq - self._losses.records,
            writes=self._writes,
            fsyncs=self._fsyncs,
            fsync_us_sum=self._fsync_us_sum,
            pending_bytes=self._appended_total - self._durable_total,
            open_calls=self._open_calls,
            dropped=self._losses.records,
            lost_outcomes=self._losses.lost_outcomes,
        )

    # -- blocking and ending

    def sync(self) -> None:
        """Make everything appended durable, blocking this thread: for start, recovery and tests.

        Raises LogError when that fails.
        """
        target = self._seq
        self._write()
        while self.durable_seq < target and self._state in (_OPEN, _SEALING):
            self._sync_through = target
            self._advance(at_once=True)
            self._take(self._flusher.wait())
            self._write()
        if self.durable_seq < target:
            raise again(self._gate or given_up())
        if self._losses and self._losses.has(target):
            raise given_up()

    async def close(self) -> None:
        """End the epoch in good order: EpochClose durable, then the lock is released. Harmless when repeated.

        Of a failed log nothing more is written; the next start recovers it.
        """
        if self._closing or self._state == _CLOSED:
            return
        self._closing = True
        if self._state in (_OPEN, _SEALING):
            self._gate = None
            ended: asyncio.Future[LogError | None] = self._loop.create_future()
            seq = self.append(EpochClose(self.epoch, self._clock.wall_ns(), self._seq))
            self._gate = self.refusal = closed()
            self.on_durable(seq, lambda error: None if ended.done() else ended.set_result(error))
            error = await ended
            while self._busy:
                self._take(self._flusher.wait())
            if error is None and self._state == _OPEN:
                self._seal_epoch()
        self.abandon()

    def abandon(self) -> None:
        """Let go of everything as a crash would: no EpochClose, waiters are not called. Blocks for running work."""
        if self._state == _CLOSED:
            return
        self._state = _CLOSED
        self._gate = self.refusal = closed()
        for timer in (self._sync_timer, self._check_timer):
            if timer is not None:
                timer.cancel()
        self._sync_timer = self._check_timer = None
        self._waiters.clear()
        self._written_callbacks.clear()
        self._flusher.stop()
        while (flushed := self._flusher.take()) is not None:
            if flushed.fd is not None:
                self._files.close(flushed.fd)
        self._files.close(self._fd)
        self._files.close(self._lock_fd)

    def _seal_epoch(self) -> None:
        """A last mark vouches for the last frames; the marker spares the next start from reading this epoch."""
        try:
            _, error = write_all(self._files, self._fd, mark(self.durable_seq, self._header.salt))
            if error is not None:
                raise error
            self._files.fdatasync(self._fd)
            if self._open_calls == 0 and not self._losses:
                put_marker(self._files, self._folder / self.epoch / CLOSED)
        except OSError:
            # EpochClose is durable: without the marker the next start reads the epoch and finds nothing to do.
            return

    # -- writing

    def _write(self) -> None:
        self._scheduled = False
        if self._state != _OPEN:
            self._weigh()
            return
        parts = self._parts
        if not parts:
            return
        if self.durable_seq > self._marked:
            self._marked = self.durable_seq
            parts.insert(0, mark(self.durable_seq, self._header.salt))
        data = b"".join(parts)
        parts.clear()
        self._writes += 1
        done, error = 0, None
        try:
            done = self._files.write(self._fd, data)
        except InterruptedError:
            done = 0
        except OSError as e:
            error = e
        if done != len(data):
            if error is None:
                done, error = write_all(self._files, self._fd, data, done)
            if error is not None:
                self._write_failed(data, done, error)
                return
        self._segment_size += done
        self.written_seq = self._last_framed = self._seq
        self._written_total = self._appended_total
        self._written = (self.written_seq, self._written_total)
        if self._segment_size >= self._segment_bytes:
            self._state = _SEALING
            self._advance()
        elif not (self._busy or self._pace.waiting) and (self._waiters or self._sync_through > self.durable_seq):
            self._advance()
        pending = self._appended_total - self._durable_total
        if pending > self._pending_max or self.refusal is not None or self._written_total > self._disk.allows_total:
            self._weigh()
        if self._written_callbacks:
            callbacks = self._written_callbacks
            self._written_callbacks = []
            self._call_each(callbacks)

    def _advance(self, *, at_once: bool = False) -> None:
        """Give the idle flusher what is most needed now; a sync may have to wait for its time, unless `at_once`."""
        if self._busy or self._state in (_FAILED, _CLOSED):
            return
        wanted = self._sync_through
        if self._waiters and self._waiters.first <= self.written_seq:
            wanted = max(wanted, self._waiters.first)
        if self._state == _SEALING:
            self._submit_switch(None)
        elif wanted > self.durable_seq and self.written_seq > self.durable_seq:
            if not at_once and self._pace.waits():
                return
            self._busy = True
            self._flusher.submit(partial(sync, self._files, self._fd, self._reached))
        elif self._state == _FULL and self._space_back:
            self._space_back = False
            self._submit_switch(self._segment_size)

    def _sync_now(self) -> None:
        self._write()
        self._advance(at_once=True)

    def _reached(self) -> tuple[int, int]:
        """The flusher's thread asks this when its fdatasync is about to begin: (last seq, bytes) written until then."""
        return self._written

    def _submit_switch(self, keep_bytes: int | None) -> None:
        self._busy = True
        self._next_header = SegmentHeader(
            segment=self._header.segment + 1,
            epoch=self.epoch,
            first_seq=(self._seq if self._state == _FULL else self.written_seq) + 1,
            previous_last_seq=self._last_framed,
            created_ns=self._clock.wall_ns(),
            salt=new_salt(self._entropy),
        )
        self._flusher.submit(
            partial(
                switch,
                self._files,
                self._fd,
                keep_bytes,
                self.written_seq,
                self._written_total,
                self._folder,
                self._next_header,
            )
        )

    # -- what the flusher did

    def _notify(self) -> None:
        self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        if self._state != _CLOSED:
            flushed = self._flusher.take()
            if flushed is not None:
                self._take(flushed)

    def _take(self, flushed: Flushed) -> None:
        """The flusher's result: durable, switched, full, or failed."""
        self._busy = False
        if not flushed.synced:
            self._fail(flushed.error)
            return
        self._fsyncs += 1
        self._fsync_us = flushed.sync_us
        self._fsync_us_sum += flushed.sync_us
        self.durable_seq = max(self.durable_seq, flushed.seq)
        self._durable_total = max(self._durable_total, flushed.total_bytes)
        due = self._due()
        if flushed.fd is not None:
            self._switched(flushed.fd)
        elif flushed.error is not None:
            if flushed.error.errno not in NO_SPACE:
                self._fail(flushed.error)
            elif self._state == _SEALING:
                self._fill(b"".join(self._parts), flushed.error)
        self._advance()
        if self.refusal is not None:
            self._weigh()
        if due:
            self._call_each(due)

    def _due(self) -> list[Callable[[], None]]:
        """Take out the waiters whose records are durable now, with what they are to be told."""
        lost = self._losses
        return [
            partial(callback, given_up() if lost and lost.has(seq) else None)
            for seq, callback in self._waiters.take_upto(self.durable_seq)
        ]

    def _switched(self, fd: int) -> None:
        """Go on in the next segment. After a full disk, what was dropped counts as settled."""
        self._files.close(self._fd)
        self._fd, self._header = fd, self._next_header
        self._segment_size = HEADER_BYTES
        was_full = self._state == _FULL
        self._state = _OPEN
        if was_full:
            self.written_seq = self.durable_seq = self._seq
            self._written = (self._seq, self._written_total)
            self._gate = None
            self._weigh()
        self._write()

    def _call_each(self, calls: Sequence[Callable[[], None]]) -> None:
        """Call all of them: what one raises is reported by the loop, and neither the others nor the log suffer."""
        for call in calls:
            try:
                call()
            except Exception as e:  # noqa: BLE001 - as the loop itself does with its callbacks
                self._loop.call_exception_handler({"message": "a callback of the record log failed", "exception": e})

    def _sync_due(self) -> None:
        self._sync_timer = None
        self._sync_through = self._seq
        self._write()
        self._advance()

    # -- when the disk is full or broken

    def _write_failed(self, data: bytes, done: int, error: OSError) -> None:
        """A batch stopped at `done` bytes: its whole frames are in the file, the rest is not."""
        whole, last, frames = whole_frames(data[:done])
        self._segment_size += whole
        if last:
            self.written_seq = self._last_framed = last
        self._written_total += sum(len(body) + HEAD_BYTES for _, body in frames)
        self._written = (self.written_seq, self._written_total)
        if error.errno in NO_SPACE:
            self._fill(data[whole:], error)
            self._advance()
        else:
            self._fail(error)

    def _fill(self, unwritten: bytes, error: OSError) -> None:
        """The disk is full: give up what is not written, refuse appends until the check finds room."""
        if self._losses.exhausted:
            self._fail(error)
            return
        self._state = _FULL
        _, _, frames = whole_frames(unwritten)
        self._open_calls += self._losses.drop(self.written_seq + 1, self._seq, (body for _, body in frames))
        self._stop_taking(full(error))

    def _fail(self, error: OSError | None) -> None:
        """The disk broke its promise. What was not durable before is never claimed to be (fsync is not retried:
        after an error the kernel may have dropped the pages and report success)."""
        self._state = _FAILED
        self.written_seq = self.durable_seq
        self._stop_taking(failed(error))

    def _stop_taking(self, error: LogError) -> None:
        self._gate = self.refusal = error
        self._parts.clear()
        self._written_callbacks.clear()
        self._appended_total = self._written_total
        calls = [partial(callback, again(error)) for _, callback in self._waiters.take_after(self.written_seq)]
        self._call_each(calls + [partial(callback, error) for callback in self._failure_callbacks])

    def _turn_away(self, record: Record) -> NoReturn:
        assert self._gate is not None  # noqa: S101
        if isinstance(record, Outcome) and self._state != _FAILED and self._state != _CLOSED:
            self._losses.owe(record)
        raise again(self._gate)

    # -- limits

    def _check(self) -> None:
        """Look at the disk, every `log_check_ms`."""
        self._check_timer = self._loop.call_later(self._settings.log_check_ms / 1000, self._check)
        self._disk.check(self._written_total)
        if self._state == _FULL and self._disk.room:
            self._space_back = True
            self._advance()
        self._weigh()

    def _weigh(self) -> None:
        """Set `refusal`, and the gate against a backlog that even calls in progress must not add to."""
        if self._state not in (_OPEN, _SEALING) or self._closing:
            return
        pending = self._appended_total - self._durable_total
        waiting = backlog(pending) if pending > self._pending_max else None
        if waiting is None:
            self._gate = None
        elif pending > 2 * self._pending_max:
            self._gate = waiting
        self.refusal = waiting or self._disk.refusal(self._written_total)
        if self._gate is None and self._losses.owed:
            owed = list(self._losses.owed.values())
            self._losses.owed.clear()
            for outcome in owed:
                self.append(outcome)
