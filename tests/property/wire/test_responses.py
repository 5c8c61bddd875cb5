"""The Responses dialect: conversations come through as the same conversation, answers in the right order of events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import BadRequest, UpstreamError
from interlock.wire import openai
from interlock.wire.responses.answer import Ids, skeleton, whole
from interlock.wire.responses.request import translate
from interlock.wire.responses.stream import Stream

LIMITS = openai.Limits(messages_max=4096, template_tokens_per_message=8)
IDS = Ids("resp_x", "x")
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
names = st.text("abcdefgh_", min_size=1, max_size=8)
image = st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}})
parts = st.lists(st.builds(lambda t: {"type": "text", "text": t}, texts) | image, min_size=2, max_size=3)
user = st.builds(lambda c: [{"role": "user", "content": c}], texts | parts)


@st.composite
def calling(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An assistant calls some functions at once, saying something or not, and is given what they return."""
    calls = draw(st.lists(st.tuples(names, texts), min_size=1, max_size=3))
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | texts)}
    ids = [f"call_{draw(st.integers(0, 10**9))}_{n}" for n in range(len(calls))]
    message["tool_calls"] = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": json.dumps({"x": t})}}
        for i, (n, t) in zip(ids, calls, strict=True)
    ]
    if draw(st.booleans()):
        message["reasoning_content"] = draw(texts)
    return [message, *({"role": "tool", "tool_call_id": i, "content": draw(texts)} for i in ids)]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A chat in the pivot: at most one text of the system, then users and assistants."""
    messages = draw(st.lists(st.builds(lambda t: {"role": "system", "content": t}, texts), max_size=1))
    for _ in range(draw(st.integers(1, 3))):
        messages += draw(user)
        for turn in draw(st.lists(calling(), max_size=2)):
            messages += turn
        messages += draw(st.lists(st.builds(lambda t: {"role": "assistant", "content": t}, texts), max_size=1))
    ids = [call["id"] for m in messages for call in m.get("tool_calls", ())]
    if len(set(ids)) < len(ids):
        return messages[:1]
    return messages


def as_items(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same chat as items."""
    items: list[dict[str, Any]] = []
    for m in messages:
        content = m["content"]
        if m["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": m["tool_call_id"], "output": content})
            continue
        if "reasoning_content" in m:
            items.append({"type": "reasoning", "summary": [], "content": [_part("reasoning_text", m)]})
        if content is not None:
            items.append({"type": "message", "role": m["role"], "content": _content(m["role"], content)})
        calls = m.get("tool_calls", ())
        items += [{"type": "function_call", "call_id": call["id"], **call["function"]} for call in calls]
    return items


def _part(kind: str, m: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "text": m["reasoning_content"]}


def _content(role: str, content: Any) -> Any:
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        return [{"type": kind, "text": content}]
    return [
        {"type": "input_text", "text": p["text"]}
        if p["type"] == "text"
        else {"type": "input_image", "image_url": p["image_url"]["url"], "detail": p["image_url"]["detail"]}
        for p in content
    ]


