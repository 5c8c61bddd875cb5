"""The keys that the ledger is signed with: which one signs now is in the database, private keys are in files.

The first one is in the file that the settings name; each later one beside it, with its hash as an ending. A machine
that lacks the file of the key that signs now signs nothing: others do, or it waits until the file is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import Connection

from interlock.control.secrets import write_secret
from interlock.errors import ConfigError, Unavailable
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.note import Ed25519Signer, VerifierKey
from interlock.settings import Settings
from interlock.storage import rotations
from interlock.storage.ledger_keys import read_key


def ledger_signer(settings: Settings) -> Ed25519Signer:
    """What signs the ledger's checkpoints as long as the key was never changed. Raises ConfigError."""
    return _read(settings.ledger_signing_key_path(), settings.ledger_name)


class Keyring:
    """The signing keys of a home. Threads may share one. `first`: what signs as long as the key was never changed, if
    it was read already."""

    def __init__(self, settings: Settings, first: Ed25519Signer | None = None) -> None:
        self._settings = settings
        self._first = first
        self._base = settings.ledger_signing_key_path()
        self._read: dict[str, Ed25519Signer] = {}

    def signer(self, key: str) -> Ed25519Signer | None:
        """What signs as this verifier key; None when this machine has no file of it."""
        known = self._read.get(key)
        if known is not None:
            return known
        wanted = VerifierKey.parse(key)
        for path in (self._path(wanted), self._base):
            try:
                found = _read(path, wanted.name)
            except ConfigError:
                continue
            if found.verifier_key == wanted:
                return self._read.setdefault(key, found)
        return None

    def current(self, conn: Connection[Any]) -> Ed25519Signer:
        """What signs now. Raises ConfigError, Unavailable when this machine does not have it."""
        key = rotations.current(conn)
        found = self.signer(key) if key else self._before_any()
        if found is None:
            raise Unavailable(self.missing(key), code="signing_key_missing")
        return found

    def public(self, conn: Connection[Any]) -> list[str]:
        """Every verifier key that ever signed, the one of now first. Raises ConfigError."""
        made = rotations.everything(conn)
        if not made:
            return [self._before_any().verifier_key.text]
        return [*(each.new_key for each in reversed(made)), made[0].old_key]

    def make(self, random: Callable[[int], bytes]) -> tuple[Ed25519Signer, Path]:
        """A new key, in a file that only its owner may read. Raises ConfigError when it cannot be written."""
        seed = random(32)
        made = Ed25519Signer(self._settings.ledger_name, seed)
        path = self._path(made.verifier_key)
        write_secret(path, seed.hex() + "\n", replace=False)
        return made, path

    def missing(self, key: str) -> str:
        """The sentence for whoever looks after a machine that lacks a key's file."""
        name = self._path(VerifierKey.parse(key)).name
        return f"the ledger's signing key was changed, and this machine has no file {name}: copy it beside {self._base}"

    def _before_any(self) -> Ed25519Signer:
        self._first = self._first or ledger_signer(self._settings)
        return self._first

    def _path(self, key: VerifierKey) -> Path:
        return self._base.with_name(f"{self._base.name}.{key.hash.hex()}")


def _read(path: Path, name: str) -> Ed25519Signer:
    key = read_key(path, "the ledger's signing key")
    try:
        return Ed25519Signer(name, key)
    except ProofError as e:
        raise ConfigError(f"ledger_name: {e}", param="ledger_name") from None
