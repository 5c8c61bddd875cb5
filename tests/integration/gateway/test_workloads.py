"""Workload classes and the queue for seats, each through a whole worker: what class a call has, who waits for whom."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from interlock.control.live.window import Window
from interlock.ledger.entry import call_entry, encode_leaf
from interlock.ledger.proof import shape
from interlock.ledger.reader import find_call
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Pause, Received, Script, Step
from interlock.types.identity import Workload
from interlock.types.record import Attempt, Intent, Interrupted, Outcome
from interlock.types.snapshot import Alias, AliasTarget
from interlock.types.source import Labels, SourceKind, SourceLimits
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source
from tests.integration.gateway.client import CHAT, WAIT_S, Answer, ask, connected, eventually, raw_request, serving

CLOUD = Labels(region="us", on_prem=False)
ONE_SEAT = SourceLimits(concurrency=1)


def say(text: str, **own: str) -> dict[str, Any]:
    """A chat that says `text`, with what is in our own field."""
    body = {**CHAT, "messages": [{"role": "user", "content": text}]}
    return {**body, "interlock": own} if own else body


def said(received: Received) -> str:
    text: str = received.json["messages"][0]["content"]
    return text


class Caller(threading.Thread):
    """One call beside the test."""

    def __init__(self, gateway: WorkerHarness, text: str, who: str = "alice", **own: str) -> None:
        super().__init__(daemon=True)
        self._gateway, self._body, self._key = gateway, say(text, **own), gateway.key(who)
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        self.answer = ask(self._gateway, self._body, key=self._key)

    def whole(self) -> Answer:
        self.join(2 * WAIT_S)
        assert self.answer is not None, "no answer in time"
        return self.answer


class Doors:
    """Answers what is named, when the test says so; anything else at once."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def script(self) -> Script:
        def play(received: Received) -> Iterator[Step]:
            while said(received).startswith("hold") and not self.open.is_set():
                yield Pause(5)
            yield from answers.answer()(received)  # type: ignore[misc]

        return play  # type: ignore[return-value]


def waiting(gateway: WorkerHarness) -> int:
    """Calls in the queue."""
    return gateway.call(lambda: sum(map(len, gateway.worker.runtime.seats._waiting)))  # type: ignore[union-attr]


@contextmanager
def full(
    people: list[Who] | None = None, cloud: bool = False, shares: dict[str, int] | None = None, **settings: Any
) -> Iterator[tuple[WorkerHarness, ScriptedEngine, ScriptedEngine, Doors]]:
    """A gateway whose own source has one seat, taken by a call that ends when the doors are opened."""
    doors = Doors()
    with ScriptedEngine(models=("m",)).in_thread() as own, ScriptedEngine(models=("m",)).in_thread() as other:
        own.default = doors.script()
        sources = [source("own", own.base_url, limits=ONE_SEAT, shares=shares or {})]
        sources += [source("cloud", other.base_url, labels=CLOUD)] if cloud else []
        with WorkerHarness(World(sources, people=people or [Who()]), **settings) as gateway:
            first = Caller(gateway, "hold")
            eventually(lambda: own.calls)
            try:
                yield gateway, own, other, doors
            finally:
                doors.open.set()
                first.join(2 * WAIT_S)
                eventually(lambda: gateway.call(lambda: gateway.board.inflight(gateway.board.row("src_own"))) == 0)
                assert waiting(gateway) == 0 and not gateway.call(lambda: gateway.worker.runtime.seats._rows)  # type: ignore[union-attr]


# -- the class of a call


@pytest.mark.parametrize(
    ("who", "model", "own", "header", "expected"),
    [
        ({}, "m", {}, "", Workload.interactive),
        ({"workload": Workload.batch}, "m", {}, "", Workload.batch),
        ({"principal_workload": Workload.background}, "m", {}, "", Workload.background),
        ({"workload": Workload.background, "principal_workload": Workload.batch}, "m", {}, "", Workload.background),
        ({}, "nightly", {}, "", Workload.batch),
        ({"workload": Workload.background}, "nightly", {}, "", Workload.background),
        ({}, "m", {"workload": "batch"}, "", Workload.batch),
        ({}, "m", {}, "background", Workload.background),
        ({}, "m", {"workload": "interactive"}, "batch", Workload.batch),
        ({"workload": Workload.batch}, "m", {"workload": "background"}, "", Workload.background),
        ({"workload": Workload.batch}, "m", {"workload": "batch"}, "", Workload.batch),
    ],
    ids=("none", "key", "principal", "two", "alias", "less", "body", "header", "both", "lower", "same"),
)
def test_the_least_urgent_that_anybody_says_holds(
    who: dict[str, Workload], model: str, own: dict[str, str], header: str, expected: Workload
) -> None:
    def world(url: str) -> World:
        alias = Alias("nightly", targets=(AliasTarget("m"),), workload=Workload.batch)
        return World([source("s", url)], people=[Who(**who)], aliases=[alias])  # type: ignore[arg-type]

    with serving(world) as (gateway, _):
        headers = {"x_interlock_workload": header} if header else {}
        answer = ask(gateway, {**say("x", **own), "model": model}, **headers)
        assert answer.status == 200, answer.body
        assert gateway.records_of(Intent)[0].features.workload is expected
        assert answer.headers.get("x-interlock-workload") == (expected.name if expected else None)
        call = find_call(gateway.folder / "log", answer.headers["x-request-id"])
        assert call is not None
        assert call_entry(call, 1, None).leaf["what"]["workload"] == expected.name


