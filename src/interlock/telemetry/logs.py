"""The structured log: one JSON object a line on stderr. It tells what happened to the system, never what was said.

Every module logs through `logging.getLogger(...)` as usual; figures and names go along in `extra`:

    log.warning("source %s does not answer its probes", name, extra={"failures": 3})
    {"time":"2027-01-15T08:00:00.000Z","level":"warning","logger":"interlock.gateway.node","process":"node",...}

Lines are written by a thread, so that a full pipe never holds up an event loop; lines that find its queue full, and
lines of one place beyond `log_event_lines_max` a minute, are counted instead. Text is redacted (see `redact`).
"""

from __future__ import annotations

import datetime
import logging
import queue
import sys
import threading
import traceback
from typing import Protocol

import msgspec

from interlock.errors import ConfigError, InterlockError
from interlock.settings import Settings
from interlock.telemetry.metrics import Metrics
from interlock.telemetry.redact import redact, redact_field
from interlock.types.clock import Clock, SystemClock

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MINUTE_NS = 60_000_000_000
EVENTS_MAX = 512
"""Messages (by logger and unformatted text) counted apart for the rate limit; further ones share one count."""
FRAMES_MAX = 8
"""Innermost frames shown of an unexpected exception: places only, no values."""
BETWEEN = " < "
CLOSE_WAIT_S = 2.0
QUOTING = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions whose words hold the value that did not fit: of a prompt, an answer, a key."""

_encode = msgspec.json.Encoder().encode
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else came by `extra`."""


class Sink(Protocol):
    """Where lines go: `sys.stderr.buffer`, a file, or a list in a test."""

    def write(self, line: bytes, /) -> object:
        """Take one line."""

    def flush(self) -> object:
        """Push it out."""


class JsonLines(logging.Handler):
    """The handler of one process. `process` names it in every line ("worker-0", "node", "control").

    `dropped` counts lines left out, by queue or rate limit. Thread-safe. `logging` closes it when the process ends.
    """

    def __init__(self, process: str, settings: Settings, clock: Clock, sink: Sink | None = None) -> None:
        super().__init__()
        self.dropped = 0
        self._process = process
        self._lines_max = settings.log_event_lines_max
        self._clock = clock
        self._sink: Sink = sys.stderr.buffer if sink is None else sink
        self._windows: dict[str, tuple[int, int, int]] = {}
        self._queue: queue.Queue[bytes | None] = queue.Queue(settings.log_queue_max)
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line, or count it as dropped. Called by `logging` under this handler's lock."""
        try:
            suppressed = self._allow(f"{record.name} {record.msg}")
            if suppressed < 0:
                self.dropped += 1
                return
            line = self._line(record)
            if suppressed:
                line["suppressed_before"] = suppressed
            self._queue.put_nowait(_encode(line) + b"\n")
        except queue.Full:
            self.dropped += 1
        except (TypeError, ValueError):  # a message that does not fit its arguments must not stop what it is about
            self.dropped += 1

    def _line(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if self._process:
            line["process"] = self._process
        line["pid"] = record.process
        line["message"] = redact(record.getMessage())
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line[name if name not in line else name + "_"] = redact_field(name, value)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line.update(_failure(error))
        return line

    def fill(self, metrics: Metrics) -> None:
        """Bring the count of dropped lines into `metrics`; for `Metrics.before_publish`."""
        metrics.log_lines_dropped.follow((), self.dropped)

    def close(self) -> None:
        """Write what is queued (for at most two seconds) and stop. Safe to call twice."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=CLOSE_WAIT_S)
                self._thread.join(CLOSE_WAIT_S)
            except queue.Full:
                pass  # nobody reads the log any more: there is nothing left to wait for
        super().close()

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
                self.dropped += 1


def setup_logging(
    level: str,
    process: str = "",
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    sink: Sink | None = None,
) -> JsonLines:
    """Send everything this process logs to stderr as JSON lines: Interlock's own from `level` on, libraries' warnings.

    `process` names it in each line. Returns the handler, for its count of dropped lines. Raises ConfigError.
    """
    if level not in LEVELS:
        raise ConfigError(f"log_level is {level!r}; it must be one of {', '.join(LEVELS)}", param="log_level")
    handler = JsonLines(process, settings or Settings(log_level=level), clock or SystemClock(), sink)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, JsonLines):
            old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("interlock").setLevel(LEVELS[level])
    return handler


def _failure(error: BaseException) -> dict[str, object]:
    """An exception in a line: our own by its code and words, any other by the places it passed, and by its words where
    they do not quote what was dealt with."""
    if isinstance(error, InterlockError):
        return {"code": error.code, "error": redact(error.message)}
    words = {} if isinstance(error, QUOTING) else {"error": redact(str(error))}
    return {"exception": type(error).__name__, **words, "places": places(error)}


def places(error: BaseException) -> str:
    """Where an exception passed, the innermost first: file, line and function, without any value."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return BETWEEN.join(f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in reversed(frames))


def _time(created_s: float) -> str:
    moment = datetime.datetime.fromtimestamp(created_s, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
