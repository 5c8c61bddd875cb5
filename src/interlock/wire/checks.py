"""Checks of an answer that a cascade makes before it gives it. Pure: the answer, the request, and nothing else.

    json         the text is one JSON value, and as the request's `response_format` says where that has a schema
    finish       the answer came to its end: not cut by its length, not filtered, not refused
    confidence   the mean probability of its tokens, exp(mean logprob), is at least the one asked for
    tool_call    tools are called with JSON objects as arguments; where one had to be called, one is

Each gives "passed", "failed" or "unknown", which is not passed. Every choice of an answer has to pass.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from interlock.wire.conform import Conformity, Unknown
from interlock.wire.openai import Fields

PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"
LOG_MAX = 1e9
"""A log probability beyond it is none; JSON's integers may be too large for a float."""
_ENDS = frozenset(("stop", "tool_calls", "function_call"))
_decode = msgspec.json.Decoder().decode
_object = msgspec.json.Decoder(dict[str, Any]).decode


class Asked(NamedTuple):
    """What of a request its answer is held against. `must_call`: a tool has to be called; `schema`: of its
    `response_format`, where `has_schema`."""

    must_call: bool = False
    schema: Any = None
    has_schema: bool = False


class _Held(NamedTuple):
    """What one answer's choices are held against. `form`: shared, so that many choices take no more than one."""

    asked: Asked
    form: Conformity
    least_milli: int


def asked_of(fields: Fields) -> Asked:
    """What a request asks of its answer. `fields`: those of a request that was checked."""
    choice = _value(fields, "tool_choice")
    must_call = choice == "required" or (isinstance(choice, dict) and choice.get("type") != "auto")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        must_call = isinstance(allowed, dict) and allowed.get("mode") == "required"
    form = _value(fields, "response_format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return Asked(must_call)
    told = form.get("json_schema")
    if isinstance(told, dict) and "schema" in told:
        return Asked(must_call, told["schema"], has_schema=True)
    return Asked(must_call)


def check(
    names: tuple[str, ...], answer: dict[str, Any], asked: Asked, *, confidence_min_milli: int = 0
) -> tuple[tuple[str, str], ...]:
    """The verdict of each check, in the order of `names`. `answer`: a whole answer in OpenAI's form."""
    choices = [each for each in _list(answer.get("choices")) if isinstance(each, dict)]
    held = _Held(asked, Conformity(asked.schema), confidence_min_milli)
    made = []
    for name in names:
        each = [_ONE[name](choice, held) for choice in choices]
        made.append((name, FAILED if FAILED in each else UNKNOWN if UNKNOWN in each or not each else PASSED))
    return tuple(made)


def confidence_milli(choice: dict[str, Any]) -> int | None:
    """The mean probability of a choice's tokens in thousandths; None where it has no log probabilities."""
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        return None
    found: list[Any] = []
    if isinstance(told.get("content"), list):
        found = [each.get("logprob") for each in told["content"] if isinstance(each, dict)]
    elif isinstance(told.get("token_logprobs"), list):
        found = [each for each in told["token_logprobs"] if each is not None]
    known = [each for each in found if isinstance(each, (int, float)) and not isinstance(each, bool)]
    if not known or len(known) != len(found) or not all(-LOG_MAX <= each <= LOG_MAX for each in known):
        return None
    return math.floor(1000 * math.exp(min(0.0, sum(known) / len(known))))


def _json(choice: dict[str, Any], held: _Held) -> str:
    message = _message(choice)
    text = message.get("content") if "message" in choice else choice.get("text")
    if _list(message.get("tool_calls")) and not text:
        return PASSED  # it is the tool's arguments that count
    if not isinstance(text, str):
        return FAILED
    try:
        value = _decode(text.encode())
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return FAILED
    if not held.asked.has_schema:
        return PASSED
    try:
        return PASSED if held.form.of(value) else FAILED
    except (Unknown, RecursionError):
        return UNKNOWN


def _finish(choice: dict[str, Any], _: _Held) -> str:
    reason = choice.get("finish_reason")
    if reason is None:
        return UNKNOWN
    return PASSED if reason in _ENDS and not _message(choice).get("refusal") else FAILED


def _confidence(choice: dict[str, Any], held: _Held) -> str:
    milli = confidence_milli(choice)
    if milli is None:
        return UNKNOWN
    return PASSED if milli >= held.least_milli else FAILED


def _tool_call(choice: dict[str, Any], held: _Held) -> str:
    called = _list(_message(choice).get("tool_calls"))
    if held.asked.must_call and not called:
        return FAILED
    return PASSED if all(_callable(each) for each in called) else FAILED


def _callable(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str) or not function.get("name"):
        return False
    try:
        _object(function["arguments"].encode())
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return False
    return True


_ONE = {"json": _json, "finish": _finish, "confidence": _confidence, "tool_call": _tool_call}


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _value(fields: Fields, name: str) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _decode(bytes(raw))
    except (msgspec.MsgspecError, RecursionError):
        return None
