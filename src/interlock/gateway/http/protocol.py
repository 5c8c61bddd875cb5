"""The gateway's HTTP/1.1 server: an asyncio protocol on llhttp (RFC 9112), strict where ambiguity can be used.

llhttp in its strict mode already refuses Content-Length together with Transfer-Encoding, repeated or signed lengths,
obsolete line folding, bare LF and CR, NUL, and malformed chunk sizes. This adds: exactly one Host (RFC 9112
section 3.2), no transfer coding but `chunked`, HTTP/1.0 and 1.1 only, no upgrade, limits on everything, and closing
the connection after any refusal, so that bytes that follow a malformed message are never read as a request.

A head that is the same as the connection's last one, but for its length, is not parsed again (see `heads`). Its body
is then counted here, and llhttp stands at the beginning of a message all the while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httptools

from interlock.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    InterlockError,
    MethodNotAllowed,
    RequestTimeout,
    Unavailable,
)
from interlock.gateway.http.exchange import Application, Exchange, Headers, Request, chunk, unchunked
from interlock.gateway.http.heads import HEAD_MEMO_BYTES_MAX, TRIES, Head, head_of
from interlock.gateway.http.rules import STATUS_LINES, UNIQUE, absolute_path, status_line
from interlock.wire.anthropic.errors import error_answer as anthropic_error
from interlock.wire.errors import error_answer

if TYPE_CHECKING:
    from interlock.settings import Settings
    from interlock.types.clock import Clock


class Server:
    """What all connections of a worker share: the application, the limits, and the set of open connections."""

    def __init__(self, app: Application, settings: Settings, clock: Clock) -> None:
        self.app = app
        self.settings = settings
        self.clock = clock
        self.mono_ns = clock.mono_ns
        self.head_timeout_ns = settings.head_timeout_ms * 1_000_000
        self.body_timeout_ns = settings.body_timeout_ms * 1_000_000
        self.idle_timeout_ns = settings.idle_timeout_ms * 1_000_000
        self.connections: set[HttpProtocol] = set()
        self.heads = 0
        """Connections that remember a head."""
        self.held_bytes = 0
        self.draining = False
        self.refused_connections = 0
        self.bad_requests = 0

    def protocol(self) -> HttpProtocol:
        """Protocol factory for `loop.create_server`."""
        return HttpProtocol(self)

    def sweep(self, now_ns: int) -> None:
        """Close connections that are too slow or idle for too long. Called several times a second."""
        for connection in list(self.connections):
            connection.check_deadline(now_ns)

    def drain(self) -> None:
        """Close idle connections, and every other one after its current answer."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()


