"""What is said in Anthropic's dialect comes back from the pivot as it was said, cut however it may be."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from interlock.testing import messages as scripted
from interlock.wire import openai
from interlock.wire.anthropic import answers, requests
from interlock.wire.anthropic.ask import messages_request
from interlock.wire.anthropic.listen import FINISHES, NATIVE, MessagesListener, chat_completion
from interlock.wire.openai import Limits
from interlock.wire.speech import DONE

LIMITS = Limits(messages_max=1000, template_tokens_per_message=16)
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
TEXTS = st.one_of(
    st.sampled_from(["a", 'quote " and \\', "two\nlines", "data: x\n\n", "\U0001f600"]),
    st.text(min_size=1, max_size=20),
)
NAMES = st.sampled_from(["look", "switch_points", "a-b_c"])
IDS = st.from_regex(r"toolu_[a-zA-Z0-9_-]{1,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(st.text(max_size=6), JSON, max_size=3)


def block(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


TEXT = TEXTS.map(lambda t: block("text", text=t))
THINKING = st.builds(lambda t, s: block("thinking", thinking=t, signature=s), TEXTS, st.just("c2lnbmVk"))
TOOL_USE = st.builds(lambda i, n, v: block("tool_use", id=i, name=n, input=v), IDS, NAMES, INPUTS)
IMAGE = st.sampled_from(
    [
        block("image", source={"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}),
        block("image", source={"type": "url", "url": "https://example.org/signal.jpg"}),
    ]
)
ANSWERS = st.tuples(st.lists(THINKING, max_size=1), st.lists(TEXT, max_size=1), st.lists(TOOL_USE, max_size=3)).map(
    lambda parts: [b for part in parts for b in part]
)
COUNTS = st.integers(0, 10_000)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns as clients write them: a call of tools is answered by the results of all of them."""
    turns: list[dict[str, Any]] = []
    calls: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        results = [block("tool_result", tool_use_id=i, content=draw(TEXTS)) for i in calls]
        said = draw(st.lists(TEXT | IMAGE, min_size=0 if results else 1, max_size=3))
        turns.append({"role": "user", "content": [*results, *said]})
        uses = draw(st.lists(TOOL_USE, max_size=3, unique_by=lambda use: use["id"]))
        texts = draw(st.lists(TEXT, min_size=0 if uses else 1, max_size=1))
        turns.append({"role": "assistant", "content": [*texts, *uses]})
        calls = [use["id"] for use in uses]
    results = [block("tool_result", tool_use_id=i, content=draw(TEXTS)) for i in calls]
    turns.append({"role": "user", "content": [*results, block("text", text="Go on.")]})
    return turns


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 100, **fields}).encode()


FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
CHOICES = st.sampled_from(
    [
        block("auto"),
        block("any"),
        block("none"),
        block("tool", name="look"),
        block("auto", disable_parallel_tool_use=True),
        block("any", disable_parallel_tool_use=True),
    ]
)


@given(
    turns=conversations(),
    system=st.none() | TEXTS,
    choice=CHOICES,
    more=st.fixed_dictionaries(
        {},
        optional={
            "stop_sequences": st.lists(TEXTS, min_size=1, max_size=3),
            "temperature": st.floats(0, 1),
            "top_p": st.floats(0, 1),
            "top_k": st.integers(1, 100),
            "metadata": st.just({"user_id": "u-1"}),
            "stream": st.just(True),
            "output_config": st.sampled_from([{"effort": "low"}, {"format": FORMAT}]),
        },
    ),
)  # fmt: skip
def test_a_request_comes_back_from_the_pivot(
    turns: list[dict[str, Any]], system: str | None, choice: dict[str, Any], more: dict[str, Any]
) -> None:
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
    asked = {"model": "m", "max_tokens": 100, "messages": turns, "tools": [tool], "tool_choice": choice, **more}
    if system is not None:
        asked["system"] = system
    parsed = requests.parse(json.dumps(asked).encode(), LIMITS)
    assert json.loads(msgspec.json.encode(messages_request(parsed, "m", parsed.max_tokens))) == asked
    assert parsed.native is not None
    native = json.loads(msgspec.json.encode(parsed.native.fields))
    assert native == asked


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def snapshot(events: bytes) -> Any:
    """What the SDK makes of a stream."""
    made, buffers = None, dict[int, bytes]()
    for each in events.split(b"\n\n"):
        if each and not each.startswith(b"event: ping"):
            event = EVENT.validate_json(each.partition(b"\ndata: ")[2])
            made = accumulate_event(event=event, current_snapshot=made, json_bufs=buffers)
    return made


def usage(prompt: int, read: int, written: int, said: int) -> dict[str, int]:
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": said,
    }


@given(
    blocks=ANSWERS,
    reason=st.sampled_from(["end_turn", "max_tokens", "tool_use", "refusal", "stop_sequence"]),
    counts=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS),
    first=st.lists(st.integers(0, 5000), max_size=8),
    second=st.lists(st.integers(0, 5000), max_size=8),
)
@example([block("tool_use", id="t", name="look", input={})], "tool_use", (1, 2, 3, 4), [], [])
@example([block("text", text="a"), block("tool_use", id="t", name="look", input={"a": 1}),
          block("tool_use", id="u", name="look", input={"b": [2]})], "tool_use", (1, 0, 0, 4), [5], [6])  # fmt: skip
