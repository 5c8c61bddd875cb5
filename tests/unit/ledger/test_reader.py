"""Reading: one call out of many segments, everything merged by time, and all of it while it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import LogCorrupt
from interlock.ledger.folder import segment_path, segments
from interlock.ledger.reader import Tailed, find_call, read_epoch, read_segment, tail
from interlock.types.record import AttemptEnd, EpochClose, EpochOpen, Intent, request_id

from .support import attempt, durable, intent, open_log, outcome, refusal, run, until, written


def test_a_call_is_found_with_all_its_records(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, segment_bytes=3000)
        for call in range(1, 40):
            log.append(intent(call))
            log.append(attempt(call, 0))
            log.append(AttemptEnd(call, 0, 1, "upstream_error", 502, "no"))
            log.append(attempt(call, 1))
            log.append_chunk(call, 0, "a", b"")
            await durable(log, log.append_chunk(call, 1, "b", b""))
            if call > 1:
                log.append(outcome(call - 1, chunks=2))
        await written(log)
        assert len(segments(tmp_path, log.epoch)) > 3
        for call in range(1, 39):
            found = find_call(tmp_path, request_id(log.epoch, call))
            assert found is not None and found.state == "completed"
            assert found.intent == intent(call) and found.outcome == outcome(call, chunks=2)
            assert [each.number for each in found.attempts] == [0, 1] and len(found.attempt_ends) == 1
            assert "".join(chunk.text for chunk in found.chunks) == "ab"
        still = find_call(tmp_path, request_id(log.epoch, 39))
        assert still is not None and still.state == "open"
        await log.close()

    run(main)


def test_a_call_that_was_written_out_of_order_is_found(tmp_path: Path) -> None:
    """Call 2 had a slow body: its intent is segments after those of later calls, and call 50's before them."""

    async def main() -> None:
        log = open_log(tmp_path, segment_bytes=2000)
        log.append(intent(50))
        for call in [*range(3, 30), 2, *range(31, 40)]:
            await durable(log, log.append(intent(call)))
        log.append(refusal(60))
        await written(log)
        for call in (2, 3, 29, 31, 50, 60):
            found = find_call(tmp_path, request_id(log.epoch, call))
            assert found is not None and found.stored[0].record.call == call  # type: ignore[union-attr]
        await log.close()

    run(main)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "req_x_1",
        "req_01aaaaaaaaaaaaaa_5",
        "req_../../etc_1",
        "req_a_zz",
        "req_01aaaaaaaaaaaaaa_" + "f" * 40,
    ],
)
def test_a_request_id_of_no_call_finds_nothing(tmp_path: Path, text: str) -> None:
    assert find_call(tmp_path, text) is None


def test_a_segment_is_read_alone(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, segment_bytes=2000)
        for call in range(1, 20):
            await durable(log, log.append(intent(call)))
        await log.close()
        alone = [list(read_segment(tmp_path, log.epoch, index)) for index in segments(tmp_path, log.epoch)]
        assert [each for part in alone for each in part] == list(read_epoch(tmp_path, log.epoch))

    run(main)


def test_a_live_epoch_is_read_while_it_grows_and_rotates(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path, segment_bytes=1500)
        read: list[Tailed] = []
        following = tail(tmp_path, follow=True, sleep=lambda _: pauses.__next__())
        pauses: Iterator[None] = iter([None] * 1000)
        last = 0
        for call in range(1, 60):
            last = log.append(intent(call))
            if call % 4 == 0:
                await written(log)
                while not read or read[-1].stored.seq < last:
                    read.append(next(following))
            if call % 11 == 0:
                await durable(log, last)
        following.close()  # type: ignore[attr-defined]
        assert [each.stored.seq for each in read] == list(range(1, len(read) + 1))
        await log.close()

    run(main)


def test_epochs_are_merged_by_time(tmp_path: Path) -> None:
    async def main() -> None:
        logs = [open_log(tmp_path) for _ in range(3)]
        base = max(each.wall_ns for each in tail(tmp_path))
        for step in range(1, 31):
            record = intent(step)
            at = Intent(**{name: getattr(record, name) for name in record.__struct_fields__} | {"wall_ns": base + step})
            logs[step % 3].append(at)
        for log in logs:
            await written(log)
        got = [each.stored.record.call for each in tail(tmp_path) if isinstance(each.stored.record, Intent)]
        assert got == list(range(1, 31))
        since = list(tail(tmp_path, since_ns=base + 21))
        assert [each.stored.record.call for each in since] == list(range(21, 31))  # type: ignore[union-attr]
        for log in logs:
            await log.close()
        closed = list(tail(tmp_path))
        assert sum(isinstance(each.stored.record, EpochOpen) for each in closed) == 3
        assert sum(isinstance(each.stored.record, EpochClose) for each in closed) == 3

    run(main)


def test_damage_in_one_epoch_does_not_hide_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        logs = [open_log(tmp_path) for _ in range(2)]
        for log in logs:
            for call in range(1, 4):
                log.append(intent(call))
                log.sync()
            await log.close()
        path = segment_path(tmp_path, logs[0].epoch, 0)
        data = bytearray(path.read_bytes())
        data[300] ^= 1
        path.write_bytes(data)
        with pytest.raises(LogCorrupt, match="damaged at offset"):
            list(tail(tmp_path))
        seen: list[LogCorrupt] = []
        got = [each for each in tail(tmp_path, on_damage=seen.append) if each.epoch == logs[1].epoch]
        assert len(got) == 5 and len(seen) == 1

    run(main)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(tail(tmp_path / "none")) == []


def test_a_segment_that_was_copied_elsewhere_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        logs = [open_log(tmp_path) for _ in range(2)]
        for log in logs:
            await log.close()
        source, target = (segment_path(tmp_path, log.epoch, 0) for log in logs)
        target.write_bytes(source.read_bytes())
        with pytest.raises(LogCorrupt, match="moved or copied"):
            list(read_epoch(tmp_path, logs[1].epoch))

    run(main)


def test_waiting_for_the_loop_does_not_block_a_reader(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        log.append(intent(1))
        assert len(list(read_epoch(tmp_path, log.epoch))) == 1
        await until(lambda: len(list(read_epoch(tmp_path, log.epoch))) == 2)
        await log.close()

    run(main)
