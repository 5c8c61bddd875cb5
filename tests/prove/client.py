"""Clients that note every byte they receive, and when.

A client is one connection at a time, kept alive over calls, opened anew when it breaks. It never repeats a call.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable

from .script import Asked, asked

READ_BYTES = 65_536
SLOW_BYTES = 128
SLOW_S = 0.01
ANSWER_TIMEOUT_S = 60.0
RETRY_S = 0.02


@dataclasses.dataclass(slots=True)
class Received:
    """What one call brought. `body` is what came of it, with the chunked framing taken off.

    `arrivals`: (monotonic ns, length of the body by then). `head_ns`: when the head was there. `ended`: the framing
    says that nothing is missing. `left`: the client itself went away. `broke`: how the connection ended otherwise.
    """

    asked: Asked
    started_ns: int
    status: int = 0
    request_id: str = ""
    head_ns: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytearray = dataclasses.field(default_factory=bytearray)
    arrivals: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    ended: bool = False
    left: bool = False
    broke: str = ""

    def took(self, data: bytes | bytearray) -> None:
        """Note body bytes."""
        if data:
            self.body += data
            self.arrivals.append((time.monotonic_ns(), len(self.body)))

    def at(self, length: int) -> int:
        """When the first `length` bytes of the body were there (monotonic ns)."""
        return next(at_ns for at_ns, total in self.arrivals if total >= length)


class Client:
    """Makes calls one after the other until `stop`; `received` holds one entry for each."""

    def __init__(self, port: Callable[[], int], key: str, markers: Callable[[], str]) -> None:
        """`port()`: where the gateway listens now. `markers()`: the next marker."""
        self.received: list[Received] = []
        self._port = port
        self._key = key
        self._markers = markers
        self._stopping = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._buffer = bytearray()

    def stop(self) -> None:
        """Begin no further call."""
        self._stopping = True

    async def run(self) -> None:
        """Until `stop`, and until the last call has ended."""
        try:
            while not self._stopping:
                try:
                    await self._connect()
                except OSError:
                    await asyncio.sleep(RETRY_S)
                    continue
                received = Received(asked(self._markers()), time.monotonic_ns())
                self.received.append(received)
                await self._call(received)
        finally:
            self._hang_up()

    async def _call(self, received: Received) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._exchange(received)
        except TimeoutError:
            received.broke = "timeout"
        except (OSError, EOFError) as e:
            received.broke = received.broke or type(e).__name__
        if not received.ended or received.headers.get("connection") == "close":
            self._hang_up()

    async def _exchange(self, received: Received) -> None:
        assert self._writer is not None
        body = json.dumps(received.asked.body()).encode()
        head = (
            f"POST {received.asked.path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._read_head(received)
        length = received.headers.get("content-length")
        if length is not None:
            while len(received.body) < int(length):
                await self._body(received, int(length) - len(received.body))
                if received.left:
                    return
        else:
            while (size := await self._chunk_size()) > 0:
                whole = len(received.body) + size
                while len(received.body) < whole:
                    await self._body(received, whole - len(received.body))
                    if received.left:
                        return
                await self._line()
            await self._line()
        received.ended = True

    async def _body(self, received: Received, wanted: int) -> None:
        """Take up to `wanted` bytes of body; the client may decide to leave."""
        if not self._buffer:
            await self._more(received.asked.slow)
        taken = self._buffer[:wanted]
        del self._buffer[: len(taken)]
        received.took(taken)
        leaves = received.asked.leaves_after
        if 0 <= leaves <= len(received.body):
            received.left = True
            self._hang_up(abort=True)

    async def _read_head(self, received: Received) -> None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        received.head_ns = time.monotonic_ns()
        received.status = int(lines[0].split()[1])
        received.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        received.request_id = received.headers.get("x-interlock-request-id", "")

    async def _chunk_size(self) -> int:
        return int(await self._line(), 16)

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _more(self, slow: bool = False) -> None:
        assert self._reader is not None
        if slow:
            await asyncio.sleep(SLOW_S)
        data = await self._reader.read(SLOW_BYTES if slow else READ_BYTES)
        if not data:
            raise EOFError
        self._buffer += data

    async def _connect(self) -> None:
        if self._writer is not None and not self._writer.is_closing() and self._reader and not self._reader.at_eof():
            return
        self._hang_up()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port())
        self._buffer.clear()

    def _hang_up(self, *, abort: bool = False) -> None:
        if self._writer is not None:
            if abort:
                self._writer.transport.abort()
            else:
                self._writer.close()
        self._reader = self._writer = None
