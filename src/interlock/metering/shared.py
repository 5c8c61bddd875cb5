"""Memory shared by the processes of one node: 64-bit words, and a lock that dies with its holder.

The memory is anonymous (`memfd_create`): it has no name that another user could open, it is never written back to a
disk (a mapped file on a journalling file system stalls its writers while the journal commits), and it is gone when
the last process has closed it. `path` is a symbolic link into the creator's `/proc/<pid>/fd`, through which workers
open it. Where that is not available (no memfd, no /proc) `path` is an ordinary file of mode 0600.

What holds when a process is killed at any instruction:

- An aligned 64-bit word is written whole or not at all; words are written in program order (for whoever gets the lock
  afterwards: the kernel releases it only when the process is gone).
- The lock is `flock` on an open file of the process's own, so it is released by the kernel. It is not reentrant, and
  a file description shared through `fork` would share the lock too: open after forking, never before.
- Nobody waits for ever: a holder that is stopped (not dead) makes `wait` give up, and its caller refuses instead.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from pathlib import Path
from types import TracebackType

from interlock.errors import Unavailable

HEADER_WORDS = 512
"""One page: magic, format, size, geometry (8 words), then words for the user of the memory."""
USER_WORD = 16
"""First header word that belongs to the user of the memory."""
FORMAT = 1
GEOMETRY_WORDS = 8
WORD = 8

LOCK = fcntl.LOCK_EX | fcntl.LOCK_NB
UNLOCK = fcntl.LOCK_UN
SPINS = 64
"""Tries at once before sleeping: the lock is held for a few microseconds."""
SLEEP_S = 0.0002
RESERVED_BYTES_MAX = 1 << 28
"""Most memory backed at creation: a figure with too many noughts must not use up the machine's memory."""


