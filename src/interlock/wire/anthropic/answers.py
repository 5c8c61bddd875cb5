"""The pivot's answers, as the Messages API gives them: whole, and as a stream.

What a source of another dialect cannot say is not made up: a stream's first event counts no tokens (they are in its
last but one), and thoughts carry no signature.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from interlock.wire.answers import WireUsage
from interlock.wire.speech import DONE
from interlock.wire.sse import Splitter, data_of

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""Reasons to finish in the pivot -> in the dialect; others are an `end_turn`."""
INVALID_JSON = "INVALID_JSON"
"""The name under which arguments stand that are no JSON object, as the provider's documentation proposes it."""
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def whole(pivot: bytes, message_id: str, asked: str, *, thinking: bool) -> bytes:
    """A whole answer. `asked`: the model's name where the source tells none; `thinking`: reasoning is shown."""
    answer = _object(pivot)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    said = choice.get("message")
    message: dict[str, Any] = said if isinstance(said, dict) else {}
    content: list[dict[str, Any]] = []
    reasoning = _reasoning(message)
    if reasoning and thinking:
        content.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    for name in ("content", "refusal"):
        text = message.get(name)
        if isinstance(text, str) and text:
            content.append({"type": "text", "text": text})
    calls = [call for call in _list(message.get("tool_calls")) if isinstance(call, dict)]
    content.extend(_tool_use(call, message_id, i) for i, call in enumerate(calls))
    end = _End()
    end.take(choice, refused=bool(message.get("refusal")), tools=bool(calls))
    return _encode(
        {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": _text(answer.get("model")) or asked,
            "content": content,
            **end.fields(),
            "usage": usage(answer.get("usage")),
        }
    )


def usage(reported: object) -> dict[str, int]:
    """Tokens as the dialect counts them: those of the cache are not among `input_tokens`."""
    try:
        used = msgspec.convert(reported, WireUsage, strict=False).usage()
    except msgspec.ValidationError:
        used = WireUsage().usage()
    return {
        "input_tokens": max(used.prompt_tokens - used.cached_tokens - used.cache_write_tokens, 0),
        "cache_creation_input_tokens": used.cache_write_tokens,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }


class _End:
    """How an answer ended."""

    def __init__(self) -> None:
        self._finish = "stop"
        self._sequence: str | None = None
        self._refused = False
        self._tools = False

    def take(self, choice: dict[str, Any], *, refused: bool, tools: bool) -> None:
        """What a choice says of it. vLLM tells in `stop_reason` which of the stop texts it met."""
        finish, sequence = choice.get("finish_reason"), choice.get("stop_reason")
        if isinstance(finish, str) and finish:
            self._finish = finish
            self._sequence = sequence if finish == "stop" and isinstance(sequence, str) and sequence else None
        self._refused = self._refused or refused
        self._tools = self._tools or tools

    def fields(self) -> dict[str, Any]:
        """`stop_reason` and `stop_sequence`."""
        if self._sequence is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._sequence}
        reason = STOP_REASONS.get(self._finish, "end_turn")
        if reason == "end_turn":
            # A call of a function that was asked for by its name ends with "stop" at some sources.
            reason = "tool_use" if self._tools else "refusal" if self._refused else reason
        return {"stop_reason": reason, "stop_sequence": None}


