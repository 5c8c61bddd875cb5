"""Read an export folder that may be hostile: no links, no pipes or devices, no endless lines, nothing outside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from interlock.ledger.proof.entry import LEAF_BYTES_MAX
from interlock.ledger.proof.errors import ProofError

_READ = 256 << 10


class Missing(ProofError):
    """There is no such file or folder in the export."""


class Source:
    """An export folder, opened. Names are given as parts, each a plain name. Use it as a context manager.

    Links inside the folder are refused. ProofError if the folder itself cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise Missing(f"the folder cannot be opened: {_reason(error)}") from None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    def open(self, *parts: str) -> int:
        """A descriptor of a regular file, to be closed by the caller. Missing or ProofError otherwise."""
        name = "/".join(parts)
        descriptor = self._open(parts, os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ProofError(f"{name} is not a regular file")
        return descriptor

    def names(self, *parts: str) -> list[str]:
        """The sorted names in a folder, without those that begin with a dot. Missing or ProofError otherwise."""
        descriptor = self._open(parts, os.O_DIRECTORY)
        try:
            names = os.listdir(descriptor)  # noqa: PTH208 - a Path cannot be relative to a descriptor
            return sorted(name for name in names if not name.startswith("."))
        except OSError as error:
            raise ProofError(f"{'/'.join(parts)} cannot be listed: {_reason(error)}") from None
        finally:
            os.close(descriptor)

    def read(self, *parts: str, limit: int = LEAF_BYTES_MAX) -> bytes:
        """All of a file of at most `limit` bytes. Missing or ProofError otherwise."""
        name = "/".join(parts)
        pieces, size = [], 0
        for piece in self.pieces(*parts):
            size += len(piece)
            if size > limit:
                raise ProofError(f"{name} is longer than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def pieces(self, *parts: str) -> Iterator[bytes]:
        """A file in pieces of at most 256 KiB. Missing or ProofError if it cannot be read."""
        descriptor = self.open(*parts)
        try:
            while piece := os.read(descriptor, _READ):
                yield piece
        except OSError as error:
            raise ProofError(f"{'/'.join(parts)} cannot be read: {_reason(error)}") from None
        finally:
            os.close(descriptor)

    def read_at(self, offset: int, size: int, *parts: str) -> bytes:
        """`size` bytes of a file from `offset` on, fewer where it ends. Missing or ProofError if it cannot be read."""
        descriptor = self.open(*parts)
        pieces = []
        try:
            while size > 0 and (piece := os.pread(descriptor, size, offset)):
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise ProofError(f"{'/'.join(parts)} cannot be read: {_reason(error)}") from None
        finally:
            os.close(descriptor)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def chunks(self, *parts: str) -> Iterator[bytes]:
        """The lines of a file, as many together as one read ended; each chunk ends with a newline.

        Missing or ProofError if it cannot be read, if a line is longer than `LEAF_BYTES_MAX`, or if the last line has
        no newline; the lines before were given.
        """
        name, size = "/".join(parts), 0
        begun: list[bytes] = []
        for piece in self.pieces(*parts):
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join([*begun, memoryview(piece)[:end]])
                begun, size = [], 0
            begun.append(piece[end:])
            size += len(piece) - end
            if size > LEAF_BYTES_MAX:
                raise ProofError(f"{name} has a line longer than {LEAF_BYTES_MAX} bytes")
        if size:
            raise ProofError(f"{name} ends inside a line")

    def lines(self, *parts: str) -> Iterator[bytes]:
        """The lines of a file without their newlines. Errors are those of `chunks`."""
        for chunk in self.chunks(*parts):
            yield from chunk[:-1].split(b"\n")

    def _open(self, parts: tuple[str, ...], flags: int) -> int:
        """Open part by part, each relative to the one before, so that no link on the way is followed."""
        name = "/".join(parts)
        descriptor = os.dup(self._root)
        try:
            for number, part in enumerate(parts, 1):
                last = number == len(parts)
                how = flags if last else os.O_DIRECTORY
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | how, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
        except FileNotFoundError:
            os.close(descriptor)
            raise Missing(f"{name} is missing") from None
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise ProofError(f"{name} cannot be opened: {_reason(error)}") from None
        return descriptor


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
