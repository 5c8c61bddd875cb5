"""Defects of ours while a call is being ended: it ends all the same, once, on record, with nothing left reserved."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from interlock.gateway import account, attempt, cascade, run
from interlock.gateway.relay import Relay
from interlock.gateway.run import Run
from interlock.gateway.shadow import Shadowed
from interlock.gateway.treasury import Treasury
from interlock.ledger.log import RecordLog
from interlock.metering.cost import Rates
from interlock.metering.limits import LimitTable
from interlock.sources.board import Board
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.types.budget import Budget
from interlock.types.identity import LimitSet
from interlock.types.record import AttemptEnd, Intent, Outcome, StepEnd
from interlock.types.snapshot import Alias, AliasTarget, Cascade, CascadeStep, Shadow
from interlock.types.source import Price
from tests.fault.gateway.test_engines import one_end_for_each_intent
from tests.gateway import Who, WorkerHarness, World, model, source
from tests.integration.gateway.client import Answer, ask, connected, eventually, raw_request, read_until, serving

SECRET = "the prompt's own words"
ASKED = {"model": "m", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 50}
PRICE = Price(10**9, 10**9, 2 * 10**9)
AMOUNT = 10**12


def world(url: str, *aliases: Alias) -> World:
    """One source with a price, and a caller who may have one call at a time and has a budget of each measure."""
    budgets = [
        Budget(f"bdg_{measure}", "ten_acme", measure, "tenant", ("ten_acme",), measure, AMOUNT)
        for measure in ("calls", "tokens", "nusd")
    ]
    who = Who(limits=LimitSet(concurrency=1))
    models = [model(name, price=PRICE) for name in ("m", "n")]
    return World([source("s", url, *models)], people=[who], budgets=budgets, aliases=list(aliases))


def fill(gateway: WorkerHarness) -> None:
    """Let the worker have shares of the budgets."""
    gateway.purse = {each.id: AMOUNT for each in gateway.world.budgets}


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def defects(self) -> list[logging.LogRecord]:
        return [each for each in self.records if "defect" in each.msg]


@contextmanager
def listening() -> Iterator[Lines]:
    lines, logger = Lines(), logging.getLogger("interlock")
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


def breaks(
    patch: pytest.MonkeyPatch, owner: Any, name: str, *, times: int = 10**9, after: bool = False, of: type | None = None
) -> None:
    """Let a method raise, with what was asked in its words. `after`: when its work is done; `of`: for such records."""
    real, left = getattr(owner, name), [times]

    def broken(*given: Any, **named: Any) -> Any:
        meant = of is None or isinstance(given[-1], of)
        if meant and left[0] and after:
            left[0] -= 1
            real(*given, **named)
            raise RuntimeError(SECRET)
        if meant and left[0]:
            left[0] -= 1
            raise RuntimeError(SECRET)
        return real(*given, **named)

    patch.setattr(owner, name, broken)


def nothing_is_held(gateway: WorkerHarness) -> None:
    """INVARIANT: when no call runs, no seat, no place of a limit and no part of a budget is reserved; of each budget
    is gone what the records say."""
    worker = gateway.worker
    eventually(lambda: gateway.call(lambda: not worker.runtime.runs))
    assert gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_s"))) == 0
    intents = {each.call: each for each in gateway.records_of(Intent)}
    charged: dict[str, int] = {}
    for outcome in gateway.records_of(Outcome):
        for charge, amount in zip(intents[outcome.call].charges, outcome.charged, strict=True):
            charged[charge.budget] = charged.get(charge.budget, 0) + amount
    leases = gateway.call(lambda: {key[0]: (each.left, each.out) for key, each in worker.treasury._leases.items()})
    for budget, (left, out) in leases.items():
        assert gateway.purse is not None
        assert out == 0
        assert left == AMOUNT - gateway.purse[budget] - charged[budget], budget


def told(answer: Answer, *, stream: bool, path: str = "/v1/chat/completions") -> None:
    """The caller got an error in its dialect, and nothing that could be taken for a whole answer."""
    body = answer.body.decode()
    assert "Interlock failed on this request" in body and SECRET not in body
    if stream:
        assert "[DONE]" not in body and "message_stop" not in body and body.endswith("<cut>")
    elif path == "/v1/messages":
        assert answer.status == 500 and answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "api_error"
    else:
        assert answer.status == 500 and answer.error["code"] == "internal_error"


PLACES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "metering": (Rates, "cost", {}),
    "the seat": (Board, "leave", {"times": 1}),
    "limits": (LimitTable, "settle", {"times": 1}),
    "limits, done": (LimitTable, "settle", {"times": 1, "after": True}),
    "charges": (account, "charged", {}),
    "budgets": (Treasury, "settle", {"times": 1}),
    "budgets, done": (Treasury, "settle", {"times": 1, "after": True}),
    "together": (Run, "_together", {"times": 1}),
    "append": (RecordLog, "append", {"times": 1, "of": Outcome}),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"], ids=["openai", "anthropic"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("place", PLACES)
def test_a_call_ends_once_and_on_record_whatever_raises_at_its_end(
    monkeypatch: pytest.MonkeyPatch, place: str, stream: bool, path: str
) -> None:
    owner, name, how = PLACES[place]
    with serving(world) as (gateway, engine), listening() as lines:
        fill(gateway)
        body = {**ASKED, "stream": stream}
        with monkeypatch.context() as patch:
            breaks(patch, owner, name, **how)
            told(ask(gateway, body, path), stream=stream, path=path)
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.status, outcome.code) == ("failed", 500, "internal_error")
        assert outcome.usage.origin == "engine" and outcome.usage.completion_tokens > 0, "what the source said is known"
        assert SECRET not in outcome.words and not outcome.body
        (intent,) = gateway.records_of(Intent)
        settled = place in ("budgets, done", "together", "append")
        reserved = {each.measure: each.reserved for each in intent.charges}
        took = dict(zip((each.measure for each in intent.charges), outcome.charged, strict=True))
        assert took["calls"] == 1
        assert took["tokens"] == (outcome.usage.total_tokens if settled else reserved["tokens"])
        assert 0 < took["nusd"] <= reserved["nusd"] and (took["nusd"] == reserved["nusd"]) is not settled
        nothing_is_held(gateway)
        (line,) = lines.defects()
        assert line.__dict__["request_id"] and line.__dict__["exception"] == "RuntimeError"
        assert "test_endings.py" in line.__dict__["places"]
        assert not any(SECRET in str(vars(each)) for each in lines.records)
        engine.script(answers.answer())
        assert ask(gateway, body, path).status == 200, "the caller's only seat is free"
        one_end_for_each_intent(gateway)
        nothing_is_held(gateway)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_failed_call_whose_words_cannot_be_had_ends_too(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    with serving(world) as (gateway, engine):
        fill(gateway)
        engine.script(faults.ends_without_done() if stream else answers.error(400))
        with monkeypatch.context() as patch:
            breaks(patch, account.Account, "_words")
            told(ask(gateway, {**ASKED, "stream": stream}), stream=stream)
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.code) == ("failed", "internal_error")
        nothing_is_held(gateway)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_outcome_that_no_record_can_be_made_of_leaves_nothing_reserved(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As long as this defect is there: the caller gets no answer, and recovery will find what is charged here."""
    with serving(world) as (gateway, _), listening() as lines:
        fill(gateway)
        with monkeypatch.context() as patch:
            breaks(patch, RecordLog, "append", of=Outcome)
            answer = ask(gateway, {**ASKED, "stream": stream})
        assert b"[DONE]" not in answer.body and (stream or answer.status == 503)
        assert not gateway.records_of(Outcome)
        worker = gateway.worker
        eventually(lambda: gateway.call(lambda: not worker.runtime.runs))
        (intent,) = gateway.records_of(Intent)
        leases = gateway.call(lambda: {key[0]: each for key, each in worker.treasury._leases.items()})
        for charge in intent.charges:
            lease = leases[charge.budget]
            assert gateway.purse is not None and lease.out == 0
            assert AMOUNT - gateway.purse[charge.budget] - lease.left > 0, "charged, as of an interrupted call"
        assert len(lines.defects()) == 1
        assert ask(gateway, ASKED).status == 200


