"""An OpenID provider on a loopback port: discovery, authorization code flow with PKCE, key set (OpenID Connect Core).

It checks what a provider must: registered clients and their redirect addresses, client secrets, each code once, for its
client, its redirect address and its PKCE verifier (S256). What it gets wrong is what a test asks for.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwk

from tests.unit.identity.issuers import RSA, Server, public, token


class Provider:
    """Clients are registered by the tests. `claims`: laid over those of the next ID tokens; None removes one."""

    def __init__(self) -> None:
        self.port = 0
        self.clients: dict[str, str] = {}
        """Client id to secret; "" for a public client."""
        self.redirects: set[str] = set()
        self.groups: dict[str, list[str]] = {"alice": ["grp-admins"], "mallory": []}
        self.claims: dict[str, Any] = {}
        self.unsigned = False
        self.key: jwk.Key = RSA
        self.iss: str | None = None
        """What its answers say for `iss`; None: its own name, "": nothing."""
        self.after_logout: set[str] = set()
        """Where browsers may be sent when they have signed out (`post_logout_redirect_uris`)."""
        self.ended: list[dict[str, str]] = []
        """What was asked of the end_session_endpoint."""
        self.document: dict[str, Any] = {}
        """Laid over the discovery document."""
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        """How clients proved themselves at the token endpoint."""

    @property
    def name(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """Right again in everything."""
        self.claims, self.unsigned, self.iss, self.key = {}, False, None, RSA

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.name,
            "authorization_endpoint": f"{self.name}/authorize",
            "token_endpoint": f"{self.name}/token",
            "jwks_uri": f"{self.name}/jwks",
            "end_session_endpoint": f"{self.name}/end-session",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
            "authorization_response_iss_parameter_supported": True,
            **self.document,
        }

    def wrong(self, asked: dict[str, str]) -> str:
        """Why an authorization request is not shown to anybody; "" when it is right."""
        if asked.get("client_id") not in self.clients or asked.get("redirect_uri") not in self.redirects:
            return "unknown client or redirect_uri"
        if asked.get("response_type") != "code" or "openid" not in asked.get("scope", "").split():
            return "not an OpenID request for a code"
        if asked.get("code_challenge_method") != "S256" or len(asked.get("code_challenge", "")) != 43:
            return "no PKCE"
        return ""

    def answer(self, asked: dict[str, str], user: str) -> str:
        """Where the browser of `user` goes, who agreed; "" for nobody, who did not."""
        given = {"state": asked.get("state", "")}
        if user:
            code = secrets.token_urlsafe(16)
            self.codes[code] = {**asked, "user": user}
            given["code"] = code
        else:
            given["error"] = "access_denied"
        iss = self.name if self.iss is None else self.iss
        if iss:
            given["iss"] = iss
        return asked["redirect_uri"] + "?" + urlencode(given)

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The token endpoint."""
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        way = "post" if secret else "none"
        if authorization.startswith("Basic "):
            pair = base64.b64decode(authorization[6:]).decode()
            client, secret = (unquote_plus(part) for part in pair.split(":", 1))
            way = "basic"
        self.asked.append(way)
        if self.clients.get(client) != secret:
            return 401, {"error": "invalid_client"}
        kept = self.codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            kept is None
            or kept["client_id"] != client
            or kept["redirect_uri"] != form.get("redirect_uri")
            or kept["code_challenge"] != challenge.rstrip(b"=").decode()
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {"id_token": self.id_token(client, kept), "access_token": "x", "token_type": "Bearer"}

    def id_token(self, client: str, kept: dict[str, str]) -> str:
        now, user = int(time.time()), kept["user"]
        claims: dict[str, Any] = {
            "iss": self.name, "aud": client, "sub": user, "groups": self.groups[user], "nonce": kept.get("nonce"),
            "iat": now, "exp": now + 300, "jti": None, **self.claims,
        }  # fmt: skip
        if self.unsigned:
            head = {"alg": "none", "typ": "JWT"}
            parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims))
            return b".".join((*parts, b"")).decode()
        return token(self.key, **claims)


@contextmanager
def provider() -> Iterator[Provider]:
    """A running provider."""
    made = Provider()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self.say(200, json.dumps(made.discovery()), "application/json")
            elif parts.path == "/jwks":
                self.say(200, json.dumps(public(RSA)), "application/json")
            elif parts.path == "/authorize":
                wrong = made.wrong(asked)
                self.say(400 if wrong else 200, wrong or self.choices(parts.query), "text/html")
            elif parts.path == "/end-session":
                made.ended.append(asked)
                to = asked.get("post_logout_redirect_uri", "")
                if to not in made.after_logout or asked.get("client_id") not in made.clients:
                    self.say(200, "<!doctype html><title>Signed out</title>Signed out.", "text/html")
                    return
                self.send_response(302)
                self.send_header("location", f"{to}?{urlencode({'state': asked.get('state', '')})}")
                self.send_header("content-length", "0")
                self.end_headers()
            elif parts.path == "/consent" and not made.wrong(asked):
                self.send_response(302)
                self.send_header("location", made.answer(asked, asked.get("user", "")))
                self.send_header("content-length", "0")
                self.end_headers()
            else:
                self.say(404, "", "text/plain")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[-1] for name, values in parse_qs(body).items()}
            status, said = made.redeem(form, self.headers.get("authorization", ""))
            self.say(status, json.dumps(said), "application/json")

        def choices(self, query: str) -> str:
            links = [
                f'<p><a href="/consent?{html.escape(query)}&amp;user={user}">Continue as {user}</a>'
                for user in made.groups
            ]
            links.append(f'<p><a href="/consent?{html.escape(query)}">Cancel</a>')
            return "<!doctype html><title>Provider</title><link rel=icon href='data:,'>" + "".join(links)

        def say(self, status: int, text: str, kind: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Answer)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
