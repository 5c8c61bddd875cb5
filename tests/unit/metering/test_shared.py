"""Shared memory: privacy, format, the lock and its time limit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock.errors import Unavailable
from interlock.metering.shared import SharedFile, word_pair

MAGIC = b"testtest"
SIZE = 8192


def create(path: Path, *, anonymous: bool = True, wait_ms: int = 20) -> SharedFile:
    return SharedFile.create(
        path, magic=MAGIC, geometry=(1, 2), size=SIZE, reserved=4096, wait_ms=wait_ms, anonymous=anonymous
    )


@pytest.mark.parametrize("anonymous", [True, False])
def test_words_written_by_one_handle_are_seen_by_the_other(tmp_path: Path, anonymous: bool) -> None:
    path = tmp_path / "run" / "x.shm"
    with create(path, anonymous=anonymous) as made, SharedFile.open(path, magic=MAGIC, wait_ms=20) as opened:
        made.words[600] = 2**64 - 1
        assert opened.words[600] == 2**64 - 1
        assert opened.geometry[:3] == (1, 2, 0)
        assert os.fstat(opened.fd).st_mode & 0o777 == 0o600
    assert not os.path.lexists(path), "the creator removes what it published"


def test_creating_again_replaces_the_memory_and_closing_the_old_leaves_the_new(tmp_path: Path) -> None:
    path = tmp_path / "x.shm"
    old = create(path)
    new = create(path)
    new.words[600] = 7
    old.close()
    with SharedFile.open(path, magic=MAGIC, wait_ms=20) as opened:
        assert opened.words[600] == 7
    new.close()


def test_open_refuses_what_is_absent_foreign_or_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "x.shm"
    with pytest.raises(Unavailable, match="cannot be opened"):
        SharedFile.open(path, magic=MAGIC, wait_ms=20)
    with create(path, anonymous=False):
        with pytest.raises(Unavailable, match="not the shared memory of this version"):
            SharedFile.open(path, magic=b"elsewise", wait_ms=20)
        path.chmod(0o640)
        with pytest.raises(Unavailable, match="private"):
            SharedFile.open(path, magic=MAGIC, wait_ms=20)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.shm"
    with create(path, anonymous=False):
        copy = tmp_path / "copy.shm"
        copy.write_bytes(path.read_bytes()[:4096])
        copy.chmod(0o600)
        with pytest.raises(Unavailable, match="this version"):
            SharedFile.open(copy, magic=MAGIC, wait_ms=20)


def test_no_room_is_a_plain_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match=r"x\.shm: no room for 8192 bytes of shared memory: No space left on device"):
        create(tmp_path / "x.shm")
    assert list(tmp_path.iterdir()) == []


def test_an_absurd_size_is_refused_before_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", None)
    with pytest.raises(Unavailable, match="lower limit_slots"):
        SharedFile.create(tmp_path / "x.shm", magic=MAGIC, geometry=(), size=1 << 50, reserved=1 << 50, wait_ms=1)
    assert list(tmp_path.iterdir()) == []


def test_reserving_says_when_there_is_no_memory_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path / "x.shm") as file:
        assert file.reserve(4096, 4096)
        errors = iter((errno.ENOSPC, errno.ENOMEM, errno.EIO))

        def fail(fd: int, offset: int, size: int) -> None:
            raise OSError(next(errors), "injected")

        monkeypatch.setattr(os, "posix_fallocate", fail)
        assert not file.reserve(4096, 4096) and not file.reserve(4096, 4096)
        with pytest.raises(OSError, match="injected"):
            file.reserve(4096, 4096)


def test_a_lock_that_stays_taken_is_given_up_and_then_costs_no_more_waiting(tmp_path: Path) -> None:
    path = tmp_path / "x.shm"
    with create(path) as holder, SharedFile.open(path, magic=MAGIC, wait_ms=200) as other:
        assert holder.lock()
        start = time.monotonic()
        assert not other.lock()
        assert time.monotonic() - start >= 0.2
        start = time.monotonic()
        assert not any(other.lock() for _ in range(20))
        assert time.monotonic() - start < 10 * 0.2, "half of them waited"
        holder.unlock()
        assert other.lock()
        other.unlock()


def test_the_kernel_releases_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.shm"
    script = (
        "import pathlib,sys,time\n"
        "from interlock.metering.shared import SharedFile\n"
        f"f = SharedFile.open(pathlib.Path(sys.argv[1]), magic={MAGIC!r}, wait_ms=20)\n"
        "f.lock(); f.words[600] = 1; time.sleep(60)\n"
    )
    with create(path) as file:
        with subprocess.Popen([sys.executable, "-c", script, str(path)]) as child:
            try:
                deadline = time.monotonic() + 60
                while not file.words[600] and time.monotonic() < deadline:
                    time.sleep(0.005)
                assert not file.lock()
            finally:
                child.send_signal(signal.SIGKILL)
        assert file.lock()
        file.unlock()


def test_a_digest_is_never_the_mark_of_an_empty_place() -> None:
    assert word_pair(bytes(16)) == (0, 1)
    assert word_pair(bytes(range(16))) == (0x0001020304050607, 0x08090A0B0C0D0E0F)