@pytest.mark.parametrize("permitted", [False, True])
@pytest.mark.parametrize("model", ["m", "nightly"])
def test_asking_for_more_than_the_default_is_a_question_for_policy(permitted: bool, model: str) -> None:
    def world(url: str) -> World:
        alias = Alias("nightly", targets=(AliasTarget("m"),), workload=Workload.background)
        return World(
            [source("s", url)],
            people=[Who(workload=Workload.batch if model == "m" else Workload.interactive)],
            policies=[permit_all(features=("set_priority",) if permitted else ())],
            aliases=[alias],
        )

    with serving(world) as (gateway, engine):
        answer = ask(gateway, {**say("x", workload="interactive"), "model": model})
        if permitted:
            assert answer.status == 200
            (intent,) = gateway.records_of(Intent)
            assert intent.features.workload is Workload.interactive and "set_priority" in intent.features.actions
        else:
            assert answer.status == 403 and "may not set priorities" in answer.error["message"]
            assert not engine.calls and not gateway.records_of(Intent)


@pytest.mark.parametrize("word", ["urgent", "Batch", "0", ""])
def test_an_unknown_class_is_refused(word: str) -> None:
    with serving() as (gateway, engine):
        answer = ask(gateway, say("x", workload=word) if word else say("x"), x_interlock_workload=word or "no")
        assert answer.status == 400 and "interactive, batch, background" in answer.error["message"]
        assert answer.error["param"] == "interlock.workload" and not engine.calls


def test_a_source_that_schedules_by_priority_is_told_the_class_and_no_other_is() -> None:
    def world(url: str) -> World:
        by_priority = source("p", url, kind=SourceKind.vllm, priority_scheduling=True)
        return World(
            [by_priority, source("plain", url, kind=SourceKind.vllm)],
            policies=[permit_all(features=("set_priority",))],
        )

    with serving(world) as (gateway, engine):
        for body in (
            {**say("1", workload="background"), "model": "p::m"},
            {**say("2", workload="batch"), "model": "p::m"},
            {**say("3"), "model": "p::m"},
            {**say("4", workload="background"), "model": "plain::m"},
            {**say("5", workload="background"), "model": "p::m", "priority": 7},
        ):
            assert ask(gateway, body).status == 200
        sent = {said(call): call.json.get("priority") for call in engine.calls if call.path.endswith("completions")}
        assert sent == {"1": 2, "2": 1, "3": None, "4": None, "5": 7}


# -- the queue


def test_a_call_waits_for_the_seat_and_is_told_how_long() -> None:
    with full() as (gateway, own, _, doors):
        caller = Caller(gateway, "second")
        eventually(lambda: waiting(gateway) == 1)
        time.sleep(0.1)
        assert len(own.calls) == 1 and caller.answer is None
        eventually(lambda: len(gateway.records_of(Intent)) == 2)
        intent = gateway.records_of(Intent)[1]
        assert not [a for a in gateway.records_of(Attempt) if a.call == intent.call], "nothing was sent"
        doors.open.set()
        answer = caller.whole()
        assert answer.status == 200 and int(answer.headers["x-interlock-waited-ms"]) >= 90
        (attempt,) = (a for a in gateway.records_of(Attempt) if a.call == intent.call)
        assert attempt.waited_ms >= 90
        assert gateway.records_of(Attempt)[0].waited_ms == 0


