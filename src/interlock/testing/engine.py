"""An HTTP server that answers as scripted and remembers what it was sent.

    async with ScriptedEngine(kind="vllm", models=("mock",)) as engine:
        engine.script(error(503, retry_after="1"), answer("It works."))   # the next two inference calls
        ... engine.base_url ...
        assert engine.calls[0].header("authorization") == "Bearer secret"

A *script* turns the received request into *steps* (see `interlock.testing.script`): `interlock.testing.answers` holds
scripts that answer in OpenAI's form, `interlock.testing.faults` those that misbehave. When no script is queued,
`default` answers. Pages such as `/v1/models` and `/metrics` answer in the way of the engine's kind, and can be replaced
in `pages`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Iterator
from types import TracebackType
from typing import Literal, Self

from interlock.testing import answers, ollama, pages
from interlock.testing.script import Gate, Load, Pause, Received, Script, Step

BODY_BYTES_MAX = 256_000_000
"""Largest request body taken; a larger one closes the connection."""

HEAD_BYTES_MAX = 1_000_000
"""Largest request head, or line of a chunked body; a larger one closes the connection."""


class ScriptedEngine:
    """The server. Start it with `async with`, or from synchronous code with `with ScriptedEngine(...).in_thread()`.

    `kind`: "vllm", "llamacpp", "openai", "anthropic" or "ollama": which pages it has, and in which form it answers.
    `tls`: a server-side context, for https.
    """

    def __init__(
        self,
        *,
        kind: str = "vllm",
        models: tuple[str, ...] = ("mock",),
        default: Script | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.kind = kind
        self.models = models
        self.load = Load()
        self.default: Script = default or (ollama.answer() if kind == "ollama" else answers.answer())
        self.pages: dict[str, Script] = pages.pages_of(kind, models, self.load)
        self.requests: list[Received] = []
        self.tool_parser = True
        """Of a vLLM: whether it was started with the options for tools."""
        self.connections = 0
        self.open_connections = 0
        self.closes_on_accept = 0
        """How many of the next connections are closed at once, before anything is read."""
        self._host, self._port, self._tls = host, port, tls
        self._queue: deque[Script] = deque()
        self._server: asyncio.Server | None = None
        self._live: set[_Connection] = set()

    @property
    def base_url(self) -> str:
        """Where it listens, without `/v1`."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def calls(self) -> list[Received]:
        """The requests that were neither for a page nor such as every vLLM refuses: inference calls."""
        return [r for r in self.requests if r.path.partition("?")[0] not in self.pages and not self._is_refused(r)]

    def script(self, *scripts: Script) -> None:
        """Queue scripts for the next inference calls, one each, in order of arrival."""
        self._queue.extend(scripts)

    def disconnect_all(self) -> None:
        """Reset every open connection, as an engine that is killed does."""
        for connection in list(self._live):
            connection.abort()

    def next_script(self, received: Received) -> Script:
        """The script that answers this request: a page, the next queued one, or the default."""
        page = self.pages.get(received.path.partition("?")[0])
        if page is not None:
            return page
        if self._is_refused(received):
            return pages.vllm_refusal(received, self.tool_parser)
        return self._queue.popleft() if self._queue else self.default

    def _is_refused(self, received: Received) -> bool:
        return self.kind == "vllm" and pages.vllm_refuses(received)

    def connection_opened(self, connection: _Connection) -> int | None:
        """Count a connection; None when it is to be closed at once."""
        self.connections += 1
        if self.closes_on_accept > 0:
            self.closes_on_accept -= 1
            return None
        self.open_connections += 1
        self._live.add(connection)
        return self.connections - 1

    def connection_closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        if connection in self._live:
            self._live.discard(connection)
            self.open_connections -= 1

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self._host, self._port, ssl=self._tls, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and reset what is open. The port stays the same if it is started again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [c.task for c in self._live if c.task is not None]
        self.disconnect_all()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run it on a loop of its own in another thread, for synchronous clients."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="scripted-engine", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result(10)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.close(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