class Writer:
    """Writes one streamed answer: give it the pivot's bytes, cut anywhere; it gives the dialect's events.

    Its state is bounded by the number of tools that are called, and by one event.
    """

    def __init__(self, message_id: str, asked: str, *, thinking: bool) -> None:
        self._id = message_id
        self._asked = asked
        self._thinking = thinking
        self._splitter = Splitter(sys.maxsize)
        self._begun = False
        self._kind = ""
        """Of the block that is open: "text", "thinking", "tool_use"; "" when none is."""
        self._blocks = 0
        self._tools: dict[int, int] = {}
        """Tool call of the pivot -> its block."""
        self._end = _End()
        self._usage: object = None

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes."""
        return b"".join([self._event(event) for event in self._splitter.feed(data)])

    def _event(self, event: bytes) -> bytes:
        payload = data_of(event)
        if payload is None:
            return PING  # the pivot's comments keep the connection alive
        if event == DONE:
            return self._finish()
        answer = _object(payload)
        out: list[bytes] = []
        if not self._begun:
            self._begin(answer, out)
        if answer.get("usage") is not None:
            self._usage = answer["usage"]
        for choice in _list(answer.get("choices")):
            if isinstance(choice, dict):
                self._choice(choice, out)
        return b"".join(out)

    def _begin(self, answer: dict[str, Any], out: list[bytes]) -> None:
        self._begun = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": _text(answer.get("model")) or self._asked,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(None),
        }
        out += [event_of("message_start", message=message), PING]

    def _choice(self, choice: dict[str, Any], out: list[bytes]) -> None:
        said = choice.get("delta")
        delta: dict[str, Any] = said if isinstance(said, dict) else {}
        if self._thinking and (reasoning := _reasoning(delta)):
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""}, out)
            out.append(self._delta({"type": "thinking_delta", "thinking": reasoning}))
        for name in ("content", "refusal"):
            text = delta.get(name)
            if isinstance(text, str) and text:
                self._open("text", {"type": "text", "text": ""}, out)
                out.append(self._delta({"type": "text_delta", "text": text}))
        calls = [call for call in _list(delta.get("tool_calls")) if isinstance(call, dict)]
        for call in calls:
            self._call(call, out)
        self._end.take(choice, refused=bool(delta.get("refusal")), tools=bool(calls))

    def _call(self, call: dict[str, Any], out: list[bytes]) -> None:
        index = call.get("index")
        index = index if isinstance(index, int) else len(self._tools)
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        if index not in self._tools:
            self._close(out)
            self._tools[index] = self._blocks
            block = {
                "type": "tool_use",
                "id": _text(call.get("id")) or _tool_id(self._id, len(self._tools) - 1),
                "name": _text(function.get("name")),
                "input": {},
            }
            self._open("tool_use", block, out)
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments:
            # A piece for a call whose block is closed goes to that block: clients add pieces up by its index.
            piece = {"type": "input_json_delta", "partial_json": arguments}
            out.append(event_of("content_block_delta", index=self._tools[index], delta=piece))

    def _open(self, kind: str, block: dict[str, Any], out: list[bytes]) -> None:
        if self._kind == kind:
            return
        self._close(out)
        self._kind = kind
        out.append(event_of("content_block_start", index=self._blocks, content_block=block))
        self._blocks += 1

    def _close(self, out: list[bytes]) -> None:
        if self._kind:
            out.append(event_of("content_block_stop", index=self._blocks - 1))
        self._kind = ""

    def _delta(self, delta: dict[str, str]) -> bytes:
        return event_of("content_block_delta", index=self._blocks - 1, delta=delta)

    def _finish(self) -> bytes:
        out: list[bytes] = []
        if not self._begun:
            self._begin({}, out)
        self._close(out)
        out.append(event_of("message_delta", delta=self._end.fields(), usage=usage(self._usage)))
        out.append(event_of("message_stop"))
        return b"".join(out)


def event_of(kind: str, **fields: object) -> bytes:
    """One event of the dialect."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


def _object(data: bytes) -> dict[str, Any]:
    """The pivot's JSON. It was read before, but for what nobody looked at: what cannot be read there is passed over."""
    for text in (data, data.decode("utf-8", "replace")):
        try:
            return _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return {}


def _tool_use(call: dict[str, Any], message_id: str, i: int) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    return {
        "type": "tool_use",
        "id": _text(call.get("id")) or _tool_id(message_id, i),
        "name": _text(function.get("name")),
        "input": arguments if isinstance(arguments, dict) else tool_input(_text(arguments)),
    }


def tool_input(arguments: str) -> msgspec.Raw | dict[str, str]:
    """A tool's input from the text of its arguments, as JSON; what is no object stands under a name of its own."""
    if not arguments.strip():
        return {}
    try:
        _decode(arguments)
        return msgspec.Raw(arguments.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {INVALID_JSON: arguments}


def _tool_id(message_id: str, i: int) -> str:
    return f"toolu_{message_id.removeprefix('msg_')}_{i}"


def _reasoning(message: dict[str, Any]) -> str:
    """vLLM calls it `reasoning`, llama.cpp and many clouds `reasoning_content`."""
    return _text(message.get("reasoning_content")) or _text(message.get("reasoning"))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
