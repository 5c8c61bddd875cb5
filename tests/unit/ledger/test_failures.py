"""A disk that is full, broken, slow or short: what is promised stays true, and who waits is told."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from interlock.errors import LogError
from interlock.ledger.folder import CLOSED, epochs, segments
from interlock.ledger.reader import find_call, read_epoch
from interlock.ledger.recovery import recover
from interlock.types.clock import SystemClock
from interlock.types.record import Interrupted, request_id

from .support import FaultyFiles, durable, intent, open_log, outcome, refused, run, until, written


@pytest.mark.parametrize("short", [1, 7, 100])
def test_short_writes_and_interruptions_lose_nothing(tmp_path: Path, short: int) -> None:
    async def main() -> None:
        files = FaultyFiles()
        files.short = short
        log = open_log(tmp_path, files=files)
        files.interrupts = 3
        sent = [intent(call) for call in range(1, 6)]
        for record in sent:
            seq = log.append(record)
        assert await durable(log, seq) is None
        await log.close()
        assert [each.record for each in read_epoch(tmp_path, log.epoch)][1:-1] == sent

    run(main)


@pytest.mark.parametrize("room", [0, 1, 15, 16, 17, 200, 700, 1200])
def test_a_full_disk_is_told_and_the_log_goes_on_when_there_is_room(tmp_path: Path, room: int) -> None:
    """`room` puts the end of the disk before, inside and after frames."""

    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files, log_check_ms=10)
        failures: list[LogError] = []
        log.on_failure(failures.append)
        before = log.append(intent(1))
        assert await durable(log, before) is None
        files.room, files.free = room, 0
        told: list[str] = []
        seqs = [log.append(intent(call)) for call in range(2, 7)]
        log.on_written(lambda: told.append("written"))
        errors = [await durable(log, seq) for seq in seqs]
        assert told == []
        assert [error.code if error else "" for error in errors][-1] == "record_log_disk_full"
        assert len(failures) == 1 and refused(log) == "record_log_disk_full"
        with pytest.raises(LogError):
            log.append(intent(7))
        with pytest.raises(LogError):
            log.append_chunk(1, 0, "x", b"")
        await asyncio.sleep(0.05)
        assert refused(log), "there is no room yet"
        files.room, files.free = None, 1 << 40
        await until(lambda: not refused(log))
        for seq, error in zip(seqs, errors, strict=True):
            again = await durable(log, seq)
            assert (again is None) == (error is None), "a record is not durable afterwards that was refused before"
        after = log.append(intent(8))
        assert after > seqs[-1], "a number that was given out is never given to another record"
        assert await durable(log, after) is None
        stored = {each.seq for each in read_epoch(tmp_path, log.epoch)}
        assert {before, after} <= stored
        assert {seq for seq, error in zip(seqs, errors, strict=True) if error is None} == stored & set(seqs)
        await log.close()
        assert segments(tmp_path, log.epoch) == [0, 1]

    run(main)


def test_an_outcome_that_met_a_full_disk_is_written_later_as_cut(tmp_path: Path) -> None:
    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files, log_check_ms=10)
        for call in (1, 2):
            seq = log.append(intent(call))
        assert await durable(log, seq) is None
        files.room, files.free = 0, 0
        error = await durable(log, log.append(outcome(1, body=b"answer")))  # buffered, then dropped
        assert error is not None
        with pytest.raises(LogError):
            log.append(outcome(2, body=b"answer"))  # refused at once
        files.room, files.free = None, 1 << 40
        await until(lambda: not refused(log))
        await written(log)
        for call in (1, 2):
            found = find_call(tmp_path, request_id(log.epoch, call))
            assert found is not None and found.outcome is not None
            assert (found.state, found.outcome.body, found.outcome.code) == ("cut", b"", "record_log_unavailable")
        assert log.stats().open_calls == 0
        await log.close()

    run(main)


def test_what_was_written_before_the_disk_was_full_still_becomes_durable(tmp_path: Path) -> None:
    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files)
        seq = log.append(outcome(1))
        log.on_written(lambda: None)
        await written(log)
        files.room = 0
        lost = log.append(outcome(2))
        first, second = await asyncio.gather(durable(log, seq), durable(log, lost))
        assert first is None and second is not None
        log.abandon()

    run(main)


def test_no_room_for_the_next_segment(tmp_path: Path) -> None:
    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files, segment_bytes=2000, log_check_ms=10)
        big = log.append(intent(1, body=b"x" * 3000))
        files.room, files.free = 3300, 0
        assert await durable(log, big) is None
        await until(lambda: refused(log))
        assert segments(tmp_path, log.epoch) == [0]
        files.room, files.free = None, 1 << 40
        await until(lambda: not refused(log))
        assert segments(tmp_path, log.epoch) == [0, 1]
        assert await durable(log, log.append(intent(2))) is None
        await log.close()
        assert len(list(read_epoch(tmp_path, log.epoch))) == 4

    run(main)


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_an_input_output_error_ends_the_epoch_for_good(tmp_path: Path, call: str) -> None:
    """After a failed fsync the kernel may have dropped the pages: durability is never claimed again."""

    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files, log_check_ms=10)
        failures: list[LogError] = []
        log.on_failure(failures.append)
        durable_before = log.durable_seq
        files.failing[call] = errno.EIO
        error = await durable(log, log.append(intent(1)))
        assert error is not None and error.code == "record_log_failed"
        del files.failing[call]
        await asyncio.sleep(0.05)
        assert refused(log) and log.durable_seq == durable_before
        with pytest.raises(LogError, match="restarted"):
            log.append(intent(2))
        again = await durable(log, durable_before + 1)
        assert again is not None and again.code == "record_log_failed"
        assert await durable(log, durable_before) is None
        assert len(failures) == 1
        calls = len(files.calls)
        await log.close()
        assert "write" not in files.calls[calls:] and "fdatasync" not in files.calls[calls:]
        assert not (tmp_path / log.epoch / CLOSED).exists()

    run(main)


@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "fsync"])
def test_a_log_that_cannot_be_opened_says_so_and_leaves_nothing_in_the_way(tmp_path: Path, call: str) -> None:
    async def main() -> None:
        files = FaultyFiles()
        files.failing[call] = errno.ENOSPC
        with pytest.raises(LogError):
            open_log(tmp_path, files=files)
        log = open_log(tmp_path)
        recover(tmp_path, into=log, clock=SystemClock())
        for epoch in epochs(tmp_path):
            list(read_epoch(tmp_path, epoch))
        await log.close()

    run(main)


def test_calls_whose_outcome_was_lost_are_found_by_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        files = FaultyFiles()
        log = open_log(tmp_path, files=files)
        assert await durable(log, log.append(intent(1))) is None
        files.room = 0
        assert await durable(log, log.append(outcome(1))) is not None
        await log.close()
        after = open_log(tmp_path)
        recovered = recover(tmp_path, into=after, clock=SystemClock())
        assert [each.interrupted for each in recovered] == [1]
        found = find_call(tmp_path, request_id(log.epoch, 1))
        assert found is not None and isinstance(found.interrupted, Interrupted)
        await after.close()

    run(main)
