"""Answers and errors: what is read of them, and the shape that errors have."""

from __future__ import annotations

import json

import msgspec
import pytest

from interlock.errors import BadRequest, InterlockError, LimitExceeded, Unauthenticated, UpstreamError
from interlock.types.usage import Usage
from interlock.wire.answers import TOKENS_MAX, decode_answer, decode_event, error_words, plain_text
from interlock.wire.errors import error_answer, error_body, error_event


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("{}", (0, 0, 0)),
        ('{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}', (3, 0, 4)),
        ('{"prompt_tokens":3,"completion_tokens":null,"prompt_tokens_details":{"cached_tokens":2}}', (3, 2, 0)),
        ('{"prompt_tokens":3,"prompt_tokens_details":null}', (3, 0, 0)),
        ('{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_write_tokens":null}}', (9, 2, 0)),
        ('{"prompt_tokens":-5,"completion_tokens":-1}', (0, 0, 0)),
        ('{"prompt_tokens":' + "9" * 40 + "}", (TOKENS_MAX, 0, 0)),
    ],
)
def test_usage_is_read_in_our_terms(usage: str, expected: tuple[int, int, int]) -> None:
    decoded = decode_answer(b'{"choices":[],"usage":' + usage.encode() + b"}").usage
    assert decoded is not None
    found = decoded.usage()
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == expected
    msgspec.msgpack.encode(Usage(found.prompt_tokens, found.cached_tokens, found.completion_tokens, "engine"))


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ('{"delta":{"content":"a"}}', "a"),
        ('{"delta":{"role":"assistant","content":""}}', ""),
        ('{"delta":{"role":"assistant","content":"a","refusal":null,"tool_calls":[]}}', "a"),
        ('{"delta":{}}', ""),
        ('{"text":"a"}', "a"),
        ('{"delta":null}', ""),
        ('{"delta":{"content":"a","reasoning_content":"because"}}', None),
        ('{"delta":{"content":null,"thinking":"under a name of its own"}}', None),
        ('{"delta":{"content":[{"type":"text","text":"a"}]}}', None),
        ('{"delta":{"tool_calls":[{"index":0}]}}', None),
        ('{"delta":{"content":"a"},"logprobs":{"content":[]}}', None),
    ],
)
def test_only_what_is_text_and_nothing_else_is_recorded_as_text(choice: str, text: str | None) -> None:
    choices = decode_event(b'{"choices":[' + choice.encode() + b"]}").choices
    assert choices is not None
    assert plain_text(choices[0]) == text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"no room","code":5}}', "no room"),
        (b'{"error":"no room"}', "no room"),
        (b'{"object":"error","message":"no room"}', "no room"),
        (b'{"detail":"Not Found"}', '"Not Found"'),
        (b"<html>Bad\r\nGateway</html>", "<html>Bad  Gateway</html>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        (b"[1]", "[1]"),
    ],
)
def test_error_words_are_printable_and_bounded(body: bytes, words: str) -> None:
    assert error_words(body) == words
    assert len(error_words(b"x" * 10_000)) == 500


def test_errors_have_the_shape_of_openai_with_our_code_inside() -> None:
    error = BadRequest("No “that”.", param="n", code="odd")
    assert json.loads(error_body(error, "openai")) == {
        "error": {"message": "No “that”.", "type": "invalid_request_error", "param": "n", "code": "odd"}
    }
    assert error_event(error, "openai") == b"data: " + error_body(error, "openai") + b"\n\n"
    with pytest.raises(ValueError, match="dialect"):
        error_body(error, "klingon")


def test_only_errors_worth_a_retry_may_be_retried() -> None:
    assert b"x-should-retry: false\r\n" in error_answer(BadRequest("No."), "openai")[1]
    assert b"x-should-retry" not in error_answer(UpstreamError("No."), "openai")[1]
    status, headers, _ = error_answer(LimitExceeded("No.", headers={"retry-after": "3"}), "openai")
    assert status == 429 and b"retry-after: 3\r\n" in headers
    assert b"www-authenticate: Bearer" in error_answer(Unauthenticated("Who?"), "openai")[1]


def test_a_header_value_never_breaks_its_line() -> None:
    _, headers, _ = error_answer(InterlockError("No.", headers={"x-a": "b\r\nset-cookie: c\0\u20ac"}), "openai")
    assert b"x-a: b  set-cookie: c ?\r\n" in headers


def test_tokens_written_to_a_cache_are_read_where_they_are_told() -> None:
    told = (
        b'{"choices":[],"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_write_tokens":4}}}'
    )
    usage = decode_answer(told).usage
    assert usage is not None and usage.usage() == Usage(9, 2, 0, "engine", 4)
