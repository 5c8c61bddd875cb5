"""A stream read chunk by chunk without the parser, and one that is parsed, leave the same bytes and the same records:
whatever the events hold, however they are framed and cut, and whenever the log gets round to them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.errors import InterlockError
from interlock.gateway.attempt import Attempt
from interlock.gateway.http.exchange import Request
from interlock.gateway.http.protocol import Server
from interlock.gateway.relay import Relay
from interlock.settings import Settings
from interlock.sources.connection import Connection
from interlock.sources.dial import Target
from interlock.sources.transport import Deadlines, Pool
from interlock.testing.clock import FakeClock
from interlock.wire.answers import decode_plain
from interlock.wire.stencil import TAIL, cut_stencil
from tests.property.sources.test_connection import Wire as SourceWire
from tests.unit.gateway.test_http_protocol import HOST, Wire

PATIENT = Deadlines(9, 9, 9, 9)
SKELETONS = st.sampled_from(
    [
        '{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]}',
        '{"id":"c","choices":[{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}],"usage":null}',
        '{"choices":[{"delta":{"content":%s,"role":"assistant"}}],"model":"m"}',
        '{"choices":[{"delta":{"content": %s}}]}',
        '{"choices":[{"delta":{"content":"first","content":%s}}]}',
        '{"choices":[{"delta":{"content":%s,"content":"second"}}]}',
        '{"user":{"content":%s},"choices":[{"delta":{"content":"constant"}}]}',
        '{"choices":[{"delta":{"content":"constant"}}],"user":{"content":%s}}',
        '{"user":{"content":%s},"choices":[{"delta":{"content": "constant"}}]}',
        '{"choices":[{"index":0,"text":%s}]}',
        '{"choices":[{"index":1,"delta":{"content":%s}}]}',
        '{"choices":[{"delta":{"content":%s,"reasoning_content":"r"}}]}',
        '{"choices":[{"delta":{"content":%s}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
    ]
)
ODD_EVENTS = st.sampled_from(
    [
        b'data: {"choices":[{"delta":{"content":"a\nb"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a\tb"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]}\ndata: \n\n',
        b'data: {"choices":\ndata: [{"delta":{"content":"two lines"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"crlf"}}]}\r\n\r\n',
        b'data:{"choices":[{"delta":{"content":"no space"}}]}\n\n',
        b'event: x\ndata: {"choices":[{"delta":{"content":"named"}}]}\n\n',
        b'x-data{"choices":[{"delta":{"content":"no data"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"bad \xff utf-8"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"bad \xed\xa0\x80 utf-8"}}]}\n\n',
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n',
        b'data: {"error":{"message":"broken"}}\n\n',
        b"data: nonsense\n\n",
        b": comment\n\n",
        b"\n\n",
        b"data: [DONE]\n\n",
    ]
)


TEXTS = (" points", "", '"', "\\", "\n", "\x00", "\x7f", "\u00a0", "\u2028", "\ufffd", "constant")
RAW = ('"a","content":"b"', '"a","role":"b', '"a\tb"', '"a', '" "', "null", '"a\\\\"', '"a","b":"c"')
"""What may stand in a skeleton instead of a text: other JSON, or none."""
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
SIZE_LINES = (b"%X\r\n", b"00%x\r\n", b"%x;ext=1\r\n", b"%x \r\n", b"0x%x\r\n", b"%x\n")
ODDITIES = ("size", "lie", "inner", "raw", "other", "event", "finish", "body", "together", "cut")


def some(draw: st.DrawFn, odd: bool) -> bool:
    """Whether an oddity befalls this place, in a stream that has it."""
    return odd and draw(st.integers(0, 3)) == 0


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Reads of a chunked body: one event a chunk, one chunk a read, one form of event; but for one or two oddities."""
    odd = draw(st.sets(st.sampled_from(ODDITIES), max_size=2))
    usual = draw(SKELETONS)
    texts = st.one_of(st.just("constant"), st.sampled_from(TEXTS), st.text(max_size=6))
    events = []
    for _ in range(draw(st.integers(4, 16))):
        skeleton = draw(SKELETONS) if some(draw, "other" in odd) else usual
        text = json.dumps(draw(texts), ensure_ascii=draw(st.booleans()))
        text = draw(st.sampled_from(RAW)) if some(draw, "raw" in odd) else text
        events.append(b"data: " + (skeleton % text).encode("utf-8", "surrogatepass") + b"\n\n")
        if some(draw, "event" in odd):
            events.append(draw(ODD_EVENTS))
        if some(draw, "finish" in odd):
            events.append(FINISH)
    events += draw(st.sampled_from([[], [FINISH], [FINISH, b"data: [DONE]\n\n"]]))
    if "body" in odd:
        body = b"".join(events)
        edges = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=6))})
        events = [body[a:b] for a, b in itertools.pairwise(edges)]
    reads: list[bytes] = []
    for event in events:
        line = draw(st.sampled_from(SIZE_LINES)) if some(draw, "size" in odd) else b"%x\r\n"
        size = len(event) + (draw(st.sampled_from([1, -1, 2, 16])) if some(draw, "lie" in odd) else 0)
        chunk = line % size + event + b"\r\n"
        if some(draw, "inner" in odd):
            outer = b": c\r\n" + chunk + b"\n\n"
            reads += [b"%x\r\n: c\r\n" % len(outer), chunk, b"\n\n\r\n"]
        elif some(draw, "together" in odd) and reads:
            reads[-1] += chunk
        elif some(draw, "cut" in odd):
            place = draw(st.integers(0, len(chunk)))
            reads += [chunk[:place], chunk[place:]]
        else:
            reads.append(chunk)
    reads.append(draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0\r\n\r\nsurplus"])))
    return [read for read in reads if read]


class Log:
    """What the relay tells the log, and the callbacks that the log owes."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, str, bytes]] = []
        self.unwritten = 0
        self.waiting: list[Callable[[], None]] = []

    def append_chunk(self, call: int, index: int, text: str, raw: bytes) -> int:
        self.records.append((call, index, text, raw))
        self.unwritten += 1
        return len(self.records)

    def on_written(self, callback: Callable[[], None]) -> None:
        if self.unwritten:
            self.waiting.append(callback)
        else:
            callback()

    def sync_within(self, ms: int) -> None:
        pass

    def turn(self) -> None:
        """The loop has come round: what was appended is written."""
        self.unwritten = 0
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class Deaf:
    """An upstream call that gives no chunks: everything is parsed."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.event_seen = False

    def take_chunks(self, take: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class Side:
    """A connection to a source, the relay behind it, and the client's connection behind that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, parsed: bool, http_10: bool) -> None:
        self.log = Log()
        clock = FakeClock()
        limits = Settings()
        self.wire = Wire()
        self.sink: Any = None
        server = Server(self._serve, limits, clock)
        self.client = server.protocol()
        self.client.connection_made(self.wire)
        head = HOST.replace(b"1.1", b"1.0") if http_10 else HOST
        self.client.data_received(head + b"content-length: 0\r\n\r\n")
        self.head_sent = self.paused = False
        self.stream = True
        self.kept = None
        self.said: list[str] = []
        self.out = self.sink
        self.call = SimpleNamespace(number=7, sink=self.sink, recording=0, pieces_max=lambda: 1 << 62)
        self.parsed = SimpleNamespace(n=1, wants_usage=True)
        self.runtime: Any = SimpleNamespace(settings=limits, log=self.log, clock=clock, swept_ns=1)
        link: Any = SimpleNamespace(source=SimpleNamespace(name="s"))
        self.attempt = Attempt(self, 0, link, None)  # type: ignore[arg-type]
        self.pool = Pool(Target("s", "127.0.0.1", 1), limits, loop)
        self.up = SourceWire()
        self.conn = Connection(self.pool)
        self.conn.connection_made(self.up)  # type: ignore[arg-type]
        self.pool.release(self.conn)
        call: Any = self.pool.send(b"request", self.attempt, deadlines=PATIENT, count_bytes=False)
        self.attempt.upstream = Deaf(call) if parsed else call  # type: ignore[assignment]
        self.conn.data_received(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert self.attempt.relay is not None
        self.relay: Relay = self.attempt.relay

    def _serve(self, request: Request, sink: Any) -> Any:
        self.sink = sink
        return SimpleNamespace(on_pause=lambda: None, on_resume=lambda: None, on_disconnect=lambda: None)

    # -- what the relay asks of its run

    def forward(self, data: bytes) -> None:
        if not self.head_sent:
            self.head_sent = True
            self.sink.start(200, b"")
        self.sink.write(data)

    def stream_complete(self, relay: Relay) -> None:
        whole = relay.bytes_whole
        self.said.append("complete")
        self.log.turn()
        self.forward(relay.rest())
        assert relay.bytes_sent == whole
        self.sink.end()

    def stream_broken(self, error: InterlockError) -> None:
        self.said.append(error.code)
        self.log.turn()
        self.forward(self.relay.unsent() + b"broken")
        self.sink.abort()

    def defect(self, error: InterlockError) -> None:
        if not self.said:  # a run that is over has nothing more to say
            self.said.append(f"defect {error.code}")

    def failed(self, attempt: Attempt, error: InterlockError) -> None:
        self.said.append(f"failed {error.code}")
        attempt.ended = True

    # -- what happens to it

    def read(self, data: bytes) -> None:
        """Bytes of the source arrive."""
        if not self.up.aborted:
            self.conn.data_received(data)

    def seen(self) -> dict[str, Any]:
        """All that was recorded, sent and found out."""
        relay = self.relay
        return {
            "records": self.log.records,
            "body": body_of(self.wire.sent),
            "said": self.said,
            "aborted": self.up.aborted,
            "reading": self.up.reading,
            "counts": (relay.chunks, relay.events, relay.bytes_sent, relay.ended),
            "digest": relay.digest.hexdigest(),
            "reasons": relay.finish_reasons,
            "usage": relay.usage,
            "active": self.pool.active,
            "idle": self.pool.idle,
        }


def body_of(sent: bytes) -> bytes:
    """The body of an answer that may still be under way, `<end>` behind it when it has ended by its framing."""
    head, _, rest = sent.partition(b"\r\n\r\n")
    if b"transfer-encoding" not in head:
        return rest
    body = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        assert rest[size : size + 2] == b"\r\n"
        body += rest[:size] if size else b"<end>"
        rest = rest[size + 2 :]
    return body


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is never run: nothing here waits."""
    it = asyncio.new_event_loop()
    problems: list[dict[str, object]] = []
    it.set_exception_handler(lambda _, context: problems.append(context))
    yield it
    it.close()
    assert problems == []


def chunked(*events: bytes) -> list[bytes]:
    """Each event a chunk, each chunk a read, and the end of the body."""
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events] + [b"0\r\n\r\n"]


PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


class Count:
    """How many chunks went past the parser over all examples."""

    taken = 0


@given(
    reads=streams(),
    turns=st.lists(st.booleans(), max_size=12),
    durable_at=st.integers(0, 3),
    sweeps=st.sets(st.integers(0, 12), max_size=3),
    http_10=st.sampled_from([False] * 5 + [True]),
)
@example(
    reads=chunked(*[PIECE] * 4, FINISH, *[PIECE] * 4, b"data: [DONE]\n\n"),
    turns=[],
    durable_at=0,
    sweeps=set(),
    http_10=False,
)
@example(
    reads=chunked(*[PIECE] * 4, PIECE.replace(b'"a"', b'"a","content":"b"'), PIECE, b"data: [DONE]\n\n"),
    turns=[],
    durable_at=0,
    sweeps=set(),
    http_10=False,
)
@example(
    reads=[*chunked(*[PIECE] * 4)[:-1], b"%x\r\n%b\r\n" % (len(PIECE) - 1, PIECE), *chunked(PIECE)],
    turns=[],
    durable_at=0,
    sweeps=set(),
    http_10=False,
)
@example(
    reads=[*chunked(*[PIECE] * 4)[:-1], b"%x\r\n%b\r\n" % (len(PIECE) + 1, PIECE), *chunked(PIECE)],
    turns=[],
    durable_at=0,
    sweeps=set(),
    http_10=False,
)
@settings(max_examples=500, deadline=None)
def _same(
    loop: asyncio.AbstractEventLoop,
    reads: list[bytes],
    turns: list[bool],
    durable_at: int,
    sweeps: set[int],
    http_10: bool,
) -> None:
    sides = [Side(loop, parsed=parsed, http_10=http_10) for parsed in (False, True)]
    for number, (read, turn) in enumerate(itertools.zip_longest(reads, turns, fillvalue=None)):
        for side in sides:
            if number == durable_at:
                side.attempt.durable = True
                side.relay.release()
            if number in sweeps:
                side.runtime.swept_ns += 5_000_000_000
            if isinstance(read, bytes):
                before = side.conn.take_chunk
                side.read(read)
                Count.taken += before is not None and before is side.conn.take_chunk
            if turn is not False:
                side.log.turn()
        assert sides[0].seen() == sides[1].seen()
    for side in sides:
        side.attempt.durable = True
        side.log.turn()
        side.relay.release()
        if not side.up.aborted:
            side.conn.eof_received()
        side.conn.connection_lost(None)
        side.log.turn()
    assert sides[0].seen() == sides[1].seen()


def test_chunks_that_pass_the_parser_by_leave_the_same_bytes_and_records(loop: asyncio.AbstractEventLoop) -> None:
    Count.taken = 0
    _same(loop)
    assert Count.taken > 500


@example(
    skeleton='{"user":{"content":%s},"choices":[{"delta":{"content": "constant"}}]}', first="constant", second="other"
)
@given(skeleton=SKELETONS, first=st.text(max_size=8), second=st.text(max_size=8))
@settings(max_examples=500, deadline=None)
def test_a_stencil_matches_only_what_decodes_to_the_text_in_its_place(skeleton: str, first: str, second: str) -> None:
    def written(text: str) -> bytes:
        return (skeleton % json.dumps(text, ensure_ascii=False)).encode("utf-8", "surrogatepass")

    stencil = cut_stencil(written(first), first)
    if stencil is None:
        return
    chunk = b"data: " + written(second) + TAIL
    if chunk.startswith(stencil.before) and chunk.endswith(stencil.after) and len(chunk) >= stencil.least:
        piece = chunk[stencil.begin : stencil.end]
        if b'"' not in piece and b"\\" not in piece and second.isprintable():
            assert decode_plain(written(second)).choices[0].delta.content == piece.decode()


def test_an_error_of_the_relay_ends_the_call_and_not_the_worker(loop: asyncio.AbstractEventLoop) -> None:
    side = Side(loop, parsed=False, http_10=False)
    side.attempt.durable = True
    event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    for _ in range(3):
        side.read(b"%x\r\n%b\r\n" % (len(event), event))
        side.log.turn()
    assert side.conn.take_chunk is not None

    def fails(*_: object) -> int:
        raise ValueError("a defect")

    reported: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    side.relay._append = fails
    side.read(b"%x\r\n%b\r\n" % (len(event), event))
    loop.set_exception_handler(before)
    assert [type(context["exception"]) for context in reported] == [ValueError]
    assert side.up.aborted
    assert side.said == ["internal_error"]
