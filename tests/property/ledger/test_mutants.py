"""The crash tests must be able to fail: each of these mutants breaks a promise of the log, and they must notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import LogCorrupt
from interlock.ledger import flusher, log, recovery
from interlock.ledger.files import put_marker
from interlock.ledger.flusher import Flushed
from interlock.ledger.folder import RECOVERED

from .test_crashes import crash_recoveries, look_at_every_crash, scratch

ROUND = ["call", "turn", "flush", "chunk", "turn", "end", "turn", "race"]
STEPS = [(what, 600 if what == "chunk" else 300) for what in ROUND] * 4


def crash_everywhere() -> None:
    for seed in range(5):
        with scratch() as root:
            look_at_every_crash(root, STEPS, seed, looks=10_000)


def crash_some_recoveries(how: str) -> None:
    for seed in range(5):
        with scratch() as root:
            crash_recoveries(root, how, seed)


def test_the_unchanged_log_passes() -> None:
    crash_everywhere()


def test_a_flusher_that_does_not_sync_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "sync", lambda files, fd, written: Flushed(*written(), True, 1))
    with pytest.raises(AssertionError):
        crash_everywhere()


def test_a_sync_that_vouches_for_what_was_written_while_it_ran_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = flusher.sync

    def generous(files: Any, fd: int, written: Callable[[], tuple[int, int]]) -> Flushed:
        flushed = real(files, fd, written)
        seq, total = written()
        return flushed._replace(seq=seq, total_bytes=total)

    monkeypatch.setattr(log, "sync", generous)
    with pytest.raises(AssertionError):
        crash_everywhere()


def test_a_waiter_told_at_the_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: log.RecordLog, seq: int, callback: Any) -> None:
        self.on_written(lambda: callback(None))

    monkeypatch.setattr(log.RecordLog, "on_durable", at_once)
    with pytest.raises(AssertionError):
        crash_everywhere()


def test_a_listener_told_before_the_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log.RecordLog, "on_written", lambda self, callback: callback())
    with pytest.raises(AssertionError):
        crash_everywhere()


def test_a_segment_made_before_the_last_is_durable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = flusher.sync

    def hasty(files: Any, fd: int, keep: int | None, seq: int, total: int, folder: Path, header: Any) -> Flushed:
        made = flusher.create_segment(files, folder, header)
        return real(files, fd, lambda: (seq, total))._replace(fd=made)

    monkeypatch.setattr(log, "switch", hasty)
    with pytest.raises((AssertionError, LogCorrupt)):
        crash_everywhere()


def test_a_name_that_is_not_synced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "sync_folder", lambda files, path: None)
    with pytest.raises((AssertionError, LogCorrupt)):
        crash_everywhere()


@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_recovery_that_does_not_look_at_earlier_ones_is_noticed(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(recovery, "recovering_in", lambda folder, epoch: [])
    with pytest.raises(AssertionError):
        crash_some_recoveries(how)


def test_a_marker_before_the_records_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = recovery._take_over

    def hasty(folder: Path, epoch: str, own: str, files: Any) -> Any:
        takeover = real(folder, epoch, own, files)
        if takeover is not None:
            put_marker(files, folder / epoch / RECOVERED, own.encode())
        return takeover

    monkeypatch.setattr(recovery, "_take_over", hasty)
    with pytest.raises(AssertionError):
        crash_some_recoveries("kill")


def test_a_recovery_that_trusts_bytes_not_yet_on_the_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "make_durable", lambda folder, epoch, files: None)
    with pytest.raises((AssertionError, LogCorrupt)):
        crash_some_recoveries("power")
