"""Scripts that answer as Anthropic's Messages API does, whole or streamed, in the order of events that it documents.

Source: Anthropic API reference, "Messages", "Streaming messages", "Errors". Blocks of an answer are written as that
reference writes them: `{"type": "text", "text": ...}`, `{"type": "thinking", "thinking": ..., "signature": ...}`,
`{"type": "tool_use", "id": ..., "name": ..., "input": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from interlock.testing.script import STREAM_HEAD, Received, Script, Step, chunk, http

Block = dict[str, Any]
PIECE = 7
"""Characters of a delta."""
MESSAGE_ID = "msg_01XFDUDYJgAACzvnptvVoYEL"


def message(
    *blocks: Block,
    stop_reason: str = "end_turn",
    stop_sequence: str | None = None,
    input_tokens: int = 25,
    output_tokens: int = 15,
    cache_read: int = 0,
    cache_written: int = 0,
    breaks_with: str = "",
) -> Script:
    """An answer of these blocks. `breaks_with`: an error of this type follows the last block, in a stream."""
    usage = {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": cache_written,
        "cache_read_input_tokens": cache_read,
        "output_tokens": output_tokens,
    }
    end = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}

    def script(received: Received) -> Iterator[Step]:
        asked = received.json
        head = {"id": MESSAGE_ID, "type": "message", "role": "assistant", "model": asked.get("model", "")}
        if not asked.get("stream"):
            yield http(200, _dumps({**head, "content": list(blocks), **end, "usage": usage}))
            return
        yield STREAM_HEAD
        for each in stream(blocks, head, end, usage, breaks_with):
            yield chunk(each)
        yield chunk(b"")

    return script


def stream(
    blocks: Sequence[Block], head: dict[str, Any], end: dict[str, Any], usage: dict[str, int], breaks_with: str = ""
) -> Iterator[bytes]:
    """The events of a streamed answer."""
    begun = head | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage | {"output_tokens": 1}}
    yield event("message_start", message=begun)
    for index, block in enumerate(blocks):
        empty, deltas = _pieces(block)
        yield event("content_block_start", index=index, content_block=empty)
        if index == 0:
            yield event("ping")
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    if breaks_with:
        yield event("error", error={"type": breaks_with, "message": "Overloaded"})
        return
    yield event("message_delta", delta=end, usage={"output_tokens": usage["output_tokens"]})
    yield event("message_stop")


def event(kind: str, **fields: object) -> bytes:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def failure(status: int, kind: str, message: str = "Something went wrong.", *lines: str) -> Script:
    """An error answer. `lines`: further header lines."""

    def script(_received: Received) -> Iterator[Step]:
        told = {"type": kind, "message": message}
        body = {"type": "error", "error": told, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
        yield http(status, _dumps(body), headers=lines)

    return script


def count(tokens: int) -> Script:
    """The answer to a question for the number of tokens."""

    def script(_received: Received) -> Iterator[Step]:
        yield http(200, _dumps({"input_tokens": tokens}))

    return script


def _pieces(block: Block) -> tuple[Block, list[dict[str, str]]]:
    """(the block as it starts, its deltas)."""
    kind = block["type"]
    if kind == "text":
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": t} for t in _cut(block["text"])]
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": t} for t in _cut(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if kind == "tool_use":
        text = json.dumps(block["input"]) if block["input"] else ""
        # The reference's own example begins with an empty piece.
        deltas = [{"type": "input_json_delta", "partial_json": t} for t in ("", *_cut(text))]
        return block | {"input": {}}, deltas
    return block, []


def _cut(text: str) -> list[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
