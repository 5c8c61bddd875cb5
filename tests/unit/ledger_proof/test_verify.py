"""What an honest log's export proves, and what a log that signs contradictions is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.errors import BadRequest
from interlock.ledger.proof.coverage import Settled, SettledHead, settled_digest
from interlock.ledger.proof.entry import encode_leaf
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.folder import ExportWriter, Manifest
from interlock.ledger.proof.note import sign_note
from tests.unit.ledger_proof.exports import E1, E2, E3, E4, FROM, KEYS, OTHER, SIGNER, TO, Log, check, grown


@pytest.mark.parametrize("start", [None, 0, 1])
@pytest.mark.parametrize("end", [4, 5])
@pytest.mark.parametrize("payloads", [False, True])
def test_an_honest_export_is_complete(tmp_path: Path, start: int | None, end: int, payloads: bool) -> None:
    log = grown(payloads=payloads)
    ticks: list[tuple[int, int]] = []
    made = log.export(tmp_path / "out", start=start, end=end, payloads=payloads)
    report = check(made, progress=lambda done, total: ticks.append((done, total)))
    assert (report.verdict, report.problems) == ("complete", [])
    entries = log.checkpoints[end].size - (log.checkpoints[start].size if start else 0)
    assert (report.entries, report.in_range, report.until, report.signed) == (entries, 13, TO, True)
    assert report.contents == (46 if payloads else 0)
    assert (report.tree, report.from_ns, report.to_ns) == ("ten_abc", FROM, TO)
    assert ticks[-1] == (entries, entries)
    assert report.words.startswith("Every entry of ten_abc admitted from 1970-01-01T00:00:00.000001000Z to ")
    assert msgspec.json.decode(msgspec.json.encode(report))["from"] == FROM


def test_worker_processes_find_the_same(tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=1)
    assert check(made, processes=2) == check(made)
    lines = (made / "entries.jsonl").read_bytes().splitlines(keepends=True)
    (made / "entries.jsonl").write_bytes(b"".join(lines[:3] + lines[4:]))
    assert check(made, processes=2) == check(made)
    assert check(made).verdict == "altered"


def test_an_export_that_ends_too_early_has_an_open_tail(tmp_path: Path) -> None:
    report = check(grown().export(tmp_path / "out", start=1, end=3))
    assert (report.verdict, report.until, report.problems) == ("open tail", 1_600, [])
    assert "to 1970-01-01T00:00:00.000001600Z is in this export" in report.words


def test_one_silent_node_or_epoch_keeps_the_tail_open(tmp_path: Path) -> None:
    for number, silence in enumerate(("node", "epoch", "stranger", "gone")):
        log = grown()
        if silence == "node":
            log.nodes["node_b"] = 2_050
            log.watermarks(3_000)
            log.nodes["node_d"] = 1_999
        elif silence == "epoch":
            log.begin("01hzzzzzzzaaaaa9", "node_a", 1_999)
        elif silence == "stranger":
            log.begin("01hzzzzzzzaaaaa9", "node_unknown", 3_000)
        else:
            log.checkpoints.pop()
            log.checkpoints[4] = log.checkpoints[3]
            log.checkpoints.pop()
            del log.nodes["node_b"]
            log.watermarks(3_000)
        log.checkpoint(3_100)
        report = check(log.export(tmp_path / str(number), start=1))
        assert report.verdict == "open tail", (silence, report)
        assert report.until == {"stranger": 0, "gone": 1_600}.get(silence, 1_999)


def test_an_export_that_starts_too_late_is_not_complete(tmp_path: Path) -> None:
    report = check(grown().export(tmp_path / "out", start=2))
    assert report.verdict == "not complete"
    assert "starts with a checkpoint from after" in report.words


@pytest.mark.parametrize("where", ["open", "settled", "once"])
def test_damage_is_not_complete(tmp_path: Path, where: str) -> None:
    log = grown()
    if where == "settled":
        log.begin("01hzzzzzzzaaaaa9", "node_a", 2_300)
        log.settle("01hzzzzzzzaaaaa9", state="recovered", damaged=True)
    else:
        log.begin("01hzzzzzzzaaaaa9", "node_a", 2_300, damaged=True)
    log.checkpoint(2_500)
    if where == "once":
        log.begin("01hzzzzzzzaaaaa9", "node_a", 2_300)
        log.checkpoint(2_600)
    report = check(log.export(tmp_path / "out", start=1))
    assert report.verdict == "not complete"
    assert "epoch 01hzzzzzzzaaaaa9 were damaged" in report.words


def test_an_empty_tree_is_complete(tmp_path: Path) -> None:
    log = Log()
    log.checkpoint(3_000)
    report = check(log.export(tmp_path / "out"))
    assert (report.verdict, report.entries) == ("complete", 0)
    log.nodes = {"node_a": 1_500}
    log.checkpoint(3_001)
    assert check(log.export(tmp_path / "open")).verdict == "open tail"


def test_without_a_key_the_report_says_so(tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=1)
    report = check(made, keys=[])
    assert (report.verdict, report.signed) == ("complete", False)
    assert "signatures were not checked against a key you trust" in report.words
    report = check(made, keys=[OTHER.verifier_key])
    assert (report.verdict, report.signed) == ("altered", True)
    assert "no trusted key signed it" in report.words


def test_a_key_is_changed(tmp_path: Path) -> None:
    """The old key signs the first checkpoints, both sign one, the new key the last."""
    log = grown()
    log.signers = [SIGNER, OTHER]
    log.checkpoint(2_500)
    log.signers = [OTHER]
    log.checkpoint(2_600)
    made = log.export(tmp_path / "out", start=1)
    assert check(made, keys=[*KEYS, OTHER.verifier_key]).verdict == "complete"
    assert check(made).verdict == "altered"


Lie = Callable[[Log], None]


def _vanish(log: Log) -> None:
    del log.open[E4]


def _fewer(log: Log) -> None:
    old = log.open[E4]
    log.open[E4] = msgspec.structs.replace(old, n=old.n - 1)


def _more(log: Log) -> None:
    old = log.open[E4]
    log.open[E4] = msgspec.structs.replace(old, n=old.n + 1)


def _watermark_back(log: Log) -> None:
    log.open[E4] = msgspec.structs.replace(log.open[E4], watermark=2_299)


def _moved(log: Log) -> None:
    log.open[E4] = msgspec.structs.replace(log.open[E4], node="node_b")


def _registered_back(log: Log) -> None:
    log.nodes["node_a"] -= 1


def _late(log: Log) -> None:
    log.entry(E4, 2_299)


def _late_epoch(log: Log) -> None:
    log.begin("01hzzzzzzzaaaaa9", "node_b", 2_400)
    log.entry("01hzzzzzzzaaaaa9", 2_299)


def _late_settled_epoch(log: Log) -> None:
    _late_epoch(log)
    log.settle("01hzzzzzzzaaaaa9")


def _uncovered(log: Log) -> None:
    log.begin("01hzzzzzzzaaaaa9", "node_b", 2_400)
    log.entry("01hzzzzzzzaaaaa9", 2_500)
    del log.open["01hzzzzzzzaaaaa9"]


def _settled_twice(log: Log) -> None:
    log.begin(E3, "node_c", 2_300)
    log.settle(E3, n=0)


def _settled_is_open(log: Log) -> None:
    log.begin(E3, "node_c", 2_300)


def _settled_grows(log: Log) -> None:
    log.begin(E3, "node_c", 2_300)
    log.entry(E3, 2_500)


def _settled_count(log: Log) -> None:
    log.settle(E4, n=4)


def _settled_elsewhere(log: Log) -> None:
    log.open[E4] = msgspec.structs.replace(log.open[E4], node="node_b")
    log.settle(E4)


def _gap(log: Log) -> None:
    log.next[E4] += 1
    log.entry(E4, 2_500)


def _again(log: Log) -> None:
    log.next[E4] -= 1
    log.entry(E4, 2_500)


def _gap_inside(log: Log) -> None:
    log.entry(E4, 2_500)
    _gap(log)


def _again_inside(log: Log) -> None:
    log.entry(E4, 2_500)
    _again(log)


def _late_inside(log: Log) -> None:
    log.entry(E4, 2_500)
    log.entry(E4, 2_298)
    log.entry(E4, 2_299)


def _origin(log: Log) -> None:
    log.origin = "cell.example/other"


def _tree(log: Log) -> None:
    log.tree = "ten_other"
    log.entry(E4, 2_500)
    log.tree = "ten_abc"


def _rewritten_chain(log: Log) -> None:
    log.digest = settled_digest(log.digest, b"x")


def _floats(log: Log) -> None:
    log.append(encode_leaf({"v": 1}).replace(b"1", b"1.5"))


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (_vanish, "epoch 01hzzzzzzzaaaaa4 has vanished"),
        (_fewer, "has 4 entries in the tree, but 5 were found"),
        (_more, "has 6 entries in the tree, but 5 were found"),
        (_watermark_back, "the watermark of epoch 01hzzzzzzzaaaaa4 goes back"),
        (_moved, "is of another node"),
        (_registered_back, "the registration of node node_a goes back"),
        (_late, "but an earlier checkpoint had everything before 2300"),
        (_late_epoch, "had every epoch that node node_b began before 2300"),
        (_late_settled_epoch, "had every epoch that node node_b began before 2300"),
        (_uncovered, "has entries in the tree, but is not covered"),
        (_settled_twice, "is settled a second time"),
        (_settled_is_open, "was settled before"),
        (_settled_grows, "settled epoch 01hzzzzzzzaaaaa3"),
        (_settled_count, "has 4 entries, but 5 were found"),
        (_settled_elsewhere, "is of another node"),
        (_gap, "is number 7, but number 6 is next"),
        (_again, "is number 5, but number 6 is next"),
        (_gap_inside, "is number 8 of epoch 01hzzzzzzzaaaaa4, after number 6"),
        (_again_inside, "is number 6 of epoch 01hzzzzzzzaaaaa4, after number 6"),
        (_late_inside, "index 20 of epoch 01hzzzzzzzaaaaa4 was admitted at 2298, but an earlier"),
        (_origin, "is of cell.example/other, those before of cell.example/ten_abc"),
        (_tree, "is of another tree"),
        (_rewritten_chain, "the settled chain has another digest"),
        (_floats, "is not the JSON of an entry"),
    ],
)
def test_a_log_that_contradicts_itself_with_good_signatures(tmp_path: Path, lie: Lie, said: str) -> None:
    log = grown()
    assert check(log.export(tmp_path / "before", start=1)).verdict == "complete"
    lie(log)
    log.checkpoint(2_600)
    report = check(log.export(tmp_path / "out", start=1))
    assert (report.verdict, report.until) == ("altered", 0)
    assert any(said in problem for problem in report.problems), report.problems


def test_a_coverage_of_another_tree_or_a_shorter_chain(tmp_path: Path) -> None:
    log = grown()
    log.checkpoint(2_600, tree="ten_other")
    assert "is of the tree ten_other" in check(log.export(tmp_path / "tree", start=1)).words
    log.checkpoints.pop()
    log.checkpoint(2_600, settled=SettledHead(count=2, digest=log.digest.hex()))
    assert "the settled chain is shorter" in "".join(check(log.export(tmp_path / "chain", start=1)).problems)


def test_kept_checkpoints_lie_on_the_tree(tmp_path: Path) -> None:
    log = grown()
    notes = [each.note for each in log.checkpoints]
    made = log.export(tmp_path / "out", start=1)
    report = check(made, seen=notes[::-1])
    assert (report.verdict, report.problems) == ("complete", [])
    between = Log()
    between.leaves, between.range = list(log.leaves), type(log.range)()
    for leaf in log.leaves[:6]:
        between.append(leaf)
    kept = between.checkpoint(1_120).note
    assert check(made, seen=[kept]).problems == []


def test_a_fork_is_noticed_by_a_kept_checkpoint(tmp_path: Path) -> None:
    """Two histories, each consistent and well signed, that part after the first checkpoints."""
    log, other = grown(), grown()
    other.entry(E4, 2_500, request="one")
    log.entry(E4, 2_500, request="two")
    kept = other.checkpoint(2_600).note
    log.watermarks(2_700)
    log.checkpoint(2_800)
    made = log.export(tmp_path / "out", start=1)
    assert check(made).verdict == "complete"
    report = check(made, seen=[log.checkpoints[3].note, kept])
    assert report.verdict == "altered"
    assert "kept checkpoint 2: the tree had another root at size 20 (a fork)" in report.problems


def test_kept_checkpoints_that_no_growing_tree_has(tmp_path: Path) -> None:
    log = grown()
    made = log.export(tmp_path / "out", start=1)
    bigger = grown()
    for step in range(9):
        bigger.entry(E4, 2_500 + step)
    early = bigger.checkpoint(2_000).note
    assert "is smaller than a checkpoint that you kept from before" in "".join(check(made, seen=[early]).problems)
    small = Log()
    small.append(log.leaves[0])
    late = small.checkpoint(2_000).note
    assert "is larger than a checkpoint that you kept from later" in "".join(check(made, seen=[late]).problems)
    twin = grown()
    twin.checkpoints.pop()
    note = twin.checkpoint(2_400, epochs=()).note
    assert "of the same time and size" in "".join(check(made, seen=[note]).problems)
    foreign = Log(origin="cell.example/ten_other").checkpoint(1).note
    assert check(made, seen=[foreign]).verdict == "altered"


def test_kept_checkpoints_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    log = grown()
    old, new = log.checkpoints[1].note, log.checkpoints[5].note
    made = log.export(tmp_path / "out", start=2, end=4, from_ns=1_150)
    report = check(made, seen=[old, new, "nothing", sign_note("x\n", [SIGNER]), log.checkpoints[0].note])
    assert report.verdict == "complete"
    assert len(report.problems) == 4
    assert "4 of the checkpoints you kept could not be compared" in report.words


def _entry(**change: Any) -> bytes:
    value = {"v": 1, "tree": "ten_abc", "epoch": E4, "n": 6, "kind": "call", "at": 2_500}
    return msgspec.json.encode({**value, **change}, order="sorted")


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b"\xff",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        _entry(v=True),
        _entry(v=2),
        _entry(n="6"),
        _entry(n=True),
        _entry(n=0),
        _entry(n=1 << 70),
        _entry(at=-1),
        _entry(at=None),
        _entry(at=1 << 63),
        _entry(kind=1),
        _entry(epoch="short"),
        _entry(epoch=[]),
        _entry(more=1.0),
        _entry().replace(b'"n":6', b'"n":6,"n":6'),
        _entry().replace(b'"n":6', b'"n": 6'),
        _entry().replace(b"call", b"c\\u0061ll"),
        msgspec.json.encode({"v": 1, "tree": "ten_abc", "epoch": E4, "n": 6, "kind": "call", "at": 2_500}),
    ],
)
def test_leaves_that_are_no_entries(tmp_path: Path, leaf: bytes) -> None:
    """Whoever signs such a leaf is told so: what it says may be read in two ways."""
    log = grown()
    log.entry(E4, 2_500)
    log.range = type(log.range)()
    leaves, log.leaves = [*log.leaves[:-1], leaf], []
    for each in leaves:
        log.append(each)
    log.checkpoint(2_600)
    report = check(log.export(tmp_path / "out", start=1))
    assert report.verdict == "altered"
    assert any(problem.startswith("entries.jsonl:17: the entry at index 19 ") for problem in report.problems)


def test_a_leaf_is_written_only_if_it_reads_as_the_same_value() -> None:
    assert (
        encode_leaf({"b": [1, None, True], "a": {"c": "\u00e4\n"}}) == '{"a":{"c":"ä\\n"},"b":[1,null,true]}'.encode()
    )
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for value in ({"a": 1.5}, {"a": 1.0}, {1: 2}, {"a": b"x"}, {"a": "\ud800"}, {"a": (1,)}, {"a": deep}, {"a": {1}}):
        with pytest.raises(ProofError):
            encode_leaf(value)  # type: ignore[arg-type]


def test_erased_payloads_may_be_missing(tmp_path: Path) -> None:
    log = grown(payloads=True)
    made = log.export(tmp_path / "out", start=1, payloads=True)
    gone = [hashlib.sha256(b"id" + text).hexdigest()[:32] for text in (b"answer 1", b"answer 4")]
    for id_ in gone:
        (made / "contents" / id_[:2] / f"{id_}.bin").unlink()
    report = check(made)
    assert (report.verdict, report.contents) == ("not complete", 44)
    assert sorted(report.problems) == sorted(
        f"payload {id_} of entry {n} is missing" for id_, n in zip(gone, (4, 7), strict=True)
    )
    log.entry(E4, 2_450, kind="erasure", subject="user_1")
    log.watermarks(2_500)
    log.checkpoint(2_600)
    for id_ in gone:
        del log.contents[id_]
    assert check(log.export(tmp_path / "erased", start=1, payloads=True)).verdict == "complete"


def test_erased_lists_are_erased_whole(tmp_path: Path) -> None:
    log = grown(payloads=True)
    log.entry(E4, 2_450, kind="erasure", subject="user_1")
    log.watermarks(2_500)
    log.checkpoint(2_600)
    hello = hashlib.sha256(b"idhello 1").hexdigest()[:32]
    list_ = next(id_ for id_, items in log.lists.items() if hello in items)
    kept = log.contents.pop(hello)
    report = check(log.export(tmp_path / "part", start=1, payloads=True))
    assert report.verdict == "not complete"
    assert "was erased in part" in report.words
    system = log.lists.pop(list_)[0]
    assert check(log.export(tmp_path / "stray", start=1, payloads=True)).verdict == "altered"
    del log.contents[system]
    assert check(log.export(tmp_path / "whole", start=1, payloads=True)).verdict == "complete"
    log.contents[hello] = kept
    assert check(log.export(tmp_path / "left", start=1, payloads=True)).verdict == "altered"


def test_references_with_another_size(tmp_path: Path) -> None:
    """The bytes of a payload and the count of a list are held to, although their digests are right."""
    for name, key in (("bytes", "bytes"), ("count", "count")):
        log = grown(payloads=True)
        each = log.content("x") if name == "bytes" else log.list("x")
        log.entry(E4, 2_500, contents=[{**each, key: each[key] + 1}])
        log.checkpoint(2_600)
        report = check(log.export(tmp_path / name, start=1, payloads=True))
        assert (report.verdict, len(report.problems)) == ("altered", 1)
        assert "is not the" in report.words


def test_a_list_that_no_entry_names(tmp_path: Path) -> None:
    log = grown(payloads=True)
    log.lists["0" * 32] = next(iter(log.lists.values()))
    report = check(log.export(tmp_path / "out", start=1, payloads=True))
    assert (report.verdict, len(report.problems)) == ("altered", 1)


def test_contents_that_are_no_references(tmp_path: Path) -> None:
    good = Log().content("x")
    for number, contents in enumerate(
        ({}, [1], [{**good, "id": "../../x"}], [{**good, "sha256": "x"}], [{**good, "bytes": -1}], [{"list": "aaaa"}])
    ):
        log = grown(payloads=True)
        log.entry(E4, 2_500, contents=contents)
        log.checkpoint(2_600)
        report = check(log.export(tmp_path / str(number), start=1, payloads=True))
        assert "has contents that are not references" in "".join(report.problems)


def test_the_writer_refuses_what_does_not_belong(tmp_path: Path) -> None:
    manifest = Manifest(tree="t", cell="c", from_ns=0, to_ns=1, start_size=1, end_size=2, made_at=1, payloads=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(BadRequest):
            ExportWriter(tmp_path / name, manifest, [])
    writer = ExportWriter(tmp_path / "new", manifest, [KEYS[0].text])
    signed = grown().checkpoints[0]
    for wrong in (
        lambda: writer.start(2, [bytes(32)], {}),
        lambda: writer.start(1, [], {}),
        lambda: writer.checkpoint(signed.note, signed.coverage + b" "),
        lambda: writer.entry(b"a\nb"),
        lambda: writer.settled(b"a\nb"),
        lambda: writer.content("../x", b""),
        lambda: writer.content("aaaa", b""),
        lambda: writer.list("aaaa", []),
        writer.close,
    ):
        with pytest.raises(ProofError):
            wrong()
    assert not (tmp_path / "new" / "manifest.json").exists()
    assert check(tmp_path / "new").verdict == "altered"
    modes = {oct(each.stat().st_mode & 0o777) for each in (tmp_path / "new").rglob("*") if each.is_file()}
    assert ((tmp_path / "new").stat().st_mode & 0o777, modes) == (0o700, {"0o600"})


def test_the_page_for_people_fits_a_screen(tmp_path: Path) -> None:
    text = (grown().export(tmp_path / "out", start=1) / "README.txt").read_text()
    assert max(len(line) for line in text.splitlines()) < 100
    for word in (
        "complete",
        "open tail",
        "not complete",
        "altered",
        "interlock ledger verify",
        "ten_abc",
        "cell.example",
    ):
        assert word in text


def test_links_pipes_and_strange_names_are_not_followed(tmp_path: Path) -> None:
    made = grown(payloads=True).export(tmp_path / "out", start=1, payloads=True)
    (made / "report.pdf").write_text("of the auditor")
    (made / "contents" / ".DS_Store").write_text("")
    assert check(made).verdict == "complete"
    (made / "checkpoints" / "note.txt").write_text("x")
    assert "checkpoints/note.txt: is no checkpoint" in check(made).words
    (made / "checkpoints" / "note.txt").unlink()
    for name in (
        "entries.jsonl",
        "manifest.json",
        "start.json",
        "settled.jsonl",
        "lists.jsonl",
        "checkpoints",
        "contents",
    ):
        os.rename(made / name, tmp_path / "away")
        (made / name).symlink_to(tmp_path / "away")
        assert check(made).verdict == "altered", name
        (made / name).unlink()
        if name.endswith("l"):
            os.mkfifo(made / name)
            assert "not a regular file" in check(made).words
            (made / name).unlink()
        assert check(made).verdict != "complete", name
        os.rename(tmp_path / "away", made / name)
    assert check(made).verdict == "complete"
    assert check(tmp_path / "nowhere").verdict == "altered"
    assert check(made / "manifest.json").verdict == "altered"


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=1)
    with (made / "entries.jsonl").open("ab") as file:
        file.truncate(1 << 34)
    report = check(made)
    assert report.verdict == "altered"
    assert "longer than 16777216 bytes" in "".join(report.problems)


def test_what_a_hostile_folder_says_is_fit_for_a_terminal(tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=1)
    os.mkdir(os.fsencode(made / "checkpoints") + b"/\x1b[31m\xff\n\xe2\x80\xae" + b"x" * 200)
    report = check(made)
    assert report.verdict == "altered"
    assert report.words.isprintable() and all(each.isprintable() for each in report.problems)
    assert msgspec.json.decode(msgspec.json.encode(report))["words"] == report.words
    manifest = (made / "manifest.json").read_bytes()
    (made / "manifest.json").write_bytes(manifest.replace(b"ten_abc", b"\\u001b[31m"))
    assert check(made).problems == ["manifest.json: the manifest has a name that cannot be printed"]


def test_settled_lines_are_written_one_way(tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=1)
    line = Settled.decode((made / "settled.jsonl").read_bytes().splitlines()[0])
    assert (line.epoch, line.state) == (E2, "recovered")
    assert E1 not in (made / "settled.jsonl").read_text()
    assert E3 in (made / "settled.jsonl").read_text()
