"""Signing people in at an OpenID provider: the authorization code flow with PKCE, as its client.

Discovery (OpenID Connect Discovery 1.0), authorization request and code exchange (RFC 6749, RFC 7636 with S256), the
`iss` parameter (RFC 9207), and what an ID token must say besides being signed (OpenID Connect Core, section 3.1.3.7).
Signing out there (OpenID Connect RP-Initiated Logout 1.0).
Signature, issuer, audience and times are checked by `interlock.identity.tokens`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

from interlock.errors import InterlockError
from interlock.identity.fetch import FetchError, SafeClient, decoded
from interlock.settings import Settings
from interlock.types.clock import Clock
from interlock.types.identity import SignIn

DISCOVERY = "/.well-known/openid-configuration"
PROVIDERS_KEPT = 64
PROVIDER_NS = 300_000_000_000
"""How long a discovery document is believed."""
HINT_CHARS_MAX = 6000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class SignInRefused(InterlockError):
    """A sign-in at a provider that does not hold; the message says why, and is for whoever signs in."""

    code, status, level = "sign_in_refused", 401, logging.WARNING


class Provider(NamedTuple):
    """What of a provider's discovery document is used. `names_itself`: its answers carry `iss` (RFC 9207). `basic`: the
    client's secret goes into the Authorization header, otherwise into the form."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    names_itself: bool
    basic: bool
    end_session_endpoint: str = ""
    """"": it has none that can be used."""


class Providers:
    """What is known of providers, for PROVIDER_S at a time. Threads may share one."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._client = SafeClient(settings)
        self._timeout_s = settings.jwks_timeout_ms / 1000
        self._clock = clock
        self._known: dict[str, tuple[int, Provider]] = {}

    def find(self, issuer: str) -> Provider:
        """As its discovery document says. Raises FetchError."""
        now = self._clock.mono_ns()
        until, provider = self._known.get(issuer, (0, None))
        if provider is None or now >= until:
            provider = asyncio.run(discover(self._client, issuer, self._timeout_s))
            if len(self._known) >= PROVIDERS_KEPT:
                self._known.clear()
            self._known[issuer] = (now + PROVIDER_NS, provider)
        return provider

    def redeem(
        self, provider: Provider, login: SignIn, *, secret: str, code: str, redirect_uri: str, verifier: str
    ) -> str:
        """The ID token for a code, not verified. `secret` "": a public client. Raises SignInRefused, FetchError."""
        return asyncio.run(
            exchange(
                self._client,
                provider,
                login,
                secret=secret,
                code=code,
                redirect_uri=redirect_uri,
                verifier=verifier,
                timeout_s=self._timeout_s,
            )
        )


async def discover(client: SafeClient, issuer: str, timeout_s: float) -> Provider:
    """Ask a provider where to send people and codes. Raises FetchError when it does not say, or says it of another."""
    found = decoded(await _within(client.get(issuer.rstrip("/") + DISCOVERY), timeout_s))
    if not isinstance(found, dict) or found.get("issuer") != issuer:
        raise FetchError("the discovery document is of another issuer")
    methods = found.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        raise FetchError("the provider does not support PKCE with S256")
    ways = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Provider(
        issuer,
        _endpoint(found, "authorization_endpoint"),
        _endpoint(found, "token_endpoint"),
        found.get("authorization_response_iss_parameter_supported") is True,
        isinstance(ways, list) and ("client_secret_basic" in ways or "client_secret_post" not in ways),
        _optional(found, "end_session_endpoint"),
    )


def authorization_url(
    provider: Provider, login: SignIn, *, redirect_uri: str, state: str, nonce: str, verifier: str
) -> str:
    """Where the browser is sent."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": login.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(login.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    before = "&" if urlsplit(provider.authorization_endpoint).query else "?"
    return provider.authorization_endpoint + before + urlencode(asked)


def end_session_url(provider: Provider, login: SignIn, *, id_token: str, redirect_uri: str, state: str) -> str:
    """Where the browser is sent to sign out there (section 2). `id_token` "": none was kept. A long one is left out:
    addresses are bounded, and `client_id` names the client as well."""
    asked = {"client_id": login.client_id, "post_logout_redirect_uri": redirect_uri, "state": state}
    if id_token and len(id_token) <= HINT_CHARS_MAX:
        asked = {"id_token_hint": id_token, **asked}
    before = "&" if urlsplit(provider.end_session_endpoint).query else "?"
    return provider.end_session_endpoint + before + urlencode(asked)


def code_of(provider: Provider, answer: Mapping[str, str]) -> str:
    """The code of what the browser brought back. Raises SignInRefused for an error, or another provider's answer."""
    named = answer.get("iss")
    if named is None and provider.names_itself:
        raise SignInRefused("The answer does not say which provider it is of.")
    if named is not None and named != provider.issuer:
        raise SignInRefused("The answer is of another provider than the one you were sent to.")
    if answer.get("error") == "access_denied":
        raise SignInRefused("The sign-in was cancelled, or the identity provider does not let you in.")
    if answer.get("error") or not answer.get("code"):
        raise SignInRefused("The identity provider could not sign you in.")
    return answer["code"]


async def exchange(
    client: SafeClient,
    provider: Provider,
    login: SignIn,
    *,
    secret: str,
    code: str,
    redirect_uri: str,
    verifier: str,
    timeout_s: float,
) -> str:
    """The ID token for a code, not verified. `secret` "": a public client. Raises SignInRefused, FetchError."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": login.client_id,
        "code_verifier": verifier,
    }
    headers = {"content-type": "application/x-www-form-urlencoded"}
    if secret and provider.basic:
        pair = f"{quote_plus(login.client_id)}:{quote_plus(secret)}"  # RFC 6749, section 2.3.1
        headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    elif secret:
        form["client_secret"] = secret
    posted = client.post(provider.token_endpoint, urlencode(form).encode(), headers)
    status, body = await _within(posted, timeout_s)
    answer = decoded(body) if status in (200, 400, 401) else None
    if status != 200 or not isinstance(answer, dict) or not isinstance(answer.get("id_token"), str):
        raise SignInRefused("The identity provider did not take the code that you brought from it.")
    return str(answer["id_token"])


def check_id_token(claims: Mapping[str, Any], login: SignIn, nonce: str) -> None:
    """What a verified ID token must say: that it is for this sign-in and this client. Raises SignInRefused."""
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise SignInRefused("The identity provider's answer is of another sign-in.")
    audience, party = claims.get("aud"), claims.get("azp")
    several = isinstance(audience, list) and len(audience) > 1
    if party != login.client_id and (several or party is not None):
        raise SignInRefused("The identity provider's answer is for another application.")
    if "act" in claims:
        raise SignInRefused("Somebody who acts for another does not sign in.")


async def _within(waited: Awaitable[_T], timeout_s: float) -> _T:
    try:
        async with asyncio.timeout(timeout_s):
            return await waited
    except TimeoutError:
        raise FetchError(f"no answer within {timeout_s:g} s") from None


def _optional(found: Mapping[str, Any], name: str) -> str:
    """An endpoint that need not be there; one that cannot be used counts as none."""
    if found.get(name) is None:
        return ""
    try:
        return _endpoint(found, name)
    except FetchError as error:
        logger.warning("%s of issuer %s: %s", name, found.get("issuer"), error.message)
        return ""


def _endpoint(found: Mapping[str, Any], name: str) -> str:
    url = found.get(name)
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise FetchError(f"the discovery document has no usable {name}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise FetchError(f"{name} is no URL") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not secure or not parts.hostname or parts.username is not None or parts.fragment:
        raise FetchError(f"{name} must be https://host/path")
    return url
