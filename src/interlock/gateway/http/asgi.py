"""The same application under an ASGI server: the fallback when the native server is not wanted (`gateway_server`).

It costs more than twice the CPU of the native one. Limits on heads, time-outs of slow requests and the refusal of
malformed HTTP are then the ASGI server's; limits on bodies and the unique header fields are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from interlock.errors import BadRequest, BodyTooLarge, InterlockError
from interlock.gateway.http.exchange import Application, Exchange, Headers, Request, unchunked
from interlock.gateway.http.rules import UNIQUE
from interlock.wire.errors import error_answer

if TYPE_CHECKING:
    from interlock.settings import Settings
    from interlock.types.clock import Clock

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiSink:
    """Collects what the application says into a queue that one coroutine sends; tells the application to pause when
    more than `write_buffer_bytes_max` bytes wait."""

    def __init__(self, limit: int) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.exchange: Exchange | None = None
        self.waiting = 0
        self.ended = False
        self._limit = limit
        self._paused = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """See `exchange.Sink`."""
        self._put(_start(status, headers + b"content-length: %d\r\n" % len(body)))
        self._put({"type": "http.response.body", "body": body, "more_body": False})
        self._finish()

    def start(self, status: int, headers: Headers) -> None:
        """See `exchange.Sink`."""
        self._put(_start(status, headers))

    def write(self, data: bytes) -> None:
        """See `exchange.Sink`."""
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def write_chunks(self, chunks: bytes) -> None:
        """See `exchange.Sink`."""
        self.write(unchunked(chunks))

    def end(self) -> None:
        """See `exchange.Sink`."""
        self._put({"type": "http.response.body", "body": b"", "more_body": False})
        self._finish()

    def abort(self) -> None:
        """See `exchange.Sink`: nothing more is sent, the server cuts the connection because the body did not end."""
        self._finish()

    def sent(self, size: int) -> None:
        """The server has taken `size` bytes."""
        self.waiting -= size
        if self._paused and self.waiting <= self._limit // 2 and self.exchange is not None:
            self._paused = False
            self.exchange.on_resume()

    def _put(self, message: Message) -> None:
        if self.ended:
            return
        self.waiting += len(message.get("body", b""))
        self.messages.put_nowait(message)
        if self.waiting > self._limit and not self._paused and self.exchange is not None:
            self._paused = True
            self.exchange.on_pause()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self.exchange = None
            self.messages.put_nowait(None)


def asgi(app: Application, settings: Settings, clock: Clock) -> Callable[..., Awaitable[None]]:
    """An ASGI application (version 3, scope type "http") around the gateway's."""

    async def serve(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway serves HTTP, not {scope['type']}")
        sink = AsgiSink(settings.write_buffer_bytes_max)
        try:
            request = await _read(scope, receive, settings, clock)
        except InterlockError as error:
            sink.respond(*error_answer(error, "openai"))
        else:
            if request is None:
                return
            exchange = app(request, sink)
            if not sink.ended:
                sink.exchange = exchange
        await _converse(sink, receive, send)

    return serve


async def _converse(sink: AsgiSink, receive: Receive, send: Send) -> None:
    """Send what the application says until it ends, and tell it when the reader is gone."""
    gone = asyncio.ensure_future(_until_gone(receive))
    whole = False
    try:
        while True:
            said = asyncio.ensure_future(sink.messages.get())
            await asyncio.wait((gone, said), return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not said.done():
                said.cancel()
                exchange, sink.exchange = sink.exchange, None
                if exchange is not None:
                    exchange.on_disconnect()
                return
            message = await said
            if message is None:
                break
            await send(message)
            whole = message["type"] == "http.response.body" and not message["more_body"]
            sink.sent(len(message.get("body", b"")))
    finally:
        gone.cancel()
    if not whole:
        # The ASGI server closes a connection whose answer was begun and not ended.
        raise ConnectionAbortedError("the answer was cut")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(scope: MutableMapping[str, Any], receive: Receive, settings: Settings, clock: Clock) -> Request | None:
    """The whole request, or None when its sender left. Raises BadRequest, BodyTooLarge."""
    received_ns = clock.mono_ns()
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers:
            if name in UNIQUE:
                raise BadRequest(
                    f"Header field {name.decode('latin-1')!r} is given more than once.", code="duplicate_header"
                )
            value = headers[name] + b", " + value
        headers[name] = value
    headers.pop(b"content-length", None)
    body, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > settings.body_bytes_max:
            raise BodyTooLarge(f"The body is larger than the {settings.body_bytes_max} bytes that are taken.")
        body.append(piece)
        more = message.get("more_body", False)
    client = scope.get("client")
    peer = f"{client[0]}:{client[1]}" if client else ""
    return Request(
        scope["method"], scope["path"], headers, b"".join(body), peer, received_ns, None, scope["query_string"]
    )


def _start(status: int, headers: Headers) -> Message:
    pairs = [tuple(line.split(b": ", 1)) for line in headers.split(b"\r\n") if line]
    return {"type": "http.response.start", "status": status, "headers": pairs}
