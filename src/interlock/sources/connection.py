"""One HTTP/1.1 connection to a source: what llhttp parses becomes callbacks of the call that uses it.

llhttp in its strict mode refuses what RFC 9112 forbids: both Content-Length and Transfer-Encoding, repeated, signed or
empty lengths, bare line feeds, folded headers, bytes after `Connection: close`. The rules on top of it are here:
only `chunked` as a transfer coding, no content coding (none was asked for), a bounded head, at most a few interim
answers, no upgrade, trailers dropped. Bytes that belong to no call end the connection: they would be taken for the
next caller's answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import httptools

from interlock.errors import UpstreamError

if TYPE_CHECKING:
    from interlock.sources.transport import Call, Pool

SPECIAL = frozenset((b"transfer-encoding", b"content-encoding", b"keep-alive"))
STALE_WINDOW_S = 1.0
"""How soon after sending a lost connection still counts as one that had been closed while idle."""
HEADERS_MAX = 256
"""Most header fields taken from an answer."""
JOIN_BYTES_MAX = 65_536
"""Up to here a copy of the body costs less than a second buffer."""
TakeChunk = Callable[[bytes, int], None]
"""Takes one whole chunk of a chunked body with its framing (RFC 9112 section 7.1), and where in it the data begins; the
data ends two bytes before the chunk does."""
CHUNK_BYTES_MAX = 4096
"""Longest chunk that is recognised without the parser."""
DEFECT = "could not be served: an internal error, see the log"
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,4})\r\n")
_KEEP_ALIVE = re.compile(rb"(?:^|[,;\s])timeout=(\d{1,6})", re.IGNORECASE)


def _size_lines() -> list[tuple[tuple[bytes, ...], int]]:
    """For each length of a whole chunk, the lines that it may begin with (the size in hexadecimal, in either case) and
    their length."""
    lines: list[tuple[tuple[bytes, ...], int]] = [((), 0)] * (CHUNK_BYTES_MAX + 1)
    for size in range(1, CHUNK_BYTES_MAX):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) <= CHUNK_BYTES_MAX:
            lines[length] = (line, line.upper()), len(line)
    return lines


_SIZE_LINES = _size_lines()


class Handler(Protocol):
    """What a call's owner implements. Callbacks come from the event loop, never from inside `Pool.send`.

    After exactly one of `on_end` and `on_error`, or after `Call.cancel()`, none of them is called again; but for
    `on_error` after an `on_end` that raised, so that no call is left without an end.
    """

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The final status and the header fields, names in lower case. Interim (1xx) answers are not shown."""

    def on_body(self, data: bytes) -> None:
        """Bytes of the body as they came, chunk framing removed."""

    def on_end(self) -> None:
        """The message is complete by its own framing."""

    def on_error(self, error: UpstreamError) -> None:
        """The call failed; what was received before is not a whole answer."""


