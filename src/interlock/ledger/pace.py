"""When the next fdatasync may start: in a pause of the event loop, or when it has waited long enough.

Each one costs this process about 0.15 ms of CPU, wherever the disk is. In a pause that CPU would lie idle, and the
flusher's thread need not wrest the interpreter from a running call. While calls keep the loop busy, one that waits
covers more of them. So a loop with time to spare commits at once, and one without commits every `gap_ns`.
"""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Watches the sequence numbers that are given out: a loop iteration that gives out none is a pause.

    `gap_ns`: how long a sync waits for a pause at most; 0 never waits. `mono_ns`: a clock. `call_soon`: of the loop.
    `appended_seq`: the last number given out. `start`: starts the sync that has waited.
    """

    def __init__(
        self,
        gap_ns: int,
        mono_ns: Callable[[], int],
        call_soon: Callable[[Callable[[], None]], object],
        appended_seq: Callable[[], int],
        start: Callable[[], None],
    ) -> None:
        self.waiting = False
        self._gap_ns, self._mono_ns, self._call_soon = gap_ns, mono_ns, call_soon
        self._appended_seq, self._start = appended_seq, start
        self._seq = self._until_ns = 0

    def waits(self) -> bool:
        """A sync is wanted: whether it waits for a pause now. If so, `start` will be called."""
        if not self.waiting and self._gap_ns > 0:
            self.waiting = True
            self._seq = self._appended_seq()
            self._until_ns = self._mono_ns() + self._gap_ns
            self._call_soon(self._look)
        return self.waiting

    def _look(self) -> None:
        """An iteration later."""
        before, self._seq = self._seq, self._appended_seq()
        if before == self._seq or self._mono_ns() >= self._until_ns:
            self._start()
            self.waiting = False
        else:
            self._call_soon(self._look)
