"""Changes of the signing key: who trusts one of the keys can verify, and who stole an old one cannot go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from interlock.errors import BadRequest
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.note import Ed25519Signer, sign_note, split_note
from interlock.ledger.proof.rotation import Rotation, open_rotation, open_told
from tests.unit.ledger_proof.exports import E1, ORIGIN, OTHER, SIGNER, Log, check, statement

OLD = SIGNER
NEW = Ed25519Signer(SIGNER.name, bytes(range(2, 34)))
THIRD = Ed25519Signer(SIGNER.name, bytes(range(3, 35)))
THIEF = Ed25519Signer(SIGNER.name, bytes(range(4, 36)))
CHANGED = 1_500


def changed(*, last: int = 3_000) -> Log:
    """A log whose key was changed at `CHANGED`; checkpoints at 900, 1 300, `CHANGED` (both keys) and `last` (new)."""
    log = Log()
    log.nodes = {"node_a": 100}
    log.begin(E1, "node_a", 100)
    log.watermarks(900)
    log.checkpoint(900)
    log.entry(E1, 1_100)
    log.entry(E1, 1_200)
    log.watermarks(1_300)
    log.checkpoint(1_300)
    log.entry(E1, 1_350)
    log.watermarks(CHANGED)
    log.rotate(NEW, CHANGED)
    log.entry(E1, 1_700)
    log.watermarks(last)
    log.checkpoint(last)
    return log


@pytest.mark.parametrize("who", ["old", "new", "both"])
def test_who_trusts_either_key_can_verify(tmp_path: Path, who: str) -> None:
    keys = {"old": [OLD], "new": [NEW], "both": [OLD, NEW]}[who]
    report = check(changed().export(tmp_path / "out"), keys=[key.verifier_key for key in keys])
    assert (report.verdict, report.problems) == ("complete", [])
    assert [(met.key, met.replaced) for met in report.keys] == [
        (OLD.verifier_key.text, CHANGED),
        (NEW.verifier_key.text, None),
    ]
    assert f"by the key {OLD.verifier_key.text}, which was replaced then" in report.words


def test_a_chain_of_changes_is_followed_both_ways(tmp_path: Path) -> None:
    log = changed()
    log.rotate(THIRD, 3_500)
    log.entry(E1, 3_600)
    log.watermarks(4_000)
    log.checkpoint(4_000)
    made = log.export(tmp_path / "out")
    for key in (OLD, NEW, THIRD):
        report = check(made, keys=[key.verifier_key])
        assert (report.verdict, report.problems) == ("complete", []), key
        assert [met.replaced for met in report.keys] == [CHANGED, 3_500, None]
    assert check(made, keys=[THIEF.verifier_key]).verdict == "altered"


def test_a_tree_that_began_after_the_change_has_no_checkpoint_of_it(tmp_path: Path) -> None:
    log = Log(signers=[NEW])
    log.rotations.append((statement(OLD, NEW, CHANGED), None))
    log.begin(E1, "node_a", 1_600)
    log.nodes = {"node_a": 1_600}
    log.entry(E1, 1_700)
    log.watermarks(3_000)
    log.checkpoint(3_000)
    made = log.export(tmp_path / "out", start=None)
    for key in (OLD, NEW):
        assert check(made, keys=[key.verifier_key]).verdict == "complete"


def test_an_export_from_before_the_change_says_who_could_have_made_it(tmp_path: Path) -> None:
    made = changed().export(tmp_path / "out", end=1, to_ns=1_250)
    for key in (OLD, NEW):
        report = check(made, keys=[key.verifier_key])
        assert report.verdict == "complete"
        assert "signed by a key that was replaced since" in report.problems[0]
    assert check(changed().export(tmp_path / "two", end=2, to_ns=1_400)).problems == []


def _alone_after(log: Log) -> None:
    """The thief goes on with the old key."""
    log.signers = [OLD]
    log.entry(E1, 3_100)
    log.watermarks(3_200)
    log.checkpoint(3_200)


def _dated_back(log: Log) -> None:
    """The thief says that the tree had grown before the change."""
    del log.checkpoints[2:]
    log.signers = [OLD]
    log.watermarks(3_000)
    log.checkpoint(CHANGED - 1)


def _no_head(log: Log) -> None:
    log.rotations[0] = (log.rotations[0][0], None)


def _other_head(log: Log) -> None:
    """The change-over checkpoint is of a tree of the same size with another history."""
    fake = Log()
    fake.nodes = {"node_a": 100}
    fake.begin(E1, "node_a", 100)
    for at in (1_100, 1_201, 1_350):
        fake.entry(E1, at)
    fake.watermarks(CHANGED)
    fake.rotate(NEW, CHANGED)
    log.rotations[0] = fake.rotations[0]


def _other_tree(log: Log) -> None:
    fake = Log(origin="cell.example/ten_other")
    fake.entry(E1, 5)
    fake.rotate(NEW, CHANGED)
    log.rotations[0] = fake.rotations[0]


def _second_change(log: Log) -> None:
    """The thief changes the stolen key to one of theirs, too."""
    log.rotations.append((statement(OLD, THIEF, 1_600), None))


FORGERIES: dict[str, tuple[Callable[[Log], None], str]] = {
    "alone-after": (_alone_after, "was replaced at"),
    "dated-back": (_dated_back, "does not fit before the checkpoint"),
    "no-head": (_no_head, "lacks this tree's checkpoint of the change-over"),
    "other-head": (_other_head, "the tree was another one at size 3"),
    "other-tree": (_other_tree, "the checkpoint of the change-over is of cell.example/ten_other"),
    "second-change": (_second_change, "was replaced twice"),
}


@pytest.mark.parametrize("key", ["old", "new"])
@pytest.mark.parametrize("what", FORGERIES)
def test_a_stolen_old_key_is_noticed(tmp_path: Path, what: str, key: str) -> None:
    log = changed()
    forge, words = FORGERIES[what]
    forge(log)
    trusted = {"old": OLD, "new": NEW}[key]
    report = check(log.export(tmp_path / "out"), keys=[trusted.verifier_key])
    assert report.verdict == "altered"
    assert any(words in each for each in report.problems), report.problems


def test_a_change_by_the_thief_leads_nowhere_from_the_true_new_key(tmp_path: Path) -> None:
    """Trust goes back from the new key to the old one, but not from there to where the thief wants it."""
    log = changed()
    log.rotations = [(statement(OLD, THIEF, CHANGED), log.rotations[0][1])]
    log.checkpoints.pop(2)
    log.signers = [OLD, THIEF]
    log.checkpoint(CHANGED)
    log.rotations = [(log.rotations[0][0], log.checkpoints[-1].note)]
    log.signers = [THIEF]
    log.watermarks(4_000)
    log.checkpoint(4_000)
    made = log.export(tmp_path / "out")
    report = check(made, keys=[NEW.verifier_key])
    assert report.verdict == "altered"
    assert any("no trusted key signed it" in each for each in report.problems)


def test_back_and_then_on_is_no_way(tmp_path: Path) -> None:
    log = changed()
    log.rotations.append((statement(OLD, THIEF, 1_600), None))
    log.signers = [THIEF]
    log.checkpoint(4_000)
    report = check(log.export(tmp_path / "out"), keys=[NEW.verifier_key])
    assert any("no trusted key signed it" in each for each in report.problems)
    assert THIEF.verifier_key.text not in [met.key for met in report.keys]


def test_without_the_statement_the_new_key_vouches_for_nothing_old(tmp_path: Path) -> None:
    log = changed()
    log.rotations.clear()
    made = log.export(tmp_path / "out")
    assert check(made, keys=[NEW.verifier_key]).verdict == "altered"
    assert check(made, keys=[OLD.verifier_key]).verdict == "altered"
    assert check(made, keys=[OLD.verifier_key, NEW.verifier_key]).verdict == "complete"


def test_a_kept_checkpoint_that_the_thief_signed_is_a_fork(tmp_path: Path) -> None:
    other = changed()
    other.signers = [OLD]
    other.append(b"{}")
    forged = other.checkpoint(3_100)
    made = changed().export(tmp_path / "out")
    kept = changed().checkpoints[1].note
    assert check(made, keys=[NEW.verifier_key], seen=[kept]).verdict == "complete"
    report = check(made, keys=[NEW.verifier_key], seen=[forged.note])
    assert any("kept checkpoint 1: is of size 5" in each for each in report.problems)


@pytest.mark.parametrize(
    ("old", "new", "signers"),
    [(OLD, NEW, [OLD]), (OLD, NEW, [NEW]), (OLD, NEW, [OTHER]), (OLD, NEW, [OLD, THIEF]), (OLD, OLD, [OLD])],
)
def test_a_statement_needs_both_signatures_and_two_keys(
    old: Ed25519Signer, new: Ed25519Signer, signers: list[Ed25519Signer]
) -> None:
    note = sign_note(Rotation("cell.example", old.verifier_key, new.verifier_key, 5).text(), signers)
    with pytest.raises(ProofError):
        open_rotation(note)


def test_a_statement_is_read_in_one_form_only() -> None:
    text = Rotation("cell.example", OLD.verifier_key, NEW.verifier_key, 5).text()
    assert open_rotation(sign_note(text, [OLD, NEW])) == Rotation("cell.example", OLD.verifier_key, NEW.verifier_key, 5)
    for wrong in (
        text.replace("at 5", "at 05"),
        text.replace("at 5", "at 9223372036854775808"),
        text.replace("at 5", "at -5"),
        text.replace("old ", "old  "),
        text.replace("v1", "v2"),
        text + "more\n",
        text.replace("cell.example\n", "cell example\n"),
        text.replace("new ", "old "),
        "x\n",
    ):
        with pytest.raises(ProofError):
            open_rotation(sign_note(wrong, [OLD, NEW]))


def test_a_head_must_be_signed_by_both_at_that_instant() -> None:
    log = changed()
    good, head = log.rotations[0]
    assert head is not None

    def line(statement_: str, head_: str | None) -> bytes:
        return json.dumps({"statement": statement_, "head": head_}).encode()

    assert open_told(line(good, head)).head is not None
    text = split_note(head)[0]
    for wrong in (
        sign_note(text, [OLD]),
        sign_note(text, [NEW]),
        sign_note(text.replace(f"at {CHANGED}", "at 1499"), [OLD, NEW]),
        sign_note(text.replace(ORIGIN, "other.example/ten_abc"), [OLD, NEW]),
        "x",
    ):
        with pytest.raises(ProofError):
            open_told(line(good, wrong))
    for junk in (b"", b"{}", b"[]", b'{"statement":1,"head":null}', line(good, head)[:-1] + b',"x":1}'):
        with pytest.raises(ProofError):
            open_told(junk)


def test_a_malformed_file_is_altered(tmp_path: Path) -> None:
    made = changed().export(tmp_path / "out")
    (made / "rotations.jsonl").write_bytes(b"{}\n")
    report = check(made)
    assert report.verdict == "altered" and any(each.startswith("rotations.jsonl:1:") for each in report.problems)
    (made / "rotations.jsonl").unlink()
    assert check(made, keys=[OLD.verifier_key, NEW.verifier_key]).verdict == "complete"


def test_an_export_is_not_written_over(tmp_path: Path) -> None:
    changed().export(tmp_path / "out")
    with pytest.raises(BadRequest):
        changed().export(tmp_path / "out")
