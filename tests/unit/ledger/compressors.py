"""Compressors other than ours, and names that contents had before: what another node or an earlier version does."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from interlock.ledger import vault
from interlock.ledger.proof.opening import content_id
from interlock.ledger.vault import Sealed, SubjectKey


def level_of(level: int) -> Callable[[bytes], bytes]:
    """A raw deflate of another level: other valid bytes."""

    def deflate(plain: bytes) -> bytes:
        made = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return made.compress(plain) + made.flush()

    return deflate


@contextmanager
def compressing(deflate: Callable[[bytes], bytes]) -> Iterator[None]:
    """Contents are compressed so, as by another build of the library."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vault, "_deflate", deflate)
        yield


@contextmanager
def naming(named: Callable[[SubjectKey, bytes], bytes]) -> Iterator[None]:
    """Contents are named so, as by an earlier version."""

    def seal(key: SubjectKey, plain: bytes, *, repeats: bool = True) -> Sealed:
        name, form = named(key, plain), vault._form_of(plain)
        nonce = hmac.digest(key._id_key, form, "sha256")[:12]
        data = nonce + key._aead.encrypt(nonce, form, name)
        return Sealed(name, data, hashlib.sha256(data).digest())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SubjectKey, "seal", seal)
        yield


def by_the_text(key: SubjectKey, plain: bytes) -> bytes:
    """A name that can be opened, of the text and not of its form."""
    return content_id(key._salt_of_text(plain), plain)


def by_a_mac(key: SubjectKey, plain: bytes) -> bytes:
    """The first names: nothing opens them but the key."""
    return hmac.digest(key._id_key, plain, "sha256")
