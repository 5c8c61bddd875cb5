"""What an Ollama server says, in the pivot: whole answers, and streams of lines."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.errors import UpstreamError
from interlock.wire.answers import error_words
from interlock.wire.ollama.lines import TYPE, Lines
from interlock.wire.ollama.question import body_of, path_of
from interlock.wire.speech import DONE, Asked, Heard, Piece

if TYPE_CHECKING:
    from interlock.wire.speech import Ask

LINE_BYTES_MAX = 4_000_000
"""Longest line of a stream."""
_REASONS = {"length": "length"}
"""`done_reason` -> finish reason, where that is not "stop"."""


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Top(msgspec.Struct):
    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None


class _Logprob(_Top):
    top_logprobs: list[_Top] = []


class Line(msgspec.Struct):
    """One line of a stream, or a whole answer, of `/api/chat` or `/api/generate`."""

    model: str = ""
    created_at: str = ""
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    logprobs: list[_Logprob] | None = None
    error: Any = None


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]]
    model: str = ""
    prompt_eval_count: int | None = None


_line = msgspec.json.Decoder(Line)
_embedded = msgspec.json.Decoder(_Embedded)
_encode = msgspec.json.Encoder().encode


class OllamaSpeech:
    """See Speech."""

    native = False
    stream_type = TYPE

    def ask(self, ask: Ask) -> Asked:
        """See Speech."""
        return Asked(path_of(ask.parsed.operation), body_of(ask))

    def whole(self, body: bytes, operation: str) -> Heard:
        """See Speech."""
        try:
            pivot = _whole_embeddings(body) if operation == "embeddings" else _whole(body, operation)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise _malformed() from None
        return Heard(pivot, pivot)

    def listen(self, ask: Ask) -> OllamaListener:
        """See Speech."""
        return OllamaListener(ask.parsed.operation)


def _malformed() -> UpstreamError:
    return UpstreamError("the source's answer is not what Ollama says", code="upstream_malformed")


def _read(data: bytes) -> Line:
    line = _line.decode(data)
    if line.error:
        raise UpstreamError(f"the source reported an error: {error_words(data)}", code="upstream_error")
    return line


def _whole(body: bytes, operation: str) -> bytes:
    line = _read(body)
    said = Said(line, body, operation)
    if not line.done or said.text is None:
        raise _malformed()
    reason = said.finish_reason(line)
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    if operation == "completions":
        choice["text"] = said.text
        choice["logprobs"] = _text_logprobs(line.logprobs)
    else:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.thinking:
            message["reasoning_content"] = said.thinking
        calls = said.calls(line)
        if calls:
            message["tool_calls"] = calls
            message["content"] = said.text or None
        choice["message"] = message
        choice["logprobs"] = {"content": line.logprobs} if line.logprobs else None
    out = said.frame("text_completion" if operation == "completions" else "chat.completion")
    out["choices"] = [choice]
    usage = usage_of(line)
    if usage is not None:
        out["usage"] = usage
    return _encode(out)


def _whole_embeddings(body: bytes) -> bytes:
    answer = _embedded.decode(body)
    out: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(answer.embeddings)],
        "model": answer.model,
    }
    if answer.prompt_eval_count is not None:
        out["usage"] = {"prompt_tokens": answer.prompt_eval_count, "total_tokens": answer.prompt_eval_count}
    return _encode(out)


class Said:
    """The answer that begins with a line: what its later pieces have in common with it.

    Ollama's answers have no id, and tool calls often none: ids are made of the first line, whose time is in
    nanoseconds."""

    __slots__ = ("_calls", "created", "id", "model", "text", "thinking")

    def __init__(self, line: Line, raw: bytes, operation: str) -> None:
        digest = hashlib.sha256(raw).hexdigest()[:24]
        self.id = f"{'cmpl' if operation == 'completions' else 'chatcmpl'}-{digest}"
        self.model = line.model
        self.created = _seconds(line.created_at)
        self._calls = 0
        self.hear(line)

    def hear(self, line: Line) -> None:
        """Take a line's text and thoughts."""
        message = line.message
        self.text = message.content if message is not None else line.response
        self.thinking = message.thinking if message is not None else line.thinking
        if message is not None and self.text is None:
            self.text = ""

    def calls(self, line: Line) -> list[dict[str, Any]]:
        """A line's tool calls, each with an id and its arguments as text."""
        out = []
        for call in (line.message.tool_calls if line.message is not None else None) or ():
            arguments = _encode(call.function.arguments or {}).decode()
            call_id = call.id or f"call_{self.id[-24:]}_{self._calls}"
            self._calls += 1
            out.append(
                {"id": call_id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
            )
        return out

    def finish_reason(self, line: Line) -> str:
        """Of the last line."""
        called = self._calls or (line.message is not None and line.message.tool_calls)
        reason = _REASONS.get(line.done_reason or "", "stop")
        return "tool_calls" if called and reason == "stop" else reason

    def frame(self, kind: str) -> dict[str, Any]:
        """What every object of the answer begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class OllamaListener:
    """See Listener."""

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._kind = "text_completion" if operation == "completions" else "chat.completion.chunk"
        self._lines = Lines(LINE_BYTES_MAX)
        self._said: Said | None = None
        self._calls = 0
        self._done = False

    def feed(self, data: bytes) -> list[Piece]:
        """See Listener."""
        return self._hear(self._lines.feed(data))

    def finish(self) -> list[Piece]:
        """See Listener."""
        return self._hear(self._lines.finish())

    def cut(self) -> bytes:
        """See Listener: this speech is not native."""
        return b""

    def _hear(self, lines: list[bytes]) -> list[Piece]:
        pieces: list[Piece] = []
        for raw in lines:
            if self._done:
                break
            try:
                line = _read(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise _malformed() from None
            pieces.extend(self._pieces(line, raw))
        return pieces

    def _pieces(self, line: Line, raw: bytes) -> list[Piece]:
        first = self._said is None
        said = self._said
        if said is None:
            said = self._said = Said(line, raw, self._operation)
        else:
            said.hear(line)
        pieces = []
        choice = self._text(said, line) if self._operation == "completions" else self._delta(said, line, first)
        if choice is not None:
            pieces.append(self._event({"choices": [choice]}))
        if line.done:
            self._done = True
            last: dict[str, Any] = {"text": ""} if self._operation == "completions" else {"delta": {}}
            reason = said.finish_reason(line)
            pieces.append(self._event({"choices": [{"index": 0, **last, "finish_reason": reason}]}))
            usage = usage_of(line)
            if usage is not None:
                pieces.append(self._event({"choices": [], "usage": usage}))
            pieces.append(Piece(DONE, DONE))
        return pieces

    def _delta(self, said: Said, line: Line, first: bool) -> dict[str, Any] | None:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if said.thinking:
            delta["reasoning_content"] = said.thinking
        if said.text or (first and not said.thinking):
            delta["content"] = said.text or ""
        calls = said.calls(line)
        if calls:
            delta["tool_calls"] = [{"index": self._calls + i, **call} for i, call in enumerate(calls)]
            self._calls += len(calls)
        if not delta:
            return None
        logprobs = {"content": line.logprobs} if line.logprobs else None
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _text(self, said: Said, line: Line) -> dict[str, Any] | None:
        if not said.text:
            return None
        return {"index": 0, "text": said.text, "logprobs": _text_logprobs(line.logprobs), "finish_reason": None}

    def _event(self, more: dict[str, Any]) -> Piece:
        assert self._said is not None  # noqa: S101 - a line was heard
        event = b"data: %b\n\n" % _encode(self._said.frame(self._kind) | more)
        return Piece(event, event)


def usage_of(line: Line) -> dict[str, Any] | None:
    """The usage in a last line. None when the prompt was not counted: servers leave that out when it came from their
    cache, and what nobody counted must not be taken for nothing."""
    prompt = line.prompt_eval_count
    if prompt is None:
        return None
    completion = line.eval_count or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _text_logprobs(given: list[_Logprob] | None) -> dict[str, Any] | None:
    """As text completions have them (OpenAI API reference, "The completion object")."""
    if not given:
        return None
    tops = [{top.token: top.logprob for top in entry.top_logprobs} for entry in given]
    return {
        "tokens": [entry.token for entry in given],
        "token_logprobs": [entry.logprob for entry in given],
        "top_logprobs": tops if any(tops) else None,
    }


def _seconds(created_at: str) -> int:
    try:
        return int(datetime.fromisoformat(created_at).timestamp())
    except (ValueError, OverflowError):
        return 0
