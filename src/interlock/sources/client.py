"""The synchronous client that discovery uses, on the transport that calls take: the same TLS, proxy and credential.

Every answer is bounded in time (from asking to its last byte, however it drips) and in size; every failure is said in
words. Redirects are not followed and environment proxies not consulted: a source is where its URL says.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from interlock.errors import UpstreamError, UpstreamTimeout
from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.fetch import Answer, fetch
from interlock.sources.requests import build_get, build_head
from interlock.sources.transport import Pool, target_of
from interlock.types.source import Source, SourceKind
from interlock.wire.anthropic.speech import VERSION


class SourceClient:
    """A client to one source for the time of a `with`; one look, one client. Not for a thread that runs an event loop.

    Raises ConfigError when the source's URLs are wrong and UpstreamError (`credential_missing`) when its secret cannot
    be used.
    """

    def __init__(self, source: Source, settings: Settings, credentials: CredentialStore) -> None:
        self._source = source
        self._settings = settings
        self._timeout_s = settings.discovery_timeout_ms / 1000
        self._target = target_of(source, credentials)
        self._header = credentials.header(source)
        if source.kind is SourceKind.anthropic:
            self._header += b"anthropic-version: %b\r\n" % VERSION
        self._runner = asyncio.Runner()
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._pool = Pool(self._target, self._settings, self._runner.get_loop())
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            self._runner.run(self._pool.close())
        self._runner.__exit__(kind, e, tb)

    def get(self, path: str, *, api: bool = True) -> Answer:
        """GET below the API prefix, or beside it. Raises UpstreamTimeout (`discovery_timeout`) and UpstreamError."""
        return self._ask(path, build_get(self._source, path, self._header, api=api))

    def post(self, path: str, body: bytes = b"{}") -> Answer:
        """POST a JSON body below the API prefix. Raises as `get` does.

        What is asked so must be refused: whether an endpoint exists, or what it takes, without making it work.
        """
        return self._ask(path, build_head(self._source, path, len(body), self._header) + body)

    def _ask(self, path: str, request: bytes) -> Answer:
        if self._pool is None:
            raise RuntimeError("SourceClient is used outside its `with`")
        who = f"source {self._source.name!r}"
        bytes_max = self._settings.probe_bytes_max
        try:
            return self._runner.run(fetch(self._pool, request, timeout_s=self._timeout_s, bytes_max=bytes_max))
        except UpstreamTimeout:
            words = f"{who} did not answer {path} within {self._timeout_s:g} s"
            raise UpstreamTimeout(words, code="discovery_timeout") from None
        except UpstreamError as e:
            hint = ": is it running, and is the port right?" if e.message == f"{who} refused the connection" else ""
            raise UpstreamError(f"{e.message}{hint}", code=e.code) from None
