"""HTTP as it arrives on a real socket: sizes, slowness, half-closed streams, smuggling shapes, slow or gone readers."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.gateway.http.protocol import HttpProtocol
from interlock.testing import answers, faults
from interlock.testing.script import HANG, STREAM_HEAD, Pause, chunk, event, steps
from interlock.types.record import Chunk, Outcome
from tests.integration.gateway.client import (
    CHAT,
    ask,
    connected,
    events,
    eventually,
    head,
    raw_request,
    read_all,
    read_until,
    serving,
    text_of,
)

STREAM = {**CHAT, "stream": True}


def test_a_50_mb_body_is_refused_and_the_sender_reads_why() -> None:
    with serving() as (gateway, engine):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 50_000_000 + b'"}]}'
        headers = {"authorization": f"Bearer {gateway.key()}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "body_too_large"
        connection.close()
        assert engine.calls == []
        assert ask(gateway, CHAT).status == 200


def test_a_50_mb_body_is_refused_before_it_is_read() -> None:
    with serving() as (gateway, _engine), connected(gateway) as sock:
        sock.sendall(head(gateway, 50_000_000))
        assert read_until(sock, b"}}").startswith(b"HTTP/1.1 413 ")


def test_a_chunked_50_mb_body_is_refused_too() -> None:
    with serving() as (gateway, _engine):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        headers = {"authorization": f"Bearer {gateway.key()}", "content-type": "application/json"}

        def pieces() -> Iterator[bytes]:
            for _ in range(800):
                yield b"x" * 65_536

        connection.request("POST", "/v1/chat/completions", pieces(), headers, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_many_messages_and_large_heads_are_refused_plainly() -> None:
    with serving(lambda url: _world(url)) as (gateway, engine):
        many = {"model": "m", "messages": [{"role": "user", "content": "x"}] * 10_000}
        assert ask(gateway, many).error["code"] == "too_many_messages"
        assert ask(gateway, CHAT, x_long="a" * 40_000).status == 431
        with connected(gateway) as sock:
            sock.sendall(head(gateway, 2, *(f"x-{n}: 1" for n in range(200))) + b"{}")
            assert read_all(sock).startswith(b"HTTP/1.1 431 ")
        assert engine.calls == []


def _world(url: str) -> Any:
    from tests.gateway import World, source

    return World([source("s", url)])


@pytest.mark.parametrize("start", [b"POST /v1/chat/comp", None])
def test_a_slow_loris_is_timed_out(start: bytes | None) -> None:
    with serving(head_timeout_ms=200, body_timeout_ms=200) as (gateway, engine), connected(gateway) as sock:
        sock.sendall(start if start is not None else head(gateway, 100) + b'{"model"')
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.02):
                try:
                    sock.send(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        got = read_until(sock, b"}}")
        stop.set()
        thread.join()
        assert got.startswith(b"HTTP/1.1 408 ")
        assert engine.calls == []


def test_connections_that_refused_senders_leave_open_are_closed_in_the_end() -> None:
    with serving(head_timeout_ms=200) as (gateway, _engine), connected(gateway) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")
        eventually(lambda: not gateway.call(lambda: len(gateway.worker.server.connections)))  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_a_reader_that_closes_its_side_has_left(body: dict[str, Any]) -> None:
    with serving() as (gateway, engine), connected(gateway) as sock:
        engine.default = faults.never_answers()
        sock.sendall(raw_request(gateway, body))
        eventually(lambda: engine.calls)
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: engine.calls[0].ended == "gone")
        eventually(lambda: gateway.records_of(Outcome))
        assert gateway.records_of(Outcome)[0].state == "disconnected"


def test_a_request_whose_body_never_ends_because_the_sender_closed_is_nobodys_call() -> None:
    with serving() as (gateway, engine), connected(gateway) as sock:
        sock.sendall(head(gateway, 1000) + b'{"model":')
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
        assert engine.calls == []


def test_a_gone_reader_cancels_the_source_and_what_was_said_is_kept() -> None:
    with serving() as (gateway, engine):
        engine.default = faults.endless(between_ms=5)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
        eventually(lambda: engine.calls[0].ended == "gone")
        eventually(lambda: gateway.records_of(Outcome))
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.state, outcome.status, outcome.usage.origin) == ("disconnected", 499, "reserved")
        assert outcome.chunks == len(gateway.records_of(Chunk)) > 0
        assert gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_local"))) == 0


def test_a_slow_reader_stops_the_source_instead_of_filling_memory() -> None:
    sent = 0

    def flood(_received: object) -> Iterator[bytes]:
        nonlocal sent
        yield STREAM_HEAD
        piece = event({"choices": [{"index": 0, "delta": {"content": "x" * 4000}, "finish_reason": None}]})
        while True:
            sent += len(piece)
            yield piece

    with serving(write_buffer_bytes_max=65_536, slow_reader_timeout_ms=60_000) as (gateway, engine):
        engine.default = flood
        with connected(gateway) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            sock.sendall(raw_request(gateway, STREAM))
            server = gateway.worker.server
            assert server is not None

            def buffered() -> int:
                return gateway.call(lambda: sum(c.transport.get_write_buffer_size() for c in server.connections))

            eventually(lambda: buffered() > 0)
            before = -1
            while before != sent:  # until the source stands still
                before = sent
                time.sleep(0.5)
            assert 0 < buffered() < 1_000_000
            assert sent < 40_000_000  # what the kernel's buffers of four sockets hold, and ours
            # A small window may open only when the sender asks about it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
            while sent == before:  # until the source goes on
                assert sock.recv(65_536)
        eventually(lambda: engine.calls[0].ended == "gone")


def test_a_loop_turn_never_holds_more_than_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn of the event loop may read megabytes of a fast source, all before anything can be forwarded."""
    largest = 0

    def measure(name: str) -> None:
        write = getattr(HttpProtocol, name)

        def measured(self: HttpProtocol, data: bytes) -> None:
            nonlocal largest
            largest = max(largest, len(data))
            write(self, data)

        monkeypatch.setattr(HttpProtocol, name, measured)

    measure("write")
    measure("write_chunks")
    piece = event({"choices": [{"index": 0, "delta": {"content": "x" * 4000}, "finish_reason": None}]})
    block = piece * 2000
    with serving(write_buffer_bytes_max=65_536) as (gateway, engine), connected(gateway) as sock:
        engine.default = steps(STREAM_HEAD, *[block] * 4, HANG)
        sock.sendall(raw_request(gateway, STREAM))
        got = 0
        while got < 4 * 2000 * 4000:
            got += len(sock.recv(1 << 20))
    assert largest < 1_000_000


