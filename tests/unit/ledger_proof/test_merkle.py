"""Hashes and proofs against the definition in RFC 9162, for every tree of up to 70 leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Node,
    consistency_proof,
    fold,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from tests.unit.ledger_proof import reference

LEAVES = [f"leaf {i}".encode() for i in range(70)]
HASHES = [leaf_hash(each) for each in LEAVES]
ROOTS = [reference.mth(LEAVES[:n]) for n in range(71)]


def node_of(hashes: list[bytes]) -> Node:
    """The complete subtrees of a list of leaf hashes; asking for any other is an error."""

    def node(level: int, index: int) -> bytes:
        start, end = index << level, (index + 1) << level
        assert 0 <= start < end <= len(hashes)
        return fold(hashes[start:end])

    return node


def test_known_answers() -> None:
    """Values that other implementations of RFC 6962 publish."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    root = root_of(leaf_hash(bytes.fromhex(each)) for each in inputs)
    assert root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert node_hash(b"a" * 32, b"b" * 32) == hashlib.sha256(b"\x01" + b"a" * 32 + b"b" * 32).digest()


def test_a_compact_range_has_every_root() -> None:
    one = CompactRange()
    for n in range(71):
        assert (one.size, one.root()) == (n, ROOTS[n])
        assert root_of(HASHES[:n]) == ROOTS[n]
        again = CompactRange.of(n, one.hashes)
        again.extend(HASHES[n:])
        assert again.root() == ROOTS[70]
        if n < 70:
            one.append(HASHES[n])


def test_a_compact_range_has_as_many_hashes_as_bits() -> None:
    for size, hashes in ((0, [b"x" * 32]), (1, []), (3, [b"x" * 32]), (4, [b"x" * 32] * 2), (1, [b"x" * 31]), (-1, [])):
        with pytest.raises(ProofError):
            CompactRange.of(size, hashes)


def test_every_inclusion_proof_is_that_of_the_definition() -> None:
    for size in range(1, 71):
        node = node_of(HASHES[:size])
        for index in range(size):
            proof = inclusion_proof(index, size, node)
            assert proof == reference.path(index, LEAVES[:size])
            assert verify_inclusion(HASHES[index], index, size, proof, ROOTS[size])
            assert not verify_inclusion(HASHES[index], index + 1, size, proof, ROOTS[size])
            assert not verify_inclusion(HASHES[index - 1], index, size, proof, ROOTS[size]) or size == 1


def test_every_consistency_proof_is_that_of_the_definition() -> None:
    for new in range(71):
        node = node_of(HASHES[:new])
        for old in range(new + 1):
            proof = consistency_proof(old, new, node)
            if old:
                assert proof == reference.proof(old, LEAVES[:new])
            assert verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
            if old != new:
                assert not verify_consistency(new, old, ROOTS[new], ROOTS[old], proof)
            if 0 < old < new:
                assert not verify_consistency(old, new, ROOTS[old - 1], ROOTS[new], proof)
                assert not verify_consistency(old, new, ROOTS[old], ROOTS[new - 1], proof)
                assert not verify_consistency(old, new, ROOTS[old], ROOTS[new], [])


def test_the_empty_tree() -> None:
    assert verify_consistency(0, 5, EMPTY_ROOT, ROOTS[5], [])
    assert not verify_consistency(0, 5, ROOTS[1], ROOTS[5], [])
    assert not verify_consistency(0, 0, EMPTY_ROOT, ROOTS[1], [])
    assert not verify_consistency(0, 5, EMPTY_ROOT, ROOTS[5], [ROOTS[5]])
    assert not verify_inclusion(HASHES[0], 0, 0, [], EMPTY_ROOT)


@pytest.mark.parametrize(
    "ask",
    [
        lambda node: inclusion_proof(5, 5, node),
        lambda node: inclusion_proof(-1, 5, node),
        lambda node: inclusion_proof(0, 0, node),
        lambda node: consistency_proof(6, 5, node),
        lambda node: consistency_proof(-1, 5, node),
    ],
)
def test_no_proof_of_what_is_not_there(ask: Callable[[Node], list[bytes]]) -> None:
    with pytest.raises(ProofError):
        ask(node_of(HASHES))
