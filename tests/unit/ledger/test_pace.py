"""When the next fsync may start: in a pause of the loop, or when it has waited long enough."""

from __future__ import annotations

from collections.abc import Callable

from interlock.ledger.pace import Pace

GAP_NS = 2_000_000


class Loop:
    """A loop whose iterations are taken by hand. `started`: how often a sync was started."""

    def __init__(self, gap_ns: int = GAP_NS) -> None:
        self.ns = 1_000
        self.seq = 1
        self.started = 0
        self.soon: list[Callable[[], None]] = []
        self.pace = Pace(gap_ns, lambda: self.ns, self.soon.append, lambda: self.seq, self._start)

    def _start(self) -> None:
        self.started += 1

    def iterate(self, *, appends: int, ns: int = 100) -> None:
        self.ns += ns
        self.seq += appends
        todo, self.soon[:] = list(self.soon), []
        for callback in todo:
            callback()


def test_an_iteration_that_appends_nothing_is_a_pause() -> None:
    loop = Loop()
    assert loop.pace.waits() and loop.pace.waiting
    for _ in range(5):
        loop.iterate(appends=3)
        assert loop.pace.waits() and not loop.started
    loop.iterate(appends=0)
    assert loop.started == 1 and not loop.pace.waiting and not loop.soon


def test_without_a_pause_the_gap_ends_the_wait() -> None:
    loop = Loop()
    assert loop.pace.waits()
    loop.iterate(appends=1, ns=GAP_NS - 1)
    assert not loop.started
    loop.iterate(appends=1, ns=1)
    assert loop.started == 1 and not loop.pace.waiting


def test_each_sync_waits_anew() -> None:
    loop = Loop()
    for number in range(1, 4):
        assert loop.pace.waits()
        loop.iterate(appends=1, ns=GAP_NS - 1)
        assert loop.started == number - 1
        loop.iterate(appends=1, ns=GAP_NS - 1)
        assert loop.started == number


def test_without_a_gap_nothing_waits() -> None:
    loop = Loop(gap_ns=0)
    assert not loop.pace.waits() and not loop.soon
