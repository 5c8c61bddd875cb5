"""Stored responses as a worker has them: asked for at the node, sealed and opened here.

    worker -- StateWanted / StateKept / StateDropped --> node: PostgreSQL
    worker <-- StatePart ..., StateAnswer -------------- node

A response belongs to a subject of a tenant: the user that a service or agent acts for, else the principal itself. It is
encrypted under a key of this subject, which the database has wrapped under a key that follows from the installation's
pepper: the database alone opens nothing, and without the subject's key, which an erasure deletes, nobody does.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interlock.gateway.link import StateAnswer, StateDropped, StateKept, StatePart, StateWanted
from interlock.ledger.vault import KEY_BYTES, KeyWrapper, VaultError

if TYPE_CHECKING:
    from interlock.gateway.identify import Identity

SEALED_MAX = 700_000
"""Bytes of a sealed response that fit into a message between worker and node."""
UNANSWERED_BYTES_MAX = 2_097_152
"""Sealed bytes that are on their way to the node at a time; the rest waits here."""
NAME_BYTES = 16
_NONCE_BYTES = 12
_DEFLATE_LEVEL = 1


class Owner(NamedTuple):
    """Whose responses they are."""

    tenant_id: str
    subject: str


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A response as it is kept. `items`: what this call added to the conversation, each as JSON; `response`: the
    answer, as JSON; `data_class`: of the call, or of what it went on from."""

    data_class: int
    items: list[bytes]
    response: bytes


class StateKey:
    """A subject's key in the hands of a call. `name` tells it from those before it."""

    def __init__(self, owner: Owner, name: bytes, key: bytes) -> None:
        self.name = name
        self._owner = owner
        self._aead = AESGCM(key)

    def seal(self, response_id: str, previous: str, stored: Stored) -> bytes:
        """Encrypt a response, bound to its owner, its id and the one before it."""
        nonce = os.urandom(_NONCE_BYTES)
        data = zlib.compress(msgspec.msgpack.encode(stored), _DEFLATE_LEVEL, wbits=-zlib.MAX_WBITS)
        return nonce + self._aead.encrypt(nonce, data, self._bound(response_id, previous))

    def open(self, part: StatePart, bytes_max: int) -> Stored:
        """Its inverse. Raises VaultError."""
        try:
            bound = self._bound(part.id, part.previous)
            data = self._aead.decrypt(part.sealed[:_NONCE_BYTES], part.sealed[_NONCE_BYTES:], bound)
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            plain = inflate.decompress(data, bytes_max)
            if inflate.unconsumed_tail:
                raise VaultError(f"the stored response {part.id} has more than {bytes_max} bytes")
            return _decode(plain)
        except (InvalidTag, ValueError, zlib.error, msgspec.MsgspecError):
            raise VaultError(f"the stored response {part.id} does not open") from None

    def _bound(self, response_id: str, previous: str) -> bytes:
        return "\0".join((*self._owner, response_id, previous)).encode()


_decode = msgspec.msgpack.Decoder(Stored).decode


class Waiter(Protocol):
    """Who has asked."""

    def answered(self, answer: StateAnswer, parts: list[StatePart]) -> None:
        """What there is, the oldest first."""


class _Asked(NamedTuple):
    owner: Owner
    waiter: Waiter
    parts: list[StatePart]
    size: int


