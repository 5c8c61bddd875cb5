"""Whatever is done to an export without the key, it is not complete any more. Nothing makes the verifier crash."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.ledger.proof.findings import Report
from tests.native import use
from tests.unit.ledger_proof.exports import E4, FROM, OTHER, TO, Log, check, grown

UNSIGNED = {"README.txt", "keys.txt", "manifest.json"}
"""Files for people, and the one that says what is asked; the manifest is tampered with field by field."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = grown().export(tmp_path_factory.mktemp("plain") / "out", start=1)
    assert check(made).verdict == "complete"
    return made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With payloads."""
    made = grown(payloads=True).export(tmp_path_factory.mktemp("full") / "out", start=1, payloads=True)
    assert check(made).verdict == "complete"
    return made


@contextmanager
def changed(path: Path, data: bytes | None) -> Iterator[None]:
    """A file with other bytes, or without the file, for a while."""
    before = path.read_bytes()
    try:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        yield
    finally:
        path.write_bytes(before)


def refused(export: Path, file: str, data: bytes | None, why: object = "") -> Report:
    with changed(export / file, data):
        report = check(export)
    assert report.verdict != "complete", (file, why)
    assert report.problems, (file, why)
    return report


def without(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def swapped(lines: list[bytes], one: int, two: int) -> list[bytes]:
    made = list(lines)
    made[one], made[two] = made[two], made[one]
    return made


def edits(line: bytes) -> Iterator[bytes]:
    """The record of a line with each of its values changed, each field left out, and one added."""
    value = msgspec.json.decode(line)
    for key, old in value.items():
        new: Any = old + 1 if type(old) is int else old + "x" if type(old) is str else None
        yield msgspec.json.encode({**value, key: not old if type(old) is bool else new}, order="sorted")
        yield msgspec.json.encode({name: each for name, each in value.items() if name != key}, order="sorted")
    yield msgspec.json.encode({**value, "zz": 1}, order="sorted")
    yield line[:-1] + b" }"


@pytest.mark.parametrize("reader", ["as installed", "in python"])
@pytest.mark.parametrize("file", ["entries.jsonl", "settled.jsonl"])
def test_every_change_of_a_record(plain: Path, file: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record changed, deleted, doubled, moved, swapped with each other one, and the tail cut at each place."""
    if reader == "in python":
        use(monkeypatch, None)
    lines = (plain / file).read_bytes().splitlines(keepends=True)
    assert len(lines) >= 2

    def altered(made: list[bytes], why: object) -> None:
        assert refused(plain, file, b"".join(made), why).verdict == "altered"

    for at, line in enumerate(lines):
        for number, edit in enumerate(edits(line[:-1])):
            altered([*lines[:at], edit + b"\n", *lines[at + 1 :]], ("edit", at, number))
        altered(without(lines, at), ("deleted", at))
        altered([*lines[:at], line, *lines[at:]], ("doubled", at))
        altered([*without(lines, at), line], ("moved to the end", at)) if line != lines[-1] else None
        altered([*lines[:at], b"{}\n", *lines[at:]], ("inserted", at))
        altered(lines[:at], ("cut", at))
        for other in range(at + 1, len(lines)):
            altered(swapped(lines, at, other), ("swapped", at, other))
    for at, (one, two) in enumerate(pairwise(lines)):
        altered([*lines[:at], one[:-1] + two, *lines[at + 2 :]], ("joined", at))
    altered([*lines, lines[-1]], "appended")
    altered([*lines[:-1], lines[-1][:-1]], "no newline at the end")
    altered([*lines, b"\n"], "an empty line")


