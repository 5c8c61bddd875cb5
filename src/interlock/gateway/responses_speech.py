"""A source's own Responses API, for callers who speak it too: what the pivot has no words for comes through.

That is reasoning which its provider encrypts. It goes back to the source that it came from and nowhere else. What is
asked is made of what was checked, item by item, and says `store: false`: a conversation is kept here or nowhere. What
leaves is made from the pivot, with what is carried in it, so that it is stored, bounded and failed as any response.

Source: OpenAI API reference, "Responses", "Streaming events", "Reasoning: encrypted reasoning items".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import BadRequest, UpstreamError
from interlock.sources.fields import uninterpreted
from interlock.types.source import SourceKind
from interlock.wire.answers import error_words
from interlock.wire.responses import items
from interlock.wire.responses.answer import encode
from interlock.wire.speech import DONE, Ask, Asked, Heard, Piece
from interlock.wire.sse import Splitter, data_of

if TYPE_CHECKING:
    from interlock.types.source import Source

PATH = "/responses"
EVENT_BYTES_MAX = 64_000_000
"""Most bytes of one event: the last one has the whole response in it."""
SEALED_BY = "il1"
"""What encrypted reasoning begins with as callers have it; source and name of the item follow."""
CALLS_MAX = 1024
STANDARD = frozenset(
    (
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "include",
        "temperature",
        "top_p",
    )
)
"""Fields of the dialect; others are the pivot's, or an engine's."""
Object = dict[str, Any]


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    annotations: list[Any] = []


class _Item(msgspec.Struct):
    type: str
    id: str = ""
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class _InDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InDetails | None = None
    output_tokens_details: _OutDetails | None = None


class _Why(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    status: str | None = None
    model: str | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    incomplete_details: _Why | None = None


class _Event(msgspec.Struct):
    type: str
    output_index: int = 0
    item: _Item | None = None
    delta: str | None = None
    response: _Response | None = None


_DELTAS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_content",
}
"""Event -> what the pivot calls the text that it brings."""
_ENDS = frozenset(("response.completed", "response.incomplete"))
_FAILURES = frozenset(("response.failed", "error"))
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_response = msgspec.json.Decoder(_Response)
_event = msgspec.json.Decoder(_Event)


class ResponsesSpeech:
    """See Speech. For one source."""

    native = False
    stream_type = b"text/event-stream"

    def __init__(self, source: Source) -> None:
        self._source = source

    def ask(self, ask: Ask) -> Asked:
        """See Speech."""
        parsed, source = ask.parsed, self._source
        assert parsed.native is not None  # noqa: S101 - chosen for calls that have it
        body: Object = dict(parsed.native.fields)
        if source.extra_fields != "pass":
            for name in uninterpreted(source.kind, "chat", [name for name in body if name not in STANDARD]):
                if source.extra_fields == "refuse":
                    words = f"The source {source.name!r} does not take field {name!r}."
                    raise BadRequest(words, code="unknown_field", param=name)
                del body[name]
        body["input"] = [self._given(item) for item in items.read(bytes(body["input"])) if self._takes(item)]
        body |= {"model": ask.offer.model.name, "store": False, "stream": parsed.stream}
        bound = parsed.max_tokens or ask.bound
        if bound:
            body["max_output_tokens"] = bound
        if ask.salt:
            body["cache_salt"] = ask.salt
        return Asked(PATH, encode(body))

    def whole(self, body: bytes, operation: str) -> Heard:  # noqa: ARG002 - every response is a chat
        """See Speech."""
        try:
            response = _response.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _malformed("an answer that is no response") from None
        if response.status not in ("completed", "incomplete") or response.output is None:
            raise UpstreamError(f"The source failed: {error_words(body)}", code="upstream_error")
        said: Object = {"role": "assistant", "content": None}
        calls: list[Object] = []
        for item in response.output:
            parts = item.content or ()
            if item.type == "message":
                text = "".join(part.text for part in parts)
                refusal = "".join(part.refusal for part in parts)
                if text:
                    said["content"] = (said["content"] or "") + text
                if refusal:
                    said["refusal"] = said.get("refusal", "") + refusal
            elif item.type == "function_call":
                calls.append(_call(len(calls), item, item.arguments))
            elif item.type == "reasoning" and parts:
                said["reasoning_content"] = said.get("reasoning_content", "") + "".join(part.text for part in parts)
            self.check(item)
        if calls:
            said["tool_calls"] = calls
        choice = {"index": 0, "message": said, "finish_reason": _reason(response, called=bool(calls))}
        pivot = {
            "object": "chat.completion",
            "model": response.model,
            "choices": [choice],
            "usage": _usage(response.usage),
            "responses": [self.carried(item) for item in response.output],
        }
        data = encode(pivot)
        return Heard(data, data)

    def listen(self, ask: Ask) -> Listener:  # noqa: ARG002 - what it needs is its own
        """See Speech."""
        return Listener(self)

    def _takes(self, item: items.Item) -> bool:
        """Reasoning is of use to who can read it: the source that encrypted it, or an engine that shows it."""
        if item.type != "reasoning":
            return True
        if item.encrypted_content:
            return item.encrypted_content.startswith(f"{SEALED_BY}:{self._source.id}:")
        return self._source.kind is not SourceKind.openai and bool(item.content)

    def _given(self, item: items.Item) -> Object:
        """An item as it goes up: nothing of it that was not read."""
        if item.type == "function_call":
            return {"type": item.type, "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        if item.type == "function_call_output":
            return {"type": item.type, "call_id": item.call_id, "output": items.plain(item.output)}
        if item.type == "message":
            # an assistant's parts would need names and states, which mean nothing to a source that stores nothing
            content = items.said(item) if item.role == "assistant" else items.plain(item.content)
            return {"type": item.type, "role": item.role, "content": content}
        given: Object = {"type": "reasoning", "summary": items.plain(item.summary) or []}
        if item.encrypted_content:
            _, _, given["id"], given["encrypted_content"] = item.encrypted_content.split(":", 3)
        else:
            given |= {"id": item.id or "rs_0", "content": items.plain(item.content)}
        return given

    def carried(self, item: _Item) -> Object:
        """An item of the answer as the pivot carries it."""
        if item.type == "function_call":
            return {"type": item.type, "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        if item.type == "message":
            parts = [
                {"type": "refusal", "refusal": part.refusal}
                if part.type == "refusal"
                else {"type": "output_text", "annotations": part.annotations, "logprobs": [], "text": part.text}
                for part in item.content or ()
            ]
            return {"type": item.type, "role": "assistant", "content": parts}
        blob = item.encrypted_content
        return {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": part.text} for part in item.summary or ()],
            "content": [{"type": "reasoning_text", "text": part.text} for part in item.content or ()],
            "encrypted_content": f"{SEALED_BY}:{self._source.id}:{item.id}:{blob}" if blob else None,
        }

    def check(self, item: _Item) -> None:
        """Raise UpstreamError for an item that nobody asked for."""
        if item.type not in ("message", "function_call", "reasoning"):
            raise _malformed(f"an item of type {item.type[:40]!r}, which nobody asked for")


class Listener:
    """See `wire.speech.Listener`."""

    def __init__(self, speech: ResponsesSpeech) -> None:
        self._speech = speech
        self._splitter = Splitter(EVENT_BYTES_MAX)
        self._calls: dict[int, int] = {}
        self._model: str | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """See `wire.speech.Listener`."""
        pieces: list[Piece] = []
        for event in self._splitter.feed(data):
            self._take(event, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """See `wire.speech.Listener`."""
        pieces: list[Piece] = []
        for event in self._splitter.finish():
            self._take(event, pieces)
        return pieces

    def cut(self) -> bytes:
        """See `wire.speech.Listener`. Never asked for: what leaves is the pivot."""
        return b""

    def _take(self, raw: bytes, pieces: list[Piece]) -> None:
        payload = data_of(raw)
        if payload is None or payload == b"[DONE]":
            return
        try:
            event = _event.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _malformed("an event of another form") from None
        if event.type in _FAILURES:
            raise UpstreamError(f"The source reported an error: {_failure(payload)}", code="upstream_error")
        if event.response is not None:
            self._model = event.response.model or self._model
        if event.type in _ENDS and event.response is not None:
            reason = _reason(event.response, called=bool(self._calls))
            pieces.append(self._piece([{"index": 0, "delta": {}, "finish_reason": reason}]))
            pieces.append(self._piece([], usage=_usage(event.response.usage)))
            pieces.append(Piece(DONE, DONE))
            return
        delta = self._delta(event)
        if delta is not None:
            pieces.append(self._piece([{"index": 0, "delta": delta, "finish_reason": None}]))

    def _delta(self, event: _Event) -> Object | None:
        """What an event says in the pivot; None: nothing."""
        name = _DELTAS.get(event.type)
        if name is not None:
            return {name: event.delta or ""}
        item, calls = event.item, self._calls
        if event.type == "response.output_item.added" and item is not None:
            self._speech.check(item)
            if item.type != "function_call":
                return None
            if len(calls) >= CALLS_MAX:
                raise _malformed("too many calls")
            calls[event.output_index] = len(calls)
            return {"tool_calls": [_call(calls[event.output_index], item, "")]}
        if event.type == "response.function_call_arguments.delta" and event.output_index in calls:
            function = {"arguments": event.delta or ""}
            return {"tool_calls": [{"index": calls[event.output_index], "function": function}]}
        if event.type == "response.output_item.done" and item is not None and item.type == "reasoning":
            return {"reasoning_item": self._speech.carried(item)}
        return None

    def _piece(self, choices: list[Object], **more: object) -> Piece:
        said = {"object": "chat.completion.chunk", "model": self._model, "choices": choices, **more}
        event = b"data: %b\n\n" % encode(said)
        return Piece(event, event)


def _call(index: int, item: _Item, arguments: str) -> Object:
    function = {"name": item.name, "arguments": arguments}
    return {"index": index, "id": item.call_id, "type": "function", "function": function}


def _reason(response: _Response, *, called: bool) -> str:
    """The pivot's finish reason."""
    if response.status == "incomplete":
        why = response.incomplete_details.reason if response.incomplete_details is not None else None
        return _REASONS.get(why or "", "length")
    return "tool_calls" if called else "stop"


def _usage(usage: _Usage | None) -> Object | None:
    if usage is None:
        return None
    given = usage.input_tokens_details or _InDetails()
    thought = usage.output_tokens_details or _OutDetails()
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": given.cached_tokens or 0,
            "cache_write_tokens": given.cache_write_tokens or 0,
        },
        "completion_tokens_details": {"reasoning_tokens": thought.reasoning_tokens or 0},
    }


def _failure(payload: bytes) -> str:
    """What a failure says, whichever of its two forms it has."""
    found = msgspec.json.decode(payload, type=dict[str, Any])
    response = found.get("response")
    return error_words(encode(response if isinstance(response, dict) else found))


def _malformed(what: str) -> UpstreamError:
    return UpstreamError(f"The source sent {what}.", code="upstream_malformed")
