"""Checks of answers: pure functions of an answer and its request."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.wire.checks import FAILED, PASSED, UNKNOWN, Asked, asked_of, check, confidence_milli
from interlock.wire.conform import Unknown, conforms
from interlock.wire.restream import as_stream

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "next": {"$ref": "#"},
        "n": {"type": ["integer", "null"]},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def said(text: Any = None, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish, **more}]}


NOTHING = Asked()


def verdict(name: str, answer: dict[str, Any], asked: Asked = NOTHING, least: int = 0) -> str:
    ((told, found),) = check((name,), answer, asked, confidence_min_milli=least)
    assert told == name
    return found


def fields(**given: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(each).encode()) for name, each in given.items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', PASSED),
        ("[1]", PASSED),
        ("1", PASSED),
        ("no", FAILED),
        ("```json\n{}\n```", FAILED),
        ("", FAILED),
        (None, FAILED),
    ],
)
def test_json(text: str | None, found: str) -> None:
    assert verdict("json", said(text)) == found


def test_json_as_the_requests_schema_says() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    asked = asked_of(fields(response_format=form))
    assert asked.has_schema
    for text, found in (
        ('{"name": "a"}', PASSED),
        ('{"name": "a", "next": {"name": "b", "n": 1}}', PASSED),
        ('{"name": "a", "next": {"name": 1}}', FAILED),
        ('{"name": "a", "n": 1.5}', FAILED),
        ('{"name": "a", "n": 1.0}', PASSED),
        ('{"name": "a", "n": true}', FAILED),
        ('{"name": "too long"}', FAILED),
        ('{"name": "a", "more": 1}', FAILED),
        ("{}", FAILED),
        ("[]", FAILED),
    ):
        assert verdict("json", said(text), asked) == found, text
    assert not asked_of(fields(response_format={"type": "json_object"})).has_schema
    assert verdict("json", said('{"x": 1}'), Asked(schema={"$ref": "https://x.example/a"}, has_schema=True)) == UNKNOWN
    called = [{"function": {"name": "f", "arguments": "{}"}}]
    assert verdict("json", said(None, "tool_calls", message={"tool_calls": called}), asked) == PASSED


@pytest.mark.parametrize(
    ("finish", "message", "found"),
    [
        ("stop", {}, PASSED),
        ("tool_calls", {}, PASSED),
        ("length", {}, FAILED),
        ("content_filter", {}, FAILED),
        ("stop", {"refusal": "I will not."}, FAILED),
        (None, {}, UNKNOWN),
    ],
)
def test_finish(finish: str | None, message: dict[str, Any], found: str) -> None:
    assert verdict("finish", said("x", finish, message=message)) == found


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=50))
def test_confidence_is_the_mean_probability(logs: list[float]) -> None:
    choice = said("x", logprobs={"content": [{"token": "t", "logprob": each} for each in logs]})["choices"][0]
    milli = confidence_milli(choice)
    assert milli is not None and 0 <= milli <= 1000
    assert abs(milli / 1000 - math.exp(sum(logs) / len(logs))) <= 0.0011


def test_confidence_that_nobody_tells_is_unknown() -> None:
    for told in (None, {}, {"content": []}, {"content": [{"token": "x"}]}, {"content": [{"logprob": True}]}):
        assert verdict("confidence", said("x", logprobs=told), least=1) == UNKNOWN
    told = {"token_logprobs": [None, -0.1]}
    assert verdict("confidence", said("x", logprobs=told), least=904) == PASSED
    assert verdict("confidence", said("x", logprobs=told), least=905) == FAILED


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_tool_that_had_to_be_called(choice: Any) -> None:
    asked = asked_of(fields(tool_choice=choice))
    assert asked.must_call and not asked_of(fields(tool_choice="auto")).must_call and not asked_of({}).must_call
    assert verdict("tool_call", said("words"), asked) == FAILED
    for arguments, found in (('{"a": 1}', PASSED), ("{}", PASSED), ("", FAILED), ("[1]", FAILED), ('{"a": ', FAILED)):
        called = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        assert verdict("tool_call", said(None, "tool_calls", message={"tool_calls": called}), asked) == found
        assert verdict("tool_call", said(None, "tool_calls", message={"tool_calls": called})) == found
    assert verdict("tool_call", said("words")) == PASSED


def test_every_choice_has_to_pass_and_there_has_to_be_one() -> None:
    both = {"choices": [*said("{}")["choices"], *said("no")["choices"]]}
    assert verdict("json", both) == FAILED
    assert verdict("json", {"choices": []}) == verdict("finish", {}) == UNKNOWN


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_const_and_enum_are_equality_of_json(one: Any, two: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return (value,)

    same = plain(one) == plain(two)
    assert conforms(one, {"const": two}) == conforms(one, {"enum": [two]}) == same
    assert conforms(one, {"not": {"const": two}}) != same


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, 1),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, 0, 2),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, 2, 4),
        ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [1], ["a"]),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], ["a", 1]),
        ({"uniqueItems": True}, [1, True], [{"a": 1}, {"a": 1}]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, 2, 3),
        ({"multipleOf": 3}, 9, 10),
        ({"minProperties": 1}, {"a": 1}, {}),
        ({"additionalProperties": {"type": "string"}}, {"a": "b"}, {"a": 1}),
        ({"$defs": {"a/b": {"type": "null"}}, "$ref": "#/$defs/a~1b"}, None, 0),
        (True, 1, ...),
    ],
)
def test_keywords(schema: Any, good: Any, bad: Any) -> None:
    assert conforms(good, schema)
    assert bad is ... or not conforms(bad, schema)


def test_a_schema_may_not_keep_a_worker_busy() -> None:
    doubling: dict[str, Any] = {"$defs": {"a40": {"type": "object"}}, "$ref": "#/$defs/a0"}
    for n in range(40):
        doubling["$defs"][f"a{n}"] = {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]}
    for schema, value in ((doubling, {}), ({"$ref": "#"}, 1), ({"uniqueItems": True}, list(range(5000)))):
        with pytest.raises(Unknown):
            conforms(value, schema)
    for schema in ({"$ref": "#/nowhere"}, {"type": "thing"}, {"required": "a"}, 7):
        with pytest.raises(Unknown):
            conforms({}, schema)


def referring(to: dict[str, Any]) -> dict[str, Any]:
    """One long thing that is gone through many times: small as a schema, large as work."""
    return {"$defs": {"x": to}, "allOf": [{"$ref": "#/$defs/x"}] * 1000}


@pytest.mark.parametrize(
    ("to", "value"),
    [
        ({"required": ["a"] * 2000}, {"a": 1}),
        ({"type": [*["integer"] * 2000, "string"]}, "s"),
        ({"const": "s" * 20_000}, "s" * 20_000),
        ({"not": {"const": {str(n): 1 for n in range(2000)}}}, {"a": 1, **{str(n): 1 for n in range(1999)}}),
        ({"$ref": f"#/{'s' * 20_000}"}, 1),
    ],
)
def test_what_is_long_takes_as_many_steps(to: dict[str, Any], value: Any) -> None:
    with pytest.raises(Unknown):
        conforms(value, {**referring(to), "s" * 20_000: True})


@pytest.mark.parametrize("names", [[{}], [["a"]], [1], [None], {"a": 1}])
def test_names_that_are_none_are_not_known(names: Any) -> None:
    with pytest.raises(Unknown):
        conforms({"a": 1}, {"required": names})


def test_many_choices_take_no_more_steps_than_one() -> None:
    form = {"type": "array", "items": {"type": "integer"}}
    choice = said(json.dumps([1] * 6000))["choices"]
    for count, found in ((1, PASSED), (3, PASSED), (4, UNKNOWN)):
        assert verdict("json", {"choices": choice * count}, Asked(schema=form, has_schema=True)) == found


def test_a_probability_beyond_all_floats_is_unknown() -> None:
    for large in (10**400, -(10**400), 1e308):
        assert confidence_milli(said("x", logprobs={"content": [{"logprob": large}] * 2})["choices"][0]) is None


def test_an_answer_as_a_stream_says_the_same() -> None:
    called = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    answer = {
        "id": "x",
        "model": "m",
        "created": 1,
        "usage": {"total_tokens": 3},
        **said("hi", message={"tool_calls": called}),
    }
    text = as_stream(answer, chat=True, usage=True)
    events = [json.loads(block[6:]) for block in text.split(b"\n\n") if block.startswith(b"data: {")]
    assert text.endswith(b"data: [DONE]\n\n")
    assert events[0]["choices"][0]["delta"] == {
        "role": "assistant",
        "content": "hi",
        "tool_calls": [{"index": 0, **called[0]}],
    }
    assert events[1]["choices"][0]["finish_reason"] == "stop" and events[2] == {
        **events[2],
        "choices": [],
        "usage": {"total_tokens": 3},
    }
    assert b"usage" not in as_stream(answer, chat=True, usage=False)
    plain = as_stream({"choices": [{"text": "yes", "finish_reason": "length"}]}, chat=False, usage=False)
    assert b'"text":"yes"' in plain and b'"finish_reason":"length"' in plain
