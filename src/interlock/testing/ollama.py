"""An Ollama server for tests: the pages and answers that its API reference documents.

    async with ScriptedEngine(kind="ollama", models=("m",)) as engine:
        engine.script(ollama.answer("It works.", thinking="Hm."))

Names of models end with a tag, as Ollama's do. What a model can do and whether it is loaded is told by `pages_of`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from interlock.testing.script import Pause, Received, Script, Step, chunk, http

VERSION = "0.13.5"
CREATED_AT = "2026-11-01T12:00:00.123456789Z"
CONTEXT_LENGTH = 8192
CAPABILITIES = ("completion", "tools", "vision", "thinking", "embedding")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
"""Head of a streamed answer."""


def digest(model: str) -> str:
    """A stand-in for the digest of a model's manifest: 64 hexadecimal digits."""
    return model.encode().hex().ljust(64, "0")[:64]


def pages_of(
    models: tuple[str, ...],
    *,
    capabilities: Sequence[str] = CAPABILITIES,
    parameters: str = "",
    loaded: tuple[str, ...] = (),
    expires_at: str = "2318-01-01T00:00:00Z",
) -> dict[str, Script]:
    """Path -> script of `/api/version`, `/api/tags`, `/api/show` and `/api/ps`."""
    details = {"parent_model": "", "format": "gguf", "family": "llama", "parameter_size": "1B"}

    def entry(model: str) -> dict[str, Any]:
        return {"name": model, "model": model, "size": 1_000, "digest": digest(model), "details": details}

    def show(received: Received) -> Iterable[Step]:
        if received.json.get("model") not in models:
            return (http(404, _dumps({"error": f"model '{received.json.get('model')}' not found"})),)
        info = {"general.architecture": "llama", "llama.context_length": CONTEXT_LENGTH}
        body = {"capabilities": list(capabilities), "model_info": info, "details": details, "parameters": parameters}
        return (http(200, _dumps(body)),)

    held = [entry(model) | {"size_vram": 1_000, "expires_at": expires_at} for model in loaded]
    return {
        "/api/version": _page({"version": VERSION}),
        "/api/tags": _page({"models": [entry(model) | {"modified_at": CREATED_AT} for model in models]}),
        "/api/ps": _page({"models": held}),
        "/api/show": show,
    }


def answer(
    text: str = "A signal at danger must not be passed without authority.",
    *,
    thinking: str = "",
    tools: Sequence[tuple[str, dict[str, Any]]] = (),
    done_reason: str = "stop",
    usage: bool = True,
    delay_ms: float = 0.0,
    between_ms: float = 0.0,
) -> Script:
    """A good answer of `/api/chat`, `/api/generate` or `/api/embed`. Streams hold one word a line. `usage` False:
    the prompt is not counted, as by servers that have it in their cache."""

    def script(received: Received) -> Iterator[Step]:
        asked = received.json
        if delay_ms:
            yield Pause(delay_ms)
        if received.path == "/api/embed":
            yield http(200, _dumps(_embedded(asked)))
            return
        generates = received.path == "/api/generate"
        counts: dict[str, Any] = {"total_duration": 5_000, "load_duration": 1_000}
        if usage:
            counts |= {"prompt_eval_count": 11, "prompt_eval_duration": 1_000}
        counts |= {"eval_count": max(1, len(text.split())), "eval_duration": 3_000}
        last = {"done": True, "done_reason": done_reason} | counts
        if asked.get("stream") is False:
            said = _said(generates, text, thinking, tools)
            yield http(200, _dumps(_frame(asked) | said | last), "application/json; charset=utf-8")
            return
        yield HEAD
        lines = [_said(generates, "", word) for word in _words(thinking)]
        lines += [_said(generates, word) for word in _words(text)] if not tools else []
        lines += [_said(generates, "", "", [tool]) for tool in tools]
        for number, line in enumerate(lines):
            if number and between_ms:
                yield Pause(between_ms)
            yield chunk(_dumps(_frame(asked) | line | {"done": False}) + b"\n")
        yield chunk(_dumps(_frame(asked) | _said(generates, "") | last) + b"\n") + chunk(b"")

    return script


def error(status: int, words: str) -> Script:
    """An error in Ollama's form."""

    def script(_received: Received) -> Iterable[Step]:
        return (http(status, _dumps({"error": words})),)

    return script


def broken(text: str, words: str) -> Script:
    """A stream that says some text, then reports an error in a line of its own."""

    def script(received: Received) -> Iterator[Step]:
        yield HEAD
        generates = received.path == "/api/generate"
        yield chunk(_dumps(_frame(received.json) | _said(generates, text) | {"done": False}) + b"\n")
        yield chunk(_dumps({"error": words}) + b"\n") + chunk(b"")

    return script


def _frame(asked: dict[str, Any]) -> dict[str, Any]:
    return {"model": asked["model"], "created_at": CREATED_AT}


def _said(
    generates: bool, text: str, thinking: str = "", tools: Sequence[tuple[str, dict[str, Any]]] = ()
) -> dict[str, Any]:
    thought = {"thinking": thinking} if thinking else {}
    if generates:
        return {"response": text} | thought
    message: dict[str, Any] = {"role": "assistant", "content": "" if tools else text} | thought
    if tools:
        message["tool_calls"] = [{"function": {"name": name, "arguments": given}} for name, given in tools]
    return {"message": message}


def _embedded(asked: dict[str, Any]) -> dict[str, Any]:
    given = asked["input"]
    texts = [given] if isinstance(given, str) else given
    vectors = [[len(text) / 128, 0.5, -0.25] for text in texts]
    return {"model": asked["model"], "embeddings": vectors, "prompt_eval_count": sum(len(t.split()) for t in texts)}


def _words(text: str) -> list[str]:
    words = text.split(" ") if text else []
    return [word if number == 0 else " " + word for number, word in enumerate(words)]


def _page(body: dict[str, Any]) -> Script:
    def script(_received: Received) -> Iterable[Step]:
        return (http(200, _dumps(body), "application/json; charset=utf-8"),)

    return script


def _dumps(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
