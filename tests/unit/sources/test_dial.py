"""TLS, client certificates, their rotation, and egress proxies, each against a real peer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.transport import target_of
from interlock.types.source import CredentialRef, Source, SourceKind, TlsRef
from tests.unit.sources.certificates import Authority
from tests.unit.sources.proxy import connect_proxy
from tests.unit.sources.upstream import OK, answers, exchange, pool_to, read_request, until, upstream

Run = Callable[[Awaitable[None]], None]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return Authority(tmp_path)


def test_own_ca_and_keeping_the_connection(run: Run, authority: Authority) -> None:
    async def main() -> None:
        context = authority.server_context("localhost")
        async with (
            upstream(answers(OK, OK), context=context) as server,
            pool_to(server.port, scheme="https", tls=TlsRef(ca_file=str(authority.ca))) as pool,
        ):
            assert (await exchange(pool)).body == b"ok"
            assert (await exchange(pool)).body == b"ok"
            assert (server.accepted, pool.idle) == (1, 1)

    run(main())


@pytest.mark.parametrize(
    ("name", "expired", "words"),
    [("localhost", True, "expired"), ("elsewhere", False, "mismatch"), ("unknown", False, "self-signed")],
)
def test_certificates_that_are_not_accepted(
    run: Run, authority: Authority, tmp_path: Path, name: str, expired: bool, words: str
) -> None:
    async def main() -> None:
        signer = Authority(tmp_path, "other authority") if name == "unknown" else authority
        context = signer.server_context("localhost" if name == "unknown" else name, expired=expired)
        trusted = TlsRef(ca_file=str(authority.ca))
        async with (
            upstream(answers(OK), context=context) as server,
            pool_to(server.port, scheme="https", tls=trusted) as pool,
        ):
            got = await exchange(pool)
            assert got.code == "tls_failed"
            assert got.error is not None
            if name != "unknown":
                assert words in got.error.message

    run(main())


def test_the_systems_authorities_are_the_default(run: Run, authority: Authority) -> None:
    async def main() -> None:
        context = authority.server_context("localhost")
        async with upstream(answers(OK), context=context) as server, pool_to(server.port, scheme="https") as pool:
            assert (await exchange(pool)).code == "tls_failed"

    run(main())


def test_mutual_tls_and_rotation_of_the_client_certificate(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        names: list[str] = []
        folder = tmp_path / "new"
        folder.mkdir()
        authority, other = Authority(tmp_path), Authority(folder, "new authority")

        async def who(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                subject = writer.get_extra_info("peercert")["subject"]
                names.append(dict(pair for part in subject for pair in part)["commonName"])
                writer.write(OK)

        client = authority.issue("client-1")
        context = authority.server_context("localhost", client_ca=authority.ca)
        context.load_verify_locations(other.ca)
        tls = TlsRef(ca_file=str(authority.ca), cert_file=str(client.cert), key_file=str(client.key))
        settings = Settings(credential_check_ms=1000)
        async with upstream(who, context=context) as server:
            async with pool_to(server.port, settings, scheme="https", tls=tls) as pool:
                pool.sweep(10.0)
                await exchange(pool)
                replacement = other.issue("client-2")
                os.replace(replacement.key, client.key)
                pool.sweep(11.0)  # the pair does not match yet: the old one serves on
                assert pool.idle == 1
                os.replace(replacement.cert, client.cert)
                pool.sweep(11.5)
                assert pool.idle == 1
                pool.sweep(12.0)
                assert pool.idle == 0
                await exchange(pool)
                assert names == ["client-1", "client-2"]
            async with pool_to(server.port, scheme="https", tls=TlsRef(ca_file=str(authority.ca))) as pool:
                assert (await exchange(pool)).code in {"tls_failed", "upstream_closed", "upstream_cut_off"}

    run(main())


def test_files_that_cannot_be_used(run: Run, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        bad = tmp_path / "bad.pem"
        bad.write_text("no certificate")
        client = authority.issue("client")
        for tls, name in (
            (TlsRef(ca_file=str(tmp_path / "none.pem")), "none.pem"),
            (TlsRef(ca_file=str(bad)), "bad.pem"),
            (TlsRef(cert_file=str(client.cert), key_file=str(bad)), "client.pem"),
            (TlsRef(key_file=str(client.key)), "client certificate"),
        ):
            async with pool_to(1, scheme="https", tls=tls) as pool:
                got = await exchange(pool)
                assert got.code == "tls_configuration"
                assert got.error is not None
                assert name in got.error.message

    run(main())


def test_a_source_that_does_not_speak_tls(run: Run) -> None:
    async def main() -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with upstream(plain) as server, pool_to(server.port, scheme="https") as pool:
            assert (await exchange(pool)).code == "tls_failed"

    run(main())


# -- egress proxy


def _behind(port: int, proxy: str, *, scheme: str = "http", ca: str = "", password_file: str = "") -> Source:
    return Source(
        "src_1",
        "local",
        SourceKind.openai,
        f"{scheme}://localhost:{port}",
        tls=TlsRef(ca_file=ca) if ca else None,
        egress_proxy=proxy,
        egress_proxy_credential=CredentialRef(file=password_file) if password_file else None,
    )


def test_plain_and_tls_through_a_proxy(run: Run, authority: Authority) -> None:
    async def main() -> None:
        for scheme in ("http", "https"):
            context = authority.server_context("localhost") if scheme == "https" else None
            async with upstream(answers(OK, OK), context=context) as server, connect_proxy() as proxy:
                source = _behind(server.port, f"http://127.0.0.1:{proxy.port}", scheme=scheme, ca=str(authority.ca))
                async with pool_to(0, source=source) as pool:
                    assert (await exchange(pool)).body == b"ok"
                    assert (await exchange(pool)).body == b"ok"
                    assert proxy.targets == [f"localhost:{server.port}"]
                    assert pool.idle == 1

    run(main())


def test_proxy_credentials_are_read_when_a_connection_is_opened(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "proxy"
        file.write_text("user:wrong\n")
        settings = Settings(home=str(tmp_path), credential_check_ms=1000)
        credentials = CredentialStore(settings, {})
        async with (
            upstream(answers(OK)) as server,
            connect_proxy(authorization="Basic dXNlcjpyaWdodA==") as proxy,
        ):
            source = _behind(server.port, f"http://127.0.0.1:{proxy.port}", password_file=str(file))
            async with pool_to(0, source=source, credentials=credentials) as pool:
                got = await exchange(pool)
                assert got.code == "proxy_failed"
                assert got.error is not None
                assert "asks for credentials" in got.error.message
                file.write_text("user:right\n")
                credentials.check(10.0)
                assert (await exchange(pool)).body == b"ok"
                file.unlink()
                credentials.check(20.0)
                credentials.check(30.0)
                pool.renew()
                assert (await exchange(pool)).code == "credential_missing"

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000,
        b"HTTP/1.1 200",
    ],
    ids=["refused", "own bytes", "other protocol", "endless head", "closed"],
)
def test_proxies_that_misbehave(run: Run, answer: bytes) -> None:
    async def main() -> None:
        async with connect_proxy(answer=answer) as proxy:
            source = _behind(9, f"http://127.0.0.1:{proxy.port}")
            async with pool_to(0, source=source) as pool:
                got = await exchange(pool)
                assert got.code == "proxy_failed"
                assert got.error is not None
                assert "proxy" in got.error.message

    run(main())


def test_a_proxy_that_is_away(run: Run) -> None:
    async def main() -> None:
        async with connect_proxy() as proxy:
            port = proxy.port
        async with pool_to(0, source=_behind(9, f"http://127.0.0.1:{port}")) as pool:
            assert (await exchange(pool)).code == "proxy_failed"

    run(main())


def test_a_source_behind_the_proxy_with_a_bad_certificate(run: Run, authority: Authority) -> None:
    async def main() -> None:
        context = authority.server_context("elsewhere")
        async with upstream(answers(OK), context=context) as server, connect_proxy() as proxy:
            source = _behind(server.port, f"http://127.0.0.1:{proxy.port}", scheme="https", ca=str(authority.ca))
            async with pool_to(0, source=source) as pool:
                assert (await exchange(pool)).code == "tls_failed"
                await until(lambda: not proxy.tasks)

    run(main())


def test_targets_of_sources() -> None:
    store = CredentialStore(Settings(), {})

    def make(url: str, proxy: str = "") -> Source:
        return Source("s", "s", SourceKind.openai, url, egress_proxy=proxy)

    assert target_of(make("http://[::1]:8000/base"), store).authority == "[::1]:8000"
    assert target_of(make("https://api.example.com"), store).authority == "api.example.com:443"
    assert target_of(make("http://bücher.example"), store).host == "xn--bcher-kva.example"
    assert target_of(make("http://a"), store).tls is None
    assert target_of(make("http://a", "https://p:3128"), store).proxy is not None
