"""Credentials of sources: references to environment variables and files, resolved here, re-read on rotation.

A secret lives in this store and in the requests that carry it: it is in no snapshot, record, log, error or `repr`.
Sources of a tenant may only refer to files in that tenant's own folder, `<home>/credentials/<tenant id>/`: else
whoever may register a source could have any file or variable of the gateway sent to a place of their choice.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path

from interlock.errors import ConfigError, UpstreamError
from interlock.settings import Settings
from interlock.sources.tls import FileMark, file_mark
from interlock.types.source import CredentialRef, Source

SECRET_BYTES_MAX = 16_384
"""Largest credential read."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\x20-\x7e\x80-\xff]+")
_FRAMING = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect")
)
_OWN_VARIABLES = re.compile(r"INTERLOCK_(DATABASE_URL|ADMIN_KEY|METRICS_KEY|PEPPER.*)", re.IGNORECASE)


def check_references(source: Source, settings: Settings) -> None:
    """Whether a source may refer to what it refers to; does not look whether that exists.

    Raises ConfigError naming the field. Admin interfaces call this when a source is registered; the store calls it
    again before it reads anything.
    """
    if source.credential is not None:
        check_reference(source.credential, source.tenant_id, settings, "credential")
    if source.egress_proxy_credential is not None:
        check_reference(source.egress_proxy_credential, source.tenant_id, settings, "egress_proxy_credential")
    if source.tenant_id and source.tls is not None:
        for field in ("ca_file", "cert_file", "key_file"):
            path = getattr(source.tls, field)
            if path:
                _check_folder(path, source.tenant_id, settings, f"tls.{field}")


def check_reference(ref: CredentialRef, tenant_id: str, settings: Settings, field: str) -> None:
    """Whether what belongs to a tenant ("": to the platform) may refer to it. Raises ConfigError naming the field."""
    if bool(ref.env) == bool(ref.file):
        raise ConfigError(f"{field}: name either an environment variable or a file", param=field)
    if ref.header and (not _TOKEN.fullmatch(ref.header) or ref.header.lower() in _FRAMING):
        raise ConfigError(f"{field}: {ref.header!r} cannot carry a credential", param=f"{field}.header")
    if ref.scheme and not _TOKEN.fullmatch(ref.scheme):
        raise ConfigError(f"{field}: {ref.scheme!r} is not an authentication scheme", param=f"{field}.scheme")
    if ref.env and _OWN_VARIABLES.fullmatch(ref.env):
        raise ConfigError(f"{field}: {ref.env} is Interlock's own secret", param=f"{field}.env")
    if ref.file and not Path(ref.file).is_absolute():
        raise ConfigError(f"{field}: {ref.file!r} is not an absolute path", param=f"{field}.file")
    if ref.file and Path(ref.file).resolve().is_relative_to(settings.home_path("secrets").resolve()):
        raise ConfigError(f"{field}: {ref.file} is Interlock's own secret", param=f"{field}.file")
    if not tenant_id:
        return
    if ref.env:
        words = f"{field}: a tenant's source cannot read the gateway's environment; refer to a file"
        raise ConfigError(words, param=f"{field}.env")
    _check_folder(ref.file, tenant_id, settings, f"{field}.file")


def _check_folder(path: str, tenant_id: str, settings: Settings, field: str) -> None:
    folder = settings.home_path("credentials", tenant_id)
    # `..` and symbolic links are resolved: neither leads out of the folder
    if not Path(path).is_absolute() or not Path(path).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{field}: files of a tenant's source must be in {folder}", param=field)


class _Entry:
    __slots__ = ("error", "mark", "pending", "ref", "secret")

    def __init__(self, ref: CredentialRef) -> None:
        self.ref = ref
        self.mark: FileMark = None
        self.secret = b""
        self.error = ""
        self.pending = False
        """The file changed into something unusable: it may be half-written, so one more look before it is believed."""

    def __repr__(self) -> str:
        return f"_Entry({self.ref!r}, secret=...)"


