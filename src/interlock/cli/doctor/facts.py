"""What checks decide from. Nothing in here is a secret."""

from __future__ import annotations

import msgspec

from interlock.settings import Settings


class FileFacts(msgspec.Struct, frozen=True):
    """A file or folder that others should not read. `mode`: its permission bits."""

    path: str
    mode: int


class CertificateFacts(msgspec.Struct, frozen=True):
    """A certificate of ours. `left_s`: until it ends, None when `error` says why that is not known."""

    setting: str
    path: str
    left_s: float | None
    error: str = ""


class MachineFacts(msgspec.Struct, frozen=True):
    """This machine and its home folder. `log_bytes`: what the record log uses; `disk_free`: bytes left beside it."""

    version: str
    settings: Settings
    files: tuple[FileFacts, ...] = ()
    certificates: tuple[CertificateFacts, ...] = ()
    disk_free: int = 0
    log_bytes: int = 0
    demo_keys: bool = False
    clock_off_s: float | None = None
    """The admin API's clock ahead of this machine's, by what is certain of it; None: it was not asked."""
