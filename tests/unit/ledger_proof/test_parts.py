"""The entries of an export, scanned by several processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from interlock.ledger.proof import parts
from interlock.ledger.proof.entry import Block, Rules
from tests.unit.ledger_proof.exports import TREE, check, grown


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: data.rindex(b"\n", 0, -1) + 1],
        lambda data: data[:-1] + b" ",
        lambda data: data.replace(b"\n", b"\n\n", 1)[: len(data)],
        lambda data: data.replace(b"}\n{", b"},{", 1) + b"\n",
        lambda data: None,
    ],
    ids=["shorter", "no-line-end", "more-lines", "fewer-lines", "gone"],
)
def test_a_file_that_changes_before_a_worker_process_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes | None]
) -> None:
    """The workers read the entries themselves: what was counted and what they read must be of the same file."""
    made = grown().export(tmp_path / "out", start=1)
    entries = made / "entries.jsonl"
    before = entries.read_bytes()

    def changed(path: str, part: Any, rules: Rules) -> list[Block] | str:
        data = change(before)
        if data is None:
            entries.unlink()
        else:
            entries.write_bytes(data)
        return scan_part(path, part, rules)

    scan_part = parts.scan_part
    monkeypatch.setattr(parts, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(parts, "scan_part", lambda path, part, rules: scan_part(path, part, rules))
    assert check(made, processes=2).verdict == "complete"
    monkeypatch.setattr(parts, "scan_part", changed)
    report = check(made, processes=2)
    assert report.verdict == "altered"
    said = "is missing" if change(before) is None else "was changed while it was read"
    assert f"entries.jsonl {said}" in report.problems  # the first process may still have been reading, and tells more


def test_a_part_of_other_lines_than_were_counted_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, with one line more or fewer."""
    asked: list[tuple[str, parts.Part, Rules]] = []
    scan_part = parts.scan_part

    def noted(path: str, part: parts.Part, rules: Rules) -> list[Block] | str:
        asked.append((path, part, rules))
        return scan_part(path, part, rules)

    monkeypatch.setattr(parts, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    monkeypatch.setattr(parts, "scan_part", noted)
    made = grown().export(tmp_path / "out", start=1)
    assert check(made, processes=2).verdict == "complete"
    path, part, rules = asked[0]
    assert len(part.pieces) > 1 and part.pieces[0].number > 1
    found = scan_part(path, part, rules)
    assert isinstance(found, list)
    assert [sum(1 << level for level, _ in block.roots) for block in found] == [each.number for each in part.pieces]
    entries = made / "entries.jsonl"
    before = entries.read_bytes()
    for line_end in (before.index(b"\n"), before.rindex(b"\n", 0, -1)):
        entries.write_bytes(before[:line_end] + b" " + before[line_end + 1 :])
        assert scan_part(path, part, rules) == "entries.jsonl was changed while it was read"


def test_blocks_are_joined_but_where_a_root_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 12)
    blocks = [
        *(parts.Lines(7, 2, b"a\nb\n"), parts.Lines(9, 1, b"cc\n"), parts.Lines(10, 1, b"dddddddd\n")),
        *(parts.Lines(11, 1, b"e\n"), parts.Lines(12, 1, b"f\n"), parts.Lines(13, 1, b"g\n")),
    ]
    found = list(parts._parts(iter(blocks), {9, 13}))
    assert [part for part, _ in found] == [
        parts.Part(7, 0, [parts.Piece(2, 4), parts.Piece(2, 12)]),
        parts.Part(11, 16, [parts.Piece(2, 4), parts.Piece(1, 2)]),
    ]
    assert [lines for _, lines in found] == [blocks[:3], blocks[3:]]


class _Pool:
    """Worker processes that do what they are given when they are told to, or when it is waited for."""

    def __init__(self) -> None:
        self.given: list[_Given] = []

    def __call__(self, workers: int, mp_context: object) -> _Pool:
        self.workers = workers
        return self

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, *call: Any) -> _Given:
        self.given.append(_Given(*call))
        return self.given[-1]


class _Given(Future[Any]):
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__()
        self.work = lambda: function(*arguments)
        self.place = arguments[1].first

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.set_result(self.work())
        return super().result(timeout)


def test_this_process_scans_what_the_others_have_no_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With workers that never end a part by themselves, all that is beyond what each may be given is done here; what is
    told is in order, and no more is kept than is allowed."""
    made = grown().export(tmp_path / "out", start=1)
    data = (made / "entries.jsonl").read_bytes()
    lines = data.splitlines(keepends=True)
    blocks = [parts.Lines(1 + n, 1, line) for n, line in enumerate(lines)]
    rules = Rules(TREE, 0, 1 << 62, payloads=False)
    pool = _Pool()
    monkeypatch.setattr(parts, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    for most, given in ((100, parts.GIVEN_MAX * 2), (1, len(blocks))):
        pool.given.clear()
        monkeypatch.setattr(parts, "AHEAD_MAX", most)
        found = list(parts.scanned_by(3, made, iter(blocks), {1}, rules))
        assert found == list(parts.scanned(iter(blocks), rules)) and pool.workers == 2
        assert len(pool.given) <= given and pool.given[0].place == 1
        assert len(pool.given) >= parts.GIVEN_MAX * 2
