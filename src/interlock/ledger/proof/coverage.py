"""What a checkpoint covers: which epochs have entries in the tree, how many, and until when they are all there.

The coverage of a tree is canonical JSON. Epochs that are finished leave it for the *settled chain*: one line each,
hashed one after another, so that the coverage stays small and no epoch can be taken back.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec

from interlock.ledger.proof.errors import ProofError

EPOCH_CHARS = 16
SETTLED_START = bytes(32)
"""The digest of a settled chain without lines."""

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Ns = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
EpochId = Annotated[str, msgspec.Meta(min_length=EPOCH_CHARS, max_length=EPOCH_CHARS)]
Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class OpenEpoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An epoch that is not settled.

    `n` counts its entries in this tree at this size. Each entry of it that was admitted before `watermark` (Unix ns) is
    in the tree. `damaged`: records of it cannot be read.
    `key`: what its receipts are signed with, Ed25519; it appears with the first records and stays.
    """

    epoch: EpochId
    node: Name
    n: Count
    watermark: Ns
    damaged: bool = False
    key: Hex32 | msgspec.UnsetType = msgspec.UNSET


class NodeSeen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node. Each epoch it began before `registered` (Unix ns) is in the coverage or settled.

    `retired`: an administrator's word that the node never comes back, and admits nothing from then on.
    """

    node: Name
    registered: Ns
    retired: Ns | msgspec.UnsetType = msgspec.UNSET


class SettledHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of the settled chain: how many lines it has, and their digest in hex."""

    count: Count
    digest: Hex32


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the settled chain: an epoch of which nothing more comes, with `n` entries in the tree.

    `state` "closed" or "recovered": these are all. "lost": what was admitted from `after` up to `until` (Unix ns) may
    be missing, because its node never came back. `key` as in an open epoch.
    """

    epoch: EpochId
    node: Name
    state: str
    n: Count
    damaged: bool = False
    after: Ns | msgspec.UnsetType = msgspec.UNSET
    until: Ns | msgspec.UnsetType = msgspec.UNSET
    key: Hex32 | msgspec.UnsetType = msgspec.UNSET

    @property
    def lost(self) -> tuple[int, int] | None:
        """Between which instants [after, until) entries may be missing; None when there is no such time."""
        if isinstance(self.after, int) and isinstance(self.until, int):
            return self.after, self.until
        return None

    def encode(self) -> bytes:
        """Canonical JSON, one line, without a newline."""
        return _ENCODER.encode(self)

    @staticmethod
    def decode(line: bytes) -> Settled:
        """The line of exactly such bytes. ProofError otherwise."""
        made = _decode(_SETTLED, line, "a settled line")
        if made.state not in {"closed", "recovered", "lost"}:
            raise ProofError("a settled epoch is closed, recovered or lost")
        given = (made.after is not msgspec.UNSET, made.until is not msgspec.UNSET)
        if given != (made.state == "lost",) * 2 or (made.lost is not None and made.lost[0] >= made.lost[1]):
            raise ProofError("a lost epoch, and no other, says between which instants entries may be missing")
        return made


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The coverage of a tree at one checkpoint. `epochs` and `nodes` are sorted and hold each name once."""

    tree: Name
    at: Ns
    settled: SettledHead
    epochs: tuple[OpenEpoch, ...]
    nodes: tuple[NodeSeen, ...]
    v: int = 1

    def encode(self) -> bytes:
        """Canonical JSON: the bytes whose SHA-256 the checkpoint holds. ProofError if a list is not sorted."""
        self._check()
        return _ENCODER.encode(self)

    @staticmethod
    def decode(data: bytes) -> Coverage:
        """The coverage of exactly such bytes. ProofError otherwise."""
        made = _decode(_COVERAGE, data, "a coverage")
        made._check()
        return made

    def _check(self) -> None:
        if self.v != 1:
            raise ProofError(f"coverage format {self.v} is not known to this version")
        epochs = [each.epoch for each in self.epochs]
        nodes = [each.node for each in self.nodes]
        if any(later <= earlier for names in (epochs, nodes) for earlier, later in pairwise(names)):
            raise ProofError("the epochs and nodes of a coverage are sorted, each once")


_ENCODER = msgspec.json.Encoder(order="sorted")
_COVERAGE = msgspec.json.Decoder(Coverage, strict=True)
_SETTLED = msgspec.json.Decoder(Settled, strict=True)

_T = TypeVar("_T")


def settled_digest(previous: bytes, line: bytes) -> bytes:
    """The digest of the settled chain after one more line; `SETTLED_START` is the first `previous`. 32 bytes."""
    return hashlib.sha256(previous + line).digest()


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    try:
        made = decoder.decode(data)
        same = _ENCODER.encode(made) == data
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProofError(f"not {what}: {str(error)[:200]}") from None
    if not same:
        raise ProofError(f"{what} is not written as canonical JSON")
    return made
