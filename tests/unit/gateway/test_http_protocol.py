"""The HTTP server against RFC 9112's rules and the published request-smuggling families, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from interlock.gateway.http.exchange import Exchange, Request, Sink
from interlock.gateway.http.protocol import HttpProtocol, Server
from interlock.settings import Settings
from interlock.testing.clock import FakeClock


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.aborted = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Recorder:
    """An application that keeps its requests and answers each with its body, at once or when told."""

    def __init__(self, *, later: bool = False) -> None:
        self.requests: list[Request] = []
        self.sinks: list[Sink] = []
        self.events: list[str] = []
        self.later = later

    def __call__(self, request: Request, sink: Sink) -> Exchange | None:
        self.requests.append(request)
        self.sinks.append(sink)
        if self.later:
            return self
        sink.respond(200, b"", request.body)
        return None

    def on_disconnect(self) -> None:
        self.events.append("disconnect")

    def on_pause(self) -> None:
        self.events.append("pause")

    def on_resume(self) -> None:
        self.events.append("resume")


def connect(app: Recorder, clock: FakeClock | None = None, **settings: Any) -> tuple[HttpProtocol, Wire]:
    server = Server(app, Settings(**settings), clock or FakeClock())
    protocol = server.protocol()
    wire = Wire()
    protocol.connection_made(wire)
    return protocol, wire


def run(test: Callable[[], None]) -> None:
    async def main() -> None:
        test()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())


HOST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "CL.TE": HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.CL": HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "TE.TE repeated": HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.TE obfuscated": HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE.TE vertical tab": HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE identity": HOST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "TE gzip, chunked": HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "space before colon": HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "two equal lengths": HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two different lengths": HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "length list": HOST + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed length": HOST + b"Content-Length: +3\r\n\r\nabc",
    "negative length": HOST + b"Content-Length: -1\r\n\r\n",
    "hexadecimal length": HOST + b"Content-Length: 0x3\r\n\r\nabc",
    "empty length": HOST + b"Content-Length:\r\n\r\n",
    "overlong length": HOST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "folded header": HOST + b"X: a\r\n b\r\n\r\n",
    "bare LF": b"POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "bare CR": HOST + b"X: a\rb\r\n\r\n",
    "NUL": HOST + b"X: a\0b\r\n\r\n",
    "chunk size with LF only": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk size with prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk size with space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk extension with LF": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"3\r\nabcX0\r\n\r\n",
    "chunk size overflow": CHUNKED + b"ffffffffffffffffff\r\nabc",
    "no host": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HOST + b"Host: b\r\nContent-Length: 0\r\n\r\n",
    "two authorizations": HOST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "two data classes": HOST + b"x-interlock-data-class: public\r\nX-Interlock-Data-Class: restricted\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space in target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "name with space": HOST + b"X y: 1\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "content coding": HOST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na",
}


@pytest.mark.parametrize("whole", [True, False], ids=["one segment", "byte by byte"])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_and_malformed_requests_are_refused_and_the_connection_closed(data: bytes, whole: bool) -> None:
    app = Recorder()

    def test() -> None:
        protocol, wire = connect(app)
        smuggled = data + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        for piece in [smuggled] if whole else [smuggled[i : i + 1] for i in range(len(smuggled))]:
            if not wire.closed:
                protocol.data_received(piece)
        assert wire.closed
        assert wire.sent.startswith(b"HTTP/1.1 4")
        assert wire.sent.count(b"content-length: ") == 1
        error = json.loads(wire.sent.partition(b"\r\n\r\n")[2])["error"]
        assert error["message"] and error["code"]
        assert not any(request.path == "/smuggled" for request in app.requests)
        assert app.requests == []

    run(test)


ACCEPTED = {
    "length": (HOST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "length with spaces": (HOST + b"Content-Length:  3 \r\n\r\nabc", b"abc"),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "chunk extension": (CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", b"abc"),
    "HTTP/1.0": (b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na", b"a"),
}


@pytest.mark.parametrize("whole", [True, False], ids=["one segment", "byte by byte"])
@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_well_formed_requests_are_answered_however_they_are_cut(case: tuple[bytes, bytes], whole: bool) -> None:
    data, body = case
    app = Recorder()

    def test() -> None:
        protocol, wire = connect(app)
        for piece in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
            protocol.data_received(piece)
        assert [request.body for request in app.requests] == [body]
        assert wire.sent.endswith(b"\r\n\r\n" + body)

    run(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    app = Recorder(later=True)

    async def main() -> None:
        protocol, wire = connect(app)
        for n in range(3):
            protocol.data_received(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % (n, n))
        for n in range(3):
            assert [request.path for request in app.requests] == [f"/{i}" for i in range(n + 1)]
            app.sinks[n].respond(200, b"", b"answer %d" % n)
            await asyncio.sleep(0)
        assert wire.sent.index(b"answer 0") < wire.sent.index(b"answer 1") < wire.sent.index(b"answer 2")
        assert not wire.closed

    asyncio.run(main())


def test_a_request_that_comes_between_two_turns_waits_behind_those_before_it() -> None:
    app = Recorder(later=True)

    async def main() -> None:
        protocol, wire = connect(app)
        request = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        protocol.data_received(request % 0 + request % 1)
        app.sinks[0].respond(200, b"", b"answer 0")
        protocol.data_received(request % 2)  # before the loop has come to number 1
        await asyncio.sleep(0)
        for n in (1, 2):
            assert app.requests[-1].path == f"/{n}"
            app.sinks[n].respond(200, b"", b"answer %d" % n)
            await asyncio.sleep(0)
        assert [request.path for request in app.requests] == ["/0", "/1", "/2"]
        assert wire.sent.index(b"answer 1") < wire.sent.index(b"answer 2")

    asyncio.run(main())


def test_a_malformed_request_behind_a_good_one_is_refused_after_its_answer() -> None:
    app = Recorder(later=True)

    async def main() -> None:
        protocol, wire = connect(app)
        protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
        protocol.data_received(b"NONSENSE\r\n\r\n")
        assert wire.sent == b""
        app.sinks[0].respond(200, b"", b"first")
        await asyncio.sleep(0)
        assert wire.sent.index(b"first") < wire.sent.index(b"HTTP/1.1 400")
        assert wire.closed

    asyncio.run(main())


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_read() -> None:
    def test() -> None:
        app = Recorder()
        protocol, wire = connect(app)
        protocol.data_received(HOST + b"Content-Length: 50000000\r\n\r\n")
        assert b" 413 " in wire.sent and wire.closed and app.requests == []

    run(test)


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    def test() -> None:
        app = Recorder()
        protocol, wire = connect(app, body_bytes_max=2000)
        protocol.data_received(CHUNKED)
        for _ in range(3):
            if not wire.closed:
                protocol.data_received(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert b" 413 " in wire.sent and wire.closed and app.requests == []

    run(test)


@pytest.mark.parametrize("field", [b"X-Long: " + b"a" * 70_000, b"\r\n".join(b"X-%d: a" % n for n in range(200))])
def test_a_head_that_is_too_large_is_refused(field: bytes) -> None:
    def test() -> None:
        app = Recorder()
        protocol, wire = connect(app)
        data = HOST + field + b"\r\n\r\n"
        for i in range(0, len(data), 1000):
            if not wire.closed:
                protocol.data_received(data[i : i + 1000])
        assert b" 431 " in wire.sent and wire.closed and app.requests == []

    run(test)


@pytest.mark.parametrize("start", [b"POST / HT", HOST + b"Content-Length: 5\r\n\r\nab"])
def test_a_slow_request_is_timed_out(start: bytes) -> None:
    def test() -> None:
        clock = FakeClock()
        app = Recorder()
        protocol, wire = connect(app, clock)
        protocol.data_received(start)
        clock.advance(s=9)
        protocol.check_deadline(clock.mono_ns())
        assert not wire.closed
        clock.advance(s=60)
        protocol.check_deadline(clock.mono_ns())
        assert b" 408 " in wire.sent and wire.closed

    run(test)


def test_a_second_request_that_drips_in_behind_an_answer_is_timed_out_too() -> None:
    def test() -> None:
        clock = FakeClock()
        app = Recorder(later=True)
        protocol, wire = connect(app, clock)
        protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
        protocol.data_received(b"POST /slow HT")
        app.sinks[0].respond(200, b"", b"first")
        clock.advance(s=11)
        protocol.check_deadline(clock.mono_ns())
        assert b" 408 " in wire.sent and wire.closed

    run(test)


def test_an_idle_connection_is_closed_without_a_word() -> None:
    def test() -> None:
        clock = FakeClock()
        protocol, wire = connect(Recorder(), clock)
        protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
        sent = wire.sent
        clock.advance(s=76)
        protocol.check_deadline(clock.mono_ns())
        assert wire.closed and wire.sent == sent

    run(test)


def test_a_disconnect_reaches_the_running_exchange_once() -> None:
    def test() -> None:
        app = Recorder(later=True)
        protocol, wire = connect(app)
        protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
        protocol.connection_lost(None)
        assert app.events == ["disconnect"]
        app.sinks[0].respond(200, b"", b"too late")
        assert wire.sent == b""

    run(test)


def test_a_slow_reader_pauses_the_exchange_and_is_cut_in_the_end() -> None:
    def test() -> None:
        clock = FakeClock()
        app = Recorder(later=True)
        protocol, wire = connect(app, clock)
        protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
        protocol.pause_writing()
        protocol.resume_writing()
        protocol.pause_writing()
        assert app.events == ["pause", "resume", "pause"]
        clock.advance(s=121)
        protocol.check_deadline(clock.mono_ns())
        assert wire.aborted

    run(test)


def test_a_stream_is_chunked_and_an_aborted_one_lacks_its_last_chunk() -> None:
    def test() -> None:
        for ends in (True, False):
            app = Recorder(later=True)
            protocol, wire = connect(app)
            protocol.data_received(HOST + b"Content-Length: 1\r\n\r\na")
            sink = app.sinks[0]
            sink.start(200, b"content-type: text/event-stream\r\n")
            sink.write(b"data: 1\n\n")
            if ends:
                sink.end()
            else:
                sink.abort()
            assert b"transfer-encoding: chunked" in wire.sent and b"9\r\ndata: 1\n\n\r\n" in wire.sent
            assert wire.sent.endswith(b"0\r\n\r\n") is ends
            assert wire.closed is not ends

    run(test)


def test_too_many_connections_are_closed_at_once() -> None:
    def test() -> None:
        server = Server(Recorder(), Settings(connections_max=1), FakeClock())
        wires = []
        for _ in range(2):
            protocol = server.protocol()
            wire = Wire()
            protocol.connection_made(wire)
            wires.append(wire)
        assert [wire.aborted for wire in wires] == [False, True]
        assert server.refused_connections == 1

    run(test)


AGAIN = HOST + b"Authorization: Bearer il_live_a\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n%b"


def test_a_head_that_repeats_is_not_parsed_again_and_cannot_be_changed() -> None:
    def test() -> None:
        app = Recorder()
        protocol, wire = connect(app)
        bodies = [b"", b"a", b"x" * 999, b"bc", b"d" * 70]
        for body in bodies[:2]:
            protocol.data_received(AGAIN % (len(body), body))
        parser, protocol._parser = protocol._parser, None
        for body in bodies[2:]:
            protocol.data_received(AGAIN % (len(body), body))
        protocol._parser = parser
        protocol.data_received(AGAIN.replace(b"il_live_a", b"il_live_b") % (1, b"z"))
        assert [request.body for request in app.requests] == [*bodies, b"z"]
        heads = [request.head for request in app.requests]
        assert heads[0] is None and heads[1] is not None and heads[1:5] == [heads[1]] * 4 and heads[5] is not heads[1]
        assert app.requests[4].headers[b"authorization"] == b"Bearer il_live_a"
        assert app.requests[5].headers[b"authorization"] == b"Bearer il_live_b"
        for change in (dict.clear, dict.pop, dict.update, dict.setdefault, dict.__setitem__, dict.__delitem__):
            with pytest.raises(TypeError):
                getattr(app.requests[4].headers, change.__name__)(b"host", b"b")
        assert not wire.closed

    run(test)


def test_no_more_heads_are_remembered_than_the_limit_and_none_that_keep_changing() -> None:
    def test() -> None:
        app = Recorder()
        server = Server(app, Settings(head_memo_max=2), FakeClock())
        protocols = [server.protocol() for _ in range(4)]
        for protocol in protocols:
            protocol.connection_made(Wire())
            for _ in range(3):
                protocol.data_received(AGAIN % (1, b"a"))
        assert server.heads == 2
        protocols[0].connection_lost(None)
        assert server.heads == 1
        for n in range(20):
            protocols[1].data_received(AGAIN.replace(b"il_live_a", b"%d" % n) % (1, b"a"))
        assert server.heads == 0
        assert len(app.requests) == 32

    run(test)
