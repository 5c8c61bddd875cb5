"""The shapes between the HTTP server and the stages: one parsed request in, one sink for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from interlock.gateway.http.heads import Head

Headers = bytes
"""Header lines as they are sent, each ended by CR LF; made by `header_line` or known to be safe."""


EVENT_STREAM: Headers = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


def header_line(name: bytes, value: bytes) -> bytes:
    """One header line. A line break or NUL in the value, which would start a header of its own, becomes a space."""
    if b"\r" in value or b"\n" in value or b"\0" in value:
        value = value.replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\0", b" ")
    return b"%b: %b\r\n" % (name, value)


def chunk(data: bytes) -> bytes:
    """A piece of a body as a chunk (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(chunks: bytes) -> bytes:
    """What whole chunks without extensions hold."""
    data, at = b"", 0
    while at < len(chunks):
        begin = chunks.index(b"\n", at) + 1
        end = begin + int(chunks[at:begin], 16)
        data += chunks[begin:end]
        at = end + 2
    return data


class Request:
    """One whole request. Header names are lower case; a name given twice is refused by the server
    for those that must be unique (`rules.UNIQUE`), otherwise joined with a comma (RFC 9110 section 5.3).

    `headers` is for reading: requests with the same head may share it. Content-length is not among them, as the body
    is here. `head` is the same object for requests whose heads are known to be the same, or None: what has been found
    out about the fields of one holds for the others (`Head.note` is the place to keep it). `query`: what follows the
    question mark of the target, as it was sent.
    """

    __slots__ = ("body", "head", "headers", "method", "path", "peer", "query", "received_ns")

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        body: bytes,
        peer: str,
        received_ns: int,
        head: Head | None = None,
        query: bytes = b"",
    ) -> None:
        self.head = head
        self.query = query
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.peer = peer
        self.received_ns = received_ns


class Sink(Protocol):
    """Takes one answer: either `respond` once, or `start`, any number of `write`, then `end` or `abort`."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""

    def start(self, status: int, headers: Headers) -> None:
        """Begin a streamed answer."""

    def write(self, data: bytes) -> None:
        """Send a piece of a streamed answer. Never blocks; `Exchange.on_pause` tells when the reader is slow."""

    def write_chunks(self, chunks: bytes) -> None:
        """Send pieces that are framed already, as whole chunks of HTTP/1.1's chunked coding without extensions."""

    def end(self) -> None:
        """End a streamed answer properly."""

    def abort(self) -> None:
        """Cut the connection, so that the client can tell the answer is not whole."""


class Exchange(Protocol):
    """What the application is told while it owes an answer."""

    def on_disconnect(self) -> None:
        """The reader is gone; nothing more can be sent."""

    def on_pause(self) -> None:
        """More than `write_buffer_bytes_max` wait for a slow reader: stop producing."""

    def on_resume(self) -> None:
        """The reader has caught up."""


Application = Callable[[Request, Sink], "Exchange | None"]
"""Called with a whole request; returns the exchange while the answer is owed, None when it has been given."""
