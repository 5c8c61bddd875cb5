"""Ollama's dialect both ways: nothing of a conversation or an answer is lost, however a stream is cut."""

from __future__ import annotations

import contextlib
import json
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.errors import BadRequest, UpstreamError
from interlock.types.source import Model, Offer, Source, SourceKind
from interlock.wire import openai
from interlock.wire.ollama import answer, question, request
from interlock.wire.ollama.lines import Lines
from interlock.wire.ollama.speech import OllamaSpeech
from interlock.wire.speech import DONE, Ask
from interlock.wire.sse import Splitter, data_of

ABILITIES = ("chat", "completions", "embeddings", "tools", "vision", "thinking")
SOURCE = Source("i", "s", SourceKind.ollama, "http://s", api_prefix="/api")
OFFER = Offer(SOURCE, Model("m", ABILITIES), "s::m")
LIMITS = openai.Limits(10_000, 8)
SPEECH = OllamaSpeech()
TIMES = answer.Times(9, 4)
STAMP = "2026-11-01T12:00:00.123456789Z"

T = TypeVar("T", bytes, str)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.sampled_from(["switch", "look", "a_b"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda v: st.lists(v, max_size=2), max_leaves=4
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3)
IMAGES = st.sampled_from(["iVBORw0K", "/9j/4AAQ", "R0lGODlh", "UklGRg=="])


def ask_of(body: dict[str, Any], operation: str = "chat", bound: int = 16) -> Ask:
    return Ask(openai.parse(operation, json.dumps(body).encode(), LIMITS), OFFER, SOURCE, 0, bound)


def cut(data: T, cuts: list[int]) -> list[T]:
    places = sorted({c % (len(data) + 1) for c in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


# -- conversations: pivot -> Ollama -> pivot


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(SAID)})
    made = 0
    for _ in range(draw(st.integers(1, 4))):
        images = draw(st.lists(IMAGES, max_size=2))
        text = draw(SAID)
        content: Any = text
        if images:
            kinds = {"i": "png", "/": "jpeg", "R": "gif", "U": "webp"}
            parts = [
                {"type": "image_url", "image_url": {"url": f"data:image/{kinds[i[0]]};base64,{i}"}} for i in images
            ]
            content = [{"type": "text", "text": text}, *parts]
        messages.append({"role": "user", "content": content})
        said: dict[str, Any] = {"role": "assistant", "content": draw(TEXT)}
        if draw(st.booleans()):
            said["reasoning_content"] = draw(SAID)
        calls = draw(CALLS)
        if calls:
            said["tool_calls"] = [
                {"id": f"id_{made + i}", "type": "function", "function": {"name": n, "arguments": compact(a)}}
                for i, (n, a) in enumerate(calls)
            ]
        messages.append(said)
        order = draw(st.permutations(range(len(calls))))
        messages += [{"role": "tool", "content": draw(TEXT), "tool_call_id": f"id_{made + i}"} for i in order]
        made += len(calls)
    return messages


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@settings(max_examples=150, deadline=None)
@given(conversations())
def test_a_conversation_comes_back_as_it_was(messages: list[dict[str, Any]]) -> None:
    asked = ask_of({"model": "m", "messages": messages, "max_tokens": 9})
    body = question.body_of(asked)
    sent = json.loads(body)
    assert sent["options"] == {"num_predict": 9} and sent["stream"] is False
    back = request.translated("chat", body)
    assert back.operation == "chat"
    again = json.loads(back.body)
    assert [normal(m) for m in again["messages"]] == [normal(m) for m in messages]
    assert again["max_tokens"] == 9 and again["stream"] is False
    openai.parse("chat", back.body, LIMITS)


def normal(message: dict[str, Any]) -> dict[str, Any]:
    out = dict(message)
    if "tool_calls" in out:
        out["tool_calls"] = [
            c | {"function": c["function"] | {"arguments": json.loads(c["function"]["arguments"])}}
            for c in out["tool_calls"]
        ]
    return out


@given(st.lists(st.tuples(NAMES, TEXT), min_size=1, max_size=4))
def test_results_without_ids_find_their_calls(pairs: list[tuple[str, str]]) -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name, _ in pairs]
    results = [{"role": "tool", "tool_name": name, "content": text} for name, text in pairs]
    body = {"model": "m", "messages": [{"role": "assistant", "tool_calls": calls}, *results]}
    messages = json.loads(request.translated("chat", json.dumps(body).encode()).body)["messages"]
    ids = [call["id"] for call in messages[0]["tool_calls"]]
    assert len(set(ids)) == len(ids)
    assert [m["tool_call_id"] for m in messages[1:]] == ids


