"""Key sets are fetched from a real server, bounded, checked, and handed over as files."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwk

from interlock.errors import ConfigError, Unavailable
from interlock.identity.fetch import Resolve
from interlock.identity.jwks import JwksFetcher, KeyStore, file_of, public_keys
from interlock.identity.tokens import TokenVerifier
from interlock.settings import Settings
from interlock.testing.clock import FakeClock
from interlock.types.clock import SystemClock
from tests.unit.identity.issuers import EC, ED, RSA, RSA_2, Published, issuer, public, serving, token

HOSTS = "localhost,127.0.0.1,id.test"


async def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


class Node:
    """A fetcher over one issuer at a local server, and a worker's view of the same folder."""

    def __init__(self, folder: Path, url: str, resolver: Resolve = loopback, **settings: Any) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.settings = Settings(**{"jwks_hosts_private": HOSTS, **settings})
        self.tries: list[bool] = []
        self.fetcher = JwksFetcher(folder, self.settings, self.clock, resolver=resolver, on_fetch=self.tries.append)
        self.issuer = issuer(jwks_url=url)
        self.fetcher.update([self.issuer])
        self.store = KeyStore(folder, self.settings, self.clock, self.fetcher.request)

    def fetch(self) -> str:
        """One round. The error, or ""."""
        asyncio.run(self.fetcher.fetch_due())
        return self.fetcher.status()[0].error

    def kids(self) -> list[str | None]:
        self.clock.advance(s=1)
        ring = self.store.ring("iss_1")
        return [key.kid for key in ring.keys] if ring else []


def url_of(server: Published, path: str = "/jwks", host: str = "localhost") -> str:
    return f"http://{host}:{server.port}{path}"


def test_keys_are_fetched_and_reach_the_workers(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA, EC)
        node = Node(tmp_path, url_of(server))
        assert node.kids() == []
        assert node.fetch() == ""
        assert node.kids() == ["rsa-1", "ec-1"]
        assert node.tries == [True]
        assert server.hosts == [f"localhost:{server.port}"]
        file = file_of(tmp_path, "iss_1")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [p.name for p in tmp_path.iterdir()] == ["iss_1.json"]


def test_they_are_fetched_on_schedule_and_not_before(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server), jwks_refresh_s=300)
        node.fetch()
        node.clock.advance(s=299)
        node.fetch()
        assert len(server.paths) == 1
        server.publish(RSA_2)
        node.clock.advance(s=1)
        node.fetch()
        assert (len(server.paths), node.kids()) == (2, ["rsa-2"])


def test_a_request_is_served_at_once_but_not_too_often(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server), jwks_refetch_min_s=10)
        node.fetch()
        for _ in range(50):
            node.fetcher.request("iss_1")
            node.fetch()
        assert len(server.paths) == 1
        node.clock.advance(s=10)
        node.fetcher.request("iss_1")
        node.fetcher.request("nobody")
        node.fetch()
        assert len(server.paths) == 2


def test_a_rotation_end_to_end(tmp_path: Path) -> None:
    """A token of a new key is answered 'try again', causes one fetch, and is then good."""
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server))
        verifier = TokenVerifier([node.issuer], node.store, node.settings, node.clock)
        with pytest.raises(Unavailable):
            verifier.verify(token())
        node.fetch()
        node.clock.advance(s=11)
        assert verifier.verify(token()).principal.name == "alice"
        server.publish(RSA_2, RSA)
        with pytest.raises(Unavailable) as e:
            verifier.verify(token(RSA_2))
        assert e.value.code == "issuer_keys_refreshing"
        node.fetch()
        node.clock.advance(s=1)
        assert verifier.verify(token(RSA_2)).principal.name == "alice"
        assert len(server.paths) == 2


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, b"", "status 500"),
        (404, b"{}", "status 404"),
        (200, b"<html>", "not JSON"),
        (200, b'"\xff"', "not JSON"),
        (200, b"[" * 100_000, "not JSON"),
        (200, b"[]", "no list `keys`"),
        (200, b'{"keys": {}}', "no list `keys`"),
        (200, b'{"keys": []}', "no usable signature key"),
        (200, b'{"keys": [7, null, {"kty": "RSA"}]}', "no usable signature key"),
        (200, b" " * 300_000, "larger than 262144 bytes"),
        (200, json.dumps({"keys": [{}] * 65}).encode(), "more than 64 keys"),
        (200, gzip.compress(b" " * 1000, mtime=0), "not JSON"),
    ],
)
def test_a_bad_answer_keeps_the_good_keys(tmp_path: Path, status: int, body: bytes, says: str) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server))
        node.fetch()
        server.status, server.body = status, body
        node.clock.advance(s=300)
        assert says in node.fetch()
        assert node.kids() == ["rsa-1"]
        assert node.tries == [True, False]
        server.status = 200
        server.publish(EC)
        node.clock.advance(s=10)
        assert (node.fetch(), node.kids()) == ("", ["ec-1"])


