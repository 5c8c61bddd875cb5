"""Scripts that answer as an OpenAI-compatible engine does: chat, text completions, embeddings; whole or streamed.

Every function here returns a script. It looks at the request's path and fields, so that one script serves whatever
is asked. Token counts are words; ids are fixed: the same request always gives the same bytes.
"""

from __future__ import annotations

import array
import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from interlock.testing.script import DONE, STREAM_HEAD, Pause, Received, Script, Step, chunk, event, http, steps

TEXT = "A signal at danger must not be passed without authority."
"""What is answered when a script is given no text."""

CREATED_S = 1_800_000_000
DIMENSIONS = 8


def answer(
    text: str = TEXT,
    *,
    tools: Sequence[tuple[str, dict[str, Any]]] = (),
    finish_reason: str | None = None,
    delay_ms: float = 0.0,
    between_ms: float = 0.0,
    cached_tokens: int = 0,
    served_model: str | None = None,
    headers: Sequence[str] = (),
    usage: bool = True,
) -> Script:
    """A good answer. `tools`: (function name, arguments) that are called instead of answering with text.

    `delay_ms` before the first byte, `between_ms` between streamed events. Streams hold one word an event, and a
    usage chunk when `stream_options.include_usage` asks for it. `usage` False: tokens are never reported.
    """

    def script(received: Received) -> Iterator[Step]:
        asked = received.json
        model = served_model or str(asked.get("model", ""))
        if delay_ms:
            yield Pause(delay_ms)
        if received.path.partition("?")[0].endswith("/embeddings"):
            yield http(200, _dumps(embeddings(asked, model)), headers=headers)
            return
        if received.path.partition("?")[0].endswith(("/rerank", "/score")):
            yield http(200, _dumps(judged(asked, model, usage)), headers=headers)
            return
        form = _Form(received, asked, model, text, tools, finish_reason, cached_tokens)
        if not asked.get("stream"):
            yield http(200, _dumps(form.whole(usage)), headers=headers)
            return
        yield STREAM_HEAD[:-2] + "".join(h + "\r\n" for h in headers).encode() + b"\r\n"
        for number, piece in enumerate(form.events(usage)):
            if number and between_ms:
                yield Pause(between_ms)
            yield event(piece)
        yield DONE + chunk(b"")

    return script


def echo() -> Script:
    """Answers with the last message (or the prompt) of the request, so that a test can tell calls apart."""

    def script(received: Received) -> Iterable[Step]:
        asked = received.json
        messages = asked.get("messages")
        said = messages[-1].get("content") if messages else asked.get("prompt")
        return answer(said if isinstance(said, str) else _dumps(said).decode())(received)

    return script


def error(
    status: int,
    *,
    message: str = "The engine failed.",
    code: str | None = None,
    retry_after: str | None = None,
    delay_ms: float = 0.0,
) -> Script:
    """An error in OpenAI's form. `retry_after`: value of that header (seconds or an HTTP date)."""

    def script(_received: Received) -> Iterator[Step]:
        if delay_ms:
            yield Pause(delay_ms)
        body = {"error": {"message": message, "type": "server_error", "param": None, "code": code or status}}
        yield http(status, _dumps(body), headers=() if retry_after is None else (f"retry-after: {retry_after}",))

    return script


def page(body: dict[str, Any] | list[Any] | str, status: int = 200) -> Script:
    """A fixed document: JSON, or plain text when `body` is a string."""
    if isinstance(body, str):
        return steps(http(status, body.encode(), "text/plain; version=0.0.4; charset=utf-8"))
    return steps(http(status, _dumps(body)))


