"""Plaintexts in an export: each is what its entry names, or the export is altered. No key is needed to see that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.folder import ExportWriter, Manifest
from interlock.ledger.proof.opening import content_id
from interlock.ledger.vault import Sealed, SubjectKey, VaultError

from .exports import E1, FROM, KEYS, TO, TREE, Log, check

KEY, OTHER = SubjectKey(bytes(range(32))), SubjectKey(bytes(range(1, 33)))
ANSWER, QUESTION, SYSTEM = b'{"answer":"forty-two"}', b'"what is it?"', b'"be brief"'


def reference(sealed: Sealed) -> dict[str, Any]:
    return {"role": "answer", "id": sealed.id.hex(), "sha256": sealed.sha256.hex(), "bytes": len(sealed.data)}


def salt_of(plain: bytes, key: SubjectKey = KEY) -> bytes:
    """What opens a content."""
    sealed = key.seal(plain)
    made = key.opened(sealed.id, sealed.data, bytes_max=len(plain)).salt
    assert made is not None
    return made


def export(path: Path, *, opened: list[bytes], key: SubjectKey = KEY, items: list[bytes] | None = None) -> Path:
    """An entry with an answer and a list of messages; `items` are those that lists.jsonl tells of."""
    log = Log()
    log.nodes = {"node_a": 1}
    log.begin(E1, "node_a", 1)
    log.checkpoint(950)
    answer, *messages = (key.seal(each) for each in (ANSWER, SYSTEM, QUESTION))
    last = key.chain(messages)[-1]
    listed = {"role": "messages", "list": last.id.hex(), "digest": last.digest.hex(), "count": 2}
    log.entry(E1, 1_500, who={"subject": "alice"}, contents=[reference(answer), listed])
    log.watermarks(2_100)
    end = log.checkpoint(2_100)
    manifest = Manifest(
        tree=TREE, cell="c", from_ns=FROM, to_ns=TO, start_size=0, end_size=1, made_at=1, payloads=True, opened=0
    )
    with ExportWriter(path, manifest, [KEYS[0].text]) as writer:
        writer.start(0, [], {})
        for each in (log.checkpoints[0], end):
            writer.checkpoint(each.note, each.coverage)
        writer.entry(log.leaves[0])
        for sealed in (answer, *messages):
            writer.content(sealed.id.hex(), sealed.data)
        writer.list(last.id.hex(), [each.id.hex() for each in messages])
        for plain in opened:
            writer.opened(key.seal(plain).id.hex(), salt_of(plain, key), plain)
    return path


def test_each_plaintext_is_what_was_recorded(tmp_path: Path) -> None:
    report = check(export(tmp_path / "all", opened=[ANSWER, QUESTION, SYSTEM, ANSWER]))
    assert (report.verdict, report.opened, report.contents) == ("complete", 3, 3), report
    assert "plain text for 3 contents" in report.words
    texts = {path.read_bytes() for path in (tmp_path / "all" / "opened").rglob("*.txt")}
    assert texts == {ANSWER, QUESTION, SYSTEM}
    assert check(export(tmp_path / "none", opened=[])).opened == 0


def test_every_plaintext_that_was_changed_exchanged_or_taken_away(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", opened=[ANSWER, QUESTION])
    files = sorted((folder / "opened").rglob("*.txt"))
    for number, path in enumerate(files):
        before = path.read_bytes()
        for data in (before + b" ", b"", files[number - 1].read_bytes()):
            path.write_bytes(data)
            assert check(folder).verdict == "altered"
        path.unlink()
        assert check(folder).verdict == "altered"
        path.write_bytes(before)
    assert check(folder).verdict == "complete"
    for stray in (files[0].with_name("0" * 64 + ".txt"), files[0].with_suffix(".bin"), folder / "opened" / "note.txt"):
        stray.write_bytes(b"x")
        assert check(folder).verdict == "altered"
        stray.unlink()


def test_every_line_of_the_openings(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", opened=[ANSWER, QUESTION])
    file = folder / "opened.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    one, two = (msgspec.json.decode(line) for line in lines)
    crossed = [msgspec.json.encode({**a, "salt": b["salt"]}) + b"\n" for a, b in ((one, two), (two, one))]
    for made in (lines[:1], lines[1:], [*lines, lines[0]], [], crossed, [lines[0], b"{}\n"], [lines[0], lines[1][:-1]]):
        file.write_bytes(b"".join(made))
        assert check(folder).verdict == "altered", made
    file.unlink()
    assert check(folder).verdict == "altered"


def test_a_plaintext_of_the_forgers_own_is_named_by_no_entry(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", opened=[ANSWER])
    forged, salt = b'{"answer":"forty-three"}', bytes(32)
    id_ = content_id(salt, forged).hex()
    (folder / "opened" / id_[:2]).mkdir(exist_ok=True)
    (folder / "opened" / id_[:2] / f"{id_}.txt").write_bytes(forged)
    with (folder / "opened.jsonl").open("ab") as file:
        file.write(msgspec.json.encode({"id": id_, "salt": salt.hex()}) + b"\n")
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "opened": 2}, order="sorted") + b"\n")
    report = check(folder)
    assert report.verdict == "altered" and "named by no entry" in report.words
    # nor as the item of a list, whose ciphertexts alone the digest of an entry names
    genuine = KEY.seal(QUESTION).id.hex()
    lists = folder / "lists.jsonl"
    lists.write_bytes(lists.read_bytes().replace(genuine.encode(), id_.encode()))
    (folder / "contents" / id_[:2]).mkdir(exist_ok=True)
    (folder / "contents" / genuine[:2] / f"{genuine}.bin").rename(folder / "contents" / id_[:2] / f"{id_}.bin")
    report = check(folder)
    assert report.verdict == "altered" and "named by no entry" in report.words


def test_plaintexts_that_the_manifest_does_not_tell_of(tmp_path: Path) -> None:
    folder = export(tmp_path / "out", opened=[ANSWER])
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    for change in ({"opened": 2}, {"opened": 0}, {"opened": None}, {"opened": 1, "payloads": False}):
        fields = {name: value for name, value in {**manifest, **change}.items() if value is not None}
        (folder / "manifest.json").write_bytes(msgspec.json.encode(fields, order="sorted") + b"\n")
        assert check(folder).verdict == "altered", change


def test_the_writer_refuses_what_no_verifier_would_take(tmp_path: Path) -> None:
    manifest = Manifest(
        tree=TREE, cell="c", from_ns=FROM, to_ns=TO, start_size=0, end_size=0, made_at=1, payloads=True, opened=0
    )
    name = KEY.seal(ANSWER).id.hex()
    with pytest.raises(ProofError, match="names"), ExportWriter(tmp_path / "a", manifest, []) as writer:
        writer.opened(name, salt_of(QUESTION), ANSWER)
    plain = msgspec.structs.replace(manifest, opened=None)
    with pytest.raises(ProofError, match="no plaintexts"), ExportWriter(tmp_path / "b", plain, []) as writer:
        writer.opened(name, salt_of(ANSWER), ANSWER)


@given(st.binary(max_size=300), st.binary(max_size=300))
@example(b"", b"\x00")
def test_a_salt_opens_its_content_and_no_other(plain: bytes, guess: bytes) -> None:
    sealed = KEY.seal(plain)
    assert content_id(salt_of(plain), plain) == sealed.id
    assert (content_id(salt_of(plain), guess) == sealed.id) == (plain == guess)
    assert salt_of(plain, OTHER) != salt_of(plain) and OTHER.seal(plain).id != sealed.id
    assert KEY.open(sealed.id, sealed.data, bytes_max=1000) == plain
    with pytest.raises(VaultError):
        KEY.open(OTHER.seal(plain).id, sealed.data, bytes_max=1000)
