"""A streamed answer as a whole one: checks find of it what they would have found of the answer itself."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.wire.answers import decode_event, plain_text
from interlock.wire.checks import Asked, check
from interlock.wire.restream import as_stream
from interlock.wire.unstream import Unstream

CHECKS = ("json", "finish", "tool_call")
TEXTS = st.one_of(st.sampled_from(["", "{}", '{"a": [1, 2]}', "no", '"ü"']), st.text(max_size=12))
TOOLS = st.lists(
    st.tuples(st.sampled_from(["look", "", "say"]), st.sampled_from(["{}", "", "[1]", '{"x":'])), max_size=3
)
REASONS = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


def whole(text: str, refusal: str, tools: list[tuple[str, str]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if refusal:
        message["refusal"] = refusal
    if tools:
        message["tool_calls"] = [
            {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(tools)
        ]
    return {"message": message}


def streamed(answer: dict[str, Any], *, chat: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Its events, and how its choices ended."""
    lines = as_stream(answer, chat=chat, usage=False).split(b"\n\n")
    found = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return found, [c["finish_reason"] for event in found for c in event["choices"] if c["finish_reason"]]


def pieces(event: dict[str, Any], cut: int) -> list[dict[str, Any]]:
    """An event, its texts and the tools' arguments cut in two at a place."""
    two = [json.loads(json.dumps(event)) for _ in range(2)]
    for number, half in enumerate(two):
        for choice in half["choices"]:
            for holder in (choice, choice.get("delta", {})):
                for name in ("content", "text", "refusal"):
                    if isinstance(holder.get(name), str):
                        holder[name] = holder[name][:cut] if not number else holder[name][cut:]
            for call in choice.get("delta", {}).get("tool_calls") or ():
                said = call["function"]["arguments"]
                call["function"] = {"name": call["function"]["name"]} if not number else {"arguments": said}
    return two


@settings(max_examples=60)
@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["", "no"]), TOOLS, REASONS), min_size=1, max_size=3), st.integers(0, 6)
)
def test_checks_find_the_same_of_a_stream_as_of_its_answer(said: list[Any], cut: int) -> None:
    choices = [
        {"index": at, **whole(text, refusal, tools), "finish_reason": reason}
        for at, (text, refusal, tools, reason) in enumerate(said)
    ]
    kept = Unstream(chat=True, n=len(choices), bytes_max=100_000)
    events, reasons = streamed({"choices": choices}, chat=True)
    for event in events:
        for piece in pieces(event, cut):
            put(kept, piece)
    found = kept.answer(reasons)
    assert found is not None
    for must_call in (False, True):
        asked = Asked(must_call)
        assert check(CHECKS, found, asked) == check(CHECKS, {"choices": choices}, asked)


def put(kept: Unstream, event: dict[str, Any]) -> None:
    """As a relay records it."""
    raw = msgspec.json.encode(event)
    (choice,) = decode_event(raw).choices or ()
    text = plain_text(choice) if choice.index == 0 else None
    if text is None:
        kept.take("", raw)
    elif text:
        kept.take(text, b"")


def test_completions() -> None:
    kept = Unstream(chat=False, n=2, bytes_max=100)
    kept.take('{"a"', b"")
    kept.take(": 1}", b"")
    kept.take("", b'{"choices": [{"index": 1, "text": "no"}]}')
    found = kept.answer(("stop",))
    assert found is not None
    assert [(c["text"], c["finish_reason"]) for c in found["choices"]] == [('{"a": 1}', "stop"), ("no", None)]
    assert check(("json", "finish"), found, Asked()) == (("json", "failed"), ("finish", "unknown"))


def test_what_is_too_large_is_not_kept() -> None:
    kept = Unstream(chat=True, n=1, bytes_max=10)
    for _ in range(3):
        kept.take("abcü", b"")
    assert kept.answer(("stop",)) is None and not kept._pieces
    fits = Unstream(chat=True, n=1, bytes_max=10)
    fits.take("abcü", b"")
    fits.take("abcü", b"")
    assert fits.answer(("stop",)) == {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "abcüabcü"}}]
    }


def test_what_no_answer_looks_like_is_none() -> None:
    for raw in (
        b"[1]",
        b'{"choices": [1]}',
        b'{"choices": [{"index": 1, "delta": {}}]}',
        b'{"choices": [{"index": -1, "delta": {}}]}',
        b'{"choices": [{"index": true, "delta": {}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"id": "x"}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": ["x"]}}]}',
        b"[" * 10_000,
    ):
        kept = Unstream(chat=True, n=1, bytes_max=100_000)
        kept.take("", raw)
        assert kept.answer(("stop",)) is None, raw
    kept = Unstream(chat=True, n=1, bytes_max=1000)
    kept.take("", b'{"error": "x", "choices": {}}')
    kept.take("", b'{"choices": [{"delta": {"tool_calls": {"a": 1}, "content": 3}}]}')
    kept.take("", b'{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": 3}]}}]}')
    assert kept.answer(("stop",)) == {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "", "arguments": ""}}],
                },
            }
        ]
    }