def test_an_answer_comes_back_from_the_pivot(
    blocks: list[dict[str, Any]], reason: str, counts: tuple[int, int, int, int], first: list[int], second: list[int]
) -> None:
    if any(b["type"] == "tool_use" for b in blocks):
        reason = "tool_use"
    elif reason == "tool_use":
        reason = "end_turn"
    end = {"stop_reason": reason, "stop_sequence": "STOP" if reason == "stop_sequence" else None}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    source = b"".join(scripted.stream(blocks, head, end, usage(*counts)))
    listener = MessagesListener(1 << 20, native=False)
    pieces = [piece for part in cut(source, first) for piece in listener.feed(part)]
    assert pieces[-1].event == DONE and all(piece.event == piece.out for piece in pieces)
    finishes = [json.loads(p.event[6:])["choices"][0]["finish_reason"] for p in pieces[:-1]
                if json.loads(p.event[6:])["choices"]]  # fmt: skip
    assert finishes[-1] == FINISHES[reason] and not any(finishes[:-1])

    writer = answers.Writer("msg_1", "m", thinking=True)
    pivot = b"".join(piece.event for piece in pieces)
    streamed = snapshot(b"".join(writer.feed(part) for part in cut(pivot, second)))
    # What signs a thought does not pass the pivot.
    wanted = [b | {"signature": ""} if b["type"] == "thinking" else b for b in blocks]
    whole_answer = chat_completion(json.dumps({**head, "content": blocks, **end, "usage": usage(*counts)}).encode())
    whole = json.loads(answers.whole(whole_answer, "msg_1", "m", thinking=True))
    assert whole["content"] == wanted
    assert [b.to_dict() for b in streamed.content] == wanted
    for told in (streamed.to_dict(), whole):
        assert (told["stop_reason"], told["stop_sequence"]) == (reason, end["stop_sequence"])
        assert {name: told["usage"][name] for name in usage(*counts)} == usage(*counts)


def deltas(recorded: list[bytes]) -> list[dict[str, Any]]:
    """What the pieces of a recorded stream add, but the role, which the first one of them has."""
    said = [json.loads(event[6:]) for event in recorded if event != DONE]
    return [
        {name: value for name, value in choice["delta"].items() if name != "role"}
        for each in said
        for choice in each["choices"]
    ]


@given(blocks=ANSWERS, places=st.lists(st.integers(0, 5000), max_size=8))
def test_natively_the_source_s_own_events_leave(blocks: list[dict[str, Any]], places: list[int]) -> None:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    source = b"".join(scripted.stream(blocks, head, end, usage(3, 2, 1, 4)))
    native, translated = MessagesListener(1 << 20, native=True), MessagesListener(1 << 20, native=False)
    pieces = [piece for part in cut(source, places) for piece in native.feed(part)]
    assert b"".join(piece.out for piece in pieces) == source
    said = deltas([piece.event for piece in pieces if piece.event])
    common = [delta for delta in said if NATIVE not in delta]
    assert common == deltas([piece.event for piece in translated.feed(source)])
    signed = [block for block in blocks if block.get("signature")]
    assert len(said) - len(common) == len(signed), "what only the source's dialect has is recorded too"
    first = next(i for i, piece in enumerate(pieces) if piece.out)
    assert pieces[first].event, "nothing leaves before something is said"


REFUSED = [
    ({"messages": [{"role": "user", "content": [block("document", source={})]}]}, "document"),
    ({"messages": [{"role": "user", "content": [block("image", source={"type": "file", "file_id": "f"})]}]}, "file"),
    ({"messages": [{"role": "user", "content": [block("tool_use", id="a", name="b", input={})]}]}, "tool_use"),
    ({"messages": [{"role": "assistant", "content": [block("tool_use", id="a", name="b", input=[])]}]}, "object"),
    ({"messages": [{"role": "user", "content": [block("text", text="a", Text="b")]}]}, "Text"),
    ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "type"),
    ({"tools": [block("web_search_20250305", name="web_search", max_uses=5)]}, "web_search_20250305"),
    ({"tools": [{"name": "a", "input_schema": []}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "a", "input_schema": {}, "defer_loading": True}]}, "tools[0]"),
    ({"max_tokens": 2**31}, "'max_tokens'"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"Model": "x"}, "Model"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "compact_20260112"),
    ({"system": [block("image", source={"type": "url", "url": "https://a"})]}, "image"),
]


@given(st.sampled_from(REFUSED))
def test_what_is_refused_is_refused_in_words(case: tuple[dict[str, Any], str]) -> None:
    fields, word = case
    try:
        requests.parse(request(**({"messages": [{"role": "user", "content": "Hi"}]} | fields)), LIMITS)
    except openai.BadRequest as error:
        assert word in error.message, error.message
    else:
        raise AssertionError(fields)


def test_what_only_a_provider_reads_counts_as_prompt() -> None:
    def asked(thought: str) -> openai.Parsed:
        block_of = {"type": "thinking", "thinking": thought, "signature": "c2ln"}
        said = {"role": "assistant", "content": [block_of, {"type": "text", "text": "No."}]}
        turns = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Hi"}]
        return requests.parse(request(messages=turns), LIMITS)

    short, long = asked("x"), asked("x" * 1001)
    assert long.prompt_tokens_max - short.prompt_tokens_max == long.prompt_bytes - short.prompt_bytes == 1000
    assert b"xxx" not in bytes(long.fields["messages"]), "and is not for others"


def test_what_nobody_has_looked_at_does_not_break_an_answer() -> None:
    odd = b'{"x":"\xff","model":"m","choices":[{"index":0,"delta":{"content":"a"},"message":{"content":"a"}}]}'
    assert json.loads(answers.whole(odd, "msg_1", "m", thinking=False))["content"] == [{"type": "text", "text": "a"}]
    writer = answers.Writer("msg_1", "m", thinking=False)
    assert b'"text":"a"' in writer.feed(b"data: " + odd + b"\n\n")
    assert b"message_stop" in writer.feed(b"data: [1]\n\n" + DONE)