def test_the_more_urgent_class_goes_first_then_who_has_waited_longest() -> None:
    with full() as (gateway, own, _, doors):
        callers = []
        for n, workload in enumerate(("background", "batch", "interactive", "batch", "interactive")):
            callers.append(Caller(gateway, f"{workload} {n}", workload=workload))
            eventually(lambda n=n: waiting(gateway) == n + 1)  # type: ignore[misc]
        doors.open.set()
        assert [caller.whole().status for caller in callers] == [200] * 5
        order = [said(call) for call in own.calls]
        assert order == ["hold", "interactive 2", "interactive 4", "batch 1", "batch 3", "background 0"]


def test_who_just_came_does_not_go_past_those_that_wait() -> None:
    with full() as (gateway, own, _, doors):
        old = [Caller(gateway, "hold 1"), Caller(gateway, "hold 2")]
        eventually(lambda: waiting(gateway) == 2)
        batch = Caller(gateway, "batch", workload="batch")
        eventually(lambda: waiting(gateway) == 3)
        doors.open.set()
        assert ask(gateway, say("last")).status == 200
        for caller in (*old, batch):
            assert caller.whole().status == 200
        order = [said(call) for call in own.calls]
        assert order.index("last") > order.index("hold 2") and len(order) == 5


def test_a_tenant_with_fewer_in_flight_goes_before_one_that_came_earlier() -> None:
    people = [Who(), Who(name="bob", tenant="globex")]
    doors, two = Doors(), SourceLimits(concurrency=2)
    with ScriptedEngine(models=("m",)).in_thread() as own:
        own.default = doors.script()
        with WorkerHarness(World([source("own", own.base_url, limits=two)], people=people)) as gateway:
            held = [Caller(gateway, "hold"), Caller(gateway, "hold")]
            eventually(lambda: len(own.calls) == 2)
            flood = []
            for n in range(4):
                flood.append(Caller(gateway, f"hold a {n}"))
                eventually(lambda n=n: waiting(gateway) == n + 1)  # type: ignore[misc]
            other = Caller(gateway, "hold b", who="bob")
            eventually(lambda: waiting(gateway) == 5)
            own.disconnect_all()  # both seats are free at once
            eventually(lambda: len(own.calls) == 4)
            assert {said(call) for call in own.calls[2:]} == {"hold a 0", "hold b"}
            doors.open.set()
            assert [caller.whole().status for caller in (*flood, other)] == [200] * 5
            assert {caller.whole().status for caller in held} == {502}


def test_a_wait_ends_at_its_deadline() -> None:
    with full(queue_wait_ms_batch=200) as (gateway, own, _, _doors):
        began = time.monotonic()
        answer = ask(gateway, say("x", workload="batch"))
        assert time.monotonic() - began >= 0.2
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "queue_timeout", "10")
        outcome = gateway.records_of(Outcome)[0]
        assert (outcome.state, outcome.code, outcome.usage.total_tokens) == ("failed", "queue_timeout", 0)
        assert len(own.calls) == 1


def test_a_full_queue_gives_way_to_the_more_urgent_and_to_nobody_else() -> None:
    with full(queue_calls_max=2) as (gateway, _, _other, doors):
        first = Caller(gateway, "1", workload="batch")
        eventually(lambda: waiting(gateway) == 1)
        second = Caller(gateway, "2", workload="batch")
        eventually(lambda: waiting(gateway) == 2)
        same = ask(gateway, say("3", workload="batch"))
        assert (same.status, same.error["code"]) == (503, "no_candidate")
        urgent = Caller(gateway, "4")
        answer = second.whole()
        assert (answer.status, answer.error["code"]) == (503, "queue_full")
        doors.open.set()
        assert (first.whole().status, urgent.whole().status) == (200, 200)


def test_a_caller_that_goes_away_leaves_the_queue_and_pays_nothing() -> None:
    with full() as (gateway, own, _, doors):
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, say("gone")))
            eventually(lambda: waiting(gateway) == 1)
        eventually(lambda: waiting(gateway) == 0)
        eventually(lambda: gateway.records_of(Outcome))
        outcome = gateway.records_of(Outcome)[0]
        assert (outcome.state, outcome.usage.total_tokens, outcome.attempt) == ("disconnected", 0, -1)
        doors.open.set()
        assert ask(gateway, say("next")).status == 200
        assert [said(call) for call in own.calls] == ["hold", "next"]