class _Connection(asyncio.Protocol):
    """One client connection: reads requests one after the other and plays the script of each."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine
        self.buffer = bytearray()
        self.number = 0
        self.task: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()
        self.arrived = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self.transport = transport
        number = self.engine.connection_opened(self)
        if number is None:
            transport.close()
            return
        self.number = number
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.arrived.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol
        self.gone.set()
        self.arrived.set()
        self.writable.set()
        self.engine.connection_closed(self)

    def abort(self) -> None:
        """Close with a reset: unsent data is thrown away."""
        self.transport.abort()

    async def _serve(self) -> None:
        while (received := await self._read_request()) is not None:
            self.engine.requests.append(received)
            made = self.engine.next_script(received)(received)
            try:
                received.ended = await self._play(made)
            finally:
                if isinstance(made, Generator):
                    made.close()  # its `finally` must run when the client is gone, not when memory is collected
            if received.ended != "done" or (received.header("connection") or "").lower() == "close":
                self.transport.close()
                return

    async def _play(self, steps: Iterable[Step]) -> str:
        for step in steps:
            if isinstance(step, bytes):
                self.transport.write(step)
                await self.writable.wait()
                await asyncio.sleep(0)
            elif isinstance(step, Pause):
                await self._wait(asyncio.sleep(step.ms / 1000))
            elif isinstance(step, Gate):
                await self._wait(step.event.wait())
            elif step.how == "hang":
                await self.gone.wait()
            else:
                if step.how == "reset":
                    _linger_zero(self.transport)
                    self.transport.abort()
                else:
                    self.transport.close()
                return "closed"
            if self.gone.is_set():
                return "gone"
        return "done"

    async def _wait(self, wanted: Coroutine[None, None, Literal[True] | None]) -> None:
        """Wait for it, or for the client to leave."""
        waits = {asyncio.ensure_future(wanted), asyncio.ensure_future(self.gone.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def _read_request(self) -> Received | None:
        head = await self._read_until(b"\r\n\r\n")
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:] if line)]
        named = dict(headers)
        if "chunked" in named.get("transfer-encoding", ""):
            body = await self._read_chunked()
        else:
            body = await self._read_exactly(int(named.get("content-length", "0")))
        if body is None:
            return None
        return Received(method, path, headers, body, self.number, time.monotonic_ns())

    async def _read_chunked(self) -> bytes | None:
        body = bytearray()
        while (line := await self._read_until(b"\r\n")) is not None:
            size = int(line.split(b";")[0], 16)
            data = await self._read_exactly(size + 2)
            if data is None:
                return None
            if size == 0:
                return bytes(body)
            body += data[:-2]
        return None

    async def _read_until(self, mark: bytes) -> bytes | None:
        while (end := self.buffer.find(mark)) < 0:
            if len(self.buffer) > HEAD_BYTES_MAX or not await self._more():
                return None
        found = bytes(self.buffer[:end])
        del self.buffer[: end + len(mark)]
        return found

    async def _read_exactly(self, size: int) -> bytes | None:
        if size > BODY_BYTES_MAX:
            return None
        while len(self.buffer) < size:
            if not await self._more():
                return None
        found = bytes(self.buffer[:size])
        del self.buffer[:size]
        return found

    async def _more(self) -> bool:
        self.arrived.clear()
        if not self.gone.is_set():
            await self.arrived.wait()
        return not self.gone.is_set()


def _linger_zero(transport: asyncio.Transport) -> None:
    """Make the close a reset (RST) instead of a FIN."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def main() -> None:
    """`python -m interlock.testing.engine --port P [--kind vllm] [--model NAME]...`: serve until killed."""
    parser = argparse.ArgumentParser(description="A scripted engine.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kind", default="vllm", choices=sorted(pages.KINDS))
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--text", default=answers.TEXT)
    parser.add_argument("--between-ms", type=float, default=0.0, help="pause between streamed events")
    options = parser.parse_args()

    async def serve() -> None:
        make = ollama.answer if options.kind == "ollama" else answers.answer
        default = make(options.text, between_ms=options.between_ms)
        async with ScriptedEngine(
            kind=options.kind, models=tuple(options.model) or ("mock",), port=options.port, default=default
        ) as engine:
            sys.stdout.write(engine.base_url + "\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
