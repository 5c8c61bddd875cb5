"""What a conversation is known by: what stays the same over its turns, and is not the same in another one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interlock.wire.openai import Limits, parse
from interlock.wire.opening import LEADING_MAX, PROMPT_BYTES_MAX, opening, session

LIMITS = Limits(4096, 16)


def of(*messages: Any, most: int = 1000, **more: Any) -> list[bytes]:
    said = [{"role": role, "content": content} for role, content in messages]
    return opening(parse("chat", json.dumps({"model": "m", "messages": said, **more}).encode(), LIMITS), most)


def test_systems_developers_and_the_first_of_a_user() -> None:
    first = of(("system", "be brief"), ("developer", "and kind"), ("user", "hello"))
    assert first == [b"system", b"be brief", b"developer", b"and kind", b"user", b"hello"]
    assert (
        of(("system", "be brief"), ("developer", "and kind"), ("user", "hello"), ("assistant", "hi"), ("user", "x"))
        == first
    )
    assert of(("assistant", "hi"), ("user", "a")) == [b"user", b"a"]
    assert of(("assistant", "hi")) == []
    assert of(*[("assistant", "hi")] * LEADING_MAX, ("user", "a")) == []


def test_a_text_in_parts_is_its_text_and_an_image_where_it_is() -> None:
    text = {"type": "text", "text": "what is this", "cache_control": {"type": "ephemeral"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    marked = of(("user", [text, image]))
    assert marked == of(("user", [{"type": "text", "text": "what is this"}, image])), "marks of a cache move with turns"
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BBBB"}}
    assert marked != of(("user", [text, other]))


@pytest.mark.parametrize("most", [1, 7, 8, 9, 20])
def test_no_more_is_looked_at_than_is_said(most: int) -> None:
    parts = of(("system", "12345678"), ("user", "äöü" * 100), most=most)
    assert sum(map(len, parts[1::2])) == most
    assert parts == of(("system", "12345678"), ("user", "äöü" * 100 + "more"), most=most)


def test_prompts_without_messages() -> None:
    def begins(prompt: Any, operation: str = "completions", field: str = "prompt") -> list[bytes]:
        return opening(parse(operation, json.dumps({"model": "m", field: prompt}).encode(), LIMITS), 4096)

    assert begins("x" * 600 + "a") == begins("x" * 600 + "b") and len(begins("x" * 600)[0]) == PROMPT_BYTES_MAX
    assert begins("one") != begins("two")
    assert begins([1, 2, 3]) == [b"[1, 2, 3]"]
    assert begins("one", "embeddings", "input") == [b'"one"']


def test_a_session_is_a_text_that_says_something() -> None:
    def named(key: Any) -> bytes:
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "prompt_cache_key": key}
        return session(parse("chat", json.dumps(body).encode(), LIMITS))

    assert named("k") == b'"k"'
    assert named("") == named(None) == b""
