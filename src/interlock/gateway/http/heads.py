"""Request heads that repeat on a connection: taken by comparing bytes instead of parsing them again.

A client that keeps its connection sends the same head each time, but for the digits of its content-length. When llhttp
and our rules have accepted such a head whole, it is remembered, cut at those digits; the next head that is the same
bytes around other digits can only mean the same, and needs no parser.

A head stays with the connection it came on, which sends these bytes anyway, and ends with it: what one client sent is
never compared with, or kept for, another. `head_memo_max` bounds how many connections of a worker remember one, and
`HEAD_MEMO_BYTES_MAX` how long it may be.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

HEAD_MEMO_BYTES_MAX = 4096
"""Longest head that is remembered."""
DIGITS_MAX = 10
"""Most digits of a length that are compared; a longer one goes to the parser."""
TRIES = 8
"""Heads in a row that may differ from the one before, until a connection no longer remembers any."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)


class Fields(dict[bytes, bytes]):
    """Header fields that several requests share: they cannot be changed."""

    __slots__ = ()

    def _refuse(self, *_arguments: Any, **_named: Any) -> NoReturn:
        raise TypeError("the header fields of a request cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class Head:
    """A head that was accepted: `before` the digits of its content-length, and `after` them, blank line included.

    INVARIANT: whatever digits stand between the two, llhttp and our rules take the head as they took this one, and
    the only difference is the length of the body. So a head is remembered only if it is a POST of HTTP/1.1 with one
    content-length, no transfer coding, no expectation, and the connection is kept.

    `note` is for the stages: what they have found out about these fields. It lives as long as the head.
    """

    __slots__ = ("after", "after_bytes", "at", "before", "fields", "note", "path", "reach")

    def __init__(self, before: bytes, after: bytes, path: str, fields: dict[bytes, bytes]) -> None:
        self.before = before
        self.after = after
        self.at = len(before)
        self.after_bytes = len(after)
        self.reach = self.at + DIGITS_MAX + self.after_bytes
        self.path = path
        self.fields = Fields(fields)
        self.note: object = None


def head_of(raw: bytes, path: str, fields: dict[bytes, bytes]) -> Head | None:
    """Remember an accepted head (`raw`, up to its blank line). None when its length is not where it is looked for."""
    found = _LENGTH.search(raw)
    return Head(raw[: found.start(1)], raw[found.end(1) :], path, fields) if found is not None else None
