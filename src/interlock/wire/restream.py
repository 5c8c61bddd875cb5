"""A whole answer as the stream that its caller asked for, in OpenAI's form. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.wire.speech import DONE

_encode = msgspec.json.encode
_NOTHING: dict[bool, dict[str, Any]] = {True: {"delta": {}}, False: {"text": ""}}


def as_stream(answer: dict[str, Any], *, chat: bool, usage: bool) -> bytes:
    """The events of a whole answer: for each choice what it says and how it ended; the usage, where that was asked for;
    the last one."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    head = {"id": answer.get("id", ""), "object": kind, "created": answer.get("created", 0)}
    head["model"] = answer.get("model", "")
    if "system_fingerprint" in answer:
        head["system_fingerprint"] = answer["system_fingerprint"]
    choices = [each for each in answer.get("choices") or () if isinstance(each, dict)]
    events = []
    for choice in choices:
        events.append(head | {"choices": [_said(choice, chat=chat)]})
        end: dict[str, Any] = {"index": choice.get("index", 0), "finish_reason": choice.get("finish_reason") or "stop"}
        events.append(head | {"choices": [end | _NOTHING[chat]]})
    if usage:
        events.append(head | {"choices": [], "usage": answer.get("usage")})
    return b"".join([b"data: %b\n\n" % _encode(event) for event in events]) + DONE


def _said(choice: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"index": choice.get("index", 0), "finish_reason": None}
    if choice.get("logprobs"):
        said["logprobs"] = choice["logprobs"]
    if not chat:
        return said | {"text": choice.get("text") or ""}
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls) if isinstance(call, dict)]
    return said | {"delta": {"role": "assistant", **{name: each for name, each in delta.items() if each is not None}}}
