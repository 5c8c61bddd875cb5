"""The head of a request to a source, from a prefix that is made once per source and path."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from urllib.parse import urlsplit

from interlock import __version__
from interlock.errors import ConfigError, UpstreamError
from interlock.types.source import Source

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CR, _LF, _NUL = b"\r\n\0"


def split_url(url: str, what: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path without a trailing slash) of a source's or proxy's URL. Raises ConfigError naming
    `what` when it is not an http(s) URL, or holds user information (credentials are given by reference), a query or a
    fragment."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        host = host.encode("idna").decode("ascii") if host and not host.isascii() else host
    except (ValueError, UnicodeError):
        raise ConfigError(f"{what}: {url!r} is not a valid URL", param=what) from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ConfigError(f"{what}: {url!r} is not an http:// or https:// URL", param=what)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{what}: credentials do not belong into a URL; give a reference to them", param=what)
    if parts.query or parts.fragment:
        raise ConfigError(f"{what}: {url!r} must not have a query or a fragment", param=what)
    if any(c <= " " or c == "\x7f" or not c.isascii() for c in parts.path):
        raise ConfigError(f"{what}: {url!r} has a path that must be percent-encoded", param=what)
    return parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/")


def host_header(scheme: str, host: str, port: int) -> str:
    """The Host value (RFC 9112 section 3.2): the port only when it is not the scheme's own."""
    name = f"[{host}]" if ":" in host else host
    return name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"


@functools.lru_cache(maxsize=8192)
def _prefix(method: str, base_url: str, api_prefix: str, path: str) -> bytes:
    scheme, host, port, base = split_url(base_url, "base_url")
    return (
        f"{method} {base}{api_prefix}{path} HTTP/1.1\r\n"
        f"host: {host_header(scheme, host, port)}\r\n"
        f"user-agent: interlock/{__version__}\r\n"
        "accept: application/json, text/event-stream\r\n"
        + ("content-type: application/json\r\ncontent-length: " if method == "POST" else "")
    ).encode("ascii")


def build_head(
    source: Source,
    path: str,
    content_length: int,
    credential_header: bytes = b"",
    extra_headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """The head of a POST with a JSON body of `content_length` bytes, blank line included.

    `path` comes after the source's API prefix ("/chat/completions"). `credential_header` is a whole line from
    `CredentialStore.header`. Raises UpstreamError (`invalid_header`) when `extra_headers` would break the head.
    """
    lines = credential_header
    for pair in extra_headers:
        line = b"%b: %b" % pair
        # A value with a line break would start a header, or a request, of its own. (As numbers: seven times as fast.)
        if _CR in line or _LF in line or _NUL in line:
            raise UpstreamError("a header value holds a line break or NUL", code="invalid_header")
        lines = b"%b%b\r\n" % (lines, line)
    return b"%b%d\r\n%b\r\n" % (_prefix("POST", source.base_url, source.api_prefix, path), content_length, lines)


def build_get(source: Source, path: str, credential_header: bytes = b"", *, api: bool = True) -> bytes:
    """A whole GET request. `api=False` asks beside the API prefix (`/metrics`, `/health`, `/version`)."""
    prefix = _prefix("GET", source.base_url, source.api_prefix if api else "", path)
    return b"%b%b\r\n" % (prefix, credential_header)