def without_old_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What chat templates are shown of it: the reasoning since the last question."""
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=-1)
    return [{k: v for k, v in m.items() if k != "reasoning_content" or n > last} for n, m in enumerate(messages)]


def pivot(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "m", **fields}).encode()
    made: dict[str, Any] = json.loads(translate(body, 64).pivot)
    openai.parse("chat", translate(body, 64).pivot, LIMITS)
    return made


@given(conversations())
@example([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
def test_a_conversation_comes_through(messages: list[dict[str, Any]]) -> None:
    assert pivot(input=as_items(messages))["messages"] == without_old_reasoning(messages)


def test_calls_may_be_numbered_anew_in_each_turn() -> None:
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]}
    made = pivot(input=[CALL, output, CALL, output])["messages"]
    assert [m["role"] for m in made] == ["assistant", "tool"] * 2 and made[1]["content"] == "x"


def test_instructions_and_what_developers_say_are_one_text_of_the_system() -> None:
    items = [
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "u"},
        {"role": "developer", "content": "c"},
    ]
    made = pivot(instructions="a", input=items)["messages"]
    assert made == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "u"},
        {"role": "system", "content": "c"},
    ]


def test_fields_have_their_names_in_the_pivot() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"}
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    made = pivot(
        input="hello",
        max_output_tokens=7,
        stream=True,
        tools=[tool, {"type": "function", "name": "g", "parameters": None}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        text={"format": form, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        metadata={"a": "b"},
        store=True,
        top_k=3,
        user=None,
    )
    assert made == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "tool_choice": "required",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "high",
        "top_k": 3,
    }


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0]", "web_search"),
        ({"input": "x", "tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0]", "mcp"),
        ({"input": "x", "tools": [{"type": "custom", "name": "x"}]}, "tools[0]", "custom"),
        ({"input": "x", "background": True}, "background", "background"),
        ({"input": "x", "conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt", "templates"),
        ({"input": "x", "truncation": "auto"}, "truncation", "left out"),
        ({"input": "x", "include": ["web_search_call.results"]}, "include", "web_search_call.results"),
        ({"input": "x", "top_logprobs": 2}, "top_logprobs", "chat completions"),
        ({"input": "x", "messages": []}, "messages", "belongs to chat completions"),
        ({"input": "x", "n": 2}, "n", "belongs to chat completions"),
        ({"input": "x", "max_tokens": 5}, "max_tokens", "belongs to chat completions"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"input": "x", "metadata": {str(n): "x" for n in range(17)}}, "metadata", "16 pairs"),
        ({"input": "x", "metadata": {"a": 1}}, "metadata[...]", "Expected"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice", "there is none"),
        ({"input": "x", "tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "among the functions"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format", "name and a schema"),
        ({"input": "x", "Store": True}, "Store", "write it 'store'"),
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "empty"),
        ({}, "input", "text or a list"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "not one of"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]", "web_search_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content", "input_file"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content",
            "Files are not kept",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "image_url": "http://x"}]}]},
            "input[0].content",
            "no image",
        ),
        ({"input": [CALL]}, "input[0]", "No tool output found for function call c"),
        ({"input": [CALL, CALL]}, "input[1].call_id", "given twice"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "input[0].call_id",
            "No tool call found",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        pivot(**fields)
    assert caught.value.param == param and words in caught.value.message, caught.value.message


# -- answers

pieces = st.one_of(
    st.builds(lambda t: {"content": t}, texts),
    st.builds(lambda t: {"reasoning_content": t}, texts),
    st.builds(lambda t: {"reasoning": t}, texts),
    st.builds(lambda t: {"refusal": t}, texts),
    st.builds(
        lambda n, t: {"tool_calls": [{"index": n, "id": f"call_{n}", "function": {"name": f"f{n}", "arguments": t}}]},
        st.integers(0, 2),
        texts,
    ),
)
CUT = st.lists(st.integers(1, 40), max_size=12)


def sse(deltas: list[dict[str, Any]], reason: str) -> bytes:
    events: list[dict[str, Any]] = [{"model": "served", "choices": [{"index": 0, "delta": d}]} for d in deltas]
    events.append({"model": "served", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    events.append({"model": "served", "choices": [], "usage": usage})
    return (
        b": keep-alive\n\n" + b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n"
    )


def stream(bytes_max: int = 10**6) -> Stream:
    echo = {"model": "asked", "metadata": {}}
    return Stream(skeleton(IDS, 1, echo, store=False), IDS, bytes_max=bytes_max, event_bytes_max=10**6, now_s=lambda: 2)


def events_of(data: bytes) -> list[dict[str, Any]]:
    found = []
    for block in data.decode().split("\n\n"):
        if block and not block.startswith(":"):
            kind, _, payload = block.partition("\n")
            event = json.loads(payload.removeprefix("data: "))
            assert kind == f"event: {event['type']}"
            found.append(event)
    return found


def run(data: bytes, cuts: list[int]) -> list[dict[str, Any]]:
    made = stream()
    out, at = made.begin(), 0
    for size in [*cuts, len(data)]:
        out += made.feed(data[at : at + size])
        at += size
    closing, response = made.finish()
    return events_of(out + closing + made.last(response))


def check_order(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold the events against the order that the reference gives. Returns the output as the events tell it."""
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    output: dict[int, dict[str, Any]] = {}
    open_parts: dict[int, str] = {}
    closed: set[int] = set()
    for event in events[2:-1]:
        kind, index = event["type"].removeprefix("response."), event["output_index"]
        if kind == "output_item.added":
            assert index == len(output) and event["item"]["status"] == "in_progress"
            output[index] = event["item"]
            continue
        item = output[index]
        assert index not in closed
        if kind == "output_item.done":
            assert index not in open_parts and event["item"]["id"] == item["id"]
            if item["type"] == "function_call":
                assert event["item"]["arguments"] == item["arguments"] and item.pop("told")
            else:
                assert event["item"]["content"] == item["content"]
            output[index] = event["item"]
            closed.add(index)
            continue
        assert event["item_id"] == item["id"]
        if kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
            item["told"] = True
        elif kind == "content_part.added":
            assert index not in open_parts and event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
            open_parts[index] = event["part"]["type"]
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
            del open_parts[index]
        else:
            part = item["content"][event["content_index"]]
            what, _, step = kind.rpartition(".")
            assert what == open_parts[index] == part["type"]
            name = "refusal" if what == "refusal" else "text"
            if step == "delta":
                part[name] += event["delta"]
            else:
                assert event[name] == part[name]
    assert closed == set(output)
    return [output[index] for index in sorted(output)]


