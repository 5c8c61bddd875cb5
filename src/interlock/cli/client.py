"""The admin API as the command line sees it: one request, one answer, errors of interlock.errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from interlock.errors import ConfigError, InterlockError, Unavailable
from interlock.settings import Settings
from interlock.sources.tls import reason

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
TIMEOUT_S = 120
ANSWER_BYTES_MAX = 256_000_000


class Refused(InterlockError):
    """The admin API refused; its words are ours. `details`: every fault of a document."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", "")), code=str(error.get("code", "")), param=error.get("param"))
        self.status = status
        self.details = [str(line) for line in error.get("details") or ()]


class AdminClient:
    """Requests to /admin/v1 of one control process. `tls`: how its certificate is checked, else by the system's CAs."""

    def __init__(self, url: str, key: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not the URL of an admin API, such as http://127.0.0.1:8081", param="url")
        self._url = url
        self._parts = parts
        self._key = key
        self._tls = tls

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        reason: str = "",
        why: str = "",
        query: dict[str, object] | None = None,
        revision: int | None = None,
    ) -> Any:
        """The answer's JSON. `reason` goes in the body, `why` is the reason of a request without one; `revision`: of
        the thing as it was read, where it may not have changed since.

        Raises Refused for an error of the API, Unavailable when it cannot be reached.
        """
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        if why:
            headers["x-interlock-reason"] = why
        if revision is not None:
            headers["if-match"] = f'"{revision}"'
        data: dict[str, Any] | None = None
        if body is not None or reason:
            data = dict(body) if isinstance(body, dict) else {}
            if reason:
                data["reason"] = reason
        target = f"{self._parts.path.rstrip('/')}/admin/v1{path}"
        if query:
            target += "?" + urlencode({k: v for k, v in query.items() if v not in ("", None)})
        body_bytes = None if data is None else json.dumps(data).encode()
        with self._response(method, target, body_bytes, headers) as response:
            status, raw = response.status, response.read(ANSWER_BYTES_MAX)
        return self._answer(status, raw)

    def _answer(self, status: int, raw: bytes) -> Any:
        try:
            answer = json.loads(raw)
        except ValueError:
            raise Unavailable(f"{self._url} answered {status} and no JSON: is it an Interlock admin API?") from None
        if status >= 400:
            error = answer.get("error") if isinstance(answer, dict) else None
            raise Refused(status, error if isinstance(error, dict) else {"message": f"status {status}"})
        return answer

    def lines(self, path: str, *, reason: str, query: dict[str, object]) -> Iterator[Any]:
        """The JSON values of an answer of many lines, as they come. Raises as `call`."""
        headers = {"authorization": f"Bearer {self._key}", "x-interlock-reason": reason}
        target = f"{self._parts.path.rstrip('/')}/admin/v1{path}?{urlencode(query)}"
        with self._response("GET", target, None, headers) as response:
            if response.status >= 400:
                self._answer(response.status, response.read(ANSWER_BYTES_MAX))
            for line in response:
                yield json.loads(line)

    def pages(self, path: str) -> list[dict[str, Any]]:
        """Every row of a listing."""
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.call("GET", path, query={"after": after, "limit": 500})
            rows += page["items"]
            if not page["next"]:
                return rows
            after = str(page["next"])

    @contextlib.contextmanager
    def _response(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        host, port = self._parts.hostname or "", self._parts.port
        connection: http.client.HTTPConnection
        if self._parts.scheme == "https":
            context = self._tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, body=body, headers=headers)
            with connection.getresponse() as response:
                yield response
        except ssl.SSLCertVerificationError as e:
            raise Unavailable(
                f"the certificate of the admin API at {self._url} is not trusted ({e.verify_message.rstrip('.')});"
                " --ca FILE or the setting control_ca_file names the CA that issued it",
                code="untrusted_certificate",
            ) from None
        except (OSError, http.client.HTTPException) as e:
            words = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise Unavailable(
                f"the admin API at {self._url} cannot be reached ({words}); is `interlock up` or"
                " `interlock control` running? --url or INTERLOCK_CONTROL_URL names another one"
            ) from None
        finally:
            connection.close()


def connect(settings: Settings, url: str = "", ca: str = "") -> AdminClient:
    """The client for `url`, else INTERLOCK_CONTROL_URL, else where this home's control process listens.

    The key is INTERLOCK_ADMIN_KEY, else `secrets/admin_key` of the home. Certificates are checked with the CA bundle
    `ca`; else this home's own process is known by the very certificate it was given, and any other by the setting
    `control_ca_file` or the system's CAs. Raises ConfigError when there is no key, or for a file that cannot be used.
    """
    chosen = url or os.environ.get("INTERLOCK_CONTROL_URL", "")
    if chosen or ca or not settings.control_tls_cert_file:
        bundle = ca or settings.control_ca_file
        tls = _trusting(bundle) if bundle else None
    else:
        tls = own_tls(settings)
    return AdminClient(chosen or _written(settings) or _default(settings), _key(settings), tls)


def own_tls(settings: Settings) -> ssl.SSLContext | None:
    """How this home's own admin API is known, None when it has no certificate. Raises ConfigError."""
    return pinned(settings.control_tls_cert_file) if settings.control_tls_cert_file else None


def pinned(file: str) -> ssl.SSLContext:
    """Trusts exactly the first certificate of a chain: a server of our own, which this machine reaches under another
    name than others do. Raises ConfigError."""
    try:
        text = Path(file).read_text()
        first = text[text.index(_BEGIN) : text.index(_END) + len(_END)]
        context = ssl.create_default_context(cadata=first)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{file}: cannot be used as certificate: {reason(e)}", param=file) from None
    # the chain's other certificates are not loaded: with no name to check, they would vouch for anybody of that CA
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _trusting(bundle: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=bundle)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{bundle}: cannot be used as CA bundle: {reason(e)}", param=bundle) from None


def _written(settings: Settings) -> str:
    try:
        return settings.home_path("run", "control.url").read_text().strip()
    except OSError:
        return ""


def _default(settings: Settings) -> str:
    host = settings.control_host
    scheme = "https" if settings.control_tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.control_port}"


def _key(settings: Settings) -> str:
    key = os.environ.get("INTERLOCK_ADMIN_KEY", "").strip()
    if key:
        return key
    path = settings.home_path("secrets", "admin_key")
    try:
        return path.read_text().strip()
    except OSError as e:
        raise ConfigError(
            f"no admin key: INTERLOCK_ADMIN_KEY is not set, and {path} cannot be read ({e.strerror})", param=str(path)
        ) from None