class Connection(asyncio.Protocol):
    """A connection and its parser. Used by one call at a time; the pool decides which."""

    __slots__ = (
        "between_chunks",
        "call",
        "chunk_taker",
        "complete",
        "ended",
        "generation",
        "handler",
        "head_bytes",
        "head_done",
        "headers",
        "idle_ms_max",
        "idle_since",
        "informational",
        "keep",
        "open",
        "parser",
        "pool",
        "sent_s",
        "surplus",
        "take_chunk",
        "transport",
        "used",
    )
    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.parser = httptools.HttpResponseParser(self)
        self.call: Call | None = None
        self.handler: Handler | None = None
        self.ended: Handler | None = None
        self.chunk_taker: TakeChunk | None = None
        """What the call wants whole chunks to be given to."""
        self.take_chunk: TakeChunk | None = None
        """The same, while the parser stands exactly before a chunk."""
        self.between_chunks = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_bytes = 0
        self.head_done = False
        self.complete = False
        self.informational = False
        self.surplus = False
        self.keep = False
        self.open = False
        self.used = False
        self.sent_s = 0.0
        self.idle_since = -1.0
        self.idle_ms_max = pool.idle_ms
        self.generation = pool.generation

    # -- from the pool

    def start(self, call: Call, now: float) -> None:
        """Send `call` over this connection. `now`: the loop's clock, seconds."""
        call.conn = self
        self.call = call
        self.handler = call.handler
        self.headers = []
        self.head_bytes = 0
        self.head_done = self.complete = self.informational = self.surplus = False
        self.sent_s = now
        data = call.data
        if isinstance(data, bytes):
            self.transport.write(data)
        elif len(data[-1]) <= JOIN_BYTES_MAX:
            self.transport.write(b"".join(data))
        else:
            self.transport.writelines(data)
        call.data = b""
        if call.paused:
            self.transport.pause_reading()

    def abort(self) -> None:
        """Close at once. No callback of the call follows."""
        self.open = False
        self.call = self.handler = self.ended = None
        self.chunk_taker = self.take_chunk = None
        self.transport.abort()

    # -- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open (TLS included)."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's does not inherit from asyncio's
        self.open = True
        self.pool.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        take_chunk = self.take_chunk
        if take_chunk is not None:
            # INVARIANT: a chunk that is taken here whole leaves the parser where it stood: before the next one
            size = len(data)
            if size <= CHUNK_BYTES_MAX:
                lines, at = _SIZE_LINES[size]
                if data.startswith(lines) and data.endswith(b"\r\n"):
                    try:
                        take_chunk(data, at)
                    except Exception as e:  # noqa: BLE001 - as from the parser's callbacks
                        self._handler_failed(e)
                    return
            data = self._take_chunks(data)
            if not data:
                return
        if self.call is None:
            self.abort()
            return
        if not self.head_done:
            self.head_bytes += len(data)
        self.take_chunk = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as e:
            self._handler_failed(e.__context__ or e)
            return
        except httptools.HttpParserUpgrade:
            self._fail("upstream_invalid_response", "switched to another protocol unasked")
            return
        except httptools.HttpParserError as e:
            if not self.complete:
                self._fail("upstream_invalid_response", f"sent what is not HTTP/1.1: {e}")
                return
            self.surplus = True
        if self.complete:
            self._finish()
        elif self.between_chunks and data.endswith(b"\r\n"):
            # Nothing of the next size was read: it would not end with a line end without `on_chunk_header`.
            self.take_chunk = self.chunk_taker
        elif not self.head_done and self.head_bytes > self.pool.head_bytes_max:
            self._fail("upstream_invalid_response", f"sent a head of more than {self.pool.head_bytes_max} bytes")

    def eof_received(self) -> bool:
        """The source will send nothing more: the transport closes, and `connection_lost` decides what that means."""
        self.open = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by the source, the network or us."""
        self.open = False
        call, handler = self.call, self.handler
        self.call = self.handler = self.chunk_taker = self.take_chunk = None
        self.pool.lost(self)
        del self.parser  # it refers back to this object
        if call is None or handler is None:
            return
        self.pool.done(call)
        if self.head_done and exc is None and self._until_close():
            self._give_end(handler)
        elif not self.head_bytes:
            self.pool.tell(handler, self._closed_unanswered())
        else:
            words = "closed the connection in the middle of its answer"
            self.pool.tell(handler, self.pool.error("upstream_cut_off", words))

    # -- from the parser

    def on_message_begin(self) -> None:
        """The first byte of a message; a second message in one answer is surplus."""
        if self.complete:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or a trailer (dropped)."""
        if self.head_done:
            return
        name = name.lower()
        if name in SPECIAL:
            self._special(name, value)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The end of a head, interim or final."""
        handler, call = self.handler, self.call
        if handler is None or call is None:
            return
        status = self.parser.get_status_code()
        if status < 200:
            self.informational = True
            self.headers = []
            return
        if len(self.headers) > HEADERS_MAX:
            self._fail("upstream_invalid_response", f"sent more than {HEADERS_MAX} header fields")
            return
        self.head_done = True
        handler.on_head(status, self.headers)

    def on_chunk_header(self) -> None:
        """The size of a chunk was read."""
        self.between_chunks = False

    def on_chunk_complete(self) -> None:
        """A chunk has ended, its line end included."""
        self.between_chunks = True

    def on_body(self, data: bytes) -> None:
        """Bytes of the body."""
        handler = self.handler
        if handler is not None:
            self.call.bytes_seen = True  # type: ignore[union-attr]  # set together with handler
            handler.on_body(data)

    def on_message_complete(self) -> None:
        """The end of a message by its framing. `on_end` follows when the rest of the read has been looked at."""
        if self.informational:
            self.informational = False
        elif self.handler is not None:
            self.complete = True
            self.keep = self.parser.should_keep_alive()
            self.ended = self.handler
            self.handler = None

    # -- inside

    def _take_chunks(self, data: bytes) -> bytes:
        """Take the whole chunks that a read begins with, and give back what follows them."""
        at = 0
        try:
            while (take_chunk := self.take_chunk) is not None:
                line = _SIZE_LINE.match(data, at)
                if line is None:
                    break
                begin = line.end()
                end = begin + int(line[1], 16) + 2
                if end == begin + 2 or end - at > CHUNK_BYTES_MAX or data[end - 2 : end] != b"\r\n":
                    break
                take_chunk(data[at:end], begin - at)
                at = end
        except Exception as e:  # noqa: BLE001 - as from the parser's callbacks
            self._handler_failed(e)
            return b""
        return data[at:]

    def _special(self, name: bytes, value: bytes) -> None:
        if name == b"keep-alive":
            found = _KEEP_ALIVE.search(value)
            if found:
                # half a second less than the source says: a request sent in its last moment would be lost
                self.idle_ms_max = min(self.pool.idle_ms, max(0, int(found[1]) * 1000 - 500))
            return
        if name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                self._fail("upstream_invalid_response", "used a transfer coding other than chunked")
        elif value.strip().lower() not in (b"identity", b""):
            self._fail("upstream_invalid_response", "compressed its answer although that was not asked for")

    def _finish(self) -> None:
        call, handler = self.call, self.ended
        if call is None or handler is None:
            return
        self.call = self.ended = self.chunk_taker = None
        self.between_chunks = False
        self.pool.done(call)
        self.used = True
        transport = self.transport
        if self.keep and self.open and not self.surplus and not transport.get_write_buffer_size():
            if call.paused:
                transport.resume_reading()
            self.pool.release(self)
        else:
            self.open = False
            transport.abort()
        self._give_end(handler)

    def _give_end(self, handler: Handler) -> None:
        """Tell the call that its answer is whole; when it cannot take that, that it failed."""
        try:
            handler.on_end()
        except Exception as e:  # noqa: BLE001 - the connection may carry another call already: it must not be torn down
            self._report(e)
            self.pool.tell(handler, self.pool.error("internal_error", DEFECT))

    def _closed_unanswered(self) -> UpstreamError:
        if self.used and self.pool.loop.time() - self.sent_s <= STALE_WINDOW_S:
            return self.pool.error("upstream_stale", "had closed the connection that was kept")
        return self.pool.error("upstream_closed", "closed the connection without an answer")

    def _until_close(self) -> bool:
        """True when the answer's only end is the end of the connection (RFC 9112 section 6.3, rule 8)."""
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _fail(self, code: str, what: str) -> None:
        call, handler = self.call, self.handler
        self.abort()
        if call is not None:
            self.pool.done(call)
        if handler is not None:
            self.pool.tell(handler, self.pool.error(code, what))

    def _handler_failed(self, error: BaseException) -> None:
        # a defect of ours, not of the source: the call ends, the worker goes on, and the log has the trace
        self._report(error)
        self.handler = self.handler or self.ended
        self._fail("internal_error", DEFECT)

    def _report(self, error: BaseException) -> None:
        self.pool.report(error)
