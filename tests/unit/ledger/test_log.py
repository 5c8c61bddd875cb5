"""RecordLog: what its three answers mean, group commit, rotation, limits, and its end."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from interlock.errors import LogCorrupt, LogError
from interlock.ledger.files import Files
from interlock.ledger.folder import CLOSED, epoch_ms, is_epoch, segment_path, segments, take_lock
from interlock.ledger.format import HEAD_BYTES, HEADER_BYTES, LARGE_BYTES, MARK, frame, unpack_head
from interlock.ledger.reader import read_epoch
from interlock.types.record import Chunk, EpochClose, EpochOpen, Outcome, Record

from .support import FaultyFiles, attempt, durable, intent, manual_log, open_log, outcome, refused, run, until, written


def records(folder: Path, epoch: str) -> list[Record]:
    return [stored.record for stored in read_epoch(folder, epoch)]


def test_an_epoch_opens_durable_and_closes_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path / "log")
        assert log.durable_seq == log.written_seq == 1
        assert is_epoch(log.epoch) and len(log.epoch) == 16 and log.epoch.isalnum()
        assert isinstance(records(tmp_path / "log", log.epoch)[0], EpochOpen)
        sent: list[Record] = [intent(log.next_call()), attempt(1), outcome(1, body=b"answer")]
        for record in sent:
            last = log.append(record)
        assert await durable(log, last) is None
        await log.close()
        await log.close()
        got = records(tmp_path / "log", log.epoch)
        assert got[1:-1] == sent
        assert isinstance(got[-1], EpochClose) and got[-1].last_seq == last
        assert (tmp_path / "log" / log.epoch / CLOSED).exists()

    run(main)


def test_the_checksum_of_a_frame_of_any_size_is_that_of_zlib(tmp_path: Path) -> None:
    """Of large ones another library computes it."""
    around = (0, 1, LARGE_BYTES - 100, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES, 100_000)

    async def main() -> None:
        log = open_log(tmp_path)
        for size in around:
            log.append(outcome(1, body=b"x" * size))
            log.append_chunk(1, 0, "y" * size, b"")
        await written(log)
        data = segment_path(tmp_path, log.epoch, 0).read_bytes()[HEADER_BYTES:]
        sizes = []
        while data:
            length, told, seq = unpack_head(data, 0)
            rest = data[8 : HEAD_BYTES + (0 if length == MARK else length)]
            if length != MARK:
                sizes.append(length)
                assert told == zlib.crc32(rest) and frame(seq, rest[8:]) == data[: HEAD_BYTES + length]
            data = data[8 + len(rest) :]
        assert len(sizes) == 1 + 2 * len(around) and min(sizes) < LARGE_BYTES < max(sizes)
        await log.close()

    run(main)


def test_a_large_frame_that_was_changed_is_damage(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        await durable(log, log.append(outcome(1, body=b"x" * 2 * LARGE_BYTES)))
        await log.close()
        file = segment_path(tmp_path, log.epoch, 0)
        data = file.read_bytes()
        assert len(records(tmp_path, log.epoch)) == 3
        at = data.index(b"x" * LARGE_BYTES) + LARGE_BYTES
        file.write_bytes(data[:at] + b"y" + data[at + 1 :])
        with pytest.raises(LogCorrupt, match="damaged"):
            records(tmp_path, log.epoch)

    run(main)


def test_epoch_id_holds_its_time(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        opened = records(tmp_path, log.epoch)[0]
        assert isinstance(opened, EpochOpen)
        assert abs(epoch_ms(log.epoch) - opened.wall_ns // 1_000_000) < 1000
        await log.close()

    run(main)


def test_the_fast_path_for_chunks_writes_the_same_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        log.append(intent(1))
        log.append_chunk(1, 0, "höllo", b"")
        log.append(Chunk(1, 1, "", b"\xff{}"))
        log.append_chunk(1, 2**40, "", b"\xff{}")
        await written(log)
        frames = list(read_epoch(tmp_path, log.epoch))[2:]
        assert [stored.record for stored in frames] == [
            Chunk(1, 0, "höllo"),
            Chunk(1, 1, "", b"\xff{}"),
            Chunk(1, 2**40, "", b"\xff{}"),
        ]
        await log.close()

    run(main)


def test_one_write_takes_everything_appended_in_an_iteration(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        before = log.stats().writes
        for call in range(1, 50):
            log.append(intent(call))
        assert log.stats().writes == before
        await written(log)
        assert log.stats().writes == before + 1
        await log.close()

    run(main)


def test_written_is_told_after_the_write_and_before_the_sync(tmp_path: Path) -> None:
    async def main() -> None:
        log, flusher = manual_log(tmp_path)
        told: list[str] = []
        seq = log.append(intent(1))
        log.on_durable(seq, lambda error: told.append(f"durable {error}"))
        log.on_written(lambda: told.append("written"))
        assert told == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert told == ["written"]
        assert log.written_seq == seq and log.durable_seq < seq
        assert flusher.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert told == ["written", "durable None"]
        log.on_written(lambda: told.append("at once"))
        log.on_durable(seq, lambda error: told.append(f"at once {error}"))
        assert told[2:] == ["at once", "at once None"]
        log.abandon()

    run(main)


def test_group_commit_is_self_clocked(tmp_path: Path) -> None:
    """A sync covers what was written until it began. What is written while it runs gathers, and the next covers it."""

    async def main() -> None:
        files = HookedFiles()
        log, flusher = manual_log(tmp_path, files=files)
        done: list[int] = []
        fsyncs = log.stats().fsyncs

        def append(call: int) -> None:
            seq = log.append(intent(call))
            log.on_durable(seq, lambda error: done.append(seq))

        def append_more() -> None:
            for call in range(6, 11):
                append(call)
            log._write()

        for call in range(1, 6):
            append(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(flusher.work) == 1 and done == []
        files.meanwhile = append_more
        flusher.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == list(range(2, 7)) and len(flusher.work) == 1
        flusher.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == list(range(2, 12)) and not flusher.work
        assert log.stats().fsyncs == fsyncs + 2
        log.abandon()

    run(main)


class HookedFiles(FaultyFiles):
    """`meanwhile` is called once, while an fdatasync runs."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] | None = None

    def fdatasync(self, fd: int) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        super().fdatasync(fd)
        if meanwhile is not None:
            meanwhile()


