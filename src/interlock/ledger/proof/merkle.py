"""The Merkle tree of RFC 9162, section 2.1: hashes, compact ranges, proofs of inclusion and of consistency.

A hash has 32 bytes. A leaf is hashed as SHA-256(0x00 || leaf), an inner node as SHA-256(0x01 || left || right), and the
root of the empty tree is SHA-256 of nothing. A tree of n leaves splits at the largest power of two below n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from interlock.ledger.proof.errors import ProofError

HASH_BYTES = 32
SIZE_MAX = (1 << 63) - 1
"""Most leaves of a tree."""

Node = Callable[[int, int], bytes]
"""node(level, index): the hash of the complete subtree over the leaves [index << level, (index + 1) << level)."""

_sha256 = hashlib.sha256
_leaf_begun = _sha256(b"\x00").copy

EMPTY_ROOT = _sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, 32 bytes."""
    return _sha256(b"\x00" + leaf).digest()


def leaf_hashes(lines: bytes) -> list[bytes]:
    """The hashes of leaves that end with a newline each, which is none of theirs. No leaf is copied."""
    view, find, begun = memoryview(lines), lines.find, 0
    hashes = []
    while (end := find(b"\n", begun)) >= 0:
        leaf = _leaf_begun()
        leaf.update(view[begun:end])
        hashes.append(leaf.digest())
        begun = end + 1
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node, 32 bytes."""
    return _sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes that are a power of two in number: a complete subtree, level by level."""
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [_sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return hashes[0]


def subtrees(start: int, hashes: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Leaf hashes that follow a tree of `start` leaves as the largest complete subtrees: (level, root) in order."""
    roots = []
    done, end = 0, len(hashes)
    while done < end:
        level = (end - done).bit_length() - 1
        place = start + done
        if place:
            level = min(level, (place & -place).bit_length() - 1)
        roots.append((level, fold(hashes[done : done + (1 << level)])))
        done += 1 << level
    return roots


class CompactRange:
    """The roots of the complete subtrees that make up a growing tree: O(log size) memory.

    `size` is the number of leaves, `hashes` the roots, largest subtree first; there are as many as `size` has bits set.
    """

    __slots__ = ("hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self.hashes: list[bytes] = []

    @classmethod
    def of(cls, size: int, hashes: Sequence[bytes]) -> CompactRange:
        """The range of a tree of `size` leaves. ProofError unless number and lengths of the hashes are right."""
        if not 0 <= size <= SIZE_MAX:
            raise ProofError(f"a tree cannot have {size} leaves")
        if len(hashes) != size.bit_count():
            raise ProofError(f"a tree of {size} leaves has {size.bit_count()} subtree hashes, not {len(hashes)}")
        if any(len(each) != HASH_BYTES for each in hashes):
            raise ProofError(f"a subtree hash does not have {HASH_BYTES} bytes")
        made = cls()
        made.size = size
        made.hashes = list(hashes)
        return made

    def append(self, hash_: bytes) -> None:
        """Add one leaf hash."""
        self._push(hash_, 0)

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Add leaf hashes in order. The same as appending each; whole subtrees are hashed at once."""
        self.add(subtrees(self.size, hashes))

    def add(self, roots: Iterable[tuple[int, bytes]]) -> None:
        """Add complete subtrees as `subtrees` gives them for the present size."""
        for level, hash_ in roots:
            self._push(hash_, level)

    def root(self) -> bytes:
        """The root of the tree so far."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def _push(self, hash_: bytes, level: int) -> None:
        """Add the root of a complete subtree of 2^level leaves; `size` is a multiple of 2^level."""
        hashes, carry = self.hashes, self.size >> level
        while carry & 1:
            hash_ = node_hash(hashes.pop(), hash_)
            carry >>= 1
        hashes.append(hash_)
        self.size += 1 << level


def root_of(hashes: Iterable[bytes]) -> bytes:
    """The root of the tree over these leaf hashes."""
    made = CompactRange()
    made.extend(list(hashes))
    return made.root()


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves, from the leaf up (RFC 9162, 2.1.3.1).

    ProofError unless 0 <= index < size.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise ProofError(f"a tree of {size} leaves has no leaf {index}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_subtree(middle, end, node))
            end = middle
        else:
            path.append(_subtree(start, middle, node))
            start = middle
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that the leaf *hash* `leaf` is at `index` in the tree of `root` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= SIZE_MAX or not _are_hashes([leaf, root, *proof]):
        return False
    place, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(each, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, each)
        place >>= 1
        last >>= 1
    return last == 0 and found == root


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the tree of `old` leaves is the beginning of the tree of `new` leaves (RFC 9162, 2.1.4.1).

    It is empty when old is 0 or equal to new. ProofError unless 0 <= old <= new.
    """
    if not 0 <= old <= new <= SIZE_MAX:
        raise ProofError(f"a tree of {old} leaves is not the beginning of one of {new}")
    if old in {0, new}:
        return []
    path = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_subtree(middle, end, node))
            end = middle
        else:
            path.append(_subtree(start, middle, node))
            start = middle
    if start:
        path.append(_subtree(start, end, node))
    path.reverse()
    return path


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree `old`, `old_root` is the beginning of `new`, `new_root` (RFC 9162, 2.1.4.2).

    An empty tree is the beginning of every tree, by an empty proof; its root must be `EMPTY_ROOT`.
    """
    if not 0 <= old <= new <= SIZE_MAX or not _are_hashes([old_root, new_root, *proof]):
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT and (new > 0 or new_root == EMPTY_ROOT)
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if not old & (old - 1):
        path.insert(0, old_root)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    found_old = found_new = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            found_old = node_hash(each, found_old)
            found_new = node_hash(each, found_new)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found_new = node_hash(found_new, each)
        place >>= 1
        last >>= 1
    return last == 0 and found_old == old_root and found_new == new_root


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _subtree(start: int, end: int, node: Node) -> bytes:
    """The hash over the leaves [start, end); start is a multiple of a power of two that is at least end - start."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(node(level, start >> level))
        start += 1 << level
    found = parts.pop()
    while parts:
        found = node_hash(parts.pop(), found)
    return found


def _are_hashes(values: Sequence[bytes]) -> bool:
    return all(len(each) == HASH_BYTES for each in values)
