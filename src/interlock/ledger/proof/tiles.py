"""The tree in tiles: files of up to 256 hashes (the layout of C2SP tlog-tiles, height 8).

Tile (0, i) holds the leaf hashes [256 i, 256 (i + 1)). Tile (k, i) holds the roots of the complete tiles
(k - 1, 256 i) and on. A tile with fewer than 256 hashes is partial: it is the last one of its level, and grows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import HASH_BYTES, fold

TILE = 256
"""Hashes of a complete tile."""

TILE_BYTES = TILE * HASH_BYTES
_BITS = 8
_CACHED = 32

Get = Callable[[int, int], bytes]
"""get(level, index): the hashes of a tile, end to end; a partial tile has those it has so far."""


class TileTree:
    """The nodes of a tree whose tiles `get` returns. `node` is a `merkle.Node`.

    The tiles used last are kept (32 of them, at most 256 KiB). A kept partial tile that is too short is read again, so
    the tree may grow meanwhile. Not for use by several threads at once.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2^level leaves at `index`. ProofError if its tile does not hold it."""
        if level < 0 or index < 0:
            raise ProofError(f"there is no node {index} on level {level}")
        tile, inside = divmod(level, _BITS)
        first = index << inside
        start = first % TILE
        data = self._tile(tile, first // TILE, start + (1 << inside))
        return fold(_split(data[start * HASH_BYTES : (start + (1 << inside)) * HASH_BYTES]))

    def _tile(self, level: int, index: int, count: int) -> bytes:
        """A tile that holds at least `count` hashes."""
        key = (level, index)
        data = self._kept.get(key)
        if data is None or len(data) < count * HASH_BYTES:
            data = self._get(level, index)
            if len(data) < count * HASH_BYTES:
                held = len(data) // HASH_BYTES
                raise ProofError(f"tile {index} of level {level} holds {held} hashes, {count} are needed")
            self._kept[key] = data
        self._kept.move_to_end(key)
        if len(self._kept) > _CACHED:
            self._kept.popitem(last=False)
        return data


def tile_root(data: bytes) -> bytes:
    """The root of a complete tile: its entry in the tile above. ProofError unless it has 256 hashes."""
    if len(data) != TILE_BYTES:
        raise ProofError(f"a complete tile has {TILE_BYTES} bytes, not {len(data)}")
    return fold(_split(data))


def full_tiles(old_size: int, new_leaf_hashes: Iterable[bytes], get: Get) -> Iterator[tuple[int, int, bytes]]:
    """The tiles that become complete when leaf hashes are appended to a tree of `old_size` leaves.

    `get(level, index)` returns the partial last tile of a level as it was before; it is asked only where there was one.
    Yields (level, index, 8192 bytes), level by level and in order; a tile comes after all tiles below it. What remains
    of `new_leaf_hashes` in partial tiles is the caller's to keep. ProofError if a partial tile is too short.
    """
    count = old_size
    fresh = list(new_leaf_hashes)
    level = 0
    while fresh:
        index, width = divmod(count, TILE)
        before = get(level, index)[: width * HASH_BYTES] if width else b""
        if len(before) != width * HASH_BYTES:
            held = len(before) // HASH_BYTES
            raise ProofError(f"tile {index} of level {level} holds {held} hashes, {width} are needed")
        data = before + b"".join(fresh)
        above = []
        for start in range(0, len(data) - TILE_BYTES + 1, TILE_BYTES):
            tile = data[start : start + TILE_BYTES]
            yield level, index, tile
            above.append(tile_root(tile))
            index += 1
        count //= TILE
        fresh = above
        level += 1


def _split(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
