"""Crash at every system call, in both ways a crash can go, and look: nothing that was promised is missing (P1)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import LogError
from interlock.ledger.folder import CLOSED, RECOVERED, epochs
from interlock.ledger.log import RecordLog
from interlock.ledger.reader import read_epoch
from interlock.ledger.recovery import recover
from interlock.types.clock import SystemClock
from interlock.types.record import EpochRecovered, Intent, Interrupted, Outcome, Record
from tests.unit.ledger.support import ManualFlusher, attempt, intent, open_log, outcome, run, written

from .crashes import Disk, Event, TracingFiles

CLOCK = SystemClock()
EXAMPLES = int(os.environ.get("LEDGER_CRASH_EXAMPLES", "25"))
"""Workloads that are crashed; the long proofs ask for more."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: the model stands for the disk, so a real one would only take time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def crash_points(trace: TracingFiles, disk: Disk) -> Iterator[tuple[int, Event]]:
    """Bring the disk to the state after each event in turn."""
    for at, event in enumerate(trace.events, 1):
        disk.apply(event)
        yield at, event


def acked(trace: TracingFiles, upto: int, what: str) -> set[int]:
    return {event.size for event in trace.events[:upto] if event.kind == "ack" and str(event.path) == what}


def seqs(folder: Path, epoch: str) -> dict[int, Record]:
    """Records of an epoch by number. Raises LogCorrupt if the crash looks like damage."""
    found: dict[int, Record] = {}
    for stored in read_epoch(folder, epoch):
        assert stored.seq not in found
        found[stored.seq] = stored.record
    return found


async def workload(folder: Path, files: TracingFiles, steps: list[tuple[str, int]]) -> RecordLog:
    """Run a log through `steps`, noting what was told to whom, and when. On a full disk it is refused, and goes on."""
    flushers: list[ManualFlusher] = []

    def flusher(notify: Callable[[], object]) -> ManualFlusher:
        flushers.append(ManualFlusher(notify))
        return flushers[-1]

    def note_durable(seq: int) -> None:
        log.on_durable(seq, lambda error: None if error else files.ack("durable", seq))

    def note_written(seq: int) -> None:
        log.on_written(lambda: files.ack("written", seq))

    def call(size: int) -> None:
        note_durable(log.append(intent(log.next_call(), body=b"x" * size)))

    def write_one_more(size: int) -> None:
        with suppress(LogError):
            call(size)
        log._write()

    log = open_log(folder, files=files, flusher=flusher, segment_bytes=1500)
    files.ack("durable", 1)
    for what, size in steps:
        try:
            match what:
                case "call":
                    call(size)
                case "chunk":
                    note_written(log.append_chunk(1, 0, "y" * size, b""))
                case "end":
                    note_durable(log.append(outcome(1 + size % 5)))
                case "turn":
                    await asyncio.sleep(0)
                case "flush" | "race":
                    files.meanwhile = partial(write_one_more, size) if what == "race" else None
                    flushers[0].step()
                    await asyncio.sleep(0)
                case "full":
                    files.room = size
                case "room":
                    files.room = None
                    log._check()
        except LogError:
            continue
    return log


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "chunk", "end", "turn", "turn", "flush", "flush", "race", "full", "room"]),
        st.integers(0, 700),
    ),
    max_size=30,
)


def look_at_every_crash(root: Path, steps: list[tuple[str, int]], seed: int, looks: int = 20) -> None:
    """Run `steps`, crash after about `looks` of the system calls, and compare with what was promised by then."""
    folder = root / "disk"
    folder.mkdir()
    files = TracingFiles(folder)
    rng = random.Random(seed)

    async def main() -> str:
        log = await workload(folder / "log", files, steps)
        log.abandon()
        return log.epoch

    epoch = run(main)
    disk = Disk(folder)
    for at, event in crash_points(files, disk):
        if rng.random() > looks / len(files.events):
            continue
        durable, heard = acked(files, at, "durable"), acked(files, at, "written")
        disk.after_kill(root / "kill", event, rng)
        assert durable | heard <= seqs(root / "kill" / "log", epoch).keys()
        shutil.rmtree(root / "kill")
        disk.after_power_loss(root / "power", rng)
        assert durable <= seqs(root / "power" / "log", epoch).keys()
        shutil.rmtree(root / "power")


@given(steps=STEPS, seed=st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_nothing_promised_is_lost_by_a_crash(steps: list[tuple[str, int]], seed: int) -> None:
    with scratch() as root:
        look_at_every_crash(root, steps, seed)


def settled(folder: Path) -> bool:
    return all((folder / e / CLOSED).exists() or (folder / e / RECOVERED).exists() for e in epochs(folder))


def check_interrupted_once(folder: Path) -> None:
    """Over all epochs: each call with an intent has an outcome or one Interrupted; each dead epoch one record."""
    open_calls: set[tuple[str, int]] = set()
    told: list[tuple[str, int]] = []
    recovered: list[str] = []
    for epoch in epochs(folder):
        for record in seqs(folder, epoch).values():
            if isinstance(record, Intent):
                open_calls.add((epoch, record.call))
            elif isinstance(record, Outcome):
                open_calls.discard((epoch, record.call))
            elif isinstance(record, Interrupted):
                told.append((record.epoch, record.call))
            elif isinstance(record, EpochRecovered):
                recovered.append(record.epoch)
    assert len(told) == len(set(told)), "told twice"
    assert set(told) == open_calls
    assert len(recovered) == len(set(recovered)), "an epoch was recovered twice"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_crash_in_recovery_loses_and_repeats_nothing(how: str, seed: int) -> None:
    with scratch() as root:
        crash_recoveries(root, how, seed)


def crash_recoveries(root: Path, how: str, seed: int) -> None:
    """Two workers die; crash the recovery after each of its system calls, and some of the recoveries of that; then
    let one finish. What the dead workers wrote was not durable when they died."""
    rng = random.Random(seed)
    folder = root / "disk"
    folder.mkdir()
    files = TracingFiles(folder)

    async def two_dead() -> None:
        for _ in range(2):
            log = open_log(folder, files=files, flusher=ManualFlusher)
            for call in (1, 2, 3):
                log.append(intent(call))
            log.append(attempt(2))
            log.append(outcome(3))
            await written(log)
            log.abandon()

    def crash(disk: Disk, after: Path, event: Event) -> None:
        shutil.rmtree(after, ignore_errors=True)
        if how == "kill":
            disk.after_kill(after, event, rng)
        else:
            disk.after_power_loss(after, rng)

    run(two_dead)
    begin = len(files.events)
    recovery(folder, files)
    disk = Disk(folder)
    for at, event in crash_points(files, disk):
        if at <= begin:
            continue
        after = root / f"first-{at}"
        crash(disk, after, event)
        if at % 3 == 0:
            again = Disk(after)
            again.base()
            second = recovery(after, TracingFiles(after))
            stop = rng.randrange(1, len(second.events))
            for each in second.events[:stop]:
                again.apply(each)
            crash(again, after, second.events[stop - 1])
        recovery(after, TracingFiles(after))
        recovery(after, TracingFiles(after), close=True)
        assert settled(after)
        check_interrupted_once(after)
        shutil.rmtree(after)


def recovery(folder: Path, files: TracingFiles, *, close: bool = False) -> TracingFiles:
    """A worker starts, recovers, and dies or closes; what it did to the disk is in `files`."""

    async def main() -> None:
        log = open_log(folder, files=files, flusher=None if close else ManualFlusher)
        recover(folder, into=log, clock=CLOCK, files=files)
        if close:
            await log.close()
        else:
            log.abandon()

    run(main)
    return files
