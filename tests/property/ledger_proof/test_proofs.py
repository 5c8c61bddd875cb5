"""Proofs of large random trees verify; forged ones do not. Another implementation agrees, where it is installed."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.ledger.proof.merkle import (
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from interlock.ledger.proof.note import Ed25519Signer, VerifierKey, open_note, sign_note
from interlock.ledger.proof.tiles import TileTree, full_tiles

LEAVES = [f"leaf {i}".encode() for i in range(20_000)]
HASHES = [leaf_hash(each) for each in LEAVES]
LEVELS = [HASHES]
while len(LEVELS[-1]) > 1:
    below = LEVELS[-1]
    LEVELS.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])


def node(level: int, index: int) -> bytes:
    return LEVELS[level][index]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_proofs_of_large_trees(data: st.DataObject) -> None:
    new = data.draw(st.integers(1, len(HASHES)))
    old = data.draw(st.integers(0, new))
    root, before = root_of(HASHES[:new]), root_of(HASHES[:old])
    assert verify_consistency(old, new, before, root, consistency_proof(old, new, node))
    index = data.draw(st.integers(0, new - 1))
    assert verify_inclusion(HASHES[index], index, new, inclusion_proof(index, new, node), root)


@given(st.lists(st.integers(0, 700), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_tiles_and_ranges_however_leaves_arrive(steps: list[int], rng: random.Random) -> None:
    tiles: dict[tuple[int, int], bytes] = {}
    grown, size = CompactRange(), 0

    def get(level: int, index: int) -> bytes:
        """Complete tiles as they were given; partial ones from the leaves."""
        if (level, index) in tiles:
            return tiles[level, index]
        whole = [node(8 * level, i) for i in range(256 * index, min(size >> (8 * level), 256 * (index + 1)))]
        return b"".join(whole)

    for step in steps:
        fresh = HASHES[size : size + step]
        for level, index, data in full_tiles(size, fresh, get):
            assert data == b"".join(node(8 * level, i) for i in range(256 * index, 256 * (index + 1)))
            tiles[level, index] = data
        assert set(tiles) == {(level, i) for level in (0, 1) for i in range((size + step) >> (8 * level + 8))}
        grown.extend(fresh)
        size += step
        assert grown.root() == root_of(HASHES[:size])
    if size:
        index = rng.randrange(size)
        proof = inclusion_proof(index, size, TileTree(get).node)
        assert verify_inclusion(HASHES[index], index, size, proof, grown.root())


def _mutated(proof: list[bytes], rng: random.Random) -> list[bytes]:
    """The proof with one bit flipped, one hash dropped, added or doubled, or two hashes swapped."""
    made = list(proof)
    how = rng.choice(["flip", "drop", "add", "double", "swap", "cut"]) if made else "add"
    at = rng.randrange(len(made) or 1)
    if how == "flip":
        bit = rng.randrange(256)
        made[at] = (int.from_bytes(made[at], "big") ^ (1 << bit)).to_bytes(32, "big")
    elif how == "drop":
        del made[at]
    elif how == "add":
        made.insert(rng.randrange(len(made) + 1), rng.choice([rng.randbytes(32), HASHES[0], bytes(32), b""]))
    elif how == "double":
        made.insert(at, made[at])
    elif how == "swap":
        other = rng.randrange(len(made))
        made[at], made[other] = made[other], made[at]
    else:
        made[at] = made[at][:31]
    return made


def test_ten_thousand_forged_inclusion_proofs() -> None:
    rng = random.Random(7)
    refused = 0
    roots = {size: root_of(HASHES[:size]) for size in (rng.randrange(1, 3000) for _ in range(60))}
    while refused < 5_000:
        size = rng.choice(list(roots))
        index = rng.randrange(size)
        leaf, proof, root = HASHES[index], inclusion_proof(index, size, node), roots[size]
        assert verify_inclusion(leaf, index, size, proof, root)
        forged = (leaf, index, size, tuple(proof), root)
        what = rng.choice(["proof", "leaf", "index", "root"])
        if what == "proof":
            forged = (leaf, index, size, tuple(_mutated(proof, rng)), root)
        elif what == "leaf":
            forged = (HASHES[rng.randrange(size)], index, size, tuple(proof), root)
        elif what == "index":
            forged = (leaf, rng.choice([-1, index + 1, index ^ 1, rng.randrange(size)]), size, tuple(proof), root)
        else:
            forged = (leaf, index, size, tuple(proof), rng.choice([rng.randbytes(32), root[:31], leaf, b""]))
        if forged == (leaf, index, size, tuple(proof), root):
            continue
        assert not verify_inclusion(*forged), forged
        refused += 1


def test_ten_thousand_forged_consistency_proofs() -> None:
    rng = random.Random(8)
    refused = 0
    sizes = sorted({rng.randrange(1, 3000) for _ in range(60)})
    roots = {size: root_of(HASHES[:size]) for size in sizes}
    while refused < 5_000:
        old, new = sorted(rng.choices(sizes, k=2))
        proof = consistency_proof(old, new, node)
        true = (old, new, roots[old], roots[new], tuple(proof))
        assert verify_consistency(*true)
        what = rng.choice(["proof", "old", "new", "old root", "new root"])
        forged = true
        if what == "proof":
            forged = (*true[:4], tuple(_mutated(proof, rng)))
        elif what == "old":
            other = rng.choice(sizes)
            forged = (rng.choice([other, -1]), *true[1:])
        elif what == "new":
            forged = (old, new, roots[old], roots[rng.choice(sizes)], tuple(proof))
        elif what == "old root":
            forged = (old, new, roots[rng.choice(sizes)], roots[new], tuple(proof))
        else:
            forged = (old, new, roots[old], rng.randbytes(32), tuple(proof))
        if forged == true:
            continue
        assert not verify_consistency(*forged), forged
        refused += 1


def test_the_size_that_a_proof_names_is_bound_by_its_length() -> None:
    """A proof does not hold for a tree of twice or half the size, whose paths have another length."""
    for size in range(2, 200):
        root = root_of(HASHES[:size])
        for index in range(0, size, 7):
            proof = inclusion_proof(index, size, node)
            assert not verify_inclusion(HASHES[index], index, 2 * size, proof, root) or size & (size - 1)
            if index < size // 2 and not size & (size - 1):
                assert not verify_inclusion(HASHES[index], index, size // 2, proof, root)


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_hostile_notes_are_refused_without_a_crash(text: str) -> None:
    key = Ed25519Signer("cell", bytes(32)).verifier_key
    for note in (text, f"{text}\n\n\u2014 cell AAAAAAA=\n", f"text\n\n\u2014 {text}\n"):
        with pytest.raises(ValueError):
            open_note(note, [key])


def test_another_implementation_agrees() -> None:
    """aics-tlog: its roots and proofs are ours, each verifies the other's, and notes and keys are read both ways."""
    tlog = pytest.importorskip("aics_tlog")
    tree = tlog.MerkleTree(LEAVES[:600])
    assert root_of([]) == tlog.EMPTY_HASH
    for size in (1, 2, 3, 7, 8, 9, 255, 256, 257, 511, 600):
        root = root_of(HASHES[:size])
        assert tree.root(size) == root
        for index in {0, size // 3, size - 1}:
            proof = tree.inclusion_proof(index, size)
            assert inclusion_proof(index, size, node) == proof
            assert tlog.verify_inclusion(HASHES[index], index, size, inclusion_proof(index, size, node), root)
            old = index + 1
            assert consistency_proof(old, size, node) == tree.consistency_proof(old, size)
            assert tlog.verify_consistency(old, size, tree.root(old), root, consistency_proof(old, size, node))
    tiles = {key: value for key, value in tlog.tiles.materialise_tiles(LEAVES[:600]).items() if "entries" not in key}
    ours = {f"tile/{level}/{index:03}": data for level, index, data in full_tiles(0, HASHES[:600], lambda *_: b"")}
    assert ours == {key: value for key, value in tiles.items() if ".p/" not in key}
    _notes_agree(tlog)


def _notes_agree(tlog: object) -> None:
    from aics_tlog import note as other
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from interlock.ledger.proof.checkpoint import Checkpoint

    signer = Ed25519Signer("cell.example/log", hashlib.sha256(b"seed").digest())
    made = Checkpoint(origin="cell.example/ten_abc", size=9, root=HASHES[0], at=5, coverage=HASHES[1])
    note = sign_note(made.text(), [signer])
    key = other.parse_vkey(signer.verifier_key.text)
    assert other.verify_note(other.parse_note(note), [key])
    read = tlog.parse_checkpoint(made.text())  # type: ignore[attr-defined]
    assert (read.origin, read.size, read.root) == (made.origin, made.size, made.root)
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"seed").digest())
    theirs = tlog.sign_checkpoint(read, private, signer.name)  # type: ignore[attr-defined]
    text = theirs.serialise()
    assert open_note(text, [VerifierKey.parse(other.format_vkey(key))]) == read.text() == made.text()
