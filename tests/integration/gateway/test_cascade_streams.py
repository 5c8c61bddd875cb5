"""The last step of a streamed cascade: it goes to the caller as it comes, and what is found of it is on record."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.control.learning.samples import verdicts_of
from interlock.ledger.entry import call_entry
from interlock.ledger.reader import epochs, find_call
from interlock.testing import answers
from interlock.testing.script import STREAM_HEAD, Script, chunk, steps
from interlock.types.record import Attempt, Chunk, Outcome, StepEnd, request_id
from interlock.types.source import SourceKind
from tests.fault.gateway.test_record_first import calling
from tests.gateway import WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import ask, events, eventually, serving
from tests.integration.gateway.test_cascade import BAD, CHEAP, GOOD, STREAM, asked, engine_of, steps_of, world

ALL = ("json", "finish", "tool_call", "confidence")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def text_of(body: bytes) -> str:
    found = [c["delta"] for e in events(body)[:-1] for c in e["choices"] if c["index"] == 0]
    return "".join(delta.get("content") or "" for delta in found)


def last_of(gateway: WorkerHarness) -> tuple[StepEnd, Outcome]:
    (outcome,) = gateway.records_of(Outcome)
    return steps_of(gateway)[-1], outcome


@pytest.mark.parametrize(
    ("two", "checks", "stop"),
    [
        (answers.answer(GOOD), ("json:passed", "finish:passed", "tool_call:passed"), "passed"),
        (answers.answer(BAD), ("json:failed", "finish:passed", "tool_call:passed"), "last"),
        (
            answers.answer(GOOD, finish_reason="length"),
            ("json:passed", "finish:failed", "tool_call:passed"),
            "last",
        ),
        (
            answers.answer("", tools=[("look", {"at": 1})]),
            ("json:passed", "finish:passed", "tool_call:passed"),
            "passed",
        ),
    ],
    ids=["passes", "no JSON", "cut", "tool"],
)
@pytest.mark.parametrize("kept", ["full", "metadata"])
def test_what_is_found_of_it_is_in_its_record_and_its_entry(
    two: Script, checks: tuple[str, ...], stop: str, kept: str
) -> None:
    built = world(checks=ALL, given={"confidence_min_milli": 1})
    with serving(built, engine_of(one=answers.answer(BAD), two=two)) as (gateway, engine):
        answer = ask(gateway, {**STREAM, "tools": [TOOL], "interlock": {"recording": kept}})
        assert answer.status == 200 and asked(engine) == ["one", "two"] and answer.body.endswith(b"data: [DONE]\n\n")
        first, second = steps_of(gateway)
        (outcome,) = gateway.records_of(Outcome)
        assert (second.checks, second.passed, outcome.stop) == (checks, stop == "passed", stop)
        assert outcome.model == "two" and outcome.attempt == 1 and second.body == b""
        assert outcome.cost.nusd == first.cost.nusd + second.cost.nusd
        assert "logprobs" not in engine.calls[1].json and bool(gateway.records_of(Chunk)) == (kept == "full")
        told = answer.headers["x-interlock-cascade"]
        assert told.startswith("step=2/2; checks=json:failed+") and told.count("json:") == 1, "of the steps before"
        epoch = epochs(gateway.folder / "log")[0]
        call = find_call(gateway.folder / "log", request_id(epoch, 1))
        assert call is not None
        leaf = call_entry(call, 5, None).leaf
        assert [step["given"] for step in leaf["cascade"]["tried"]] == [False, True]
        assert leaf["cascade"]["tried"][1]["checks"] == list(checks)
        assert list(verdicts_of(leaf)) == [("one", False), ("two", stop == "passed")], "the router learns from both"
        result = "passed" if stop == "passed" else "not_passed"
        line = f'interlock_cascade_steps_total{{step="2",result="{result}"}} 1'
        eventually(lambda: line in ask(gateway, path="/metrics", method="GET", key="").body.decode())


def test_its_text_is_the_callers_at_once_and_whatever_is_found() -> None:
    slow = answers.answer(BAD, between_ms=150)
    with serving(world(), engine_of(one=answers.answer(BAD), two=slow), stream_sync_ms=10) as (gateway, _):
        with calling(gateway, STREAM) as found:
            eventually(lambda: len(gateway.records_of(Chunk)) > 1)
            assert len(steps_of(gateway)) == 1 and not gateway.records_of(Outcome), "it has not ended yet"
            eventually(lambda: found, 20)
        assert text_of(found[0].body) == BAD and last_of(gateway)[0].checks == ("json:failed",)


def test_what_is_found_is_in_the_log_before_the_outcome() -> None:
    with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, _):
        assert ask(gateway, STREAM).status == 200
        kinds = [type(record).__name__ for record in gateway.records() if not isinstance(record, Chunk)]
        assert kinds[kinds.index("Intent") :][:6] == [
            "Intent", "Attempt", "StepEnd", "Attempt", "StepEnd", "Outcome",
        ]  # fmt: skip


def test_what_is_too_large_to_be_kept_goes_through_and_is_unknown() -> None:
    long = answers.answer("x " * 3000)
    built = world(checks=("json", "finish"))
    with serving(built, engine_of(one=answers.error(500), two=long), cascade_answer_bytes_max=2048) as (gateway, _):
        answer = ask(gateway, {**STREAM, "max_tokens": 5000})
        assert answer.status == 200 and len(text_of(answer.body)) > 5000
        step, outcome = last_of(gateway)
        assert step.checks == ("json:unknown", "finish:unknown") and not step.passed and outcome.stop == "last"
        assert answer.headers["x-interlock-cascade"] == "step=2/2; checks=none"


def test_what_was_kept_of_a_step_that_broke_off_is_not_the_next_ones() -> None:
    """Two sources of the last step: the first ends without an event, the second one answers."""

    def build(url: str) -> World:
        made = world()(url)
        made.sources.append(source("t-two", url, model("two", price=CHEAP)))
        return made

    answered: list[Any] = []

    def two(received: Any) -> Any:
        answered.append(received)
        return (answers.answer(GOOD) if len(answered) > 1 else answers.page({"no": "stream"}))(received)

    with serving(build, engine_of(one=answers.answer(BAD), two=two)) as (gateway, _):
        answer = ask(gateway, STREAM)
        assert answer.status == 200 and text_of(answer.body) == GOOD and len(gateway.records_of(Attempt)) == 3
        assert last_of(gateway)[0].checks == ("json:passed",)


def test_two_answers_are_both_checked() -> None:
    for wanted, two in (("passed", GOOD), ("failed", BAD)):
        built = world(policies=[permit_all(features=("multiply",))])
        with serving(built, engine_of(one=answers.answer(BAD), two=answers.answer(two))) as (gateway, _):
            assert ask(gateway, {**STREAM, "n": 2}).status == 200
            assert last_of(gateway)[0].checks == (f"json:{wanted}",)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_last_step_of_anthropics_kind_is_checked_too(path: str) -> None:
    stream = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
        b'"model":"two","content":[],"stop_reason":null,"usage":{"input_tokens":5,"output_tokens":1}}}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"{\\"a\\": 1}"}}\n\n'
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
        b'"usage":{"output_tokens":4}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )

    def build(url: str) -> World:
        made = world(checks=("json", "finish"))(url)
        made.sources[1] = source("s-two", url, model("two", price=CHEAP), kind=SourceKind.anthropic)
        return made

    with serving(build, engine_of(one=answers.answer(BAD), two=steps(STREAM_HEAD, chunk(stream), chunk(b"")))) as (
        gateway,
        _,
    ):
        answer = ask(
            gateway, {"model": "a", "max_tokens": 5, "messages": STREAM["messages"], "stream": True}, path=path
        )
        assert answer.status == 200 and b'a\\"' in answer.body
        step, outcome = last_of(gateway)
        assert step.checks == ("json:passed", "finish:passed") and outcome.stop == "passed"
