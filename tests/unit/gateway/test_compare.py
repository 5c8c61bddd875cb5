"""Two answers compared: what is read of them, and the figures that come out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.gateway.compare import Said, compare, said, similarity_milli


def whole(content: str | None, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    choices = [
        {"index": 1, "message": {"content": "another"}, "finish_reason": "length"},
        {"index": 0, "message": message, "finish_reason": "stop"},
    ]
    return json.dumps({"choices": choices}).encode()


def stream(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return (
        b": keep-alive\n\n" + b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n"
    )


@given(st.lists(st.text(max_size=8), max_size=6))
@example(["a", "", "b\nc"])
def test_a_stream_says_what_the_whole_answer_says(pieces: list[str]) -> None:
    text = "".join(pieces)
    streamed = said(stream(*({"content": piece} for piece in pieces)), streamed=True)
    assert streamed == said(whole(text), streamed=False) == Said(text, "stop", False)


def test_tools_are_compared_by_name_and_by_what_their_arguments_mean() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1, "b": 2}'}}
    first = said(whole(None, tool_calls=[call]), streamed=False)
    parts = (
        {"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": '{"b":2,'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"a":1}'}}]},
    )
    other = said(stream(*parts), streamed=True)
    assert first is not None and other is not None
    assert compare(first, other).json_equal
    third = said(stream({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": "{}"}}]}), streamed=True)
    assert third is not None and not compare(first, third).json_equal


def test_refusals_and_what_cannot_be_read() -> None:
    refused = said(whole(None, refusal="I may not."), streamed=False)
    assert refused == Said("I may not.", "stop", True)
    assert said(stream({"content": "x"}, finish="content_filter"), streamed=True) == Said("x", "content_filter", True)
    assert said(b"no JSON", streamed=False) is None and said(b'data: {"choices": 3}\n\n', streamed=True) is None
    text = said(b'{"choices": [{"index": 0, "text": "one two", "finish_reason": "length"}]}', streamed=False)
    assert text == Said("one two", "length", False)


@pytest.mark.parametrize(
    ("one", "two", "equal", "milli"),
    [
        ("The  Signal.", "the signal. ", True, 1000),
        ("a b c d", "d c b a", False, 1000),
        ("a a b", "a b b", False, 666),
        ("yes", "no", False, 0),
        ("", "!", False, 1000),
        ("one", "", False, 0),
    ],
)
def test_texts(one: str, two: str, equal: bool, milli: int) -> None:
    found = compare(Said(one, "stop", False), Said(two, "stop", False))
    assert (found.equal, found.similarity_milli) == (equal, milli)


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_within_bounds(one: str, two: str) -> None:
    assert 0 <= similarity_milli(one, two) == similarity_milli(two, one) <= 1000
    assert similarity_milli(one, one) == 1000


def test_json_answers_are_compared_as_values() -> None:
    found = compare(Said('{"a": 1, "b": [2]}', "stop", False), Said(' {"b":[2],"a":1}', "length", False))
    assert found.json_equal and found.first_json and found.json and not found.finish_equal
    broken = compare(Said('{"a": 1}', "stop", False), Said('{"a": 1', "stop", False))
    assert broken.first_json and not broken.json and not broken.json_equal
    neither = compare(Said("x", "stop", False), Said("x", "stop", False))
    assert not neither.first_json and not neither.json_equal
