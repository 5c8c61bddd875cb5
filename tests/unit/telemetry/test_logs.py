"""The structured log: its form, what it never shows, and what happens when there is too much of it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from interlock.errors import ConfigError, LimitExceeded
from interlock.settings import Settings
from interlock.telemetry.logs import EVENTS_MAX, JsonLines, setup_logging
from interlock.telemetry.metrics import Metrics
from interlock.telemetry.redact import STRUCK, redact
from interlock.testing.clock import FakeClock

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


class Lines:
    """A sink that keeps lines; `gate` holds writing up until opened."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.raw: list[bytes] = []
        self.gate = gate

    def write(self, line: bytes, /) -> None:
        if self.gate is not None:
            self.gate.wait(5)
        self.raw.append(line)

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw]


@contextmanager
def logger(
    sink: Lines, clock: FakeClock | None = None, name: str = "interlock.node", **settings: Any
) -> Iterator[tuple[logging.Logger, JsonLines]]:
    """A logger of its own (not in `logging`'s tree), writing to `sink`."""
    handler = JsonLines("node", Settings(**settings), clock or FakeClock(), sink)
    made = logging.Logger(name)
    made.addHandler(handler)
    try:
        yield made, handler
    finally:
        handler.close()


def test_a_line_is_one_json_object_with_time_level_logger_and_fields() -> None:
    sink = Lines()
    with logger(sink) as (log, _):
        log.warning("%s does not answer\nits probes", "gpu-1", extra={"failures": 3, "level": "x"})
    assert sink.raw[0].count(b"\n") == 1
    (line,) = sink.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("pid") > 0
    assert line == {
        "level": "warning", "logger": "interlock.node", "process": "node", "failures": 3, "level_": "x",
        "message": "gpu-1 does not answer\nits probes",
    }  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    [
        "il_live_0123456789abcdefghijABCDEFGHIJ123456",
        "sk-proj-abcdefghijklmnop",
        JWT,
        "Bearer hunter2-hunter2",
        "basic dXNlcjpwYXNz",
        "postgresql://app:hunter2-hunter2@db/x",
        'api_key="hunter2-hunter2"',
        "password: hunter2-hunter2",
        "Authorization: Bearer hunter2-hunter2",
        "https://x/y?token=hunter2-hunter2&z=1",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    ],
)
def test_credentials_are_struck_out_wherever_they_stand(secret: str) -> None:
    sink = Lines()
    with logger(sink) as (log, _):
        log.error("before %s after", secret, extra={"detail": f"<{secret}>", "other": [secret]})
    text = sink.raw[0].decode()
    core = "hunter2" if "hunter2" in secret else secret.split()[-1][-8:]
    assert core not in text and STRUCK in text and "before" in text


def test_ordinary_words_are_left_alone() -> None:
    for words in (
        "token limit reached for team research", "The key prefix is il_live_", "source gpu-1 answered 503",
        "http://127.0.0.1:8000/v1/models", "tokens: 12 of 40", "basic_string",
    ):  # fmt: skip
        assert redact(words) == words


def test_secret_and_payload_fields_are_never_shown() -> None:
    sink = Lines()
    hidden = {"api_key": "abc", "db_password": "abc", "authorization": "abc"}
    payload = {"messages": ["hello"], "prompt": "hi", "body": b"hi"}
    with logger(sink) as (log, _):
        log.error("e", extra=hidden | payload | {"completion_tokens": 12})
    line = sink.lines[0]
    assert {line[name] for name in hidden} == {STRUCK}
    assert {line[name] for name in payload} == {"[payload left out]"}
    assert line["completion_tokens"] == 12


def test_long_values_are_cut() -> None:
    assert len(redact("x" * 1_000_000)) < 2_100


def test_rate_limit_is_per_message_and_told_afterwards() -> None:
    sink, clock = Lines(), FakeClock()
    with logger(sink, clock, log_event_lines_max=3) as (log, handler):
        for number in range(10):
            log.info("often %d", number)
        log.info("rare")
        clock.advance(s=60)
        log.info("often %d", 10)
        assert handler.dropped == 7
        metrics = Metrics(None, "0", Settings(), clock)
        handler.fill(metrics)
        handler.fill(metrics)
        assert metrics.log_lines_dropped.cells == {(): 7}
    assert [x["message"] for x in sink.lines] == ["often 0", "often 1", "often 2", "rare", "often 10"]
    assert sink.lines[-1]["suppressed_before"] == 7


def test_counts_for_the_rate_limit_are_bounded() -> None:
    sink = Lines()
    with logger(sink) as (log, handler):
        for number in range(2 * EVENTS_MAX):
            log.info(f"message {number}")
        assert len(handler._windows) == EVENTS_MAX + 1
        assert handler.dropped == EVENTS_MAX - Settings().log_event_lines_max


def test_a_full_queue_drops_and_counts_instead_of_waiting() -> None:
    gate = threading.Event()
    sink = Lines(gate)
    with logger(sink, log_queue_max=4, log_event_lines_max=1000) as (log, handler):
        for number in range(20):
            log.info("e %d", number)
        assert handler.dropped >= 15
        gate.set()
    assert len(sink.raw) + handler.dropped == 20


def test_failures_show_codes_or_places_but_no_values() -> None:
    sink = Lines()
    with logger(sink) as (log, _):
        for error in (LimitExceeded("Too many requests."), KeyError("name"), ConnectionError("reset by peer")):
            try:
                raise error
            except Exception:
                log.exception("broken")
    ours, other, network = sink.lines
    assert (ours["code"], ours["error"]) == ("rate_limit_exceeded", "Too many requests.") and "places" not in ours
    assert other["exception"] == "KeyError" and "test_logs.py:" in other["places"]
    assert "error" not in other and network["error"] == "reset by peer"


def test_a_wrong_message_or_sink_does_not_raise() -> None:
    class Gone(Lines):
        def write(self, line: bytes, /) -> None:
            raise BrokenPipeError

    with logger(Gone()) as (log, handler):
        log.info("%d", "not a number")
        log.info("e")
    assert handler.dropped == 2


def test_setup_takes_over_the_root_logger_and_the_exit_writes_the_last_line() -> None:
    code = """
import logging
from interlock.telemetry.logs import setup_logging
setup_logging("debug")
setup_logging("info", "worker-0")
logging.getLogger("interlock.gateway").info("ready")
logging.getLogger("interlock.gateway").debug("unseen")
logging.getLogger("psycopg.pool").info("unseen")
logging.getLogger("psycopg.pool").warning("connecting to %s", "postgresql://u:hunter2@h/d")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["message"], first["process"]) == ("ready", "worker-0")
    assert second["logger"] == "psycopg.pool" and "hunter2" not in second["message"]


def test_a_wrong_level_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="log_level is 'loud'"):
        setup_logging("loud")
