"""Recovery: every call that a dead worker left open is written down as interrupted, exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from interlock.ledger.folder import CLOSED, RECOVERED, epochs, segment_path
from interlock.ledger.log import RecordLog
from interlock.ledger.reader import find_call, read_epoch
from interlock.ledger.recovery import recover, recover_beside, scan_epoch
from interlock.types.clock import SystemClock
from interlock.types.record import EpochRecovered, Interrupted, request_id
from interlock.types.usage import Cost

from .support import attempt, held, intent, open_log, outcome, refusal, run, written

CLOCK = SystemClock()


def interrupted(folder: Path) -> list[Interrupted]:
    """All Interrupted records of all epochs."""
    found = []
    for epoch in epochs(folder):
        found += [each.record for each in read_epoch(folder, epoch) if isinstance(each.record, Interrupted)]
    return found


async def dead_epoch(folder: Path) -> RecordLog:
    """An epoch that died with: 1 done, 2 refused, 3 open before its attempt, 4 open in mid-stream."""
    log = open_log(folder)
    log.append(intent(1))
    log.append(attempt(1))
    log.append(outcome(1))
    log.append(refusal(2))
    log.append(intent(3, reserved=33))
    log.append(intent(4, reserved=44))
    log.append(attempt(4, 0))
    log.append(attempt(4, 1))
    log.append_chunk(4, 0, "hö", b"")
    log.append_chunk(4, 1, "", b"{}")
    await written(log)
    log.abandon()
    return log


def test_open_calls_are_found_exactly_once(tmp_path: Path) -> None:
    async def main() -> None:
        dead = await dead_epoch(tmp_path)
        log = open_log(tmp_path)
        recovered = recover(tmp_path, into=log, clock=CLOCK)
        assert [(each.epoch, each.last_seq, each.interrupted, each.torn_bytes) for each in recovered] == [
            (dead.epoch, 11, 2, 0)
        ]
        three, four = interrupted(tmp_path)
        assert (three.epoch, three.call, three.attempt, three.chunks, three.text_bytes, three.reserved_tokens) == (
            dead.epoch,
            3,
            -1,
            0,
            0,
            33,
        )
        assert (four.call, four.attempt, four.chunks, four.text_bytes, four.reserved_tokens) == (4, 1, 2, 3, 44)
        assert not four.tail_lost
        assert (tmp_path / dead.epoch / RECOVERED).read_text() == log.epoch
        assert recover(tmp_path, into=log, clock=CLOCK) == []
        found = find_call(tmp_path, request_id(dead.epoch, 4))
        assert found is not None and found.state == "interrupted" and found.interrupted == four
        await log.close()
        again = open_log(tmp_path)
        assert recover(tmp_path, into=again, clock=CLOCK) == []
        await again.close()

    run(main)


def test_a_call_that_was_only_held_was_not_made(tmp_path: Path) -> None:
    async def main() -> None:
        dead = open_log(tmp_path)
        for record in (held(1), held(2), intent(2), held(3), refusal(3)):
            dead.append(record)
        await written(dead)
        dead.abandon()
        log = open_log(tmp_path)
        (recovered,) = recover(tmp_path, into=log, clock=CLOCK)
        assert recovered.interrupted == 1 and [each.call for each in interrupted(tmp_path)] == [2]
        found = [find_call(tmp_path, request_id(dead.epoch, call)) for call in (1, 2, 3)]
        assert [each and each.state for each in found] == [None, "interrupted", "refused"]
        await log.close()

    run(main)


def test_an_interrupted_call_costs_what_its_last_attempt_reserved(tmp_path: Path) -> None:
    async def main() -> None:
        dead = open_log(tmp_path)
        for number, nusd in ((0, 70), (1, 90)):
            if not number:
                dead.append(intent(1))
            dead.append(msgspec.structs.replace(attempt(1, number), reserved=Cost(nusd, "list", "v")))
        await written(dead)
        dead.abandon()
        log = open_log(tmp_path)
        recover(tmp_path, into=log, clock=CLOCK)
        assert [each.cost for each in interrupted(tmp_path)] == [Cost(90, "list", "v")]
        await log.close()

    run(main)


def test_recovery_beside_a_serving_worker(tmp_path: Path) -> None:
    async def main() -> None:
        dead = await dead_epoch(tmp_path)
        log = open_log(tmp_path)
        recovered = await recover_beside(tmp_path, into=log, clock=CLOCK)
        assert [(each.epoch, each.interrupted) for each in recovered] == [(dead.epoch, 2)]
        assert len(interrupted(tmp_path)) == 2
        await log.close()

    run(main)


def test_epochs_that_live_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        alive = open_log(tmp_path)
        alive.append(intent(1))
        await written(alive)
        log = open_log(tmp_path)
        assert recover(tmp_path, into=log, clock=CLOCK) == []
        await alive.close()
        await log.close()

    run(main)


def test_an_epoch_that_closed_without_its_marker_is_marked_and_not_recovered(tmp_path: Path) -> None:
    async def main() -> None:
        done = open_log(tmp_path)
        done.append(intent(1))
        done.append(outcome(1))
        await done.close()
        (tmp_path / done.epoch / CLOSED).unlink()
        log = open_log(tmp_path)
        assert recover(tmp_path, into=log, clock=CLOCK) == []
        assert (tmp_path / done.epoch / CLOSED).exists()
        await log.close()

    run(main)


def test_an_epoch_that_closed_with_an_open_call_is_recovered(tmp_path: Path) -> None:
    async def main() -> None:
        done = open_log(tmp_path)
        done.append(intent(1))
        await done.close()
        log = open_log(tmp_path)
        assert [each.interrupted for each in recover(tmp_path, into=log, clock=CLOCK)] == [1]
        await log.close()

    run(main)


def test_a_torn_tail_is_counted_and_told(tmp_path: Path) -> None:
    async def main() -> None:
        dead = await dead_epoch(tmp_path)
        with segment_path(tmp_path, dead.epoch, 0).open("ab") as file:
            file.write(b"\x40\x00\x00\x00torn")
        log = open_log(tmp_path)
        assert [each.torn_bytes for each in recover(tmp_path, into=log, clock=CLOCK)] == [8]
        assert all(each.tail_lost for each in interrupted(tmp_path))
        await log.close()

    run(main)


def test_damage_does_not_stop_a_start_and_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        dead = open_log(tmp_path)
        for call in (1, 2, 3):
            dead.append(intent(call))
            dead.sync()
        dead.append(outcome(1))
        dead.sync()
        dead.append(attempt(3))
        dead.sync()
        dead.abandon()
        path = segment_path(tmp_path, dead.epoch, 0)
        second = next(each for each in read_epoch(tmp_path, dead.epoch) if each.seq == 3)
        data = bytearray(path.read_bytes())
        data[second.offset + 30] ^= 0xFF
        path.write_bytes(data)
        scan = scan_epoch(tmp_path, dead.epoch)
        assert scan.damaged and scan.torn_bytes > 0
        assert sorted(scan.open_calls) == [3], "call 2 was in the damage; what follows the next mark is read"
        log = open_log(tmp_path)
        recovered = recover(tmp_path, into=log, clock=CLOCK)
        assert [each.interrupted for each in recovered] == [1] and recovered[0].torn_bytes == scan.torn_bytes
        await log.close()

    run(main)


def test_a_recovery_that_died_half_way_is_completed_not_repeated(tmp_path: Path) -> None:
    """The first one wrote one of two Interrupted records, and died."""

    async def main() -> None:
        dead = await dead_epoch(tmp_path)
        half = open_log(tmp_path)
        (tmp_path / dead.epoch / f"recovering.{half.epoch}").touch()
        half.append(Interrupted(dead.epoch, 3, 1, -1, 0, 0, 33, False))
        await written(half)
        half.abandon()
        log = open_log(tmp_path)
        recovered = recover(tmp_path, into=log, clock=CLOCK)
        assert [(each.epoch, each.interrupted) for each in recovered] == [(dead.epoch, 2), (half.epoch, 0)]
        assert [(each.epoch, each.call) for each in interrupted(tmp_path)] == [(dead.epoch, 3), (dead.epoch, 4)]
        for call in (3, 4):
            found = find_call(tmp_path, request_id(dead.epoch, call))
            assert found is not None and found.interrupted is not None
        await log.close()

    run(main)


def test_a_recovery_that_died_before_its_marker_is_not_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        dead = await dead_epoch(tmp_path)
        first = open_log(tmp_path)
        recover(tmp_path, into=first, clock=CLOCK)
        first.abandon()
        (tmp_path / dead.epoch / RECOVERED).unlink()
        log = open_log(tmp_path)
        recovered = recover(tmp_path, into=log, clock=CLOCK)
        assert len(interrupted(tmp_path)) == 2
        told = [
            each.record
            for epoch in epochs(tmp_path)
            for each in read_epoch(tmp_path, epoch)
            if isinstance(each.record, EpochRecovered) and each.record.epoch == dead.epoch
        ]
        assert len(told) == 1 and recovered[0] == told[0]
        await log.close()

    run(main)


def test_workers_that_start_together_share_the_work(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(3):
            await dead_epoch(tmp_path)
        logs = [open_log(tmp_path) for _ in range(3)]
        results = await asyncio.gather(*(recover_beside(tmp_path, into=log, clock=CLOCK) for log in logs))
        assert sum(len(each) for each in results) == 3
        found = [(each.epoch, each.call) for each in interrupted(tmp_path)]
        assert len(found) == len(set(found)) == 6
        for log in logs:
            await log.close()

    run(main)


def test_an_epoch_that_died_at_birth_is_settled(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "01aaaaaaaaaaaaaa").mkdir()
        (tmp_path / "01bbbbbbbbbbbbbb").mkdir()
        segment_path(tmp_path, "01bbbbbbbbbbbbbb", 0).write_bytes(b"ILOCK")
        log = open_log(tmp_path)
        recovered = recover(tmp_path, into=log, clock=CLOCK)
        assert [(each.last_seq, each.interrupted, each.torn_bytes) for each in recovered] == [(0, 0, 0), (0, 0, 5)]
        assert recover(tmp_path, into=log, clock=CLOCK) == []
        await log.close()

    run(main)
