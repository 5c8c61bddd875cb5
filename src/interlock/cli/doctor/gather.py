"""Looks at this machine and asks the admin API; decides nothing."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from interlock import __version__
from interlock.cli.client import AdminClient
from interlock.cli.doctor.facts import CertificateFacts, FileFacts, MachineFacts
from interlock.control.diagnosis import ControlFacts
from interlock.settings import Settings

_SECRETS = ("secrets/*", "demo/*.json", "demo/*key", "engines/*/key", "credentials/*/*")


def ask(admin: AdminClient) -> tuple[ControlFacts, float]:
    """What the admin API knows, and how far its clock is ahead of ours at least (seconds). Raises InterlockError."""
    before = time.time()
    answer = admin.call("GET", "/diagnosis")
    after = time.time()
    facts = msgspec.convert(answer, ControlFacts)
    off = min(facts.clock_s - before, 0.0) or max(facts.clock_s - after, 0.0)
    return facts, off


def look(settings: Settings, clock_off_s: float | None) -> MachineFacts:
    """This machine, by the settings of a home."""
    log = settings.home_path("node", "log")
    place = log
    while not place.exists() and place != place.parent:
        place = place.parent
    return MachineFacts(
        version=__version__,
        settings=settings,
        files=tuple(_files(settings)),
        certificates=tuple(_certificates(settings)),
        disk_free=shutil.disk_usage(place).free,
        log_bytes=sum(_size(file) for file in log.rglob("*")) if log.exists() else 0,
        demo_keys=settings.home_path("demo", "keys.json").exists(),
        clock_off_s=clock_off_s,
    )


def _files(settings: Settings) -> Iterator[FileFacts]:
    home = settings.home_path()
    found = {home / "secrets"}
    for pattern in _SECRETS:
        found.update(home.glob(pattern))
    named = (settings.tls_key_file, settings.control_tls_key_file)
    found.update(Path(name).expanduser() for name in named if name)
    found |= {settings.pepper_path(), settings.ledger_key_path(), settings.ledger_signing_key_path()}
    for path in sorted(found):
        try:
            yield FileFacts(str(path), os.stat(path).st_mode & 0o777)  # noqa: PTH116
        except OSError:
            continue  # one that is missing is said by what needs it


def _certificates(settings: Settings) -> Iterator[CertificateFacts]:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    for name in ("tls_cert_file", "control_tls_cert_file"):
        path = getattr(settings, name)
        if not path:
            continue
        try:
            (first, *_) = x509.load_pem_x509_certificates(Path(path).expanduser().read_bytes())
        except (OSError, ValueError) as e:
            yield CertificateFacts(name, path, None, getattr(e, "strerror", None) or "it holds no certificate")
        else:
            yield CertificateFacts(name, path, (first.not_valid_after_utc - now).total_seconds())


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # removed meanwhile
