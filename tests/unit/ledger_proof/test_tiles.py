"""Tiles hold the same tree as the leaves."""

from __future__ import annotations

import hashlib

import pytest

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import consistency_proof, fold, inclusion_proof, root_of, verify_consistency
from interlock.ledger.proof.tiles import TILE, TileTree, full_tiles, tile_root

SIZE = 256 * 256 + 700
HASHES = [hashlib.sha256(str(i).encode()).digest() for i in range(SIZE)]


class Store:
    """What a store keeps: complete tiles, and the partial last tile of each level."""

    def __init__(self) -> None:
        self.size = 0
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.last: dict[int, bytes] = {}

    def get(self, level: int, index: int) -> bytes:
        return self.tiles.get((level, index)) or self.last[level]

    def append(self, hashes: list[bytes]) -> None:
        above: dict[int, list[bytes]] = {0: list(hashes)}
        for level, index, data in full_tiles(self.size, hashes, self.get):
            assert (level, index) not in self.tiles
            self.tiles[level, index] = data
            above.setdefault(level + 1, []).append(tile_root(data))
        count = self.size
        for level in sorted(above):
            width = count % TILE
            grown = (self.last.get(level, b"") if width else b"") + b"".join(above[level])
            self.last[level] = grown[len(grown) // (TILE * 32) * TILE * 32 :]
            count //= TILE
        self.size += len(hashes)


@pytest.fixture(scope="module")
def store() -> Store:
    made = Store()
    step, at = 1, 0
    while at < SIZE:
        made.append(HASHES[at : at + step])
        at, step = min(SIZE, at + step), step * 3 % 4001
    return made


def test_tiles_are_what_the_layout_says(store: Store) -> None:
    for (level, index), data in store.tiles.items():
        first, each = index * 256 ** (level + 1), 256**level
        below = [HASHES[i : i + each] for i in range(first, first + 256 * each, each)]
        assert data == b"".join(fold(part) for part in below)
    assert sorted(level for level, _ in store.tiles if level) == [1]
    assert len(store.tiles) == SIZE // 256 + 1


def test_every_kind_of_node(store: Store) -> None:
    tree = TileTree(store.get)
    for level in range(17):
        for index in {0, 1, 5, (SIZE >> level) - 1}:
            if (index + 1) << level <= SIZE and index >= 0:
                assert tree.node(level, index) == fold(HASHES[index << level : (index + 1) << level])


def test_proofs_from_tiles(store: Store) -> None:
    tree = TileTree(store.get)
    for old in (1, 255, 256, 257, 65535, 65536, 65537, SIZE - 1):
        proof = consistency_proof(old, SIZE, tree.node)
        assert verify_consistency(old, SIZE, root_of(HASHES[:old]), root_of(HASHES), proof)
        assert len(inclusion_proof(old, SIZE, tree.node)) <= 17


def test_a_partial_tile_that_grew_is_read_again() -> None:
    store = Store()
    tree = TileTree(store.get)
    store.append(HASHES[:1])
    assert tree.node(0, 0) == HASHES[0]
    with pytest.raises(ProofError):
        tree.node(0, 1)
    store.append(HASHES[1:2])
    assert tree.node(0, 1) == HASHES[1]


def test_short_tiles_are_refused(store: Store) -> None:
    with pytest.raises(ProofError):
        list(full_tiles(3, HASHES[3:300], lambda level, index: b"x" * 64))
    with pytest.raises(ProofError):
        tile_root(b"x" * 8191)
    with pytest.raises(ProofError):
        TileTree(store.get).node(-1, 0)
    assert list(full_tiles(7, [], store.get)) == []
