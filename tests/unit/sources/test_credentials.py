"""Credentials by reference: read, re-read on rotation, bounded to who may refer to what, never shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from interlock.errors import ConfigError, UpstreamError
from interlock.settings import Settings
from interlock.sources.credentials import SECRET_BYTES_MAX, CredentialStore, check_references
from interlock.types.source import CredentialRef, Source, SourceKind, TlsRef

SECRET = "sk-very-secret"


def _source(ref: CredentialRef | None, **fields: object) -> Source:
    return Source("src_1", "cloud", SourceKind.openai, "http://a", credential=ref, **fields)  # type: ignore[arg-type]


def _store(home: Path, **env: str) -> CredentialStore:
    return CredentialStore(Settings(home=str(home), credential_check_ms=1000), env)


def test_forms_of_the_header(tmp_path: Path) -> None:
    store = _store(tmp_path, KEY=SECRET)
    assert store.header(_source(None)) == b""
    assert store.header(_source(CredentialRef(env="KEY"))) == b"authorization: Bearer sk-very-secret\r\n"
    bare = CredentialRef(env="KEY", header="Api-Key", scheme="")
    assert store.header(_source(bare)) == b"api-key: sk-very-secret\r\n"


def test_a_file_is_re_read_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one\n")
    store, source = _store(tmp_path), _source(CredentialRef(file=str(file)))
    assert store.header(source).endswith(b" one\r\n")
    assert not store.check(10.0)
    replacement = tmp_path / "new"
    replacement.write_text("two")
    os.replace(replacement, file)
    assert not store.check(10.5), "looked at no more often than the setting says"
    assert store.header(source).endswith(b" one\r\n")
    assert store.check(11.0)
    assert store.header(source).endswith(b" two\r\n")


def test_an_environment_variable_is_re_read(tmp_path: Path) -> None:
    env = {"KEY": "one"}
    store = CredentialStore(Settings(home=str(tmp_path)), env)
    source = _source(CredentialRef(env="KEY"))
    assert store.header(source).endswith(b" one\r\n")
    env["KEY"] = "two"
    assert store.check(1.0)
    assert store.header(source).endswith(b" two\r\n")


def test_a_half_written_file_is_looked_at_again_before_it_is_believed(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    store, source = _store(tmp_path), _source(CredentialRef(file=str(file)))
    store.header(source)
    file.write_text("")
    store.check(10.0)
    assert store.header(source).endswith(b" one\r\n")
    file.write_text("two")
    store.check(10.1)  # at once, not after the interval
    assert store.header(source).endswith(b" two\r\n")
    file.write_text("")
    store.check(20.0)
    store.check(20.1)
    with pytest.raises(UpstreamError) as e:
        store.header(source)
    assert e.value.code == "credential_missing"
    file.write_text("three")
    assert store.header(source).endswith(b" three\r\n"), "a missing one is looked for at each call"


@pytest.mark.parametrize("content", [b"", b"  \n", b"a\nb", b"a\0b", b"a\x7f", b"x" * (SECRET_BYTES_MAX + 1)])
def test_contents_that_are_not_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(UpstreamError, match=f"source 'cloud': its credential \\(file {file}\\)"):
        _store(tmp_path).header(_source(CredentialRef(file=str(file))))


def test_missing_references_are_named(tmp_path: Path) -> None:
    store = _store(tmp_path)
    with pytest.raises(UpstreamError, match="environment variable NOT_SET"):
        store.header(_source(CredentialRef(env="NOT_SET")))
    with pytest.raises(UpstreamError, match="No such file"):
        store.header(_source(CredentialRef(file=str(tmp_path / "none"))))


def test_nothing_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    file.write_text(SECRET)
    store, source = _store(tmp_path, KEY=SECRET), _source(CredentialRef(file=str(file)))
    store.header(source)
    store.header(_source(CredentialRef(env="KEY")))
    file.write_text(SECRET + "\nmore")
    messages = []
    for now in (1.0, 2.0, 3.0):
        store.check(now)
        try:
            store.header(source)
        except UpstreamError as e:
            messages.append(e.message)
    shown = repr(store) + repr(list(store._entries.values())) + caplog.text + "".join(messages)
    assert messages
    assert SECRET not in shown


def test_proxy_credentials(tmp_path: Path) -> None:
    store = _store(tmp_path, PROXY="user:pass")
    source = _source(None, egress_proxy="http://p:1", egress_proxy_credential=CredentialRef(env="PROXY"))
    assert store.proxy_authorization(source) == b"Basic dXNlcjpwYXNz"


@pytest.mark.parametrize(
    "ref",
    [
        CredentialRef(),
        CredentialRef(env="A", file="/b"),
        CredentialRef(env="A", header="Content-Length"),
        CredentialRef(env="A", header="a b"),
        CredentialRef(env="A", header="a\r\nb"),
        CredentialRef(env="A", scheme="Bearer x\r\n"),
        CredentialRef(env="INTERLOCK_DATABASE_URL"),
        CredentialRef(env="interlock_admin_key"),
        CredentialRef(file="relative/key"),
    ],
)
def test_references_that_are_refused(tmp_path: Path, ref: CredentialRef) -> None:
    settings = Settings(home=str(tmp_path))
    with pytest.raises(ConfigError, match=r"^credential"):
        check_references(_source(ref), settings)
    with pytest.raises(UpstreamError):
        CredentialStore(settings, {"A": "x"}).header(_source(ref))


def test_interlocks_own_secrets_cannot_be_sent_away(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    pepper = tmp_path / "secrets" / "pepper"
    pepper.write_text("pepper")
    link = tmp_path / "link"
    link.symlink_to(pepper)
    for file in (pepper, link, tmp_path / "x" / ".." / "secrets" / "pepper"):
        with pytest.raises(ConfigError, match="own secret"):
            check_references(_source(CredentialRef(file=str(file))), Settings(home=str(tmp_path)))


def test_a_tenants_source_reads_only_its_own_folder(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    own, other = tmp_path / "credentials" / "ten_a", tmp_path / "credentials" / "ten_b"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "key").write_text(folder.name)
    (own / "link").symlink_to(other / "key")

    def source(ref: CredentialRef | None, tls: TlsRef | None = None) -> Source:
        return _source(ref, tenant_id="ten_a", tls=tls)

    store = CredentialStore(settings, {"KEY": SECRET})
    assert store.header(source(CredentialRef(file=str(own / "key")))).endswith(b" ten_a\r\n")
    # read once with a platform source's rights: that must not open it to the tenant
    store.header(_source(CredentialRef(file=str(other / "key"))))
    for ref in (
        CredentialRef(env="KEY"),
        CredentialRef(file=str(other / "key")),
        CredentialRef(file=str(own / ".." / "ten_b" / "key")),
        CredentialRef(file=str(own / "link")),
        CredentialRef(file="/etc/passwd"),
    ):
        with pytest.raises(ConfigError):
            check_references(source(ref), settings)
        with pytest.raises(UpstreamError) as e:
            store.header(source(ref))
        assert e.value.code == "credential_missing"
    with pytest.raises(ConfigError, match=r"tls\.key_file"):
        check_references(source(None, TlsRef(key_file="/etc/ssl/key.pem")), settings)


def test_anthropic_s_key_goes_bare_unless_a_header_is_named(tmp_path: Path) -> None:
    store = _store(tmp_path, KEY=SECRET)

    def line(ref: CredentialRef) -> bytes:
        return store.header(Source("src_1", "cloud", SourceKind.anthropic, "http://a", credential=ref))

    assert line(CredentialRef(env="KEY")) == f"x-api-key: {SECRET}\r\n".encode()
    assert line(CredentialRef(env="KEY", header="Authorization")) == f"authorization: Bearer {SECRET}\r\n".encode()
