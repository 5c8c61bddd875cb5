"""How much of the disk the record log of this node takes, over all its workers and all its epochs, and what is free.

Measured about once a second on the event loop, so it must be cheap: a segment that has a successor does not change
any more, an epoch that is closed or recovered does not either, and folders are listed again only when they have
changed. What is left is a few `stat` for each worker that runs now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interlock.errors import LogError
from interlock.ledger.files import Files
from interlock.ledger.folder import CLOSED, RECOVERED, epochs, segment_path, segments
from interlock.ledger.refusals import little_room, over_budget, unmeasured
from interlock.settings import Settings


@dataclass(slots=True)
class _Epoch:
    listed_ns: int = -1
    settled: bool = False
    sealed_bytes: int = 0
    last: int = -1
    last_bytes: int = 0
    ended: bool = False


class DiskUse:
    """Follows the size of one log folder. Only segments are counted; the markers are empty or nearly so."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._epochs: dict[str, _Epoch] = {}
        self._listed_ns = -1
        self._settled = False

    def used_bytes(self) -> int:
        """Bytes of all segments of all epochs. Raises OSError."""
        changed_ns = self._folder.stat().st_mtime_ns
        if changed_ns != self._listed_ns or not self._settled:
            # Twice for each change: another epoch may be made within one tick of the file system's clock.
            self._settled = changed_ns == self._listed_ns
            self._epochs = {name: self._epochs.get(name) or _Epoch() for name in epochs(self._folder)}
            self._listed_ns = changed_ns
        total = 0
        for name, epoch in self._epochs.items():
            if not epoch.ended:
                self._measure(name, epoch)
            total += epoch.sealed_bytes + epoch.last_bytes
        return total

    def free_bytes(self) -> int:
        """Bytes that may still be written to the disk of the folder. Raises OSError."""
        return self._files.free_bytes(self._folder)

    def _measure(self, name: str, epoch: _Epoch) -> None:
        folder = self._folder / name
        ended = (folder / CLOSED).exists() or (folder / RECOVERED).exists()
        try:
            changed_ns = folder.stat().st_mtime_ns
        except FileNotFoundError:
            self._epochs[name] = _Epoch()  # removed, as everything of it is in the ledger
            return
        if changed_ns != epoch.listed_ns or not epoch.settled:
            epoch.settled = changed_ns == epoch.listed_ns
            epoch.listed_ns = changed_ns
            *sealed, epoch.last = segments(self._folder, name) or [-1]
            epoch.sealed_bytes = sum(_size(segment_path(self._folder, name, index)) for index in sealed)
        epoch.last_bytes = _size(segment_path(self._folder, name, epoch.last)) if epoch.last >= 0 else 0
        epoch.ended = ended and epoch.settled


class DiskBudget:
    """Whether the disk has room for new calls. Between two checks this worker's own writing is counted against it.

    `used_bytes`, `free_bytes`: as of the last check. `room`: the log may go on in a new segment after a full disk.
    """

    def __init__(self, folder: Path, files: Files, settings: Settings) -> None:
        self.used_bytes = self.free_bytes = 0
        self.allows_total = 0
        self.room = False
        self._use = DiskUse(folder, files)
        self._used_max = settings.log_disk_bytes_max
        self._free_min = settings.log_disk_free_bytes_min
        self._refusal: LogError | None = None

    def check(self, written_total: int) -> None:
        """Measure. `written_total`: bytes this worker has written until now."""
        try:
            self.used_bytes, self.free_bytes = self._use.used_bytes(), self._use.free_bytes()
        except OSError as e:
            self.allows_total = -1
            self.room = False
            self._refusal = unmeasured(e)
            return
        used_room, free_room = self._used_max - self.used_bytes, self.free_bytes - self._free_min
        self.allows_total = written_total + max(min(used_room, free_room), 0)
        self.room = free_room > 0
        self._refusal = None
        if used_room <= 0 or free_room <= 0:
            self._refusal = self._reached(used_room <= 0)

    def refusal(self, written_total: int) -> LogError | None:
        """Why no new call may be admitted after `written_total` bytes of this worker; None when one may."""
        if self._refusal is None and written_total > self.allows_total:
            self._refusal = self._reached(self._used_max - self.used_bytes < self.free_bytes - self._free_min)
        return self._refusal

    def _reached(self, budget: bool) -> LogError:
        return over_budget(self.used_bytes) if budget else little_room(self.free_bytes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