def test_a_sync_starts_in_a_pause_of_the_loop(tmp_path: Path) -> None:
    """While every iteration appends, a sync waits and covers more; the first one that appends nothing starts it."""

    async def main() -> None:
        log, flusher = manual_log(tmp_path, log_sync_gap_ms=60_000)
        first = log.append(intent(1))
        log.on_durable(first, lambda _: None)
        for call in range(2, 10):
            await asyncio.sleep(0)
            last = log.append(intent(call))
        assert not flusher.work
        for _ in range(3):
            await asyncio.sleep(0)
        assert flusher.step() and not flusher.work
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log.durable_seq == last
        log.abandon()

    run(main)


def test_a_loop_without_a_pause_syncs_after_the_gap(tmp_path: Path) -> None:
    async def main() -> None:
        log, flusher = manual_log(tmp_path, log_sync_gap_ms=5)
        log.on_durable(log.append(intent(1)), lambda _: None)
        started = time.monotonic()
        call = 1
        while not flusher.work:
            call += 1
            log.append(intent(call))
            await asyncio.sleep(0)
        assert time.monotonic() - started >= 0.005
        log.abandon()

    run(main)


def test_waiters_are_told_in_the_order_of_seq(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        order: list[int] = []
        seqs = [log.append(intent(call)) for call in range(1, 6)]
        for seq in (seqs[3], seqs[0], seqs[4], seqs[1], seqs[2]):
            log.on_durable(seq, lambda error, seq=seq: order.append(seq))  # type: ignore[misc]
        assert await durable(log, seqs[-1]) is None
        assert order == seqs
        await log.close()

    run(main)


def test_a_raising_callback_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        log = open_log(tmp_path)

        def wrong(*_: object) -> None:
            raise ZeroDivisionError

        seq = log.append(intent(1))
        log.on_written(wrong)
        log.on_durable(seq, wrong)
        await written(log)
        assert await durable(log, seq) is None
        assert [type(each) for each in reported] == [ZeroDivisionError, ZeroDivisionError]
        await log.close()

    run(main)


def test_sync_within_syncs_without_a_waiter(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        seq = log.append_chunk(1, 0, "x", b"")
        log.sync_within(20)
        log.sync_within(20)
        await until(lambda: log.durable_seq == seq)
        fsyncs = log.stats().fsyncs
        await asyncio.sleep(0.05)
        assert log.stats().fsyncs == fsyncs
        await log.close()

    run(main)


def test_sync_within_covers_what_is_appended_just_before_the_timer(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        log.append_chunk(1, 0, "x", b"")
        log.sync_within(20)
        await asyncio.sleep(0)
        seq = log.append_chunk(1, 1, "y", b"")
        log.sync_within(20)
        log._sync_due()  # the timer fires in this same iteration
        await until(lambda: log.durable_seq == seq)
        log.abandon()

    run(main)


def test_segments_rotate_and_nothing_is_lost_between_them(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, segment_bytes=2000)
        for call in range(1, 101):
            seq = log.append(intent(call))
            if call % 7 == 0:
                await written(log)
        assert await durable(log, seq) is None
        await log.close()
        assert len(segments(tmp_path, log.epoch)) > 3
        stored = list(read_epoch(tmp_path, log.epoch))
        assert [each.seq for each in stored] == list(range(1, len(stored) + 1))
        assert [each.record for each in stored[1:-1]] == [intent(call) for call in range(1, 101)]

    run(main)


def test_writes_are_held_back_while_a_segment_is_sealed(tmp_path: Path) -> None:
    """The invariant by which a reader knows damage: a segment has a successor only when it is whole and durable."""

    async def main() -> None:
        log, flusher = manual_log(tmp_path, segment_bytes=500)
        log.append(intent(1, body=b"x" * 1000))
        await asyncio.sleep(0)
        told: list[str] = []
        log.append_chunk(1, 0, "x", b"")
        log.on_written(lambda: told.append("written"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == [] and segments(tmp_path, log.epoch) == [0]
        flusher.step()
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == ["written"] and segments(tmp_path, log.epoch) == [0, 1]
        assert [each.segment for each in read_epoch(tmp_path, log.epoch)] == [0, 0, 1]
        log.abandon()

    run(main)


def test_the_lock_is_held_while_the_log_lives(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        lock = tmp_path / log.epoch / "lock"
        assert take_lock(Files(), lock) is None
        await log.close()
        fd = take_lock(Files(), lock)
        assert fd is not None
        Files().close(fd)

    run(main)


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        await log.close()
        assert refused(log) == "record_log_closed"
        with pytest.raises(LogError):
            log.append(intent(1))
        with pytest.raises(LogError):
            log.append_chunk(1, 0, "", b"")

    run(main)


def test_an_epoch_with_an_open_call_is_not_marked_closed(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        log.append(intent(1))
        assert log.stats().open_calls == 1
        await log.close()
        assert isinstance(records(tmp_path, log.epoch)[-1], EpochClose)
        assert not (tmp_path / log.epoch / CLOSED).exists()

    run(main)


def test_a_record_over_its_limit_is_refused_alone(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, record_bytes_max=1000)
        with pytest.raises(LogError, match="record_bytes_max"):
            log.append(intent(1, body=b"x" * 1000))
        assert await durable(log, log.append(intent(2))) is None
        await log.close()
        assert [each.seq for each in read_epoch(tmp_path, log.epoch)] == [1, 2, 3]

    run(main)


def test_new_calls_are_refused_above_the_disk_budget(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, log_disk_bytes_max=5000, log_check_ms=10)
        assert refused(log) == ""
        log.append(intent(1, body=b"x" * 6000))
        await written(log)
        assert refused(log) == "record_log_budget"
        log.append(outcome(1))  # a running call is still recorded
        await log.close()
        other = open_log(tmp_path, log_disk_bytes_max=5000)
        assert refused(other) == "record_log_budget", "the budget is the node's, over all epochs"
        await other.close()

    run(main)


def test_new_calls_are_refused_when_little_disk_is_free(tmp_path: Path) -> None:
    async def main() -> None:
        files = FaultyFiles()
        files.free = 10_000
        log = open_log(tmp_path, files=files, log_disk_free_bytes_min=9000, log_check_ms=10)
        assert refused(log) == ""
        files.free = 8000
        await until(lambda: refused(log) == "record_log_disk_full")
        files.free = 20_000
        await until(lambda: not refused(log))
        await log.close()

    run(main)


def test_a_backlog_refuses_new_calls_and_then_everything(tmp_path: Path) -> None:
    async def main() -> None:
        log, flusher = manual_log(tmp_path, log_pending_bytes_max=5000)
        log.append(intent(1, body=b"x" * 6000))
        await written(log)
        assert refused(log) == "record_log_backlog"
        log.append_chunk(1, 0, "y" * 5000, b"")
        await written(log)
        with pytest.raises(LogError):
            log.append_chunk(1, 1, "z", b"")
        with pytest.raises(LogError):
            log.append(outcome(1, body=b"answer"))
        log.sync_within(1)
        await until(lambda: flusher.work)
        flusher.step()
        for _ in range(5):
            await asyncio.sleep(0)
        assert refused(log) == ""
        ended = records(tmp_path, log.epoch)[-1]
        assert isinstance(ended, Outcome) and ended.state == "cut" and ended.body == b""
        assert log.stats().open_calls == 0
        log.abandon()

    run(main)
