"""Who is next: by class, then by share, then by age; what dead and stopped workers said counts for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.errors import Unavailable
from interlock.sources.seats import BEAT_NS, Head, SeatTable

MS = 1_000_000
NOW = 10_000 * MS
ROW = 3


class Node:
    """A table with two workers."""

    def __init__(self, folder: Path, tenants: int = 4) -> None:
        path = folder / "seats.shm"
        self.table = SeatTable.create(path, rows=8, tenants=tenants, workers=2)
        self.one, self.two = (SeatTable.open(path, worker=n, wait_ms=100) for n in (0, 1))

    def close(self) -> None:
        for table in (self.one, self.two, self.table):
            table.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def head(tenant: str, workload: int = 0, since_ms: int = 9_000, weight: int = 1) -> Head:
    return Head(tenant, weight, workload, since_ms * MS)


def yes(_level: int) -> bool:
    return True


def no(_level: int) -> bool:
    return False


def pump(
    table: SeatTable,
    *heads: Head,
    enter: Callable[[int], bool] = yes,
    now_ns: int = NOW,
    promote_ms: int = 0,
    post: bool = True,
) -> int:
    return table.seat(ROW, heads, now_ns, promote_ms * MS, enter, post=post)


def test_the_more_urgent_class_goes_first_on_whichever_worker_it_waits(node: Node) -> None:
    assert pump(node.one, head("a", 0), enter=no) == -1
    assert pump(node.two, head("b", 1, since_ms=1)) == -1, "an interactive call waits at the other worker"
    assert pump(node.one, head("a", 0)) == 0
    node.one.withdraw(ROW)
    assert pump(node.two, head("b", 1, since_ms=1), head("b", 2, since_ms=0)) == 0


def test_the_tenant_with_fewer_in_flight_goes_first(node: Node) -> None:
    node.one.count(ROW, {"flood": 3})
    node.two.count(ROW, {"flood": 1, "calm": 1})
    assert (node.table.inflight(ROW, "flood"), node.table.inflight(ROW, "calm")) == (4, 1)
    assert pump(node.one, head("flood", since_ms=1), head("calm", since_ms=2)) == 1
    assert node.one.inflight(ROW, "calm") == 2


def test_weights_make_unequal_shares(node: Node) -> None:
    for _ in range(24):
        pump(node.one, head("large", weight=3), head("small", since_ms=1))
    assert (node.one.inflight(ROW, "large"), node.one.inflight(ROW, "small")) == (18, 6)


def test_the_one_that_has_waited_longest_goes_first(node: Node) -> None:
    pump(node.one, head("a", since_ms=5), enter=no)
    assert pump(node.two, head("a", since_ms=6)) == -1
    assert pump(node.one, head("a", since_ms=5)) == 0


def test_of_two_that_are_equal_one_gets_the_seat(node: Node) -> None:
    pump(node.one, head("a", since_ms=5), enter=no)
    pump(node.two, head("a", since_ms=5), enter=no)
    assert [pump(node.two, head("a", since_ms=5)), pump(node.one, head("a", since_ms=5))].count(0) == 1


def test_a_call_that_has_waited_long_counts_as_more_urgent(node: Node) -> None:
    node.two.count(ROW, {"a": 1})
    pump(node.two, head("a", 0, since_ms=9_990), enter=no)
    late = head("b", 2, since_ms=8_000)
    asked: list[int] = []
    assert pump(node.one, late, enter=lambda level: bool(asked.append(level) or True), promote_ms=1_001) == -1
    assert pump(node.one, late, enter=lambda level: bool(asked.append(level) or True), promote_ms=1_000) == 0
    assert asked == [0], "it takes its seat as the class that it counts as"


def test_who_just_came_is_asked_for_and_leaves_no_trace(node: Node) -> None:
    pump(node.one, head("a", since_ms=5), enter=no)
    assert pump(node.one, head("b", since_ms=9_999), post=False) == -1, "one of its own worker waits longer"
    assert pump(node.two, head("a", 0, since_ms=5_000), post=False) == -1
    node.one.withdraw(ROW)
    assert pump(node.two, head("a", 1, since_ms=5_000), post=False) == 0
    assert pump(node.one, head("c", 2)) == 0, "what was only asked for does not wait there"


@pytest.mark.parametrize("silent_ms", [0, 100, 249])
def test_a_worker_that_still_looks_is_waited_for(node: Node, silent_ms: int) -> None:
    pump(node.one, head("a", 0), enter=no)
    assert pump(node.two, head("b", 1), now_ns=NOW + silent_ms * MS) == -1


def test_what_a_stopped_worker_said_counts_for_nobody(node: Node) -> None:
    pump(node.one, head("a", 0), enter=no)
    assert pump(node.two, head("b", 1), now_ns=NOW + BEAT_NS) == 0


def test_a_dead_worker_has_nothing_in_flight_and_nobody_waiting(node: Node) -> None:
    node.one.count(ROW, {"a": 5})
    pump(node.one, head("a", 0), enter=no)
    node.two.count(ROW, {"b": 1})
    assert pump(node.two, head("b", 1)) == -1
    node.table.clear_worker(0)
    assert node.table.inflight(ROW, "a") == 0 and node.table.inflight(ROW, "b") == 1
    assert pump(node.two, head("b", 1), head("a", 1)) == 1, "b has one in flight, a has none any more"


def test_places_are_taken_over_and_then_shared(tmp_path: Path) -> None:
    node = Node(tmp_path, tenants=2)
    try:
        node.one.count(ROW, {"a": 1})
        node.one.count(ROW, {"b": 2})  # a has none any more: its place is free
        node.one.count(ROW, {"b": 2, "c": 1})
        assert (node.one.inflight(ROW, "b"), node.one.inflight(ROW, "c"), node.one.inflight(ROW, "a")) == (2, 1, 0)
        node.one.count(ROW, {"b": 2, "c": 1, "d": 4})  # shares a place with b or c
        assert sorted((node.one.inflight(ROW, "b"), node.one.inflight(ROW, "c"))) in ([1, 6], [2, 5])
        assert pump(node.one, head("d")) == 0
        node.one.count(ROW, {})
        assert not any(node.one.inflight(ROW, t) for t in "abcd")
    finally:
        node.close()


def test_who_comes_at_once_gets_a_place_each(node: Node) -> None:
    assert pump(node.one, head("a", since_ms=1), head("b", since_ms=2), head("c", since_ms=3), post=False) == 0
    assert [node.one.inflight(ROW, tenant) for tenant in "abc"] == [1, 0, 0]
    assert pump(node.one, head("a", since_ms=1), head("b", since_ms=2), head("c", since_ms=3)) == 1


def test_more_workers_than_beats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="workers"):
        SeatTable.create(tmp_path / "seats.shm", rows=1, tenants=1, workers=10_000)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(0, 2**16),
)
@example([("a", 0)] * 30 + [("b", 0)] * 3, 4, 1)
@example([("a", 2), ("b", 0), ("c", 1)], 1, 0)
@example([("a", 0), ("a", 0), ("b", 0), ("c", 0)], 2, 0)
@settings(max_examples=60, deadline=None)
def test_seats_go_by_class_then_evenly_whoever_looks(
    tmp_path_factory: pytest.TempPathFactory, waiting: list[tuple[str, int]], seats: int, order: int
) -> None:
    """Two workers with the same queue rules and any order of looks give the seats as one queue would."""
    node = Node(tmp_path_factory.mktemp("seats"))
    queues: tuple[dict[tuple[str, int], list[int]], ...] = ({}, {})
    for since, (tenant, workload) in enumerate(waiting):
        queues[(order >> (since % 16)) & 1].setdefault((tenant, workload), []).append(since + 1)
    taken: list[tuple[str, int]] = []
    free = seats

    def enter(_level: int) -> bool:
        nonlocal free
        free -= 1
        return free >= 0

    try:
        for turn in range(4 * len(waiting)):
            for worker in (0, 1):
                heads = [Head(t, 1, w, ages[0]) for (t, w), ages in queues[worker].items() if ages]
                table = (node.one, node.two)[worker]
                found = table.seat(ROW, heads, NOW, 0, no if free <= 0 or not turn else enter, post=True)
                if found >= 0:
                    tenant, workload = heads[found].tenant, heads[found].workload
                    queues[worker][tenant, workload].pop(0)
                    taken.append((tenant, workload))
        assert len(taken) == min(seats, len(waiting)), "no seat stays empty while somebody waits"
        classes = sorted(w for _, w in waiting)[: len(taken)]
        assert sorted(w for _, w in taken) == classes, "no less urgent call went before a more urgent one"
        counts = {t: sum(x == t for x, _ in taken) for t in "abc"}
        for tenant, workload in waiting:
            left = sum(x == (tenant, workload) for x in waiting) - sum(x == (tenant, workload) for x in taken)
            if left and workload == 0:
                assert counts[tenant] >= max(counts.values()) - 1, "who waits has as many as any other, but for one"
    finally:
        node.close()
