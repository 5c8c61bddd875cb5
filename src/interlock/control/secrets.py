"""Secrets that the installation keeps in files: the pepper of API keys, keys of the ledger, the first admin's key."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from interlock.errors import ConfigError
from interlock.settings import Settings

PEPPER_CHARACTERS_MIN = 32


def ensure_pepper(settings: Settings, random: Callable[[int], bytes]) -> bytes:
    """The pepper, made on first use: 64 hexadecimal characters in a file that only its owner may read.

    A file named by `pepper_file` is never made: it is shared between machines, and another one would lock every key
    out. Raises ConfigError when it is missing, too short or cannot be read.
    """
    path = settings.pepper_path()
    if not settings.pepper_file and not path.exists():
        with contextlib.suppress(FileExistsError):
            write_secret(path, random(32).hex() + "\n", replace=False)
    try:
        pepper = path.read_bytes().strip()
    except OSError as e:
        raise ConfigError(f"{path}: the pepper of the API keys cannot be read: {e.strerror}", param=str(path)) from None
    if len(pepper) < PEPPER_CHARACTERS_MIN:
        raise ConfigError(
            f"{path}: the pepper of the API keys must have at least {PEPPER_CHARACTERS_MIN} characters", param=str(path)
        )
    return pepper


def ensure_ledger_keys(settings: Settings, random: Callable[[int], bytes]) -> None:
    """The ledger's master key and signing key, made on first use: 64 hexadecimal characters each, for their owner only.

    A file that the settings name is never made: it is shared between machines, and another one would open nothing.
    """
    for named, path in (
        (settings.ledger_key_file, settings.ledger_key_path()),
        (settings.ledger_signing_key_file, settings.ledger_signing_key_path()),
    ):
        if not named and not path.exists():
            with contextlib.suppress(FileExistsError):
                write_secret(path, random(32).hex() + "\n", replace=False)


def write_secret(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file that only its owner may read (0600, folder 0700), whole or not at all, and durable.

    Raises FileExistsError when `replace` is false and the file exists, ConfigError when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            os.link(partial, path)
    except OSError as e:
        if isinstance(e, FileExistsError) and not replace and path.exists():
            raise
        raise ConfigError(f"{path}: cannot be written: {e.strerror}", param=str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
