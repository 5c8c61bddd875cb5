"""What a source of the Messages API answers, in the pivot: whole, and as a stream.

Source: Anthropic API reference, "Streaming messages": message_start, then for each block content_block_start, deltas
and content_block_stop, then message_delta with the stop reason and the tokens so far, then message_stop; a ping or an
error may stand anywhere, and events of kinds that are not known are passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.errors import UpstreamError
from interlock.wire.answers import TOKENS_MAX
from interlock.wire.anthropic.answers import event_of
from interlock.wire.speech import DONE, Piece
from interlock.wire.sse import Splitter, data_of

FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Stop reasons -> reasons to finish in the pivot; others are a "stop"."""
NATIVE = "anthropic"
"""The name, in a recorded piece of a stream, of an event that the pivot has no place for."""
_KNOWN = frozenset(("text", "thinking", "tool_use"))
_KNOWN_DELTAS = frozenset(("text_delta", "thinking_delta", "input_json_delta"))
_encode = msgspec.json.encode


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None

    def merged(self, later: _Usage) -> _Usage:
        """Counts are cumulative: what is told later holds."""
        told = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **told)

    def pivot(self) -> dict[str, Any]:
        """As the pivot counts them: tokens of the cache are part of the prompt's."""
        read, written = _count(self.cache_read_input_tokens), _count(self.cache_creation_input_tokens)
        prompt, completion = _count(self.input_tokens) + read + written, _count(self.output_tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        }


def _count(tokens: int | None) -> int:
    return min(max(tokens or 0, 0), TOKENS_MAX)


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Message(msgspec.Struct):
    id: str = ""
    type: str = ""
    model: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_message = msgspec.json.Decoder(_Message).decode
_event = msgspec.json.Decoder(_Event).decode


def chat_completion(body: bytes) -> bytes:
    """A whole answer in the pivot. Raises UpstreamError `upstream_malformed`."""
    try:
        answer = _message(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("The source sent an answer that is no message.", code="upstream_malformed") from None
    if answer.type != "message" or answer.content is None:
        raise UpstreamError("The source sent an answer that is no message.", code="upstream_malformed")
    text = "".join(block.text or "" for block in answer.content if block.type == "text")
    thoughts = "".join(block.thinking or "" for block in answer.content if block.type == "thinking")
    calls = [_call(block) for block in answer.content if block.type == "tool_use"]
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, **_finish(answer.stop_reason, answer.stop_sequence)}
    return _encode(
        {
            "id": answer.id,
            "object": "chat.completion",
            "created": 0,
            "model": answer.model,
            "choices": [choice],
            "usage": (answer.usage or _Usage()).pivot(),
        }
    )


def _call(block: _Block) -> dict[str, Any]:
    arguments = bytes(block.input).decode() if block.input is not msgspec.UNSET else "{}"
    return {"id": block.id or "", "type": "function", "function": {"name": block.name or "", "arguments": arguments}}


def _finish(reason: str | None, sequence: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"finish_reason": FINISHES.get(reason or "", "stop")}
    if reason == "stop_sequence" and sequence:
        out["stop_reason"] = sequence  # as vLLM tells it
    return out


