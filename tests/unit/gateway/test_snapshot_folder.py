"""The stored snapshot: full file, deltas, damage, and a reader beside the writer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from interlock.errors import SnapshotError
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder, read_file

from .snapshots import digest_of, small


class Case:
    """A folder, the view last stored in it, and the configuration behind it."""

    def __init__(self, path: Path, deltas_max: int = 8) -> None:
        self.compiler = small()
        self.folder = SnapshotFolder(path, deltas_max=deltas_max)
        head = self.compiler.head()
        self.view = SnapshotView.from_parts(self.compiler.parts.values(), head, cache_max=64)
        self.files = [self.folder.store(self.view, None, list(self.compiler.parts.values()))]

    def change(self, secret: str) -> str:
        self.compiler.key(secret)
        before, parts = self.view, self.compiler.newer(self.view.version)
        self.view = before.apply(parts, self.compiler.head())
        self.files.append(self.folder.store(self.view, before, parts))
        return self.files[-1]


def test_nothing_stored(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "s", deltas_max=8)
    assert folder.load(16) is None
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_full_and_deltas_come_back(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert [case.change(f"k{i}") for i in range(3)] == [f"0000000{i}.delta" for i in (2, 3, 4)]
    loaded = case.folder.load(64)
    assert loaded is not None and loaded.head == case.view.head and loaded.parts() == case.view.parts()
    assert loaded.key(digest_of("k2")) is not None
    assert all(f.stat().st_mode & 0o077 == 0 for f in tmp_path.glob("*.full"))


def test_a_worker_applies_the_delta_or_reads_all(tmp_path: Path) -> None:
    case = Case(tmp_path)
    first = case.view
    second_file = case.change("k1")
    second = case.folder.advance(first, second_file, 64)
    assert second is not None and second.root == case.view.root and second.offers is first.offers
    assert case.folder.advance(second, second_file, 64) is second
    case.change("k2")
    third_file = case.change("k3")
    skipped = case.folder.advance(second, third_file, 64)
    assert skipped is not None and skipped.root == case.view.root
    assert case.folder.advance(first, "00000099.delta", 64) is not None  # gone: replaced by a full file meanwhile
    started = case.folder.advance(None, third_file, 64)
    assert started is not None and started.root == case.view.root


def test_many_deltas_become_one_full_file(tmp_path: Path) -> None:
    case = Case(tmp_path, deltas_max=3)
    names = [case.change(f"k{i}") for i in range(5)]
    assert [n.split(".")[1] for n in names] == ["delta", "delta", "delta", "full", "delta"]
    assert sorted(f.name for f in tmp_path.iterdir()) == names[3:]
    loaded = case.folder.load(64)
    assert loaded is not None and loaded.root == case.view.root


def test_a_change_without_parts_is_kept_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    before = case.view
    case.view = before.apply([], case.compiler.head())
    file = case.folder.store(case.view, before, [])
    loaded = case.folder.load(64)
    assert file.endswith(".delta") and loaded is not None and loaded.version == 2


@pytest.mark.parametrize("keep", [0, 3, 8, 11, 40, -1])
def test_a_delta_cut_short_is_passed_over(tmp_path: Path, keep: int) -> None:
    case = Case(tmp_path)
    file = tmp_path / case.change("k1")
    file.write_bytes(file.read_bytes()[:keep])
    loaded = case.folder.load(64)
    assert loaded is not None and loaded.version == 1
    after = SnapshotFolder(tmp_path, deltas_max=8)
    case.compiler.key("k2")
    parts = case.compiler.newer(1)
    again = loaded.apply(parts, case.compiler.head())
    after.store(again, loaded, parts)
    found = after.load(64)
    assert found is not None and found.root == again.root and found.key(digest_of("k2")) is not None


def test_every_cut_of_a_full_file_is_noticed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    file = tmp_path / case.files[0]
    whole = file.read_bytes()
    for keep in range(0, len(whole), 37):
        file.write_bytes(whole[:keep])
        with pytest.raises(SnapshotError):
            case.folder.load(64)


def test_every_changed_byte_of_a_part_is_noticed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    file = tmp_path / case.files[0]
    whole = bytearray(file.read_bytes())
    for i in range(len(whole) // 2, len(whole), 53):
        damaged = bytearray(whole)
        damaged[i] ^= 0x41
        file.write_bytes(damaged)
        try:
            view = case.folder.load(64)
        except SnapshotError:
            continue
        assert view is not None and view.root == case.view.root and _same_bodies(view, case.view)


def test_a_foreign_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "00000001.full").write_bytes(b"something else")
    with pytest.raises(SnapshotError, match="is not a stored snapshot"):
        SnapshotFolder(tmp_path, deltas_max=8).load(16)


def test_reading_while_files_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    copy = tmp_path.parent / "moved"
    calls = 0

    def vanishing(path: Path) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.copy(path, copy)
            raise FileNotFoundError(path)
        return read_file(path)

    monkeypatch.setattr("interlock.gateway.snapshot_folder.read_file", vanishing)
    assert case.folder.load(64) is not None and calls == 2
    calls = -(10**6)
    monkeypatch.setattr("interlock.gateway.snapshot_folder.read_file", _always_gone)
    with pytest.raises(SnapshotError, match="changed while it was read"):
        case.folder.load(64)


def test_the_confirmation_belongs_to_its_root(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert case.folder.confirmed_ns(case.view) == case.view.compiled_ns == 10
    case.folder.confirm(case.view.root, 777)
    assert case.folder.confirmed_ns(case.view) == 777
    case.change("k1")
    assert case.folder.confirmed_ns(case.view) == case.view.compiled_ns == 20
    (tmp_path / "confirmed").write_bytes(b"\xc1")
    assert case.folder.confirmed_ns(case.view) == 20


def _always_gone(path: Path) -> object:
    raise FileNotFoundError(path)


def _same_bodies(a: SnapshotView, b: SnapshotView) -> bool:
    return [(p.name, p.body) for p in a.parts()] == [(p.name, p.body) for p in b.parts()]
