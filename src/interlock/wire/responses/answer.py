"""The pivot's answers as responses: whole ones, and the parts that streamed ones are made of too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from interlock.errors import InterlockError, LimitExceeded, UpstreamError

Object = dict[str, Any]
encode = msgspec.json.encode


class Ids(NamedTuple):
    """Names of a response and what is in it. `stem` tells calls apart, `response` cannot be guessed."""

    response: str
    stem: str

    def item(self, kind: str, index: int) -> str:
        """Of an output item; `kind`: "msg", "fc" or "rs"."""
        return f"{kind}_{self.stem}_{index}"


class _InDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Used(msgspec.Struct):
    """The pivot's usage."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InDetails | None = None
    completion_tokens_details: _OutDetails | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class Said(msgspec.Struct):
    """A message, or a piece of one. Engines name reasoning in two ways."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_item: dict[str, Any] | None = None
    """A reasoning that ends, as a source with this dialect gives it (`interlock.gateway.responses_speech`)."""


class _Choice(msgspec.Struct):
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """A whole answer of the pivot, or an event of a streamed one."""

    choices: list[_Choice] | None = None
    model: str | None = None
    usage: Used | None = None
    responses: list[dict[str, Any]] | None = None
    """The items of a whole answer, as a source with this dialect gives them."""


_answer = msgspec.json.Decoder(Answer)


def read(data: bytes) -> Answer:
    """An answer or event of the pivot. Raises UpstreamError `upstream_malformed`."""
    try:
        return _answer.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("The source sent an answer of another form.", code="upstream_malformed") from None


def skeleton(ids: Ids, created_s: int, echo: Object, *, store: bool) -> Object:
    """A response of which nothing has been said yet. `created_s`: Unix seconds."""
    return {
        "id": ids.response,
        "object": "response",
        "created_at": created_s,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "store": store,
        "usage": None,
        **echo,
    }


def message(item_id: str, parts: list[Object], status: str) -> Object:
    """An output item: what the model says."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}


def text_part(text: str) -> Object:
    """A part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def refusal_part(text: str) -> Object:
    """A part of a message that says no."""
    return {"type": "refusal", "refusal": text}


def reasoning_item(item_id: str, text: str, status: str) -> Object:
    """An output item: what the model thinks, as its source shows it."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": None,
        "status": status,
    }


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Object:
    """An output item: a function that the caller is to run."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def whole(body: bytes, response: Object, ids: Ids, now_s: int) -> Object:
    """The response that a whole answer of the pivot is. `response`: its skeleton. Raises UpstreamError."""
    answer = read(body)
    choice = answer.choices[0] if answer.choices else None
    if choice is None or choice.message is None:
        raise UpstreamError("The source sent an answer without a message.", code="upstream_malformed")
    said, reason = choice.message, choice.finish_reason or ""
    status = item_status(reason)
    if answer.responses and all(item.get("type") in _KINDS for item in answer.responses):
        given = [_own(item, ids, index, status) for index, item in enumerate(answer.responses)]
        return finished(response, given, reason, answer.model, answer.usage, now_s)
    output: list[Object] = []
    reasoning = said.reasoning_content or said.reasoning
    if reasoning:
        output.append(reasoning_item(ids.item("rs", 0), reasoning, status))
    parts = [text_part(said.content)] if said.content else []
    if said.refusal:
        parts.append(refusal_part(said.refusal))
    calls = said.tool_calls or ()
    if parts or not (calls or output):
        output.append(message(ids.item("msg", len(output)), parts or [text_part("")], status))
    for call in calls:
        item_id = ids.item("fc", len(output))
        function = call.function or _Function()
        name, arguments = function.name or "", function.arguments or ""
        output.append(call_item(item_id, call.id or f"call_{item_id}", name, arguments, status))
    return finished(response, output, reason, answer.model, answer.usage, now_s)


_KINDS = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


def _own(item: Object, ids: Ids, index: int, status: str) -> Object:
    """An item that a source gave, with our name for it."""
    return {**item, "id": ids.item(_KINDS[item["type"]], index), "status": status}


def item_status(reason: str) -> str:
    """The status of what was said when it ended for this reason."""
    return "incomplete" if reason in _INCOMPLETE else "completed"


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The pivot's finish reason -> why a response is not whole."""


def finished(
    response: Object, output: Iterable[Object], reason: str, model: str | None, used: Used | None, now_s: int
) -> Object:
    """The response as it ends."""
    why = _INCOMPLETE.get(reason)
    return {
        **response,
        "model": model or response["model"],
        "status": "completed" if why is None else "incomplete",
        "completed_at": now_s if why is None else None,
        "incomplete_details": None if why is None else {"reason": why},
        "output": list(output),
        "usage": _usage(used),
    }


def failed(response: Object, output: Iterable[Object], error: InterlockError) -> Object:
    """The response as it fails."""
    code = "rate_limit_exceeded" if isinstance(error, LimitExceeded) else "server_error"
    return {
        **response,
        "status": "failed",
        "error": {"code": code, "message": f"{error.message} ({error.code})"},
        "output": list(output),
    }


def _usage(used: Used | None) -> Object | None:
    if used is None:
        return None
    prompt, completion = used.prompt_tokens or 0, used.completion_tokens or 0
    given = used.prompt_tokens_details or _InDetails()
    thought = (used.completion_tokens_details or _OutDetails()).reasoning_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": given.cached_tokens or 0,
            "cache_write_tokens": given.cache_write_tokens or 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": thought or 0},
        "total_tokens": prompt + completion,
    }
