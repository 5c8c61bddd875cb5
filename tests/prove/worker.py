"""The real worker, which also notes what it does, in files that survive its death, and whose disk is slow at times.

`PROVE_SYNCS`: file that each write and each fdatasync of a log segment is noted in: how much of the segment it covers,
when it began and when it had ended. The note is made before anybody is told of it.

`PROVE_SLOW`: some writes and syncs then take a few milliseconds longer. What leaves too early is seen too early, and a
kill meets more often what lies in between.

`PROVE_FAULTS`: file that says, while it is there, what is wrong with the disk: "full" (ENOSPC, no space free),
"failing" (now and then EIO of an fdatasync), or "short" (writes take a part of what they are given).

`PROVE_ADMISSIONS`: folder with a file per worker that each admitted call is noted in, after it was admitted, and its
end before it is given back (see `limits`). The limits' clock then runs `SPEED` times as fast.
"""

from __future__ import annotations

import errno
import os
import random
import re
import struct
import time
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from interlock.gateway import worker
from interlock.ledger.files import Files
from interlock.metering.limits import Admission, LimitHit, LimitTable, Subject

NOTE = struct.Struct("<c16sIQQQ")
WRITE, SYNC = b"w", b"s"
SEGMENT = re.compile(r"/([0-9a-z]{16})/(\d{6,})\.wal")
ADMITTED = struct.Struct("@qqqqqqq")
SPEED = 20
SUBJECTS = ("key", "principal", "team")
FULL, FAILING, SHORT = "full", "failing", "short"
SLOW = {WRITE: (0.05, 0.004), SYNC: (0.3, 0.01)}
"""How many writes and syncs are slow, and by how many seconds at most."""


class Note(NamedTuple):
    """The first `size` bytes of a segment were written, or made durable, between two instants (monotonic ns)."""

    kind: bytes
    epoch: str
    segment: int
    size: int
    began_ns: int
    ended_ns: int


def notes_in(data: bytes) -> list[Note]:
    """The whole notes in a file of them."""
    whole = len(data) // NOTE.size * NOTE.size
    return [Note(kind, epoch.decode(), *rest) for kind, epoch, *rest in NOTE.iter_unpack(data[:whole])]


def note_files(path: str, *, slow: bool) -> None:
    """Note every write to a segment and every fdatasync of one that this process makes."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    write, sync = Files.write, Files.fdatasync

    def note(kind: bytes, fd: int, size: int, began_ns: int) -> None:
        place = SEGMENT.search(os.readlink(f"/proc/self/fd/{fd}"))
        if place is not None:
            os.write(notes, NOTE.pack(kind, place[1].encode(), int(place[2]), size, began_ns, time.monotonic_ns()))

    def linger(kind: bytes) -> None:
        share, seconds = SLOW[kind]
        if slow and random.random() < share:
            time.sleep(random.uniform(0, seconds))

    def noting_write(self: Files, fd: int, data: bytes | memoryview) -> int:
        began_ns = time.monotonic_ns()
        linger(WRITE)
        count = write(self, fd, data)
        note(WRITE, fd, os.fstat(fd).st_size, began_ns)
        return count

    def noting_sync(self: Files, fd: int) -> None:
        size, began_ns = os.fstat(fd).st_size, time.monotonic_ns()
        linger(SYNC)
        sync(self, fd)
        note(SYNC, fd, size, began_ns)

    Files.write = noting_write  # type: ignore[method-assign]
    Files.fdatasync = noting_sync  # type: ignore[method-assign]


def faulty_disk(path: str) -> None:
    """Let the disk do what the file says."""
    write, sync, free = Files.write, Files.fdatasync, Files.free_bytes

    def wrong() -> str:
        try:
            return Path(path).read_text()
        except OSError:
            return ""

    def faulty_write(self: Files, fd: int, data: bytes | memoryview) -> int:
        fault = wrong()
        if fault == FULL:
            raise OSError(errno.ENOSPC, "injected")
        if fault == SHORT and len(data) > 1 and random.random() < 0.5:
            data = data[: random.randrange(1, len(data))]
        return write(self, fd, data)

    def faulty_sync(self: Files, fd: int) -> None:
        if wrong() == FAILING and random.random() < 0.1:
            raise OSError(errno.EIO, "injected")
        sync(self, fd)

    Files.write = faulty_write  # type: ignore[method-assign]
    Files.fdatasync = faulty_sync  # type: ignore[method-assign]
    Files.free_bytes = (  # type: ignore[method-assign]
        lambda self, path: 0 if wrong() == FULL else free(self, path)
    )


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

    def noting_admit(self: LimitTable, subjects: tuple[Subject, ...], tokens: int, now_ns: int) -> Admission | LimitHit:
        nonlocal count
        admission = admit(self, subjects, tokens, now_ns * SPEED)
        if isinstance(admission, Admission):
            marks = {s.kind: mark_of(s.id) for s in subjects}
            key, principal, team = (marks.get(kind, 0) for kind in SUBJECTS)
            note = Admitted(admission.at_ns, key, principal, team, tokens, time.monotonic_ns(), 0)
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
        note_files(path, slow=bool(os.environ.get("PROVE_SLOW")))
    if folder := os.environ.get("PROVE_ADMISSIONS"):
        note_admissions(folder)
    if fault := os.environ.get("PROVE_FAULTS"):
        faulty_disk(fault)
    worker.main()
