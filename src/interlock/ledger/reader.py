"""Read records: of a segment, an epoch, one call, or of everything as it is being written. Nothing here writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

import msgspec

from interlock.errors import LogCorrupt
from interlock.ledger.epoch import EpochReader
from interlock.ledger.folder import CLOSED, RECOVERED, epoch_ms, epochs, is_epoch, recovering_in, segment_path, segments
from interlock.ledger.format import call_prefix, decode, encode, record_call, record_kind
from interlock.ledger.segment import Frame
from interlock.types.record import (
    Alive,
    Attempt,
    AttemptEnd,
    Chunk,
    EnergyMeasured,
    EpochClose,
    EpochOpen,
    EpochRecovered,
    Feedback,
    Held,
    Intent,
    Interrupted,
    Outcome,
    Record,
    Refusal,
    StepEnd,
    parse_request_id,
)

__all__ = ["CallRecords", "Stored", "Tailed", "epochs", "find_call", "read_epoch", "read_segment", "tail"]

CALL_KINDS = frozenset({2, 3, 4, 5, 6, 7, 15})
"""Kinds of the records whose second element is a call number."""


class Stored(NamedTuple):
    """A record and where it lies: sequence number in its epoch, segment, offset of its frame in that segment."""

    seq: int
    record: Record
    segment: int
    offset: int


class Tailed(NamedTuple):
    """A record as `tail` gives it. `wall_ns`: its own time, or that of the last record before it that has one."""

    epoch: str
    stored: Stored
    wall_ns: int


class CallRecords(msgspec.Struct, frozen=True):
    """Everything the log has of one call, in the order in which it was written."""

    epoch: str
    call: int
    stored: tuple[Stored, ...]
    intent: Intent | None = None
    refusal: Refusal | None = None
    attempts: tuple[Attempt, ...] = ()
    attempt_ends: tuple[AttemptEnd, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    outcome: Outcome | None = None
    interrupted: Interrupted | None = None
    step_ends: tuple[StepEnd, ...] = ()

    @property
    def state(self) -> str:
        """ "refused", the outcome's state, "interrupted", or "open" when none of these is in the log yet."""
        if self.refusal is not None:
            return "refused"
        if self.outcome is not None:
            return self.outcome.state
        return "open" if self.interrupted is None else "interrupted"


def read_segment(folder: Path, epoch: str, segment: int) -> Iterator[Stored]:
    """Whole records of one segment. A torn tail ends it, if it is the last one. Raises LogCorrupt."""
    with EpochReader(folder, epoch, from_segment=segment) as reader:
        for frame in reader.frames():
            if frame.segment != segment:
                return
            yield _stored(epoch, frame)
        reader.end()


def read_epoch(folder: Path, epoch: str, *, from_segment: int = 0) -> Iterator[Stored]:
    """Whole records of an epoch, up to what is written now. A torn tail ends it. Raises LogCorrupt with the place."""
    with EpochReader(folder, epoch, from_segment=from_segment) as reader:
        for frame in reader.frames():
            yield _stored(epoch, frame)
        reader.end()


def find_call(folder: Path, request_id: str) -> CallRecords | None:
    """All records of one call, None when there is none. Reads from the segment where it seems to begin to its end.

    Raises LogCorrupt.
    """
    try:
        epoch, call = parse_request_id(request_id)
    except ValueError:
        return None
    if not is_epoch(epoch) or not 0 < call < 1 << 63:
        return None
    found = _call_from(folder, epoch, call, _likely_segment(folder, epoch, call))
    if not found or not isinstance(found[0].record, (Intent, Refusal)):
        found = _call_from(folder, epoch, call, 0)
    if not found:
        return None
    records = [stored.record for stored in found]
    outcome = next((r for r in records if isinstance(r, Outcome)), None)
    return CallRecords(
        epoch,
        call,
        tuple(found),
        intent=next((r for r in records if isinstance(r, Intent)), None),
        refusal=next((r for r in records if isinstance(r, Refusal)), None),
        attempts=tuple(r for r in records if isinstance(r, Attempt)),
        attempt_ends=tuple(r for r in records if isinstance(r, AttemptEnd)),
        chunks=tuple(r for r in records if isinstance(r, Chunk)),
        outcome=outcome,
        interrupted=interrupted_of(folder, epoch).get(call) if outcome is None else None,
        step_ends=tuple(r for r in records if isinstance(r, StepEnd)),
    )


def tail(
    folder: Path,
    *,
    follow: bool = False,
    since_ns: int = 0,
    poll_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    on_damage: Callable[[LogCorrupt], None] | None = None,
) -> Iterator[Tailed]:
    """Records of all epochs merged by time, from `since_ns` (Unix) on; with `follow` it goes on as they are written.

    Between workers the order is by their clocks; within one it is the log's. A damaged epoch raises LogCorrupt, or is
    left at the damage when `on_damage` is given.
    """
    tails: dict[str, _EpochTail] = {}
    try:
        while True:
            for name in epochs(folder):
                if name not in tails:
                    tails[name] = _EpochTail(folder, name, since_ns, on_damage)
            for tailed in _merge([each for each in tails.values() if not each.ended], last=not follow):
                if tailed.wall_ns >= since_ns:
                    yield tailed
            if not follow:
                return
            sleep(poll_s)
    finally:
        for each in tails.values():
            each.close()


