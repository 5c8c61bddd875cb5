"""How a request's prompt begins, as far as it stays the same over the turns of one conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from interlock.wire.openai import Message, Parsed

LEADING_MAX = 64
"""Messages looked at for the first one of a user."""
PROMPT_BYTES_MAX = 512
"""Of a prompt without messages the first so many bytes are looked at: what follows may be another question."""
_SYSTEM = frozenset(("system", "developer"))
_PROMPTS = {"completions": "prompt", "embeddings": "input"}


def session(parsed: Parsed) -> bytes:
    """What the caller itself calls the conversation (`prompt_cache_key`), as JSON; b"" when it says nothing."""
    given = parsed.fields.get("prompt_cache_key")
    key = bytes(given).strip() if given is not None else b""
    return key if key[:1] == b'"' and len(key) > 2 else b""


def opening(parsed: Parsed, bytes_max: int) -> list[bytes]:
    """The texts before the first answer: of systems and developers, and the first of a user. Empty when there are none.

    At most `bytes_max` bytes in all. Of a prompt without messages its first bytes, as JSON; of a request that has
    neither nothing.
    """
    field = _PROMPTS.get(parsed.operation)
    if field is not None and field in parsed.fields:
        return [bytes(memoryview(parsed.fields[field])[: min(bytes_max, PROMPT_BYTES_MAX)])]
    texts: list[bytes] = []
    left = bytes_max
    for role, text in _leading(parsed.messages):
        part = text[:left].encode("utf-8", "surrogatepass")[:left]
        left -= len(part)
        texts += [role.encode("utf-8", "surrogatepass"), part]
        if left <= 0:
            break
    return texts


def _leading(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in messages[:LEADING_MAX]:
        if message.role in _SYSTEM or message.role == "user":
            content = message.content
            yield message.role, content if isinstance(content, str) else "\0".join(map(_part, content or ()))
        if message.role == "user":
            return


def _part(part: dict[str, Any]) -> str:
    """The text of a part of a message; of an image where it is, or its data."""
    text = part.get("text")
    if isinstance(text, str):
        return text
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else ""
