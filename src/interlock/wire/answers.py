"""Answers of the OpenAI dialect: just enough is decoded to record, meter and end them; bytes pass through.

Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object"; usage details
(`prompt_tokens_details.cached_tokens`) as vLLM and llama.cpp send them too, and `cache_write_tokens` beside them as
clouds do that bill these apart.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from interlock.types.usage import Usage

Raw = msgspec.Raw
UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """The `usage` object as sources send it."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    total_tokens: int | None = 0

    def usage(self) -> Usage:
        """The same in our terms; missing figures count as zero, absurd ones as the nearest that is possible."""
        details = self.prompt_tokens_details
        prompt, completion = self.prompt_tokens or 0, self.completion_tokens or 0
        if not prompt and not completion:
            prompt = self.total_tokens or 0  # all that some tell of what generates nothing
        cached, written = 0, 0
        if details is not None:
            cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
        most = TOKENS_MAX
        if not (0 <= prompt <= most and 0 <= completion <= most and 0 <= cached <= most and 0 <= written <= most):
            prompt, completion, cached, written = map(_tokens, (prompt, completion, cached, written))
        return Usage(prompt, cached, completion, "engine", written)


TOKENS_MAX = 2**31 - 1
"""Most tokens believed of one answer: a source that reports more must not overflow counters and records."""


def _tokens(reported: int) -> int:
    return min(max(reported, 0), TOKENS_MAX)


class StreamChoice(msgspec.Struct):
    """One choice of such an event."""

    index: int = 0
    delta: dict[str, Any] | None = None
    """A plain mapping: what an engine adds under a name of its own must not be taken for nothing."""
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class StreamEvent(msgspec.Struct):
    """One event of a streamed answer."""

    choices: list[StreamChoice] | None = None
    model: str | None = None
    usage: WireUsage | None = None
    error: Raw | UnsetType = UNSET


class _PlainDelta(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    role: str | None = None
    reasoning_content: None = None
    reasoning: None = None
    refusal: None = None
    tool_calls: tuple[()] | None = None
    function_call: None = None


class _PlainChoice(msgspec.Struct):
    delta: _PlainDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None


class PlainEvent(msgspec.Struct):
    """The event that nearly all of a stream consists of: one choice, a piece of text, nothing else.

    What does not decode as this is looked at as a `StreamEvent`: this only saves the looking."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class WholeAnswer(msgspec.Struct):
    """An unstreamed answer: what recording and metering need of it."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    data: list[Raw] | None = None
    """Embeddings, or scores of pairs."""
    results: list[Raw] | None = None
    """Documents by their relevance."""
    error: Raw | UnsetType = UNSET


class _ErrorObject(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject | str | None = None
    message: str | None = None
    capital: str | None = msgspec.field(default=None, name="Message")
    """As Amazon's gateways write it."""
    detail: Raw | UnsetType = UNSET


decode_plain = msgspec.json.Decoder(PlainEvent).decode
decode_event = msgspec.json.Decoder(StreamEvent).decode
decode_answer = msgspec.json.Decoder(WholeAnswer).decode
_error_body = msgspec.json.Decoder(_ErrorBody | list[_ErrorBody])


def plain_text(choice: StreamChoice) -> str | None:
    """The text of a choice that carries nothing but text, or None when there is more to it than that."""
    if choice.logprobs:
        return None
    delta = choice.delta
    if delta is None:
        return choice.text or ""
    text = delta.get("content")
    if len(delta) > 1 or text is None:
        for name, value in delta.items():
            if value and name not in _PLAIN:
                return None
    return text if type(text) is str else None if text else ""


_PLAIN = ("content", "role")


def _decode_error(body: bytes) -> _ErrorBody:
    """Google's compatible endpoint puts the error's object into a list."""
    parsed: _ErrorBody | list[_ErrorBody] = _error_body.decode(body)
    if isinstance(parsed, list):
        return parsed[0] if parsed else _ErrorBody()
    return parsed


def error_code(body: bytes) -> str:
    """The code that a source's error answer names, "" when there is none."""
    try:
        error = _decode_error(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return str(error.code) if isinstance(error, _ErrorObject) and error.code is not None else ""


def error_words(body: bytes, limit: int = 500) -> str:
    """What a source's error answer says, in at most `limit` characters of printable text."""
    try:
        parsed = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body[: limit * 4].decode("utf-8", "replace")
    else:
        if isinstance(parsed.error, _ErrorObject):
            text = parsed.error.message or ""
        elif isinstance(parsed.error, str):
            text = parsed.error
        elif parsed.message or parsed.capital:
            text = parsed.message or parsed.capital or ""
        else:
            text = bytes(parsed.detail).decode("utf-8", "replace") if isinstance(parsed.detail, Raw) else ""
    return "".join(c if c.isprintable() else " " for c in text)[:limit]