def test_who_goes_away_after_a_failed_try_while_waiting_for_the_next_source_pays_nothing() -> None:
    doors = Doors()
    with ScriptedEngine(models=("m",)).in_thread() as broken, ScriptedEngine(models=("m",)).in_thread() as busy:
        broken.default, busy.default = answers.error(500), doors.script()
        better = source("broken", broken.base_url, model(quality_milli=900))
        world = World([better, source("busy", busy.base_url, limits=ONE_SEAT)])
        with WorkerHarness(world) as gateway:
            first = Caller(gateway, "hold")
            eventually(lambda: busy.calls)
            with connected(gateway) as sock:
                sock.sendall(raw_request(gateway, say("gone")))
                eventually(lambda: waiting(gateway) == 1)
            eventually(lambda: gateway.records_of(Outcome))
            outcome = gateway.records_of(Outcome)[0]
            assert (outcome.state, outcome.usage.total_tokens, outcome.cost.nusd) == ("disconnected", 0, 0)
            doors.open.set()
            assert first.whole().status == 200


def test_a_revoked_key_does_not_wait_on() -> None:
    with full([Who(), Who(name="bob")]) as (gateway, own, _, doors):
        caller = Caller(gateway, "bob", who="bob")
        eventually(lambda: waiting(gateway) == 1)
        people = [dataclasses.replace(w, revoked=w.name == "bob") for w in gateway.world.people]
        gateway.change(dataclasses.replace(gateway.world, people=people))
        answer = caller.whole()
        assert (answer.status, answer.error["code"]) == (401, "revoked_api_key")
        doors.open.set()
        eventually(lambda: len(gateway.records_of(Outcome)) == 2)
        assert [said(call) for call in own.calls] == ["hold"]


def test_a_source_that_is_removed_is_not_waited_for() -> None:
    with full(cloud=True, overflow_wait_ms_batch=-1) as (gateway, own, other, doors):
        caller = Caller(gateway, "x", workload="batch")
        eventually(lambda: waiting(gateway) == 1)
        gateway.change(dataclasses.replace(gateway.world, sources=gateway.world.sources[1:]))
        answer = caller.whole()
        assert (answer.status, answer.error["code"]) == (503, "no_candidate")
        doors.open.set()
        eventually(lambda: len(gateway.records_of(Outcome)) == 2)
        assert not other.calls and len(own.calls) == 1


def test_a_stop_ends_waiting_calls_with_a_record() -> None:
    with full() as (gateway, own, _, doors):
        caller = Caller(gateway, "x")
        eventually(lambda: waiting(gateway) == 1)
        gateway.stop(grace_ms=200)
        assert caller.whole().error["code"] == "draining"
        assert len(own.calls) == 1 and not gateway.records_of(Interrupted)
        assert len(gateway.records_of(Outcome)) == len(gateway.records_of(Intent)) == 2
        doors.open.set()
        gateway.call = lambda action: 0  # type: ignore[method-assign,assignment] - its loop is gone


def test_a_call_that_waits_for_two_sources_takes_the_first_that_is_free() -> None:
    doors, second = Doors(), Doors()
    with ScriptedEngine(models=("m",)).in_thread() as one, ScriptedEngine(models=("m",)).in_thread() as two:
        one.default, two.default = doors.script(), second.script()
        world = World([source(n, e.base_url, limits=ONE_SEAT) for n, e in (("one", one), ("two", two))])
        with WorkerHarness(world) as gateway:
            holding = [Caller(gateway, "hold"), Caller(gateway, "hold")]
            eventually(lambda: one.calls and two.calls)
            caller = Caller(gateway, "x")
            eventually(lambda: waiting(gateway) == 1)
            second.open.set()
            assert caller.whole().headers["x-interlock-source"] == "two"
            doors.open.set()
            assert [each.whole().status for each in holding] == [200, 200]
            assert not gateway.call(lambda: gateway.worker.runtime.seats._rows)  # type: ignore[union-attr]


# -- overflow


def test_an_interactive_call_overflows_at_once() -> None:
    with full(cloud=True) as (gateway, _own, other, _):
        answer = ask(gateway, say("x"))
        assert (answer.status, answer.headers["x-interlock-source"]) == (200, "cloud")
        assert len(other.calls) == 1
        assert "; overflow;" in answer.headers["x-interlock-decision"]
        call = find_call(gateway.folder / "log", answer.headers["x-request-id"])
        assert call is not None
        leaf = encode_leaf({**call_entry(call, 1, None).leaf, "epoch": "ab", "n": 1})
        assert json.loads(leaf)["where"]["overflow"] is True and shape.read(leaf + b"\n") is not None
        window = Window(10, 10**9)
        window.add(leaf)
        assert window.newest(1)[0].how == "chosen: balanced, overflow"


