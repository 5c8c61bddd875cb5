"""labels: of which work of the caller's own a call is a part: a batch, a document, a chunk of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.errors import BadRequest
from interlock.types.record import Work

if TYPE_CHECKING:
    from interlock.gateway.call import Call

NAME_MAX = 256
"""Longest name of a batch or document taken, characters."""
CHUNK_MAX = 1_000_000
"""Most chunks of a document."""
_BATCH, _DOCUMENT = b"x-interlock-batch", b"x-interlock-document"
_CHUNK, _CHUNKS = b"x-interlock-chunk", b"x-interlock-chunks"
HEADERS = frozenset((_BATCH, _DOCUMENT, _CHUNK, _CHUNKS))


def label(call: Call) -> None:
    """Fill `call.work` from body and headers, if anything is there; the body comes first. Raises BadRequest."""
    assert call.parsed is not None  # noqa: S101 - stage order
    own = call.parsed.own
    batch = _name(call, own.batch, _BATCH, "interlock.batch")
    document = _name(call, own.document, _DOCUMENT, "interlock.document")
    chunk = _number(call, own.chunk, _CHUNK, "interlock.chunk", 0)
    chunks = _number(call, own.chunks, _CHUNKS, "interlock.chunks", 1)
    if (chunk >= 0 or chunks >= 0) and not document:
        raise BadRequest("A chunk is one of a document: give 'interlock.document' too.", param="interlock.document")
    if chunks >= 0 and chunk > chunks:
        raise BadRequest(f"Chunk {chunk} is beyond the last of {chunks}.", param="interlock.chunk")
    if batch or document:
        call.work = Work(batch, document, chunk, chunks)


def _name(call: Call, given: str, header: bytes, param: str) -> str:
    text = given or call.request.headers.get(header, b"").decode("utf-8", "replace")
    if len(text) > NAME_MAX or not text.isprintable():
        raise BadRequest(f"Field '{param}' must be at most {NAME_MAX} printable characters.", param=param)
    return text


def _number(call: Call, given: int | None, header: bytes, param: str, least: int) -> int:
    """The number, -1 where there is none."""
    text = call.request.headers.get(header)
    if given is None and text is not None:
        given = int(text) if text.isdigit() and len(text) <= len(str(CHUNK_MAX)) else -1
    if given is None:
        return -1
    if not least <= given <= CHUNK_MAX:
        raise BadRequest(f"Field '{param}' must be a number from {least} to {CHUNK_MAX}.", param=param)
    return given