class MessagesListener:
    """Hears one stream. `native`: what leaves are the source's own events; then also those that mean nothing in the
    pivot. `event_bytes_max`: of one event.

    Nothing leaves before the first piece of the answer, so that until then another source may be tried.
    """

    def __init__(self, event_bytes_max: int, *, native: bool) -> None:
        self._native = native
        self._splitter = Splitter(event_bytes_max)
        self._id, self._model = "", ""
        self._usage = _Usage()
        self._said = False
        """Something of the answer has left."""
        self._kept: list[bytes] = []
        """Native events that wait for the first piece."""
        self._open = -1
        """The block that is open."""
        self._tools: dict[int, int] = {}
        """Block -> tool call of the pivot, for blocks that call tools."""
        self._empty: set[int] = set()
        """Tool calls that have no arguments so far."""
        self._end: _Delta | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """See Listener."""
        pieces: list[Piece] = []
        for raw in self._splitter.feed(data):
            self._hear(raw, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """See Listener."""
        pieces: list[Piece] = []
        for raw in self._splitter.finish():
            self._hear(raw, pieces)
        return pieces

    def cut(self) -> bytes:
        """See Listener."""
        out = [event_of("content_block_stop", index=self._open)] if self._open >= 0 else []
        used = {name: _count(getattr(self._usage, name)) for name in self._usage.__struct_fields__}
        out.append(event_of("message_delta", delta={"stop_reason": "max_tokens", "stop_sequence": None}, usage=used))
        out.append(event_of("message_stop"))
        return b"".join(out)

    def _hear(self, raw: bytes, pieces: list[Piece]) -> None:
        payload = data_of(raw)
        if payload is None:
            return
        try:
            event = _event(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("The source sent an event that is not the JSON it should be.",
                                code="upstream_malformed") from None  # fmt: skip
        kind = event.type
        if kind == "error":
            raise _error(event.error or _Error())
        if kind == "message_start" and event.message is not None:
            self._id, self._model = event.message.id, event.message.model
            self._usage = event.message.usage or self._usage
            self._leave(raw, pieces)
        elif kind == "content_block_start" and event.content_block is not None:
            self._start(event.index, event.content_block, raw, payload, pieces)
        elif kind == "content_block_delta" and event.delta is not None:
            self._delta(event.index, event.delta, raw, payload, pieces)
        elif kind == "content_block_stop":
            self._open = -1
            if event.index in self._empty:
                self._empty.discard(event.index)
                self._say(self._arguments(event.index, "{}"), raw, pieces)
            else:
                self._leave(raw, pieces)
        elif kind == "message_delta":
            self._stop(event, raw, pieces)
        elif kind == "message_stop":
            pieces.append(Piece(DONE, raw if self._native else DONE))
        else:
            self._leave(raw, pieces)

    def _start(self, index: int, block: _Block, raw: bytes, payload: bytes, pieces: list[Piece]) -> None:
        self._open = index
        if block.type == "tool_use":
            self._tools[index] = len(self._tools)
            self._empty.add(index)
            function = {"name": block.name or "", "arguments": ""}
            call = {"index": self._tools[index], "id": block.id or "", "type": "function", "function": function}
            self._say({"tool_calls": [call]}, raw, pieces)
        elif block.type == "text" and block.text:
            self._say({"content": block.text}, raw, pieces)
        elif block.type == "thinking" and block.thinking:
            self._say({"reasoning_content": block.thinking}, raw, pieces)
        elif block.type in _KNOWN:
            self._leave(raw, pieces)
        else:
            self._foreign(payload, raw, pieces)

    def _delta(self, index: int, delta: _Delta, raw: bytes, payload: bytes, pieces: list[Piece]) -> None:
        if delta.type == "text_delta" and delta.text:
            self._say({"content": delta.text}, raw, pieces)
        elif delta.type == "thinking_delta" and delta.thinking:
            self._say({"reasoning_content": delta.thinking}, raw, pieces)
        elif delta.type == "input_json_delta" and delta.partial_json and index in self._tools:
            self._empty.discard(index)
            self._say(self._arguments(index, delta.partial_json), raw, pieces)
        elif delta.type in _KNOWN_DELTAS:
            self._leave(raw, pieces)
        else:
            self._foreign(payload, raw, pieces)

    def _foreign(self, payload: bytes, raw: bytes, pieces: list[Piece]) -> None:
        """Part of the answer that the pivot has no place for (a signature, a block of another kind): recorded as it is
        when it leaves as it is, and left out when the answer is translated."""
        if self._native:
            self._say({NATIVE: msgspec.Raw(payload)}, raw, pieces)

    def _arguments(self, index: int, text: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": self._tools[index], "function": {"arguments": text}}]}

    def _stop(self, event: _Event, raw: bytes, pieces: list[Piece]) -> None:
        if event.usage is not None:
            self._usage = self._usage.merged(event.usage)
        delta = event.delta
        if delta is None or delta.stop_reason is None or self._end is not None:
            self._leave(raw, pieces)
            return
        self._end = delta
        self._say({}, raw, pieces, _finish(delta.stop_reason, delta.stop_sequence))
        used = b"data: %b\n\n" % _encode(self._chunk([]) | {"usage": self._usage.pivot()})
        pieces.append(Piece(used, b"" if self._native else used))

    def _say(
        self, delta: dict[str, Any], raw: bytes, pieces: list[Piece], finish: dict[str, Any] | None = None
    ) -> None:
        """A piece of the answer."""
        if not self._said:
            self._said = True
            delta = {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, **(finish or {"finish_reason": None})}
        event = b"data: %b\n\n" % _encode(self._chunk([choice]))
        if not self._native:
            pieces.append(Piece(event, event))
            return
        kept, self._kept = self._kept, []
        pieces.append(Piece(event, b"".join((*kept, raw))))

    def _leave(self, raw: bytes, pieces: list[Piece]) -> None:
        """An event that says nothing in the pivot."""
        if not self._native:
            return
        if self._said:
            pieces.append(Piece(b"", raw))
        elif len(self._kept) < 16:  # the start of the message and of a block, and some pings
            self._kept.append(raw)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self._model,
            "choices": choices,
        }


def _error(error: _Error) -> UpstreamError:
    words = "".join(c if c.isprintable() else " " for c in error.message)[:500]
    code = "upstream_overloaded" if error.type == "overloaded_error" else "upstream_error"
    return UpstreamError(f"The source reported an error in its stream: {words or error.type}", code=code)