def test_a_batch_call_waits_for_its_own_sources_before_it_overflows() -> None:
    with full(cloud=True, overflow_wait_ms_batch=300) as (gateway, own, other, _):
        began = time.monotonic()
        answer = ask(gateway, say("x", workload="batch"))
        assert (answer.status, answer.headers["x-interlock-source"]) == (200, "cloud")
        assert time.monotonic() - began >= 0.3
        assert (len(own.calls), len(other.calls)) == (1, 1)
    with full(cloud=True) as (gateway, own, other, doors):
        caller = Caller(gateway, "y", workload="batch")
        eventually(lambda: waiting(gateway) == 1)
        doors.open.set()
        assert caller.whole().headers["x-interlock-source"] == "own", "a seat came before its time was over"
        assert (len(own.calls), len(other.calls)) == (2, 0)


def test_a_background_call_never_overflows() -> None:
    with full(cloud=True, queue_wait_ms_background=400) as (gateway, own, other, _):
        answer = ask(gateway, say("x", workload="background"))
        assert (answer.status, answer.error["code"]) == (503, "queue_timeout")
        assert not other.calls and len(own.calls) == 1
    with full(cloud=True) as (gateway, own, other, doors):
        caller = Caller(gateway, "y", workload="background")
        eventually(lambda: waiting(gateway) == 1)
        doors.open.set()
        assert caller.whole().headers["x-interlock-source"] == "own"
        assert not other.calls and len(own.calls) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_source_that_says_it_is_full_is_no_reason_to_spend(status: int) -> None:
    with ScriptedEngine(models=("m",)).in_thread() as own, ScriptedEngine(models=("m",)).in_thread() as other:
        own.default = answers.error(status)
        sources = [source("own", own.base_url), source("cloud", other.base_url, labels=CLOUD)]
        with WorkerHarness(World(sources), overflow_wait_ms_batch=200) as gateway:
            assert ask(gateway, say("x", workload="background")).status in (429, 502, 503)
            assert not other.calls
            began = time.monotonic()
            assert ask(gateway, say("x", workload="batch")).headers["x-interlock-source"] == "cloud"
            assert time.monotonic() - began >= 0.2
            assert ask(gateway, say("x")).headers["x-interlock-source"] == "cloud"


@pytest.mark.parametrize("workload", ["batch", "background"])
def test_a_source_that_is_broken_is_failed_over_from(workload: str) -> None:
    with ScriptedEngine(models=("m",)).in_thread() as own, ScriptedEngine(models=("m",)).in_thread() as other:
        own.default = answers.error(500)
        sources = [source("own", own.base_url), source("cloud", other.base_url, labels=CLOUD)]
        with WorkerHarness(World(sources)) as gateway:
            answer = ask(gateway, say("x", workload=workload))
            assert (answer.status, answer.headers["x-interlock-source"]) == (200, "cloud")


def test_batch_calls_wait_while_the_engine_is_saturated_and_interactive_ones_do_not() -> None:
    with serving() as (gateway, engine):

        def load(waiting_now: int, saturated: bool) -> None:
            gateway.board.publish(
                gateway.board.row("src_local"), waiting=waiting_now, running=2, kv_permille=-1, healthy=True,
                saturated=saturated, read_at_ns=time.monotonic_ns(), full=saturated,
            )  # fmt: skip

        load(9, True)
        caller = Caller(gateway, "batch", workload="batch")
        eventually(lambda: waiting(gateway) == 1)
        assert ask(gateway, say("now")).status == 200
        assert [said(call) for call in engine.calls] == ["now"]
        load(2, False)
        assert caller.whole().status == 200


def test_a_call_that_has_waited_long_enough_is_promoted() -> None:
    with full(queue_promote_ms=150) as (gateway, own, _, doors):
        batch = Caller(gateway, "batch", workload="batch")
        eventually(lambda: waiting(gateway) == 1)
        time.sleep(0.2)
        urgent = Caller(gateway, "urgent")
        eventually(lambda: waiting(gateway) == 2)
        doors.open.set()
        assert (batch.whole().status, urgent.whole().status) == (200, 200)
        assert [said(call) for call in own.calls] == ["hold", "batch", "urgent"]


def test_the_queue_is_in_the_metrics() -> None:
    with full(queue_wait_ms_batch=150) as (gateway, _own, _, doors):
        assert ask(gateway, say("x", workload="batch")).status == 503
        caller = Caller(gateway, "y")
        eventually(lambda: waiting(gateway) == 1)
        gateway.call(gateway.worker.metrics.publish)
        text = ask(gateway, None, "/metrics", method="GET").body.decode()
        assert 'interlock_queue_waiting{workload="interactive"} 1' in text
        assert 'interlock_queue_waits_total{workload="batch",outcome="timed_out"} 1' in text
        doors.open.set()
        assert json.loads(caller.whole().body)["choices"]
