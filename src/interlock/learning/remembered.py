"""The last outcomes of one tenant: those that count, and beside them what judges said that are not believed now.

What a judge said is taken back by laying it aside, and counts again, in its old place, when the judge is believed
again. Everybody else's words stay where they are. Bounded and pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from interlock.learning.trainer import Outcome


class _Kept(NamedTuple):
    """An outcome, and its place among all that were ever told."""

    place: int
    seen: Outcome


class Remembered:
    """Not thread-safe; deterministic for what it is told.

    `most`: outcomes that count, and again as many that are laid aside, of all judges together; the oldest go.
    """

    def __init__(self, most: int) -> None:
        self._counting: deque[_Kept] = deque(maxlen=most)
        self._aside: deque[_Kept] = deque(maxlen=most)
        self._told = 0

    def __iter__(self) -> Iterator[Outcome]:
        """Those that count, in the order in which they were told."""
        return (kept.seen for kept in self._counting)

    def __len__(self) -> int:
        return len(self._counting)

    @property
    def aside(self) -> int:
        """How many are laid aside."""
        return len(self._aside)

    def take(self, seen: Outcome) -> None:
        """One more that counts."""
        self._counting.append(self._placed(seen))

    def lay_aside(self, seen: Outcome) -> None:
        """One more that does not."""
        self._aside.append(self._placed(seen))

    def hold(self, judges: Mapping[str, bool]) -> None:
        """Let count what is said by whom nobody doubts. `judges`: those who can be told apart, and whether each is
        believed. What one of whom nothing is known any more had said while it was not believed is gone."""
        counting = [kept for kept in self._counting if judges.get(kept.seen.judge, True)]
        aside = [kept for kept in self._counting if not judges.get(kept.seen.judge, True)]
        for kept in self._aside:
            believed = judges.get(kept.seen.judge)
            if believed is not None:
                (counting if believed else aside).append(kept)
        _refill(self._counting, counting)
        _refill(self._aside, aside)

    def replace(self, outcomes: Iterable[Outcome]) -> None:
        """Others for those that count, one for each, as they are seen now."""
        now = [kept._replace(seen=seen) for kept, seen in zip(self._counting, outcomes, strict=True)]
        _refill(self._counting, now)

    def _placed(self, seen: Outcome) -> _Kept:
        self._told += 1
        return _Kept(self._told, seen)


def _refill(kept: deque[_Kept], by: list[_Kept]) -> None:
    kept.clear()
    kept.extend(sorted(by, key=lambda each: each.place))
