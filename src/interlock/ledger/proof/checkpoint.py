"""The text of a checkpoint (C2SP tlog-checkpoint): what the log says of a tree at one moment. It is signed as a note.

<origin>
<size>
<root, base64>
at <Unix ns>
coverage <SHA-256 of the coverage bytes, base64>
"""

from __future__ import annotations

import re

import msgspec

from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import EMPTY_ROOT, HASH_BYTES, SIZE_MAX
from interlock.ledger.proof.note import check_name, decode_base64, encode_base64

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree at one moment.

    `origin` names the log and the tree, `size` counts leaves, `root` is the 32-byte root hash, `at` is when it was made
    (Unix ns), `coverage` the SHA-256 of the coverage bytes that belong to it.
    """

    origin: str
    size: int
    root: bytes
    at: int
    coverage: bytes

    def text(self) -> str:
        """The text that is signed. ProofError if a field cannot be written."""
        check_name(self.origin)
        if not (0 <= self.size <= SIZE_MAX and 0 <= self.at <= SIZE_MAX):
            raise ProofError("the size and the time of a checkpoint are from 0 to 2^63 - 1")
        if len(self.root) != HASH_BYTES or len(self.coverage) != HASH_BYTES:
            raise ProofError(f"the root and the coverage of a checkpoint have {HASH_BYTES} bytes")
        return (
            f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"
            f"at {self.at}\ncoverage {encode_base64(self.coverage)}\n"
        )


def parse(text: str) -> Checkpoint:
    """The checkpoint of exactly such a text: five lines, no leading zeros, canonical base64. ProofError otherwise."""
    lines = text.split("\n")
    if len(lines) != 6 or lines[5]:
        raise ProofError("a checkpoint has five lines")
    origin, size, root, at, coverage, _ = lines
    if not at.startswith("at ") or not coverage.startswith("coverage "):
        raise ProofError("the fourth line of a checkpoint begins with at, the fifth with coverage")
    made = Checkpoint(
        origin=check_name(origin),
        size=_decimal(size),
        root=_hash(root),
        at=_decimal(at[3:]),
        coverage=_hash(coverage[9:]),
    )
    if made.size == 0 and made.root != EMPTY_ROOT:
        raise ProofError("the root of an empty tree is the SHA-256 of nothing")
    return made


def _decimal(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > SIZE_MAX:
        raise ProofError("not a number from 0 to 2^63 - 1 without leading zeros")
    return int(text)


def _hash(text: str) -> bytes:
    data = decode_base64(text)
    if len(data) != HASH_BYTES:
        raise ProofError(f"a hash has {HASH_BYTES} bytes")
    return data
