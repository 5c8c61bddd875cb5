"""Rows looked at together say what each says alone, whatever happened to them since the last look."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.settings import Settings
from interlock.sources.board import LOAD, Board, Rows

MS = 1_000_000
SOURCES = ("src_0", "src_1", "src_2", "src_3")
SETTINGS = Settings(load_age_ms_max=2000, breaker_failures=2, breaker_open_ms=500, breaker_probes=1)
figure = st.sampled_from((-1, 0, 1, 7, 900))
ages = st.sampled_from((-5 * MS, -1, 0, 1, MS - 1, MS, 1999 * MS, 2000 * MS, 2001 * MS - 1, 2001 * MS, 10**12))

loads = st.tuples(
    st.just("publish"), figure, figure, figure, st.booleans(), st.booleans(), st.one_of(st.none(), ages),
    st.sampled_from((-1, 0, 5, 2**60 - 1)), st.one_of(st.none(), st.integers(0, 3)), st.sampled_from((-1, 800)),
)  # fmt: skip
plain = st.sampled_from(
    ("enter", "leave", "failure", "success", "allow", "cool", "contend", "tear", "retire", "clear")
).map(lambda name: (name,))
steps = st.lists(
    st.tuples(st.integers(0, len(SOURCES) - 1), st.one_of(loads, plain), st.one_of(st.just(0), ages)), max_size=40
)


def happen(node: Board, worker: Board, source_id: str, what: tuple[object, ...], now_ns: int) -> None:
    """One thing happens to a source."""
    row = worker.row(source_id)
    match what:
        case ("publish", int(waiting), int(running), int(kv), bool(healthy), bool(saturated), ago, int(loaded), entered,
              int(stay)):  # fmt: skip
            node.publish(
                row,
                waiting=waiting,
                running=running,
                kv_permille=kv,
                healthy=healthy,
                saturated=saturated,
                read_at_ns=0 if not isinstance(ago, int) else max(1, now_ns - ago),
                entered=min(entered, node.entered(row)) if isinstance(entered, int) else None,
                loaded=loaded,
                stay_ms=stay,
            )
        case ("enter",):
            worker.enter(row, None, queued=True)
        case ("leave",):
            worker.leave(row)
        case ("failure",):
            worker.failure(row, now_ns)
        case ("success",):
            worker.success(row)
        case ("allow",):
            worker.allow(row, now_ns)
        case ("cool",):
            worker.cool_down(row, now_ns + 300 * MS)
        case ("contend",):
            worker.contend(row, now_ns + 300 * MS)
        case ("tear",):  # the node is killed while it publishes
            node._words[node._first + row * node._stride + LOAD] |= 1
            node._words[node._first + row * node._stride + LOAD + 1] = 77
        case ("retire",):  # it is gone, and its row another's
            node.clear_worker(0)
            node.retire([other for other in SOURCES if other != source_id], 1)
            node.row(f"{source_id}_new")
            node.retire(SOURCES, 1)
        case _:
            node.clear_worker(0)


def hold(worker: Board, rows: Rows, now_ns: int) -> None:
    """`look` says what `reading` and `open_until` say of each row."""
    readings, shut = worker.look(rows, now_ns)
    assert readings == [worker.reading(row, now_ns) for row in rows.numbers]
    assert [rows.numbers[at] for at in shut] == [row for row in rows.numbers if worker.open_until(row) > now_ns]


@given(steps, st.sampled_from((3 * MS, 10**15 + 123_456)))
@settings(max_examples=250, deadline=None)
def test_a_look_at_rows_is_the_reading_of_each(
    happened: list[tuple[int, tuple[object, ...], int]], now_ns: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board.shm"
        with (
            Board.create(path, rows=6, workers=3, settings=SETTINGS) as node,
            Board.open(path, worker=0, settings=SETTINGS) as worker,
        ):
            taken = {source_id: node.row(source_id) for source_id in SOURCES}
            every, some = worker.rows_of(taken.values()), worker.rows_of([taken["src_3"], taken["src_1"]])
            assert some.numbers == (1, 3)
            hold(worker, every, now_ns)
            for number, what, later in happened:
                happen(node, worker, SOURCES[number], what, now_ns)
                hold(worker, some if number % 2 else every, now_ns)
                now_ns = max(1, now_ns + later)
                hold(worker, every, now_ns)
                hold(worker, worker.rows_of([5, number]), now_ns)
