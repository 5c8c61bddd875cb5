"""A server's own certificate: loaded at the start, and again when its files change."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from interlock.errors import ConfigError
from interlock.settings import Settings
from interlock.sources.tls import file_mark, reason


class Pair(NamedTuple):
    """Files of a certificate chain and its private key (PEM), and what the settings that name them begin with."""

    cert: str
    key: str
    prefix: str


def gateway_pair(settings: Settings) -> Pair:
    """The gateway's. Its key may be in the same file."""
    return Pair(settings.tls_cert_file, settings.tls_key_file, "tls")


def control_pair(settings: Settings) -> Pair:
    """The admin API's."""
    return Pair(settings.control_tls_cert_file, settings.control_tls_key_file, "control_tls")


class ServerTls:
    """A server context that new connections take, and the files it came from."""

    def __init__(self, pair: Pair) -> None:
        """Raises ConfigError naming the file that cannot be used."""
        self._pair = pair
        self._marks = self._look()
        self.context = self._load()

    def refresh(self) -> bool:
        """Take the files again when they have changed; whether they had. Raises ConfigError; the old ones stay then.

        INVARIANT: the context in use is touched only after another one took the same files: a certificate that is
        written before its key would otherwise leave the context without a key.
        """
        marks = self._look()
        if marks == self._marks:
            return False
        self._load()
        self._load_into(self.context)
        self._marks = marks
        return True

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load_into(context)
        return context

    def _load_into(self, context: ssl.SSLContext) -> None:
        cert, key, prefix = self._pair
        try:
            context.load_cert_chain(cert, key or None, password=_no_password)
        except (OSError, ValueError) as e:
            named = cert + (f" with {key}" if key else "")
            raise ConfigError(
                f"{named}: cannot be used as certificate: {reason(e)}", param=f"{prefix}_cert_file"
            ) from None

    def _look(self) -> tuple[object, ...]:
        return tuple(file_mark(path) for path in (self._pair.cert, self._pair.key) if path)


def check(pair: Pair, *, key_apart: bool = False) -> None:
    """Raise ConfigError unless the certificate of the settings, if there is one, can be used.

    `key_apart`: the key must have a file of its own.
    """
    cert, key, prefix = pair
    if key and not cert:
        raise ConfigError(f"{prefix}_key_file is set and {prefix}_cert_file is not", param=f"{prefix}_cert_file")
    if key_apart and cert and not key:
        raise ConfigError(f"{prefix}_cert_file is set and {prefix}_key_file is not", param=f"{prefix}_key_file")
    if cert:
        ServerTls(pair)


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the private key is encrypted; give one without a password")