def test_old_keys_are_dropped_in_the_end(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server), jwks_age_max_s=3600)
        node.fetch()
        server.status = 500
        node.clock.advance(s=3500)
        node.fetch()
        assert node.kids() == ["rsa-1"]
        node.clock.advance(s=100)
        assert node.kids() == []


def test_a_server_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        server.hang.clear()
        node = Node(tmp_path, url_of(server), jwks_timeout_ms=100)
        assert node.fetch() == "no answer within 100 ms" or "timeout" in node.fetcher.status()[0].error.lower()


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with serving() as server:
        url = url_of(server)
    assert "connect" in Node(tmp_path, url).fetch().lower()


def test_a_restart_needs_no_issuer(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        Node(tmp_path, url_of(server)).fetch()
        url = url_of(server)
    again = Node(tmp_path, url)
    assert (again.kids(), again.fetcher.status()[0].keys) == (["rsa-1"], 1)


def test_issuers_that_are_gone_lose_their_files(tmp_path: Path) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server))
        node.fetch()
        (tmp_path / ".iss_9.json.123").write_bytes(b"torn")
        node.fetcher.update([])
        assert list(tmp_path.iterdir()) == []
        assert node.kids() == []


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server))
        node.fetch()
        assert node.kids() == ["rsa-1"]
        file_of(tmp_path, "iss_1").write_bytes(b'{"issuer_id": \xff')
        assert node.kids() == ["rsa-1"]
        assert "cannot be read" in caplog.text


# -- where keys may come from


@pytest.mark.parametrize(
    ("url", "address", "says"),
    [
        ("https://id.example/jwks", "10.0.0.7", "private address"),
        ("https://id.example/jwks", "127.0.0.1", "private address"),
        ("https://id.example/jwks", "169.254.169.254", "private address"),
        ("https://id.example/jwks", "::1", "private address"),
        ("https://id.example/jwks", "fd00::1", "private address"),
        ("https://id.example/jwks", "::ffff:10.0.0.7", "private address"),
        ("https://id.example/jwks", "0.0.0.0", "private address"),
        ("https://id.example/jwks", "100.64.0.1", "private address"),
        ("https://id.test/jwks", "169.254.169.254", "that no issuer can have"),
        ("https://id.test/jwks", "0.0.0.0", "that no issuer can have"),
        ("http://id.example/jwks", "93.184.216.34", "must be https"),
        ("http://id.test/jwks", "10.0.0.7", "must be https"),
        ("ftp://id.example/jwks", "93.184.216.34", "https://host/path"),
        ("file:///etc/passwd", "93.184.216.34", "https://host/path"),
        ("https://user:pw@id.example/jwks", "93.184.216.34", "without credentials"),
        ("https://", "93.184.216.34", "https://host/path"),
    ],
)
def test_addresses_that_are_not_asked(tmp_path: Path, url: str, address: str, says: str) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address] if address != "93.184.216.34" else [address]

    assert says in Node(tmp_path, url, resolver).fetch()


