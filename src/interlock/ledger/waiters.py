"""Who waits for which record to be durable, in the order of sequence numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from operator import itemgetter

from interlock.errors import LogError

DurableCallback = Callable[[LogError | None], None]


class Waiters:
    """Callbacks by sequence number. Nearly always added in order, so a deque; else inserted where they belong.

    Bounded by the records that are pending: nobody waits for one that is durable.
    """

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[tuple[int, DurableCallback]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> int:
        """The lowest sequence number that somebody waits for. Only while there is one."""
        return self._queue[0][0]

    def add(self, seq: int, callback: DurableCallback) -> None:
        """Call `callback` when `seq` is durable, after those of lower numbers and earlier ones of the same."""
        queue = self._queue
        if queue and queue[-1][0] > seq:
            queue.insert(bisect_right(queue, seq, key=itemgetter(0)), (seq, callback))
        else:
            queue.append((seq, callback))

    def take_upto(self, seq: int) -> list[tuple[int, DurableCallback]]:
        """Take out those who wait for `seq` or less, in order."""
        queue = self._queue
        taken = []
        while queue and queue[0][0] <= seq:
            taken.append(queue.popleft())
        return taken

    def take_after(self, seq: int) -> list[tuple[int, DurableCallback]]:
        """Take out those who wait for more than `seq`, in order."""
        queue = self._queue
        taken = []
        while queue and queue[-1][0] > seq:
            taken.append(queue.pop())
        taken.reverse()
        return taken

    def clear(self) -> None:
        """Forget all of them."""
        self._queue.clear()
