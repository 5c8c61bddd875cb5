"""Embeddings in the encoding that was asked for, of sources that give plain numbers only."""

from __future__ import annotations

import array
import base64
import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from interlock.wire.openai import Fields


def as_asked(answer: bytes, fields: Fields) -> bytes:
    """The answer (pivot, vectors of numbers) as the request's fields ask for it: with `encoding_format` "base64" each
    vector is the base64 of its 32-bit floats, little-endian (OpenAI API reference, "Create embeddings")."""
    asked = fields.get("encoding_format")
    if asked is None or bytes(asked) != b'"base64"':
        return answer
    out: dict[str, Any] = msgspec.json.decode(answer)
    for entry in out["data"]:
        floats = array.array("f", entry["embedding"])
        if sys.byteorder == "big":
            floats.byteswap()
        entry["embedding"] = base64.b64encode(floats.tobytes()).decode()
    return msgspec.json.encode(out)
