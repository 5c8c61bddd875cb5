"""P1: what a caller gets, and what a source outside gets, was recorded before; a disk that fails stops both."""

from __future__ import annotations

import errno
import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.ledger.files import Files
from interlock.ledger.log import RecordLog
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.types.record import Attempt, Chunk, Held, Intent, Outcome, Refusal
from interlock.types.source import Labels, SourceLimits
from tests.gateway import WorkerHarness, World, source
from tests.integration.gateway.client import (
    CHAT,
    WAIT_S,
    Answer,
    ask,
    ask_watching,
    connected,
    events,
    eventually,
    raw_request,
    read_all,
    read_until,
    serving,
    text_of,
    when,
)

STREAM = {**CHAT, "stream": True}
SHORT_S = 0.15
"""How long a test waits for what must not happen."""


class Disk(Files):
    """A disk whose syncs can be held, and whose writes and syncs can fail."""

    def __init__(self) -> None:
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.waiting = threading.Event()
        self.fail_write_of = b""
        self.write_error = 0
        self.sync_error = 0
        self.free = 1 << 40

    def hold(self) -> None:
        """From here on nothing becomes durable."""
        self.waiting.clear()
        self.open_gate.clear()

    def let_go(self) -> None:
        self.open_gate.set()

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.write_error or (self.fail_write_of and self.fail_write_of in bytes(data)):
            raise OSError(self.write_error or errno.EIO, "injected")
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        if not self.open_gate.is_set():
            self.waiting.set()
            self.open_gate.wait(WAIT_S)  # a test that failed must still end
        if self.sync_error:
            raise OSError(self.sync_error, "injected")
        super().fdatasync(fd)

    def free_bytes(self, path: Path) -> int:
        return self.free


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of the workers of this test."""
    disk = Disk()
    monkeypatch.setattr(RecordLog, "open", functools.partial(RecordLog.open, files=disk))
    yield disk
    disk.let_go()


def place(on_prem: bool) -> Any:
    def world(url: str) -> World:
        return World([source("s", url, labels=Labels(region="eu", on_prem=on_prem))])

    return world


@contextmanager
def calling(gateway: WorkerHarness, body: dict[str, Any]) -> Iterator[list[Answer]]:
    """A call in the background; its answer is in the list when it is there."""
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(ask(gateway, body)))
    thread.start()
    try:
        yield found
    finally:
        thread.join(2 * WAIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_nothing_goes_up_to_an_outside_source_before_its_attempt_is_durable(disk: Disk, body: dict[str, Any]) -> None:
    with serving(place(on_prem=False)) as (gateway, engine):
        disk.hold()
        with calling(gateway, body) as found:
            assert disk.waiting.wait(WAIT_S)
            time.sleep(SHORT_S)
            assert (engine.connections, found) == (0, [])
            disk.let_go()
            eventually(lambda: found)
        assert found[0].status == 200
        (attempt,) = gateway.records_of(Attempt)
        assert attempt.off_prem


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_on_prem_the_sync_overlaps_the_call_but_nothing_comes_down_before_it(disk: Disk, body: dict[str, Any]) -> None:
    with serving(place(on_prem=True)) as (gateway, engine):
        disk.hold()
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, body))
            eventually(lambda: engine.calls and engine.calls[0].ended)
            assert disk.waiting.wait(WAIT_S)
            sock.settimeout(SHORT_S)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            disk.let_go()
            sock.settimeout(WAIT_S)
            assert b"authority." in read_until(sock, b"[DONE]" if body is STREAM else b'"usage"')


def test_every_attempt_is_recorded_before_it_goes_out_also_after_a_failure(disk: Disk) -> None:
    with ScriptedEngine(models=("m",)).in_thread() as outside, serving() as (gateway, engine):
        gateway.change(
            World(
                [source("in", engine.base_url), source("out", outside.base_url, labels=Labels(on_prem=False))],
                people=gateway.world.people,
            )
        )

        def fails(received: Any) -> Any:
            disk.hold()  # the first attempt was recorded by now; the second one is not
            return answers.error(500)(received)

        engine.script(fails)
        with calling(gateway, CHAT) as found:
            assert disk.waiting.wait(WAIT_S)
            time.sleep(SHORT_S)
            assert (outside.connections, found) == (0, [])
            disk.let_go()
            eventually(lambda: found)
        assert found[0].headers["x-interlock-source"] == "out"
        assert [a.number for a in gateway.records_of(Attempt)] == [0, 1]


def test_text_flows_once_the_attempt_is_durable_but_the_end_waits_for_the_outcome(disk: Disk) -> None:
    held = threading.Event()
    with serving(stream_sync_ms=60_000) as (gateway, engine):
        engine.default = when(held, answers.answer("one two three four five six", between_ms=15), after=b"one")
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            got = read_until(sock, b"one")
            disk.hold()
            held.set()
            while b"six" not in got:
                got += sock.recv(65536)
            eventually(lambda: gateway.records_of(Outcome))
            sock.settimeout(SHORT_S)
            with pytest.raises(TimeoutError):
                while True:
                    got += sock.recv(65536)
            assert b'"stop"' not in got and b"[DONE]" not in got
            disk.let_go()
            sock.settimeout(WAIT_S)
            while b"[DONE]" not in got:
                got += sock.recv(65536)
            assert b'"stop"' in got


def test_streamed_text_becomes_durable_while_the_stream_runs() -> None:
    """A power loss takes at most about `stream_sync_ms` of an answer: nothing else asks for a sync here."""
    with serving(stream_sync_ms=30, log_alive_ms=3_600_000) as (gateway, engine):
        engine.default = faults.endless(between_ms=5)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
            log = gateway.worker.record_log
            for _ in range(3):
                appended = gateway.call(lambda: log.appended_seq)
                eventually(lambda: log.durable_seq >= appended)  # noqa: B023


def test_text_whose_record_cannot_be_written_is_not_forwarded(disk: Disk) -> None:
    with serving() as (gateway, engine):
        said_three = threading.Event()  # or what comes after is in one write with it
        engine.default = when(said_three, answers.answer("one two three secret four", between_ms=20), after=b"three")
        disk.fail_write_of = b"secret"
        body = ask_watching(gateway, STREAM, lambda got: said_three.set() if b"three" in got else None)
        said = text_of(events(body))
        assert said.startswith("one") and "secret" not in body.decode()
        assert b"[DONE]" not in body
        assert said == "".join(c.text for c in gateway.records_of(Chunk))[: len(said)]


def test_text_that_was_forwarded_is_in_the_file_at_that_moment() -> None:
    with serving() as (gateway, engine):
        words = [f"word{n}" for n in range(40)]
        engine.default = answers.answer(" ".join(words), between_ms=2)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            got = b""
            while b"[DONE]" not in got:
                got += sock.recv(65536)
                said = text_of(events(_dechunked(got)))
                assert "".join(c.text for c in gateway.records_of(Chunk)).startswith(said)
        assert said == " ".join(words)


def _dechunked(got: bytes) -> bytes:
    """Whole chunks of a chunked answer so far."""
    data, out = got.partition(b"\r\n\r\n")[2], b""
    while b"\r\n" in data:
        size, _, rest = data.partition(b"\r\n")
        if len(rest) < int(size, 16):
            break
        out, data = out + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return out


def test_a_call_whose_outcome_cannot_be_synced_is_not_answered(disk: Disk) -> None:
    with serving() as (gateway, engine):

        def breaks(received: Any) -> Any:
            disk.sync_error = errno.EIO
            return answers.answer()(received)

        engine.script(breaks)
        answer = ask(gateway, CHAT)
        assert answer.status == 503 and answer.error["code"] == "record_log_failed"
        assert answers.TEXT.encode() not in answer.body
        # Durability can never be claimed again by this epoch: the worker ends, its node starts another.
        eventually(lambda: gateway.worker.stopped.done())


def test_a_stream_whose_disk_breaks_has_no_end(disk: Disk) -> None:
    with serving(stream_sync_ms=10) as (gateway, engine):
        broken = threading.Event()
        engine.default = when(broken, answers.answer("one two three four five six seven", between_ms=15), after=b"two")
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            got = read_until(sock, b"two")
            disk.sync_error = errno.EIO
            broken.set()
            while data := sock.recv(65536):
                got += data
        assert b"[DONE]" not in got and b'"stop"' not in got and not got.endswith(b"0\r\n\r\n")
        eventually(lambda: engine.calls[0].ended in ("gone", "done"))


def test_a_full_disk_refuses_calls_and_takes_them_again_when_there_is_room(disk: Disk) -> None:
    with serving(log_check_ms=20) as (gateway, _engine):
        assert ask(gateway, CHAT).status == 200
        disk.write_error, disk.free = errno.ENOSPC, 0
        for body in (CHAT, STREAM, CHAT):
            answer = ask(gateway, body)
            assert (answer.status, answer.error["code"]) == (503, "record_log_disk_full")
            assert "disk" in answer.error["message"] and "x-should-retry" not in answer.headers
        assert ask(gateway, None, "/ready", method="GET").status == 503
        assert ask(gateway, None, "/health", method="GET").status == 200
        answered = len(gateway.records_of(Outcome))
        disk.write_error, disk.free = 0, 1 << 40
        eventually(lambda: ask(gateway, None, "/ready", method="GET").status == 200)
        assert ask(gateway, CHAT).status == 200
        assert len(gateway.records_of(Outcome)) > answered
        assert gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_local"))) == 0


def test_a_stream_that_meets_a_full_disk_is_cut_and_its_outcome_follows(disk: Disk) -> None:
    with serving(log_check_ms=20) as (gateway, engine):
        engine.default = faults.endless(between_ms=5)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            got = read_until(sock, b"word")
            disk.write_error, disk.free = errno.ENOSPC, 0
            while data := sock.recv(65536):
                got += data
        assert b"[DONE]" not in got
        eventually(lambda: engine.calls[0].ended == "gone")
        said = text_of(events(_dechunked(got)))
        assert len(said) <= len("".join(c.text for c in gateway.records_of(Chunk)))
        disk.write_error, disk.free = 0, 1 << 40
        eventually(lambda: ask(gateway, None, "/ready", method="GET").status == 200)


@pytest.mark.parametrize("kind", ["budget", "free"])
def test_over_the_disk_budget_nothing_is_answered_and_the_log_does_not_grow(disk: Disk, kind: str) -> None:
    with serving(log_disk_bytes_max=1_048_576, log_check_ms=20) as (gateway, engine):
        if kind == "free":
            disk.free = 1000
        else:
            engine.default = answers.answer("x" * 300_000)
            for _ in range(6):
                ask(gateway, CHAT)
        eventually(lambda: ask(gateway, None, "/ready", method="GET").status == 503)
        calls, size = len(engine.calls), gateway.worker.record_log.stats().bytes
        for body in (CHAT, STREAM, {**CHAT, "model": "nope"}, {"model": "m"}):
            answer = ask(gateway, body)
            assert answer.status == 503 and answer.error["code"].startswith("record_log_")
        assert len(engine.calls) == calls
        assert gateway.worker.record_log.stats().bytes == size


def test_every_refusal_of_a_known_caller_is_recorded_with_its_reason() -> None:
    with serving(lambda url: World([source("s", url)], policies=[])) as (gateway, _engine):
        assert ask(gateway, CHAT).status == 404
        assert ask(gateway, {**CHAT, "model": "nope"}).status == 404
        assert ask(gateway, b"nonsense").status == 400
        assert ask(gateway, CHAT, key="il_test_nobody").status == 401
        refusals = gateway.records_of(Refusal)
        assert [(r.status, r.code, r.asked) for r in refusals] == [
            (404, "model_not_found", "m"),
            (404, "model_not_found", "nope"),
            (400, "invalid_json", ""),
        ]
        assert refusals[0].reasons and refusals[0].reasons[0].offer == "s::m"
        assert gateway.records_of(Intent) == []


def test_what_was_asked_and_answered_is_in_the_record_byte_by_byte() -> None:
    with serving() as (gateway, _engine):
        body = json.dumps({**CHAT, "temperature": 0.5, "interlock": {"purpose": "triage"}}).encode()
        answer = ask(gateway, body)
        (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
        assert intent.body == body
        assert outcome.body == answer.body
        assert outcome.bytes_sent == len(answer.body)
        assert intent.features.purpose == "triage"


def test_an_earlier_answer_leaves_again_with_a_durable_record_only(disk: Disk) -> None:
    with serving() as (gateway, engine):
        first = ask(gateway, CHAT, idempotency_key="k")
        assert first.status == 200
        disk.hold()
        found: list[Answer] = []
        asking = threading.Thread(target=lambda: found.append(ask(gateway, CHAT, idempotency_key="k")))
        asking.start()
        assert disk.waiting.wait(WAIT_S)
        time.sleep(SHORT_S)
        assert not found, "the answer left before its record was durable"
        disk.sync_error = errno.EIO
        disk.let_go()
        asking.join(2 * WAIT_S)
        assert found[0].status == 503 and first.json["choices"][0]["message"]["content"].encode() not in found[0].body
        assert len(engine.calls) == 1


@pytest.mark.parametrize("body", [CHAT, STREAM, {**CHAT, "model": "nope"}], ids=["whole", "streamed", "refused"])
def test_no_receipt_leaves_for_a_call_whose_record_is_not_durable(disk: Disk, body: dict[str, Any]) -> None:
    with serving() as (gateway, _engine):
        assert "x-interlock-receipt" in ask(gateway, body, x_interlock_receipt="true").headers
        disk.sync_error = errno.EIO
        answer = ask(gateway, body, x_interlock_receipt="true")
        assert answer.status in (404, 503) and "x-interlock-receipt" not in answer.headers


def test_a_call_that_a_full_disk_cut_off_does_not_stay_open_in_the_log(disk: Disk) -> None:
    with serving(log_check_ms=20) as (gateway, engine):
        full = threading.Event()
        engine.script(when(full, answers.answer("one two three four five six seven", between_ms=30), after=b"one"))
        with calling(gateway, STREAM) as found:
            eventually(lambda: gateway.records_of(Chunk))
            disk.write_error, disk.free = errno.ENOSPC, 0
            full.set()
        assert found[0].body.endswith(b"<cut>")
        disk.write_error, disk.free = 0, 1 << 40
        eventually(lambda: gateway.records_of(Outcome))
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.state, outcome.usage.origin) == ("cut", "reserved") and outcome.usage.total_tokens


@contextmanager
def waits_for(gateway: WorkerHarness, engine: ScriptedEngine, what: str) -> Iterator[None]:
    """The next call has to wait for an engine, or for a seat."""
    (only,) = gateway.world.sources
    state = "starting" if what == "engine" else ""
    changed = msgspec.structs.replace(only, engine_state=state, limits=SourceLimits(concurrency=1))
    gateway.change(World([changed], gateway.world.people))
    if what == "engine":
        yield
        return
    engine.script(answers.answer(delay_ms=20_000))
    with connected(gateway) as sock:
        sock.sendall(raw_request(gateway, CHAT))
        eventually(lambda: engine.calls)
        yield


@pytest.mark.parametrize("what", ["seat", "engine"])
def test_a_stream_that_waits_is_kept_open_only_when_that_is_on_record(disk: Disk, what: str) -> None:
    with serving(keepalive_comment_ms=100) as (gateway, engine), waits_for(gateway, engine, what):
        disk.hold()
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            assert disk.waiting.wait(WAIT_S)
            sock.settimeout(4 * SHORT_S)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            disk.let_go()
            sock.settimeout(WAIT_S)
            assert b"data:" not in read_until(sock, b": keep-alive")
            kind = Intent if what == "seat" else Held
            assert gateway.records_of(kind)[-1].call == len(gateway.records_of(Attempt)) + 1


@pytest.mark.parametrize("what", ["seat", "engine"])
def test_a_disk_that_breaks_while_a_stream_is_kept_open_ends_it_without_an_answer(disk: Disk, what: str) -> None:
    with (
        serving(keepalive_comment_ms=100) as (gateway, engine),
        waits_for(gateway, engine, what),
        connected(gateway) as sock,
    ):
        sock.sendall(raw_request(gateway, STREAM))
        read_until(sock, b": keep-alive")
        disk.sync_error = errno.EIO
        answer = ask(gateway, {**CHAT, "model": "nope"})  # something that has to be durable
        assert answer.status in (404, 503)
        rest = read_all(sock)
        assert b'"delta"' not in rest and b"[DONE]" not in rest and not rest.endswith(b"0\r\n\r\n")