class CredentialStore:
    """Secrets by reference, one store per process. `check` re-reads what has changed."""

    def __init__(self, settings: Settings, env: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._env = os.environ if env is None else env
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._lines: dict[str, tuple[Source, bytes]] = {}
        self._check_at = 0.0

    def __repr__(self) -> str:
        return f"CredentialStore({len(self._entries)} references)"

    def header(self, source: Source) -> bytes:
        r"""The whole header line (`authorization: Bearer ...\r\n`) of a source's credential; empty when it has none.

        Raises UpstreamError (`credential_missing`) that names the reference, never the secret.
        """
        ref = source.credential
        if ref is None:
            return b""
        known = self._lines.get(source.id)
        if known is not None and known[0] is source:
            return known[1]
        secret = self._secret(f"source {source.name!r}", source.tenant_id, ref, "credential")
        name, scheme = ref.carried(source.kind)
        before = f"{scheme} " if scheme else ""
        line = b"%b: %b%b\r\n" % (name.encode("ascii"), before.encode("ascii"), secret)
        if len(self._lines) >= 2 * self._settings.sources_max:
            self._lines.clear()
        self._lines[source.id] = (source, line)
        return line

    def proxy_authorization(self, source: Source) -> bytes:
        """The Proxy-Authorization value (Basic, RFC 7617) for a source's egress proxy.

        Raises UpstreamError (`credential_missing`).
        """
        ref = source.egress_proxy_credential
        if ref is None:
            raise UpstreamError(f"source {source.name!r} has no credential for its proxy", code="credential_missing")
        return b"Basic " + base64.b64encode(
            self._secret(f"source {source.name!r}", source.tenant_id, ref, "egress_proxy_credential")
        )

    def secret(self, owner: str, tenant_id: str, ref: CredentialRef) -> str:
        """A secret that is no source's, by the same rules. `owner`: whose, for the error; `tenant_id` "": the platform.

        Raises UpstreamError (`credential_missing`).
        """
        return self._secret(owner, tenant_id, ref, "credential").decode()

    def check(self, now: float) -> bool:
        """Re-read what has changed, at most every `credential_check_ms`. `now`: monotonic seconds. True if any did."""
        if now < self._check_at:
            return False
        self._check_at = now + self._settings.credential_check_ms / 1000
        changed = False
        for entry in self._entries.values():
            before = (entry.secret, entry.error)
            if entry.ref.env or entry.pending or file_mark(entry.ref.file) != entry.mark:
                self._read(entry)
            if entry.pending:
                self._check_at = now
            changed = changed or before != (entry.secret, entry.error)
        if changed:
            self._lines.clear()
        return changed

    def _secret(self, owner: str, tenant_id: str, ref: CredentialRef, field: str) -> bytes:
        place = (ref.env, ref.file)
        try:
            check_reference(ref, tenant_id, self._settings, field)
        except ConfigError as e:
            raise UpstreamError(f"{owner}: {e.message}", code="credential_missing") from None
        entry = self._entries.get(place)
        if entry is None or entry.error:
            if len(self._entries) >= 4 * self._settings.sources_max:
                self._entries.clear()
            entry = self._entries[place] = entry or _Entry(ref)
            self._read(entry)
        if entry.error:
            raise UpstreamError(f"{owner}: its credential {entry.error}", code="credential_missing")
        return entry.secret

    def _read(self, entry: _Entry) -> None:
        ref = entry.ref
        if ref.env:
            where, secret = f"(environment variable {ref.env})", self._env.get(ref.env, "").encode()
        else:
            where, secret = f"(file {ref.file})", b""
            entry.mark = file_mark(ref.file)
            try:
                with Path(ref.file).open("rb") as file:
                    secret = file.read(SECRET_BYTES_MAX + 1)
            except OSError as e:
                where += f" cannot be read: {e.strerror}"
        secret = secret.strip(b" \t\r\n")
        if _VALUE.fullmatch(secret) and len(secret) <= SECRET_BYTES_MAX:
            entry.secret, entry.error, entry.pending = secret, "", False
        elif entry.secret and not entry.pending and entry.mark is not None:
            entry.pending = True
        else:
            entry.secret, entry.pending = b"", False
            entry.error = f"{where} is missing, empty, longer than {SECRET_BYTES_MAX} bytes or not one line of text"
            if "cannot be read" in where:
                entry.error = where
