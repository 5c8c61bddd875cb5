"""kill -9 of a writing process at random moments, again and again in one folder (P1)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from interlock.ledger.folder import CLOSED, RECOVERED, epochs
from interlock.ledger.reader import find_call, read_epoch
from interlock.ledger.recovery import recover
from interlock.types.clock import SystemClock
from interlock.types.record import Intent, Interrupted, Outcome, request_id
from tests.unit.ledger.support import open_log, run

ROUNDS = int(os.environ.get("LEDGER_KILL_ROUNDS", "6"))
"""The long proofs ask for more."""
ROOT = Path(__file__).parents[2]


def write_and_be_killed(folder: Path, rng: random.Random, within_s: float) -> tuple[str, set[int]]:
    """Let a process write, kill it within so long after it has begun: its epoch, and the sequence numbers that it was
    told are written or durable."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.ledger_writer", str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert writer.stdout is not None
    first = writer.stdout.readline().decode().split()
    time.sleep(rng.uniform(0, within_s))
    writer.send_signal(signal.SIGKILL)
    said = writer.stdout.read().decode()
    writer.stdout.close()
    writer.wait()
    lines = said.split("\n")[:-1]
    return first[1], {int(line.split()[1]) for line in lines}


def test_what_was_told_outlives_kill_9_and_open_calls_are_found_once(tmp_path: Path) -> None:
    rng = random.Random()
    told: dict[str, set[int]] = {}
    within_s = 0.25
    while len(told) < ROUNDS or not any(told.values()):
        assert len(told) < ROUNDS + 8, "the writers never came to write"
        epoch, seqs = write_and_be_killed(tmp_path, rng, within_s)
        told[epoch] = seqs
        within_s *= 1 if seqs else 1.5  # a busy machine gets that far later

    async def last() -> str:
        log = open_log(tmp_path)
        recover(tmp_path, into=log, clock=SystemClock())
        await log.close()
        return log.epoch

    run(last)
    open_calls: set[tuple[str, int]] = set()
    interrupted: list[tuple[str, int]] = []
    for epoch in epochs(tmp_path):
        stored = list(read_epoch(tmp_path, epoch))
        assert [each.seq for each in stored] == list(range(1, len(stored) + 1))
        assert told.get(epoch, set()) <= {each.seq for each in stored}
        assert (tmp_path / epoch / RECOVERED).exists() or (tmp_path / epoch / CLOSED).exists()
        for each in stored:
            if isinstance(each.record, Intent):
                open_calls.add((epoch, each.record.call))
            elif isinstance(each.record, Outcome):
                open_calls.discard((epoch, each.record.call))
            elif isinstance(each.record, Interrupted):
                interrupted.append((each.record.epoch, each.record.call))
    assert len(interrupted) == len(set(interrupted))
    assert set(interrupted) == open_calls
    for epoch, call in list(open_calls)[:5]:
        found = find_call(tmp_path, request_id(epoch, call))
        assert found is not None and found.state == "interrupted"
