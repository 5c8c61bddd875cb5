"""A streamed answer of the pivot as the events of a response.

    response.created, response.in_progress
      response.output_item.added
        response.content_part.added, response.<part>.delta ..., response.<part>.done, response.content_part.done
        or, of a function call: response.function_call_arguments.delta ..., response.function_call_arguments.done
      response.output_item.done
    response.completed, response.incomplete or response.failed

A message or a reasoning is done when something else begins; calls are done at the end, because pieces of parallel calls
may come in any order.
"""

from __future__ import annotations

from collections.abc import Callable

from interlock.errors import InterlockError, UpstreamError
from interlock.wire.responses.answer import (
    Ids,
    Object,
    Said,
    ToolCall,
    Used,
    call_item,
    encode,
    failed,
    finished,
    item_status,
    message,
    read,
    reasoning_item,
    refusal_part,
    text_part,
)
from interlock.wire.sse import Splitter, data_of

CALLS_MAX = 1024
"""Parallel calls of one answer that are followed."""
COMMENT = b": keep-alive\n\n"


class _Text:
    """A message or a reasoning that is being said. `kind`: "output_text", "refusal" or "reasoning_text"."""

    def __init__(self, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self.kind = ""
        self.pieces: list[str] = []
        self.parts: list[Object] = []


class _Call:
    """A function call that is being said."""

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        self.id = item_id
        self.index = index
        self.call_id = call_id
        self.name = name
        self.pieces: list[str] = []


class Stream:
    """Makes the events of one response. `bytes_max`: of all that is said, which the last event holds again;
    `event_bytes_max`: of one event of the pivot. After an UpstreamError only `failed` is to be asked for."""

    def __init__(
        self, response: Object, ids: Ids, *, bytes_max: int, event_bytes_max: int, now_s: Callable[[], int]
    ) -> None:
        self._response = response
        self._ids = ids
        self._left = bytes_max
        self._now_s = now_s
        self._splitter = Splitter(event_bytes_max)
        self._sequence = 0
        self._output: list[Object | None] = []
        self._text: _Text | None = None
        self._calls: dict[int, _Call] = {}
        self._reason = ""
        self._model: str | None = None
        self._used: Used | None = None
        self._begun = False

    def begin(self) -> bytes:
        """The events before anything is said."""
        if self._begun:
            return b""
        self._begun = True
        response = self._response
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def feed(self, data: bytes) -> bytes:
        """Bytes of the pivot's stream, cut anywhere. Raises UpstreamError."""
        out = []
        for event in self._splitter.feed(data):
            payload = data_of(event)
            if payload is None:
                out.append(COMMENT)
            elif payload != b"[DONE]":
                self._take(payload, out)
        return b"".join(out)

    def finish(self) -> tuple[bytes, Object]:
        """The events that end what is being said, and the response as it ends."""
        out: list[bytes] = []
        status = item_status(self._reason)
        if not self._output:
            self._speak("msg", "output_text", out)
        self._close_text(out, status)
        for call in self._calls.values():
            self._close_call(call, status, out)
        output = [item for item in self._output if item is not None]
        response = finished(self._response, output, self._reason, self._model, self._used, self._now_s())
        return b"".join(out), response

    def last(self, response: Object) -> bytes:
        """The last event of a response that ended."""
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, error: InterlockError) -> bytes:
        """The last event of a response that failed."""
        done = [item for item in self._output if item is not None]
        return self.begin() + self._event("response.failed", response=failed(self._response, done, error))

    # -- what is said

    def _take(self, payload: bytes, out: list[bytes]) -> None:
        self._left -= len(payload)
        if self._left < 0:
            raise UpstreamError("The source said more than is taken.", code="upstream_too_large")
        event = read(payload)
        self._model = event.model or self._model
        self._used = event.usage or self._used
        if not event.choices:
            return
        choice = event.choices[0]
        if choice.delta is not None:
            self._delta(choice.delta, out)
        self._reason = choice.finish_reason or self._reason

    def _delta(self, said: Said, out: list[bytes]) -> None:
        thought = said.reasoning_content or said.reasoning
        if thought:
            self._say("rs", "reasoning_text", thought, out)
        if said.content:
            self._say("msg", "output_text", said.content, out)
        if said.refusal:
            self._say("msg", "refusal", said.refusal, out)
        for call in said.tool_calls or ():
            self._call(call, out)
        if said.reasoning_item is not None:
            self._reasoned(said.reasoning_item, out)

    def _say(self, item: str, kind: str, piece: str, out: list[bytes]) -> None:
        text = self._speak(item, kind, out)
        text.pieces.append(piece)
        more: Object = {"logprobs": []} if kind == "output_text" else {}
        out.append(
            self._event(
                f"response.{kind}.delta",
                item_id=text.id,
                output_index=text.index,
                content_index=len(text.parts),
                delta=piece,
                **more,
            )
        )

    def _speak(self, item: str, kind: str, out: list[bytes]) -> _Text:
        """The text that a piece of this kind belongs to."""
        text = self._text
        if text is not None and text.kind == kind:
            return text
        if text is not None and item == "msg" and text.kind != "reasoning_text":
            self._close_part(text, out)  # another part of the same message
        else:
            self._close_text(out, "completed")
            text = self._begin_text(item, out)
        text.kind = kind
        out.append(self._part_event("added", text, _part(kind, "")))
        return text

    def _begin_text(self, item: str, out: list[bytes]) -> _Text:
        index = len(self._output)
        text = self._text = _Text(self._ids.item(item, index), index)
        self._output.append(None)
        begun = message(text.id, [], "in_progress") if item == "msg" else reasoning_item(text.id, "", "in_progress")
        out.append(self._event("response.output_item.added", output_index=index, item=begun))
        return text

    def _close_part(self, text: _Text, out: list[bytes]) -> None:
        said = "".join(text.pieces)
        part = _part(text.kind, said)
        more: Object = {"refusal": said} if text.kind == "refusal" else {"text": said}
        if text.kind == "output_text":
            more["logprobs"] = []
        place = {"item_id": text.id, "output_index": text.index, "content_index": len(text.parts)}
        out.append(self._event(f"response.{text.kind}.done", **place, **more))
        out.append(self._part_event("done", text, part))
        text.parts.append(part)
        text.pieces = []

    def _part_event(self, what: str, text: _Text, part: Object) -> bytes:
        return self._event(
            f"response.content_part.{what}",
            item_id=text.id,
            output_index=text.index,
            content_index=len(text.parts),
            part=part,
        )

    def _close_text(self, out: list[bytes], status: str) -> None:
        text, self._text = self._text, None
        if text is None:
            return
        self._close_part(text, out)
        if text.kind == "reasoning_text":
            item = {**reasoning_item(text.id, "", status), "content": text.parts}
        else:
            item = message(text.id, text.parts, status)
        self._done(text.index, item, out)

    def _reasoned(self, item: Object, out: list[bytes]) -> None:
        """A reasoning has ended, of which its source gives more than its text."""
        text = self._text
        if text is None or text.kind != "reasoning_text":
            self._close_text(out, "completed")
            text = self._begin_text("rs", out)
        else:
            self._close_part(text, out)
        self._text = None
        told: Object = {name: item[name] for name in ("summary", "content", "encrypted_content") if name in item}
        self._done(text.index, {**reasoning_item(text.id, "", "completed"), **told}, out)

    def _done(self, index: int, item: Object, out: list[bytes]) -> None:
        self._output[index] = item
        out.append(self._event("response.output_item.done", output_index=index, item=item))

    # -- calls

    def _call(self, piece: ToolCall, out: list[bytes]) -> None:
        number = piece.index or 0
        name = piece.function.name if piece.function is not None else None
        call = self._calls.get(number)
        if call is None:
            if not name or len(self._calls) >= CALLS_MAX:
                raise UpstreamError("The source sent a tool call without a name.", code="upstream_malformed")
            self._close_text(out, "completed")
            index = len(self._output)
            item_id = self._ids.item("fc", index)
            call = self._calls[number] = _Call(item_id, index, piece.id or f"call_{item_id}", name)
            self._output.append(None)
            begun = call_item(call.id, call.call_id, name, "", "in_progress")
            out.append(self._event("response.output_item.added", output_index=index, item=begun))
        arguments = piece.function.arguments if piece.function is not None else None
        if arguments:
            call.pieces.append(arguments)
            out.append(
                self._event(
                    "response.function_call_arguments.delta",
                    item_id=call.id,
                    output_index=call.index,
                    delta=arguments,
                )
            )

    def _close_call(self, call: _Call, status: str, out: list[bytes]) -> None:
        arguments = "".join(call.pieces)
        out.append(
            self._event(
                "response.function_call_arguments.done",
                item_id=call.id,
                output_index=call.index,
                name=call.name,
                arguments=arguments,
            )
        )
        self._done(call.index, call_item(call.id, call.call_id, call.name, arguments, status), out)

    def _event(self, kind: str, **fields: object) -> bytes:
        data = encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _part(kind: str, said: str) -> Object:
    if kind == "output_text":
        return text_part(said)
    return refusal_part(said) if kind == "refusal" else {"type": "reasoning_text", "text": said}
