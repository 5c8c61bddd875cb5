"""Changing the key that the ledger is signed with.

One transaction, while nobody works on any tree: every tree is signed as it is by the old key and the new one, both sign
the statement of the change, and from its commit on only the new key signs. The new key is in its file before.
"""

from __future__ import annotations

import contextlib

import msgspec

from interlock.control.keyring import Keyring
from interlock.control.sequencer import change_over
from interlock.control.services.base import Tools
from interlock.errors import InterlockError
from interlock.ledger.proof.note import sign_note
from interlock.ledger.proof.rotation import Rotation
from interlock.storage import changes, roles, rotations, sequencing
from interlock.storage.changes import Author, Change
from interlock.storage.pool import Store, away


class Rotated(msgspec.Struct, frozen=True):
    """A change of keys. `old`, `new`: verifier keys. `file`: name of the new private key's file, beside the old one's
    on the machine that did it. `trees` were signed by both. `statement`: the note that says so."""

    old: str
    new: str
    at_ns: int
    file: str
    trees: int
    statement: str


def rotate(store: Store, tools: Tools, keyring: Keyring, by: Author) -> Rotated:
    """Make a new key and let it take over. `by` must have a reason.

    Raises BadRequest, ConfigError (the file cannot be written), Unavailable (this machine does not have the key that
    signs now), StoreError; the old key signs on then, unless the database went away during the commit.
    """
    made, path = keyring.make(tools.random)
    try:
        return _rotate(store, tools, keyring, by, made.verifier_key.text, path.name)
    except InterlockError as e:
        if not away(e):  # else it may have been committed
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _rotate(store: Store, tools: Tools, keyring: Keyring, by: Author, new_key: str, file: str) -> Rotated:
    with store.sequencing() as conn:
        rotations.hold(conn)
        old, new = keyring.current(conn), keyring.signer(new_key)
        assert new is not None  # noqa: S101 - its file was written
        done = rotations.everything(conn)
        trees = sequencing.trees(conn)
        at_ns = max([tools.clock.wall_ns(), *(tree.checkpoint_ns for tree in trees)]) + 1
        before, after = {"key": old.verifier_key.text}, {"key": new_key, "at_ns": at_ns}
        roles.take(conn, roles.PLATFORM)
        changes.record(conn, Change("", "ledger.rotate_key", "ledger", "", before, after), by)
        roles.take(conn, roles.SEQUENCER)
        for tree in trees:
            change_over(conn, tree, tools.settings, [old, new], at_ns)
        rotation = Rotation(tools.settings.ledger_name, old.verifier_key, new.verifier_key, at_ns)
        statement = sign_note(rotation.text(), [old, new])
        row = rotations.RotationRow(len(done) + 1, at_ns, old.verifier_key.text, new_key, statement)
        rotations.put(conn, row)
    return Rotated(row.old_key, new_key, at_ns, file, len(trees), statement)
