"""One reading of a request: what two JSON readers could understand differently is refused.

A body is checked here and read again by an engine. RFC 8259 section 4 leaves open which of two equal names counts,
and some readers match names without regard to case; a request that uses either could be checked as one thing and
served as another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from interlock.errors import BadRequest
from interlock.wire import fields

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_OPENING = bytes(set(range(256)) - set(b"[{"))
_BACKSLASH = ord("\\")
"""As a number: `in` looks for one several times as fast as for bytes of length one."""
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
"""An ASCII letter written as an escape: in a name it hides the name."""
_CONTENT = re.compile(rb'"[cC][oO][nN][tT][eE][nN][tT]"')

_DECIDING = frozenset(
    (
        *fields.FIELD_ACTIONS,
        *fields.FOREIGN,
        fields.OWN_FIELD,
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "functions",
        "logprobs",
        "top_logprobs",
        "response_format",
        "suffix",
    )
)
"""Top-level fields that decisions are made from."""
_IN_MESSAGES = frozenset(("role", "content", "type", "text", "image_url", "url"))
"""Fields of messages and their parts that decisions are made from."""


def check_depth(body: bytes, depth_max: int) -> None:
    """Raise BadRequest when the arrays and objects of a valid JSON text are nested deeper than `depth_max`."""
    if len(body.translate(None, _NOT_OPENING)) <= depth_max:
        return
    # Each round takes away the innermost level everywhere at once.
    nest = _STRING.sub(b"", body).translate(_SQUARE, _NOT_BRACKETS)
    rounds = 0
    while nest and rounds < depth_max and b"[]" in nest:
        nest = nest.replace(b"[]", b"")
        rounds += 1
    if nest:
        raise BadRequest(f"The request body is nested more than {depth_max} deep.", code="invalid_json")


def check_names(top: Iterable[str]) -> None:
    """Raise BadRequest when a name differs from a deciding field only by case."""
    names = "".join(top)
    if names.isascii() and names.islower():
        return
    for name in top:
        folded = name.casefold()
        if folded != name and folded in _DECIDING:
            raise BadRequest(f"Field {name!r} is not taken; write it {folded!r}.", param=name)


def check_messages(raw: bytes, count: int, in_parts: bool) -> None:
    """Raise BadRequest when a message or a content part names a field twice.

    `raw`: the messages as JSON, already decoded once. `count`: how many there are. `in_parts`: some content is a list.
    Plain conversations are let through at a glance: one "content" a message at most, and no hidden names.
    Names are compared without regard to case, as some engines read them.
    """
    if not in_parts:
        named = _CONTENT.findall(raw)
        hidden = _BACKSLASH in raw and _ESCAPED_LETTER.search(raw) is not None
        if not hidden and len(named) <= count and named.count(b'"content"') == len(named):
            return
    try:
        json.loads(raw, object_pairs_hook=_no_name_twice)
    except ValueError as e:
        raise BadRequest(f"The request body is not valid JSON: {e}.", code="invalid_json", param="messages") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        folded = name.casefold()
        if folded in seen:
            raise BadRequest(f"Field {name!r} is given twice in one object of 'messages'.", param="messages")
        if folded != name and folded in _IN_MESSAGES:
            raise BadRequest(f"Field {name!r} is not taken in 'messages'; write it {folded!r}.", param="messages")
        seen.add(folded)
