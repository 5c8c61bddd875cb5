"""An export of which the first entries were pruned is complete but for these, if that was signed, and only then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import subtrees
from interlock.ledger.proof.pruned import Pruned, PrunedState, parse, spans
from tests.unit.ledger_proof.exports import E1, E2, OTHER, Log, check, grown

ENDS = ((None, 0, 3), (1, 3, 8), (2, 8, 14), (3, 14, 18))
"""A checkpoint to start with, its size, and that of the next."""
CASES = [(start, to) for start, low, high in ENDS for to in range(max(low, 1), high + 1)]


@pytest.mark.parametrize(("start", "to"), CASES)
def test_an_honest_one_is_complete_but_for_the_range_it_names(tmp_path: Path, start: int | None, to: int) -> None:
    log = grown()
    if start is None:
        del log.checkpoints[:1]  # there is none before the first entry
    report = check(log.export(tmp_path / "out", start=start, pruned=to, from_ns=0))
    assert (report.verdict, report.problems) == ("complete", []), report
    assert f"complete but for the pruned range [0, {to})" in report.words
    assert "retention of entries: 1 day" in report.words
    assert (report.pruned, report.entries) == (to, 19 - to)


def made(tmp_path: Path, **how: Any) -> Path:
    return grown().export(tmp_path / "out", start=1, pruned=6, from_ns=0, **how)


def test_without_its_statement_it_is_not_complete(tmp_path: Path) -> None:
    for name in ("pruned.note", "pruned.json"):
        whole = made(tmp_path)
        (whole / name).unlink()
        report = check(whole)
        assert report.verdict == "altered" and name in report.problems[0], report
        shutil.rmtree(whole)
    whole = made(tmp_path)
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps({**manifest, "pruned": None}))
    assert check(whole).verdict == "altered"
    for name in ("pruned.note", "pruned.json"):
        (whole / name).unlink()
    report = check(whole)
    assert report.verdict == "altered" and report.pruned == 0


def test_a_statement_beside_a_whole_export_is_out_of_place(tmp_path: Path) -> None:
    whole = made(tmp_path)
    other = grown().export(tmp_path / "whole", start=1)
    shutil.copy(whole / "pruned.note", other)
    report = check(other)
    assert report.verdict == "altered" and "names no pruned range" in report.problems[0]


def test_every_changed_byte_of_it_is_noticed(tmp_path: Path) -> None:
    whole = made(tmp_path)
    for name in ("pruned.note", "pruned.json"):
        data = (whole / name).read_bytes()
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1
            (whole / name).write_bytes(changed)
            assert check(whole).verdict == "altered", (name, at)
        (whole / name).write_bytes(data)
    assert check(whole).verdict == "complete"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_one_that_covers_less_than_is_missing_is_refused(tmp_path: Path, cut: int) -> None:
    whole = made(tmp_path)
    lines = (whole / "entries.jsonl").read_bytes().splitlines(keepends=True)
    (whole / "entries.jsonl").write_bytes(b"".join(lines[cut:]))
    assert check(whole).verdict == "altered"
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps({**manifest, "pruned": 6 + cut}))
    report = check(whole)
    assert report.verdict == "altered" and "pruned.note" in report.problems[0]


def test_one_of_another_key_is_refused(tmp_path: Path) -> None:
    log = grown()
    whole = log.export(tmp_path / "out", start=1, pruned=6, from_ns=0)
    log.signers = [OTHER]
    note, _ = log.pruned(3, 6, log.checkpoints[1].counts, {}, {})
    (whole / "pruned.note").write_text(note)
    report = check(whole)
    assert report.verdict == "altered" and report.problems[0].startswith("pruned.note")
    unsigned = check(whole, keys=[])
    assert not unsigned.signed and "not checked" in unsigned.words


@pytest.mark.parametrize(
    ("state", "statement", "said"),
    [
        ({"counts": {E2: 3}}, {}, "but number 4 is next"),
        ({"counts": {E2: 0}}, {}, "fewer entries than before"),
        ({"counts": {}}, {}, "is not counted"),
        ({"counts": {E2: 4, E1: 2}}, {}, "is not covered"),
        ({"hashes": ["00" * 32] * 2}, {}, "do not give its root"),
        ({"hashes": ["00" * 32] * 3}, {}, "hashes of its range"),
        ({"tree": "ten_other"}, {}, "another tree or range"),
        ({"start": 2}, {}, "another tree or range"),
        ({"to": 7}, {}, "of its range"),
        ({}, {"root": bytes(32)}, "do not give its root"),
        ({}, {"to": 7}, "another tree or range"),
        ({}, {"origin": "cell.example/ten_other"}, "is of cell.example/ten_other"),
        ({}, {"state": bytes(32)}, "not the one that was signed"),
    ],
    ids=(
        "count fewer uncounted uncovered hashes more-hashes tree start to root range origin state".split()  # noqa: SIM905
    ),
)
def test_a_signed_lie_contradicts_the_rest(
    tmp_path: Path, state: dict[str, Any], statement: dict[str, Any], said: str
) -> None:
    report = check(made(tmp_path, state=state, statement=statement))
    assert report.verdict == "altered"
    assert any(said in problem for problem in report.problems), report.problems


def settling() -> Log:
    """A log in which an epoch is settled while the tree does not grow: two checkpoints of one size."""
    log = Log()
    log.nodes = {"node_a": 100}
    log.begin(E1, "node_a", 100)
    log.entry(E1, 200)
    log.entry(E1, 300)
    log.watermarks(400)
    log.checkpoint(450)
    log.settle(E1)
    log.watermarks(500)
    log.checkpoint(550)
    log.begin(E2, "node_a", 600)
    for at in (700, 800, 900):
        log.entry(E2, at)
    log.watermarks(2_100)
    log.checkpoint(2_200)
    return log


@pytest.mark.parametrize(("n", "verdict"), [(2, "complete"), (3, "altered"), (1, "altered")])
def test_an_epoch_that_is_settled_where_the_range_begins_stays_as_it_was(tmp_path: Path, n: int, verdict: str) -> None:
    whole = settling().export(tmp_path / "out", start=0, pruned=4, state={"counts": {E1: n, E2: 2}}, from_ns=0)
    report = check(whole)
    assert report.verdict == verdict, report
    assert verdict == "complete" or "the settled epoch" in report.problems[0]


def test_a_checkpoint_within_the_range_cannot_be_passed_over(tmp_path: Path) -> None:
    """The hashes are those from the last checkpoint in the range on: one behind it must lie on the tree."""
    report = check(grown().export(tmp_path / "out", start=1, pruned=10, from_ns=0))
    assert report.verdict == "altered"


def test_neither_statement_can_be_taken_for_the_other(tmp_path: Path) -> None:
    log = grown()
    note, _ = log.pruned(0, 6, {}, {}, {})
    whole = log.export(tmp_path / "out", start=1, pruned=6, from_ns=0)
    checkpoint = log.checkpoints[2].note
    (whole / "pruned.note").write_text(checkpoint)
    assert check(whole).verdict == "altered"
    assert check(log.export(tmp_path / "two", start=1), seen=[note]).words.count("could not be compared") == 1


def test_spans_are_the_subtrees() -> None:
    for start in range(40):
        for end in range(start, 40):
            found = [level for level, _ in spans(start, end)]
            assert found == [level for level, _ in subtrees(start, [bytes(32)] * (end - start))]
            at = start
            for level, index in spans(start, end):
                assert index << level == at
                at += 1 << level


@pytest.mark.parametrize(
    "change",
    [
        ("pruned 0 6", "pruned 0 06"),
        ("pruned 0 6", "pruned 1 6"),
        ("pruned 0 6", "pruned 0 0"),
        ("pruned 0 6", f"pruned 0 {1 << 63}"),
        ("at 5", "at -5"),
        ("state ", "coverage "),
        ("reason x", "reason "),
        ("reason x", "reason x\x07"),
        ("reason x", "reason " + "x" * 201),
        ("reason x\n", "reason x"),
        ("reason x\n", "reason x\n\n"),
    ],
)
def test_what_is_no_statement(change: tuple[str, str]) -> None:
    text = Pruned("cell.example/t", 6, bytes(32), 5, bytes(32), "x").text()
    assert parse(text).text() == text
    with pytest.raises(ProofError):
        parse(text.replace(*change))


def test_what_is_no_state() -> None:
    good = PrunedState("t", 3, 6, ["00" * 32] * 2, {E1: 1}).encode()
    assert PrunedState.decode(good).encode() == good
    for bad in (b"", b"{}", good + b" ", good.replace(b'"start":3', b'"start":7'), good.replace(b'"v":1', b'"v":2')):
        with pytest.raises(ProofError):
            PrunedState.decode(bad)
