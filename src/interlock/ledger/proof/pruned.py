"""The signed statement that the text of a tree's first entries was removed on purpose, as retention of entries does.

<origin>
pruned 0 <to>
<root of the first `to` entries, base64>
at <Unix ns>
state <SHA-256 of the state bytes, base64>
reason <text>

It is signed as a note, as checkpoints are; its second line is no size, so that neither can be taken for the other. The
*state* is what a verifier needs to go on behind the entries that are gone, from the last checkpoint among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

from interlock.ledger.proof.coverage import Count, EpochId, Hex32, Name
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import HASH_BYTES, SIZE_MAX
from interlock.ledger.proof.note import check_name, decode_base64, encode_base64

REASON_CHARS_MAX = 200
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_ENCODER = msgspec.json.Encoder(order="sorted")


class Pruned(msgspec.Struct, frozen=True):
    """The entries [0, to) have lost their text. `root` is that of these, `at` (Unix ns) when it was said, `state` the
    SHA-256 of the state bytes."""

    origin: str
    to: int
    root: bytes
    at: int
    state: bytes
    reason: str

    def text(self) -> str:
        """The text that is signed. ProofError if a field cannot be written."""
        check_name(self.origin)
        if not (0 < self.to <= SIZE_MAX and 0 <= self.at <= SIZE_MAX):
            raise ProofError("a pruned range ends, and was pruned, from 1 to 2^63 - 1")
        if len(self.root) != HASH_BYTES or len(self.state) != HASH_BYTES:
            raise ProofError(f"the root and the state of a pruned range have {HASH_BYTES} bytes")
        if not (self.reason.isprintable() and 0 < len(self.reason) <= REASON_CHARS_MAX):
            raise ProofError(f"the reason for pruning has 1 to {REASON_CHARS_MAX} printable characters")
        return (
            f"{self.origin}\npruned 0 {self.to}\n{encode_base64(self.root)}\nat {self.at}\n"
            f"state {encode_base64(self.state)}\nreason {self.reason}\n"
        )


class PrunedState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of the pruned range: `start` is the size of the last checkpoint in it (0: there is none), `hashes`
    the complete subtrees over [start, to), `counts` the `n` at `to` of each epoch not settled by that checkpoint."""

    tree: Name
    start: Count
    to: Count
    hashes: Annotated[list[Hex32], msgspec.Meta(max_length=128)]
    counts: dict[EpochId, Count]
    v: int = 1

    def encode(self) -> bytes:
        """Canonical JSON."""
        return _ENCODER.encode(self)

    def roots(self) -> list[tuple[int, bytes]]:
        """(level, root) of the subtrees over [start, to). ProofError if there are not as many as there must be."""
        levels = [level for level, _ in spans(self.start, self.to)]
        if len(levels) != len(self.hashes):
            raise ProofError(f"has {len(self.hashes)} hashes of its range, not {len(levels)}")
        return [(level, bytes.fromhex(each)) for level, each in zip(levels, self.hashes, strict=True)]

    @staticmethod
    def decode(data: bytes) -> PrunedState:
        """ProofError if it is not the canonical JSON of a state."""
        try:
            made = msgspec.json.decode(data, type=PrunedState, strict=True)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProofError(str(error)[:200]) from None
        if made.v != 1 or made.start > made.to or made.encode() != data:
            raise ProofError("is not the state of a pruned range")
        return made


def parse(text: str) -> Pruned:
    """The statement of exactly such a text. ProofError otherwise."""
    lines = text.split("\n")
    if len(lines) != 7 or lines[6]:
        raise ProofError("a statement of pruning has six lines")
    origin, extent, root, at, state, reason, _ = lines
    marks = ((extent, "pruned 0 "), (at, "at "), (state, "state "), (reason, "reason "))
    if not all(line.startswith(mark) for line, mark in marks):
        raise ProofError("the lines of a statement of pruning are pruned, a root, at, state and reason")
    made = Pruned(
        origin=check_name(origin),
        to=_decimal(extent[9:]),
        root=decode_base64(root),
        at=_decimal(at[3:]),
        state=decode_base64(state[6:]),
        reason=reason[7:],
    )
    if made.text() != text:
        raise ProofError("a statement of pruning is not written as it must be")
    return made


def spans(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the largest complete subtrees over the leaves [start, end), in order."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def _decimal(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > SIZE_MAX:
        raise ProofError("not a number from 0 to 2^63 - 1 without leading zeros")
    return int(text)
