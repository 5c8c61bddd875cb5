"""Answers of the OpenAI dialect: just enough is decoded to record, meter and end them; bytes pass through.

Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object"; usage details
(`prompt_tokens_details.cached_tokens`) as vLLM and llama.cpp send them too.
"""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.types.usage import Usage

Raw = msgspec.Raw
UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """The `usage` object as sources send it."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None

    def usage(self) -> Usage:
        """The same in our terms; negative or missing figures count as zero."""
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details is not None else 0
        return Usage(max(self.prompt_tokens or 0, 0), max(cached or 0, 0), max(self.completion_tokens or 0, 0))


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    tool_calls: list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None


class _StreamChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class StreamEvent(msgspec.Struct):
    """One event of a streamed answer."""

    choices: list[_StreamChoice] | None = None
    model: str | None = None
    usage: WireUsage | None = None
    error: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class WholeAnswer(msgspec.Struct):
    """An unstreamed answer: what recording and metering need of it."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    data: list[Raw] | None = None
    """Embeddings."""
    error: Raw | UnsetType = UNSET


class _ErrorObject(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject | str | None = None
    message: str | None = None
    detail: Raw | None = None


decode_event = msgspec.json.Decoder(StreamEvent).decode
decode_answer = msgspec.json.Decoder(WholeAnswer).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def plain_text(choice: _StreamChoice) -> str | None:
    """The text of a choice that carries nothing but text, or None when there is more to it than that."""
    if choice.logprobs:
        return None
    delta = choice.delta
    if delta is None:
        return choice.text or ""
    if (
        delta.tool_calls
        or delta.reasoning_content
        or delta.reasoning
        or delta.refusal
        or delta.function_call
        or delta.audio
    ):
        return None
    return delta.content or ""


def error_words(body: bytes, limit: int = 500) -> str:
    """What a source's error answer says, in at most `limit` characters of printable text."""
    try:
        parsed = _decode_error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = body[: limit * 4].decode("utf-8", "replace")
    else:
        if isinstance(parsed.error, _ErrorObject):
            text = parsed.error.message or ""
        elif isinstance(parsed.error, str):
            text = parsed.error
        elif parsed.message:
            text = parsed.message
        else:
            text = bytes(parsed.detail).decode("utf-8", "replace") if parsed.detail else ""
    return "".join(c if c.isprintable() else " " for c in text)[:limit]
