"""A stream as Anthropic's documentation shows it ("Streaming messages", tool use), heard in the pivot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import UpstreamError
from interlock.wire.anthropic.listen import MessagesListener
from interlock.wire.speech import DONE, Piece

SAMPLE = (Path(__file__).parents[2] / "data" / "anthropic_stream_tool_use.txt").read_bytes()


def events(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [json.loads(piece.event[6:]) for piece in pieces if piece.event and piece.event != DONE]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_the_documented_stream(ends: bytes) -> None:
    sample = SAMPLE.replace(b"\n", ends)
    listener = MessagesListener(1 << 16, native=False)
    pieces = [piece for at in range(len(sample)) for piece in listener.feed(sample[at : at + 1])] + listener.finish()
    assert pieces[-1].event == DONE
    said = events(pieces)
    deltas = [choice["delta"] for each in said for choice in each["choices"]]
    assert deltas[0] == {"role": "assistant", "content": "Okay"}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Okay, let's check:"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0]["id"] == "toolu_01T1x1fJ34qAmk2tNTrN7Up6" and calls[0]["function"]["name"] == "get_weather"
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"location": "San Francisco, CA"}
    assert said[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert said[-1]["usage"]["prompt_tokens"] == 472 and said[-1]["usage"]["completion_tokens"] == 89
    assert {each["model"] for each in said} == {"claude-opus-4-6"}


def test_a_stream_that_is_cut_off_is_not_whole() -> None:
    listener = MessagesListener(1 << 16, native=False)
    pieces = listener.feed(SAMPLE[: SAMPLE.index(b"event: message_stop")]) + listener.finish()
    assert all(piece.event != DONE for piece in pieces)
    pieces = MessagesListener(1 << 16, native=False).feed(SAMPLE[: SAMPLE.index(b"event: message_delta")])
    assert all(choice["finish_reason"] is None for each in events(pieces) for choice in each["choices"])


FOREIGN = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "c2VjcmV0"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "EqQBCgIY"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"n": 1}}},
]


@pytest.mark.parametrize("event", FOREIGN, ids=lambda event: event.get("delta", event.get("content_block"))["type"])
@pytest.mark.parametrize("before", [b"", b"ping", b"said"])
def test_what_the_pivot_has_no_place_for_leaves_recorded(event: dict[str, Any], before: bytes) -> None:
    raw = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    first = SAMPLE[: SAMPLE.index(b"event: ping")] if before else b""
    if before == b"said":
        first = SAMPLE[: SAMPLE.index(b"event: content_block_stop")]
    listener = MessagesListener(1 << 16, native=True)
    listener.feed(first)
    (piece,) = listener.feed(raw)
    assert piece.out.endswith(raw)
    assert events([piece])[0]["choices"][0]["delta"]["anthropic"] == event
    assert MessagesListener(1 << 16, native=False).feed(raw) == []


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error"])
def test_an_error_in_the_stream_is_the_source_s(kind: str) -> None:
    error = (
        b'event: error\ndata: {"type": "error", "error": {"type": "%b", "message": "Over\\nloaded"}}\n\n'
        % kind.encode()
    )
    with pytest.raises(UpstreamError, match="Over loaded") as caught:
        MessagesListener(1 << 16, native=True).feed(SAMPLE[: SAMPLE.index(b"event: ping")] + error)
    assert caught.value.code == ("upstream_overloaded" if kind == "overloaded_error" else "upstream_error")


@pytest.mark.parametrize("broken", [b"data: {\n\n", b'data: {"type": 3}\n\n', b"data: \xff\n\n"])
def test_what_is_no_event_is_told_as_the_source_s_fault(broken: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        MessagesListener(1 << 16, native=True).feed(broken)
    assert caught.value.code == "upstream_malformed"
