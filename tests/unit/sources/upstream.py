"""A source made of raw bytes: each connection is served by a script that the test gives."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from interlock.errors import UpstreamError
from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.transport import Call, Deadlines, Pool, target_of
from interlock.types.source import Source, SourceKind, TlsRef

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENT = Deadlines(5, 5, 5, 5)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Recorder:
    """A handler that notes every callback; `over` resolves at the end or error."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.size = 0
        self.pieces: list[bytes] = []
        self.ends = 0
        self.error: UpstreamError | None = None

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.over.done()
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert not self.over.done()
        self.size += len(data)
        self.pieces.append(data)

    def on_end(self) -> None:
        self.ends += 1
        self.over.set_result(None)

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        if self.over.cancelled():  # the test has given up waiting
            return
        self.over.set_result(None)

    @property
    def body(self) -> bytes:
        """The body so far."""
        return b"".join(self.pieces)

    @property
    def code(self) -> str:
        """The code of the error, "" when there was none."""
        return self.error.code if self.error else ""


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One whole request; raises IncompleteReadError when the client closes instead."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            head += await reader.readexactly(int(line[15:]))
    return head


def answers(*replies: bytes, close: bool = False) -> Script:
    """A script that answers the requests of a connection one by one, then waits for the client (or closes)."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await read_request(reader)
            writer.write(reply)
            await writer.drain()
        if not close:
            await reader.read()

    return script


class Upstream:
    """A listening server. Connection n is served by `scripts[n]`, or by the last one."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self.scripts = scripts
        self.accepted = 0
        self.closed = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run the script of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
        self.accepted += 1
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.closed += 1
            writer.close()
            self.tasks.discard(task)


@asynccontextmanager
async def upstream(*scripts: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A server for the time of a `with`."""
    it = Upstream(scripts)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=context)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in list(it.tasks):
            task.cancel()
        await asyncio.gather(*it.tasks, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def pool_to(
    port: int,
    settings: Settings | None = None,
    *,
    scheme: str = "http",
    tls: TlsRef | None = None,
    credentials: CredentialStore | None = None,
    source: Source | None = None,
) -> AsyncIterator[Pool]:
    """A pool to a local port for the time of a `with`."""
    settings = settings or Settings()
    source = source or Source("src_1", "local", SourceKind.openai, f"{scheme}://localhost:{port}", tls=tls)
    pool = Pool(target_of(source, credentials or CredentialStore(settings, {})), settings, asyncio.get_running_loop())
    try:
        yield pool
    finally:
        await pool.close()
        assert pool.connections == 0
        assert pool.active == 0


def request(body: bytes = b"{}") -> bytes:
    """A whole request."""
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def exchange(
    pool: Pool, data: bytes | list[bytes] | None = None, deadlines: Deadlines = PATIENT, *, fresh: bool = False
) -> Recorder:
    """Send one request and wait for its end."""
    recorder = Recorder()
    pool.send(request() if data is None else data, recorder, deadlines=deadlines, fresh=fresh)
    await asyncio.wait_for(recorder.over, 30)
    return recorder


def send(pool: Pool, deadlines: Deadlines = PATIENT, *, count_bytes: bool = True) -> tuple[Call, Recorder]:
    """Send one request without waiting."""
    recorder = Recorder()
    return pool.send(request(), recorder, deadlines=deadlines, count_bytes=count_bytes), recorder


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fails after half a minute."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition never held")
