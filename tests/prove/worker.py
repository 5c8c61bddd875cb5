"""The real worker, which also notes what it does, in files that survive its death.

`PROVE_SYNCS`: file that each finished fdatasync of a log segment is noted in: how much of the segment was written
before it began, when it began and when it had ended. The note is made before anybody is told that the sync has ended.

`PROVE_ADMISSIONS`: folder with a file per worker that each admitted call is noted in, after it was admitted, and its
end before it is given back (see `limits`). The limits' clock then runs `SPEED` times as fast.
"""

from __future__ import annotations

import os
import re
import struct
import time
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from interlock.gateway import worker
from interlock.ledger.files import Files
from interlock.metering.limits import Admission, LimitHit, LimitTable, Subject

SYNC = struct.Struct("<16sIQQQ")
SEGMENT = re.compile(r"/([0-9a-z]{16})/(\d{6,})\.wal")
ADMITTED = struct.Struct("@qqqqqqq")
SPEED = 20
SUBJECTS = ("key", "principal", "team")


class Sync(NamedTuple):
    """The first `size` bytes of a segment were made durable between two instants (monotonic ns)."""

    epoch: str
    segment: int
    size: int
    began_ns: int
    ended_ns: int


def syncs_in(data: bytes) -> list[Sync]:
    """The whole notes in a file of them."""
    whole = len(data) // SYNC.size * SYNC.size
    return [Sync(e.decode(), *rest) for e, *rest in SYNC.iter_unpack(data[:whole])]


def note_syncs(path: str) -> None:
    """Note every fdatasync of a segment that this process makes."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    real = Files.fdatasync

    def noting(self: Files, fd: int) -> None:
        place = SEGMENT.search(os.readlink(f"/proc/self/fd/{fd}"))
        size = os.fstat(fd).st_size
        began_ns = time.monotonic_ns()
        real(self, fd)
        if place is not None:
            note = SYNC.pack(place[1].encode(), int(place[2]), size, began_ns, time.monotonic_ns())
            os.write(notes, note)

    Files.fdatasync = noting  # type: ignore[method-assign]


class Admitted(NamedTuple):
    """A noted admission: instant on the fast clock, tokens reserved or used, start and end (0: none) on the real one.

    `key`, `principal`, `team`: `mark_of` what it was counted on, 0 for nothing.
    """

    at_ns: int
    key: int
    principal: int
    team: int
    tokens: int
    started_ns: int
    ended_ns: int


def mark_of(subject_id: str) -> int:
    """A number that stands for a subject in the notes."""
    return crc32(subject_id.encode())


def admitted_in(data: bytes) -> list[Admitted]:
    """The whole notes in a file of them."""
    whole = len(data) // ADMITTED.size * ADMITTED.size
    return [Admitted(*fields) for fields in ADMITTED.iter_unpack(data[:whole])]


def note_admissions(folder: str) -> None:
    """Note every admission and settlement of this process, and let the limits' clock run fast."""
    notes = os.open(Path(folder) / str(os.getpid()), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    admit, settle = LimitTable.admit, LimitTable.settle
    held: dict[int, tuple[int, Admitted]] = {}
    count = 0

    def noting_admit(
        self: LimitTable, subjects: tuple[Subject, ...], tokens: int, now_ns: int
    ) -> Admission | LimitHit:
        nonlocal count
        admission = admit(self, subjects, tokens, now_ns * SPEED)
        if isinstance(admission, Admission):
            marks = {s.kind: mark_of(s.id) for s in subjects}
            on = (marks.get(kind, 0) for kind in SUBJECTS)
            note = Admitted(admission.at_ns, *on, tokens, time.monotonic_ns(), 0)
            os.pwrite(notes, ADMITTED.pack(*note), count * ADMITTED.size)
            held[id(admission)] = (count, note)
            count += 1
        return admission

    def noting_settle(self: LimitTable, admission: Admission, tokens: int, now_ns: int) -> None:
        if not admission.settled:
            place, note = held.pop(id(admission))
            ended = note._replace(tokens=tokens, ended_ns=time.monotonic_ns())
            os.pwrite(notes, ADMITTED.pack(*ended), place * ADMITTED.size)
        settle(self, admission, tokens, now_ns * SPEED)

    LimitTable.admit = noting_admit  # type: ignore[method-assign,assignment]
    LimitTable.settle = noting_settle  # type: ignore[method-assign]


if __name__ == "__main__":
    if path := os.environ.get("PROVE_SYNCS"):
        note_syncs(path)
    if folder := os.environ.get("PROVE_ADMISSIONS"):
        note_admissions(folder)
    worker.main()
