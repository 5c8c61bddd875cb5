"""One small request over a pool, awaited: what the node's probes and discovery use. Not for the hot path."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from interlock.errors import UpstreamError, UpstreamTimeout
from interlock.sources.transport import Deadlines, Pool

_NEVER_S = 1e9
"""`fetch` keeps its own time, so that it needs no sweep to be punctual."""


class Answer(NamedTuple):
    """A whole answer. `content_type` without its parameters."""

    status: int
    body: bytes
    content_type: str = ""


class _Collector:
    def __init__(self, who: str, done: asyncio.Future[Answer], bytes_max: int) -> None:
        self._who = who
        self._done = done
        self._bytes_max = bytes_max
        self._status = 0
        self._content_type = b""
        self._body = bytearray()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        self._content_type = dict(headers).get(b"content-type", b"").partition(b";")[0].strip()

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._bytes_max and not self._done.done():
            words = f"{self._who} answered with more than {self._bytes_max} bytes"
            self._done.set_exception(UpstreamError(words, code="upstream_too_large"))

    def on_end(self) -> None:
        if not self._done.done():
            kind = self._content_type.decode("latin-1")
            self._done.set_result(Answer(self._status, bytes(self._body), kind if kind.isprintable() else ""))

    def on_error(self, error: UpstreamError) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def fetch(pool: Pool, request: bytes, *, timeout_s: float, bytes_max: int) -> Answer:
    """Send an idempotent request and wait for the whole answer; it is sent again when a kept connection was stale.

    Raises UpstreamTimeout (`probe_timeout`) and UpstreamError (`upstream_too_large`, or what `Pool.send` says).
    """
    until_s = pool.loop.time() + timeout_s
    try:
        return await _fetch(pool, request, timeout_s, bytes_max)
    except UpstreamError as error:
        if error.code != "upstream_stale":
            raise
    return await _fetch(pool, request, max(0.0, until_s - pool.loop.time()), bytes_max, fresh=True)


async def _fetch(pool: Pool, request: bytes, timeout_s: float, bytes_max: int, *, fresh: bool = False) -> Answer:
    who = f"source {pool.target.name!r}"
    done: asyncio.Future[Answer] = pool.loop.create_future()
    # a connection being opened outlives its call, for the next one: where a sweep runs, it is given up in time too
    deadlines = Deadlines(timeout_s, _NEVER_S, _NEVER_S, _NEVER_S)
    call = pool.send(request, _Collector(who, done, bytes_max), deadlines=deadlines, fresh=fresh)
    try:
        async with asyncio.timeout(timeout_s):
            return await done
    except TimeoutError:
        raise UpstreamTimeout(f"{who} did not answer within {timeout_s:g} s", code="probe_timeout") from None
    finally:
        call.cancel()