def test_an_answer_too_large_for_a_record_is_a_failure_on_record() -> None:
    """A source that names a model as long as its answer: both are in the record."""
    name = "x" * 40_000
    with serving(world, record_bytes_max=65_536) as (gateway, engine):
        fill(gateway)
        engine.script(answers.answer(served_model=name))
        answer = ask(gateway, ASKED)
        assert answer.error["code"] == "record_too_large" and name[:100] not in answer.body.decode()
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.code, outcome.served_model) == ("failed", "record_too_large", "")
        assert outcome.usage.origin == "engine"
        nothing_is_held(gateway)
        assert ask(gateway, ASKED).status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_that_cannot_be_counted_is_answered(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    with serving(world) as (gateway, _), listening() as lines:
        fill(gateway)
        with monkeypatch.context() as patch:
            breaks(patch, run, "counted")
            answer = ask(gateway, {**ASKED, "stream": stream})
        assert answer.status == 200 and (not stream or answer.body.endswith(b"[DONE]\n\n"))
        (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.state == "completed"
        nothing_is_held(gateway)
        assert len(lines.defects()) == 1


@pytest.mark.parametrize(
    ("owner", "name", "stream"),
    [(Run, "_give_whole", False), (Relay, "rest", True)],
    ids=["whole", "streamed"],
)
def test_an_end_that_cannot_be_told_is_told_to_be_none(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stream: bool
) -> None:
    with serving(world) as (gateway, _), listening() as lines:
        fill(gateway)
        with monkeypatch.context() as patch:
            breaks(patch, owner, name)
            told(ask(gateway, {**ASKED, "stream": stream}), stream=stream)
        one_end_for_each_intent(gateway)
        nothing_is_held(gateway)
        assert len(lines.defects()) == 1


def test_an_answer_that_was_given_is_not_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What raises after the answer has left must not put a second one where the next is waited for."""
    with serving(world) as (gateway, _), monkeypatch.context() as patch:
        fill(gateway)
        breaks(patch, Run, "_give_whole", times=1, after=True)
        with connected(gateway) as sock:
            got = b""
            for _ in range(2):
                sock.sendall(raw_request(gateway, ASKED))
                got += read_until(sock, b'"usage"')
            assert got.count(b"HTTP/1.1 200") == got.count(b"HTTP/1.1 ") == 2
        nothing_is_held(gateway)


@pytest.mark.parametrize("place", ["metering", "budgets", "measuring the stream"])
def test_a_caller_that_goes_away_leaves_an_end_on_record(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    owner, name, how = (Relay, "measured", {}) if place == "measuring the stream" else PLACES[place]
    with serving(world) as (gateway, engine):
        fill(gateway)
        engine.script(faults.stalls_mid_stream())
        with monkeypatch.context() as patch:
            breaks(patch, owner, name, **how)
            with connected(gateway) as sock:
                sock.sendall(raw_request(gateway, {**ASKED, "stream": True}))
                read_until(sock, b"content")
            (outcome,) = one_end_for_each_intent(gateway)
        assert outcome.state == ("disconnected" if place == "measuring the stream" else "failed")
        assert outcome.usage.origin == "reserved"
        nothing_is_held(gateway)


@pytest.mark.parametrize(
    ("owner", "name", "tries"),
    [(attempt, "body_for", 1), (Run, "_next", 1)],
    ids=["what is sent", "failover"],
)
def test_a_defect_on_the_way_of_a_call_ends_it(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, tries: int
) -> None:
    """Where nobody waits for an answer of a source any more, nothing else would ever end the call."""
    with serving(world) as (gateway, engine):
        fill(gateway)
        engine.script(faults.closes_at_once())
        real, calls = getattr(owner, name), [0]

        def broken(*given: Any, **named: Any) -> Any:
            calls[0] += 1
            if name == "body_for" or calls[0] > 1:
                raise RuntimeError(SECRET)
            return real(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            told(ask(gateway, ASKED), stream=False)
        (outcome,) = one_end_for_each_intent(gateway)
        assert (outcome.state, outcome.code) == ("failed", "internal_error")
        assert len(gateway.records_of(AttemptEnd)) == (name == "_next")
        nothing_is_held(gateway)


def test_a_defect_while_calls_are_looked_after_ends_the_call_it_is_in_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, broken = Run.sweep, [0]

    def sweep(run: Run, now_ns: int) -> None:
        if run.parsed.stream:
            broken[0] += 1
            raise RuntimeError(SECRET)
        real(run, now_ns)

    with serving(world) as (gateway, engine):
        fill(gateway)
        engine.script(faults.stalls_mid_stream())
        with monkeypatch.context() as patch, connected(gateway) as sock:
            sock.sendall(raw_request(gateway, {**ASKED, "stream": True}))
            read_until(sock, b"content")
            patch.setattr(Run, "sweep", sweep)
            got = read_until(sock, b"Interlock failed on this request")
            assert SECRET.encode() not in got
            (outcome,) = one_end_for_each_intent(gateway)
            assert (outcome.state, outcome.code) == ("failed", "internal_error") and broken[0] == 1
            assert ask(gateway, ASKED).status == 200, "others are looked after"
        nothing_is_held(gateway)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("place", ["metering the end", "charges", "append"])
def test_of_a_cascade_the_steps_that_are_over_are_charged(
    monkeypatch: pytest.MonkeyPatch, place: str, stream: bool
) -> None:
    alias = Alias("a", cascade=Cascade((CascadeStep("m"), CascadeStep("n")), ("json",)))
    owner, name, how = (cascade.CascadeRun, "_metered", {}) if place == "metering the end" else PLACES[place]
    engine = ScriptedEngine(models=("m", "n"))
    with serving(lambda url: world(url, alias), engine) as (gateway, _):
        fill(gateway)
        with monkeypatch.context() as patch:
            breaks(patch, owner, name, **how)
            told(ask(gateway, {**ASKED, "model": "a", "stream": stream}), stream=stream)
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.state, outcome.code) == ("failed", "internal_error")
        steps = gateway.records_of(StepEnd)
        assert len(steps) == 2
        (intent,) = gateway.records_of(Intent)
        took = dict(zip((each.measure for each in intent.charges), outcome.charged, strict=True))
        assert took["nusd"] == sum(step.cost.nusd for step in steps), "all that was asked for is known"
        assert took["tokens"] == sum(step.usage.total_tokens for step in steps)
        nothing_is_held(gateway)


@pytest.mark.parametrize("place", ["over", "compare"])
def test_what_is_beside_a_call_does_not_hurt_it_nor_stay(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    alias = Alias("a", targets=(AliasTarget("m"),), shadow=Shadow(AliasTarget("n"), 1000))
    engine = ScriptedEngine(models=("m", "n"))

    def shadowed(url: str) -> World:
        return World([source("s", url, model("m"), model("n"))], aliases=[alias])

    with serving(shadowed, engine) as (gateway, _), monkeypatch.context() as patch:
        breaks(patch, Shadowed, "over" if place == "over" else "heard")
        assert ask(gateway, {**ASKED, "model": "a"}).status == 200
        states, worker = ["completed"] if place == "over" else ["completed", "failed"], gateway.worker
        eventually(lambda: [each.state for each in gateway.records_of(Outcome)] == states)
        eventually(lambda: gateway.call(lambda: not worker.runtime.runs))
        one_end_for_each_intent(gateway)
