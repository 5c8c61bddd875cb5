"""Requests of the OpenAI dialect: bad ones are refused with the field at fault; what is sent was read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interlock.errors import BadRequest
from interlock.types.identity import DataClass
from interlock.wire import fields, openai, strict

LIMITS = openai.Limits(messages_max=100, template_tokens_per_message=16, depth_max=64)
MESSAGES = '"messages":[{"role":"user","content":"x"}]'
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
INLINE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}


def chat(**more: Any) -> openai.Parsed:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}
    return openai.parse("chat", json.dumps(body).encode(), LIMITS)


def refused(body: str | bytes, operation: str = "chat") -> BadRequest:
    data = body if isinstance(body, bytes) else body.encode()
    with pytest.raises(BadRequest) as caught:
        openai.parse(operation, data, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_json", "empty"),
        (b"  \n", "invalid_json", "empty"),
        (b"nonsense", "invalid_json", "not valid JSON"),
        (b'{"model":"m"', "invalid_json", "not valid JSON"),
        (b"\xff\xfe", "invalid_json", "not valid JSON"),
        (b'{"model":"\xff"}', "invalid_json", "not valid JSON"),
        (b'{"model":"\\ud800",' + MESSAGES.encode() + b"}", "invalid_json", "not valid JSON"),
        (b"[]", "invalid_request", "Expected `object`"),
        (b"null", "invalid_request", "Expected `object`"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, code: str, words: str) -> None:
    error = refused(body)
    assert (error.status, error.code) == (400, code)
    assert words in error.message


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ('"model":1', "model"),
        (f'{MESSAGES},"stream":"yes","model":"m"', "stream"),
        (f'{MESSAGES},"model":null', "model"),
        (MESSAGES, "model"),
        ('"model":"m"', "messages"),
        ('"model":"m","messages":[]', "messages"),
        ('"model":"m","messages":{}', "messages"),
        ('"model":"m","messages":[1]', "messages[0]"),
        ('"model":"m","messages":[{"content":"x"}]', "messages[0]"),
        ('"model":"m","messages":[{"role":"user","content":7}]', "messages[0].content"),
        (f'"model":"m",{MESSAGES},"max_tokens":0', "max_tokens"),
        (f'"model":"m",{MESSAGES},"max_tokens":-1', "max_tokens"),
        (f'"model":"m",{MESSAGES},"max_tokens":1.5', "max_tokens"),
        (f'"model":"m",{MESSAGES},"max_tokens":4294967296', "max_tokens"),
        (f'"model":"m",{MESSAGES},"max_completion_tokens":{"9" * 40}', "max_completion_tokens"),
        (f'"model":"m",{MESSAGES},"max_completion_tokens":5,"max_tokens":6', "max_tokens"),
        (f'"model":"m",{MESSAGES},"seed":{"9" * 40}', "seed"),
        (f'"model":"m",{MESSAGES},"n":0', "n"),
        (f'"model":"m",{MESSAGES},"n":129', "n"),
        (f'"model":"m",{MESSAGES},"n":true', "n"),
        (f'"model":"m",{MESSAGES},"temperature":"hot"', "temperature"),
        (f'"model":"m",{MESSAGES},"response_format":{{"type":"yaml"}}', "response_format"),
        (f'"model":"m",{MESSAGES},"response_format":"json"', "response_format"),
        (f'"model":"m",{MESSAGES},"tools":{{}}', "tools"),
        (f'"model":"m",{MESSAGES},"interlock":{{"data_klass":"public"}}', "interlock"),
        (f'"model":"m",{MESSAGES},"interlock":[]', "interlock"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(more: str, param: str) -> None:
    error = refused("{" + more + "}")
    assert error.status == 400
    assert error.param == param
    assert error.message.endswith(".")


def test_too_many_messages_are_refused() -> None:
    error = refused(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}] * 10_000}))
    assert error.code == "too_many_messages"
    assert "10000" in error.message and "100" in error.message


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [64, 900, 200_000])
def test_a_deeply_nested_body_is_refused_wherever_the_depth_is(opening: str, depth: int) -> None:
    closing = "]" if opening == "[" else "}"
    deep = opening * depth + "1" + closing * depth
    assert "nested" in refused(f'{{"model":"m",{MESSAGES},"x":{deep}}}').message
    assert "nested" in refused(f'{{"model":"m",{MESSAGES},"tools":[{{"x":{deep}}}]}}').message
    assert "nested" in refused(f'{{"model":"m","input":"x","x":{deep}}}', "embeddings").message


def test_depth_is_counted_outside_of_texts_and_wide_is_not_deep() -> None:
    openai.parse("chat", f'{{"model":"m",{MESSAGES},"x":{"[" * 63}1{"]" * 63}}}'.encode(), LIMITS)
    openai.parse("chat", f'{{"model":"m",{MESSAGES},"x":[{"[]," * 500}1]}}'.encode(), LIMITS)
    openai.parse(
        "chat", json.dumps({"model": "m", "messages": [{"role": "user", "content": '[{\\"' * 999}]}).encode(), LIMITS
    )
    hidden = '["]",' * 80 + "1" + ',"["]' * 80
    assert "nested" in refused(f'{{"model":"m",{MESSAGES},"x":{hidden}}}').message


def test_what_is_sent_on_is_what_was_read_although_a_name_is_given_twice() -> None:
    body = f'{{"model":"a","n":7,{MESSAGES},"\\u006e":2,"model":"b","stream":true,"stream":false}}'.encode()
    parsed = openai.parse("chat", body, LIMITS)
    sent = json.loads(openai.build_body(parsed.fields, model=parsed.model))
    assert (parsed.model, parsed.n, parsed.stream) == ("b", 2, False) == (sent["model"], sent["n"], sent["stream"])
    assert openai.build_body(parsed.fields, model="b").count(b'"n"') == 1


@pytest.mark.parametrize(
    "messages",
    [
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://h/"}}],"content":"x"}]',
        '[{"role":"user","content":"x","c\\u006fntent":[]}]',
        '[{"role":"user","content":"x","Content":[]}]',
        '[{"role":"user","Content":[],"content":"x"},{"role":"user"}]',
        '[{"role":"user","CONTENT":[]}]',
        '[{"role":"user","content":[{"type":"image_url","type":"text","text":"x"}]}]',
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,","url":"http://h/"}}]}]',
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,","URL":"http://h/"}}]}]',
    ],
)
def test_a_message_that_two_readers_could_read_differently_is_refused(messages: str) -> None:
    assert refused(f'{{"model":"m","messages":{messages}}}').param == "messages"


@pytest.mark.parametrize(
    "text", ['say "content"', "c\\u006fntent", "é \x01 \U0001f600", '"content":"content"', "Content"]
)
def test_texts_that_look_like_names_pass(text: str) -> None:
    for ascii_only in (True, False):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}] * 3}, ensure_ascii=ascii_only)
        openai.parse("chat", body.encode(), LIMITS)


@pytest.mark.parametrize("name", ["N", "Model", "Store", "\u017ftore", "chat_Template", "\u212av_transfer_params"])
def test_a_deciding_field_in_another_case_is_refused(name: str) -> None:
    error = refused(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], name: 2}))
    assert error.param == name
    assert name.casefold() in error.message


def test_other_names_may_be_in_any_case() -> None:
    assert "myField" in chat(myField=1, Größe=2).fields


@pytest.mark.parametrize(
    "part",
    [
        {"image_url": {"url": "http://169.254.169.254/"}},
        {"type": "text", "text": "x", "uuid": "u", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "text", "text": "x", "video_url": {"url": "http://169.254.169.254/"}},
        {"type": "image_url", "image_url": {"url": "data:,"}, "uuid": "somebody-elses"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": "image_url", "image_url": {"url": ""}},
        {"type": "text"},
        {"type": 5},
        {},
    ],
)
def test_a_content_part_that_an_engine_may_take_for_something_else_is_refused(part: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    assert refused(json.dumps(body)).param == "messages"


@pytest.mark.parametrize(
    ("part", "actions"),
    [
        ({"type": "text", "text": "x"}, ()),
        (INLINE, ("use_images",)),
        ({"type": "image_url", "image_url": INLINE["image_url"]["url"]}, ("use_images",)),
        (IMAGE, ("use_images", "fetch_remote")),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, ("use_images", "fetch_remote")),
        ({"type": "image_url", "image_url": {"url": " data:,x"}}, ("use_images", "fetch_remote")),
    ],
)
def test_images_are_actions_of_policy(part: dict[str, Any], actions: tuple[str, ...]) -> None:
    parsed = chat(messages=[{"role": "user", "content": [part]}])
    assert set(parsed.actions) == set(actions)
    assert ("vision" in parsed.needs) == bool(actions)


@pytest.mark.parametrize(
    ("choice", "needed"),
    [
        ({}, True),
        ({"tool_choice": "auto"}, True),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "none"}, False),
    ],
)
@pytest.mark.parametrize("field", ["tools", "functions"])
def test_tools_are_needed_unless_none_may_be_called(field: str, choice: dict[str, Any], needed: bool) -> None:
    assert ("tools" in chat(**{field: [{"type": "function"}]}, **choice).needs) is needed


@pytest.mark.parametrize(
    ("given", "actions"),
    [
        ({"n": 2}, ("multiply",)),
        ({"n": 1}, ()),
        ({"best_of": 5}, ("multiply",)),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, ("fetch_remote",)),
        ({"vllm_xargs": {}}, ()),
        ({"id_slot": -1}, ()),
        ({"id_slot": 0}, ("set_priority",)),
        ({"enable_search": True}, ("fetch_remote",)),
        ({"enable_search": False}, ()),
        ({"store": True}, ("store",)),
        ({"store": False}, ()),
        ({"priority": -1}, ("set_priority",)),
        ({"chat_template": "x"}, ("change_template",)),
        ({"chat_template": None}, ()),
        ({"id_slot": None}, ()),
        ({"cache_salt": "x", "store": True}, ("store",)),
        ({"metadata": {}}, ()),
        ({"web_search_options": {}}, ("fetch_remote",)),
    ],
)
def test_fields_that_do_more_are_actions_of_policy(given: dict[str, Any], actions: tuple[str, ...]) -> None:
    assert chat(**given).actions == actions


@pytest.mark.parametrize(
    ("operation", "own", "foreign"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"prompt": "x"}),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"n_predict": -1}),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"n_cmpl": 5}),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"lora": [{"id": 0, "scale": 1.0}]}),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"models": ["another/model"]}),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, {"api_base": "http://elsewhere.example"}),
        ("completions", {"prompt": "x"}, {"messages": [{"role": "user", "content": [IMAGE]}]}),
        ("completions", {"prompt": "x"}, {"prompt_embeds": "AAAA"}),
        ("embeddings", {"input": "x"}, {"messages": [{"role": "user", "content": [IMAGE]}]}),
    ],
)
def test_a_second_prompt_model_or_bound_that_nobody_has_checked_is_refused(
    operation: str, own: dict[str, Any], foreign: dict[str, Any]
) -> None:
    error = refused(json.dumps({"model": "m", **own, **foreign}), operation)
    assert error.param == next(iter(foreign))
    nothing = dict.fromkeys(foreign)
    openai.parse(operation, json.dumps({"model": "m", **own, **nothing}).encode(), LIMITS)


@pytest.mark.parametrize(
    "value", [None, "", [], [[]], [1, "x"], [[1], ["x"]], {"prompt_string": "x"}, [None], 5, [True]]
)
@pytest.mark.parametrize(("operation", "field"), [("completions", "prompt"), ("embeddings", "input")])
def test_a_prompt_or_input_of_no_known_form_is_refused(operation: str, field: str, value: Any) -> None:
    assert refused(json.dumps({"model": "m", field: value}), operation).param == field


def test_too_many_texts_are_refused() -> None:
    assert refused(json.dumps({"model": "m", "input": ["x"] * 101}), "embeddings").param == "input"


@pytest.mark.parametrize(
    ("more", "n", "generated"), [('"n":2', 4, 4), ('"best_of":3', 2, 6), ('"n":2,"best_of":5', 4, 10)]
)
def test_completions_count_an_answer_for_each_prompt(more: str, n: int, generated: int) -> None:
    parsed = openai.parse("completions", f'{{"model":"m","prompt":["a","b"],{more}}}'.encode(), LIMITS)
    assert (parsed.n, parsed.generated) == (n, generated)
    assert parsed.actions == ("multiply",)


def test_own_fields_are_read_and_not_sent_on() -> None:
    parsed = chat(interlock={"data_class": "confidential", "purpose": "triage", "mode": "eco"})
    assert (parsed.data_class, parsed.purpose, parsed.mode) == ("confidential", "triage", "eco")
    assert fields.OWN_FIELD not in parsed.fields


def test_prompt_tokens_are_bounded_from_above() -> None:
    text = "語" * 500
    parsed = chat(messages=[{"role": "user", "content": text}], tools=[{"type": "function", "function": {"name": "f"}}])
    assert parsed.prompt_tokens_max >= len(text.encode())
    inline = chat(messages=[{"role": "user", "content": [INLINE]}])
    assert LIMITS.image_tokens_max <= inline.prompt_tokens_max < LIMITS.image_tokens_max + 300


def test_features_hold_what_was_resolved() -> None:
    made = openai.features(chat(stream=True), DataClass.restricted, 512)
    assert (made.operation, made.data_class, made.stream, made.completion_tokens_max) == ("chat", 3, True, 512)


def test_the_body_for_a_source_has_its_model_name_and_no_dropped_field() -> None:
    parsed = chat(temperature=0.5, foo={"a": [1, 2]}, max_tokens=5)
    sent = json.loads(openai.build_body(parsed.fields, model="served/name", drop=("foo",), add={"max_tokens": 7}))
    assert sent == {
        "model": "served/name",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.5,
        "max_tokens": 7,
    }


def test_every_action_field_has_an_action_and_every_harmless_value_a_field() -> None:
    assert set(fields.FIELD_ACTIONS.values()) <= set(fields.ACTIONS)
    assert set(fields.HARMLESS) <= set(fields.FIELD_ACTIONS)


def test_an_unterminated_text_with_many_escapes_takes_no_time() -> None:
    strict.check_depth(b'"' + b'\\"' * 500_000 + b"[" * 100, 64)
