"""A bare reverse proxy on asyncio protocols and httptools, on both sides: what this way of building costs at least.

It forwards requests whole and answers piece by piece, over kept connections, one upstream connection per call. It
checks nothing and records nothing: the distance between it and the gateway is what the gateway's own work costs.

    python -m bench.probe --port P --upstream PORT
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from typing import Any

import httptools
import uvloop


class Upstream(asyncio.Protocol):
    """A kept connection to the engine."""

    idle: list[Upstream] = []
    client: Client | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.head: list[bytes] = []
        self.chunked = False

    def data_received(self, data: bytes) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self.parser.feed_data(data)
        client = self.client
        if client is not None:
            if self.complete:
                self.client = None
                self.idle.append(self)
            if self.parts:
                client.transport.write(b"".join(self.parts))

    def on_message_begin(self) -> None:
        self.head = []
        self.chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"transfer-encoding":
            self.chunked = True
        self.head.append(name + b": " + value)

    def on_headers_complete(self) -> None:
        self.parts.append(b"HTTP/1.1 %d OK\r\n%b\r\n\r\n" % (self.parser.get_status_code(), b"\r\n".join(self.head)))

    def on_body(self, data: bytes) -> None:
        self.parts.append(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def on_message_complete(self) -> None:
        if self.chunked:
            self.parts.append(b"0\r\n\r\n")
        self.complete = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol
        if self in self.idle:
            self.idle.remove(self)
        if self.client is not None:
            self.client.transport.close()


class Client(asyncio.Protocol):
    """A caller's connection."""

    port = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.lines: list[bytes] = []
        self.body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.lines = [b"POST " + url + b" HTTP/1.1"]
        self.body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append(name + b": " + value)

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        data = b"\r\n".join(self.lines) + b"\r\n\r\n" + b"".join(self.body)
        if Upstream.idle:
            self.send(Upstream.idle.pop(), data)
        else:
            asyncio.get_running_loop().create_task(self.connect(data))

    async def connect(self, data: bytes) -> None:
        """Open one more upstream connection and send there."""
        _, upstream = await asyncio.get_running_loop().create_connection(Upstream, "127.0.0.1", self.port)
        self.send(upstream, data)

    def send(self, upstream: Upstream, data: bytes) -> None:
        """Hand the request over."""
        upstream.client = self
        upstream.transport.write(data)


async def serve(port: int, upstream: int) -> None:
    """Listen on loopback until killed."""
    Client.port = upstream
    server = await asyncio.get_running_loop().create_server(Client, "127.0.0.1", port, backlog=8192)
    gc.freeze()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--upstream", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.upstream))


if __name__ == "__main__":
    main()
