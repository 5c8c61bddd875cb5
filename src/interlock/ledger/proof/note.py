"""Signed notes (C2SP signed-note): a text, a blank line, and one line for each signature.

    — <key name> <base64 of (4-byte key hash || signature)>

The key hash is the first four bytes of SHA-256(name || 0x0A || algorithm || public key). A verifier key is written
`<name>+<key hash in hex>+<base64 of (algorithm || public key)>`. The algorithm is one byte; Ed25519 is 0x01, and others
may be added to `ALGORITHMS`.

Several keys may sign a note, so that a key can be changed: for a while both the old and the new one sign.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interlock.ledger.proof.errors import ProofError

ED25519 = 0x01
NOTE_BYTES_MAX = 1 << 20
SIGNATURES_MAX = 64
NAME_BYTES_MAX = 255

_DASH = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_HEX8 = re.compile(r"[0-9a-f]{8}")


class Verifier(Protocol):
    """What checks one key's signatures."""

    @property
    def name(self) -> str:
        """Name of the key, as its signature lines have it."""

    @property
    def hash(self) -> bytes:
        """The four bytes that tell keys of one name apart."""

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`. Never raises for hostile input."""


class Signer(Protocol):
    """What signs with one key; the key itself may lie in other hardware."""

    @property
    def name(self) -> str:
        """Name of the key."""

    @property
    def algorithm(self) -> int:
        """The algorithm's byte."""

    @property
    def public_key(self) -> bytes:
        """The public key as the algorithm writes it; 32 bytes for Ed25519."""

    def sign(self, message: bytes) -> bytes:
        """The signature; 64 bytes for Ed25519."""


class Algorithm(NamedTuple):
    """One kind of signature: lengths of keys and signatures in bytes, and verify(public key, message, signature)."""

    public_key_bytes: int
    signature_bytes: int
    verify: Callable[[bytes, bytes, bytes], bool]


def _verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


ALGORITHMS: dict[int, Algorithm] = {ED25519: Algorithm(32, 64, _verify_ed25519)}
"""The algorithms this version verifies, by their byte."""


class VerifierKey(NamedTuple):
    """A public key with its name. Make it with `parse` or `of`, which check it."""

    name: str
    algorithm: int
    public_key: bytes

    @classmethod
    def of(cls, name: str, algorithm: int, public_key: bytes) -> VerifierKey:
        """The key of these parts. ProofError for a bad name, an unknown algorithm or a key of the wrong length."""
        check_name(name)
        known = ALGORITHMS.get(algorithm)
        if known is None:
            raise ProofError(f"signatures of algorithm {algorithm} are not known to this version")
        if len(public_key) != known.public_key_bytes:
            raise ProofError(f"a public key of algorithm {algorithm} has {known.public_key_bytes} bytes")
        return cls(name, algorithm, public_key)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key of a verifier key text; blanks around it are allowed. ProofError if it is not one."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not _HEX8.fullmatch(parts[1]):
            raise ProofError("a verifier key is written <name>+<8 hex digits>+<base64>")
        data = decode_base64(parts[2])
        key = cls.of(parts[0], data[0], data[1:])
        if key.hash.hex() != parts[1]:
            raise ProofError(f"the hash of the verifier key {key.name} is {key.hash.hex()}, not {parts[1]}")
        return key

    @property
    def text(self) -> str:
        """The verifier key text."""
        return f"{self.name}+{self.hash.hex()}+{encode_base64(bytes([self.algorithm]) + self.public_key)}"

    @property
    def hash(self) -> bytes:
        """The key hash, four bytes."""
        return key_hash(self.name, self.algorithm, self.public_key)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        known = ALGORITHMS[self.algorithm]
        return len(signature) == known.signature_bytes and known.verify(self.public_key, message, signature)


class Ed25519Signer:
    """Signs with an Ed25519 key: its name and the 32 bytes of its seed. ProofError if either is malformed."""

    algorithm = ED25519

    def __init__(self, name: str, private_key: bytes) -> None:
        if len(private_key) != 32:
            raise ProofError("an Ed25519 private key has 32 bytes")
        self.name = check_name(name)
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def verifier_key(self) -> VerifierKey:
        """The public side, to be given to auditors."""
        return VerifierKey.of(self.name, self.algorithm, self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`, 64 bytes; always the same for the same message."""
        return self._key.sign(message)


def key_hash(name: str, algorithm: int, public_key: bytes) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public_key).digest()[:4]


def check_name(name: str) -> str:
    """The name again. ProofError unless it has 1 to 255 bytes of UTF-8, no space, no control character and no `+`."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ProofError("a name is not valid Unicode") from None
    if not 0 < length <= NAME_BYTES_MAX:
        raise ProofError(f"a name has 1 to {NAME_BYTES_MAX} bytes")
    if "+" in name or _CONTROL.search(name) or any(each.isspace() for each in name):
        raise ProofError("a name has no spaces, control characters or plus signs")
    return name


def sign_note(text: str, signers: Sequence[Signer]) -> str:
    """The note of `text`, signed by each. The text ends with a newline. ProofError if it cannot be a note's text."""
    if not signers:
        raise ProofError("a note needs a signature")
    message = _message(text)
    lines = []
    for signer in signers:
        hash_ = key_hash(check_name(signer.name), signer.algorithm, signer.public_key)
        lines.append(f"{_DASH}{signer.name} {encode_base64(hash_ + signer.sign(message))}\n")
    return f"{text}\n{''.join(lines)}"


def open_note(note: str, keys: Sequence[Verifier]) -> str:
    """The text of a note that a trusted key signed.

    Signatures of keys not in `keys` are ignored. ProofError if the note is malformed, if none of `keys` signed it, or
    if a signature that names one of `keys` is wrong.
    """
    text, signatures = split_note(note)
    message = _message(text)
    trusted = {(key.name, key.hash): key for key in keys}
    verified = False
    for name, hash_, signature in signatures:
        key = trusted.get((name, hash_))
        if key is None:
            continue
        if not key.verify(message, signature):
            raise ProofError(f"the signature of {name} is wrong")
        verified = True
    if not verified:
        raise ProofError("no trusted key signed it")
    return text


def split_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note, and (key name, key hash, signature) of each signature line. Nothing is verified.

    ProofError if it is malformed.
    """
    if len(note) > NOTE_BYTES_MAX:
        raise ProofError(f"a note has at most {NOTE_BYTES_MAX} bytes")
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise ProofError("a note is a text, a blank line and signature lines, each with a newline at its end")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise ProofError(f"a note has at most {SIGNATURES_MAX} signatures")
    _message(text + "\n")
    return text + "\n", [_signature(line) for line in lines]


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """The bytes of a text that is exactly how `encode_base64` writes them, and not empty. ProofError otherwise."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ProofError("not base64") from None
    if not data or encode_base64(data) != text:
        raise ProofError("not canonical base64")
    return data


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_DASH).rpartition(" ")
    if not line.startswith(_DASH) or not space:
        raise ProofError("a signature line is an em dash, a space, a key name, a space and base64")
    data = decode_base64(encoded)
    if len(data) < 5:
        raise ProofError("a signature is too short")
    return check_name(name), data[:4], data[4:]


def _message(text: str) -> bytes:
    """The bytes that are signed."""
    if not text.endswith("\n") or len(text) < 2:
        raise ProofError("the text of a note is not empty and ends with a newline")
    if _CONTROL.search(text):
        raise ProofError("the text of a note has no control characters but newlines")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ProofError("the text of a note is not valid Unicode") from None
