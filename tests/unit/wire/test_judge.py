"""What a judge is asked, and what counts as a verdict."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.wire.judge import (
    CONTROLS,
    control,
    conversation,
    preference_body,
    preferred,
    score_body,
    score_micro,
)
from interlock.wire.openai import Limits, parse


def fields(messages: list[Any]) -> dict[str, msgspec.Raw]:
    return {"messages": msgspec.Raw(json.dumps(messages).encode())}


@given(st.text(), st.text(), st.text())
def test_whatever_is_judged_stays_data(question: str, one: str, two: str) -> None:
    conversed = [{"role": "user", "text": question}]
    for body in (score_body("j", conversed, one), preference_body("j", conversed, one, two)):
        request = json.loads(body)
        assert [message["role"] for message in request["messages"]] == ["system", "user"]
        data = json.loads(request["messages"][1]["content"])
        assert data["question"] == conversed
        assert set(data) - {"question"} in ({"answer"}, {"first", "second"})
        assert one in (data.get("answer"), data.get("first"))


@given(st.text())
def test_the_words_around_are_the_same_whatever_is_judged(text: str) -> None:
    words = json.loads(score_body("j", control(0), "x"))["messages"][0]
    assert json.loads(score_body("j", [{"role": "user", "text": text}], text))["messages"][0] == words


def test_it_is_a_request_that_the_gateway_takes() -> None:
    parsed = parse("chat", score_body("j", control(3), "x"), Limits(100, 8))
    assert parsed.model == "j" and parsed.max_tokens == 64 and "json_schema" in parsed.needs and not parsed.actions


@pytest.mark.parametrize(
    ("said", "worth"), [('{"score": 0}', 0), (' {"score":10} ', 1_000_000), ('{"score":7}', 700_000)]
)
def test_a_score_is_a_share(said: str, worth: int) -> None:
    assert score_micro(said) == worth


@pytest.mark.parametrize(
    "said",
    ["", "7", '{"score": -1}', '{"score": 11}', '{"score": null}', '{"score": "7"}', '{"score": 7} because', "[7]",
     '{"score": 7, "preferred": "tie"}', '{"Score": 7}', '```json\n{"score": 7}\n```', '{"score": true}', "\ud800"],
)  # fmt: skip
def test_anything_else_is_no_score(said: str) -> None:
    assert score_micro(said) is None


def test_a_preference_is_one_of_three_words() -> None:
    assert [preferred(json.dumps({"preferred": word})) for word in ("first", "second", "tie")] == [
        "first", "second", "tie"
    ]  # fmt: skip
    for said in ("first", '{"preferred": "third"}', '{"preferred": "First"}', '{"preferred": 1}', "{}"):
        assert preferred(said) is None


def test_a_conversation_is_text_or_none() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = conversation(fields([{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}]))
    assert found == [{"role": "system", "text": "be kind"}, {"role": "user", "text": "a\nb"}]
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    assert conversation(fields([{"role": "user", "content": [image]}])) is None


def test_controls_are_several_and_begin_again() -> None:
    assert len(set(CONTROLS)) == len(CONTROLS) >= 8
    assert control(len(CONTROLS)) == control(0) != control(1)
