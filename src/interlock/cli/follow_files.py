"""Where a follower of a ledger leaves entries and how far it is, so that no kill loses or repeats anything.

Lines are on the disk before the state names them. What a kill leaves behind is then one of: lines that the state does
not name yet, whose positions say where to go on; or a last line that is torn, which is cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from interlock.errors import BadRequest, InterlockError
from interlock.types.followed import FollowedEntry

FILE_MODE = 0o640
"""Of new files; the umask takes from it."""
_BLOCK = 1 << 16
_LINE = re.compile(rb'\{"position":(\d{1,19}),"hash":"([0-9a-f]{64})","leaf":(\{.*\})\}')


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last entry that is done with: id of its tree, position, leaf hash (hex)."""

    tree: str
    position: int
    hash: str


def line_of(entry: FollowedEntry) -> bytes:
    """An entry as a line. What stands behind `"leaf":` up to the last brace are the bytes that the tree hashes."""
    from interlock.ledger.entry import encode_leaf

    return b'{"position":%d,"hash":"%b","leaf":%b}\n' % (entry.position, entry.hash.encode(), encode_leaf(entry.leaf))


class StateFile:
    """A small file that says how far a follower is. One process at a time may have it."""

    def __init__(self, path: Path) -> None:
        """Raises BadRequest when another process follows with it, or it cannot be used."""
        self._path = path
        with _words(path):
            # the state itself is replaced with each batch: a lock on it would be lost
            self._lock = _open(path.with_name(path.name + ".lock"), os.O_RDWR)
            _lock(self._lock, path)

    def load(self) -> Place | None:
        """What was saved last; None when nothing was. Raises BadRequest when the file holds something else."""
        with _words(self._path):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return msgspec.json.decode(data, type=Place)
        except msgspec.MsgspecError:
            raise BadRequest(f"{self._path} is not a state of `interlock ledger follow`", param="state") from None

    def save(self, place: Place) -> None:
        """Replace what was saved, in one step and on the disk. Raises BadRequest when it cannot be written."""
        beside = self._path.with_name(self._path.name + ".new")
        with _words(self._path):
            with _open(beside, os.O_WRONLY | os.O_TRUNC) as file:
                file.write(msgspec.json.encode(place) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            _sync_folder(self._path)

    def close(self) -> None:
        """Let others have it."""
        self._lock.close()


class Lines:
    """Entries as lines: appended to a file that may be rotated (renamed) meanwhile, or to stdout."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: stdout. Raises BadRequest: not a file, or another process writes to it."""
        self._path = path
        self._file: BinaryIO | None = self._opened(path) if path is not None else None

    def begin(self) -> Place | None:
        """The last entry in the file, after a torn one was cut off. Raises BadRequest: lines that are not ours."""
        return None if self._file is None or self._path is None else _last_place(self._file, self._path)

    def write(self, entries: Sequence[FollowedEntry]) -> None:
        """Append entries, and wait until they are on the disk. Raises BadRequest when they cannot be written."""
        data = b"".join(line_of(entry) for entry in entries)
        if self._path is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            with contextlib.suppress(OSError):  # a pipe cannot be synced
                os.fsync(sys.stdout.fileno())
            return
        with _words(self._path):
            self._follow_rotation(self._path)
            assert self._file is not None  # noqa: S101 - there is one whenever there is a path
            self._append(self._file, data)
            os.fsync(self._file.fileno())

    def _append(self, file: BinaryIO, data: bytes) -> None:
        file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _opened(self, path: Path) -> BinaryIO:
        with _words(path):
            file = _open(path, os.O_RDWR)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise BadRequest(f"{path} is not an ordinary file", param="output")
            _lock(file, path)
            _sync_folder(path)
            return file

    def _follow_rotation(self, path: Path) -> None:
        """Go over to the file that has the path now, when ours was renamed or removed."""
        assert self._file is not None  # noqa: S101 - there is one whenever there is a path
        held = os.fstat(self._file.fileno())
        with contextlib.suppress(FileNotFoundError):
            there = path.stat()
            if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return
        self._file.close()
        self._file = self._opened(path)
        _last_place(self._file, path)


def _last_place(file: BinaryIO, path: Path) -> Place | None:
    """The entry of the last whole line; what follows it is cut off."""
    with _words(path):
        size = file.seek(0, os.SEEK_END)
        whole = _newline_before(file, size) + 1
        if whole < size:
            file.truncate(whole)
            os.fsync(file.fileno())
        if whole == 0:
            return None
        start = _newline_before(file, whole - 1) + 1
        file.seek(start)
        line = file.read(whole - 1 - start)
    match = _LINE.fullmatch(line)
    try:
        tree = msgspec.json.decode(match[3], type=_Leaf).tree if match is not None else ""
    except msgspec.MsgspecError:
        tree = ""
    if match is None or not tree:
        raise BadRequest(
            f"{path} does not end with a line of `interlock ledger follow`: name another file", param="output"
        )
    return Place(tree, int(match[1]), match[2].decode())


class _Leaf(msgspec.Struct):
    tree: str


def _newline_before(file: BinaryIO, end: int) -> int:
    """Where the last newline before offset `end` is; -1 when there is none."""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found
        end = start
    return -1


def _open(path: Path, flags: int) -> BinaryIO:
    """Without a buffer where it is read and written: what could not be written must not be tried again at the end."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "wb", buffering=0 if flags & os.O_RDWR else -1)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadRequest(f"another process follows a ledger to {path}", param=str(path)) from None


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _words(path: Path) -> Iterator[None]:
    """What the system says about a file, as an error of ours."""
    try:
        yield
    except OSError as e:
        raise InterlockError(f"{path}: {e.strerror or e}", code="file_error", param=str(path)) from None
