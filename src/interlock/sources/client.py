"""The synchronous HTTP client that discovery uses: every answer bounded in time and size, every failure in words."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self

import httpx2
import msgspec

from interlock import __version__
from interlock.errors import UpstreamError, UpstreamTimeout
from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.requests import split_url
from interlock.sources.tls import make_context, reason
from interlock.types.clock import Clock
from interlock.types.source import Source


class Page(msgspec.Struct, frozen=True):
    """An answer: status, content type (without parameters), whole body."""

    status: int
    content_type: str
    body: bytes


class SourceClient:
    """A client to one source, to be used as a context manager. Not thread-safe; one look, one client.

    Raises ConfigError when the source's URLs are wrong and UpstreamError (`tls_configuration`, `credential_missing`)
    when its files cannot be used. Environment proxies are not consulted and redirects not followed: a source is where
    its URL says.
    """

    def __init__(self, source: Source, settings: Settings, credentials: CredentialStore, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._timeout_s = settings.discovery_timeout_ms / 1000
        self._bytes_max = settings.probe_bytes_max
        scheme, _, _, _ = split_url(source.base_url, "base_url")
        self._base = source.base_url.rstrip("/")
        headers = {"user-agent": f"interlock/{__version__}", "accept": "application/json"}
        headers["accept-encoding"] = "identity"
        line = credentials.header(source)
        if line:
            name, _, value = line.decode("latin-1").rstrip("\r\n").partition(": ")
            headers[name] = value
        self._http = httpx2.Client(
            verify=make_context(source.tls) if scheme == "https" else _unused_context(),
            proxy=_proxy(source, credentials),
            headers=headers,
            timeout=self._timeout_s,
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, *, api: bool = True) -> Page:
        """GET below the API prefix, or beside it. Raises UpstreamError or UpstreamTimeout in words."""
        return self._request("GET", path, api)

    def post_empty(self, path: str) -> Page:
        """POST an empty JSON object below the API prefix: asks whether an endpoint exists, without making it work."""
        return self._request("POST", path, True)

    def _request(self, method: str, path: str, api: bool) -> Page:
        url = f"{self._base}{self._source.api_prefix if api else ''}{path}"
        who = f"source {self._source.name!r}"
        deadline_ns = self._clock.mono_ns() + int(self._timeout_s * 1e9)
        timed_out = f"{who} did not answer {path} within {self._timeout_s:g} s"
        body = bytearray()
        json: dict[str, str] | None = {} if method == "POST" else None
        try:
            with self._http.stream(method, url, json=json) as answer:
                for piece in answer.iter_raw():
                    body += piece
                    if len(body) > self._bytes_max:
                        raise UpstreamError(f"{who} answered {path} with more than {self._bytes_max} bytes")
                    if self._clock.mono_ns() > deadline_ns:
                        raise UpstreamTimeout(timed_out, code="discovery_timeout")
                kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                return Page(answer.status_code, kind, bytes(body))
        except httpx2.TimeoutException:
            raise UpstreamTimeout(timed_out, code="discovery_timeout") from None
        except httpx2.ProxyError as e:
            raise UpstreamError(f"the egress proxy of {who} refused the tunnel: {e}", code="proxy_failed") from None
        except httpx2.TransportError as e:
            raise _unreachable(who, e) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as e:
            raise UpstreamError(f"{who} could not be asked for {path}: {e}", code="connect_failed") from None


def _unused_context() -> ssl.SSLContext:
    # loading the system's authorities takes 20 ms, and plain HTTP needs none
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _proxy(source: Source, credentials: CredentialStore) -> httpx2.Proxy | None:
    if not source.egress_proxy:
        return None
    scheme, _, _, _ = split_url(source.egress_proxy, "egress_proxy")
    headers = {}
    if source.egress_proxy_credential is not None:
        headers["Proxy-Authorization"] = credentials.proxy_authorization(source).decode("ascii")
    context = make_context(None) if scheme == "https" else None
    return httpx2.Proxy(source.egress_proxy, headers=headers, ssl_context=context)


def _unreachable(who: str, error: Exception) -> UpstreamError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return UpstreamError(f"{who}: TLS failed: {reason(cause)}", code="tls_failed")
        cause = cause.__cause__ or cause.__context__
    text = str(error).lower()
    if "refused" in text:
        words = f"{who} refused the connection: is it running, and is the port right?"
        return UpstreamError(words, code="connect_failed")
    if "name" in text and ("resol" in text or "known" in text or "service" in text):
        return UpstreamError(f"{who}: its host name cannot be resolved", code="name_not_resolved")
    return UpstreamError(f"{who} could not be asked: {error or type(error).__name__}", code="connect_failed")
