"""From the log's records to calls that have ended: what a shipper reads, folded.

Feed the frames of one epoch in order. A call is handed over when its last record comes, with everything the log has of
it; what a dead epoch left open, in the end, by `interrupted`. The same log always folds to the same sequence, so that a
shipper that begins again finds what it has shipped before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from interlock.ledger.format import decode_record, not_known, record_call, record_kind
from interlock.ledger.reader import CallRecords
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
    request_id,
)

_OF_A_CALL = frozenset((2, 4, 5, 6, 15))
_OUTCOME = 7
INTENT_BYTES = 4096
"""What a decoded intent takes beside the bytes that it was decoded from, about."""
FindCall = Callable[[str], CallRecords | None]
"""All records of a call by its request id: `reader.find_call` over a folder."""


class Unreadable(Exception):
    """A record that this version does not know."""


Folded = CallRecords | EnergyMeasured | Feedback | EpochOpen | EpochClose | EpochRecovered


class _Open:
    """A call without an outcome: its intent and its other records, undecoded; None when they were too many to hold."""

    __slots__ = ("at_ns", "bodies", "bytes", "intent", "segment")

    def __init__(self, segment: int, at_ns: int, intent: Intent) -> None:
        self.segment = segment
        self.at_ns = at_ns
        self.intent: Intent | None = intent
        self.bodies: list[bytes] = []
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

    def feed(self, frame: Frame) -> tuple[int, Folded] | None:
        """(admission instant, what was completed by this record), if anything was.

        Raises Unreadable.
        """
        body = frame.body
        kind = record_kind(body)
        if kind in _OF_A_CALL:
            self._keep(record_call(body), kind, body, frame.segment)
            return None
        record = _decode(body)
        if isinstance(record, Outcome):
            return self._close(record)
        if isinstance(record, (Attempt, AttemptEnd, Chunk, Intent, StepEnd)):
            return None  # handled above
        self.seen_ns = max(self.seen_ns, record.wall_ns)
        match record:
            case Refusal():
                return self.seen_ns, CallRecords(self.epoch, record.call, (), refusal=record)
            case Alive():
                self._calls_said = max(self._calls_said, record.calls)
                return None
            case Held() | Interrupted():
                return None  # an interrupted call is its own epoch's; one that is held is made or refused later
            case _:
                return self.seen_ns, record

    def interrupted(self, told: Mapping[int, Interrupted]) -> Iterator[tuple[int, CallRecords]]:
        """The calls that a dead epoch left open, as another epoch tells of them, by number. Ask when all is fed."""
        for call in sorted(self._open):
            kept = self._open[call]
            found = self._whole(call, kept)
            if found is not None and found.intent is not None:
                yield kept.at_ns, _with(found, told.get(call))
        self._open.clear()
        self._held = 0

    def _keep(self, call: int, kind: int, body: bytes, segment: int) -> None:
        size = len(body)
        if kind == 2:
            intent = _decode(body)
            assert isinstance(intent, Intent)  # noqa: S101 - its kind says so
            self.seen_ns = max(self.seen_ns, intent.wall_ns)
            self._open[call] = _Open(segment, self.seen_ns, intent)
            size += INTENT_BYTES
        kept = self._open.get(call)
        if kept is None or kept.intent is None:
            return
        if self._held + size > self._bytes_max:
            self._held -= kept.bytes
            kept.intent = None
            kept.bodies.clear()
            return
        if kind != 2:
            kept.bodies.append(body)
        kept.bytes += size
        self._held += size

    def _close(self, outcome: Outcome) -> tuple[int, CallRecords] | None:
        kept = self._open.pop(outcome.call, None)
        if kept is None:
            return None
        if kept.intent is not None:
            self._held -= kept.bytes
        found = self._whole(outcome.call, kept, outcome)
        return None if found is None else (kept.at_ns, found)

    def _whole(self, call: int, kept: _Open, *last: Outcome) -> CallRecords | None:
        """A call with all its records; from the log when they are not held, None if they are not there."""
        if kept.intent is None:
            return self._find(request_id(self.epoch, call))
        return records_of(self.epoch, call, [kept.intent, *map(_decode, kept.bodies), *last])


def _decode(body: bytes) -> Record:
    try:
        return decode_record(body)
    except msgspec.MsgspecError as e:
        raise Unreadable(not_known(e)) from None


def records_of(epoch: str, call: int, records: Iterable[Record]) -> CallRecords:
    """The records of one call, sorted by kind. Of several intents or outcomes the first one counts."""
    intent: Intent | None = None
    outcome: Outcome | None = None
    attempts: list[Attempt] = []
    ends: list[AttemptEnd] = []
    chunks: list[Chunk] = []
    steps: list[StepEnd] = []
    for record in records:
        if type(record) is Chunk:
            chunks.append(record)
        elif type(record) is Attempt:
            attempts.append(record)
        elif type(record) is Intent:
            intent = intent or record
        elif type(record) is Outcome:
            outcome = outcome or record
        elif type(record) is AttemptEnd:
            ends.append(record)
        elif type(record) is StepEnd:
            steps.append(record)
    return CallRecords(
        epoch,
        call,
        (),
        intent=intent,
        attempts=tuple(attempts),
        attempt_ends=tuple(ends),
        chunks=tuple(chunks),
        outcome=outcome,
        step_ends=tuple(steps),
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
