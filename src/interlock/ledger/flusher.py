"""The thread that waits for the disk, so that the event loop does not, and the work it is given.

One piece of work runs at a time; the next is given when the result of the last was taken. Work never raises:
what went wrong, and at which step, is in its result.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from interlock.ledger.files import Files, sync_folder, write_all
from interlock.ledger.folder import segment_path
from interlock.ledger.format import SegmentHeader, encode_header


class Flushed(NamedTuple):
    """Result of one piece of work.

    `seq`, `total_bytes`: what is durable now, if `synced`. `fd`: the new segment, if one was made. `sync_us`: how
    long the fdatasync took. `error`: what stopped it; with `synced` true it was the making of the new segment.
    """

    seq: int
    total_bytes: int
    synced: bool
    sync_us: int
    fd: int | None = None
    error: OSError | None = None


Work = Callable[[], Flushed]


class Flusher(Protocol):
    """Runs work away from the event loop."""

    def submit(self, work: Work) -> None:
        """Run `work`; call the notifier when its result can be taken."""

    def take(self) -> Flushed | None:
        """The next result, None when there is none yet."""

    def wait(self) -> Flushed:
        """The next result, waiting for it. Only while work is running."""

    def stop(self) -> None:
        """Wait for running work and end. Submitting afterwards is an error."""


class ThreadFlusher:
    """One daemon thread. `notify` is called in it after each piece of work."""

    def __init__(self, notify: Callable[[], object]) -> None:
        self._notify = notify
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._results: SimpleQueue[Flushed] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="record-log-flusher", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """See `Flusher`."""
        self._work.put(work)

    def take(self) -> Flushed | None:
        """See `Flusher`."""
        try:
            return self._results.get_nowait()
        except Empty:
            return None

    def wait(self) -> Flushed:
        """See `Flusher`."""
        return self._results.get()

    def stop(self) -> None:
        """See `Flusher`."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            try:
                flushed = work()
            except Exception as e:  # noqa: BLE001 - a defect in the work must fail the log, not hang its waiters
                flushed = Flushed(0, 0, False, 0, None, OSError(errno.EIO, f"the flusher failed: {e!r}"))
            self._results.put(flushed)
            try:
                self._notify()
            except RuntimeError:
                return  # the event loop is closed: nobody is left to be told


def sync(files: Files, fd: int, written: Callable[[], tuple[int, int]]) -> Flushed:
    """Make a segment durable. `written`: the last frame in the file now, and how many bytes of this epoch.

    INVARIANT: that is asked before fdatasync is called, and answered only with what `write` has taken. As late as
    this, so that what was written while this thread waited for its turn is covered too.
    """
    seq, total_bytes = written()
    started = time.perf_counter_ns()
    while True:
        try:
            files.fdatasync(fd)
        except InterruptedError:
            continue
        except OSError as e:
            return Flushed(seq, total_bytes, False, 0, None, e)
        return Flushed(seq, total_bytes, True, (time.perf_counter_ns() - started) // 1000)


def switch(
    files: Files, fd: int, keep_bytes: int | None, seq: int, total_bytes: int, folder: Path, header: SegmentHeader
) -> Flushed:
    """End a segment and begin the next. `keep_bytes`: where its last whole frame ends, when a torn one follows.

    INVARIANT: the next segment comes into being only after the one before is whole and durable. A reader may
    therefore take anything but whole frames in a segment that has a successor for damage.
    """
    if keep_bytes is not None:
        try:
            files.ftruncate(fd, keep_bytes)
        except OSError as e:
            return Flushed(seq, total_bytes, False, 0, None, e)
    synced = sync(files, fd, lambda: (seq, total_bytes))
    if not synced.synced:
        return synced
    try:
        return synced._replace(fd=create_segment(files, folder, header))
    except OSError as e:
        return synced._replace(error=e)


def create_segment(files: Files, folder: Path, header: SegmentHeader) -> int:
    """Make a segment with its header, durable in its folder, and return its descriptor.

    A file of that name may be left from an attempt that failed; it never held a frame, so it is emptied.
    Raises OSError; then no segment is left, as far as the disk allows.
    """
    path = segment_path(folder, header.epoch, header.segment)
    fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _, error = write_all(files, fd, encode_header(header))
        if error is not None:
            raise error
        files.fdatasync(fd)
        sync_folder(files, path.parent)
    except OSError:
        files.close(fd)
        _remove(files, path)
        raise
    return fd


def _remove(files: Files, path: Path) -> None:
    try:
        files.unlink(path)
    except OSError:
        return  # it stays as an empty segment, which the next attempt empties again and readers know
