"""When the next fsync may start: at once while there is CPU to spare, spaced out when there is not."""

from __future__ import annotations

from interlock.ledger.pace import WINDOW_NS, Pace

GAP_NS = 2_000_000


class Clocks:
    def __init__(self) -> None:
        self.mono = self.cpu = 0

    def pass_time(self, ns: int, busy: float) -> None:
        self.mono += ns
        self.cpu += int(ns * busy)

    def pace(self, gap_ns: int = GAP_NS) -> Pace:
        return Pace(gap_ns, lambda: self.mono, lambda: self.cpu)


def test_with_cpu_to_spare_a_sync_starts_at_once() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    for _ in range(200):
        clocks.pass_time(300_000, busy=0.5)
        assert pace.wait_ns() == 0


def test_short_of_cpu_syncs_start_a_gap_apart() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    clocks.pass_time(WINDOW_NS, busy=0.95)
    assert pace.wait_ns() == 0
    clocks.pass_time(300_000, busy=0.95)
    assert pace.wait_ns() == GAP_NS - 300_000
    clocks.pass_time(GAP_NS - 300_000, busy=0.95)
    assert pace.wait_ns() == 0


def test_it_forgets_that_it_was_busy() -> None:
    clocks = Clocks()
    pace = clocks.pace()
    clocks.pass_time(WINDOW_NS, busy=0.95)
    pace.wait_ns()
    clocks.pass_time(WINDOW_NS, busy=0.1)
    pace.wait_ns()
    clocks.pass_time(100_000, busy=0.1)
    assert pace.wait_ns() == 0


def test_without_a_gap_nothing_waits() -> None:
    clocks = Clocks()
    pace = clocks.pace(gap_ns=0)
    clocks.pass_time(WINDOW_NS, busy=1)
    assert pace.wait_ns() == 0 == pace.wait_ns()
