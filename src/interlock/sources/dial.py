"""Opening a connection to a source: TCP, an egress proxy's CONNECT tunnel (RFC 9110 section 9.3.6), TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
import ssl
from collections.abc import Callable

from interlock.errors import UpstreamError
from interlock.sources.tls import TlsContext, reason

PROXY_HEAD_BYTES_MAX = 16_384
"""Largest answer of a proxy to CONNECT."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """An egress proxy. `authorization` gives the Proxy-Authorization value at each use, so that it can be rotated."""

    host: str
    port: int
    tls: TlsContext | None = None
    authorization: Callable[[], bytes] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where a source listens and how it is reached; `name` is used in errors."""

    name: str
    host: str
    port: int
    tls: TlsContext | None = None
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def dial(target: Target, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
    """Open a connection for `protocol`, up to its `connection_made`. Raises UpstreamError with codes `connect_failed`,
    `name_not_resolved`, `tls_failed`, `tls_configuration`, `proxy_failed`, `credential_missing`.
    """
    context = target.tls.get() if target.tls is not None else None
    if target.proxy is not None:
        await _through_proxy(target, target.proxy, context, protocol, loop)
        return
    try:
        await loop.create_connection(
            lambda: protocol,
            target.host,
            target.port,
            ssl=context,
            server_hostname=target.host if context is not None else None,
        )
    except OSError as e:
        raise _refused(f"source {target.name!r}", e) from None


def _refused(who: str, error: OSError) -> UpstreamError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return UpstreamError(f"{who}: its TLS certificate was not accepted: {reason(error)}", code="tls_failed")
    if isinstance(error, ssl.SSLError):
        return UpstreamError(f"{who}: TLS handshake failed: {reason(error)}", code="tls_failed")
    if isinstance(error, socket.gaierror):
        return UpstreamError(f"{who}: its host name cannot be resolved", code="name_not_resolved")
    if isinstance(error, ConnectionRefusedError) or "refused" in str(error):
        return UpstreamError(f"{who} refused the connection", code="connect_failed")
    return UpstreamError(f"{who} could not be connected: {reason(error)}", code="connect_failed")


class _Tunnel(asyncio.Protocol):
    """Waits for the proxy's answer to CONNECT: `answer` resolves to the status, or to an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.answer: asyncio.Future[int] = loop.create_future()
        self._name = name
        self._head = b""

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > PROXY_HEAD_BYTES_MAX:
                self._fail("answered CONNECT with an endless head")
            return
        line = _STATUS_LINE.match(self._head)
        if line is None:
            self._fail("did not answer CONNECT with HTTP")
        elif len(self._head) > end + 4 and line[1].startswith(b"2"):
            self._fail("sent bytes of its own into the tunnel")
        else:
            self.answer.set_result(int(line[1]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._fail("closed the connection during CONNECT")

    def _fail(self, what: str) -> None:
        if not self.answer.done():
            words = f"the egress proxy of source {self._name!r} {what}"
            self.answer.set_exception(UpstreamError(words, code="proxy_failed"))


async def _through_proxy(
    target: Target,
    proxy: Proxy,
    context: ssl.SSLContext | None,
    protocol: asyncio.Protocol,
    loop: asyncio.AbstractEventLoop,
) -> None:
    who = f"the egress proxy of source {target.name!r}"
    head = f"CONNECT {target.authority} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("ascii")
    if proxy.authorization is not None:
        head += b"Proxy-Authorization: " + proxy.authorization() + b"\r\n"
    proxy_context = proxy.tls.get() if proxy.tls is not None else None
    try:
        transport, tunnel = await loop.create_connection(
            lambda: _Tunnel(loop, target.name),
            proxy.host,
            proxy.port,
            ssl=proxy_context,
            server_hostname=proxy.host if proxy_context is not None else None,
        )
    except OSError as e:
        refused = _refused(who, e)
        raise UpstreamError(refused.message, code="proxy_failed") from None
    final: asyncio.Transport | None = None
    try:
        transport.write(head + b"\r\n")
        status = await tunnel.answer
        if not 200 <= status < 300:
            words = "asks for credentials" if status == 407 else f"refused the tunnel with status {status}"
            raise UpstreamError(f"{who} {words}", code="proxy_failed")
        if context is None:
            transport.set_protocol(protocol)
            final = transport
        else:
            final = await _start_tls(target, transport, protocol, context, loop)
        protocol.connection_made(final)
    finally:
        if final is None:
            transport.abort()


async def _start_tls(
    target: Target,
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    loop: asyncio.AbstractEventLoop,
) -> asyncio.Transport:
    try:
        final = await loop.start_tls(transport, protocol, context, server_hostname=target.host)
    except OSError as e:
        raise _refused(f"source {target.name!r}", e) from None
    if final is None:
        raise UpstreamError(f"source {target.name!r} closed the connection during TLS", code="tls_failed")
    return final