class HttpProtocol(asyncio.Protocol):
    """One client connection. It is its own `Sink`: answers are given in the order of requests, one at a time."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_chunked",
        "_deadline_ns",
        "_exchange",
        "_failed",
        "_field_bytes",
        "_head",
        "_head_bytes",
        "_head_done",
        "_headers",
        "_held",
        "_in_head",
        "_in_message",
        "_keep_alive",
        "_known",
        "_minor_10",
        "_no_body",
        "_parser",
        "_paused",
        "_queue",
        "_raw",
        "_refusal",
        "_served",
        "_serving",
        "_tries",
        "_url",
        "_wanted",
        "busy",
        "paused_since_ns",
        "peer",
        "server",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by connection_made
        self.peer = ""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request, bool, bool]] = deque()
        self._refusal: InterlockError | None = None
        self._exchange: Exchange | None = None
        self.busy = False
        self._failed = False
        self._paused = False
        self.paused_since_ns = 0
        self._chunked = False
        self._held = 0
        self._serving = 0
        self._keep_alive = True
        self._minor_10 = False
        self._no_body = False
        self._in_message = False
        self._served = False
        self._head: Head | None = None
        self._tries = TRIES if server.settings.head_memo_max else 0
        self._begin()
        self._deadline_ns = 0

    def _begin(self) -> None:
        """Forget the last request's parts: another one may follow."""
        self._known: Head | None = None
        self._wanted = 0
        self._raw = b""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._field_bytes = 0
        self._in_head = False
        self._head_done = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        self.transport = cast("asyncio.Transport", transport)
        if len(server.connections) >= server.settings.connections_max or server.draining:
            server.refused_connections += 1
            self.transport.abort()
            self._failed = True
            return
        peername = transport.get_extra_info("peername")
        self.peer = f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else ""
        self.transport.set_write_buffer_limits(high=server.settings.write_buffer_bytes_max)
        server.connections.add(self)
        self._deadline_ns = server.mono_ns() + server.head_timeout_ns

    def connection_lost(self, _exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._failed = True
        self._tries = 0
        self._forget_head()
        self._release()
        self._parser = None  # it refers back to this object
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_disconnect()

    def eof_received(self) -> bool:
        # A half-closed client cannot be told from one that is gone until we write to it; like most servers
        # we take it as gone, so that an engine does not generate for nobody.
        return False

    def data_received(self, data: bytes) -> None:
        if self._failed or self._refusal is not None:
            return
        if self._wanted:
            self._more_of_known(data)
            return
        if self._head_bytes == 0 and not self._in_message and self._tries:
            if self._head is not None and self._take_known(self._head, data):
                return
            self._raw = data
        if not self._in_head and self._head_bytes == 0:
            self._in_head = True
            if not self.busy:
                self._deadline_ns = self.server.mono_ns() + self.server.head_timeout_ns
        if self._in_head:
            self._head_bytes += len(data)
        self._feed(data)
        if len(self._queue) >= self.server.settings.pipelined_requests_max:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._paused = True
        self.paused_since_ns = self.server.clock.mono_ns()
        if self._exchange is not None:
            self._exchange.on_pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._exchange is not None:
            self._exchange.on_resume()

    # -- a head that is known

    def _take_known(self, head: Head, data: bytes) -> bool:
        """Take a read that is the known head and not more than its body; False, and nothing done, when it is not.

        Whatever is to be refused is left to the parser and its callbacks.
        """
        if not data.startswith(head.before) or self.busy or self._queue:
            return False
        end = data.find(head.after, head.at, head.reach)
        digits = data[head.at : end]
        if end < 0 or not digits.isdigit():
            return False
        server = self.server
        settings = server.settings
        body = data[end + head.after_bytes :]
        size, length = len(body), int(digits)
        held_bytes = server.held_bytes + size
        if size > length or length > settings.body_bytes_max or held_bytes > settings.bodies_bytes_max:
            return False
        server.held_bytes = held_bytes
        self._held += size
        self._tries = TRIES
        if size == length:
            self._dispatch(
                Request("POST", head.path, head.fields, body, self.peer, server.mono_ns(), head), True, False
            )
            return True
        self._known, self._wanted = head, length - size
        self._body = [body] if body else []
        self._body_bytes = size
        self._head_bytes = head.at + head.after_bytes
        self._deadline_ns = server.mono_ns() + server.body_timeout_ns
        return True

    def _more_of_known(self, data: bytes) -> None:
        """More of the body behind a known head. What is beyond it begins another request, and is parsed."""
        head, wanted = self._known, self._wanted
        assert head is not None  # noqa: S101 - set together with _wanted
        rest = data[wanted:]
        piece = data[:wanted] if rest else data
        self._wanted = wanted - len(piece)
        try:
            self.on_body(piece)
        except InterlockError as error:
            self._refuse(error)
            return
        if self._wanted:
            return
        request = Request("POST", head.path, head.fields, b"".join(self._body), self.peer, self.server.mono_ns(), head)
        self._begin()
        self._dispatch(request, True, False)
        if rest and not self._failed:
            self._feed(rest)
            if len(self._queue) >= self.server.settings.pipelined_requests_max:
                self.transport.pause_reading()

    def _remember(self, path: str) -> Head | None:
        """Remember the head of the request that llhttp has just ended, if the connection's next may well be the same.

        A connection's first is not: many are used once.
        """
        raw, self._raw = self._raw, b""
        server = self.server
        if not self._served:
            self._served = True
            return None
        if self._head is None and server.heads >= server.settings.head_memo_max:
            return None
        self._tries -= 1
        self._forget_head()
        head = head_of(raw, path, self._headers) if self._tries else None
        if head is not None:
            self._head = head
            server.heads += 1
        return head

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head = None
            self.server.heads -= 1

    # -- parsing

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequest("Upgrading the connection is not supported; send a plain HTTP/1.1 request."))
            return
        except httptools.HttpParserCallbackError as e:
            cause = e.__context__
            if isinstance(cause, InterlockError):
                self._refuse(cause)
                return
            raise
        except httptools.HttpParserError as e:
            self._refuse(BadRequest(f"The request is not valid HTTP/1.1: {e}.", code="malformed_http"))
            return
        if self._in_head and self._head_bytes > self.server.settings.head_bytes_max:
            self._refuse(
                HeadersTooLarge(f"The request head is larger than {self.server.settings.head_bytes_max} bytes.")
            )

    def on_message_begin(self) -> None:
        self._in_message = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._field_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer: it must not pass for a header that a proxy before us has checked (RFC 9110 6.5.1)
        headers = self._headers
        name = name.lower()
        if name in headers:
            if name in UNIQUE:
                raise BadRequest(
                    f"Header field {name.decode('latin-1')!r} is given more than once.", code="duplicate_header"
                )
            value = headers[name] + b", " + value
        elif len(headers) >= self.server.settings.headers_max:
            raise HeadersTooLarge(f"The request has more than {self.server.settings.headers_max} header fields.")
        headers[name] = value
        self._field_bytes += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        settings = self.server.settings
        parser = self._parser
        headers = self._headers
        self._in_head = False
        self._head_done = True
        version = parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise BadRequest(f"HTTP version {version} is not supported; use HTTP/1.1.", code="malformed_http")
        elif b"host" not in headers:
            raise BadRequest("Header field 'host' is missing.", code="malformed_http")
        if parser.should_upgrade():
            raise BadRequest("Upgrading the connection is not supported; send a plain HTTP/1.1 request.")
        if self._field_bytes > settings.head_bytes_max:
            raise HeadersTooLarge(f"The request head is larger than {settings.head_bytes_max} bytes.")
        length = headers.get(b"content-length")
        if length is not None:
            self._expect_body(int(length))
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise BadRequest("The only transfer coding taken is 'chunked'.", code="malformed_http")
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            raise BadRequest("Send the body without content-encoding.", code="unsupported_encoding")
        if headers.get(b"expect", b"").lower() == b"100-continue" and not self.busy:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if coding is not None or length is not None:
            self._deadline_ns = self.server.mono_ns() + self.server.body_timeout_ns
        if self._raw:
            end = self._raw.find(b"\r\n\r\n") + 4
            repeats = (
                length is not None and version == "1.1" and b"expect" not in headers and parser.should_keep_alive()
            )
            whole = self._raw.startswith(b"POST ") and 4 <= end <= HEAD_MEMO_BYTES_MAX
            self._raw = self._raw[:end] if repeats and whole else b""

    def _expect_body(self, length: int) -> None:
        settings = self.server.settings
        if length > settings.body_bytes_max:
            raise BodyTooLarge(
                f"The body of {length} bytes is larger than the {settings.body_bytes_max} that are taken."
            )

    def on_body(self, data: bytes) -> None:
        settings = self.server.settings
        self._body_bytes += len(data)
        if self._body_bytes > settings.body_bytes_max:
            raise BodyTooLarge(f"The body is larger than the {settings.body_bytes_max} bytes that are taken.")
        server = self.server
        server.held_bytes += len(data)
        self._held += len(data)
        if server.held_bytes > settings.bodies_bytes_max:
            raise Unavailable("Too many request bodies are held at once; try again.", code="overloaded")
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._failed:
            return  # the answer before it has closed the connection
        server = self.server
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        url = self._url
        path = url.decode("latin-1")
        if not path.startswith("/"):
            path = absolute_path(url)
        query = ""
        if "?" in path:
            path, _, query = path.partition("?")
        self._headers.pop(b"content-length", None)
        head = self._remember(path) if self._raw else None
        request = Request(
            self._parser.get_method().decode("latin-1"),
            path,
            head.fields if head is not None else self._headers,
            body,
            self.peer,
            server.mono_ns(),
            head,
            query.encode("latin-1"),
        )
        keep_alive = self._parser.should_keep_alive()
        minor_10 = self._parser.get_http_version() == "1.0"
        self._in_message = False
        self._begin()
        if self.busy or self._queue:
            self._queue.append((request, keep_alive, minor_10))
        else:
            self._dispatch(request, keep_alive, minor_10)

    def _dispatch(self, request: Request, keep_alive: bool, minor_10: bool) -> None:
        self.busy = True
        self._deadline_ns = 0
        self._keep_alive = keep_alive
        self._minor_10 = minor_10
        self._no_body = request.method == "HEAD"
        self._serving = len(request.body)
        exchange = self.server.app(request, self)
        if self.busy:
            self._exchange = exchange
            if self._paused and exchange is not None:
                exchange.on_pause()

    # -- Sink

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self._failed or not self.busy:  # INVARIANT: a request has one answer
            return
        size = len(body)
        if self._no_body:
            body = b""
        self.transport.write(
            b"%b%bcontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINES.get(status) or status_line(status), headers, size, self._connection(), body)
        )
        self._finish()

    def start(self, status: int, headers: Headers) -> None:
        if self._failed:
            return
        self._chunked = not self._minor_10
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        if not self._chunked:
            self._keep_alive = False
        line = STATUS_LINES.get(status) or status_line(status)
        self.transport.write(b"%b%b%b%b\r\n" % (line, headers, coding, self._connection()))

    def write(self, data: bytes) -> None:
        if self._failed:
            return
        self.transport.write(chunk(data) if self._chunked else data)

    def write_chunks(self, chunks: bytes) -> None:
        if not self._failed:
            self.transport.write(chunks if self._chunked else unchunked(chunks))

    def end(self) -> None:
        if self._failed:
            return
        if self._chunked:
            self.transport.write(b"0\r\n\r\n")
        self._finish()

    def abort(self) -> None:
        if self._failed:
            return
        self._exchange = None
        self._release()
        # What was written so far is still delivered; the missing last chunk tells that it is not whole.
        self._close()

    def _connection(self) -> bytes:
        """The connection header this answer needs: none while the connection is kept."""
        if self._keep_alive and not self.server.draining:
            return b""
        self._keep_alive = False
        return b"connection: close\r\n"

    def _finish(self) -> None:
        """The answer is complete: close, or take the next request of the connection."""
        server = self.server
        # Only this request's body: those of pipelined ones are still held.
        server.held_bytes -= self._serving
        self._held -= self._serving
        self._serving = 0
        self._exchange = None
        self._chunked = False
        self.busy = False
        if not self._keep_alive:
            self._close()
        elif self._queue or self._refusal is not None:
            asyncio.get_running_loop().call_soon(self._next)
        else:
            wait_ns = server.head_timeout_ns if self._head_bytes else server.idle_timeout_ns
            self._deadline_ns = server.mono_ns() + wait_ns

    def _next(self) -> None:
        """Take the next pipelined request, or give the refusal that waited for its turn."""
        if self.busy or self._failed:
            return
        if self._queue:
            self.transport.resume_reading()
            self._dispatch(*self._queue.popleft())
        elif self._refusal is not None:
            self._refuse(self._refusal)

    def _close(self) -> None:
        """Take nothing more; close when the reader has taken what was written, or after its time.

        After a refusal the peer may still be sending. To close now would reset the connection and destroy the answer
        on its way (RFC 9112 section 9.6): what comes is thrown away until the peer has closed, or for the time of a
        head.
        """
        self._failed = True
        self._release()
        self._begin()
        settings = self.server.settings
        if self._refusal is None:
            wait_ms = settings.slow_reader_timeout_ms
            self.transport.close()
        else:
            wait_ms = settings.head_timeout_ms
            self.transport.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self._deadline_ns = self.server.clock.mono_ns() + wait_ms * 1_000_000

    def _release(self) -> None:
        if self._held:
            self.server.held_bytes -= self._held
            self._held = 0

    # -- refusals and time

    def _of_anthropic(self) -> bool:
        return self._url.startswith(b"/v1/messages") or b"anthropic-version" in self._headers

    def _refuse(self, error: InterlockError) -> None:
        """Answer what cannot be parsed, and close: what follows it must not be read as a request."""
        self.server.bad_requests += 1
        if self._failed:
            return
        if self.busy:
            self._refusal = error
            self.transport.pause_reading()
            return
        self._keep_alive = False
        self._refusal = error
        status, headers, body = anthropic_error(error) if self._of_anthropic() else error_answer(error, "openai")
        self.busy = True
        self.respond(status, headers, body)

    def check_deadline(self, now_ns: int) -> None:
        """Time out a head, a body, an idle connection, or a reader that takes nothing."""
        if self._failed:
            if self._deadline_ns and now_ns >= self._deadline_ns:
                self.transport.abort()
            return
        if self._paused:
            limit = self.server.settings.slow_reader_timeout_ms * 1_000_000
            if now_ns - self.paused_since_ns > limit:
                self.transport.abort()
            return
        if not self._deadline_ns or now_ns < self._deadline_ns or self.busy or self._queue:
            return
        if self._head_bytes == 0:
            self._close()
        else:
            what = "head" if self._in_head else "body"
            self._refuse(RequestTimeout(f"The request's {what} did not arrive in time."))

    def close_if_idle(self) -> None:
        """Close now when no request is under way."""
        if not self.busy and not self._failed:
            self._close()


def method_not_allowed(method: str, path: str, allowed: str) -> MethodNotAllowed:
    """The error for a known path with another method; names the one that works."""
    return MethodNotAllowed(f"{path} takes {allowed}, not {method}.", headers={"allow": allowed})
