"""The text that a request asks about: what learned routing reads of it. The same in every dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.wire.openai import Message

ASKED_CHARS_MAX = 16_000
"""Of more text only the head is taken."""


def asked_text(fields: Mapping[str, Any]) -> str:
    """The last message of a user, or else the prompt, as text; "" when there is none.

    `fields`: a request's fields, decoded: `messages` (OpenAI, Anthropic, Ollama), `input` (Responses) or `prompt`.
    Parts that are no text, such as images, are left out.
    """
    for name in ("messages", "input"):
        value = fields.get(name)
        if isinstance(value, list):
            for item in reversed(value):
                if isinstance(item, Mapping) and item.get("role") == "user":
                    text = _text(item.get("content"))
                    if text:
                        return text
        elif isinstance(value, str):
            return value[:ASKED_CHARS_MAX]
    return _text(fields.get("prompt"))


def asked_last(messages: Sequence[Message]) -> str:
    """What `asked_text` says of these messages, where they are decoded already; "" when no user says anything."""
    for message in reversed(messages):
        if message.role == "user":
            text = _text(message.content)
            if text:
                return text
    return ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:ASKED_CHARS_MAX]
    if not isinstance(content, list):
        return ""
    parts: list[str] = []
    size = 0
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str) and text:
            parts.append(text)
            size += len(text)
            if size >= ASKED_CHARS_MAX:
                break
    return "\n".join(parts)[:ASKED_CHARS_MAX]
