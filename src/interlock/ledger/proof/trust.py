"""Which keys may have signed a checkpoint: those that the auditor trusts, and what follows from changes of keys.

From a trusted key on, each change leads to the next key, whom the trusted one vouched for. From a trusted key back,
each leads to the one before, for the time until the change: the trusted one vouched for that. Never back and then on:
whoever stole an old key can sign a change from it to a key of theirs, but none that a trusted successor has signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from interlock.ledger.proof.checkpoint import Checkpoint, parse
from interlock.ledger.proof.errors import ProofError
from interlock.ledger.proof.findings import Findings, KeyMet, instant
from interlock.ledger.proof.note import Verifier, VerifierKey, split_note
from interlock.ledger.proof.rotation import Rotation, Told


class Trust:
    """Opens checkpoints. Without `keys` it believes every one and checks no signature.

    `told` are the changes of keys that the export tells of. What is wrong with them goes to `findings`.
    """

    def __init__(self, keys: Sequence[Verifier], told: Sequence[Told], findings: Findings) -> None:
        self._unchecked = not keys
        self._given = list(keys)
        named = [key for key in keys if isinstance(key, VerifierKey)]
        on = _reached(named, told, lambda each: (each.old, each.new))
        back = _reached(named, told, lambda each: (each.new, each.old))
        chain = {*on, *back}
        self._known: list[Verifier] = [*self._given, *(key for key in chain if key not in named)]
        self._replaced: dict[VerifierKey, Told] = {}
        self._met: dict[VerifierKey, None] = {}
        self.last_is_old = False
        """Whether the checkpoint opened last was signed by a replaced key alone."""
        for each in told:
            self._take(each, chain, findings)

    @property
    def met(self) -> list[KeyMet]:
        """The keys that signed what was opened, in the order in which they were met."""
        return [
            KeyMet(key.text, self._replaced[key].rotation.at if key in self._replaced else None) for key in self._met
        ]

    @property
    def heads(self) -> list[Checkpoint]:
        """The change-over checkpoints of this tree by keys that count."""
        return [each.head for each in self._replaced.values() if each.head is not None]

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note that a key signed which might at that time. ProofError otherwise."""
        text, signers = self._signers(note)
        made = parse(text)
        if self._unchecked:
            return made
        live = [each for each in signers if self._may(each, made)]
        if not live:
            old = next(each for each in signers if isinstance(each, VerifierKey) and each in self._replaced)
            at = self._replaced[old].rotation.at
            raise ProofError(f"the key {_short(old)} was replaced at {instant(at)}, and signed it alone after that")
        self.last_is_old = all(isinstance(each, VerifierKey) and each in self._replaced for each in live)
        if self.last_is_old:
            for each in live:
                assert isinstance(each, VerifierKey)  # noqa: S101 - only these are replaced
                self._before_change_over(made, each)
        for each in live:
            if isinstance(each, VerifierKey):
                self._met.setdefault(each)
        return made

    def statement(self, note: str, at: Callable[[str], int]) -> str:
        """The text of a note that is no checkpoint, signed by a key that might at the instant that the text names.
        ProofError otherwise."""
        text, signers = self._signers(note)
        if not self._unchecked:
            instant_ns = at(text)
            replaced = [self._replaced.get(key) if isinstance(key, VerifierKey) else None for key in signers]
            if not any(told is None or instant_ns <= told.rotation.at for told in replaced):
                raise ProofError("it was signed by a key that had been replaced before")
        return text

    def kept(self, note: str) -> Checkpoint:
        """The checkpoint of a note that the auditor kept: any key that counts may have signed it. ProofError otherwise.

        A checkpoint that should not be is compared with the tree all the same: that is how it is found out.
        """
        return parse(self._signers(note)[0])

    def _may(self, key: Verifier, made: Checkpoint) -> bool:
        told = self._replaced.get(key) if isinstance(key, VerifierKey) else None
        return told is None or made.at <= told.rotation.at

    def _before_change_over(self, made: Checkpoint, key: VerifierKey) -> None:
        """INVARIANT: what a replaced key alone has signed lies before the tree that it handed over."""
        head = self._replaced[key].head
        if head is None:
            raise ProofError(
                f"the key {_short(key)} was replaced, but the export lacks this tree's checkpoint of the change-over"
            )
        if head.origin != made.origin:
            raise ProofError(f"the checkpoint of the change-over is of {head.origin}, not of {made.origin}")
        if made.size > head.size or (made.size == head.size and made.root != head.root):
            raise ProofError(f"it does not fit before the checkpoint with which the key {_short(key)} was replaced")

    def _signers(self, note: str) -> tuple[str, list[Verifier]]:
        """The text, and the keys that count which signed it. ProofError if there is none, or if one did not."""
        text, signatures = split_note(note)
        if self._unchecked:
            return text, []
        message = text.encode()
        signers: list[Verifier] = []
        for name, hash_, signature in signatures:
            candidates = [key for key in self._known if (key.name, key.hash) == (name, hash_)]
            right = [key for key in candidates if key.verify(message, signature)]
            if candidates and not right:
                raise ProofError(f"the signature of {name} is wrong")
            signers += right
        if not signers:
            raise ProofError("no trusted key signed it")
        return text, signers

    def _take(self, told: Told, chain: set[VerifierKey], findings: Findings) -> None:
        each = told.rotation
        if each.old not in chain and each.new not in chain:
            if not self._unchecked:
                findings.remark(f"{_short(each.old)} was replaced by {_short(each.new)}: you trust neither")
            return
        before = self._replaced.setdefault(each.old, told)
        if before.rotation != each:
            findings.altered(
                f"the key {_short(each.old)} was replaced twice: at {instant(before.rotation.at)} by "
                f"{_short(before.rotation.new)}, and at {instant(each.at)} by {_short(each.new)}"
            )


def _reached(
    keys: Sequence[VerifierKey],
    told: Sequence[Told],
    way: Callable[[Rotation], tuple[VerifierKey, VerifierKey]],
) -> set[VerifierKey]:
    """The keys that changes lead to from these, one way only."""
    found, before = set(keys), -1
    while len(found) > before:
        before = len(found)
        found |= {way(each.rotation)[1] for each in told if way(each.rotation)[0] in found}
    return found


def _short(key: VerifierKey) -> str:
    return f"{key.name}+{key.hash.hex()}"
