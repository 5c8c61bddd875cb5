"""A receipt: a worker's signed word to a caller that a call is on record. Whoever has it can show that an entry is
missing.

    <payload, base64url> . <Ed25519 signature, base64url> . <blind, base64url>

The signature is over "interlock-receipt/v1", a newline and the payload, canonical JSON. Its key is of the worker's
epoch; the coverage of every checkpoint names it. What was asked and answered is in it as HMAC-SHA256 under the blind,
32 random bytes that only the caller has: without that last part nothing can be guessed from a receipt.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interlock.ledger.proof.coverage import Hex32, Name, Ns
from interlock.ledger.proof.errors import ProofError

BLIND_BYTES = 32
RECEIPT_CHARS_MAX = 4096
"""Longest receipt read, characters."""
RECEIPTS_MAX = 1000
"""Most receipts that are held against one export."""
GUARD_NS = 1_000_000_000
"""How far an entry's instant may lie after that of its receipt: a clock that was set back between two samples."""
_CONTEXT = b"interlock-receipt/v1\n"
_NO_HASH = ""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a receipt says.

    `request` names epoch and call. `at`: when it was admitted, Unix ns, or later where the clock was set back. `body`
    and `answer`: commitments, hex; `answer` is there for a whole answer, not for a stream. `status`: HTTP.
    """

    request: Annotated[str, msgspec.Meta(pattern="^req_[0-9a-z]{16}_[0-9a-f]{1,16}$", max_length=64)]
    tenant: Name
    at: Ns
    operation: Name
    dialect: Name
    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    body: Hex32
    answer: str = _NO_HASH
    v: Literal[1] = 1

    @property
    def epoch(self) -> str:
        """The epoch whose worker took the call."""
        return self.request.split("_")[1]


class Signed(msgspec.Struct, frozen=True):
    """A receipt as it was handed over. `blind` is b"" where its holder left that out."""

    receipt: Receipt
    payload: bytes
    signature: bytes
    blind: bytes

    @staticmethod
    def parse(text: str) -> Signed:
        """Read a receipt. ProofError when it is not one; the signature is not checked here."""
        if len(text) > RECEIPT_CHARS_MAX:
            raise ProofError("is too long for a receipt")
        parts = text.strip().split(".")
        if len(parts) not in (2, 3):
            raise ProofError("is not a receipt: it has two parts, or three with the blind")
        payload, signature, *rest = (_unb64(part) for part in parts)
        try:
            receipt = _DECODER.decode(payload)
            same = _ENCODER.encode(_shown(receipt)) == payload
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProofError(f"is not a receipt: {str(error)[:200]}") from None
        if not same:
            raise ProofError("is not written as canonical JSON")
        if rest and len(rest[0]) != BLIND_BYTES:
            raise ProofError(f"has a blind that is not {BLIND_BYTES} bytes long")
        return Signed(receipt, payload, signature, rest[0] if rest else b"")

    def genuine(self, key: bytes) -> bool:
        """Whether the holder of this epoch's key signed it. `key`: 32 bytes, public."""
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, _CONTEXT + self.payload)
        except (InvalidSignature, ValueError):
            return False
        return True

    def is_of(self, *, body: bytes | None = None, answer: bytes | None = None) -> bool:
        """Whether the receipt is of this request body, and of this answer. ProofError where that cannot be told."""
        if not self.blind:
            raise ProofError("the receipt lacks its last part, without which nothing can be held against it")
        if answer is not None and not self.receipt.answer:
            raise ProofError("the answer was streamed or refused: the receipt says nothing of it")
        return (body is None or hmac.compare_digest(commit(self.blind, b"request", body), self.receipt.body)) and (
            answer is None or hmac.compare_digest(commit(self.blind, b"answer", answer), self.receipt.answer)
        )


def commit(blind: bytes, what: bytes, data: bytes) -> str:
    """The commitment to data, hex. `what`: b"request" or b"answer"."""
    made = hmac.new(blind, what + b"\n", "sha256")
    made.update(data)
    return made.hexdigest()


def issue(key: Ed25519PrivateKey, receipt: Receipt, blind: bytes) -> str:
    """The receipt, signed, as it is handed over."""
    payload = _ENCODER.encode(_shown(receipt))
    return ".".join(_b64(part) for part in (payload, key.sign(_CONTEXT + payload), blind))


def read_receipts(text: str) -> list[Signed]:
    """The receipts of a file, one a line. ProofError naming the line at fault."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 0 < len(lines) <= RECEIPTS_MAX:
        raise ProofError(f"holds {len(lines)} receipts, of which 1 to {RECEIPTS_MAX} are taken")
    out = []
    for number, line in lines:
        try:
            out.append(Signed.parse(line))
        except ProofError as error:
            raise ProofError(f"line {number} {error}") from None
    return out


def _shown(receipt: Receipt) -> dict[str, object]:
    fields = msgspec.structs.asdict(receipt)
    if not receipt.answer:
        del fields["answer"]
    return fields


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ProofError("is not a receipt: a part is not base64url") from None
    if _b64(data) != text:
        raise ProofError("is not a receipt: a part is not canonical base64url")
    return data


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Receipt, strict=True)