class _EpochTail:
    """One epoch's records as they come, each with a time. Holds no file open once the epoch has ended."""

    def __init__(self, folder: Path, epoch: str, since_ns: int, on_damage: Callable[[LogCorrupt], None] | None) -> None:
        self.epoch = epoch
        self.start_ns = epoch_ms(epoch) * 1_000_000
        self._folder = folder / epoch
        self._on_damage = on_damage
        self._wall_ns = self.start_ns
        self._to_wall_ns = 0
        self._reader = EpochReader(folder, epoch)
        self.ended = self._over() and self._changed_ns(folder) < since_ns

    def records(self, last: bool) -> Iterator[Tailed]:
        """What was written since the last pass; `last`: there will be no other."""
        over = last or self._over()
        try:
            for frame in self._reader.frames():
                stored = _stored(self.epoch, frame)
                self._see(stored.record)
                yield Tailed(self.epoch, stored, self._wall_ns)
            if over:
                self._reader.end()
        except LogCorrupt as e:
            if self._on_damage is None:
                raise
            self._on_damage(e)
            over = True
        if over:
            self.ended = True
            self.close()

    def close(self) -> None:
        """Release the open segment."""
        self._reader.close()

    def _over(self) -> bool:
        return (self._folder / CLOSED).exists() or (self._folder / RECOVERED).exists()

    def _changed_ns(self, folder: Path) -> int:
        indices = segments(folder, self.epoch)
        return segment_path(folder, self.epoch, indices[-1]).stat().st_mtime_ns if indices else 0

    def _see(self, record: Record) -> None:
        if isinstance(record, EpochOpen):
            self._to_wall_ns = record.wall_ns - record.mono_ns
            wall_ns = record.wall_ns
        elif isinstance(
            record, (Intent, Refusal, Interrupted, EpochRecovered, EpochClose, EnergyMeasured, Alive, Feedback, Held)
        ):
            wall_ns = record.wall_ns
        elif isinstance(record, Chunk):
            return
        else:
            wall_ns = record.mono_ns + self._to_wall_ns
        self._wall_ns = max(self._wall_ns, wall_ns)


def _merge(tails: list[_EpochTail], *, last: bool) -> Iterator[Tailed]:
    """Merge by time. An epoch is opened only when the merge has reached its start, so few are open at a time."""
    waiting = [(each.start_ns, each.epoch, each) for each in tails]
    heapify(waiting)
    heads: list[tuple[int, str, Tailed, Iterator[Tailed]]] = []
    while waiting or heads:
        while waiting and (not heads or waiting[0][0] <= heads[0][0]):
            _push(heads, heappop(waiting)[2].records(last))
        if heads:
            _, _, tailed, rest = heappop(heads)
            yield tailed
            _push(heads, rest)


def _push(heads: list[tuple[int, str, Tailed, Iterator[Tailed]]], records: Iterator[Tailed]) -> None:
    for tailed in records:
        heappush(heads, (tailed.wall_ns, tailed.epoch, tailed, records))
        return


def _stored(epoch: str, frame: Frame) -> Stored:
    try:
        return Stored(frame.seq, decode(frame.body), frame.segment, frame.offset)
    except ValueError as e:
        raise LogCorrupt(
            f"Record {frame.seq} of epoch {epoch} (segment {frame.segment}, offset {frame.offset}) is {e}.",
            param=f"{frame.segment}:{frame.offset}",
        ) from None


def _call_from(folder: Path, epoch: str, call: int, segment: int) -> list[Stored]:
    """Records of one call from a segment on, up to its outcome. Only these are decoded."""
    wanted = encode(call)
    found = []
    with EpochReader(folder, epoch, from_segment=segment) as reader:
        for frame in reader.frames():
            body = frame.body
            if call_prefix(body).startswith(wanted) and record_kind(body) in CALL_KINDS:
                stored = _stored(epoch, frame)
                found.append(stored)
                if isinstance(stored.record, (Outcome, Refusal)):
                    return found
        reader.end()
    return found


def _likely_segment(folder: Path, epoch: str, call: int) -> int:
    """The last segment whose first call is not after `call`: a guess, as calls may be written out of order."""
    indices = segments(folder, epoch)
    low, high = 0, len(indices)
    while low + 1 < high:
        middle = (low + high) // 2
        first = _first_call(folder, epoch, indices[middle])
        if first is not None and first <= call:
            low = middle
        else:
            high = middle
    return indices[low] if indices else 0


def _first_call(folder: Path, epoch: str, segment: int) -> int | None:
    with EpochReader(folder, epoch, from_segment=segment) as reader:
        for frame in reader.frames():
            if frame.segment != segment:
                return None
            if record_kind(frame.body) in (2, 3):
                return record_call(frame.body)
    return None


def interrupted_of(folder: Path, epoch: str) -> dict[int, Interrupted]:
    """What later epochs wrote of the calls that this one left open, by number, looked for where the markers say."""
    found: dict[int, Interrupted] = {}
    others = recovering_in(folder, epoch)
    marker = folder / epoch / RECOVERED
    if marker.exists():
        others.append(marker.read_text().strip())
    for other in sorted({name for name in others if name}):
        for stored in read_epoch(folder, other):
            record = stored.record
            if isinstance(record, Interrupted) and record.epoch == epoch:
                found.setdefault(record.call, record)
            if isinstance(record, EpochRecovered) and record.epoch == epoch:
                break
    return found
