"""A node's stored snapshot: one full file and the deltas after it, so that a start needs no database.

Files are numbered in the order in which they were written: `00000001.full`, `00000002.delta`, ... A file is the magic,
then frames of a little-endian u32 length and that many bytes of msgpack: first a `Title`, then each part. What the
database already proved is proved again on reading: each part by its hash, the whole by the root. A delta names the
root that it changes; one that is damaged, or changes another root, is passed over.

A full file is on the disk (fsync) before anything older is removed. Deltas are not synced: after a power loss an older
snapshot is found, which the database then brings up to date. `confirmed` remembers when the database last confirmed
which root; without a matching one, a snapshot counts as confirmed when it was compiled.

One process writes (the node, which holds the home's lock); any may read at any time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from interlock.errors import SnapshotError
from interlock.gateway.snapshot import CATALOGS_MAX, SnapshotView
from interlock.types.snapshot import Head, Part

MAGIC = b"ILSNAP1\n"
FRAME_BYTES_MAX = 256_000_000
"""Largest part that is read from a file."""
READ_TRIES = 3
"""Tries to read a folder whose files are being replaced."""

_LENGTH = struct.Struct("<I")
_PART = msgspec.msgpack.Decoder(Part)


class Title(msgspec.Struct, frozen=True, array_like=True):
    """First frame of a file: the head it leads to, the root it changes (empty: none, it is full), how many parts."""

    head: Head
    base: bytes
    parts: int


class Confirmed(msgspec.Struct, frozen=True):
    """The root that the database last confirmed as the newest, and when (Unix nanoseconds)."""

    root: bytes
    wall_ns: int


_TITLE = msgspec.msgpack.Decoder(Title)
_CONFIRMED = msgspec.msgpack.Decoder(Confirmed)


class SnapshotFolder:
    """The stored snapshot of a node. `path` is created with mode 0700: keys' digests are in it.

    `deltas_max`: deltas after which the snapshot is written whole again. `catalogs_max`: of the views it gives.
    """

    def __init__(self, path: Path, *, deltas_max: int, catalogs_max: int = CATALOGS_MAX) -> None:
        self.path = path
        self._catalogs_max = catalogs_max
        self._deltas_max = deltas_max
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self, cache_max: int) -> SnapshotView | None:
        """The newest snapshot that proves itself, or None when none is stored.

        Raises SnapshotError when there is one and it is damaged: the caller then starts without.
        """
        for attempt in range(READ_TRIES):
            try:
                return self._load(cache_max)
            except FileNotFoundError:
                if attempt == READ_TRIES - 1:
                    raise SnapshotError(f"{self.path}: the stored snapshot changed while it was read") from None
        return None

    def advance(self, view: SnapshotView | None, file: str, cache_max: int) -> SnapshotView | None:
        """The snapshot in `file`: applied to `view` when it is a delta to it, else all of the folder is read anew."""
        if view is not None and file.endswith(".delta"):
            try:
                title, parts = read_file(self.path / file)
            except FileNotFoundError:
                return self.load(cache_max)
            if title.head.root == view.root:
                return view
            if title.base == view.root:
                return view.apply(parts, title.head)
        return self.load(cache_max)

    def store(self, view: SnapshotView, before: SnapshotView | None, parts: Sequence[Part]) -> str:
        """Store `view`, which is `before` with `parts` changed; returns the name of the new file.

        Writes a delta, or the whole when there is no `before`, or when deltas are many or large. Raises OSError.
        """
        numbered = self._numbered()
        number = numbered[-1][0] + 1 if numbered else 1
        if before is None or self._is_due(numbered):
            name = f"{number:08d}.full"
            self._write(name, Title(view.head, b"", len(view.parts())), view.parts(), sync=True)
            for _, old in numbered:
                (self.path / old).unlink(missing_ok=True)
            return name
        name = f"{number:08d}.delta"
        self._write(name, Title(view.head, before.root, len(parts)), parts, sync=False)
        return name

    def confirm(self, root: bytes, wall_ns: int) -> None:
        """Remember that `root` was the newest snapshot at `wall_ns`. Raises OSError."""
        staged = self.path / "confirmed.new"
        staged.write_bytes(msgspec.msgpack.encode(Confirmed(root, wall_ns)))
        staged.replace(self.path / "confirmed")

    def confirmed_ns(self, view: SnapshotView) -> int:
        """When this snapshot was last confirmed (Unix nanoseconds); its compile time when that is not known."""
        try:
            confirmed = _CONFIRMED.decode((self.path / "confirmed").read_bytes())
        except (OSError, msgspec.MsgspecError):
            return view.compiled_ns
        return confirmed.wall_ns if confirmed.root == view.root else view.compiled_ns

    def _load(self, cache_max: int) -> SnapshotView | None:
        numbered = self._numbered()
        fulls = [i for i, (_, name) in enumerate(numbered) if name.endswith(".full")]
        if not fulls:
            return None
        title, parts = read_file(self.path / numbered[fulls[-1]][1])
        view = SnapshotView.from_parts(parts, title.head, cache_max=cache_max, catalogs_max=self._catalogs_max)
        for _, name in numbered[fulls[-1] + 1 :]:
            try:
                title, parts = read_file(self.path / name)
                if title.base == view.root:
                    view = view.apply(parts, title.head)
            except SnapshotError:
                continue  # cut short by a power loss; what was written later names the root before it
        return view

    def _numbered(self) -> list[tuple[int, str]]:
        return sorted(
            (int(entry.stem), entry.name)
            for entry in self.path.iterdir()
            if entry.suffix in (".full", ".delta") and entry.stem.isdigit()
        )

    def _is_due(self, numbered: list[tuple[int, str]]) -> bool:
        """True when the deltas are too many, or together larger than the full file they follow (or that is gone)."""
        if not any(name.endswith(".full") for _, name in numbered):
            return True
        sizes = {".full": 0, ".delta": 0}
        for _, name in numbered:
            file = self.path / name
            sizes[file.suffix] += file.stat().st_size
        deltas = sum(1 for _, name in numbered if name.endswith(".delta"))
        return deltas >= self._deltas_max or sizes[".delta"] > max(sizes[".full"], 1_000_000)

    def _write(self, name: str, title: Title, parts: Sequence[Part], *, sync: bool) -> None:
        staged = self.path / f"{name}.new"
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(MAGIC)
            for item in (title, *parts):
                body = msgspec.msgpack.encode(item)
                file.write(_LENGTH.pack(len(body)) + body)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        staged.replace(self.path / name)
        if sync:
            _sync_folder(self.path)


def read_file(path: Path) -> tuple[Title, list[Part]]:
    """The title and parts of a stored file. Raises FileNotFoundError, or SnapshotError when it is damaged."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise SnapshotError(f"{path}: is not a stored snapshot")
        frames = _frames(file, path)
        try:
            title = _TITLE.decode(next(frames, b""))
            parts = [_PART.decode(frame) for frame in frames]
        except msgspec.MsgspecError as e:
            raise SnapshotError(f"{path}: cannot be decoded: {e}") from None
    if len(parts) != title.parts:
        raise SnapshotError(f"{path}: holds {len(parts)} of {title.parts} parts")
    return title, parts


def _frames(file: BinaryIO, path: Path) -> Iterator[bytes]:
    while length_bytes := file.read(_LENGTH.size):
        length = _LENGTH.unpack(length_bytes)[0] if len(length_bytes) == _LENGTH.size else FRAME_BYTES_MAX + 1
        frame = file.read(length) if length <= FRAME_BYTES_MAX else b""
        if len(frame) != length:
            raise SnapshotError(f"{path}: is cut off")
        yield frame


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