@pytest.mark.parametrize("streamed", [True, False])
def test_a_reader_that_takes_nothing_is_cut(streamed: bool) -> None:
    """Also when the whole answer is already in our buffer and only the reader is missing."""
    with serving(write_buffer_bytes_max=65_536, slow_reader_timeout_ms=200) as (gateway, engine):
        engine.default = faults.endless(text="x" * 10_000) if streamed else answers.answer("x" * 20_000_000)
        with connected(gateway) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            sock.sendall(raw_request(gateway, STREAM if streamed else CHAT))
            eventually(lambda: gateway.records_of(Outcome))
            eventually(lambda: not gateway.call(lambda: len(gateway.worker.server.connections)))  # type: ignore[union-attr]
        assert gateway.records_of(Outcome)[0].state == ("disconnected" if streamed else "completed")


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: evil\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding:\tchunked\r\ntransfer-encoding: chunked",
        "content-length: +3",
        "content-length: 3\r\n folded: x",
        "content-length : 3",
        "content-length: 3\nx: y",
        "host: second",
        "authorization: Bearer other",
        "x-interlock-data-class: public\r\nx-interlock-data-class: restricted",
    ],
)
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_read(lines: str) -> None:
    with serving() as (gateway, engine), connected(gateway) as sock:
        start = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {gateway.key()}\r\n"
        sock.sendall(start.encode() + lines.encode() + b"\r\n\r\n" + b"0\r\n\r\n" + SMUGGLED)
        got = read_all(sock)
        assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in got
        assert engine.requests == []


