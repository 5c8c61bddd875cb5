"""What the pivot answers, as an Ollama client reads it: one object, or a stream of lines.

A stream's last line has `done` true and the counts. A tool call is one object with its arguments decoded, so that its
pieces are held until it is whole; arguments that are no JSON object are given as text, as Ollama does with what it
cannot read as a call.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from interlock.errors import InterlockError
from interlock.wire.sse import data_of

HELD_BYTES_MAX = 4_000_000
"""Most characters of tool calls that are held until they are whole."""
_encode = msgspec.json.Encoder().encode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None
    """Text, as OpenAI has it; of some engines an object."""


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct):
    """A message, or what a stream adds to it."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Piece | None = None
    message: _Piece | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Said(msgspec.Struct):
    """A whole answer, or an event of a streamed one."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_said_of = msgspec.json.Decoder(_Said).decode
_vectors_of = msgspec.json.Decoder(_Vectors).decode
_decode = msgspec.json.decode
NOT_READ = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for an answer that is not as it should be."""


class Times(NamedTuple):
    """Durations in nanoseconds, measured at the gateway: of the call, and up to its first piece."""

    total_ns: int
    first_ns: int

    def fields(self) -> dict[str, int]:
        """As Ollama names them."""
        return {
            "total_duration": self.total_ns,
            "prompt_eval_duration": self.first_ns,
            "eval_duration": max(self.total_ns - self.first_ns, 0),
        }


def stamp(wall_ns: int) -> str:
    """A time as Ollama writes it (RFC 3339, UTC, microseconds)."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def error_body(error: InterlockError) -> bytes:
    """The JSON body of an error, and the line that tells it in a stream (with a line end)."""
    return _encode({"error": error.message})


def whole(form: str, pivot: bytes, model: str, created_at: str, times: Times) -> bytes:
    """The answer of `/api/<form>` to an unstreamed request, from a whole answer of the pivot. Raises NOT_READ."""
    if form in ("embed", "embeddings"):
        return _embedded(form, _vectors_of(pivot), model, times)
    answer = _said_of(pivot)
    choice = answer.choices[0] if answer.choices else _Choice()
    piece = choice.message or _Piece(choice.text)
    calls = Calls()
    calls.take(piece.tool_calls)
    said = _say(form, _text(piece.content), _thought(piece), *calls.whole())
    out = {"model": model, "created_at": created_at} | said | _last(choice.finish_reason, answer.usage, times)
    if choice.logprobs is not None and choice.logprobs.content:
        out["logprobs"] = choice.logprobs.content
    return _encode(out)


def _embedded(form: str, answer: _Vectors, model: str, times: Times) -> bytes:
    vectors = [entry.embedding for entry in answer.data]
    if form == "embeddings":
        return _encode({"embedding": vectors[0] if vectors else []})
    out = {"model": model, "embeddings": vectors, "total_duration": times.total_ns}
    if answer.usage is not None and answer.usage.prompt_tokens is not None:
        out["prompt_eval_count"] = answer.usage.prompt_tokens
    return _encode(out)


class Writer:
    """Makes lines of a streamed answer's events."""

    def __init__(self, form: str, model: str) -> None:
        self._form = form
        self._model = model
        self._calls = Calls()
        self._reason: str | None = None
        self._usage: _Usage | None = None

    def lines(self, event: bytes, created_at: str) -> bytes:
        """The lines that one event of the pivot becomes; b"" for comments and what only counts. The last line is made
        by `last`. Raises NOT_READ."""
        data = data_of(event)
        if data is None or data == b"[DONE]":
            return b""
        said = _said_of(data)
        self._usage = said.usage or self._usage
        out = b""
        for choice in said.choices or ():
            if choice.index:
                continue  # one answer is all that Ollama has
            piece = choice.delta or _Piece(choice.text)
            self._calls.take(piece.tool_calls)
            content, thinking = _text(piece.content), _thought(piece)
            if content or thinking:
                logprobs = choice.logprobs.content if choice.logprobs is not None else None
                out += self._line(_say(self._form, content, thinking), created_at, logprobs)
            self._reason = choice.finish_reason or self._reason
        return out

    def last(self, created_at: str, times: Times) -> bytes:
        """The end of the answer: its tool calls, then the line that says so."""
        calls, rest = self._calls.whole()
        out = b""
        if calls or rest:
            out = self._line(_say(self._form, "", "", calls, rest), created_at, None)
        said = {"model": self._model, "created_at": created_at} | _say(self._form, "", "")
        return out + _encode(said | _last(self._reason, self._usage, times)) + b"\n"

    def _line(self, said: dict[str, Any], created_at: str, logprobs: Any) -> bytes:
        out = {"model": self._model, "created_at": created_at} | said | {"done": False}
        if logprobs:
            out["logprobs"] = logprobs
        return _encode(out) + b"\n"


class Calls:
    """Tool calls as their pieces come. Pieces without an index begin a call of their own when they name a function."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._texts: dict[int, list[str]] = {}
        self._ids: dict[int, str] = {}
        self._left = HELD_BYTES_MAX

    def take(self, pieces: list[_Call] | None) -> None:
        """Hold pieces of calls; those beyond the limit are lost, and their call is given as text."""
        for piece in pieces or ():
            function = piece.function or _Function()
            index = piece.index
            if index is None:
                last = max(self._names, default=-1)
                index = last + 1 if function.name or last < 0 else last
            arguments = function.arguments
            text = _encode(arguments).decode() if isinstance(arguments, dict) else _text(arguments)
            self._left -= len(text) + len(function.name or "") + CALL_CHARACTERS
            if self._left < 0:
                continue
            if function.name:
                self._names.setdefault(index, function.name)
            if piece.id:
                self._ids.setdefault(index, piece.id)
            self._texts.setdefault(index, []).append(text)

    def whole(self) -> tuple[list[dict[str, Any]], str]:
        """(the calls, the text of those whose arguments cannot be read)."""
        calls: list[dict[str, Any]] = []
        rest = ""
        for index in sorted(self._names):
            text = "".join(self._texts.get(index, ()))
            try:
                arguments = _decode(text or "{}")
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
                arguments = None
            if not isinstance(arguments, dict):
                rest += text
                continue
            function = {"index": len(calls), "name": self._names[index], "arguments": arguments}
            calls.append(({"id": self._ids[index]} if index in self._ids else {}) | {"function": function})
        return calls, rest


CALL_CHARACTERS = 64
"""What a piece counts for besides its text."""


def _say(
    form: str, text: str, thinking: str, calls: list[dict[str, Any]] | None = None, rest: str = ""
) -> dict[str, Any]:
    thought = {"thinking": thinking} if thinking else {}
    if form == "generate":
        return {"response": text + rest} | thought
    message: dict[str, Any] = {"role": "assistant", "content": text + rest} | thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _last(reason: str | None, usage: _Usage | None, times: Times) -> dict[str, Any]:
    out: dict[str, Any] = {"done": True, "done_reason": "length" if reason == "length" else "stop"}
    if usage is not None and usage.prompt_tokens is not None:
        out["prompt_eval_count"] = usage.prompt_tokens
    if usage is not None and usage.completion_tokens is not None:
        out["eval_count"] = usage.completion_tokens
    return out | times.fields()


def _text(content: Any) -> str:
    """Text, or that of the parts of type "text" that some engines make of it."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join([text for text in parts if isinstance(text, str)])
    return content if isinstance(content, str) else ""


def _thought(piece: _Piece) -> str:
    return _text(piece.reasoning_content) or _text(piece.reasoning)
