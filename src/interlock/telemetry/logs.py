"""The structured log: one JSON object a line on stderr. It tells what happened to the system, never what was said.

    log.event(logging.WARNING, "source_down", "The source does not answer its probes.", source="gpu-1", failures=3)
    {"time":"2027-01-15T08:00:00.000Z","level":"warning","event":"source_down","process":"node","message":...}

Lines are written by a thread, so that a full pipe never holds up an event loop; lines that find its queue full, and
lines of an event beyond `log_event_lines_max` a minute, are counted instead. Text is redacted (see `redact`).
"""

from __future__ import annotations

import datetime
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import msgspec

from interlock.errors import ConfigError, InterlockError
from interlock.settings import Settings
from interlock.telemetry.redact import redact, redact_field
from interlock.types.clock import Clock

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MINUTE_NS = 60_000_000_000
EVENTS_MAX = 512
"""Event names counted apart for the rate limit; further ones share one count."""
FRAMES_MAX = 8
"""Innermost frames shown of an unexpected exception: places only, no values."""
CLOSE_WAIT_S = 2.0

_encode = msgspec.json.Encoder().encode


class Sink(Protocol):
    """Where lines go: `sys.stderr.buffer`, a file, or a list in a test."""

    def write(self, line: bytes, /) -> object:
        """Take one line."""

    def flush(self) -> object:
        """Push it out."""


class EventLog:
    """The log of one process. `process` names it in every line ("worker-0", "node", "control").

    `dropped` counts lines left out, by queue or rate limit. Thread-safe. Close it: the last lines are in a queue.
    """

    def __init__(self, process: str, settings: Settings, clock: Clock, sink: Sink | None = None) -> None:
        if settings.log_level not in LEVELS:
            raise ConfigError(
                f"log_level is {settings.log_level!r}; it must be one of {', '.join(LEVELS)}", param="log_level"
            )
        self.level = LEVELS[settings.log_level]
        self.dropped = 0
        self._process = process
        self._lines_max = settings.log_event_lines_max
        self._clock = clock
        self._sink: Sink = sys.stderr.buffer if sink is None else sink
        self._windows: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        self._queue: queue.Queue[bytes | None] = queue.Queue(settings.log_queue_max)
        self._thread = threading.Thread(target=self._write_lines, name="event-log", daemon=True)
        self._thread.start()

    def event(self, level: int, event: str, message: str = "", **fields: object) -> None:
        """Write one line when `level` (of `logging`) is high enough. `fields` hold names and figures, never payloads."""
        if level < self.level:
            return
        with self._lock:
            suppressed = self._allow(event)
            if suppressed < 0:
                self.dropped += 1
                return
        line: dict[str, object] = {
            "time": _time(self._clock.wall_ns()),
            "level": logging.getLevelName(level).lower(),
            "event": event,
            "process": self._process,
        }
        if message:
            line["message"] = redact(message)
        for name, value in fields.items():
            line[name if name not in line else name + "_"] = redact_field(name, value)
        if suppressed:
            line["suppressed_before"] = suppressed
        try:
            self._queue.put_nowait(_encode(line) + b"\n")
        except queue.Full:
            with self._lock:
                self.dropped += 1

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """Write a line about an exception: an InterlockError by its code and level, any other as an error with the
        places it passed (file, line, function; no values)."""
        if isinstance(error, InterlockError):
            self.event(error.level, event, error.message, code=error.code, **fields)
            return
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
        places = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in frames]
        self.event(
            logging.ERROR, event, str(error), exception=type(error).__name__, places=" < ".join(reversed(places)),
            **fields,
        )  # fmt: skip

    def close(self) -> None:
        """Write what is queued (for at most two seconds) and stop. Safe to call twice."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=CLOSE_WAIT_S)
            except queue.Full:
                return  # nobody reads the log any more: there is nothing left to wait for
            self._thread.join(CLOSE_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _allow(self, event: str) -> int:
        """How many lines of this event were left out in the window before, or -1 when this one is left out too."""
        name = event if event in self._windows or len(self._windows) < EVENTS_MAX else ""
        now = self._clock.mono_ns()
        began, written, left_out = self._windows.get(name, (now, 0, 0))
        if now - began >= MINUTE_NS:
            self._windows[name] = (now, 1, 0)
            return left_out
        if written >= self._lines_max:
            self._windows[name] = (began, written, left_out + 1)
            return -1
        self._windows[name] = (began, written + 1, left_out)
        return 0

    def _write_lines(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._sink.write(line)
                if self._queue.empty():
                    self._sink.flush()
            except (OSError, ValueError):  # stderr is gone; there is nobody left to tell
                with self._lock:
                    self.dropped += 1


class LibraryHandler(logging.Handler):
    """Sends what libraries say through `logging` to the event log, as event "library" with the logger's name."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log.level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record of a library."""
        if record.exc_info and record.exc_info[1] is not None:
            self._log.failure("library", record.exc_info[1], logger=record.name, words=record.getMessage())
        else:
            self._log.event(record.levelno, "library", record.getMessage(), logger=record.name)


def adopt_libraries(log: EventLog, levels: Mapping[str, int] | None = None) -> LibraryHandler:
    """Make the root logger write to `log` and nowhere else. `levels`: least level by logger name (default: warnings)."""
    handler = LibraryHandler(log)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name, level in (levels or {}).items():
        logging.getLogger(name).setLevel(level)
    return handler


def _time(wall_ns: int) -> str:
    seconds, ns = divmod(wall_ns, 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03d}Z"
