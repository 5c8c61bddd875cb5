"""Receipts for callers who ask for one: what they need to show later that a call is missing from the ledger.

A receipt leaves with the head of an answer, never before the call's intent is durable (P1), and is signed by a key that
lives as long as the worker's epoch. Its public half is in the epoch's first record.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.errors import BadRequest, ConfigError
from interlock.gateway.http.exchange import header_line
from interlock.ledger.proof.receipt import BLIND_BYTES, Receipt, commit, issue

if TYPE_CHECKING:
    from interlock.gateway.call import Call
    from interlock.types.clock import Clock

RECEIPT = b"x-interlock-receipt"
_ANSWERS = {b"true": True, b"1": True, b"false": False, b"0": False}


class Promise(NamedTuple):
    """A receipt that was asked for. `body` is the commitment to the request, hex; `at_ns` when it was admitted."""

    blind: bytes
    body: str
    at_ns: int


class Receipts:
    """Signs the receipts of one epoch, for whom the setting `ledger_receipts` says. Raises ConfigError.

    `always`: also for those who do not ask.
    """

    def __init__(self, clock: Clock, to: str, entropy: Callable[[int], bytes] = os.urandom) -> None:
        if to not in ("asked", "all"):
            raise ConfigError("ledger_receipts must be asked or all", param="ledger_receipts")
        self.always = to == "all"
        self._clock = clock
        self._entropy = entropy
        self._key = Ed25519PrivateKey.from_private_bytes(entropy(32))
        self.public: bytes = self._key.public_key().public_bytes_raw()
        self._latest_ns = 0

    def sweep(self) -> None:
        """Sample the clock, now and then: the ledger's instants do not go back when it is set back."""
        self._latest_ns = max(self._latest_ns, self._clock.wall_ns())

    def promise(self, call: Call) -> None:
        """The caller asks for a receipt, or everybody gets one. Raises BadRequest."""
        asked = call.request.headers.get(RECEIPT)
        wanted = self.always if asked is None else _ANSWERS.get(asked.lower())
        if wanted is None:
            raise BadRequest("The header x-interlock-receipt is true or false.", param="x-interlock-receipt")
        if wanted or self.always:
            blind = self._entropy(BLIND_BYTES)
            self._latest_ns = max(self._latest_ns, call.wall_ns)
            call.receipt = Promise(blind, commit(blind, b"request", call.request.body), self._latest_ns)

    def line(self, call: Call, status: int, dialect: str, answer: bytes = b"") -> bytes:
        """The header line of a call that has a receipt coming. `answer`: the whole answer, where it is known."""
        promise, identity = call.receipt, call.identity
        assert promise is not None and identity is not None  # noqa: S101 - only identified callers are promised one
        receipt = Receipt(
            call.id,
            identity.tenant_id,
            promise.at_ns,
            call.operation,
            dialect,
            status,
            promise.body,
            commit(promise.blind, b"answer", answer) if answer else "",
        )
        return header_line(RECEIPT, issue(self._key, receipt, promise.blind).encode())
