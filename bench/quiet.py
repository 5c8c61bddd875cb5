"""Rounds in which nobody else was on the core: what absolute figures of CPU time are read off.

On a virtual machine a core is mostly one of two hardware threads. While the other one works, for whomever, everything
takes about 1.6 times as much CPU time, for a tenth of a second or for minutes, and nothing tells so: rounds of the same
work fall into two heaps. Ratios to something run beside it are spared that; figures in seconds are not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def undisturbed(costs: Sequence[float]) -> float:
    """Of what each round of the same work took: the median of the quickest quarter of them, at least of one."""
    return statistics.median(sorted(costs)[: max(len(costs) // 4, 1)])
