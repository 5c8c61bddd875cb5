"""What a full disk took from a log, and how the calls concerned are told of in the record all the same."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from interlock.ledger.format import decode
from interlock.types.record import Intent, Outcome

DROPS_MAX = 10_000
"""Full disks one epoch may survive; then it fails for good and its worker starts anew."""


class Losses:
    """Sequence numbers that were given out and never written, and the ends of calls that are still to be written.

    `owed_max`: how many such ends are kept; of further ones only the number is known, and the next start finds these
    calls as interrupted.
    """

    def __init__(self, owed_max: int) -> None:
        self.records = 0
        self.lost_outcomes = 0
        self.owed: dict[int, Outcome] = {}
        self._owed_max = owed_max
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._intents: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._lasts)

    @property
    def exhausted(self) -> bool:
        """True when the log must not go on after another full disk."""
        return len(self._lasts) >= DROPS_MAX

    def drop(self, first: int, last: int, bodies: Iterable[bytes]) -> int:
        """Note that frames `first`..`last` were never written; returns by how much the number of open calls changes."""
        if last >= first:
            self._firsts.append(first)
            self._lasts.append(last)
            self.records += last - first + 1
        self._intents.clear()
        change = 0
        for body in bodies:
            record = decode(body)
            if isinstance(record, Intent):
                self._intents.add(record.call)
                change -= 1
            elif isinstance(record, Outcome):
                change += 1
                self.owe(record)
        return change

    def owe(self, outcome: Outcome) -> None:
        """Keep the end of a call that could not be written, as what it was for the caller: cut off."""
        if outcome.call in self._intents:
            return  # the call is not in the log at all: it was never answered
        if len(self.owed) >= self._owed_max:
            self.lost_outcomes += 1
            return
        self.owed[outcome.call] = msgspec.structs.replace(
            outcome,
            state="cut",
            status=0,
            body=b"",
            code="record_log_unavailable",
            words="The end of this call could not be recorded in time, so the caller was cut off.",
        )

    def has(self, seq: int) -> bool:
        """True when this sequence number was given out and never written."""
        at = bisect_left(self._lasts, seq)
        return at < len(self._lasts) and self._firsts[at] <= seq
