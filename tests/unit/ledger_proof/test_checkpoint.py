"""The text of a checkpoint and the bytes of a coverage: one way to write each, and no other is read."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import pytest

from interlock.ledger.proof.checkpoint import Checkpoint, parse
from interlock.ledger.proof.coverage import (
    SETTLED_START,
    Coverage,
    NodeSeen,
    OpenEpoch,
    Settled,
    SettledHead,
    settled_digest,
)
from interlock.ledger.proof.errors import ProofError

ROOT, COVER = bytes(range(32)), bytes(range(32, 64))
TEXT = (
    "cell.example/ten_abc\n17\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    "at 1790000000000000001\ncoverage ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n"
)
COVERAGE: dict[str, Any] = {
    "at": 7,
    "epochs": [{"damaged": False, "epoch": "01hzzzzzzzaaaaaa", "n": 4, "node": "node_1", "watermark": 6}],
    "nodes": [{"node": "node_1", "registered": 5}],
    "settled": {"count": 0, "digest": "00" * 32},
    "tree": "ten_abc",
    "v": 1,
}


def test_a_checkpoint_is_written_and_read() -> None:
    made = Checkpoint(origin="cell.example/ten_abc", size=17, root=ROOT, at=1_790_000_000_000_000_001, coverage=COVER)
    assert made.text() == TEXT
    assert parse(TEXT) == made


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cell.example/ten_abc", ""),
        ("cell.example/ten_abc", "cell example"),
        ("17", "017"),
        ("17", "+17"),
        ("17", "-1"),
        ("17", "1_7"),
        ("17", "\u0661\u0667"),
        ("17", "9223372036854775808"),
        ("17", "9" * 5000),
        ("17", ""),
        ("AAECAw", "AAECA"),
        ("Hh8=", "Hh9="),
        ("Hh8=", "Hg=="),
        ("at 1", "at  1"),
        ("at 1", "At 1"),
        ("at 1", "at 01"),
        ("coverage ", "coverage"),
        ("Pj8=\n", "Pj8="),
        ("Pj8=\n", "Pj8=\n\n"),
        ("Pj8=\n", "Pj8=\nmore\n"),
        ("17\n", "17\r\n"),
        ("17\n", "0\n"),
    ],
)
def test_what_is_no_checkpoint(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(ProofError):
        parse(TEXT.replace(old, new))


def test_what_cannot_be_written_as_a_checkpoint() -> None:
    good = parse(TEXT)
    for change in (
        {"origin": "a b"},
        {"size": -1},
        {"size": 1 << 63},
        {"at": -1},
        {"root": b""},
        {"coverage": b"x" * 31},
    ):
        with pytest.raises(ProofError):
            msgspec.structs.replace(good, **change).text()


def test_a_coverage_is_written_and_read() -> None:
    made = Coverage(
        tree="ten_abc",
        at=7,
        settled=SettledHead(count=0, digest=SETTLED_START.hex()),
        epochs=(OpenEpoch(epoch="01hzzzzzzzaaaaaa", node="node_1", n=4, watermark=6),),
        nodes=(NodeSeen(node="node_1", registered=5),),
    )
    data = msgspec.json.encode(COVERAGE, order="sorted")
    assert made.encode() == data
    assert Coverage.decode(data) == made


def test_what_is_no_coverage() -> None:
    epoch, node = COVERAGE["epochs"][0], COVERAGE["nodes"][0]
    later = {**epoch, "epoch": "01hzzzzzzzaaaaab"}
    changes: list[dict[str, Any]] = [
        {"v": 2},
        {"more": 1},
        {"tree": ""},
        {"at": -1},
        {"at": 1.5},
        {"at": 1 << 63},
        {"at": "7"},
        {"epochs": [epoch, epoch]},
        {"epochs": [later, epoch]},
        {"epochs": [{**epoch, "epoch": "short"}]},
        {"epochs": [{**epoch, "n": True}]},
        {"nodes": [node, node]},
        {"nodes": [{**node, "more": 1}]},
        {"settled": {"count": 0, "digest": "0" * 63}},
        {"settled": {"count": 0, "digest": "0" * 64 + "\n"}},
        {"settled": {"count": 0, "digest": "A" * 64}},
    ]
    for change in changes:
        with pytest.raises(ProofError):
            Coverage.decode(msgspec.json.encode({**COVERAGE, **change}, order="sorted"))
    good = msgspec.json.encode(COVERAGE, order="sorted")
    assert Coverage.decode(msgspec.json.encode({**COVERAGE, "epochs": [epoch, later]}, order="sorted"))
    for data in (b"", b"{}", b"[]", b"\xff", good + b"\n", b" " + good, good.replace(b":", b": "), b"[" * 100_000):
        with pytest.raises(ProofError):
            Coverage.decode(data)
    for data in (msgspec.json.encode(dict(reversed(COVERAGE.items()))), good.replace(b'"v":1', b'"v":1,"v":1')):
        with pytest.raises(ProofError, match="canonical"):
            Coverage.decode(data)


def test_an_unsorted_coverage_is_not_written() -> None:
    good = Coverage.decode(msgspec.json.encode(COVERAGE, order="sorted"))
    with pytest.raises(ProofError):
        msgspec.structs.replace(good, nodes=good.nodes * 2).encode()


def test_the_settled_chain() -> None:
    line = Settled(epoch="01hzzzzzzzaaaaaa", node="node_1", state="closed", n=4).encode()
    assert line == b'{"damaged":false,"epoch":"01hzzzzzzzaaaaaa","n":4,"node":"node_1","state":"closed"}'
    assert Settled.decode(line).n == 4
    once = settled_digest(SETTLED_START, line)
    assert once == hashlib.sha256(bytes(32) + line).digest()
    assert settled_digest(once, line) == hashlib.sha256(once + line).digest()
    for bad in (line.replace(b"closed", b"open"), line + b" ", line.replace(b'"n":4', b'"n":-4'), b"null"):
        with pytest.raises(ProofError):
            Settled.decode(bad)


def test_base64_in_the_text_is_what_the_bytes_are() -> None:
    assert base64.b64encode(ROOT).decode() in TEXT