class SharedFile:
    """A mapping of shared words. Build with `create` (the node) or `open` (workers); `close` it.

    `words[i]` is word i as an unsigned 64-bit integer, `buffer` the same memory for `struct` with native formats,
    `fd` what `flock` locks: `flock(fd, LOCK)` inside `try`, on BlockingIOError `wait`, at the end `flock(fd, UNLOCK)`.
    """

    __slots__ = ("_identity", "_stuck", "buffer", "fd", "geometry", "path", "wait_ms", "words")

    def __init__(self, path: Path, fd: int, *, wait_ms: int, identity: str = "") -> None:
        self.path = path
        self.fd = fd
        self.wait_ms = wait_ms
        self._identity = identity
        self._stuck = False
        self.buffer = mmap.mmap(fd, 0)
        self.words: memoryview[int] = memoryview(self.buffer).cast("B").cast("Q")
        self.geometry = tuple(self.words[3 : 3 + GEOMETRY_WORDS])

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        magic: bytes,
        geometry: tuple[int, ...],
        size: int,
        reserved: int,
        wait_ms: int,
        anonymous: bool = True,
    ) -> SharedFile:
        """New zeroed memory of `size` bytes, published at `path` in place of whatever was there.

        `magic` is 8 bytes, `geometry` up to 8 numbers that `open` gives back. The first `reserved` bytes are backed
        by memory from the start; the rest must be made so by `reserve` before it is touched. Raises Unavailable.
        """
        if len(magic) != WORD or len(geometry) > GEOMETRY_WORDS or reserved > size:
            raise ValueError("shared memory: wrong magic, geometry or size")
        if reserved > RESERVED_BYTES_MAX:
            raise Unavailable(
                f"{path}: {reserved} bytes of shared memory are more than {RESERVED_BYTES_MAX}; lower limit_slots"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = path.with_name(f"{path.name}.{os.getpid()}.new")
        staged.unlink(missing_ok=True)
        fd, identity = _make(staged, anonymous=anonymous)
        try:
            os.ftruncate(fd, size)
            _allocate(fd, 0, max(reserved, HEADER_WORDS * WORD))
            file = cls(path, fd, wait_ms=wait_ms, identity=identity)
        except OSError as e:
            os.close(fd)
            staged.unlink(missing_ok=True)
            raise Unavailable(f"{path}: no room for {size} bytes of shared memory: {e.strerror}") from None
        file.geometry = geometry + (0,) * (GEOMETRY_WORDS - len(geometry))
        for i, value in enumerate((int.from_bytes(magic, "big"), FORMAT, size, *file.geometry)):
            file.words[i] = value
        staged.replace(path)
        return file

    @classmethod
    def open(cls, path: Path, *, magic: bytes, wait_ms: int) -> SharedFile:
        """Map memory that another process created. Raises Unavailable: absent, foreign, another format."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise Unavailable(f"{path}: shared memory of the node cannot be opened: {e.strerror}") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
                raise Unavailable(f"{path}: is not a private file of this user; the node must create it")
            expected = struct.pack("@QQQ", int.from_bytes(magic, "big"), FORMAT, found.st_size)
            if os.pread(fd, len(expected), 0) != expected:
                raise Unavailable(f"{path}: is not the shared memory of this version; the node must create it anew")
            return cls(path, fd, wait_ms=wait_ms)
        except BaseException:
            os.close(fd)
            raise

    def wait(self) -> bool:
        """Get the lock that was just found taken. False when it stays taken for `wait_ms`: the holder is stopped.

        After such a failure each call tries only once, until the lock was had again, so that a stopped process costs
        the others `wait_ms` once and not per request.
        """
        fd = self.fd
        tries = 1 if self._stuck else SPINS + int(self.wait_ms / 1000 / SLEEP_S)
        for i in range(tries):
            try:
                fcntl.flock(fd, LOCK)
            except BlockingIOError:
                if i >= SPINS:
                    time.sleep(SLEEP_S)
                continue
            self._stuck = False
            return True
        self._stuck = True
        return False

    def lock(self) -> bool:
        """Take the lock; False when it cannot be had in time (see `wait`). The hot paths do this inline."""
        try:
            fcntl.flock(self.fd, LOCK)
        except BlockingIOError:
            return self.wait()
        return True

    def unlock(self) -> None:
        """Release the lock."""
        fcntl.flock(self.fd, UNLOCK)

    def reserve(self, offset: int, size: int) -> bool:
        """Back `size` bytes at `offset` with memory, keeping what is there; False when there is none left.

        Without it a first touch of the page would end the process (SIGBUS) when memory or disk is full.
        """
        try:
            _allocate(self.fd, offset, size)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
                return False
            raise
        return True

    def close(self) -> None:
        """Unmap and close; the creator also removes `path` if it still leads to this memory. Idempotent."""
        if self.fd < 0:
            return
        self.words.release()
        self.buffer.close()
        if self._identity and _identity_of(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> SharedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def word_pair(digest: bytes) -> tuple[int, int]:
    """The two native words of a 16-byte digest; never (0, 0), which marks an empty place."""
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big") or 1


def _make(staged: Path, *, anonymous: bool) -> tuple[int, str]:
    """New empty memory reachable at `staged`: (descriptor, identity of what `staged` is)."""
    if anonymous and hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        fd = os.memfd_create("interlock", os.MFD_CLOEXEC)
        os.fchmod(fd, 0o600)
        link = f"/proc/{os.getpid()}/fd/{fd}"
        staged.symlink_to(link)
        return fd, link
    fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return fd, _identity_of(staged)


def _identity_of(path: Path) -> str:
    try:
        found = path.lstat()
        return str(path.readlink()) if stat.S_ISLNK(found.st_mode) else f"{found.st_dev}:{found.st_ino}"
    except FileNotFoundError:
        return ""


def _allocate(fd: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # elsewhere the file is sparse and a full disk is not foreseen
        os.posix_fallocate(fd, offset, size)