def test_a_host_that_has_no_address(tmp_path: Path) -> None:
    async def nothing(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    assert Node(tmp_path, "https://no.example/", nothing).fetch() == (
        "host no.example cannot be resolved: Name or service not known"
    )


def test_the_checked_address_is_the_one_connected_to(tmp_path: Path) -> None:
    """A name that resolves differently the second time gets no second time."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    with serving() as server:
        server.publish(RSA)
        node = Node(tmp_path, url_of(server, host="id.test"), rebinding)
        assert (node.fetch(), asked) == ("", ["id.test"])
        assert server.hosts == [f"id.test:{server.port}"]


def test_redirects_stay_on_the_same_host(tmp_path: Path) -> None:
    with serving() as server, serving() as elsewhere:
        server.publish(RSA)
        elsewhere.publish(RSA_2)
        server.headers = {"location": "/jwks"}
        node = Node(tmp_path, url_of(server, "/moved"))
        assert (node.fetch(), server.paths) == ("", ["/moved", "/jwks"])
        server.headers = {"location": url_of(elsewhere)}
        node.clock.advance(s=300)
        assert "redirect to another host" in node.fetch()
        assert elsewhere.paths == []
        server.headers = {"location": "/moved"}
        node.clock.advance(s=300)
        assert "more than 3 redirects" in node.fetch()


def test_the_environments_proxy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with serving() as server:
        server.publish(RSA)
        assert Node(tmp_path, url_of(server)).fetch() == ""


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for id.test, and a server context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "id.test")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("id.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    ca = folder / "ca.pem"
    ca.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, private)
    return ca, context


def test_https_is_verified_by_name_although_the_address_is_dialled(
    tmp_path: Path, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    ca, context = certificate
    with serving(context) as server:
        server.publish(RSA)
        url = f"https://id.test:{server.port}/jwks"
        assert Node(tmp_path, url, jwks_ca_file=str(ca)).fetch() == ""
        wrong = f"https://localhost:{server.port}/jwks"
        assert "certificate" in Node(tmp_path, wrong, jwks_ca_file=str(ca)).fetch().lower()
        assert "certificate" in Node(tmp_path, url).fetch().lower()
        assert Node(tmp_path, url, jwks_ca_file=str(tmp_path / "none.pem")).fetch() != ""


# -- what is kept of a key set


def test_private_and_shared_secrets_are_never_kept() -> None:
    secret = jwk.generate_key("oct", 256, {"kid": "oct-1"})
    document = {"keys": [RSA.as_dict(private=True), EC.as_dict(private=True), secret.as_dict(private=True)]}
    kept = public_keys(document, 64)
    assert [key["kid"] for key in kept] == ["rsa-1", "ec-1"]
    assert not {"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & {name for key in kept for name in key}


@pytest.mark.parametrize(
    "change",
    [
        lambda k: {**k, "use": "enc"},
        lambda k: {**k, "key_ops": ["encrypt"]},
        lambda k: {**k, "key_ops": "verify"},
        lambda k: {**k, "n": k["n"][:100]},
        lambda k: {**k, "n": "*"},
        lambda k: {**k, "kty": "DSA"},
        lambda k: {**k, "kty": ["RSA"]},
        lambda k: {**k, "kty": "EC"},
        lambda k: {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        lambda k: {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        lambda k: {"kty": "OKP", "crv": "X25519", "x": k["n"][:43]},
        lambda k: {"kty": "OKP", "crv": ["Ed25519"], "x": k["n"][:43]},
    ],
)
def test_keys_that_cannot_verify_are_left_out(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    good, bad = ED.as_dict(private=False), change(public(RSA)["keys"][0])
    assert [key.get("kid") for key in public_keys({"keys": [bad, good]}, 64)] == ["ed-1"]


def test_an_issuer_id_is_a_file_name(tmp_path: Path) -> None:
    for bad in ("../x", "a/b", "", ".", "a.json"):
        with pytest.raises(ConfigError):
            file_of(tmp_path, bad)


def test_it_runs_until_cancelled_and_wakes_when_asked(tmp_path: Path) -> None:
    async def scenario(server: Published) -> None:
        settings = Settings(jwks_hosts_private=HOSTS)
        fetched = asyncio.Event()
        fetcher = JwksFetcher(
            tmp_path, settings, SystemClock(), resolver=loopback, on_fetch=lambda ok: fetched.set() if ok else None
        )
        running = asyncio.create_task(fetcher.run())
        await asyncio.sleep(0)
        fetcher.update([issuer(jwks_url=url_of(server))])
        await asyncio.wait_for(fetched.wait(), 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert os.listdir(tmp_path) == ["iss_1.json"]

    with serving() as server:
        server.publish(RSA)
        asyncio.run(scenario(server))


@pytest.mark.parametrize("steps", range(6))
def test_a_fetcher_ends_when_it_is_told_whatever_woke_it_just_then(tmp_path: Path, steps: int) -> None:
    async def life() -> None:
        fetcher = JwksFetcher(tmp_path, Settings(), SystemClock())
        running = asyncio.create_task(fetcher.run())
        await asyncio.sleep(0.01)
        fetcher.update([])  # wakes it
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=20)
        running.cancel()
        assert done, "the cancellation was lost"

    asyncio.run(life())