def embeddings(asked: dict[str, Any], model: str) -> dict[str, Any]:
    """The answer to an embeddings request: vectors that depend on the text alone, as floats or base64."""
    given = asked.get("input", "")
    inputs = given if isinstance(given, list) and not all(isinstance(x, int) for x in given) else [given]
    data = []
    for index, text in enumerate(inputs):
        vector = vector_of(text if isinstance(text, str) else json.dumps(text))
        encoded: str | list[float] = vector
        if asked.get("encoding_format") == "base64":
            encoded = base64.b64encode(array.array("f", vector).tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": encoded})
    tokens = sum(len(x.split()) if isinstance(x, str) else len(x) for x in inputs)
    return {
        "object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}
    }  # fmt: skip


def judged(asked: dict[str, Any], model: str, usage: bool = True) -> dict[str, Any]:
    """The answer to a rerank or score request, as vLLM documents it: a text is the more relevant the more words it has
    in common with the first."""
    first = asked.get("query") or next(asked[n] for n in ("text_1", "data_1", "queries") if n in asked)
    second = next(asked[n] for n in ("text_2", "data_2", "documents") if n in asked)
    texts = [second] if isinstance(second, str) else second
    firsts = [first] * len(texts) if isinstance(first, str) else first if len(first) > 1 else first * len(texts)
    tokens = sum(len(text.split()) for pair in zip(firsts, texts, strict=True) for text in pair)
    scores = [len(set(a.split()) & set(b.split())) / max(1, len(b.split())) for a, b in zip(firsts, texts, strict=True)]
    counted = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if usage else {}
    if "query" not in asked:
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        return {"id": "score-1", "object": "list", "created": CREATED_S, "model": model, "data": data, **counted}
    order = sorted(range(len(texts)), key=lambda i: -scores[i])[: asked.get("top_n") or None]
    results = [{"index": i, "document": {"text": texts[i]}, "relevance_score": scores[i]} for i in order]
    return {"id": "rerank-1", "model": model, "results": results, **counted}


def vector_of(text: str) -> list[float]:
    """A vector of `DIMENSIONS` numbers in [-1, 1) made from the text's SHA-256; exact in 32-bit floats."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[i] - 128) / 128 for i in range(DIMENSIONS)]


class _Form:
    """One answer, in the form that the path asks for."""

    def __init__(
        self,
        received: Received,
        asked: dict[str, Any],
        model: str,
        text: str,
        tools: Sequence[tuple[str, dict[str, Any]]],
        finish_reason: str | None,
        cached_tokens: int,
    ) -> None:
        self.chat = received.path.partition("?")[0].endswith("/chat/completions")
        self.asked, self.model, self.text, self.tools = asked, model, text, tools
        self.n = int(asked.get("n") or 1)
        self.include_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
        words = [w if i == 0 else " " + w for i, w in enumerate(text.split(" "))]
        self.words = words[:limit] if limit else words
        cut = len(self.words) < len(words)
        self.finish = finish_reason or ("tool_calls" if tools else "length" if cut else "stop")
        prompt = json.dumps(asked.get("messages") or asked.get("prompt") or "")
        prompt_tokens = len(prompt.split())
        completion_tokens = self.n * (len(self.words) if not tools else 2 * len(tools))
        self.usage: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

    def _base(self, kind: str) -> dict[str, Any]:
        name = "chatcmpl-scripted" if self.chat else "cmpl-scripted"
        return {"id": name, "object": kind, "created": CREATED_S, "model": self.model}

    def whole(self, usage: bool) -> dict[str, Any]:
        """The unstreamed answer."""
        choices: list[dict[str, Any]] = []
        for index in range(self.n):
            if self.chat:
                message: dict[str, Any] = {"role": "assistant", "content": "".join(self.words)}
                if self.tools:
                    message["content"] = None
                    message["tool_calls"] = [self._tool(i, *tool) for i, tool in enumerate(self.tools)]
                choice = {"index": index, "message": message, "logprobs": self._logprobs(self.words)}
            else:
                choice = {"index": index, "text": "".join(self.words), "logprobs": None}
            choices.append(choice | {"finish_reason": self.finish})
        document = self._base("chat.completion" if self.chat else "text_completion") | {"choices": choices}
        return document | {"usage": self.usage} if usage else document

    def events(self, usage: bool) -> Iterator[dict[str, Any]]:
        """The events of the stream, without `[DONE]`."""
        base = self._base("chat.completion.chunk" if self.chat else "text_completion")
        for index in range(self.n):
            if self.chat:
                yield base | {"choices": [self._delta(index, {"role": "assistant", "content": ""})]}
            for delta in self._deltas():
                yield base | {"choices": [self._delta(index, delta)]}
            end: dict[str, Any] = {} if self.chat else {"text": ""}
            yield base | {"choices": [self._delta(index, end) | {"finish_reason": self.finish}]}
        if usage and self.include_usage:
            yield base | {"choices": [], "usage": self.usage}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        if not self.tools:
            for word in self.words:
                yield {"content": word} if self.chat else {"text": word}
            return
        for index, (name, arguments) in enumerate(self.tools):
            call = self._tool(index, name, arguments)
            text = call["function"]["arguments"]
            yield {"tool_calls": [call | {"index": index, "function": {"name": name, "arguments": ""}}]}
            half = len(text) // 2
            for piece in (text[:half], text[half:]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": None}
        if not self.chat:
            return choice | delta
        said = delta.get("content")
        if said:
            choice["logprobs"] = self._logprobs([said])
        return choice | {"delta": delta}

    def _logprobs(self, words: Sequence[str]) -> dict[str, Any] | None:
        if not self.asked.get("logprobs"):
            return None
        return {
            "content": [{"token": w, "logprob": -0.5, "bytes": list(w.encode()), "top_logprobs": []} for w in words]
        }

    def _tool(self, index: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"call_{index}", "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))},
        }  # fmt: skip


def _dumps(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
