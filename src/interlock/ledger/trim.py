"""Remove from a node's log what is in the ledger: whole epochs, and the first segments of one that goes on.

Only what its shipper vouches for, and only after `log_keep_s`. Killed at any point, the rest is removed next time, and
no reader takes for damage what was removed: `first` is durable before a segment goes, and an epoch's folder is renamed
out of the way before it is emptied.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from interlock.ledger.files import Files, put_marker
from interlock.ledger.folder import FIRST, GONE, first_segment, segment_path, segments


def drop_epoch(folder: Path, epoch: str, before_s: float) -> bool:
    """Remove an epoch that ended and is in the ledger, if nothing was written to it since `before_s` (Unix time)."""
    indices = segments(folder, epoch)
    try:
        if indices and segment_path(folder, epoch, indices[-1]).stat().st_mtime > before_s:
            return False
        gone = folder / f"{GONE}{epoch}"
        (folder / epoch).rename(gone)
    except FileNotFoundError:
        return False
    shutil.rmtree(gone)
    return True


def drop_segments(folder: Path, epoch: str, through: int, before_s: float, files: Files) -> int:
    """Remove the segments before `through` that are older than `before_s`, oldest first; returns how many."""
    old = []
    for index in segments(folder, epoch):
        if index >= through or segment_path(folder, epoch, index).stat().st_mtime > before_s:
            break
        old.append(index)
    if not old:
        return 0
    if first_segment(folder, epoch) <= old[-1]:
        put_marker(files, folder / epoch / FIRST, str(old[-1] + 1).encode())
    for index in old:
        files.unlink(segment_path(folder, epoch, index))
    return len(old)


def finish_drops(folder: Path) -> None:
    """Remove what an earlier process had renamed and not emptied."""
    for entry in os.scandir(folder):
        if entry.name.startswith(GONE):
            shutil.rmtree(entry.path, ignore_errors=True)
