"""A change of the signing key: a statement (a C2SP signed note) that the old and the new key both sign.

interlock-key-rotation/v1
<name of the ledger>
old <verifier key>
new <verifier key>
at <Unix ns>

It is of a whole ledger. Of each tree there is a *change-over checkpoint* besides, made at that instant and signed by
both keys too: what the tree was when the old key signed for the last time.
"""

from __future__ import annotations

import re

import msgspec

from interlock.ledger.proof import checkpoint
from interlock.ledger.proof.checkpoint import Checkpoint
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.merkle import SIZE_MAX
from interlock.ledger.proof.note import VerifierKey, check_name, open_note, split_note

FORMAT = "interlock-key-rotation/v1"
LINE_BYTES_MAX = 1 << 16
ROTATIONS_MAX = 1000
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


class Rotation(msgspec.Struct, frozen=True):
    """The keys of `ledger` change from `old` to `new` at `at` (Unix ns): after it `old` signs nothing more."""

    ledger: str
    old: VerifierKey
    new: VerifierKey
    at: int

    def text(self) -> str:
        """The text that both keys sign. ProofError if a field cannot be written."""
        check_name(self.ledger)
        if not 0 <= self.at <= SIZE_MAX:
            raise ProofError("the time of a change of keys is from 0 to 2^63 - 1")
        return f"{FORMAT}\n{self.ledger}\nold {self.old.text}\nnew {self.new.text}\nat {self.at}\n"


class Told(msgspec.Struct, frozen=True):
    """A rotation with the change-over checkpoint of one tree; None for a tree that began later."""

    rotation: Rotation
    head: Checkpoint | None


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of an export's rotations.jsonl: two notes."""

    statement: str
    head: str | None


def open_rotation(note: str) -> Rotation:
    """The rotation of a statement whose two signatures hold. It says nothing of whether either key is to be trusted.

    ProofError for anything else, one that lacks a signature or has a wrong one included.
    """
    lines = split_note(note)[0].split("\n")
    if len(lines) != 6 or lines[5] or lines[0] != FORMAT:
        raise ProofError("not the statement of a change of keys")
    _, ledger, old, new, at, _ = lines
    if not (old.startswith("old ") and new.startswith("new ") and at.startswith("at ")):
        raise ProofError("the lines of a change of keys begin with old, new and at")
    if not _DECIMAL.fullmatch(at[3:]) or int(at[3:]) > SIZE_MAX:
        raise ProofError("the time of a change of keys is a number from 0 to 2^63 - 1")
    made = Rotation(check_name(ledger), VerifierKey.parse(old[4:]), VerifierKey.parse(new[4:]), int(at[3:]))
    if made.old == made.new:
        raise ProofError("a change of keys names two different ones")
    if made.text() != "\n".join(lines):
        raise ProofError("not written as a change of keys is written")
    for key in (made.old, made.new):
        open_note(note, [key])
    return made


def open_told(line: bytes) -> Told:
    """A line of rotations.jsonl. ProofError if a signature is wrong or missing, or the two notes do not go together."""
    try:
        given = msgspec.json.decode(line, type=Line, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProofError(str(error)[:200]) from None
    rotation = open_rotation(given.statement)
    if given.head is None:
        return Told(rotation, None)
    for key in (rotation.old, rotation.new):
        open_note(given.head, [key])
    head = checkpoint.parse(split_note(given.head)[0])
    if head.at != rotation.at:
        raise ProofError("the checkpoint of the change-over is of another time than the statement")
    if not head.origin.startswith(f"{rotation.ledger}/"):
        raise ProofError(f"the checkpoint of the change-over is of {head.origin}, the statement of {rotation.ledger}")
    return Told(rotation, head)
