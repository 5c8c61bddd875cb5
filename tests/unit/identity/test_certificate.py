"""A server's certificate and its reload."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from interlock.errors import ConfigError
from interlock.identity.certificate import Pair, ServerTls, check, control_pair, gateway_pair
from interlock.settings import Settings
from tests.e2e.certificates import make


def served(context: ssl.SSLContext) -> bytes:
    """The certificate that a handshake with this server context shows."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_context = ssl.create_default_context()
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return client.getpeercert(binary_form=True) or b""


def pair(folder: Path) -> Pair:
    return gateway_pair(Settings(tls_cert_file=str(folder / "cert.pem"), tls_key_file=str(folder / "key.pem")))


def test_a_certificate_before_its_key_leaves_the_old_pair_in_use(tmp_path: Path) -> None:
    first = make(tmp_path / "cert.pem", tmp_path / "key.pem", "first")
    tls = ServerTls(pair(tmp_path))
    assert not tls.refresh()
    second = make(tmp_path / "cert.new", tmp_path / "key.new", "second")
    (tmp_path / "cert.new").replace(tmp_path / "cert.pem")
    with pytest.raises(ConfigError, match="cannot be used as certificate: key values mismatch"):
        tls.refresh()
    assert served(tls.context) == first
    (tmp_path / "key.new").replace(tmp_path / "key.pem")
    assert tls.refresh()
    assert served(tls.context) == second


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    make(tmp_path / "cert.pem", tmp_path / "key.pem", "x")
    check(gateway_pair(Settings()))
    check(pair(tmp_path))
    with pytest.raises(ConfigError, match="tls_cert_file is not"):
        check(gateway_pair(Settings(tls_key_file=str(tmp_path / "key.pem"))))
    (tmp_path / "cert.pem").write_text("no")
    with pytest.raises(ConfigError, match=r"cert\.pem with .*key\.pem: cannot be used as certificate"):
        check(pair(tmp_path))
    with pytest.raises(ConfigError, match="No such file or directory"):
        check(gateway_pair(Settings(tls_cert_file=str(tmp_path / "none.pem"))))


def test_the_admin_api_wants_both_files(tmp_path: Path) -> None:
    make(tmp_path / "cert.pem", tmp_path / "key.pem", "x")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    check(control_pair(Settings()), key_apart=True)
    check(control_pair(Settings(control_tls_cert_file=cert, control_tls_key_file=key)), key_apart=True)
    with pytest.raises(ConfigError, match="control_tls_key_file is set and control_tls_cert_file is not"):
        check(control_pair(Settings(control_tls_key_file=key)), key_apart=True)
    with pytest.raises(ConfigError, match="control_tls_cert_file is set and control_tls_key_file is not"):
        check(control_pair(Settings(control_tls_cert_file=cert)), key_apart=True)
