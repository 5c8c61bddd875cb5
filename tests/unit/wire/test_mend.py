"""Pieces of tool calls without an index get one, whatever they look like; those with one keep it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.wire.answers import decode_event, error_code, error_words
from interlock.wire.mend import CallIndexes, lacks_index


def event(calls: Any, choice: int = 0) -> bytes:
    return json.dumps({"model": "m", "choices": [{"index": choice, "delta": {"tool_calls": calls}}]}).encode()


def indexes(mended: bytes) -> list[int]:
    return [call["index"] for call in json.loads(mended)["choices"][0]["delta"]["tool_calls"]]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=5))
@example([(True, 2), (True, 0), (False, 1)])
def test_calls_are_numbered_in_their_order(calls: list[tuple[bool, int]]) -> None:
    numbers = CallIndexes()
    for number, (has_id, pieces) in enumerate(calls):
        head: dict[str, Any] = {"function": {"name": "f", "arguments": ""}}
        if has_id:
            head["id"] = f"call_{number}"
        found = [numbers.mend(event([head]))]
        for _ in range(pieces):
            more = {"function": {"arguments": "x"}} | ({"id": head["id"]} if has_id else {})
            found.append(numbers.mend(event([more])))
        assert [index for each in found for index in indexes(each)] == [number] * (pieces + 1)


def test_several_in_one_event_and_choices_apart() -> None:
    numbers = CallIndexes()
    two = [{"id": "a", "function": {"name": "f"}}, {"id": "b", "function": {"name": "f"}}]
    assert indexes(numbers.mend(event(two))) == [0, 1]
    assert indexes(numbers.mend(event(two, choice=1))) == [0, 1]
    assert indexes(numbers.mend(event([{"id": "a", "function": {"arguments": "{}"}}]))) == [0]
    assert indexes(numbers.mend(event([{"index": 7, "id": "x"}, {"id": "", "function": {"arguments": "1"}}]))) == [7, 7]


@pytest.mark.parametrize(
    ("calls", "lacks"),
    [
        ([{"index": 0, "id": "a"}], False),
        ([{"index": 0}, {"id": "b"}], True),
        ([{"index": None}], True),
        ([], False),
        ("x", False),
        ([3], False),
        (None, False),
    ],
)
def test_which_are_mended(calls: Any, lacks: bool) -> None:
    parsed = decode_event(event(calls))
    assert parsed.choices is not None and lacks_index(parsed.choices) is lacks
    CallIndexes().mend(event(calls))


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        (b'[{"error":{"code":400,"message":"Invalid value.","status":"INVALID_ARGUMENT"}}]', "Invalid value.", "400"),
        (b"[]", "", ""),
        (b'{"Message":"The security token is expired"}', "The security token is expired", ""),
        (b'{"message":"Too many requests"}', "Too many requests", ""),
        (b'{"error":{"code":"content_filter","message":"Filtered."}}', "Filtered.", "content_filter"),
        (b'{"error":"model not found"}', "model not found", ""),
        (b"[1", "[1", ""),
        (b'{"x":' + b"[" * 30_000, '{"x":' + "[" * 495, ""),
    ],
)
def test_errors_in_the_words_of_clouds(body: bytes, words: str, code: str) -> None:
    assert (error_words(body), error_code(body)) == (words, code)
