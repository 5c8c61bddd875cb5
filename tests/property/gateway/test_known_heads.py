"""A connection that remembers its head, and one that does not, cannot be told apart: not by any bytes, valid or made to
smuggle, however they are cut, pipelined, delayed or answered."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.gateway.http.exchange import Request
from interlock.gateway.http.protocol import HttpProtocol, Server
from interlock.settings import Settings
from interlock.testing.clock import FakeClock
from tests.unit.gateway.test_http_protocol import Recorder, Wire

LENGTHS = st.sampled_from(
    [
        b"Content-Length: %d",
        b"content-length:%d",
        b"CONTENT-LENGTH: \t%d  ",
    ]
)
ODD_LENGTHS = st.sampled_from(
    [
        b"content-length: +%d",
        b"content-length: -%d",
        b"content-length: 0x%x",
        b"content-length: 00%d",
        b"content-length: " + b"0" * 40 + b"%d",
        b"content-length: %d000000000000",
        b"content-length: %d, 3",
        b"content-length: %d 3",
        b"content-length : %d",
        b"content-length: %d\r\ncontent-length: 3",
        b"content-length: %d\r\nContent-Length: 0",
        b"content-length: %d\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: %d",
        b"transfer-encoding: chunked\r\nx: %d",
        b"transfer-encoding: identity\r\ncontent-length: %d",
        b"x: a\r\n content-length: %d",
        b"content-length: \r\n %d",
        b"content-length: %d\r",
        b"content-length: %d\nx: y",
        b"content-length: %d\r\nexpect: 100-continue",
        b"content-length: %d\r\nconnection: close",
        b"content-length: %d\r\nconnection: keep-alive",
        b"content-length: %d\r\nconnection: upgrade\r\nupgrade: h2c",
        b"content-length: %d\r\ncontent-encoding: gzip",
        b"content-length:\r\nx: %d",
        b"x: %d",
    ]
)
LINES = st.lists(
    st.sampled_from(
        [
            b"Authorization: Bearer il_live_abc",
            b"Accept: */*",
            b"X-Content-Length: 5",
            b"X: content-length: 5",
            b"X-Empty:",
            b"Cookie: \xe4\xf6",
            b"X-Twice: 1\r\nX-Twice: 2",
        ]
    ),
    max_size=3,
)
BODIES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [
            b"",
            b"\r\n\r\n",
            b"POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"0\r\n\r\n",
            b"x" * 2100,
        ]
    ),
)


@st.composite
def heads(draw: st.DrawFn, lengths: st.SearchStrategy[bytes]) -> bytes:
    """A head with the place of one number open."""
    line = draw(st.sampled_from([b"POST /v1/chat/completions", b"POST /v1/chat/completions?x=1", b"POST http://a/v1"]))
    fields = [b"Host: a", *draw(LINES)]
    fields.insert(draw(st.integers(0, len(fields))), draw(lengths))
    return line + b" HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n"


@st.composite
def others(draw: st.DrawFn) -> bytes:
    """Any other head."""
    head = draw(heads(LENGTHS | ODD_LENGTHS))
    swap = draw(
        st.sampled_from(
            [
                (b"POST", b"GET"),
                (b"POST", b"HEAD"),
                (b"POST", b"\r\nPOST"),
                (b"POST", b"post"),
                (b"HTTP/1.1", b"HTTP/1.0"),
                (b"HTTP/1.1", b"HTTP/2.0"),
                (b"Host: a", b"Host: a\r\nHost: b"),
                (b"Host: a\r\n", b""),
                (b"\r\n", b"\n"),
                (b"\r\n\r\n", b"\r\n"),
                (b"HTTP", b"HTTP"),
            ]
        )
    )
    return head.replace(*swap)


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """What one connection brings: messages, most with the same head. Some have a length that is not true, or a body
    that is such a message, and arrive in two parts of which the first hangs on to the message before."""
    usual = draw(heads(LENGTHS))
    found = [b""]
    for kind in draw(st.lists(st.sampled_from(["usual"] * 8 + ["other", "lie", "inner"]), min_size=3, max_size=10)):
        head = draw(others()) if kind == "other" else usual
        body = draw(BODIES)
        size = max(0, len(body) + (draw(st.integers(-3, 3)) if kind == "lie" else 0))
        if kind == "inner":
            inner = usual % len(body) + body
            found[-1] += usual % len(inner)
            found.append(inner)
        else:
            found.append(head % size + body)
    return found


@dataclasses.dataclass
class Step:
    """What happens next: bytes arrive, time passes, an answer is given, the loop turns."""

    what: str
    amount: int = 0


STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("read")),
        st.builds(Step, st.just("bytes"), st.integers(1, 300)),
        st.builds(Step, st.just("answer")),
        st.builds(Step, st.just("turn")),
        st.builds(Step, st.just("time"), st.sampled_from([1, 5, 11, 61, 76, 121])),
        st.builds(Step, st.sampled_from(["drain", "pause", "resume"])),
    ),
    max_size=40,
)


class Side:
    """A connection whose application answers at once, or when a step says so."""

    def __init__(self, memo: int, *, later: bool, limits: dict[str, int]) -> None:
        self.clock = FakeClock()
        self.app = Recorder(later=later)
        self.server = Server(self.app, Settings(head_memo_max=memo, **limits), self.clock)
        self.protocol: HttpProtocol = self.server.protocol()
        self.wire = Wire()
        self.protocol.connection_made(self.wire)
        self.answered = 0
        self.lost = False

    def do(self, step: Step, data: bytes) -> None:
        """Carry out a step; `data`: the bytes that arrive in it."""
        if data and not self.wire.closed:
            self.protocol.data_received(data)
        elif step.what == "answer" and self.answered < len(self.app.sinks):
            self.app.sinks[self.answered].respond(200, b"", b"answer %d" % self.answered)
            self.answered += 1
        elif step.what == "time":
            self.clock.advance(s=step.amount)
            self.protocol.check_deadline(self.clock.mono_ns())
        elif step.what == "drain":
            self.server.drain()
        elif step.what == "pause":
            self.protocol.pause_writing()
        elif step.what == "resume":
            self.protocol.resume_writing()
        if self.wire.aborted and not self.lost:
            self.lost = True
            self.protocol.connection_lost(None)

    def seen(self) -> dict[str, Any]:
        """All that the client, the application or the worker can tell."""
        return {
            "requests": [(*told(request), request.received_ns) for request in self.app.requests],
            "events": self.app.events,
            "sent": self.wire.sent,
            "closed": (self.wire.closed, self.wire.aborted),
            "reading": self.wire.reading,
            "held": self.server.held_bytes,
            "bad": self.server.bad_requests,
            "busy": self.protocol.busy,
        }


def told(request: Request) -> tuple[Any, ...]:
    """A request as the stages see it."""
    return request.method, request.path, dict(request.headers), request.body, request.peer


class Count:
    """How often the short way was taken over all examples."""

    hits = 0


def hits(requests: list[Request]) -> int:
    """Requests that share their head with one before."""
    with_head = [id(request.head) for request in requests if request.head is not None]
    return len(with_head) - len(set(with_head))


async def compare(data: list[bytes], steps: list[Step], later: bool, limits: dict[str, int]) -> None:
    sides = [Side(4096, later=later, limits=limits), Side(0, later=later, limits=limits)]
    rest = b"".join(data)
    ends = [len(rest)]
    for read in reversed(data):
        ends.append(ends[-1] - len(read))
    ends.reverse()
    at = 0
    for step in (*steps, *(Step(w) for _ in data for w in ("read", "answer", "turn"))):
        piece = b""
        if step.what == "read":
            piece = rest[at : next((end for end in ends if end > at), at)]
        elif step.what == "bytes":
            piece = rest[at : at + step.amount]
        at += len(piece)
        for side in sides:
            side.do(step, piece)
        if step.what == "turn":
            await asyncio.sleep(0)
        assert sides[0].seen() == sides[1].seen()
    for side in sides:
        side.protocol.connection_lost(None)
        assert side.server.held_bytes == 0
        assert side.server.heads == 0
    assert sides[0].seen() == sides[1].seen()
    Count.hits += hits(sides[0].app.requests)
    assert hits(sides[1].app.requests) == 0


@given(
    data=reads(),
    steps=STEPS,
    later=st.booleans(),
    limits=st.sampled_from([{}, {"body_bytes_max": 2000}, {"bodies_bytes_max": 2000}, {"head_bytes_max": 1024}]),
)
@settings(max_examples=1000, deadline=None)
def _indistinguishable(data: list[bytes], steps: list[Step], later: bool, limits: dict[str, int]) -> None:
    asyncio.run(compare(data, steps, later, limits))


def test_a_known_head_changes_nothing_that_anyone_can_see() -> None:
    Count.hits = 0
    _indistinguishable()
    assert Count.hits > 500
