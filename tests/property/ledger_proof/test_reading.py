"""However entries are read, together or one by one, the same is found: in an honest export and in every altered one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.ledger.proof import entry, shape
from interlock.ledger.proof.entry import Block, Rules, scan
from interlock.ledger.proof.merkle import leaf_hash, subtrees
from tests.native import use
from tests.property.ledger_proof.test_tampering import edits, swapped, without
from tests.unit.ledger_proof.exports import E1, E2, E3, E4, FROM, TREE, Log, check, grown

RULES = Rules(TREE, FROM, FROM + 700, payloads=False)


def _alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(entry, "_joins", lambda runs, first, heads, tree: False)


def _any_shape(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shape, "read", lambda lines: None)


def _in_python(patch: pytest.MonkeyPatch) -> None:
    use(patch, None)


def _ways(start: int, data: bytes) -> Iterator[Block]:
    """By the native part. In Python: read together, with heads looked at one by one, without the usual shape, and
    without either."""
    python = _in_python
    for how in ((), (python,), (python, _alone), (python, _any_shape), (python, _alone, _any_shape)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(entry, "_PIECE_BYTES", 512)  # some are of one epoch, others are not
            for change in how:
                change(patch)
            yield scan(start, data, RULES)


def _same(start: int, lines: list[bytes]) -> Block:
    """What all ways find; the hashes are those of the lines, one at a time."""
    first, *others = _ways(start, b"".join(lines))
    assert others == [first] * 4
    whole = b"".join(lines).split(b"\n")[:-1]
    assert first.roots == subtrees(start, [leaf_hash(line) for line in whole])
    return first


def _many() -> list[bytes]:
    """Entries of three epochs in stretches of 1 to 5, with times that go back between epochs."""
    rng, log = random.Random(11), Log()
    for step in range(10):
        epoch = rng.choice([E1, E2, E3])
        for _ in range(rng.randrange(1, 6)):
            log.entry(epoch, FROM + 40 * step + rng.randrange(100), request=f"req_{step}")
    return [leaf + b"\n" for leaf in log.leaves]


def test_every_altered_entry_is_found_in_every_way() -> None:
    lines, found = _many(), set()
    assert _same(3, lines).problems == []
    assert set(_same(3, lines).epochs) == {E1, E2, E3}
    for at, line in enumerate(lines):
        made = [[*lines[:at], edit + b"\n", *lines[at + 1 :]] for edit in edits(line[:-1])]
        made += [without(lines, at), [*lines[:at], line, *lines[at:]], lines[: at + 1]]
        made += [swapped(lines, at, other) for other in range(at + 1, min(at + 4, len(lines)))]
        for each in made:
            found |= {problem for _, problem in _same(3, each).problems}
    assert len(found) > 50


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0}, {"n": -1}, {"n": 2**63}, {"at": -1}, {"at": 2**63}, {"v": 2}, {"v": True}, {"tree": "ten_abd"},
        {"epoch": E4}, {"epoch": "short"}, {"kind": "erasure", "subject": "prn_1"}, {"at": 2**63 - 1}, {"n": 2**63 - 1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_each_field_of_a_head(change: dict[str, object], at: int) -> None:
    """In four entries that are read together: what is told is told of that entry, or of the next, whose number does not
    go on. Another epoch may begin with any entry, and end with any."""
    log = Log()
    for step in range(4):
        log.entry(E1, FROM + step)
    values = [msgspec.json.decode(leaf) for leaf in log.leaves]
    values[at].update(change)
    lines = [msgspec.json.encode(value, order="sorted") + b"\n" for value in values]
    block = _same(0, lines)
    unnoticed = "kind" in change or change == {"at": 2**63 - 1} or (change == {"epoch": E4} and at in (0, 3))
    assert bool(block.problems) != unnoticed
    assert {place for place, _ in block.problems} <= {at, at + 1}
    assert block.erased == (["prn_1"] if "subject" in change else [])


def test_reports_are_the_same_whichever_way(tmp_path: Path) -> None:
    """Through the whole verifier, for each line of the entries that is missing or doubled."""
    made = grown().export(tmp_path / "out", start=1)
    file = made / "entries.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    changes = [lines, *(without(lines, at) for at in range(len(lines)))]
    changes += [[*lines[:at], lines[at], *lines[at:]] for at in range(len(lines))]
    for each in changes:
        file.write_bytes(b"".join(each))
        together = check(made)
        with pytest.MonkeyPatch.context() as patch:
            _in_python(patch)
            assert check(made) == together
            _alone(patch)
            _any_shape(patch)
            assert check(made) == together
        assert (together.verdict == "complete") == (each is lines)
