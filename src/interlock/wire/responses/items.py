"""Items, which a Responses conversation is made of, as messages of a chat.

Reasoning goes with the tool calls that it led to, as long as these are not answered by a later question: chat templates
leave out what is older, and sources that know no reasoning refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from interlock.errors import BadRequest

Raw = msgspec.Raw
Message = dict[str, Any]
_BETWEEN = "\n\n"
"""Between system texts that become one: many chat templates take one, at the beginning."""


class _ImageUrl(msgspec.Struct, omit_defaults=True):
    url: str


class _Part(msgspec.Struct, omit_defaults=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | _ImageUrl | None = None
    detail: str | None = None
    file_id: str | None = None


class Item(msgspec.Struct):
    """What is read of an item."""

    type: str = "message"
    role: str = ""
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[_Part] | None = None
    summary: list[_Part] | None = None
    id: str | None = None
    encrypted_content: str | None = None


_items = msgspec.json.Decoder(list[Item])


def read(raw: bytes) -> list[Item]:
    """The items of a JSON array. Raises msgspec.ValidationError."""
    return _items.decode(raw)


def plain(content: str | list[_Part] | None) -> Any:
    """A content as JSON has it, of what was read of it."""
    return msgspec.to_builtins(content)


def messages(raw: bytes, instructions: str) -> list[Message]:
    """The messages of a chat that `instructions` and items (a JSON array) make. Raises BadRequest or
    msgspec.ValidationError."""
    chat = _Chat()
    if instructions:
        chat.system(instructions)
    items = _items.decode(raw)
    asked_last = max((n for n, item in enumerate(items) if item.type == "message" and item.role == "user"), default=-1)
    for n, item in enumerate(items):
        where = f"input[{n}]"
        if item.type == "message":
            _message(chat, item, where)
        elif item.type == "function_call":
            chat.call(item, where)
        elif item.type == "function_call_output":
            chat.output(item, where)
        elif item.type == "reasoning":
            if n > asked_last:
                chat.reasoning("".join(part.text or "" for part in _parts(item.content) or item.summary or ()))
        else:
            raise BadRequest(f"Items of type {item.type!r} are not taken here.", code="unsupported_item", param=where)
    return chat.finish()


class _Chat:
    """Messages as they come about. `_open`: the assistant's message that what follows may still belong to."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._open: Message | None = None
        self._unanswered: dict[str, str] = {}

    def system(self, text: str | list[Message]) -> None:
        self._open = None
        last = self._messages[-1] if self._messages else None
        if (
            len(self._messages) == 1
            and last is not None
            and last["role"] == "system"
            and isinstance(text, str)
            and isinstance(last["content"], str)
        ):
            last["content"] += _BETWEEN + text
        else:
            self._messages.append({"role": "system", "content": text})

    def user(self, content: str | list[Message]) -> None:
        self._open = None
        self._messages.append({"role": "user", "content": content})

    def assistant(self, text: str) -> None:
        if self._open is None or self._open["content"] is not None or "tool_calls" in self._open:
            self._begin()
        assert self._open is not None  # noqa: S101 - begun just now
        self._open["content"] = text

    def reasoning(self, text: str) -> None:
        self._begin()
        if text:
            assert self._open is not None  # noqa: S101 - begun just now
            self._open["reasoning_content"] = text

    def call(self, item: Item, where: str) -> None:
        call_id, name = item.call_id, item.name
        if not call_id or not name or item.arguments is None:
            raise BadRequest("A function_call needs call_id, name and arguments.", param=where)
        if call_id in self._unanswered:  # some engines number their calls anew in each turn
            raise BadRequest(f"The call {call_id[:100]!r} is given twice.", param=f"{where}.call_id")
        if self._open is None:
            self._begin()
        assert self._open is not None  # noqa: S101 - begun just now
        self._unanswered[call_id] = where
        function = {"name": name, "arguments": item.arguments}
        self._open.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})

    def output(self, item: Item, where: str) -> None:
        call_id, output = item.call_id or "", item.output
        if self._unanswered.pop(call_id, None) is None:
            raise BadRequest(
                f"No tool call found for function call output with call_id {call_id[:100]}.", param=f"{where}.call_id"
            )
        if output is None:
            raise BadRequest("A function_call_output needs an output.", param=f"{where}.output")
        if not isinstance(output, str):
            output = "".join(_text(part, f"{where}.output", "input_text") for part in output)
        self._open = None
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": output})

    def finish(self) -> list[Message]:
        for call_id, where in self._unanswered.items():
            raise BadRequest(f"No tool output found for function call {call_id[:100]}.", param=where)
        # reasoning that led to nothing that was said
        return [m for m in self._messages if m["role"] != "assistant" or m["content"] is not None or "tool_calls" in m]

    def _begin(self) -> None:
        self._open = {"role": "assistant", "content": None}
        self._messages.append(self._open)


def _message(chat: _Chat, item: Item, where: str) -> None:
    content = item.content
    if content is None:
        raise BadRequest("A message needs a content.", param=f"{where}.content")
    if item.role == "user":
        chat.user(_content(content, f"{where}.content", images=True))
    elif item.role in ("system", "developer"):
        chat.system(_content(content, f"{where}.content", images=False))
    elif item.role == "assistant":
        chat.assistant(said(item, where))
    else:
        raise BadRequest(
            f"The role {item.role[:40]!r} is not one of user, assistant, system, developer.", param=f"{where}.role"
        )


def said(item: Item, where: str = "input") -> str:
    """What an assistant said, as one text. Raises BadRequest."""
    content = item.content
    if isinstance(content, str):
        return content
    where = f"{where}.content"
    return "".join(_text(part, where, "output_text", "refusal", "input_text") for part in content or ())


def _content(content: str | list[_Part], where: str, *, images: bool) -> str | list[Message]:
    """What a user or the system says: a text, or parts where there are several or one is no text."""
    if isinstance(content, str):
        return content
    parts: list[Message] = []
    for part in content:
        if part.type == "input_image" and images:
            parts.append(_image(part, where))
        else:
            parts.append({"type": "text", "text": _text(part, where, "input_text")})
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    if not parts:
        raise BadRequest("A message needs a content.", param=where)
    return parts


def _image(part: _Part, where: str) -> Message:
    if part.file_id is not None:
        raise BadRequest("Files are not kept here: send the image as image_url.", code="unsupported_part", param=where)
    url = part.image_url.url if isinstance(part.image_url, _ImageUrl) else part.image_url
    if not url:
        raise BadRequest("A content part of type 'input_image' needs an image_url.", param=where)
    image: Message = {"url": url}
    if part.detail not in (None, "auto"):
        if part.detail not in ("low", "high"):
            raise BadRequest("The detail of an image must be low, high or auto.", param=where)
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _text(part: _Part, where: str, *kinds: str) -> str:
    if part.type not in kinds:
        raise BadRequest(
            f"Content parts of type {part.type[:40]!r} are not taken here; use {' or '.join(kinds)}.",
            code="unsupported_part",
            param=where,
        )
    if part.image_url is not None or part.file_id is not None:
        raise BadRequest(f"A content part of type {part.type!r} takes a text and no image or file.", param=where)
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        raise BadRequest(f"A content part of type {part.type!r} needs its text.", param=where)
    return text


def _parts(content: str | list[_Part] | None) -> Sequence[_Part]:
    return () if content is None or isinstance(content, str) else content
