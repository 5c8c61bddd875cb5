"""Openings: how somebody without any key can check that a plaintext is what an entry names.

The id of a content is SHA-256(salt || plaintext), where the salt is a keyed hash, under its subject's key, of the form
in which the content is kept: its text, mostly compressed. Without the key nobody can tell the salt of a guess, so the
id gives nothing away; whoever is handed the plaintext with its salt can check both against the id in the leaf. A salt
opens one content and says nothing about any other.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

SALT_BYTES = 32


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of opened.jsonl: the salt (hex) of the plaintext that lies in opened/."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
    salt: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


def content_id(salt: bytes, plain: bytes) -> bytes:
    """The id of a content: 32 bytes."""
    made = hashlib.sha256(salt)
    made.update(plain)
    return made.digest()


def list_id(previous: bytes, item: bytes) -> bytes:
    """The id of a list: that of the list before its last item (b"" for none) and of the item. 32 bytes."""
    return hashlib.sha256(b"interlock list\n" + previous + item).digest()
