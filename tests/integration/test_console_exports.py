"""Exports that pages make: one at a time, bounded, gone afterwards; a tar archive that others read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.console.exports import Exports, tar
from interlock.control.services import ledger
from interlock.errors import BadRequest, LimitExceeded

from .control_client import Running, control_over


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url, console_export_bytes_max=2000) as made:
        yield made


@pytest.fixture
def exports(running: Running) -> Exports:
    return Exports(running.control.api)


def test_a_person_has_one_at_a_time_and_all_together_a_few(exports: Exports) -> None:
    with exports.turn("a") as first:
        with pytest.raises(LimitExceeded, match="of yours"), exports.turn("a"):
            pass
        with exports.turn("b"), pytest.raises(LimitExceeded, match="Others"), exports.turn("c"):
            pass
        assert first.is_dir() and first.stat().st_mode & 0o777 == 0o700
    assert not first.exists()
    with pytest.raises(RuntimeError), exports.turn("a") as second:
        (second / "file").write_bytes(b"x")
        raise RuntimeError
    assert not second.exists(), "also when it failed"
    with exports.turn("a"):
        pass


def test_a_range_that_is_too_large_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge:
        manifest = {
            "v": 1, "tree": "t", "cell": "c", "from": 0, "to": 1, "start_size": 0, "end_size": 100, "made_at": 1,
            "payloads": False, "keys": [],
        }  # fmt: skip

        def __init__(self, *_: Any) -> None:
            pass

        def lines(self) -> Iterator[tuple[str, Any]]:
            yield "start", {"size": 0, "hashes": [], "counts": {}}
            for _ in range(100):
                yield "entry", '{"n":' + "1" * 100 + "}"
            yield "end", {}

    monkeypatch.setattr(ledger, "Export", Huge)
    with exports.turn("a") as folder, pytest.raises(BadRequest, match="console_export_bytes_max"):
        exports.make(folder / "export", "t", (0, 1))


def test_the_archive_is_read_by_others_and_made_piece_by_piece(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "contents" / "ab").mkdir(parents=True)
    files = {"manifest.json": b"{}", "contents/ab/x.bin": bytes(range(256)) * 4000, "empty": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pieces = list(tar(folder, "ledger-acme"))
    assert max(map(len, pieces)) < 300_000, "never a whole file in memory"
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        read = {each.name: archive.extractfile(each).read() for each in archive.getmembers()}  # type: ignore[union-attr]
    assert read == {f"ledger-acme/{name}": data for name, data in files.items()}
