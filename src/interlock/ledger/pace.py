"""When the next fdatasync may start.

Each one costs this process about 0.2 ms of CPU, wherever the disk is. While the process has CPU to spare that buys
latency: the next starts when the last has ended. When it has not, commits at the pace of a fast disk would take half of
a core from the calls themselves, so then they start at least `gap_ns` apart and each carries more records.
"""

from __future__ import annotations

from collections.abc import Callable

BUSY = 0.7
"""Share of one core, used by the process, above which it counts as busy."""
WINDOW_NS = 20_000_000
"""Least time over which that share is measured."""


class Pace:
    """Measures how busy the process is, and spaces out syncs when it is. `mono_ns` and `cpu_ns` are clocks.

    `cpu_ns` is the CPU time of the whole process, in nanoseconds. A `gap_ns` of 0 never spaces anything out.
    """

    def __init__(self, gap_ns: int, mono_ns: Callable[[], int], cpu_ns: Callable[[], int]) -> None:
        self._gap_ns = gap_ns
        self._mono_ns, self._cpu_ns = mono_ns, cpu_ns
        self._started_ns = 0
        self._window_ns, self._window_cpu_ns = mono_ns(), cpu_ns()
        self.busy_share = 0.0

    def wait_ns(self) -> int:
        """How long the next sync is still to wait; 0 starts it, and is noted as the start."""
        if self._gap_ns == 0:
            return 0
        now_ns = self._mono_ns()
        passed_ns = now_ns - self._window_ns
        if passed_ns >= WINDOW_NS:
            cpu_ns = self._cpu_ns()
            self.busy_share = (cpu_ns - self._window_cpu_ns) / passed_ns
            self._window_ns, self._window_cpu_ns = now_ns, cpu_ns
        if self.busy_share > BUSY:
            left_ns = self._started_ns + self._gap_ns - now_ns
            if left_ns > 0:
                return left_ns
        self._started_ns = now_ns
        return 0

    def started(self) -> None:
        """A sync that waited, or could not wait, starts now."""
        self._started_ns = self._mono_ns()
