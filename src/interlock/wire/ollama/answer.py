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
"""Most bytes of tool calls that are held until they are whole."""
_decode = msgspec.json.decode
_encode = msgspec.json.Encoder().encode


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
    """The answer of `/api/<form>` to an unstreamed request, from a whole answer of the pivot."""
    answer = _decode(pivot)
    usage = answer.get("usage") or {}
    if form in ("embed", "embeddings"):
        vectors = [entry["embedding"] for entry in answer["data"]]
        if form == "embeddings":
            return _encode({"embedding": vectors[0] if vectors else []})
        counted = {"prompt_eval_count": usage["prompt_tokens"]} if usage.get("prompt_tokens") is not None else {}
        return _encode({"model": model, "embeddings": vectors, "total_duration": times.total_ns} | counted)
    choice = answer["choices"][0]
    piece = choice.get("message") or {"content": choice.get("text")}
    calls = Calls()
    calls.take(piece.get("tool_calls") or ())
    said = _said(form, piece.get("content") or "", _thought(piece), *calls.whole())
    out = {"model": model, "created_at": created_at} | said | _last(choice.get("finish_reason"), usage, times)
    logprobs = _logprobs(choice)
    if logprobs:
        out["logprobs"] = logprobs
    return _encode(out)


class Writer:
    """Makes lines of a streamed answer's events. `first` tells whether anything was said yet."""

    def __init__(self, form: str, model: str) -> None:
        self._form = form
        self._model = model
        self._calls = Calls()
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}

    def lines(self, event: bytes, created_at: str) -> bytes:
        """The lines that one event of the pivot becomes; b"" for comments and what only counts. The last line is made
        by `last`."""
        data = data_of(event)
        if data is None or data == b"[DONE]":
            return b""
        parsed = _decode(data)
        usage = parsed.get("usage")
        if usage:
            self._usage = usage
        out = b""
        for choice in parsed.get("choices") or ():
            if choice.get("index", 0):
                continue  # one answer is all that Ollama has
            piece = choice.get("delta") or {"content": choice.get("text")}
            self._calls.take(piece.get("tool_calls") or ())
            content, thinking = piece.get("content") or "", _thought(piece)
            if content or thinking:
                out += self._line(_said(self._form, content, thinking), created_at, _logprobs(choice))
            if choice.get("finish_reason"):
                self._reason = choice["finish_reason"]
        return out

    def last(self, created_at: str, times: Times) -> bytes:
        """The end of the answer: its tool calls, then the line that says so."""
        calls, rest = self._calls.whole()
        out = b""
        if calls or rest:
            out = self._line(_said(self._form, "", "", calls, rest), created_at, None)
        said = {"model": self._model, "created_at": created_at} | _said(self._form, "", "")
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

    def take(self, pieces: Any) -> None:
        """Hold pieces of calls; those beyond the limit are lost, and their call is given as text."""
        for piece in pieces:
            function = piece.get("function") or {}
            index = piece.get("index")
            if index is None:
                last = max(self._names, default=-1)
                index = last + 1 if function.get("name") or last < 0 else last
            if function.get("name"):
                self._names.setdefault(index, function["name"])
            if piece.get("id"):
                self._ids.setdefault(index, piece["id"])
            text = function.get("arguments") or ""
            self._left -= len(text)
            if self._left >= 0:
                self._texts.setdefault(index, []).append(text)

    def whole(self) -> tuple[list[dict[str, Any]], str]:
        """(the calls, the text of those whose arguments cannot be read)."""
        calls: list[dict[str, Any]] = []
        rest = ""
        for index in sorted(self._names):
            text = "".join(self._texts.get(index, ()))
            try:
                arguments = _decode(text or "{}")
            except (msgspec.DecodeError, UnicodeEncodeError):
                arguments = None
            if not isinstance(arguments, dict):
                rest += text
                continue
            function = {"index": len(calls), "name": self._names[index], "arguments": arguments}
            calls.append(({"id": self._ids[index]} if index in self._ids else {}) | {"function": function})
        return calls, rest


def _said(
    form: str, text: str, thinking: str, calls: list[dict[str, Any]] | None = None, rest: str = ""
) -> dict[str, Any]:
    thought = {"thinking": thinking} if thinking else {}
    if form == "generate":
        return {"response": text + rest} | thought
    message: dict[str, Any] = {"role": "assistant", "content": text + rest} | thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _last(reason: str | None, usage: dict[str, Any], times: Times) -> dict[str, Any]:
    out: dict[str, Any] = {"done": True, "done_reason": "length" if reason == "length" else "stop"}
    for name, field in (("prompt_eval_count", "prompt_tokens"), ("eval_count", "completion_tokens")):
        if usage.get(field) is not None:
            out[name] = usage[field]
    return out | times.fields()


def _thought(piece: dict[str, Any]) -> str:
    thought = piece.get("reasoning_content") or piece.get("reasoning")
    return thought if isinstance(thought, str) else ""


def _logprobs(choice: dict[str, Any]) -> Any:
    logprobs = choice.get("logprobs")
    return logprobs.get("content") if isinstance(logprobs, dict) else None
