"""One small request over a pool, awaited: what the node's probes use. Not for the hot path."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from interlock.errors import UpstreamError, UpstreamTimeout
from interlock.sources.transport import Deadlines, Pool

_UNBOUNDED = Deadlines(1e9, 1e9, 1e9, 1e9)
"""`fetch` keeps its own time, so that it needs no sweep to be punctual."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class _Collector:
    def __init__(self, done: asyncio.Future[Answer], bytes_max: int) -> None:
        self._done = done
        self._bytes_max = bytes_max
        self._status = 0
        self._body = bytearray()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002 - the protocol's form
        self._status = status

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._bytes_max and not self._done.done():
            self._done.set_exception(UpstreamError(f"answered with more than {self._bytes_max} bytes"))

    def on_end(self) -> None:
        if not self._done.done():
            self._done.set_result(Answer(self._status, bytes(self._body)))

    def on_error(self, error: UpstreamError) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def fetch(pool: Pool, request: bytes, *, timeout_s: float, bytes_max: int) -> Answer:
    """Send a request and wait for the whole answer. Raises UpstreamTimeout (`probe_timeout`) and UpstreamError."""
    done: asyncio.Future[Answer] = pool.loop.create_future()
    call = pool.send(request, _Collector(done, bytes_max), deadlines=_UNBOUNDED)
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        raise UpstreamTimeout(f"did not answer within {timeout_s:g} s", code="probe_timeout") from None
    finally:
        call.cancel()
