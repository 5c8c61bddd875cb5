"""Webhooks: one signed POST (Standard Webhooks 1.0, symmetric), to an address that is treated as hostile."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
from urllib.parse import urlsplit

from interlock.errors import BadRequest, DeliveryError
from interlock.identity.fetch import FetchError, Reach, Resolve, SafeClient, resolve
from interlock.settings import Settings

URL_CHARS_MAX = 2048
SECRET_BYTES_MIN = 24
"""Least length of a signing secret, by the specification."""
_PREFIX = "whsec_"
_URL = re.compile(r"[!-~]+")
"""Printable ASCII without spaces: nothing that could end a line of a request."""


def check_url(url: str, settings: Settings) -> None:
    """Whether a channel may have this URL; where it leads is looked at with each delivery. Raises BadRequest."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BadRequest("url: this is no URL", param="url") from None
    if len(url) > URL_CHARS_MAX or not _URL.fullmatch(url) or not host or parts.fragment:
        raise BadRequest(
            f"url: https://host/path in printable ASCII, at most {URL_CHARS_MAX} characters, without a fragment",
            param="url",
        )
    if parts.username is not None:
        raise BadRequest("url: no user name or password in it; the signature proves who sends", param="url")
    private = {each.strip().lower() for each in settings.alerts_hosts_private.split(",")}
    if parts.scheme != "https" and not (parts.scheme == "http" and host.lower() in private):
        raise BadRequest("url: must be https (http: for loopback hosts named in alerts_hosts_private)", param="url")


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: what is behind `whsec_` as base64, anything else as it is written.

    Raises DeliveryError when it is too short to sign with.
    """
    key = secret.encode()
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise DeliveryError("the signing secret begins with whsec_ and is not base64 behind it") from None
    if len(key) < SECRET_BYTES_MIN:
        raise DeliveryError(f"the signing secret has fewer than {SECRET_BYTES_MIN} bytes")
    return key


def headers(event_id: str, at_s: int, body: bytes, secret: str) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` (Unix seconds of this attempt) and `webhook-signature`: HMAC-SHA256 over
    `id.timestamp.body` (Standard Webhooks, "Signature scheme"). Raises DeliveryError."""
    signed = b"%b.%d.%b" % (event_id.encode(), at_s, body)
    mac = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "interlock",
        "webhook-id": event_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def reach(settings: Settings) -> Reach:
    """Where webhooks may go."""
    return Reach(
        settings.alerts_hosts_private,
        "alerts_hosts_private",
        "webhook",
        settings.alerts_ca_file,
        settings.alerts_timeout_ms,
        settings.alerts_answer_bytes_max,
    )


class Webhooks:
    """Sends within `alerts_timeout_ms`; redirects are not followed."""

    def __init__(self, settings: Settings, resolver: Resolve = resolve) -> None:
        self._client = SafeClient(settings, resolver, reach(settings))
        self._timeout_s = settings.alerts_timeout_ms / 1000

    def post(self, url: str, body: bytes, sent: dict[str, str]) -> None:
        """Raises DeliveryError unless the answer has a status of 200 to 299."""
        try:
            status, _ = asyncio.run(self._within(url, body, sent))
        except TimeoutError:
            raise DeliveryError(f"it did not answer within {self._timeout_s:g} s") from None
        except (FetchError, OSError, ValueError) as e:
            raise DeliveryError(e.message if isinstance(e, FetchError) else str(e) or type(e).__name__) from None
        if not 200 <= status < 300:
            raise DeliveryError(f"the answer has status {status}")

    async def _within(self, url: str, body: bytes, sent: dict[str, str]) -> tuple[int, bytes]:
        async with asyncio.timeout(self._timeout_s):
            return await self._client.post(url, body, sent)
