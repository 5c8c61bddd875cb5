"""The board by example: rows, readings and their age, caps, breaker transitions, dead workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import Unavailable
from interlock.metering.shared import WORD
from interlock.settings import Settings
from interlock.sources.board import LOAD, OPEN_UNTIL, Board, WorkerState
from interlock.types.source import LoadReading

MS = 1_000_000
NOW = 5_000_000 * MS
SETTINGS = Settings(load_age_ms_max=2000, breaker_failures=3, breaker_open_ms=1000, breaker_probes=2)


@dataclasses.dataclass
class Node:
    """A board with two workers, as three processes would have it."""

    board: Board
    one: Board
    two: Board
    path: Path


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    path = tmp_path / "board.shm"
    with (
        Board.create(path, rows=4, workers=2, settings=SETTINGS) as board,
        Board.open(path, worker=0, settings=SETTINGS) as one,
        Board.open(path, worker=1, settings=SETTINGS) as two,
    ):
        yield Node(board, one, two, path)


def publish(board: Board, row: int, waiting: int = 3, *, at_ns: int = NOW, entered: int | None = None) -> None:
    board.publish(
        row,
        waiting=waiting,
        running=4,
        kv_permille=500,
        healthy=True,
        saturated=True,
        read_at_ns=at_ns,
        entered=entered,
    )


def test_everybody_finds_the_same_row_and_a_full_board_says_so(node: Node) -> None:
    rows = [node.board.row(f"src_{i}") for i in range(4)]
    assert sorted(rows) == [0, 1, 2, 3]
    assert [node.two.row(f"src_{i}") for i in range(4)] == rows
    with pytest.raises(Unavailable, match="no row left of 4"):
        node.one.row("src_9")


def test_a_reading_is_what_was_published_and_unknown_when_old_or_never_made(node: Node) -> None:
    row = node.board.row("src_a")
    assert node.one.reading(row, NOW) == LoadReading(-1, -1, -1, 0, 0, -1, True, False)
    publish(node.board, row)
    assert node.one.reading(row, NOW + 2000 * MS) == LoadReading(3, 4, 500, 0, 0, 2000, True, True)
    assert node.one.reading(row, NOW + 2001 * MS) == LoadReading(-1, -1, -1, 0, 0, 2001, True, False)
    node.board.publish(
        row, waiting=-1, running=-1, kv_permille=-1, healthy=False, saturated=False, read_at_ns=NOW + 3000 * MS
    )
    assert node.one.reading(row, NOW + 3000 * MS) == LoadReading(-1, -1, -1, 0, 0, 0, False, False)


def test_how_long_calls_stay_is_told_with_the_reading_and_checked_with_it(node: Node) -> None:
    row = node.board.row("src_a")
    told = {"waiting": 1, "running": 2, "kv_permille": 3, "healthy": True, "saturated": False, "read_at_ns": NOW}
    node.board.publish(row, **told, stay_ms=12_345)  # type: ignore[arg-type]
    assert node.two.reading(row, NOW).stay_ms == 12_345
    node.board.publish(row, **told)  # type: ignore[arg-type]
    assert node.two.reading(row, NOW).stay_ms == -1
    node.board._words[node.board._first + row * node.board._stride + LOAD + 7] = 9
    with Board.open(node.path, worker=None, settings=SETTINGS) as late:
        assert late.reading(row, NOW) == LoadReading(-1, -1, -1, 0, 0, -1), "a torn value is no value"


def test_inflight_since_counts_what_was_sent_after_the_engine_was_asked(node: Node) -> None:
    row = node.board.row("src_a")
    for _ in range(3):
        node.one.enter(row, None)
    mark = node.board.entered(row)
    node.two.enter(row, None)
    publish(node.board, row, entered=mark)
    node.one.enter(row, None)
    reading = node.two.reading(row, NOW)
    assert (reading.inflight, reading.inflight_since) == (5, 2)
    for _ in range(4):
        node.one.leave(row)
    assert node.two.reading(row, NOW).inflight_since == 1


def test_a_value_left_half_written_is_unknown_until_it_is_published_again(node: Node) -> None:
    row = node.board.row("src_a")
    publish(node.board, row)
    words = node.board._words
    at = node.board._first + row * node.board._stride + LOAD
    words[at] += 1  # the node died after it had begun to write
    words[at + 1] = 77
    assert node.one.reading(row, NOW) == LoadReading(-1, -1, -1, 0, 0, -1, True, False)
    words[at] += 1  # as if it had ended, but not all of it arrived
    assert node.one.reading(row, NOW).waiting == -1
    publish(node.board, row, waiting=9)
    assert node.one.reading(row, NOW).waiting == 9


def test_what_changes_while_it_is_looked_at_is_not_kept_as_what_it_was(node: Node) -> None:
    row = node.board.row("src_a")
    rows = node.one.rows_of([row])
    publish(node.board, row, waiting=3)
    (words,) = rows.take(node.one._buffer, node.one._first * WORD)
    publish(node.board, row, waiting=9)
    assert node.one._look_again(row, words)[-1][1] == 9
    at = (node.board._first + row * node.board._stride + OPEN_UNTIL) * WORD
    node.board._buffer[at : at + len(words)] = words
    assert node.one.look(rows, NOW)[0][0].waiting == 3


def test_a_cap_holds_over_workers_and_a_dead_one_gives_back(node: Node) -> None:
    row = node.board.row("src_a")
    assert [board.enter(row, 3) for board in (node.one, node.two, node.two, node.one)] == [True, True, True, False]
    node.two.leave(row)
    assert node.one.enter(row, 3)
    assert node.board.inflight(row) == 3
    node.board.clear_worker(0)
    assert node.board.inflight(row) == 1
    node.one.leave(row)
    assert node.board.inflight(row) == 1, "a leave without its enter does not go below zero"
    assert not node.one.enter(row, 0)


def test_while_calls_wait_nobody_enters_past_them(node: Node) -> None:
    row = node.one.row("src_a")
    node.two.contend(row, 5_000)
    node.two.contend(row, 4_000)
    assert node.one.contended(row, 4_999) and not node.one.enter(row, None) and not node.one.enter(row, 3)
    assert node.one.enter(row, 1, queued=True) and not node.one.enter(row, 1, queued=True)
    assert not node.one.contended(row, 5_000)
    assert node.one.enter(row, None), "nobody waits any more"


def test_while_the_engine_is_full_calls_are_looked_at_one_by_one(node: Node) -> None:
    row = node.board.row("src_a")

    def publish(full: bool) -> None:
        node.board.publish(
            row, waiting=9, running=2, kv_permille=-1, healthy=True, saturated=full, read_at_ns=1, full=full
        )

    publish(True)
    assert not node.one.enter(row, None) and node.one.enter(row, None, queued=True)
    publish(False)
    assert node.one.enter(row, None)


def test_breaker_opens_after_failures_in_a_row_over_all_workers(node: Node) -> None:
    row = node.board.row("src_a")
    node.one.failure(row, NOW)
    node.two.failure(row, NOW)
    node.one.success(row)
    for board in (node.one, node.two):
        board.failure(row, NOW)
    assert node.two.allow(row, NOW) and node.two.breaker_state(row, NOW) == "closed"
    node.two.failure(row, NOW)
    assert node.one.breaker_state(row, NOW + 999 * MS) == "open"
    assert not node.one.allow(row, NOW + 999 * MS)
    assert node.one.open_until(row) == NOW + 1000 * MS


def opened(node: Node) -> int:
    row = node.board.row("src_a")
    for _ in range(3):
        node.one.failure(row, NOW)
    return row


def test_half_open_lets_the_probes_through_and_a_success_closes(node: Node) -> None:
    row = opened(node)
    later = NOW + 1000 * MS
    assert node.one.breaker_state(row, later) == "half_open"
    assert [board.allow(row, later) for board in (node.one, node.two, node.one)] == [True, True, False]
    node.two.success(row)
    assert node.one.breaker_state(row, later) == "closed" and node.one.open_until(row) == 0
    assert all(node.one.allow(row, later) for _ in range(5))
    node.one.failure(row, later)
    assert node.one.breaker_state(row, later) == "closed", "the count began anew"


def test_a_failed_probe_opens_again(node: Node) -> None:
    row = opened(node)
    later = NOW + 1500 * MS
    assert node.two.allow(row, later)
    node.two.failure(row, later)
    assert not node.one.allow(row, later + 999 * MS)
    assert node.one.allow(row, later + 1000 * MS)


def test_late_verdicts_of_old_calls_do_not_move_an_open_breaker(node: Node) -> None:
    row = opened(node)
    node.one.success(row)
    node.one.failure(row, NOW + 900 * MS)
    assert node.one.open_until(row) == NOW + 1000 * MS
    assert node.one.breaker_state(row, NOW) == "open"


def test_a_probe_without_a_verdict_is_given_back_or_forgotten(node: Node) -> None:
    row = opened(node)
    later = NOW + 1000 * MS
    assert node.one.allow(row, later) and node.two.allow(row, later) and not node.one.allow(row, later)
    node.two.abandon(row)
    assert node.one.allow(row, later) and not node.one.allow(row, later + 999 * MS)
    assert node.one.allow(row, later + 1000 * MS), "probes whose worker died do not keep the breaker half open for ever"


def test_cooling_down_holds_back_without_counting_as_failure(node: Node) -> None:
    row = node.board.row("src_a")
    node.one.cool_down(row, NOW + 50 * MS)
    node.two.cool_down(row, NOW + 20 * MS)
    assert not node.two.allow(row, NOW + 49 * MS)
    assert node.two.breaker_state(row, NOW) == "cooling" and node.two.open_until(row) == NOW + 50 * MS
    assert node.two.allow(row, NOW + 50 * MS) and node.two.breaker_state(row, NOW + 50 * MS) == "closed"


def test_rows_of_retired_sources_are_freed_when_no_worker_can_use_them(node: Node) -> None:
    old, kept = node.board.row("src_old"), node.board.row("src_kept")
    publish(node.board, old)
    assert node.one.reading(old, NOW).waiting == 3
    node.one.enter(old, None)
    node.one.set_worker_state(11, 5, 1)
    assert node.board.retire({"src_kept"}, 5) == 0, "worker 1 is starting"
    node.two.set_worker_state(12, 5, 0)
    node.one.set_worker_state(11, 4, 1)
    assert node.board.retire({"src_kept"}, 5) == 0, "worker 0 is still on snapshot 4"
    node.one.set_worker_state(11, 5, 1)
    assert node.board.retire({"src_kept"}, 5) == 0, "a call is in flight"
    node.one.leave(old)
    node.one.failure(old, NOW)
    assert node.board.retire({"src_kept"}, 5) == 1
    assert node.two.row("src_new") == old
    assert node.one.reading(old, NOW) == LoadReading(-1, -1, -1, 0, 0, -1, True, False)
    publish(node.board, old, waiting=8)
    assert node.one.reading(old, NOW).waiting == 8, "nothing of the old source is remembered"
    assert node.one.row("src_old") not in (old, kept)
    assert node.one.row("src_kept") == kept


def test_snapshot_confirmation_and_worker_states(node: Node) -> None:
    assert node.one.snapshot_confirmed() == (0, 0)
    node.board.confirm_snapshot(7, 123)
    assert node.one.snapshot_confirmed() == (7, 123)
    node.two.set_worker_state(4242, 7, 3)
    assert node.board.worker_state(1) == WorkerState(4242, 7, 3)
    node.board.clear_worker(1)
    assert node.board.worker_state(1) == WorkerState(0, 0, 0)
    with pytest.raises(ValueError, match="only a worker"):
        node.board.set_worker_state(1, 1, 1)


def test_a_lock_held_by_a_stopped_process_refuses_and_does_not_hang(node: Node) -> None:
    row = node.board.row("src_a")
    with Board.open(node.path, worker=0, settings=dataclasses.replace(SETTINGS, limit_lock_wait_ms=5)) as board:
        node.board._file.lock()
        try:
            assert not board.enter(row, 5)
            assert board.enter(row, None)
            board.failure(row, NOW)
            assert board.allow(row, NOW)
            with pytest.raises(Unavailable, match="does not answer"):
                board.row("src_new")
        finally:
            node.board._file.unlock()
        assert board.enter(row, 5)


def test_a_worker_number_outside_the_board_is_refused(node: Node) -> None:
    with pytest.raises(ValueError, match="no worker 2"):
        Board.open(node.path, worker=2)
