"""The gateway's own certificate: loaded at the start, and again when its files change."""

from __future__ import annotations

import ssl

from interlock.errors import ConfigError
from interlock.settings import Settings
from interlock.sources.tls import file_mark, reason


class ServerTls:
    """A server context that new connections take, and the files it came from."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError naming the file that cannot be used."""
        self._cert = settings.tls_cert_file
        self._key = settings.tls_key_file
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
        try:
            context.load_cert_chain(self._cert, self._key or None, password=_no_password)
        except (OSError, ValueError) as e:
            named = self._cert + (f" with {self._key}" if self._key else "")
            raise ConfigError(f"{named}: cannot be used as certificate: {reason(e)}", param="tls_cert_file") from None

    def _look(self) -> tuple[object, ...]:
        return tuple(file_mark(path) for path in (self._cert, self._key) if path)


def check(settings: Settings) -> None:
    """Raise ConfigError unless the certificate of the settings, if there is one, can be used."""
    if settings.tls_cert_file:
        ServerTls(settings)
    elif settings.tls_key_file:
        raise ConfigError("tls_key_file is set and tls_cert_file is not", param="tls_cert_file")


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the private key is encrypted; give one without a password")
