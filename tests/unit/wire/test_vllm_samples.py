"""Streams recorded from a real vLLM 0.32 (tests/vllm/test_samples.py keeps them true), read by the stream codec."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.wire.answers import decode_event, plain_text
from interlock.wire.sse import Splitter, data_of

DATA = Path(__file__).resolve().parent.parent.parent / "data"
SAMPLES = sorted(path.name for path in DATA.glob("vllm_stream_*.txt"))


def payloads(stream: bytes, cut: int) -> list[bytes]:
    splitter = Splitter(65_536)
    events = [event for n in range(0, len(stream), cut) for event in splitter.feed(stream[n : n + cut])]
    assert b"".join(events) == stream, "bytes pass as they came"
    return [data for event in events if (data := data_of(event)) is not None]


def test_they_are_there() -> None:
    assert len(SAMPLES) == 4


@pytest.mark.parametrize("name", SAMPLES)
def test_a_stream_ends_with_its_finishes_the_usage_and_done(name: str) -> None:
    stream = (DATA / name).read_bytes()
    *events, usage, done = payloads(stream, 100)
    assert done == b"[DONE]"
    last = decode_event(usage)
    assert last.choices == []
    assert last.usage is not None
    read = last.usage.usage()
    assert read.prompt_tokens > 0
    assert read.completion_tokens > 0
    choices = [choice for event in events for choice in decode_event(event).choices or ()]
    finished = [choice.index for choice in choices if choice.finish_reason]
    assert sorted(finished) == sorted({choice.index for choice in choices}), "each answer finishes once"
    assert {decode_event(event).model for event in events} == {"smollm2"}


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_cuts_change_nothing(cut: int) -> None:
    stream = (DATA / "vllm_stream_chat.txt").read_bytes()
    assert payloads(stream, cut) == payloads(stream, len(stream))


@pytest.mark.parametrize(("name", "plain"), [("chat", True), ("completions", True), ("chat_logprobs", False)])
def test_what_is_text_and_nothing_else(name: str, plain: bool) -> None:
    events = payloads((DATA / f"vllm_stream_{name}.txt").read_bytes(), 4096)[:-2]
    choices = [choice for event in events for choice in decode_event(event).choices or ()]
    texts = [plain_text(choice) for choice in choices]
    assert (None not in texts) is plain
    assert "".join(text or "" for text in texts) or not plain
