"""The board with real processes: no torn reading under a writer, no cap exceeded though a worker is killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import struct
import time
from pathlib import Path

import pytest

from interlock.sources.board import Board

WORKERS = 4
CAP = 5
SPAN = struct.Struct("@qq")
"""Entered and left at (monotonic ns; left 0: still in)."""


def write(path: Path, stop: Path) -> None:
    """Publish loads whose figures all follow from one number, and confirmations likewise."""
    with Board.open(path, worker=None) as board:
        row = board.row("src_a")
        for i in itertools.count(1):
            board.publish(
                row,
                waiting=i,
                running=2 * i,
                kv_permille=3 * i,
                healthy=i % 2 == 0,
                saturated=i % 4 > 1,
                read_at_ns=i * 1_000_000,
            )
            board.confirm_snapshot(i, 7 * i)
            if i % 256 == 0 and stop.exists():
                return


@pytest.mark.parametrize("together", [False, True])
def test_a_reader_never_sees_half_of_a_reading(tmp_path: Path, together: bool) -> None:
    path, stop = tmp_path / "board.shm", tmp_path / "stop"
    with Board.create(path, rows=4, workers=WORKERS) as board, Board.open(path, worker=0) as reader:
        row = board.row("src_a")
        rows = reader.rows_of([board.row("src_b"), row])
        at = rows.numbers.index(row)
        process = multiprocessing.get_context("spawn").Process(target=write, args=(path, stop))
        process.start()
        try:
            seen: set[int] = set()
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and (len(seen) < 2000):
                reading = reader.look(rows, 0)[0][at] if together else reader.reading(row, 0)
                i = reading.waiting
                if i > 0:
                    seen.add(i)
                    assert reading.running == 2 * i and reading.kv_permille == 3 * i
                    assert reading.healthy == (i % 2 == 0) and reading.saturated == (i % 4 > 1)
                version, wall_ns = reader.snapshot_confirmed()
                assert wall_ns == 7 * version
            assert len(seen) >= 2000, "the writer ran beside the reader"
        finally:
            stop.touch()
            process.join(10)
            process.kill()
            process.join()


def work(path: Path, notes: Path, worker: int, stop: Path) -> None:
    """Enter and leave as fast as it goes, with up to three calls at a time."""
    rng = random.Random(worker)
    held: list[tuple[int, int]] = []
    count = 0
    fd = os.open(notes, os.O_RDWR | os.O_CREAT, 0o600)
    with Board.open(path, worker=worker) as board:
        row = board.row("src_a")
        while not stop.exists():
            if board.enter(row, CAP):
                started = time.monotonic_ns()
                os.pwrite(fd, SPAN.pack(started, 0), count * SPAN.size)
                held.append((count, started))
                count += 1
            if held and (len(held) == 3 or rng.random() < 0.6):
                index, started = held.pop(rng.randrange(len(held)))
                os.pwrite(fd, SPAN.pack(started, time.monotonic_ns()), index * SPAN.size)
                board.leave(row)
        for index, started in held:
            os.pwrite(fd, SPAN.pack(started, time.monotonic_ns()), index * SPAN.size)
            board.leave(row)
    os.close(fd)


def test_a_cap_is_never_exceeded_by_four_processes_though_one_is_killed(tmp_path: Path) -> None:
    path, stop = tmp_path / "board.shm", tmp_path / "stop"
    spawn = multiprocessing.get_context("spawn")
    with Board.create(path, rows=4, workers=WORKERS) as board:
        row = board.row("src_a")
        notes = [tmp_path / f"notes-{i}" for i in range(WORKERS)]
        running = [spawn.Process(target=work, args=(path, notes[i], i, stop)) for i in range(WORKERS)]
        try:
            for process in running:
                process.start()
            deadline = time.monotonic() + 120
            while not all(file.exists() and file.stat().st_size for file in notes):
                assert time.monotonic() < deadline, "the processes did not start"
                time.sleep(0.01)
            time.sleep(0.4)
            running[1].kill()
            died_ns = time.monotonic_ns()
            running[1].join()
            board.clear_worker(1)
            time.sleep(0.3)
            stop.touch()
            for process in running:
                process.join(120)
            assert [process.exitcode for process in running] == [0, -9, 0, 0]
            assert board.inflight(row) == 0
        finally:
            for process in running:
                process.kill()
                process.join()
    edges: list[tuple[int, int]] = []
    for file in notes:
        data = file.read_bytes()
        for start, end in SPAN.iter_unpack(data[: len(data) // SPAN.size * SPAN.size]):
            edges += [(start, 1), (end or died_ns, -1)]
    inside = most = 0
    for _, change in sorted(edges):
        inside += change
        most = max(most, inside)
    assert most == CAP