@given(st.lists(pieces, max_size=8), st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), CUT)
@example([{"reasoning_content": "r"}, {"content": "a"}, {"refusal": "no"}, {"content": "b"}], "stop", [3])
@example([], "stop", [])
def test_a_stream_tells_its_output_in_order_however_it_is_cut(
    deltas: list[dict[str, Any]], reason: str, cuts: list[int]
) -> None:
    data = sse(deltas, reason)
    events = run(data, cuts)
    assert events == run(data, [])
    output = check_order(events)
    last = events[-1]["response"]
    why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
    assert events[-1]["type"] == f"response.{last['status']}" == f"response.{'incomplete' if why else 'completed'}"
    assert last["output"] == output and last["model"] == "served"
    assert last["incomplete_details"] == ({"reason": why} if why else None)
    assert last["usage"]["input_tokens_details"]["cached_tokens"] == 3 and last["usage"]["total_tokens"] == 13

    said = dict.fromkeys(("text", "refusal", "reasoning"), "")
    for item in output:
        for part in item.get("content", ()):
            where = {"output_text": "text", "refusal": "refusal", "reasoning_text": "reasoning"}[part["type"]]
            said[where] += part["refusal" if where == "refusal" else "text"]
    assert said["text"] == "".join(d.get("content", "") for d in deltas)
    assert said["refusal"] == "".join(d.get("refusal", "") for d in deltas)
    assert said["reasoning"] == "".join(d.get("reasoning_content", "") + d.get("reasoning", "") for d in deltas)
    calls: dict[str, str] = {}
    for d in deltas:
        for call in d.get("tool_calls", ()):
            calls[call["id"]] = calls.get(call["id"], "") + call["function"]["arguments"]
    assert {i["call_id"]: i["arguments"] for i in output if i["type"] == "function_call"} == calls


@given(st.lists(pieces, max_size=4))
def test_a_whole_answer_says_what_the_same_stream_says(deltas: list[dict[str, Any]]) -> None:
    """What is whole has one reasoning and one text, before all calls."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    reasoning = "".join(d.get("reasoning_content", "") + d.get("reasoning", "") for d in deltas)
    text = "".join(d.get("content", "") for d in deltas)
    calls: dict[int, dict[str, Any]] = {}
    for d in deltas:
        for piece in d.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}})
            call["function"]["arguments"] += piece["function"]["arguments"]
    message |= {"content": text or None, "tool_calls": list(calls.values())}
    ordered: list[dict[str, Any]] = []
    if reasoning:
        message["reasoning_content"] = reasoning
        ordered.append({"reasoning_content": reasoning})
    if text:
        ordered.append({"content": text})
    ordered += [{"tool_calls": [call]} for call in calls.values()]
    body = json.dumps({"model": "served", "choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    made = whole(body, skeleton(IDS, 1, {"model": "asked"}, store=False), IDS, 2)
    assert made["output"] == check_order(run(sse(ordered, "stop"), []))
    assert (made["status"], made["model"], made["usage"]) == ("completed", "served", None)


def test_what_was_answered_is_what_the_next_turn_goes_on_from() -> None:
    deltas = [{"reasoning": "hm"}, {"content": "hi"}]
    output = run(sse(deltas, "stop"), [])[-1]["response"]["output"]
    asked = {"role": "user", "content": "u"}
    made = pivot(input=[asked, *output])["messages"]
    assert made == [asked, {"role": "assistant", "content": "hi", "reasoning_content": "hm"}]


def test_an_answer_that_is_too_long_or_of_another_form_fails_in_its_own_events() -> None:
    for data, code in (
        (b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 500), "upstream_too_large"),
        (b'data: {"choices":[{"delta":{"content":["x"]}}]}\n\n', "upstream_malformed"),
        (b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n', "upstream_malformed"),
    ):
        made = stream(bytes_max=400)
        begun = made.begin()
        with pytest.raises(UpstreamError) as caught:
            made.feed(data)
        assert caught.value.code == code
        *_, last = events_of(begun + made.failed(caught.value))
        assert (last["type"], last["response"]["status"], last["sequence_number"]) == ("response.failed", "failed", 2)
        assert last["response"]["error"]["code"] == "server_error" and code in last["response"]["error"]["message"]
