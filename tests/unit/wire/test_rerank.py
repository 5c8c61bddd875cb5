"""Requests to rerank and to score: what is read, what it can cost at most, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import BadRequest
from interlock.wire import openai
from interlock.wire.answers import decode_answer

LIMITS = openai.Limits(messages_max=50, template_tokens_per_message=8)
WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def parse(operation: str, fields: dict[str, Any]) -> openai.Parsed:
    return openai.parse(operation, json.dumps({"model": "m", **fields}).encode(), LIMITS)


def test_a_rerank_request() -> None:
    parsed = parse("rerank", {"query": "q", "documents": ["a", "b"], "top_n": 1, "interlock": {"purpose": "search"}})
    assert (parsed.operation, parsed.model, parsed.needs, parsed.actions) == ("rerank", "m", ("rerank",), ())
    assert (parsed.stream, parsed.n, parsed.parameters, parsed.purpose) == (False, 0, {"top_n": 1}, "search")
    assert set(parsed.fields) == {"model", "query", "documents", "top_n"}


@pytest.mark.parametrize("names", [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents")])
def test_a_score_request_in_each_of_its_names(names: tuple[str, str]) -> None:
    one, two = names
    for first, second in (("q", "d"), ("q", ["a", "b"]), (["q"], ["a", "b"]), (["q", "r"], ["a", "b"])):
        parsed = parse("score", {one: first, two: second})
        assert (parsed.operation, parsed.needs, parsed.actions) == ("score", ("score",), ())


@given(WORDS, st.lists(WORDS, min_size=1, max_size=6), st.booleans())
@example("a long query that is read once with every document", ["x", "y", "z"], True)
def test_every_pair_counts_with_both_its_texts(query: str, documents: list[str], reranks: bool) -> None:
    fields = {"query": query, "documents": documents} if reranks else {"text_1": query, "text_2": documents}
    parsed = parse("rerank" if reranks else "score", fields)
    pairs = [(query + document).encode() for document in documents]
    assert parsed.prompt_tokens_max >= sum(map(len, pairs)) + 8 * len(pairs)
    paired = parse("score", {"text_1": [query] * len(documents), "text_2": documents})
    assert paired.prompt_tokens_max >= sum(map(len, pairs)) + 8 * len(pairs)


@pytest.mark.parametrize(
    ("operation", "fields", "param"),
    [
        ("rerank", {"query": "q"}, "documents"),
        ("rerank", {"query": "q", "documents": []}, "documents"),
        ("rerank", {"query": ["q"], "documents": ["a"]}, "query"),
        ("rerank", {"query": "q", "documents": [{"text": "a"}]}, "documents[0]"),
        ("rerank", {"query": "q", "documents": ["a"], "top_n": -1}, "top_n"),
        ("rerank", {"query": "q", "documents": ["a"] * 51}, "documents"),
        ("rerank", {"query": "q", "documents": ["a"], "input": "x"}, "input"),
        ("rerank", {"query": "q", "documents": ["a"], "Documents": ["b"]}, "Documents"),
        ("score", {"text_1": "q"}, "text_1"),
        ("score", {}, "text_1"),
        ("score", {"text_1": "q", "text_2": "d", "documents": ["a"]}, "text_1"),
        ("score", {"text_1": ["a", "b", "c"], "text_2": ["a", "b"]}, "text_2"),
        ("score", {"text_1": [], "text_2": ["a"]}, "text_2"),
        ("score", {"text_1": "q", "text_2": [{"content": []}]}, "text_2"),
        ("score", {"text_1": "q", "text_2": "d", "messages": []}, "messages"),
    ],
)
def test_what_is_refused(operation: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(operation, fields)
    assert refused.value.param == param


def test_what_asks_for_more_is_a_policy_action() -> None:
    fields = {"query": "q", "documents": ["a"], "priority": 3, "chat_template": "x"}
    assert parse("rerank", fields).actions == ("change_template", "set_priority")
    assert parse("chat", {"messages": [{"role": "user", "content": "x"}], "documents": [{"a": "b"}]}).actions == (
        "change_template",
    )


def test_usage_that_only_has_a_total() -> None:
    answer = decode_answer(b'{"results":[],"usage":{"total_tokens":7}}')
    assert answer.usage is not None and answer.usage.usage().prompt_tokens == 7
    answer = decode_answer(b'{"data":[],"usage":{"prompt_tokens":3,"total_tokens":9}}')
    assert answer.usage is not None and answer.usage.usage().prompt_tokens == 3
