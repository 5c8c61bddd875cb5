"""Limits never exceeded over four worker processes, one of which is killed in the middle.

The processes run on a clock that is a hundred times as fast, so that several windows pass in a second or two. Each
notes what it was admitted only after it was admitted, and what it gives back before it gives it back: what is noted is
at most what was held.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import struct
import time
from pathlib import Path

from interlock.metering.limits import Admission, LimitTable, Subject
from interlock.types.identity import LimitSet

S = 1_000_000_000
SPEED = 100
WORKERS = 4
KILL_AFTER_S = 0.6
GO_ON_S = 0.8
PATIENCE_S = 30.0
"""Longest time until the limits mattered, where the processes get little of the machine."""
VICTIM = 2
CALL = struct.Struct("@qqqq")
"""Admitted at (fast clock) and who, tokens reserved or used, started and ended (real clock; 0: it still runs)."""

KEY = Subject("key", "key_a", LimitSet(requests_per_minute=300, concurrency=7))
TEAM = Subject("team", "team_a", LimitSet(requests_per_minute=400, concurrency=9))
OTHER = Subject("principal", "prn_a", LimitSet(tokens_per_minute=6_000))
CALLERS = ((KEY, TEAM), (OTHER, TEAM), (KEY, OTHER, TEAM))


def fast_ns() -> int:
    return time.monotonic_ns() * SPEED


def work(path: Path, notes: Path, worker: int, stop: Path) -> None:
    """Admit and settle as fast as it goes until the file `stop` is there; hold up to four calls at a time."""
    rng = random.Random(worker)
    held: list[tuple[int, Admission, int, int, int, int]] = []
    count = 0
    fd = os.open(notes, os.O_RDWR | os.O_CREAT, 0o600)
    with LimitTable.open(path, worker=worker) as table:
        while not stop.exists():
            who, tokens = rng.randrange(len(CALLERS)), rng.randrange(1, 120)
            admission = table.admit(CALLERS[who], tokens, fast_ns())
            if isinstance(admission, Admission):
                started, at_ns = time.monotonic_ns(), admission.at_ns
                os.pwrite(fd, CALL.pack(at_ns << 2 | who, tokens, started, 0), count * CALL.size)
                held.append((count, admission, at_ns, who, tokens, started))
                count += 1
            if held and (len(held) >= 4 or rng.random() < 0.7):
                index, admission, at_ns, who, tokens, started = held.pop(rng.randrange(len(held)))
                used = rng.randrange(tokens)
                os.pwrite(fd, CALL.pack(at_ns << 2 | who, used, started, time.monotonic_ns()), index * CALL.size)
                table.settle(admission, used, fast_ns())
        for index, admission, at_ns, who, tokens, started in held:
            os.pwrite(fd, CALL.pack(at_ns << 2 | who, tokens, started, time.monotonic_ns()), index * CALL.size)
            table.settle(admission, tokens, fast_ns())
    os.close(fd)


def most_at_once(spans: list[tuple[int, int]]) -> int:
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    for _, change in edges:
        running += change
        most = max(most, running)
    return most


def most_in_a_window(events: list[tuple[int, int]], window_ns: int) -> int:
    """The largest sum of amounts within any half-open window."""
    events = sorted(events)
    total = most = first = 0
    for at_ns, amount in events:
        total += amount
        while events[first][0] <= at_ns - window_ns:
            total -= events[first][1]
            first += 1
        most = max(most, total)
    return most


def in_windows(subject: Subject, calls: list[tuple[int, ...]]) -> list[tuple[int, int, float]]:
    """(limit, most within a window, which share of the limit that must have been for the limit to matter)."""
    mine, limits = [call for call in calls if subject in CALLERS[call[0] & 3]], subject.limits
    found = []
    if limits.requests_per_minute is not None:
        most = most_in_a_window([(call[0] >> 2, 1) for call in mine], 60 * S)
        found.append((limits.requests_per_minute, most, 0.9))
    if limits.tokens_per_minute is not None:
        most = most_in_a_window([(call[0] >> 2, call[1]) for call in mine], 60 * S)
        found.append((limits.tokens_per_minute, most, 0.7))
    return found


def came_into_play(calls: list[tuple[int, ...]]) -> bool:
    """Whether every limit was nearly used up within a window."""
    return all(most > share * limit for who in (KEY, OTHER, TEAM) for limit, most, share in in_windows(who, calls))


def test_four_processes_never_exceed_a_limit_though_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "limits.shm"
    spawn = multiprocessing.get_context("spawn")
    with LimitTable.create(path, slots=64, workers=WORKERS) as table:
        stop = tmp_path / "stop"
        notes = [tmp_path / f"notes-{i}" for i in range(WORKERS + 1)]
        running = [spawn.Process(target=work, args=(path, notes[i], i, stop)) for i in range(WORKERS)]
        try:
            for process in running:
                process.start()
            _wait_for(notes[:WORKERS])
            time.sleep(KILL_AFTER_S)
            running[VICTIM].kill()
            died_ns = time.monotonic_ns()
            running[VICTIM].join()
            table.clear_worker(VICTIM)
            running.append(spawn.Process(target=work, args=(path, notes[WORKERS], VICTIM, stop)))
            running[-1].start()
            _wait_for(notes)
            time.sleep(GO_ON_S)
            deadline = time.monotonic() + PATIENCE_S
            while not came_into_play(_calls(notes)) and time.monotonic() < deadline:
                time.sleep(0.2)
            stop.touch()
            for i, process in enumerate(running):
                process.join(120)
                assert process.exitcode == (-9 if i == VICTIM else 0)
        finally:
            for process in running:
                process.kill()
                process.join()
        for subject in (KEY, OTHER, TEAM):
            assert table.used(subject.kind, subject.id, fast_ns()).concurrency == 0
    calls = _calls(notes)
    assert came_into_play(calls)
    for subject in (KEY, OTHER, TEAM):
        mine = [call for call in calls if subject in CALLERS[call[0] & 3]]
        limits = subject.limits
        for limit, most, _ in in_windows(subject, calls):
            assert most <= limit
        if limits.concurrency is not None:
            most = most_at_once([(call[2], call[3] or died_ns) for call in mine])
            assert 2 <= most <= limits.concurrency


def _wait_for(files: list[Path]) -> None:
    """Until each of them has something in it."""
    deadline = time.monotonic() + 120
    while not all(file.exists() and file.stat().st_size for file in files):
        assert time.monotonic() < deadline, "the processes did not start"
        time.sleep(0.01)


def _calls(files: list[Path]) -> list[tuple[int, ...]]:
    return [call for file in files for call in CALL.iter_unpack(file.read_bytes()[: _whole(file)])]


def _whole(file: Path) -> int:
    return file.stat().st_size // CALL.size * CALL.size
