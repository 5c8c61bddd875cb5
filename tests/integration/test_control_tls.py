"""The admin API behind TLS: a real certificate, a real server, the command line as its client."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interlock.cli.main import main
from interlock.control.main import listen, run_control
from interlock.errors import ConfigError
from interlock.settings import Settings
from tests.e2e.certificates import make
from tests.e2e.stack import until
from tests.integration.control_client import Engines


@contextmanager
def serving(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A control process in a thread with a certificate of its own; gives its home."""
    for name in ("INTERLOCK_ADMIN_KEY", "INTERLOCK_CONTROL_URL"):
        monkeypatch.delenv(name, raising=False)
    make(folder / "cert.pem", folder / "key.pem", "control")
    home = folder / "home"
    home.mkdir()
    text = (
        f'control_tls_cert_file = "{folder / "cert.pem"}"\ncontrol_tls_key_file = "{folder / "key.pem"}"\n'
        "control_port = 0\nstop_grace_ms = 1000\ntls_reload_interval_ms = 100\n"
    )
    (home / "interlock.toml").write_text(text)
    given = {
        "home": str(home),
        "control_port": 0,
        "control_tls_cert_file": str(folder / "cert.pem"),
        "control_tls_key_file": str(folder / "key.pem"),
        "stop_grace_ms": 1000,
        "tls_reload_interval_ms": 100,
    }
    settings = Settings(**given)
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run_control,
        args=(settings, url),
        kwargs={"sock": listen(settings), "stop": stop, "ready": lambda _: ready.set(), "discover": Engines()},
    )
    thread.start()
    try:
        assert ready.wait(120)
        yield home
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_the_admin_api_speaks_tls_and_takes_a_new_certificate(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, home: str | None = None) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["export", "--json", "--home", home or str(at), *arguments])
        return code, "".join(capsys.readouterr())

    with serving(postgres_url, tmp_path, monkeypatch) as at:
        url = (at / "run" / "control.url").read_text().strip()
        assert url.startswith("https://127.0.0.1:")
        assert run()[0] == 0, "this home's own certificate is known"
        assert run("--ca", str(tmp_path / "cert.pem"))[0] == 0

        # from elsewhere: another home, told of the address and of the key only
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.setenv("INTERLOCK_ADMIN_KEY", (at / "secrets" / "admin_key").read_text().strip())
        code, told = run("--url", url, home=str(elsewhere))
        assert code == 1 and "is not trusted (self-signed certificate" in told and "--ca FILE" in told
        assert run("--url", url, "--ca", str(tmp_path / "cert.pem"), home=str(elsewhere))[0] == 0
        monkeypatch.setenv("INTERLOCK_CONTROL_CA_FILE", str(tmp_path / "cert.pem"))
        assert run("--url", url, home=str(elsewhere))[0] == 0
        make(tmp_path / "other.pem", tmp_path / "other.key", "another")
        monkeypatch.setenv("INTERLOCK_CONTROL_CA_FILE", str(tmp_path / "other.pem"))
        assert "not trusted" in run("--url", url, home=str(elsewhere))[1]
        assert run("--url", url, "--ca", str(tmp_path / "key.pem"), home=str(elsewhere))[0] == 1
        assert "cannot be reached" in run("--url", url.replace("https", "http"), home=str(elsewhere))[1]
        monkeypatch.delenv("INTERLOCK_CONTROL_CA_FILE")
        monkeypatch.delenv("INTERLOCK_ADMIN_KEY")

        new = make(tmp_path / "cert.new", tmp_path / "key.new", "renewed")
        for name in ("key", "cert"):
            (tmp_path / f"{name}.new").replace(tmp_path / f"{name}.pem")
        port = int(url.rsplit(":", 1)[1])
        until(lambda: shown(port) == hashlib.sha256(new).digest(), 60, "the new certificate")
        assert run()[0] == 0


def shown(port: int) -> bytes:
    """Digest of the certificate that the server shows now."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))).digest()


def test_only_this_homes_certificate_is_taken_for_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chain behind the certificate must not vouch for others: names are not checked on this machine's own."""
    with serving(postgres_url, tmp_path, monkeypatch) as at:
        make(tmp_path / "own.pem", tmp_path / "own.key", "own")
        chain = (tmp_path / "own.pem").read_text() + (tmp_path / "cert.pem").read_text()
        (tmp_path / "chain.pem").write_text(chain)
        monkeypatch.setenv("INTERLOCK_CONTROL_TLS_CERT_FILE", str(tmp_path / "chain.pem"))
        monkeypatch.setenv("INTERLOCK_ADMIN_KEY", "il_test_never_sent")
        assert main(["export", "--home", str(at)]) == 1
        assert "is not trusted" in capsys.readouterr().err


@pytest.mark.parametrize("only", ["cert", "key"])
def test_one_file_alone_stops_the_start(only: str, postgres_url: str, tmp_path: Path) -> None:
    make(tmp_path / "cert.pem", tmp_path / "key.pem", "x")
    other = "key" if only == "cert" else "cert"
    settings = Settings(home=str(tmp_path), **{f"control_tls_{only}_file": str(tmp_path / f"{only}.pem")})
    with pytest.raises(ConfigError, match=f"control_tls_{only}_file is set and control_tls_{other}_file is not"):
        run_control(settings, postgres_url)


def test_a_request_in_the_clear_gets_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(postgres_url, tmp_path, monkeypatch) as at:
        url = (at / "run" / "control.url").read_text().strip()
        with pytest.raises(OSError):
            urllib.request.urlopen(url.replace("https", "http") + "/health", timeout=30)
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with urllib.request.urlopen(url + "/health", timeout=30, context=context) as answer:
            assert json.loads(answer.read()) == {"status": "ok"}
