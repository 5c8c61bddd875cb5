"""The making of an epoch: its folder, its lock, its first segment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from interlock.ledger.files import Files, make_folders, sync_folder
from interlock.ledger.flusher import create_segment
from interlock.ledger.folder import LOCK, birth_lock, new_epoch_id, take_lock
from interlock.ledger.format import SegmentHeader
from interlock.types.clock import Clock


def begin_epoch(
    folder: Path, files: Files, clock: Clock, entropy: Callable[[int], bytes]
) -> tuple[SegmentHeader, int, int]:
    """Make a new epoch, durable: (header of its first segment, descriptor of the lock, of the segment).

    Raises OSError. What a failure leaves behind is an unlocked epoch without records, which recovery marks as done.
    """
    make_folders(files, folder)
    with birth_lock(files, folder):
        while True:
            epoch = new_epoch_id(clock.wall_ns(), entropy)
            try:
                files.mkdir(folder / epoch)
            except FileExistsError:
                continue
            break
        lock_fd = take_lock(files, folder / epoch / LOCK)
        if lock_fd is None:
            raise OSError(f"the lock of the new epoch {epoch} is held by another process")
    try:
        header = SegmentHeader(0, epoch, 1, 0, clock.wall_ns(), new_salt(entropy))
        fd = create_segment(files, folder, header)
    except BaseException:
        files.close(lock_fd)
        raise
    try:
        sync_folder(files, folder)
    except BaseException:
        files.close(fd)
        files.close(lock_fd)
        raise
    return header, lock_fd, fd


def new_salt(entropy: Callable[[int], bytes]) -> int:
    """The random salt of a segment's marks."""
    return int.from_bytes(entropy(4), "little")
