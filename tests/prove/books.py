"""What the record log of a proof holds, read as it grows, and what the disk had taken of it at which instant."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from interlock.errors import LogCorrupt
from interlock.ledger.epoch import EpochReader
from interlock.ledger.folder import CLOSED, RECOVERED, epochs
from interlock.ledger.format import HEAD_BYTES, decode
from interlock.types.record import (
    Alive,
    Attempt,
    AttemptEnd,
    Chunk,
    EpochClose,
    EpochOpen,
    EpochRecovered,
    Held,
    Intent,
    Interrupted,
    Outcome,
    Record,
    Refusal,
    StepEnd,
    request_id,
)

from .script import Said, said_in
from .worker import NOTE, SYNC, Note, notes_in

Place = tuple[int, int]
"""Segment, and where in it a record's frame ends."""
Reached = dict[str, tuple[list[Place], list[int]]]
"""By epoch: how far its log had come, and when (monotonic ns), both ascending."""


@dataclasses.dataclass(slots=True)
class CallBook:
    """All records of one call. What its chunks say is added up as they come; they themselves are not kept."""

    epoch: str
    number: int
    intent: Intent | None = None
    refusal: Refusal | None = None
    attempts: list[tuple[Attempt, Place]] = dataclasses.field(default_factory=list)
    ends: list[AttemptEnd] = dataclasses.field(default_factory=list)
    steps: list[StepEnd] = dataclasses.field(default_factory=list)
    outcome: Outcome | None = None
    outcome_place: Place = (0, 0)
    interrupted: list[Interrupted] = dataclasses.field(default_factory=list)
    chunks: int = 0
    chunk_places: list[Place] = dataclasses.field(default_factory=list)
    text_bytes: int = 0
    said: Said = dataclasses.field(default_factory=dict)
    digest: bytes = b""
    _digest: object = None

    @property
    def id(self) -> str:
        """The request id."""
        return request_id(self.epoch, self.number)

    @property
    def running(self) -> Attempt | None:
        """The attempt that was under way when the records end."""
        return self.attempts[-1][0] if len(self.attempts) > len(self.ends) + len(self.steps) else None

    @property
    def settled(self) -> bool:
        """Whether it is known how it ended."""
        return self.outcome is not None or self.refusal is not None or bool(self.interrupted)


class EpochBook:
    """One epoch: its calls, and whatever in it is not as it must be (`problems`)."""

    def __init__(self, folder: Path, epoch: str) -> None:
        self.epoch = epoch
        self.calls: dict[int, CallBook] = {}
        self.problems: list[str] = []
        self.pid = 0
        self.records = 0
        self.last_seq = 0
        self.closed = False
        self.recovered: list[EpochRecovered] = []
        self.interrupted: list[Interrupted] = []
        self.torn_bytes = 0
        self._reader = EpochReader(folder, epoch)
        self._ended = False
        self._with_places: list[CallBook] = []

    def close(self) -> None:
        """Release the open segment."""
        self._reader.close()

    def read(self, *, over: bool) -> None:
        """Take in what was written since the last time. `over`: nothing more will be."""
        if self._ended:
            return
        try:
            for frame in self._reader.frames():
                seq, offset, body = frame.seq, frame.offset, frame.body
                if seq != self.last_seq + 1:
                    self.problems.append(f"epoch {self.epoch}: record {seq} follows {self.last_seq}")
                self.last_seq = seq
                self.records += 1
                self._take(decode(body), (frame.segment, offset + HEAD_BYTES + len(body)))
            if over:
                self._reader.end()
                self.torn_bytes = self._reader.torn_bytes
        except LogCorrupt as e:
            self.problems.append(f"epoch {self.epoch}: {e.message}")
            over = True
        if over:
            self._ended = True
            self.close()

    def drop_places(self) -> None:
        """Forget where chunks lie: they have been judged."""
        for call in self._with_places:
            call.chunk_places.clear()
        self._with_places.clear()

    def _take(self, record: Record, place: Place) -> None:
        if self.closed:
            self.problems.append(f"epoch {self.epoch}: {type(record).__name__} after EpochClose")
        if isinstance(record, (Alive, Held)):
            return
        if isinstance(record, EpochOpen):
            self.pid = record.pid
        elif isinstance(record, EpochClose):
            self.closed = True
            if record.last_seq != self.last_seq - 1:
                self.problems.append(f"epoch {self.epoch}: EpochClose says {record.last_seq}, not {self.last_seq - 1}")
        elif isinstance(record, EpochRecovered):
            self.recovered.append(record)
        elif isinstance(record, Interrupted):
            self.interrupted.append(record)
        else:
            self._of_call(record, place)

    def _of_call(
        self, record: Intent | Refusal | Attempt | AttemptEnd | StepEnd | Chunk | Outcome, place: Place
    ) -> None:
        call = self.calls.get(record.call)
        if call is None:
            call = self.calls[record.call] = CallBook(self.epoch, record.call)
            call._digest = sha256()
        kind = type(record).__name__
        if call.outcome is not None or call.refusal is not None:
            self._wrong(call, f"{kind} after its end")
        if isinstance(record, Intent):
            if call.intent is not None:
                self._wrong(call, "second Intent")
            call.intent = record
            return
        if isinstance(record, Refusal):
            if call.intent is not None:
                self._wrong(call, "Refusal after an Intent")
            call.refusal = record
            return
        if call.intent is None:
            self._wrong(call, f"{kind} before its Intent")
        if isinstance(record, Attempt):
            if record.number != len(call.attempts) or call.running is not None:
                over = len(call.ends) + len(call.steps)
                self._wrong(call, f"attempt {record.number} after {len(call.attempts)} with {over} ends")
            call.attempts.append((record, place))
        elif isinstance(record, AttemptEnd):
            if record.number != len(call.attempts) - 1:
                self._wrong(call, f"end of attempt {record.number}, not of {len(call.attempts) - 1}")
            call.ends.append(record)
        elif isinstance(record, StepEnd):
            if call.running is None or record.attempt != call.running.number or record.model != call.running.model:
                self._wrong(call, f"end of a step in attempt {record.attempt}, which does not run")
            if call.steps and record.step <= call.steps[-1].step:
                self._wrong(call, f"step {record.step} after step {call.steps[-1].step}")
            call.steps.append(record)
        elif isinstance(record, Chunk):
            self._chunk(call, record, place)
        else:
            call.outcome, call.outcome_place = record, place
            call.digest = call._digest.digest()  # type: ignore[attr-defined]
            call._digest = None

    def _chunk(self, call: CallBook, chunk: Chunk, place: Place) -> None:
        if chunk.index != call.chunks:
            self._wrong(call, f"chunk {chunk.index} follows {call.chunks - 1}")
        if call.running is None:
            self._wrong(call, "chunk without a running attempt")
        if not call.chunks:
            self._with_places.append(call)
        call.chunks += 1
        call.chunk_places.append(place)
        call.text_bytes += len(chunk.text.encode())
        call._digest.update(chunk.raw or chunk.text.encode())  # type: ignore[attr-defined]
        if chunk.raw:
            said_in(chunk.raw, call.said)
        elif chunk.text:
            call.said[0, "text"] = call.said.get((0, "text"), "") + chunk.text

    def _wrong(self, call: CallBook, words: str) -> None:
        self.problems.append(f"{call.id}: {words}")


