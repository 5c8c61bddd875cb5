"""Where things lie in the log's folder, and the names they have.

    <folder>/birth.lock                  held while an epoch is being made, and while epochs are listed for recovery
    <folder>/<epoch>/lock                flock held by the worker for as long as it lives
    <folder>/<epoch>/000000.wal ...      segments
    <folder>/<epoch>/first               the first segment that is kept; those before are in the ledger
    <folder>/<epoch>/closed              the epoch ended in good order and left no call open
    <folder>/<epoch>/recovering.<other>  epoch <other> began to write what was interrupted here
    <folder>/<epoch>/recovered           what was interrupted here is written, durably, in the epoch named inside

An epoch id is 16 characters of Crockford base 32 in lower case: 10 of Unix milliseconds, 6 random. It sorts by time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interlock.ledger.files import Files

BIRTH_LOCK = "birth.lock"
FIRST = "first"
GONE = ".gone."
"""Prefix of an epoch's folder that is being removed."""
LOCK = "lock"
CLOSED = "closed"
RECOVERED = "recovered"
RECOVERING = "recovering."

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = re.compile(f"[{_ALPHABET}]{{16}}")
_SEGMENT = re.compile(r"(\d{6,})\.wal")


def new_epoch_id(wall_ns: int, entropy: Callable[[int], bytes]) -> str:
    """An epoch id of this instant. `entropy(n)` gives n random bytes."""
    value = (wall_ns // 1_000_000) << 30 | int.from_bytes(entropy(4), "big") >> 2
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(75, -1, -5))


def epoch_ms(epoch: str) -> int:
    """When an epoch began, in Unix milliseconds, as its id says."""
    value = 0
    for letter in epoch[:10]:
        value = value << 5 | _ALPHABET.index(letter)
    return value


def is_epoch(name: str) -> bool:
    """True for the name of an epoch's folder."""
    return _EPOCH.fullmatch(name) is not None


def epochs(folder: Path) -> list[str]:
    """All epochs of a log folder, oldest first; none when there is no folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if is_epoch(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []


def segment_path(folder: Path, epoch: str, index: int) -> Path:
    """The file of a segment."""
    return folder / epoch / f"{index:06d}.wal"


def segments(folder: Path, epoch: str) -> list[int]:
    """Indices of the segments an epoch has, in order."""
    try:
        names = [_SEGMENT.fullmatch(entry.name) for entry in os.scandir(folder / epoch)]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in names if match)


def first_segment(folder: Path, epoch: str) -> int:
    """Where an epoch begins now: 0, unless what is in the ledger was removed here."""
    try:
        return int((folder / epoch / FIRST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return 0


def recovering_in(folder: Path, epoch: str) -> list[str]:
    """Epochs that began to write what was interrupted in `epoch`."""
    names = (entry.name.removeprefix(RECOVERING) for entry in os.scandir(folder / epoch) if RECOVERING in entry.name)
    return sorted(name for name in names if is_epoch(name))


def take_lock(files: Files, path: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock until it is closed; None when another process holds it."""
    fd = files.open(path, os.O_RDWR | os.O_CREAT)
    try:
        if files.lock(fd, wait=wait):
            return fd
    except BaseException:
        files.close(fd)
        raise
    files.close(fd)
    return None


@contextmanager
def birth_lock(files: Files, folder: Path) -> Iterator[None]:
    """Hold off the making of epochs: inside, an epoch that exists and is not locked belongs to nobody alive."""
    fd = take_lock(files, folder / BIRTH_LOCK, wait=True)
    assert fd is not None, "a waiting lock is always taken"  # noqa: S101
    try:
        yield
    finally:
        files.close(fd)
