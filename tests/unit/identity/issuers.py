"""A real issuer: keys, tokens, and an HTTP server that publishes the key set."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwk, jwt
from joserfc.jws import JWSRegistry

from interlock.testing.clock import START_NS
from interlock.types.identity import Issuer

NOW_S = START_NS // 1_000_000_000
NAME = "https://id.example/realms/acme"
AUDIENCE = "interlock"

RSA = jwk.generate_key("RSA", 2048, {"kid": "rsa-1", "use": "sig"})
RSA_2 = jwk.generate_key("RSA", 2048, {"kid": "rsa-2", "use": "sig"})
EC = jwk.generate_key("EC", "P-256", {"kid": "ec-1"})
EC_384 = jwk.generate_key("EC", "P-384", {"kid": "ec-384"})
ED = jwk.generate_key("OKP", "Ed25519", {"kid": "ed-1"})


def public(*keys: jwk.Key) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


def issuer(**changes: Any) -> Issuer:
    fields: dict[str, Any] = {
        "id": "iss_1",
        "tenant_id": "ten_acme",
        "issuer": NAME,
        "audience": AUDIENCE,
        "jwks_url": "https://id.example/jwks",
        "algorithms": ("RS256", "PS256", "ES256", "ES384", "Ed25519", "EdDSA"),
        "group_teams": {"grp-research": "team_research", "grp-ops": "team_ops"},
    }
    return Issuer(**{**fields, **changes})


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good token; a change to None removes the claim."""
    fields = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": NOW_S + 600, "iat": NOW_S, "jti": "j1", **changes}
    return {name: value for name, value in fields.items() if value is not None}


def token(key: jwk.Key = RSA, alg: str = "RS256", header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    head = {"alg": alg, "kid": key.kid, **(header or {})}
    kept = {name: value for name, value in head.items() if value is not None}
    registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jwt.encode(kept, claims(**changes), key, registry=registry)


class Published:
    """What the server answers next, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.paths: list[str] = []
        self.hosts: list[str] = []
        self.hang = threading.Event()
        self.hang.set()
        self.port = 0

    def publish(self, *keys: jwk.Key) -> None:
        self.body = json.dumps(public(*keys)).encode()


class Server(ThreadingHTTPServer):
    """Does not print that a client went away: some tests are about clients that do."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Published]:
    """A key set server on a free loopback port."""
    published = Published()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.paths.append(self.path)
            published.hosts.append(self.headers.get("host", ""))
            published.hang.wait(5)
            moved = self.path == "/moved"
            self.send_response(302 if moved else published.status)
            for name, value in published.headers.items():
                self.send_header(name, value)
            body = b"" if moved else published.body
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Answer)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    published.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield published
    finally:
        published.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()