class Books:
    """All epochs of a log. `read` brings them up to date."""

    def __init__(self, folder: Path, syncs: Path) -> None:
        self.folder = folder
        self.epochs: dict[str, EpochBook] = {}
        self._notes_file = syncs
        self._notes_read = 0
        self._written: Reached = {}
        self._durable: Reached = {}
        self.sync_ns_max = 0
        self.syncs = 0

    def close(self) -> None:
        """Release what is open."""
        for book in self.epochs.values():
            book.close()

    def read(self) -> None:
        """Take in what was written since the last time, and the Interrupted records of all to the calls they are of."""
        for epoch in epochs(self.folder):
            if epoch not in self.epochs:
                self.epochs[epoch] = EpochBook(self.folder, epoch)
        for book in self.epochs.values():
            book.read(over=self.is_over(book.epoch))
        for book in self.epochs.values():
            for call in book.calls.values():
                call.interrupted.clear()
        for book in self.epochs.values():
            for record in book.interrupted:
                dead = self.epochs.get(record.epoch)
                left_open = dead.calls.get(record.call) if dead is not None else None
                if left_open is None:
                    book.problems.append(f"epoch {book.epoch}: Interrupted of an unknown call of {record.epoch}")
                else:
                    left_open.interrupted.append(record)
        self._read_notes()

    def forget(self, epoch: str) -> None:
        """Read this epoch again from its beginning: its files were changed."""
        self.epochs.pop(epoch).close()

    def call(self, epoch: str, number: int) -> CallBook | None:
        """The records of a call."""
        book = self.epochs.get(epoch)
        return book.calls.get(number) if book is not None else None

    def calls(self) -> Iterator[CallBook]:
        """All calls of all epochs."""
        for book in self.epochs.values():
            yield from book.calls.values()

    def is_over(self, epoch: str) -> bool:
        """Whether an epoch's accounts are closed: it ended in good order, or was recovered."""
        return (self.folder / epoch / CLOSED).exists() or (self.folder / epoch / RECOVERED).exists()

    def open_epochs(self) -> list[str]:
        """Epochs whose accounts are not closed: their worker lives, or nobody has recovered them yet."""
        return [epoch for epoch in epochs(self.folder) if not self.is_over(epoch)]

    # -- what the disk had taken

    def written_ns(self, epoch: str, place: Place) -> int | None:
        """When a record was written (monotonic ns); None: it is not known."""
        return _reached(self._written, epoch, place)

    def durable_ns(self, epoch: str, place: Place) -> int | None:
        """When a record became durable (monotonic ns); None: it never was."""
        return _reached(self._durable, epoch, place)

    def durable_size(self, epoch: str, segment: int) -> int:
        """How much of a segment was durable at last."""
        places, _ = self._durable.get(epoch, ((), ()))
        return max((size for s, size in places if s == segment), default=0)

    def _read_notes(self) -> None:
        with self._notes_file.open("rb") as file:
            file.seek(self._notes_read)
            notes = notes_in(file.read())
        self._notes_read += len(notes) * NOTE.size
        for note in sorted(notes, key=lambda n: n.ended_ns):
            if note.kind == SYNC:
                self.syncs += 1
                self.sync_ns_max = max(self.sync_ns_max, note.ended_ns - note.began_ns)
            _reach(self._durable if note.kind == SYNC else self._written, note)


def _reach(reached: Reached, note: Note) -> None:
    places, instants = reached.setdefault(note.epoch, ([], []))
    place = (note.segment, note.size)
    if not places or place > places[-1]:
        places.append(place)
        instants.append(note.ended_ns)


def _reached(reached: Reached, epoch: str, place: Place) -> int | None:
    places, instants = reached.get(epoch, ((), ()))
    index = bisect_left(places, place)
    return instants[index] if index < len(instants) else None
