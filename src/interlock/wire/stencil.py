"""Events of one stream that differ in nothing but their piece of text: read by comparing what is around it.

An engine writes the same JSON for each token, with another text in the same place. Once such an event has been decoded,
a `Stencil` of it holds what stands before and after the text.

INVARIANT: what `cut_stencil` gives matches only events that decode to the same, but for the text between. The place was
tried: another text put there came out as the text. A text without quote, backslash and control characters cannot end
the JSON string that it stands in (RFC 8259 section 7), whatever it is otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from interlock.wire.answers import decode_plain

HEAD = b"data: "
TAIL = b"\n\n\r\n"
"""What ends an event and then its chunk."""
QUOTE, BACKSLASH = b'"\\'
"""As numbers: `in` looks for one seven times as fast as for bytes of length one."""
_TRIAL = "a text that is in no event: 8f1c"


class Stencil(NamedTuple):
    """`before` and `after` the text in a chunk that is one event, counted from its data on; `begin` and `end` are where
    the text is (`end` from the back), `least` is how long the chunk is at least, without its size line."""

    before: bytes
    after: bytes
    begin: int
    end: int
    least: int


def cut_stencil(payload: bytes, text: str) -> Stencil | None:
    """The stencil of an event whose data is `payload` and whose text is `text`, or None when there is none to be had:
    the text has to stand in the payload as it is, once."""
    needle = f'"content":"{text}"'.encode()
    if not plain(text) or payload.count(needle) != 1:
        return None
    at = payload.index(needle) + len(b'"content":"')
    before, after = payload[:at], payload[at + len(text.encode()) :]
    try:
        tried = decode_plain(before + _TRIAL.encode() + after).choices[0].delta.content
    except msgspec.MsgspecError:
        return None
    if tried != _TRIAL or b"\n" in payload or b"\r" in payload:
        return None
    before, after = HEAD + before, after + TAIL
    return Stencil(before, after, len(before), -len(after), len(before) + len(after))


def plain(text: str) -> bool:
    """Whether a text stands in JSON as it is, whoever has written it."""
    return text.isprintable() and '"' not in text and "\\" not in text
