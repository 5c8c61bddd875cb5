"""Nodes that never come back: an export says what may be missing, and is complete again for what was admitted after."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.ledger.proof.coverage import OpenEpoch, Settled
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.findings import Report
from tests.unit.ledger_proof.exports import E1, E2, E3, Log, check

RETIRED = 2_000
NOBODY = "lost0123456789ab"


def lost(*, told: bool = True, after: int = 1_200, unannounced: bool = True) -> Log:
    """Two nodes; node_b is not heard of after 1 300, its epoch E2 not after 1 200, and is retired at `RETIRED`."""
    log = Log()
    log.nodes = {"node_a": 100, "node_b": 100}
    log.begin(E1, "node_a", 100)
    log.begin(E2, "node_b", 100)
    log.checkpoint(150)
    log.entry(E1, 1_050)
    log.entry(E2, 1_100)
    log.watermarks(1_200)
    log.nodes["node_b"] = 1_300
    log.checkpoint(1_400)
    log.open[E1] = OpenEpoch(E1, "node_a", 1, 1_900)
    log.nodes["node_a"] = 1_900
    log.checkpoint(1_950)
    if told:
        log.settle(E2, lost=(after, RETIRED))
    if told and unannounced:
        log.begin(NOBODY, "node_b", 1_300)
        log.settle(NOBODY, lost=(1_300, RETIRED))
    log.retired["node_b"] = RETIRED
    log.entry(E1, 2_100)
    log.watermarks(2_500)
    log.checkpoint(2_600)
    return log


def ask(log: Log, folder: Path, from_ns: int, to_ns: int, **how: int | None) -> Report:
    return check(log.export(folder, from_ns=from_ns, to_ns=to_ns, **how))  # type: ignore[arg-type]


def test_while_nobody_has_retired_the_node_the_tail_is_open(tmp_path: Path) -> None:
    report = ask(lost(), tmp_path / "out", 1_000, 1_500, end=2)
    assert (report.verdict, report.until) == ("open tail", 1_200)


@pytest.mark.parametrize(
    ("from_ns", "to_ns", "touched"),
    [
        (160, 1_200, 0),
        (160, 1_201, 1),
        (160, 1_301, 2),
        (1_999, 2_400, 2),
        (1_000, 2_400, 2),
        (2_000, 2_400, 0),
    ],
)
def test_what_the_loss_touches_is_never_complete(tmp_path: Path, from_ns: int, to_ns: int, touched: int) -> None:
    report = ask(lost(), tmp_path / "out", from_ns, to_ns)
    assert report.verdict == ("not complete" if touched else "complete"), report
    lines = [each for each in report.problems if each.startswith("complete but for node node_b's epoch")]
    assert len(lines) == touched
    if touched:
        assert lines[0] == (
            f"complete but for node node_b's epoch {E2}, lost after 1970-01-01T00:00:00.000001200Z, retired by an "
            "administrator on 1970-01-01T00:00:00.000002000Z: calls may be missing"
        )
        assert lines[0] in report.words
    word = [each for each in report.problems if "is the word of the administrator" in each]
    assert len(word) == (to_ns > RETIRED), "who reads it knows on what it rests"


def test_a_log_that_gives_up_a_node_must_say_what_was_lost(tmp_path: Path) -> None:
    report = ask(lost(unannounced=False), tmp_path / "one", 160, 1_100)
    assert report.verdict == "complete", "the epoch's line covers what its node may have begun since"
    report = ask(lost(unannounced=False, after=1_350), tmp_path / "two", 2_000, 2_400)
    assert report.verdict == "altered"
    assert any("no line of the chain says what was lost" in each for each in report.problems)
    log = lost(told=False)
    log.settle(E2)
    log.checkpoint(2_700)
    report = ask(log, tmp_path / "three", 2_000, 2_400)
    assert report.verdict != "complete"
    log = lost(told=False)
    del log.open[E2]
    log.next.pop(E2)
    report = ask(log, tmp_path / "four", 2_000, 2_400)
    assert report.verdict == "altered"


def test_a_loss_does_not_begin_before_what_was_promised(tmp_path: Path) -> None:
    report = ask(lost(after=1_199), tmp_path / "out", 2_000, 2_400)
    assert any(f"the watermark of epoch {E2} goes back" in each for each in report.problems)


def test_entries_of_a_lost_epoch_do_not_come_later(tmp_path: Path) -> None:
    log = lost()
    log.entry(E2, 1_500)
    log.checkpoint(2_700)
    report = ask(log, tmp_path / "out", 2_000, 2_400)
    assert any(f"an entry of the settled epoch {E2}" in each for each in report.problems)


def test_a_node_that_came_back_bounds_what_is_complete_again(tmp_path: Path) -> None:
    log = lost()
    del log.retired["node_b"]
    log.nodes["node_b"] = 2_300
    log.begin(E3, "node_b", 2_700)
    log.nodes["node_a"] = 3_000
    log.checkpoint(3_000)
    report = ask(log, tmp_path / "out", 2_000, 2_600)
    assert (report.verdict, report.until) == ("open tail", 2_300)
    log.watermarks(3_100)
    log.checkpoint(3_100)
    report = ask(log, tmp_path / "later", 2_000, 2_600)
    assert (report.verdict, report.problems) == ("complete", [])


@pytest.mark.parametrize(
    "line",
    [
        '{"damaged":false,"epoch":"EPOCH","n":1,"node":"a","state":"lost"}',
        '{"after":5,"damaged":false,"epoch":"EPOCH","n":1,"node":"a","state":"lost"}',
        '{"after":5,"damaged":false,"epoch":"EPOCH","n":1,"node":"a","state":"lost","until":5}',
        '{"after":5,"damaged":false,"epoch":"EPOCH","n":1,"node":"a","state":"closed","until":6}',
        '{"damaged":false,"epoch":"EPOCH","n":1,"node":"a","state":"gone"}',
    ],
)
def test_a_line_says_between_which_instants_if_and_only_if_it_is_lost(line: str) -> None:
    with pytest.raises(ProofError, match="lost"):
        Settled.decode(line.replace("EPOCH", E1).encode())
    good = Settled(E1, "a", "lost", 1, False, 5, 6).encode()
    assert Settled.decode(good).lost == (5, 6)
