"""Keys of the ledger's contents: a key for each data subject, wrapped by its tenant's, wrapped by the master key.

    master key (a file, or a KMS behind `Wrapper`)  >  tenant key  >  subject key  >  contents

Everything said by or to a subject is encrypted under the subject's key, and named by a keyed hash under it: without the
key neither a content nor a guess of it can be checked, so that destroying the key erases the subject.

What is encrypted is the *form* of a content: its text, mostly compressed. Another compressor, or another version of
one, gives other bytes of the same text. So a content is named by its form and its text together, and AES-256-GCM takes
its nonce from the name: one name is one ciphertext, on every node and for ever. The same form under the same key always
gives the same bytes, which is what lets a conversation store each of its messages once. It shows that two contents of
one subject are equal, and nothing else. Pure: no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from isal import isal_zlib

from interlock.errors import InterlockError
from interlock.ledger.proof.opening import content_id, list_id

KEY_BYTES = 32
_NONCE_BYTES = 12
_PLAIN, _DEFLATED = b"\x00", b"\x01"
DEFLATE_LEVEL = 2
"""Of ISA-L, which has 0 to 3. Text shrinks to half; level 3 takes as long and saves a hundredth of the rest."""
_DEFLATE_MIN = 128
"""Below this many bytes compression wins nothing worth its time."""
LIST_START = bytes(32)


class VaultError(InterlockError):
    """A key or a content that does not open: another key, or bytes that were changed."""

    code, status = "ledger_key", 500


class Wrapper(Protocol):
    """What keeps keys safe at rest. A key management service fits behind it."""

    def wrap(self, key: bytes, context: str) -> bytes:
        """The key, encrypted and bound to `context`."""

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """Its inverse. Raises VaultError."""


class KeyWrapper:
    """AES-256-GCM under one 32-byte key, with random nonces."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError(f"a wrapping key has {KEY_BYTES} bytes")
        self._aead = AESGCM(key)
        self._random = random

    def wrap(self, key: bytes, context: str) -> bytes:
        """See `Wrapper`."""
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, key, context.encode())

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """See `Wrapper`."""
        try:
            return self._aead.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError):
            raise VaultError(f"the key of {context} does not open: it was wrapped under another one") from None


def tenant_context(tenant_id: str) -> str:
    """What a tenant's wrapped key is bound to."""
    return f"tenant {tenant_id}"


def subject_context(tenant_id: str, subject: str) -> str:
    """What a subject's wrapped key is bound to."""
    return f"subject {tenant_id} {subject}"


class Sealed(NamedTuple):
    """An encrypted content. `id` names the plaintext in its form, `sha256` is of `data`, the ciphertext."""

    id: bytes
    data: bytes
    sha256: bytes


class Opened(NamedTuple):
    """A content's plaintext. `salt`: what proves that it is of its id (see `proof.opening`, 32 bytes); None where the
    id is from before contents could be opened one by one."""

    plain: bytes
    salt: bytes | None


class ListNode(NamedTuple):
    """A list of contents, as its last item and the list before it. `digest`: over the items' ciphertext hashes."""

    id: bytes
    previous: bytes
    item: bytes
    digest: bytes
    depth: int


