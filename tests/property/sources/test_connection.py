"""Answers cut into arbitrary reads, and arbitrary bytes: what a handler is told does not depend on the cuts, an error
and an end exclude each other, and no connection goes back to the pool with something unread on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import UpstreamError
from interlock.settings import Settings
from interlock.sources.connection import Connection
from interlock.sources.dial import Target
from interlock.sources.transport import Call, Deadlines, Pool

PATIENT = Deadlines(9, 9, 9, 9)


class Wire:
    """The transport's side: notes what was written and whether it was closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Notes:
    """The handler's side; raises when the order of callbacks is wrong."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.over = ""
        self.cancel_at = -1
        self.call: Call | None = None

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.status
        assert not self.over
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert self.status
        assert not self.over
        self.body += data
        if 0 <= self.cancel_at <= len(self.body):
            assert self.call is not None
            self.call.cancel()
            self.over = "cancelled"

    def on_end(self) -> None:
        assert self.status
        assert not self.over
        self.over = "end"

    def on_error(self, error: UpstreamError) -> None:
        assert not self.over
        self.over = error.code


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is never run: nothing here waits."""
    it = asyncio.new_event_loop()
    problems: list[dict[str, object]] = []
    it.set_exception_handler(lambda _, context: problems.append(context))
    yield it
    it.close()
    assert problems == []


class Bench:
    """A pool with one open connection whose bytes come from the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pool = Pool(Target("local", "127.0.0.1", 1), Settings(head_bytes_max=4096), loop)
        self.wire = Wire()
        self.conn = Connection(self.pool)
        self.conn.connection_made(self.wire)  # type: ignore[arg-type]
        self.pool.release(self.conn)

    def exchange(self, reads: list[bytes], *, close: bool, cancel_at: int = -1) -> Notes:
        """Send a request and let these reads arrive."""
        notes = Notes()
        notes.cancel_at = cancel_at
        notes.call = self.pool.send(b"request", notes, deadlines=PATIENT)
        for data in reads:
            if self.wire.aborted:
                break
            if data:
                self.conn.data_received(data)
        if self.wire.aborted:
            self.conn.connection_lost(None)
        elif close:
            self.conn.eof_received()
            self.conn.connection_lost(None)
        return notes


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


bodies = st.lists(st.binary(min_size=1, max_size=60), max_size=6)
names = st.sampled_from([b"Server", b"X-Request-Id", b"content-type", b"Date", b"Keep-Alive"])
values = st.from_regex(rb"[!-~]([ !-~]{0,20}[!-~])?", fullmatch=True)
cuts = st.lists(st.integers(0, 2000), max_size=12)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """A valid answer that keeps the connection, and its status and body."""
    status = draw(st.sampled_from([200, 201, 400, 429, 500]))
    pieces = draw(bodies)
    head = b"HTTP/1.1 100 Continue\r\n\r\n" if draw(st.booleans()) else b""
    head += b"HTTP/1.1 %d Some Words\r\n" % status
    for name in draw(st.lists(names, max_size=4)):
        head += name + b": " + draw(values) + b"\r\n"
    body = b"".join(pieces)
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, status, body
    trailer = b"X-Trailer: y\r\n" if draw(st.booleans()) else b""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"transfer-encoding: Chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n", status, body


@given(first=messages(), second=messages(), places=cuts)
@settings(max_examples=200, deadline=None)
def test_cuts_change_nothing(
    loop: asyncio.AbstractEventLoop,
    first: tuple[bytes, int, bytes],
    second: tuple[bytes, int, bytes],
    places: list[int],
) -> None:
    bench = Bench(loop)
    for data, status, body in (first, second):
        notes = bench.exchange(_cut(data, places), close=False)
        assert (notes.over, notes.status, notes.body) == ("end", status, body)
        assert not any(name == b"x-trailer" for name, _ in notes.headers)
        assert bench.pool.idle == 1
        assert bench.pool.active == 0


@given(message=messages(), places=cuts, keep=st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_a_cut_off_answer_never_looks_whole(
    loop: asyncio.AbstractEventLoop, message: tuple[bytes, int, bytes], places: list[int], keep: int
) -> None:
    data, _, body = message
    kept = data[: keep % len(data)]
    notes = Bench(loop).exchange(_cut(kept, places), close=True)
    assert notes.over in {"upstream_cut_off", "upstream_closed"}
    assert body.startswith(notes.body)


@given(message=messages(), places=cuts, cancel_at=st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_nothing_follows_a_cancel(
    loop: asyncio.AbstractEventLoop, message: tuple[bytes, int, bytes], places: list[int], cancel_at: int
) -> None:
    bench = Bench(loop)
    notes = bench.exchange(_cut(message[0], places), close=False, cancel_at=cancel_at)
    if notes.over == "cancelled":
        assert bench.wire.aborted
        assert bench.pool.idle == 0
    assert bench.pool.active == 0


@given(
    message=messages(),
    surplus=st.binary(min_size=1, max_size=80),
    places=cuts,
)
@settings(max_examples=200, deadline=None)
def test_surplus_never_reaches_the_next_caller(
    loop: asyncio.AbstractEventLoop, message: tuple[bytes, int, bytes], surplus: bytes, places: list[int]
) -> None:
    if not surplus.strip(b"\r\n"):
        return  # empty lines before a status line are allowed to be skipped (RFC 9112 section 2.2)
    data, status, body = message
    bench = Bench(loop)
    notes = bench.exchange(_cut(data + surplus, places), close=False)
    assert (notes.over, notes.status, notes.body) == ("end", status, body)
    assert bench.wire.aborted
    assert bench.pool.idle == 0


@given(
    start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
    noise=st.binary(max_size=300) | st.text(alphabet="\r\n :;0123456789abcdefHTP/.-+", max_size=200).map(str.encode),
    places=cuts,
)
@settings(max_examples=300, deadline=None)
def test_noise_ends_a_call_exactly_once(
    loop: asyncio.AbstractEventLoop, start: bytes, noise: bytes, places: list[int]
) -> None:
    bench = Bench(loop)
    notes = bench.exchange(_cut(start + noise, places), close=True)
    assert notes.over in {"end", "upstream_cut_off", "upstream_closed", "upstream_invalid_response"}
    assert bench.pool.active == 0
    assert bench.pool.connections == 0
