"""A small egress proxy that speaks CONNECT and passes bytes both ways."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ConnectProxy:
    """Notes each CONNECT; `authorization` is the header value it asks for ("" for none)."""

    def __init__(self, authorization: str, answer: bytes) -> None:
        self.authorization = authorization
        self.answer = answer
        self.targets: list[str] = []
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One tunnel."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n")[0].split(" ")
            assert method == "CONNECT"
            self.targets.append(target)
            if self.authorization and f"Proxy-Authorization: {self.authorization}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            if self.answer:
                writer.write(self.answer)
                await writer.drain()
                return
            host, _, port = target.rpartition(":")
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
            try:
                await asyncio.gather(_pass(reader, up_writer), _pass(up_reader, writer))
            finally:
                up_writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self.tasks.discard(task)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.close()


@asynccontextmanager
async def connect_proxy(
    *, authorization: str = "", answer: bytes = b"", context: ssl.SSLContext | None = None
) -> AsyncIterator[ConnectProxy]:
    """A proxy for the time of a `with`; `answer` is sent instead of opening a tunnel."""
    proxy = ConnectProxy(authorization, answer)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=context)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(proxy.tasks):
            task.cancel()
        await asyncio.gather(*proxy.tasks, return_exceptions=True)
        await asyncio.sleep(0)