class States:
    """A worker's questions that wait for the node. `secret`: of the installation."""

    def __init__(
        self, epoch: str, secret: bytes, tell: Callable[[StateWanted | StateKept | StateDropped], bool]
    ) -> None:
        self.epoch = epoch
        self._secret = secret
        self._tell = tell
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._unsent: deque[StateKept] = deque()
        self._unanswered = 0
        self._of: dict[Owner, int] = {}

    def waiting_of(self, owner: Owner) -> int:
        """Questions about an owner's responses that are not answered."""
        return self._of.get(owner, 0)

    @property
    def waiting(self) -> int:
        """Questions that are not answered."""
        return len(self._asked)

    def want(self, owner: Owner, response_id: str, waiter: Waiter, *, alone: bool, make_key: bool) -> int:
        """Ask for the owner's key, and for a response with (unless `alone`) what it goes on from; "": for none. The
        number of the question."""
        number = self._register(owner, waiter, 0)
        name = new = b""
        if make_key:
            name, new = os.urandom(NAME_BYTES), self._wrapper(owner).wrap(os.urandom(KEY_BYTES), _context(owner))
        self._send(StateWanted(self.epoch, number, *owner, response_id, alone, name, new))
        return number

    def keep(
        self, owner: Owner, response_id: str, previous: str, key: StateKey, sealed: bytes, keep_s: int, waiter: Waiter
    ) -> int:
        """Have a response stored. The number of the question."""
        number = self._register(owner, waiter, len(sealed))
        self._unsent.append(StateKept(self.epoch, number, *owner, response_id, previous, key.name, sealed, keep_s))
        self._flush()
        return number

    def drop(self, owner: Owner, response_id: str, waiter: Waiter) -> int:
        """Have a response deleted. The number of the question."""
        number = self._register(owner, waiter, 0)
        self._send(StateDropped(self.epoch, number, *owner, response_id))
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        asked = self._taken(number)
        if asked is not None:
            before = len(self._unsent)
            self._unsent = deque(each for each in self._unsent if each.number != number)
            if len(self._unsent) == before:
                self._unanswered -= asked.size
                self._flush()

    def part(self, message: StatePart) -> None:
        """A stored response."""
        asked = self._asked.get(message.number)
        if asked is not None and message.epoch == self.epoch:
            asked.parts.append(message)

    def answered(self, message: StateAnswer) -> None:
        """The node's answer."""
        if message.epoch != self.epoch:
            return
        asked = self._taken(message.number)
        if asked is not None:
            self._unanswered -= asked.size
            self._flush()
            asked.waiter.answered(message, asked.parts)

    def key(self, owner: Owner, answer: StateAnswer) -> StateKey | None:
        """The key in an answer; None when it has none. Raises VaultError when it was wrapped under another pepper."""
        if not answer.key:
            return None
        return StateKey(owner, answer.key_name, self._wrapper(owner).unwrap(answer.key, _context(owner)))

    def tag(self, request_id: str) -> str:
        """32 hexadecimal characters that follow from a request id and the installation's secret."""
        return hmac.digest(self._secret, b"responses\0id\0" + request_id.encode(), hashlib.sha256)[:16].hex()

    def _wrapper(self, owner: Owner) -> KeyWrapper:
        secret = hmac.digest(self._secret, b"responses\0key\0" + owner.tenant_id.encode(), hashlib.sha256)
        return KeyWrapper(secret, os.urandom)

    def _register(self, owner: Owner, waiter: Waiter, size: int) -> int:
        self._number += 1
        self._asked[self._number] = _Asked(owner, waiter, [], size)
        self._of[owner] = self._of.get(owner, 0) + 1
        return self._number

    def _taken(self, number: int) -> _Asked | None:
        """A question that is one no more."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            left = self._of.pop(asked.owner) - 1
            if left:
                self._of[asked.owner] = left
        return asked

    def _flush(self) -> None:
        while self._unsent and self._unanswered < UNANSWERED_BYTES_MAX:
            message = self._unsent.popleft()
            self._unanswered += len(message.sealed)
            self._send(message)

    def _send(self, message: StateWanted | StateKept | StateDropped) -> None:
        if not self._tell(message):
            self.answered(StateAnswer(self.epoch, message.number, "unavailable"))


def owner_of(identity: Identity) -> Owner:
    """Whose responses those of a caller are."""
    caller = identity.caller
    subject = caller.delegator.id if caller.delegator is not None else caller.principal.id
    return Owner(identity.tenant_id, subject)


def _context(owner: Owner) -> str:
    return f"stored responses of {owner.tenant_id} {owner.subject}"
