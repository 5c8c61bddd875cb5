"""TLS towards sources: verified always, with an own CA and a client certificate where the source names them."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from interlock.errors import UpstreamError
from interlock.types.source import TlsRef

log = logging.getLogger(__name__)

FileMark = tuple[int, int, int] | None
"""(modification time in ns, size, inode) of a file, None when it is not there: changes when the file is replaced."""


def file_mark(path: str) -> FileMark:
    """The mark of a file; None when it cannot be looked at."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def make_context(ref: TlsRef | None) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, host name and chain verified. There is no way to switch that off.

    With `ca_file` only that bundle is trusted, else the system's. Raises UpstreamError (`tls_configuration`) naming
    the file that cannot be used.
    """
    ref = ref or TlsRef()
    if bool(ref.key_file) and not ref.cert_file:
        raise UpstreamError("the source names a client key but no client certificate", code="tls_configuration")
    try:
        context = ssl.create_default_context(cafile=ref.ca_file or None)
    except (OSError, ssl.SSLError) as e:
        raise UpstreamError(f"CA bundle {ref.ca_file} cannot be used: {reason(e)}", code="tls_configuration") from None
    if ref.cert_file:
        try:
            context.load_cert_chain(ref.cert_file, ref.key_file or None, password=_no_password)
        except (OSError, ValueError, ssl.SSLError) as e:
            words = f"client certificate {ref.cert_file} cannot be used: {reason(e)}"
            raise UpstreamError(words, code="tls_configuration") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def reason(error: Exception) -> str:
    """The part of an OS or TLS error that tells a person what was wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not valid PEM").replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _no_password() -> str:
    raise ValueError("the private key is encrypted; use one without a pass phrase")


class TlsContext:
    """The current context of one `TlsRef`. `check` looks at the files and makes a new context when they changed.

    A change that cannot be loaded is logged and tried again at each further change; the last good context serves on.
    `generation` counts the contexts made, so that connections of an old one can be let go.
    """

    def __init__(self, ref: TlsRef | None) -> None:
        self.ref = ref or TlsRef()
        self.generation = 0
        self._context: ssl.SSLContext | None = None
        self._marks = self._look()

    def get(self) -> ssl.SSLContext:
        """The context to open a connection with. Raises UpstreamError (`tls_configuration`)."""
        if self._context is None:
            self._marks = self._look()
            self._context = make_context(self.ref)
        return self._context

    def check(self) -> bool:
        """Look at the files; True when a new context was made."""
        marks = self._look()
        if marks == self._marks or self._context is None:
            return False
        self._marks = marks
        try:
            self._context = make_context(self.ref)
        except UpstreamError as e:
            log.warning("keeping the TLS configuration in use: %s", e.message)
            return False
        self.generation += 1
        return True

    def _look(self) -> tuple[FileMark, ...]:
        ref = self.ref
        return tuple(file_mark(path) if path else None for path in (ref.ca_file, ref.cert_file, ref.key_file))