class SealedLately:
    """Contents that were sealed lately: what a conversation says again is neither compressed nor encrypted again.

    `bytes_max`: ciphertexts that are kept; those used longest ago go first. No plaintext is kept, and no key: a content
    is found by a keyed hash of its plaintext, so only by who has both (see `SubjectKey.seal`).
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[bytes, Sealed] = OrderedDict()

    def get(self, mark: bytes) -> Sealed | None:
        """The content of this keyed hash, if it is still there."""
        known = self._known.get(mark)
        if known is not None:
            self._known.move_to_end(mark)
        return known

    def put(self, mark: bytes, sealed: Sealed) -> None:
        """Remember a content that `get` did not have."""
        self._known[mark] = sealed
        self._bytes += len(sealed.data)
        while self._bytes > self._bytes_max:
            self._bytes -= len(self._known.popitem(last=False)[1].data)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._bytes = 0


class SubjectKey:
    """What seals and opens the contents of one subject. `lately`: contents that need not be sealed again."""

    __slots__ = ("_aead", "_id_key", "_lately", "_lately_begun", "_mark_key", "_salt", "_salt_of_text")

    def __init__(self, key: bytes, lately: SealedLately | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError(f"a subject's key has {KEY_BYTES} bytes")
        self._aead = AESGCM(_mac(key, b"interlock content encryption"))
        self._id_key = _mac(key, b"interlock content id")
        self._mark_key = _mac(key, b"interlock name of a document")
        self._salt = _mac_of(_mac(key, b"interlock content salt of a form"))
        self._salt_of_text = _mac_of(_mac(key, b"interlock content salt"))
        self._lately = lately
        self._lately_begun = hashlib.sha256(_mac(key, b"interlock content sealed lately").ljust(64, b"\x00")).copy

    def seal(self, plain: bytes, *, repeats: bool = True) -> Sealed:
        """Encrypt a content. The same bytes give the same result, as long as they are compressed in the same way.

        `repeats`: it may come again; else it is neither looked for among what was sealed lately nor remembered.
        """
        if self._lately is None or not repeats:
            return self._seal(plain)
        begun = self._lately_begun()  # hashed behind a secret: enough where nobody else ever sees the result
        begun.update(plain)
        mark = begun.digest()
        sealed = self._lately.get(mark)
        if sealed is None:
            sealed = self._seal(plain)
            self._lately.put(mark, sealed)
        return sealed

    def open(self, name: bytes, data: bytes, *, bytes_max: int) -> bytes:
        """The plaintext of a content. Raises VaultError when it is not what `name` names, or longer than allowed."""
        return self.opened(name, data, bytes_max=bytes_max).plain

    def opened(self, name: bytes, data: bytes, *, bytes_max: int) -> Opened:
        """The plaintext of a content and its salt, which opens this content and no other. Raises as `open` does."""
        try:
            form = self._aead.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name)
        except (InvalidTag, ValueError):
            raise VaultError("a content does not open under its subject's key") from None
        plain = _text_of(form, bytes_max)
        # the second: names were of the text alone before, and then did not follow what was stored
        for salt in (self._salt(form), self._salt_of_text(plain)):
            if hmac.compare_digest(content_id(salt, plain), name):
                return Opened(plain, salt)
        if hmac.compare_digest(_mac(self._id_key, plain), name):
            return Opened(plain, None)
        raise VaultError("a content is not the one that its name names")

    def _seal(self, plain: bytes) -> Sealed:
        form = _form_of(plain)
        name = content_id(self._salt(form), plain)
        # INVARIANT: a nonce is of one form and one name, for both follow from the form. A second name under one nonce
        # would give away the key that AES-GCM authenticates with.
        nonce = name[:_NONCE_BYTES]
        encrypted = nonce + self._aead.encrypt(nonce, form, name)
        return Sealed(name, encrypted, hashlib.sha256(encrypted).digest())

    def mark(self, what: bytes, name: str) -> bytes:
        """What a name is looked up by. Without the key no guess can be checked against it. 32 bytes."""
        return _mac(self._mark_key, what + b"\n" + name.encode())

    def chain(self, items: list[Sealed]) -> list[ListNode]:
        """The nodes of a list, first item first; a list that begins with the same items shares their nodes."""
        nodes = []
        previous, digest = b"", LIST_START
        for depth, item in enumerate(items, 1):
            name = list_id(previous, item.id)
            digest = hashlib.sha256(digest + item.sha256).digest()
            nodes.append(ListNode(name, previous, item.id, digest, depth))
            previous = name
        return nodes


def _form_of(plain: bytes) -> bytes:
    """What is encrypted of a content: a byte that says how it is kept, and its text, compressed where that is less."""
    if len(plain) >= _DEFLATE_MIN:
        deflated = _deflate(plain)
        if len(deflated) < len(plain):
            return _DEFLATED + deflated
    return _PLAIN + plain


def _text_of(form: bytes, bytes_max: int) -> bytes:
    """The inverse of `_form_of`, of any compressor. Raises VaultError when it is longer than allowed."""
    plain = form[1:]
    if form[:1] == _DEFLATED:
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(plain, bytes_max + 1)
    if len(plain) > bytes_max:
        raise VaultError(f"a content has more than {bytes_max} bytes")
    return plain


def _deflate(plain: bytes) -> bytes:
    """Raw deflate (RFC 1951). Its bytes are those of one version of ISA-L on one kind of processor."""
    return isal_zlib.compress(plain, DEFLATE_LEVEL, -zlib.MAX_WBITS)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _mac_of(key: bytes) -> Callable[[bytes], bytes]:
    """`_mac` under one key of at most 64 bytes, whose two blocks are hashed once (RFC 2104, section 4)."""
    block = key.ljust(64, b"\x00")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block)).copy
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block)).copy

    def mac(data: bytes) -> bytes:
        within, without = inner(), outer()
        within.update(data)
        without.update(within.digest())
        return without.digest()

    return mac