@pytest.mark.parametrize("reader", ["as installed", "in python"])
def test_a_forgery_that_fits_in_all_else_has_another_root(
    plain: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry with another request, or two of the same epoch that change places and numbers: the root tells."""
    if reader == "in python":
        use(monkeypatch, None)
    values = [msgspec.json.decode(line) for line in (plain / "entries.jsonl").read_bytes().splitlines()]
    forged = [[*values[:at], {**each, "request": "req_x"}, *values[at + 1 :]] for at, each in enumerate(values)]
    for at, (one, two) in enumerate(pairwise(values)):
        if one["epoch"] == two["epoch"]:
            forged.append([*values[:at], {**two, "n": one["n"]}, {**one, "n": two["n"]}, *values[at + 2 :]])
    assert len(forged) > 2 * len(values) - 9
    for made in forged:
        data = b"".join(msgspec.json.encode(each, order="sorted") + b"\n" for each in made)
        report = refused(plain, "entries.jsonl", data)
        assert any("do not give the root" in problem for problem in report.problems), report.problems


def test_every_byte_of_every_signed_file(plain: Path) -> None:
    """A bit of any byte of the signed files and of start.json; of the entries a sample."""
    rng = random.Random(3)
    for path in sorted(each for each in plain.rglob("*") if each.is_file() and each.name not in UNSIGNED):
        data = path.read_bytes()
        places = range(len(data)) if "start" in path.name else rng.sample(range(len(data)), min(len(data), 60))
        for at in places:
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            name = str(path.relative_to(plain))
            if path.name != "start.json" or msgspec.json.decode(data) != _decoded(flipped):
                refused(plain, name, flipped, at)


def _decoded(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def test_every_file_that_is_missing_or_another(plain: Path) -> None:
    files = [each for each in plain.rglob("*") if each.is_file() and each.name not in {"README.txt", "keys.txt"}]
    assert len(files) == 4 + 2 * 5
    for path in files:
        name = str(path.relative_to(plain))
        assert refused(plain, name, None).verdict == "altered"
        assert refused(plain, name, b"").verdict == "altered"
        for other in files:
            if other != path and other.suffix == path.suffix and other.read_bytes() != path.read_bytes():
                assert refused(plain, name, other.read_bytes(), other).verdict == "altered"


def test_every_checkpoint_that_is_dropped(plain: Path, tmp_path: Path) -> None:
    """With the manifest as it is; and with its count of checkpoints and its sizes made to fit."""
    names = sorted({each.name[:41] for each in (plain / "checkpoints").iterdir()})
    for number, name in enumerate(names):
        made = tmp_path / str(number)
        shutil.copytree(plain, made)
        for each in (made / "checkpoints").glob(f"{name}*"):
            each.unlink()
        assert check(made).verdict == "altered"
        manifest = msgspec.json.decode((made / "manifest.json").read_bytes())
        manifest["checkpoints"] -= 1
        (made / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        if number in {0, len(names) - 1}:
            assert check(made).verdict == "altered"


@pytest.mark.parametrize("number", [0, 2])
def test_the_first_and_the_last_checkpoint_cannot_be_spared(tmp_path: Path, number: int) -> None:
    """Even where nothing was settled, and all counts fit."""
    log = Log()
    log.nodes = {"node_a": 100}
    log.begin(E4, "node_a", 100)
    for at in (900, 1_500, 2_500):
        log.entry(E4, at)
        log.watermarks(at + 10)
        log.checkpoint(at + 20)
    made = log.export(tmp_path / "out")
    assert check(made).verdict == "complete"
    for each in (made / "checkpoints").glob(f"{log.checkpoints[number].at:020}*"):
        each.unlink()
    manifest = msgspec.json.decode((made / "manifest.json").read_bytes())
    (made / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "checkpoints": 2}))
    report = check(made)
    assert (report.verdict, len(report.problems)) == ("altered", 1)


def test_every_checkpoint_under_another_name(plain: Path) -> None:
    """Another time would let an export seem to start earlier, another size would compare another root."""
    for note in sorted((plain / "checkpoints").glob("*.note")):
        at, size = int(note.name[:20]), int(note.name[21:41])
        for other in (f"{at - 1:020}-{size:020}", f"{at + 1:020}-{size:020}", f"{at:020}-{size + 1:020}"):
            for old, new in ((note.name[:41], other), (other, note.name[:41])):
                for kind in ("note", "coverage.json"):
                    (plain / "checkpoints" / f"{old}.{kind}").rename(plain / "checkpoints" / f"{new}.{kind}")
                assert check(plain).verdict == ("altered" if new == other else "complete"), other


def test_an_end_that_is_cut_off_consistently_is_an_open_tail(plain: Path, tmp_path: Path) -> None:
    """The last checkpoints, their entries and settled lines are left out, and the manifest fits."""
    made = tmp_path / "out"
    shutil.copytree(plain, made)
    manifest = msgspec.json.decode((made / "manifest.json").read_bytes())
    verdicts = []
    while len(names := sorted(each.name for each in (made / "checkpoints").glob("*.note"))) > 1:
        (made / "checkpoints" / names[-1]).unlink()
        (made / "checkpoints" / names[-1].replace(".note", ".coverage.json")).unlink()
        size = int(names[-2][21:41])
        settled = msgspec.json.decode(
            (made / "checkpoints" / names[-2].replace(".note", ".coverage.json")).read_bytes()
        )
        manifest.update(checkpoints=len(names) - 1, end_size=size)
        (made / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        for file, count in (
            ("entries.jsonl", size - manifest["start_size"]),
            ("settled.jsonl", settled["settled"]["count"] - 1),
        ):
            lines = (made / file).read_bytes().splitlines(keepends=True)
            (made / file).write_bytes(b"".join(lines[:count]))
        report = check(made)
        verdicts.append((report.verdict, report.until))
    assert verdicts == [("complete", TO), ("open tail", 1_600), ("open tail", 1_100), ("open tail", 900)]


def test_a_start_that_is_cut_off_consistently_is_not_complete(plain: Path, tmp_path: Path) -> None:
    made = grown().export(tmp_path / "out", start=2)
    assert check(made).verdict == "not complete"
    manifest = msgspec.json.decode((made / "manifest.json").read_bytes())
    (made / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "start_size": 0}))
    (made / "start.json").write_bytes(b'{"counts":{},"hashes":[],"size":0}')
    assert check(made).verdict == "altered"


def test_every_field_of_the_manifest(plain: Path) -> None:
    manifest = msgspec.json.decode((plain / "manifest.json").read_bytes())
    for change in (
        {"v": 2},
        {"tree": "ten_other"},
        {"start_size": manifest["start_size"] - 1},
        {"start_size": manifest["start_size"] + 1},
        {"start_size": 0},
        {"end_size": manifest["end_size"] - 1},
        {"end_size": manifest["end_size"] + 1},
        {"end_size": (1 << 63) - 1},
        {"end_size": 1 << 63},
        {"end_size": -1},
        {"payloads": 1},
        {"checkpoints": 4},
        {"checkpoints": 6},
        {"from": 949},
        {"from": TO + 1},
        {"to": 2_301},
        {"to": (1 << 63) - 1},
        {"to": 1 << 64},
        {"made_at": 1.5},
        {"cell": 7},
        {"more": 1},
        {"pruned": manifest["start_size"]},
        {"pruned": manifest["start_size"] + 1},
        {"pruned": manifest["end_size"]},
        {"pruned": manifest["end_size"] + 1},
    ):
        with changed(plain / "manifest.json", msgspec.json.encode({**manifest, **change})):
            assert check(plain).verdict != "complete", change
    for key in manifest.keys() - {"checkpoints", "v"}:
        rest = {name: each for name, each in manifest.items() if name != key}
        assert refused(plain, "manifest.json", msgspec.json.encode(rest), key).verdict == "altered"
    for data in (b"[" * 1_000_000, b"\x00", b"null"):
        assert refused(plain, "manifest.json", data).verdict == "altered"


def test_every_field_of_the_start(plain: Path) -> None:
    start = msgspec.json.decode((plain / "start.json").read_bytes())
    assert (len(start["hashes"]), start["counts"]) == (2, {"01hzzzzzzzaaaaa2": 1})
    for change in (
        {"size": 2},
        {"size": 5},
        {"size": 7},
        {"hashes": start["hashes"][::-1]},
        {"hashes": start["hashes"][:1]},
        {"hashes": [*start["hashes"], "00" * 32]},
        {"hashes": ["00" * 32, start["hashes"][1]]},
        {"hashes": [start["hashes"][0].upper(), start["hashes"][1]]},
        {"counts": {}},
        {"counts": {"01hzzzzzzzaaaaa2": 2}},
        {"counts": {"01hzzzzzzzaaaaa2": 1, E4: 1}},
        {"more": 1},
    ):
        refused(plain, "start.json", msgspec.json.encode({**start, **change}), change)


def test_a_checkpoint_signed_by_another_key_or_of_another_tree(plain: Path, tmp_path: Path) -> None:
    log = grown()
    log.signers = [OTHER]
    log.checkpoint(2_500)
    assert check(log.export(tmp_path / "key", start=1)).verdict == "altered"
    other = Log(tree="ten_xyz", origin="cell.example/ten_xyz")
    other.checkpoint(2_500)
    note = sorted((plain / "checkpoints").glob("*.note"))[-1]
    assert refused(plain, f"checkpoints/{note.name}", other.checkpoints[0].note.encode()).verdict == "altered"


def test_every_payload(full: Path) -> None:
    files = sorted((full / "contents").rglob("*.bin"))
    assert len(files) == 46
    for number, path in enumerate(files):
        name = str(path.relative_to(full))
        assert refused(full, name, None).verdict == "not complete"
        assert refused(full, name, path.read_bytes() + b"x").verdict == "altered"
        assert refused(full, name, files[number - 1].read_bytes()).verdict == "altered"
        assert refused(full, name, b"").verdict == "altered"
    stray = full / "contents" / files[0].parent.name / ("0" * 32 + ".bin")
    for where in (stray, stray.with_suffix(".txt"), full / "contents" / "note.txt"):
        where.write_bytes(b"x")
        assert check(full).verdict == "altered"
        where.unlink()
    manifest = msgspec.json.decode((full / "manifest.json").read_bytes())
    hidden = msgspec.json.encode({**manifest, "payloads": False})
    assert refused(full, "manifest.json", hidden).verdict == "altered"


def test_every_list(full: Path) -> None:
    lines = (full / "lists.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 15
    refused(full, "lists.jsonl", None)
    for at, line in enumerate(lines):
        value = msgspec.json.decode(line)
        assert refused(full, "lists.jsonl", b"".join(without(lines, at))).verdict != "complete"
        assert refused(full, "lists.jsonl", b"".join([*lines, line])).verdict == "altered"
        for items in (value["items"][::-1], value["items"][:-1], [*value["items"], value["items"][0]], []):
            made = msgspec.json.encode({**value, "items": items}) + b"\n"
            assert refused(full, "lists.jsonl", b"".join([*lines[:at], made, *lines[at + 1 :]])).verdict == "altered"
        made = msgspec.json.encode({**value, "list": "0" * 32}) + b"\n"
        assert refused(full, "lists.jsonl", b"".join([*lines[:at], made, *lines[at + 1 :]])).verdict == "altered"
    for bad in (b"\n", b"7\n", b'{"list":"../../..","items":[]}\n', b'{"list":"aaaa","items":["../x"]}\n'):
        assert refused(full, "lists.jsonl", b"".join(lines) + bad).verdict == "altered"


JUNK = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: msgspec.json.encode(value)),
)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_nothing_in_a_folder_makes_the_verifier_crash(full: Path, data: st.DataObject) -> None:
    files = sorted(str(each.relative_to(full)) for each in full.rglob("*") if each.is_file())
    file = data.draw(st.sampled_from([each for each in files if each not in {"README.txt", "keys.txt"}]))
    before = (full / file).read_bytes()
    how = data.draw(st.sampled_from(["all", "splice", "line"]))
    junk = data.draw(JUNK)
    if how == "all":
        made = junk
    elif how == "splice":
        at, length = data.draw(st.integers(0, len(before))), data.draw(st.integers(0, 60))
        made = before[:at] + junk + before[at + length :]
    else:
        lines = before.splitlines(keepends=True)
        lines.insert(data.draw(st.integers(0, len(lines))), junk + b"\n")
        made = b"".join(lines)
    with changed(full / file, made):
        report = check(full)
    if made == before:
        assert report.verdict == "complete"
    elif file not in {"manifest.json", "start.json", "lists.jsonl"}:
        assert report.verdict != "complete"


@given(st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_any_honest_log_is_complete_from_any_checkpoint(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Random epochs, nodes and checkpoints; random start and end; one entry taken out is always noticed."""
    rng = random.Random(seed)
    log, now = Log(), 100
    log.nodes = {f"node_{n}": 100 for n in range(rng.randrange(1, 4))}
    started = 0
    for _ in range(rng.randrange(5, 120)):
        now += rng.randrange(1, 40)
        act = rng.random()
        if act < 0.08 or not log.open:
            started += 1
            log.begin(f"01hzzzzzzzaaa{started:03}", rng.choice(sorted(log.nodes)), now)
        elif act < 0.14:
            log.settle(rng.choice(sorted(log.open)), state=rng.choice(["closed", "recovered"]))
        elif act < 0.25:
            log.watermarks(now)
            log.checkpoint(now)
        else:
            log.entry(rng.choice(sorted(log.open)), now)
    log.watermarks(now + 1)
    log.checkpoint(now + 1)
    start = rng.choice([None, *range(len(log.checkpoints))])
    from_ns = log.checkpoints[start].at if start is not None else FROM
    made = log.export(tmp_path_factory.mktemp("any") / "out", start=start, from_ns=min(from_ns, now + 1), to_ns=now + 1)
    report = check(made, seen=[each.note for each in log.checkpoints])
    older = start is not None and any(0 < each.size < log.checkpoints[start].size for each in log.checkpoints)
    assert (report.verdict, report.problems if not older else []) == ("complete", [])
    lines = (made / "entries.jsonl").read_bytes().splitlines(keepends=True)
    if lines:
        (made / "entries.jsonl").write_bytes(b"".join(without(lines, rng.randrange(len(lines)))))
        assert check(made).verdict == "altered"
