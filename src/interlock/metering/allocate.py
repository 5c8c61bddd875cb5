"""Splits what an energy meter counts over the calls that were under way, by token work. Pure.

A meter is read at intervals; its counter tells what was used in between. Of an interval, the share of its time in which
any call was under way is split over those calls, each by the part of its work that falls into the interval (a call is
taken to work evenly from its start to its end). The rest of the interval is idle.

INVARIANT: what was metered = what calls got + what is unallocated + what is held for calls that are not complete, to
the microjoule, after every step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
SCALE = 1 << 20
"""Parts of a call's work are counted in 2^-20 of a unit."""


class Settled(NamedTuple, Generic[K]):
    """What became final: the energy of each complete call, and what no call was given, in microjoules."""

    calls: list[tuple[K, int]]
    unallocated_uj: int


class _Call(Generic[K]):
    """A call that ended. `whole` is false when part of its time was not metered: then it gets nothing."""

    __slots__ = ("end_ns", "key", "start_ns", "uj", "whole", "work")

    def __init__(self, key: K, start_ns: int, end_ns: int, work: int, whole: bool) -> None:
        self.key, self.start_ns, self.end_ns, self.work, self.whole = key, start_ns, end_ns, work, whole
        self.uj = 0


class Allocator(Generic[K]):
    """One meter and the calls it measures. Instants are those of one monotonic clock, in nanoseconds.

    `sample` and `add` tell what happened, in any order; `settle` makes final what is over. At most `samples_max`
    readings and `calls_max` calls are held: what is beyond is void, and shows as unallocated.
    """

    def __init__(self, *, samples_max: int, calls_max: int) -> None:
        self._samples_max = samples_max
        self._calls_max = calls_max
        self._samples: deque[tuple[int, int]] = deque()
        self._calls: list[_Call[K]] = []
        self._void_ns = 0
        """Intervals that begin before are void: what was under way in them is not all known."""

    def sample(self, at_ns: int, counter_uj: int) -> None:
        """The meter's counter read `counter_uj` at `at_ns`. Readings come in the order of time."""
        if self._samples and at_ns <= self._samples[-1][0]:
            return
        if len(self._samples) >= self._samples_max:
            self.void(at_ns)
            self._samples.pop()
        self._samples.append((at_ns, counter_uj))

    def add(self, key: K, start_ns: int, end_ns: int, work: int) -> None:
        """A call was under way from `start_ns` to `end_ns` and did `work` (any unit, the same for all)."""
        if len(self._calls) >= self._calls_max:
            self.void(end_ns)
            return
        metered_ns = self._samples[0][0] if self._samples else end_ns
        whole = start_ns >= metered_ns and work > 0
        self._calls.append(_Call(key, start_ns, max(end_ns, start_ns + 1), work, whole))

    def void(self, until_ns: int) -> None:
        """Not all that was under way until now is known: nothing of that time is given to calls."""
        self._void_ns = max(self._void_ns, until_ns)

    @property
    def held_uj(self) -> int:
        """What calls that are not complete have got so far."""
        return sum(call.uj for call in self._calls)

    def settle(self, until_ns: int) -> Settled[K]:
        """Make final the intervals that ended by `until_ns`; all calls that began before then must have been added."""
        unallocated = 0
        while len(self._samples) > 1 and self._samples[1][0] <= until_ns:
            (start_ns, before), (end_ns, after) = self._samples.popleft(), self._samples[0]
            unallocated += self._split(start_ns, end_ns, after - before)
        if not self._samples:
            return Settled([], 0)
        settled_ns = self._samples[0][0]
        done, kept = [], []
        for call in self._calls:
            if call.end_ns > settled_ns:
                kept.append(call)
            elif call.whole:
                done.append((call.key, call.uj))
            else:
                unallocated += call.uj
        self._calls = kept
        return Settled(done, unallocated)

    def _split(self, start_ns: int, end_ns: int, metered_uj: int) -> int:
        """Give one interval's energy to its calls; what of it is left."""
        among = [call for call in self._calls if call.start_ns < end_ns and call.end_ns > start_ns]
        if metered_uj < 0 or start_ns < self._void_ns:  # a counter that runs back was reset meanwhile
            for call in among:
                call.whole = False
            return max(metered_uj, 0)
        weights = [
            call.work * _overlap(call, start_ns, end_ns) * SCALE // (call.end_ns - call.start_ns) for call in among
        ]
        busy_ns = _union_ns(among, start_ns, end_ns)
        shared_uj = metered_uj * busy_ns // (end_ns - start_ns) if sum(weights) else 0
        for call, uj in zip(among, split(shared_uj, weights), strict=True):
            call.uj += uj
        return metered_uj - shared_uj


def split(total: int, weights: list[int]) -> list[int]:
    """Whole parts of `total` in proportion to `weights` that add up to it exactly; all zero when there are no weights.

    Source: Hamilton's method of largest remainders; at equal ones the first.
    """
    whole = sum(weights)
    if not total or not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    by_rest = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in by_rest[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _overlap(call: _Call[K], start_ns: int, end_ns: int) -> int:
    return min(call.end_ns, end_ns) - max(call.start_ns, start_ns)


def _union_ns(calls: Iterable[_Call[K]], start_ns: int, end_ns: int) -> int:
    """How much of an interval had any of the calls under way."""
    busy, reached = 0, start_ns
    for call in sorted(calls, key=lambda c: c.start_ns):
        begin, end = max(call.start_ns, reached), min(call.end_ns, end_ns)
        if end > begin:
            busy += end - begin
            reached = end
    return busy
