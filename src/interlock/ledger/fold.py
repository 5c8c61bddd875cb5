"""From the log's records to calls that have ended: what a shipper reads, folded.

Feed the frames of one epoch in order. A call is handed over when its last record comes, with everything the log has of
it; what a dead epoch left open, in the end, by `interrupted`. The same log always folds to the same sequence, so that a
shipper that begins again finds what it has shipped before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from interlock.ledger.epoch import Place
from interlock.ledger.format import decode, record_call, record_kind
from interlock.ledger.reader import CallRecords
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
    request_id,
)

_OF_A_CALL = frozenset((2, 4, 5, 6, 15))
_OUTCOME = 7
FindCall = Callable[[str], CallRecords | None]
"""All records of a call by its request id: `reader.find_call` over a folder."""


class Unreadable(Exception):
    """A record that this version does not know."""


Folded = CallRecords | EnergyMeasured | Feedback | EpochOpen | EpochClose | EpochRecovered


class _Open:
    """A call without an outcome: its records undecoded, or nothing of them when they were too many to hold."""

    __slots__ = ("at_ns", "bodies", "bytes", "segment")

    def __init__(self, segment: int, at_ns: int) -> None:
        self.segment = segment
        self.at_ns = at_ns
        self.bodies: list[bytes] | None = []
        self.bytes = 0


class EpochFold:
    """The fold of one epoch. `find` looks up the calls that are too large to be held.

    `floor_ns`: no call is admitted earlier, whatever the clock said. `seen_ns`: the newest time that the epoch's
    records name; every call admitted before it has been fed.
    """

    def __init__(self, epoch: str, find: FindCall, *, floor_ns: int, bytes_max: int) -> None:
        self.epoch = epoch
        self.seen_ns = floor_ns
        self._find = find
        self._bytes_max = bytes_max
        self._open: dict[int, _Open] = {}
        self._held = 0
        self._calls_said = 0

    @property
    def open_calls(self) -> int:
        """Calls that have begun and not ended."""
        return len(self._open)

    @property
    def watermark_ns(self) -> int:
        """Every call of this epoch that was admitted before this has been handed over."""
        return min((call.at_ns for call in self._open.values()), default=self.seen_ns)

    @property
    def calls_through(self) -> int:
        """Every call of this epoch up to this number has been handed over, or never will be."""
        return min(self._calls_said, min(self._open, default=self._calls_said + 1) - 1)

    def resume_segment(self, segment: int) -> int:
        """Where reading must begin again to meet all records of the open calls. `segment`: where it stands now."""
        return min((call.segment for call in self._open.values()), default=segment)

    def feed(self, place: Place) -> Iterator[tuple[int, Folded]]:
        """(admission instant, what was completed by this record), once or never.

        Raises Unreadable.
        """
        body = place.frame.body
        kind = record_kind(body)
        if kind in _OF_A_CALL:
            self._keep(record_call(body), kind, body, place.segment)
            return
        record = _decode(body)
        if isinstance(record, Outcome):
            found = self._close(record.call, body)
            if found is not None:
                yield found
            return
        if isinstance(record, (Attempt, AttemptEnd, Chunk, Intent, StepEnd)):
            return  # handled above
        self.seen_ns = max(self.seen_ns, record.wall_ns)
        match record:
            case Refusal():
                yield self.seen_ns, CallRecords(self.epoch, record.call, (), refusal=record)
            case Alive():
                self._calls_said = max(self._calls_said, record.calls)
            case Held() | Interrupted():
                pass  # an interrupted call is its own epoch's; one that is held is made or refused later
            case _:
                yield self.seen_ns, record

    def interrupted(self, told: Mapping[int, Interrupted]) -> Iterator[tuple[int, CallRecords]]:
        """The calls that a dead epoch left open, as another epoch tells of them, by number. Ask when all is fed."""
        for call in sorted(self._open):
            kept = self._open[call]
            if kept.bodies is None:
                found = self._find(request_id(self.epoch, call))
            else:
                found = records_of(self.epoch, call, [_decode(each) for each in kept.bodies])
            if found is not None and found.intent is not None:
                yield kept.at_ns, _with(found, told.get(call))
        self._open.clear()
        self._held = 0

    def _keep(self, call: int, kind: int, body: bytes, segment: int) -> None:
        if kind == 2:
            intent = _decode(body)
            assert isinstance(intent, Intent)  # noqa: S101 - its kind says so
            self.seen_ns = max(self.seen_ns, intent.wall_ns)
            self._open[call] = _Open(segment, self.seen_ns)
        kept = self._open.get(call)
        if kept is None or kept.bodies is None:
            return
        if self._held + len(body) > self._bytes_max:
            self._held -= kept.bytes
            kept.bodies = None
            return
        kept.bodies.append(body)
        kept.bytes += len(body)
        self._held += len(body)

    def _close(self, call: int, body: bytes) -> tuple[int, CallRecords] | None:
        kept = self._open.pop(call, None)
        if kept is None:
            return None
        if kept.bodies is None:
            found = self._find(request_id(self.epoch, call))
            return None if found is None else (kept.at_ns, found)
        self._held -= kept.bytes
        return kept.at_ns, records_of(self.epoch, call, [_decode(each) for each in (*kept.bodies, body)])


def _decode(body: bytes) -> Record:
    try:
        return decode(body)
    except ValueError as e:
        raise Unreadable(str(e)) from None


def records_of(epoch: str, call: int, records: list[Record]) -> CallRecords:
    """The records of one call, sorted by kind."""
    return CallRecords(
        epoch,
        call,
        (),
        intent=next((r for r in records if isinstance(r, Intent)), None),
        attempts=tuple(r for r in records if isinstance(r, Attempt)),
        attempt_ends=tuple(r for r in records if isinstance(r, AttemptEnd)),
        chunks=tuple(r for r in records if isinstance(r, Chunk)),
        outcome=next((r for r in records if isinstance(r, Outcome)), None),
        step_ends=tuple(r for r in records if isinstance(r, StepEnd)),
    )


def _with(call: CallRecords, interrupted: Interrupted | None) -> CallRecords:
    return CallRecords(
        call.epoch,
        call.call,
        (),
        intent=call.intent,
        attempts=call.attempts,
        attempt_ends=call.attempt_ends,
        chunks=call.chunks,
        interrupted=interrupted,
        step_ends=call.step_ends,
    )
