"""The streams under tests/data/vllm_stream_*.txt are what this version sends; the wire tests read them.

`INTERLOCK_TEST_RECORD=1 make test-vllm` writes them anew.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from .engines import MODEL, ROOT, Vllm

DATA = ROOT / "tests" / "data"
ASK = [{"role": "user", "content": "What is the capital of France?"}]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": ASK, "max_tokens": 12, "temperature": 0, **USAGE}),
    "chat_two": (CHAT, {"messages": ASK, "max_tokens": 4, "n": 2, "seed": 1, **USAGE}),
    "chat_logprobs": (CHAT, {"messages": ASK, "max_tokens": 3, "logprobs": True, "top_logprobs": 2, **USAGE}),
    "completions": (COMPLETIONS, {"prompt": "One, two, three,", "max_tokens": 6, "temperature": 0, **USAGE}),
}


def shape(stream: bytes) -> list[Any]:
    """The names in each kind of event, in order of first appearance, without their values."""
    shapes: list[Any] = []
    for event in stream.split(b"\n\n"):
        if not event:
            continue
        data = event.removeprefix(b"data: ")
        found = "[DONE]" if data == b"[DONE]" else _names(json.loads(data))
        if found not in shapes:
            shapes.append(found)
    return shapes


def _names(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _names(inner) for name, inner in value.items()}
    return [_names(inner) for inner in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_still_what_the_engine_sends(vllm: dict[str, Vllm], name: str) -> None:
    path, body = SAMPLES[name]
    stream = vllm["near"].post(path, {"model": MODEL, **body})
    file = DATA / f"vllm_stream_{name}.txt"
    if os.environ.get("INTERLOCK_TEST_RECORD"):
        DATA.mkdir(exist_ok=True)
        file.write_bytes(stream)
    assert shape(stream) == shape(file.read_bytes())
