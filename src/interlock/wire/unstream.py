"""A streamed answer as the whole one that it is, in OpenAI's form: what checks of an answer look at. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_object = msgspec.json.Decoder(dict[str, Any]).decode


class Unstream:
    """Keeps what a stream says, as it is recorded: plain text of its first choice, or the JSON of an event. Nothing is
    kept of one that says more than `bytes_max` bytes."""

    def __init__(self, *, chat: bool, n: int, bytes_max: int) -> None:
        """`n`: choices that were asked for."""
        self._chat = chat
        self._n = n
        self._left = bytes_max
        self._pieces: list[str | bytes] = []

    def take(self, text: str, raw: bytes) -> None:
        """One piece: its text, or else the JSON that it is."""
        self._left -= len(raw) or len(text.encode())
        if self._left >= 0:
            self._pieces.append(raw or text)
        else:
            self._pieces.clear()

    def answer(self, finish_reasons: Sequence[str]) -> dict[str, Any] | None:
        """The whole answer; None when it was too large, or is not what an answer looks like. `finish_reasons`: how its
        choices ended, in any order."""
        if self._left < 0:
            return None
        said = [_Choice() for _ in range(self._n)]
        for piece in self._pieces:
            if isinstance(piece, str):
                said[0].text.append(piece)
            elif not _event(piece, said):
                return None
        reasons = [*finish_reasons, *[None] * self._n][: self._n]
        choices = [
            {"index": index, "finish_reason": reason, **each.whole(chat=self._chat)}
            for index, (each, reason) in enumerate(zip(said, reasons, strict=True))
        ]
        return {"choices": choices}


class _Choice:
    """What one choice says."""

    __slots__ = ("refusal", "text", "tools")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.tools: dict[int, list[list[str]]] = {}
        """By index, pieces of the name and of the arguments."""

    def whole(self, *, chat: bool) -> dict[str, Any]:
        text = "".join(self.text)
        if not chat:
            return {"text": text}
        message: dict[str, Any] = {"content": text}
        if self.refusal:
            message["refusal"] = "".join(self.refusal)
        if self.tools:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": "".join(name), "arguments": "".join(arguments)}}
                for _, (name, arguments) in sorted(self.tools.items())
            ]
        return {"message": message}


def _event(raw: bytes, said: list[_Choice]) -> bool:
    """Take in an event; False when it is not what an event looks like."""
    try:
        choices = _object(raw).get("choices")
    except (msgspec.MsgspecError, RecursionError):
        return False
    for choice in choices if isinstance(choices, list) else ():
        index = choice.get("index", 0) if isinstance(choice, dict) else -1
        if type(index) is not int or not 0 <= index < len(said):
            return False
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = {"content": choice.get("text")}
        _put(said[index].text, delta.get("content"))
        _put(said[index].refusal, delta.get("refusal"))
        for call in _list(delta.get("tool_calls")):
            if not isinstance(call, dict) or type(call.get("index")) is not int:
                return False
            name, arguments = said[index].tools.setdefault(call["index"], [[], []])
            function = call.get("function")
            if isinstance(function, dict):
                _put(name, function.get("name"))
                _put(arguments, function.get("arguments"))
    return True


def _put(pieces: list[str], text: Any) -> None:
    if isinstance(text, str) and text:
        pieces.append(text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