# -- answers: Ollama -> pivot -> Ollama


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of a chat as Ollama streams it, and what they say altogether."""
    thoughts, texts, calls = draw(st.lists(SAID, max_size=3)), draw(st.lists(SAID, max_size=4)), draw(CALLS)
    lines: list[dict[str, Any]] = [{"message": {"role": "assistant", "content": "", "thinking": t}} for t in thoughts]
    lines += [{"message": {"role": "assistant", "content": t}} for t in texts]
    if calls:
        several = draw(st.booleans())
        made = [{"function": {"name": n, "arguments": a}} for n, a in calls]
        groups = [made] if several else [[call] for call in made]
        lines += [{"message": {"role": "assistant", "content": "", "tool_calls": group}} for group in groups]
    reason = draw(st.sampled_from(["stop", "length"]))
    counts = draw(st.sampled_from([{}, {"prompt_eval_count": 7, "eval_count": 3}, {"prompt_eval_count": 7}]))
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason} | counts
    frame = {"model": "m", "created_at": STAMP, "done": False}
    said = {
        "text": "".join(texts),
        "thinking": "".join(thoughts),
        "calls": [(n, a) for n, a in calls],
        "reason": "tool_calls" if calls and reason == "stop" else reason,
        "usage": (7, counts.get("eval_count", 0)) if counts else None,
    }
    return [frame | line for line in [*lines, last]], said


UMLAUT: Any = (
    [{"model": "m", "created_at": "", "message": {"content": "ü"}, "done": True, "done_reason": "stop"}],
    {"text": "ü", "thinking": "", "calls": [], "reason": "stop", "usage": None},
)


def heard(pivot: list[bytes]) -> dict[str, Any]:
    """What a stream of the pivot says."""
    assert pivot[-1] == DONE and pivot.count(DONE) == 1
    out: dict[str, Any] = {"text": "", "thinking": "", "calls": [], "reason": "", "usage": None}
    ids = set()
    for event in pivot[:-1]:
        data = data_of(event)
        assert data is not None
        parsed = json.loads(data)
        ids.add((parsed["id"], parsed["model"], parsed["created"]))
        if parsed.get("usage"):
            assert parsed["choices"] == []
            out["usage"] = (parsed["usage"]["prompt_tokens"], parsed["usage"]["completion_tokens"])
        for choice in parsed["choices"]:
            delta = choice["delta"]
            out["text"] += delta.get("content") or ""
            out["thinking"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                assert call["index"] == len(out["calls"])
                out["calls"].append((call["function"]["name"], json.loads(call["function"]["arguments"])))
            out["reason"] = choice["finish_reason"] or out["reason"]
    assert len(ids) == 1
    return out


@settings(max_examples=150, deadline=None)
@given(streams(), st.lists(st.integers(0, 5000), max_size=12), st.booleans())
@example(UMLAUT, [101, 102, 103], True)
def test_a_stream_says_the_same_however_it_is_cut(
    stream: tuple[list[dict[str, Any]], dict[str, Any]], cuts: list[int], ended: bool
) -> None:
    lines, said = stream
    data = b"\n".join(compact(line).encode() for line in lines) + (b"\n" if ended else b"")
    listener = SPEECH.listen(ask_of({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}))
    pieces = [piece for part in cut(data, cuts) for piece in listener.feed(part)] + listener.finish()
    assert all(piece.event == piece.out for piece in pieces)
    pivot = [piece.event for piece in pieces]
    assert heard(pivot) == said

    splitter, writer = Splitter(1 << 30), answer.Writer("chat", "m")
    out = b"".join(writer.lines(e, STAMP) for part in cut(b"".join(pivot), cuts) for e in splitter.feed(part))
    found = [json.loads(line) for line in (out + writer.last(STAMP, TIMES)).splitlines()]
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    assert "".join(line["message"]["content"] for line in found) == said["text"]
    assert "".join(line["message"].get("thinking", "") for line in found) == said["thinking"]
    calls = [call["function"] for line in found for call in line["message"].get("tool_calls", ())]
    assert [(c["name"], c["arguments"]) for c in calls] == said["calls"]
    assert found[-1]["done_reason"] == ("length" if said["reason"] == "length" else "stop")
    assert (found[-1].get("prompt_eval_count"), found[-1].get("eval_count")) == (said["usage"] or (None, None))


@settings(max_examples=100, deadline=None)
@given(streams())
def test_a_whole_answer_says_what_its_stream_would(stream: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    lines, said = stream
    message: dict[str, Any] = {"role": "assistant", "content": said["text"]}
    if said["thinking"]:
        message["thinking"] = said["thinking"]
    if said["calls"]:
        message["tool_calls"] = [{"function": {"name": n, "arguments": a}} for n, a in said["calls"]]
    body = compact(lines[-1] | {"message": message}).encode()
    pivot = SPEECH.whole(body, "chat").pivot
    choice = json.loads(pivot)["choices"][0]
    assert choice["finish_reason"] == said["reason"] and (choice["message"]["content"] or "") == said["text"]
    back = json.loads(answer.whole("chat", pivot, "m", STAMP, TIMES))
    calls = back["message"].pop("tool_calls", [])
    assert back["message"] == {k: v for k, v in message.items() if k != "tool_calls"}
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == said["calls"]
    assert back["done"] and back["total_duration"] == 9 and back["eval_duration"] == 5


# -- tool calls in pieces


def said_of(pieces: list[dict[str, Any]]) -> tuple[list[tuple[str, Any]], str]:
    """The calls, and the text, of a stream of these pieces of calls."""
    writer = answer.Writer("chat", "m")
    for piece in pieces:
        assert not writer.lines(sse({"choices": [{"delta": {"tool_calls": [piece]}}]}), STAMP)
    message = json.loads(writer.last(STAMP, TIMES).splitlines()[0])["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return [(call["name"], call["arguments"]) for call in calls], message["content"]


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


@given(CALLS, st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.booleans())
@example([("a_b", {}), ("a_b", {"x": 1})], [1], False, False)
def test_calls_are_whole_however_their_arguments_come(
    calls: list[tuple[str, dict[str, Any]]], cuts: list[int], indexed: bool, decoded: bool
) -> None:
    pieces: list[dict[str, Any]] = []
    for index, (name, arguments) in enumerate(calls):
        texts: list[Any] = [arguments] if decoded else cut(compact(arguments), cuts)
        for number, text in enumerate(texts):
            function = {"arguments": text} | ({"name": name} if number == 0 else {})
            pieces.append({"function": function} | ({"index": index} if indexed else {}))
    assert said_of(pieces) == (calls, "")


def test_calls_that_cannot_be_read_are_text_and_what_is_held_is_bounded() -> None:
    half = {"index": 0, "function": {"name": "f", "arguments": '{"a": '}}
    assert said_of([half, {"index": 1, "function": {"name": "g"}}]) == ([("g", {})], '{"a": ')
    many = [{"index": i, "function": {"name": "f", "arguments": " " * 1_000_000}} for i in range(9)]
    assert len(said_of(many)[0]) < 5


# -- what others may send


WORDS = """model messages prompt input content images role tool_calls function arguments name message response done
thinking logprobs top_logprobs token choices delta index finish_reason usage prompt_tokens data embedding embeddings
error options num_predict stop format think raw suffix created_at done_reason prompt_eval_count text tools"""
FIELDS = st.sampled_from(WORDS.split())
OPERATIONS = ["chat", "completions", "embeddings"]
PIVOT_WORDS = """messages role content tool_calls refusal reasoning_content function_call tool_call_id prompt suffix
input dimensions stop logprobs top_logprobs response_format reasoning_effort tools tool_choice n seed num_ctx top_k
max_tokens temperature logit_bias functions stream encoding_format"""
PIVOT = st.sampled_from(PIVOT_WORDS.split())
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELDS | TEXT, v, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=8), st.sampled_from(["chat", "generate", "embed", "embeddings"]))
@example({"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}]}, "chat")
def test_any_request_is_translated_or_refused(fields: dict[str, Any], form: str) -> None:
    right = {"model": "m", "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    body = {**right, **fields}
    try:
        asked = request.translated(form, json.dumps(body).encode())
        parsed = openai.parse(asked.operation, asked.body, LIMITS)
        question.body_of(Ask(parsed, OFFER, SOURCE, 0, 16))
    except (BadRequest, msgspec.ValidationError):
        pass


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PIVOT, JSON, max_size=6), st.dictionaries(PIVOT, JSON, max_size=4), st.sampled_from(OPERATIONS))
@example({"response_format": {"type": "json_schema", "json_schema": "x"}}, {}, "chat")
@example({"reasoning_effort": []}, {}, "chat")
@example({}, {"tool_calls": 5}, "chat")
@example({}, {"tool_calls": [{"function": {"name": "f", "arguments": "[" * 100_000}}]}, "chat")
@example({}, {"refusal": {}}, "chat")
def test_any_checked_request_is_said_or_refused(
    fields: dict[str, Any], message: dict[str, Any], operation: str
) -> None:
    right = {"model": "m", "messages": [{"role": "user", "content": "x", **message}]}
    if operation != "chat":
        right = {"model": "m", "prompt" if operation == "completions" else "input": "x"}
    with contextlib.suppress(BadRequest):
        question.body_of(ask_of({**right, **fields}, operation))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(FIELDS, JSON, max_size=6), min_size=1, max_size=4), st.booleans())
@example([{"message": {"content": "x"}, "logprobs": [{"top_logprobs": [1]}]}], True)
def test_any_answer_is_heard_or_malformed(lines: list[dict[str, Any]], generates: bool) -> None:
    operation = "completions" if generates else "chat"
    body: dict[str, Any] = {"prompt": "x"} if generates else {"messages": [{"role": "user", "content": "x"}]}
    listener = SPEECH.listen(ask_of({"model": "m", **body}, operation))
    for line in lines:
        with contextlib.suppress(UpstreamError):
            SPEECH.whole(json.dumps(line).encode(), operation)
        with contextlib.suppress(UpstreamError):
            SPEECH.whole(json.dumps(line).encode(), "embeddings")
    try:
        listener.feed(b"\n".join(json.dumps(line).encode() for line in lines))
        listener.finish()
    except UpstreamError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=6), st.sampled_from(["chat", "generate", "embed", "embeddings"]))
@example({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {"a": 1}}}]}}]}, "chat")
def test_any_answer_of_an_engine_is_told_or_not_read(event: dict[str, Any], form: str) -> None:
    writer = answer.Writer(form, "m")
    try:
        writer.lines(sse(event), STAMP)
        writer.last(STAMP, TIMES)
    except answer.NOT_READ:
        pass
    with contextlib.suppress(answer.NOT_READ):
        answer.whole(form, json.dumps(event).encode(), "m", STAMP, TIMES)


# -- limits and refusals


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 200), max_size=8))
def test_lines_are_cut_at_line_ends_only(parts: list[bytes], cuts: list[int]) -> None:
    lines = [p.replace(b"\n", b" ") for p in parts]
    splitter = Lines(1000)
    data = b"\n".join(lines)
    found = [line for part in cut(data, cuts) for line in splitter.feed(part)] + splitter.finish()
    assert found == [line.strip() for line in lines if line.strip()]


def test_a_line_without_an_end_is_not_held_for_ever() -> None:
    with pytest.raises(UpstreamError) as error:
        for _ in range(10):
            Lines(100).feed(b"x" * 101)
    assert error.value.code == "upstream_event_too_large"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"logit_bias": {"5": 1}},
        {"parallel_tool_calls": False},
        {"modalities": ["audio"]},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y.png"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png,AA"}]}]},
    ],
)
def test_what_cannot_be_said_is_refused(fields: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    with pytest.raises(BadRequest) as refused:
        question.body_of(ask_of(body))
    assert refused.value.code == "untranslatable" and "Ollama" in refused.value.message


@pytest.mark.parametrize(
    ("operation", "fields"),
    [("completions", {"prompt": ["a", "b"]}), ("completions", {"prompt": [1, 2]}), ("embeddings", {"input": [1, 2]})],
)
def test_tokens_and_several_prompts_are_refused(operation: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        question.body_of(ask_of({"model": "m", **fields}, operation))
    assert refused.value.code == "untranslatable"


def test_an_answer_always_has_a_bound() -> None:
    asked = ask_of({"model": "m", "messages": [{"role": "user", "content": "x"}]}, bound=77)
    assert json.loads(question.body_of(asked))["options"]["num_predict"] == 77
    assert json.loads(question.body_of(asked._replace(bound=5)))["options"]["num_predict"] == 5


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"done":true}', b'{"message":{"content":"x"},"done":false}', b"\xff"]
)
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamError) as error:
        SPEECH.whole(body, "chat")
    assert error.value.code == "upstream_malformed"
