"""Two answers to one request, compared: figures only. Pure.

Compared is what the first choice says: its text, and the tools that it calls, as JSON. The similarity of two texts is
that of their words as multisets (Dice): twice the words that both have, over the words of both, case and order aside.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import msgspec

from interlock.types.record import Comparison

CHARS_MAX = 16_384
"""Characters of each text that are compared."""
_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")
_FILTERED = "content_filter"


class Said(NamedTuple):
    """What an answer says. `calls`: tools by their index, (name, arguments as text)."""

    text: str
    finish: str
    refused: bool


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Tool(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Tool] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def said(data: bytes, *, streamed: bool) -> Said | None:
    """What an answer (a JSON body, or an event stream) says; None when it cannot be read."""
    try:
        pieces = _events(data) if streamed else [data]
        answers = [_decode(piece) for piece in pieces]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return _gathered([c for answer in answers for c in answer.choices or () if c.index == 0])


def compare(first: Said, other: Said) -> Comparison:
    """How `other` compares with what the caller got."""
    one, two = first.text[:CHARS_MAX], other.text[:CHARS_MAX]
    first_value, value = _json(one), _json(two)
    both = first_value is not None and value is not None
    return Comparison(
        equal=_plain(one) == _plain(two),
        similarity_milli=similarity_milli(one, two),
        first_chars=len(first.text),
        chars=len(other.text),
        first_json=first_value is not None,
        json=value is not None,
        json_equal=both and first_value == value,
        finish_equal=first.finish == other.finish,
        first_refused=first.refused,
        refused=other.refused,
    )


def similarity_milli(one: str, two: str) -> int:
    """The similarity of two texts in thousandths, see above; two without a word are the same."""
    a, b = (Counter(_WORD.findall(text.casefold())) for text in (one, two))
    total = a.total() + b.total()
    return 2000 * (a & b).total() // total if total else 1000


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text.casefold()).strip()


def _json(text: str) -> Any:
    """The value of a text that is a JSON object or array, else None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _events(data: bytes) -> list[bytes]:
    """The JSON of each event of a stream in the form in which it left for the caller."""
    found = []
    for line in data.splitlines():
        payload = line[5:].strip() if line.startswith(b"data:") else b""
        if payload.startswith(b"{"):
            found.append(payload)
    return found


def _gathered(choices: list[_Choice]) -> Said:
    text: list[str] = []
    tools: dict[int, list[str]] = {}
    finish, refused = "", False
    for choice in choices:
        message = choice.message or choice.delta
        text.append(choice.text or "")
        finish = choice.finish_reason or finish
        if message is None:
            continue
        text.append(message.content or "")
        if message.refusal:
            refused = True
            text.append(message.refusal)
        for number, tool in enumerate(message.tool_calls or ()):
            place = tools.setdefault(number if choice.message is not None else tool.index, ["", ""])
            if tool.function is not None:
                place[0] += tool.function.name or ""
                place[1] += tool.function.arguments or ""
    if tools:
        called = [[name, _json(arguments) or arguments] for _, (name, arguments) in sorted(tools.items())]
        text.append(msgspec.json.encode(called).decode())
    return Said("".join(text), finish, refused or finish == _FILTERED)
