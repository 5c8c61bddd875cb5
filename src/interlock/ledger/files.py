"""The few system calls the record log makes, as one small port, so that tests can make each of them fail."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a write that end when somebody makes room."""


class Files:
    """The real system calls. Subclass to inject faults or to simulate a disk."""

    def open(self, path: Path, flags: int) -> int:
        """Open with mode 0600 and close-on-exec; returns a descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Bytes taken, which may be fewer than given."""
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Data and size of a file reach the disk."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """A file or folder, with its metadata, reaches the disk."""
        os.fsync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        """Cut a file at `size` bytes."""
        os.ftruncate(fd, size)

    def close(self, fd: int) -> None:
        """Close a descriptor; a lock held through it is released."""
        os.close(fd)

    def mkdir(self, path: Path) -> None:
        """Make one folder, mode 0700."""
        path.mkdir(0o700)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def lock(self, fd: int, *, wait: bool) -> bool:
        """Take an exclusive flock; False when another holds it and `wait` is False."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still write to the file system of `path`."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


def write_all(files: Files, fd: int, data: bytes, done: int = 0) -> tuple[int, OSError | None]:
    """Write `data[done:]` over short writes and interruptions: (bytes of `data` written, the error that stopped it)."""
    view = memoryview(data)
    while done < len(data):
        try:
            count = files.write(fd, view[done:])
        except InterruptedError:
            continue
        except OSError as e:
            return done, e
        if count <= 0:
            return done, OSError(errno.EIO, "the file took no bytes")
        done += count
    return done, None


def sync_folder(files: Files, path: Path) -> None:
    """Make the entries of a folder durable."""
    fd = files.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)


def make_folders(files: Files, path: Path) -> None:
    """Make `path` and its missing parents, each durable in its parent."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        try:
            files.mkdir(each)
        except FileExistsError:
            continue
        sync_folder(files, each.parent)


def put_marker(files: Files, path: Path, content: bytes = b"") -> None:
    """Make a small file durable: its content, then its name. Putting it again is harmless."""
    fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _, error = write_all(files, fd, content)
        if error is not None:
            raise error
        files.fsync(fd)
    finally:
        files.close(fd)
    sync_folder(files, path.parent)
