"""Small requests to addresses that are somebody's input and are treated as hostile: of identity providers, of webhooks.

https only; the name is resolved once, every address checked, and the checked address dialled (so that a name cannot
change its mind); redirects stay on the same origin; size and time are bounded; proxies from the environment are not
used. Hosts on private or loopback addresses must be named in a setting (`jwks_hosts_private`, `alerts_hosts_private`);
of those, loopback ones may use http.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import msgspec

from interlock.errors import InterlockError
from interlock.settings import Settings

if TYPE_CHECKING:
    import httpx2

REDIRECTS_MAX = 3

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


class FetchError(InterlockError):
    """An identity provider did not answer as it should; the message says why."""

    code, status, retryable, level = "issuer_keys_unavailable", 503, True, logging.WARNING


async def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, by the system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Reach(msgspec.Struct, frozen=True):
    """What requests may reach and take. `private`: hosts with commas between them, from the setting `named_in`;
    `whose`: for errors, whose addresses these are."""

    private: str
    named_in: str
    whose: str
    ca_file: str
    timeout_ms: int
    bytes_max: int


def issuers_reach(settings: Settings) -> Reach:
    """Of identity providers."""
    return Reach(
        settings.jwks_hosts_private,
        "jwks_hosts_private",
        "issuer",
        settings.jwks_ca_file,
        settings.jwks_timeout_ms,
        settings.jwks_bytes_max,
    )


class SafeClient:
    """Requests of one process, within a `Reach`: by default that of identity providers."""

    def __init__(self, settings: Settings, resolver: Resolve = resolve, reach: Reach | None = None) -> None:
        self._reach = reach or issuers_reach(settings)
        self._resolve = resolver
        self._private = frozenset(h.strip().lower() for h in self._reach.private.split(",") if h.strip())
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str) -> bytes:
        """The body at a URL, after at most `REDIRECTS_MAX` redirects within its origin. Raises FetchError."""
        async with self._client() as client:
            origin = urlsplit(url)
            for _ in range(REDIRECTS_MAX + 1):
                status, body, location = await self._once(client, "GET", url, {}, b"")
                if location is not None:
                    url = urljoin(url, location)
                    target = urlsplit(url)
                    if (target.scheme, target.netloc) != (origin.scheme, origin.netloc):
                        raise FetchError("the answer is a redirect to another host, which is not followed")
                    continue
                if status != 200:
                    raise FetchError(f"the answer has status {status}")
                return body
            raise FetchError(f"more than {REDIRECTS_MAX} redirects")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer; a redirect is not followed. Raises FetchError."""
        async with self._client() as client:
            status, answer, location = await self._once(client, "POST", url, headers, body)
            if location is not None:
                raise FetchError("the answer is a redirect, which is not followed")
            return status, answer

    def _client(self) -> _Opened:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._reach.ca_file or None)
        return _Opened(self._tls, self._reach.timeout_ms / 1000)

    async def _once(
        self, client: httpx2.AsyncClient, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, str | None]:
        pinned, host, header = await self._pin(url)
        sent = {**headers, "host": header, "accept": "application/json", "accept-encoding": "identity"}
        content = body if method == "POST" else None
        async with client.stream(
            method, pinned, headers=sent, content=content, extensions={"sni_hostname": host}
        ) as response:
            if response.is_redirect:
                return response.status_code, b"", response.headers.get("location", "")
            return response.status_code, await self._bounded(response), None

    async def _bounded(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > self._reach.bytes_max:
                raise FetchError(f"the answer is larger than {self._reach.bytes_max} bytes")
        return bytes(body)

    async def _pin(self, url: str) -> tuple[str, str, str]:
        """(URL with a checked address in place of the host, host name, Host header). Raises FetchError."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if not host or parts.username is not None or parts.scheme not in ("https", "http"):
            raise FetchError("the URL must be https://host/path, without credentials")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = [ipaddress.ip_address(text.split("%")[0]) for text in await self._resolve(host, port)]
        except OSError as e:
            raise FetchError(f"host {host} cannot be resolved: {e.strerror or e}") from None
        if not found:
            raise FetchError(f"host {host} has no address")
        for address in found:
            self._check_address(host, address, parts.scheme)
        at = f"[{found[0]}]" if found[0].version == 6 else str(found[0])
        path = parts.path or "/"
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{at}:{port}{path}{query}", host, parts.netloc

    def _check_address(self, host: str, address: Address, scheme: str) -> None:
        address = _inner(address)
        if scheme == "http" and not address.is_loopback:
            raise FetchError("the URL must be https: what crosses the network in the clear can be replaced on the way")
        if not address.is_global and host not in self._private:
            raise FetchError(
                f"host {host} has a private address; if that is right, name it in the setting {self._reach.named_in}"
            )
        if address.is_multicast or address.is_unspecified or address.is_link_local or _nobodys(address):
            raise FetchError(f"host {host} has an address that no {self._reach.whose} can have")


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for: mapped (RFC 4291), translated (RFC 6052), 6to4 (RFC 3056)."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _nobodys(address: Address) -> bool:
    """Outside of what is given out: what stands there for an IPv4 address (`::127.0.0.1`, the local 64:ff9b:1::/48)
    leads who knows where."""
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return site_local or (address.is_reserved and not address.is_loopback)


class _Opened:
    """A client for one request; the library's errors as ours."""

    def __init__(self, tls: ssl.SSLContext, timeout_s: float) -> None:
        import httpx2  # here, because workers import this module and never fetch

        self._error = httpx2.HTTPError
        self._client = httpx2.AsyncClient(verify=tls, trust_env=False, timeout=timeout_s)

    async def __aenter__(self) -> httpx2.AsyncClient:
        return await self._client.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self._client.aclose()
        if error is not None and isinstance(error, self._error):
            raise FetchError(str(error) or type(error).__name__) from None


def decoded(body: bytes) -> object:
    """An answer's JSON. Raises FetchError."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FetchError("the answer is not JSON") from None