def test_a_trailer_is_not_taken_for_a_header() -> None:
    with serving() as (gateway, _engine), connected(gateway) as sock:
        body = json.dumps(CHAT).encode()
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/json\r\nconnection: close\r\n\r\n"
            + b"%x\r\n%b\r\n0\r\n" % (len(body), body)
            + f"authorization: Bearer {gateway.key()}\r\n\r\n".encode()
        )
        assert read_all(sock).startswith(b"HTTP/1.1 401 ")


def test_requests_on_one_connection_are_answered_in_order() -> None:
    with serving() as (gateway, engine), connected(gateway) as sock:
        engine.script(answers.answer("first", delay_ms=50), answers.answer("second"))
        sock.sendall(raw_request(gateway, CHAT) + raw_request(gateway, CHAT, "connection: close"))
        got = read_all(sock)
        assert got.count(b"HTTP/1.1 200 OK") == 2
        assert got.index(b"first") < got.index(b"second")


def test_a_head_request_has_no_body() -> None:
    with serving() as (gateway, _engine), connected(gateway) as sock:
        sock.sendall(
            b"HEAD /health HTTP/1.1\r\nhost: a\r\n\r\nGET /nope HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        first, _, second = read_all(sock).partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 ") and b"content-length: 15" in first
        assert second.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://a/health", 200),
        ("http://a", 404),
        ("/health?x=1", 200),
        ("*", 404),
        ("//health", 404),
        ("/%68ealth", 404),
    ],
)
def test_request_targets_of_every_form_are_answered(target: str, status: int) -> None:
    with serving() as (gateway, _engine), connected(gateway) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        assert read_all(sock).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("POST", "/v1/messages/batches", 501),
        ("GET", "/v1/files/x", 501),
        ("GET", "/nope", 404),
        ("POST", "/nope", 404),
    ],
)
def test_other_paths_and_methods(method: str, path: str, status: int) -> None:
    with serving() as (gateway, _engine):
        answer = ask(gateway, None, path, method=method)
        assert answer.status == status
        assert answer.error["message"] and ("allow" in answer.headers) == (status == 405)


def test_a_silent_stream_is_kept_alive_with_comments() -> None:
    with serving(keepalive_comment_ms=100) as (gateway, engine):

        def script(received: Any) -> Iterator[Any]:
            yield Pause(1500)
            yield from answers.answer()(received)

        engine.script(script)
        answer = ask(gateway, STREAM)
        assert answer.body.startswith(b": keep-alive\n\n") and answer.body.count(b": keep-alive") >= 2
        assert text_of(events(answer.body)) == answers.TEXT


def test_comments_of_the_source_do_not_hold_off_its_time_out_and_are_not_passed_on() -> None:
    script = steps(
        STREAM_HEAD, chunk(b": hello\n\n"), event({"choices": [{"index": 0, "delta": {"content": "a"}}]}), HANG
    )
    with serving() as (gateway, engine), connected(gateway) as sock:
        engine.script(script)
        sock.sendall(raw_request(gateway, STREAM))
        got = read_until(sock, b'"a"')
        assert b"hello" not in got


@pytest.mark.parametrize(
    ("options", "shown"), [(None, False), ({"include_usage": False}, False), ({"include_usage": True}, True)]
)
def test_the_usage_chunk_is_taken_out_only_when_it_was_not_asked_for(options: Any, shown: bool) -> None:
    with serving() as (gateway, engine):
        body = STREAM if options is None else {**STREAM, "stream_options": options}
        found = events(ask(gateway, body).body)
        assert any(isinstance(e, dict) and e.get("usage") for e in found) == shown
        assert [e for e in found if isinstance(e, dict) and not e.get("usage")][-1]["choices"][0][
            "finish_reason"
        ] == "stop"
        assert found[-1] == "[DONE]"
        assert engine.calls[0].json["stream_options"]["include_usage"] is True
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.usage.origin == "engine" and outcome.usage.completion_tokens == 10
