"""Calls for a model whose only engine is starting: they wait, begin again when it is ready, and are bounded."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from interlock.gateway.cold import Parked
from interlock.routing.replay import replay
from interlock.testing import faults
from interlock.testing.engine import ScriptedEngine
from interlock.types.identity import LimitSet
from interlock.types.record import Attempt, AttemptEnd, Intent, Outcome, Refusal
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import CHAT, WAIT_S, Answer, ask, eventually, raw_request, serving
from tests.ports import free_port

COLD = ("starting", "loading", "restarting")


def in_state(state: str, **person: Any) -> Any:
    """A world whose only source's engine is in this state."""
    return lambda url: World([source("s", url, engine_state=state)], [Who(**person)])


def changed(gateway: WorkerHarness, state: str) -> None:
    """The engine is in another state from now on."""
    world = gateway.world
    sources = [msgspec.structs.replace(s, engine_state=state) for s in world.sources]
    gateway.change(World(sources, world.people))


def asked(pool: ThreadPoolExecutor, gateway: WorkerHarness, **fields: Any) -> Future[Answer]:
    return pool.submit(ask, gateway, {**CHAT, **fields})


def waiting(gateway: WorkerHarness) -> int:
    return gateway.call(lambda: gateway.worker.runtime.cold if gateway.worker.runtime else -1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_waits_and_is_answered_when_the_engine_is_ready(stream: bool) -> None:
    with serving(in_state("starting")) as (gateway, engine), ThreadPoolExecutor(4) as pool:
        answers = [asked(pool, gateway, stream=stream) for _ in range(3)]
        eventually(lambda: waiting(gateway) == 3)
        changed(gateway, "loading")
        time.sleep(0.3)
        assert not any(a.done() for a in answers) and engine.calls == []
        changed(gateway, "ready")
        assert [a.result(WAIT_S).status for a in answers] == [200, 200, 200]
        assert waiting(gateway) == 0
        intents, outcomes = gateway.records_of(Intent), gateway.records_of(Outcome)
        assert len(intents) == len(outcomes) == 3 and len({i.call for i in intents}) == 3
        assert {i.snapshot_version for i in intents} == {3}
        assert gateway.records_of(Refusal) == []


@pytest.mark.parametrize("state", COLD)
def test_who_waited_for_too_long_is_told_when_to_ask_again(state: str) -> None:
    with serving(in_state(state), cold_start_wait_ms=300) as (gateway, engine):
        began = time.monotonic()
        answer = ask(gateway, CHAT)
        assert time.monotonic() - began > 0.25
        assert (answer.status, answer.error["code"]) == (503, "engine_starting")
        assert int(answer.headers["retry-after"]) > 0 and answer.headers.get("x-should-retry") != "false"
        (refusal,) = gateway.records_of(Refusal)
        assert refusal.code == "engine_starting"
        assert engine.calls == []


@pytest.mark.parametrize("state", ["stopping", "stopped", "failed", "lost"])
def test_nobody_waits_for_an_engine_that_is_not_coming(state: str) -> None:
    with serving(in_state(state)) as (gateway, engine):
        answer = ask(gateway, CHAT)
        assert (answer.status, answer.error["code"]) == (503, "no_candidate")
        assert state in answer.error["message"] and engine.calls == []


def test_an_engine_that_is_given_up_meanwhile_ends_the_wait() -> None:
    with serving(in_state("restarting")) as (gateway, _), ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        changed(gateway, "failed")
        assert answer.result(WAIT_S).error["code"] == "no_candidate"


def test_another_source_takes_the_call_at_once() -> None:
    other = ScriptedEngine(models=("m",))
    with other.in_thread():

        def worlds(url: str) -> World:
            return World([source("s", url, engine_state="restarting"), source("t", other.base_url)])

        with serving(worlds) as (gateway, engine):
            answer = ask(gateway, CHAT)
            assert answer.status == 200 and answer.headers["x-interlock-source"] == "t"
            assert engine.calls == []
            (attempt,) = gateway.records_of(Attempt)
            assert attempt.source == "t"
            (intent,) = gateway.records_of(Intent)
            (reason,) = intent.route.rejected
            assert (reason.stage, reason.code) == ("engine", "engine_cold")
            assert replay(intent, gateway.view.catalog("ten_acme").by_key).same


def test_what_was_revoked_while_it_waited_is_refused() -> None:
    with serving(in_state("starting")) as (gateway, engine), ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        (person,) = gateway.world.people
        person.revoked = True
        changed(gateway, "ready")
        assert answer.result(WAIT_S).error["code"] == "revoked_api_key" and engine.calls == []


def test_no_more_wait_than_may_and_none_when_none_may() -> None:
    with (
        serving(in_state("starting"), cold_start_calls_max=1) as (gateway, _),
        ThreadPoolExecutor(1) as pool,
    ):
        first = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        assert ask(gateway, CHAT).error["code"] == "engine_starting"
        changed(gateway, "ready")
        assert first.result(WAIT_S).status == 200
        assert waiting(gateway) == 0
    with serving(in_state("starting"), cold_start_wait_ms=0) as (gateway, _):
        assert ask(gateway, CHAT).error["code"] == "engine_starting"


def test_a_call_with_an_idempotency_key_is_asked_again_by_its_caller() -> None:
    with serving(in_state("starting")) as (gateway, _):
        assert ask(gateway, CHAT, idempotency_key="one").error["code"] == "engine_starting"
        changed(gateway, "ready")
        assert ask(gateway, CHAT, idempotency_key="one").status == 200


def test_limits_count_a_call_that_waited_once() -> None:
    limits = LimitSet(requests_per_minute=2, concurrency=1)
    with serving(in_state("starting", key_limits=limits)) as (gateway, _), ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        assert ask(gateway, CHAT).status == 429  # it is in progress
        changed(gateway, "ready")
        assert answer.result(WAIT_S).status == 200
        assert ask(gateway, CHAT).status == 200
        assert ask(gateway, CHAT).status == 429


def test_a_caller_that_goes_away_leaves_the_wait() -> None:
    with serving(in_state("starting")) as (gateway, engine):
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(raw_request(gateway, CHAT))
            eventually(lambda: waiting(gateway) == 1)
        eventually(lambda: waiting(gateway) == 0)
        changed(gateway, "ready")
        assert ask(gateway, CHAT).status == 200
        assert len(engine.calls) == 1


def test_a_worker_that_stops_ends_the_wait() -> None:
    with serving(in_state("starting")) as (gateway, _), ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        threading.Thread(target=gateway.stop, args=(200,)).start()
        assert answer.result(WAIT_S).status == 503


def test_an_engine_that_is_ready_and_not_yet_probed_is_waited_for() -> None:
    with serving(in_state("ready")) as (gateway, _), ThreadPoolExecutor(1) as pool:
        row = gateway.board.row("src_s")

        def probed(healthy: bool) -> None:
            gateway.board.publish(
                row, waiting=-1, running=-1, kv_permille=-1, healthy=healthy, saturated=False, read_at_ns=0
            )

        probed(False)
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        probed(True)
        assert answer.result(WAIT_S).status == 200


# -- calls that were made already


@pytest.fixture
def nothing() -> str:
    """A URL where nothing listens, until a test makes something listen there."""
    return f"http://127.0.0.1:{free_port()}"


def gone(gateway: WorkerHarness, healthy: bool = True) -> None:
    """The board as a node has it that does not probe."""
    gateway.board.renew(gateway.board.row("src_s"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_meets_a_dead_engine_waits_for_the_next_one(nothing: str, stream: bool) -> None:
    world = World([source("s", nothing, engine_state="ready")])
    engine = ScriptedEngine(models=("m",), port=int(nothing.rsplit(":", 1)[1]))
    with WorkerHarness(world) as gateway, ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway, stream=stream)
        eventually(lambda: waiting(gateway) == 1)
        changed(gateway, "restarting")
        time.sleep(0.3)
        with engine.in_thread():
            gone(gateway)
            changed(gateway, "ready")
            assert answer.result(WAIT_S).status == 200
        assert waiting(gateway) == 0
        attempts, ends = gateway.records_of(Attempt), gateway.records_of(AttemptEnd)
        assert [a.number for a in attempts] == [0, 1] and [e.code for e in ends] == ["connect_failed"]
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.state == "completed"


def test_an_engine_that_stays_away_is_the_callers_error_in_time(nothing: str) -> None:
    world = World([source("s", nothing, engine_state="ready")])
    with WorkerHarness(world, cold_start_wait_ms=400) as gateway, ThreadPoolExecutor(1) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        changed(gateway, "restarting")
        assert answer.result(WAIT_S).error["code"] == "connect_failed"
        assert waiting(gateway) == 0
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.state, outcome.usage.completion_tokens) == ("failed", 0)


def test_one_that_is_given_up_or_was_never_down_is_not_waited_for(nothing: str) -> None:
    world = World([source("s", nothing, engine_state="ready")])
    with WorkerHarness(world) as gateway, ThreadPoolExecutor(2) as pool:
        answer = asked(pool, gateway)
        eventually(lambda: waiting(gateway) == 1)
        changed(gateway, "failed")
        assert answer.result(WAIT_S).error["code"] == "connect_failed"
        changed(gateway, "ready")
        gone(gateway)
        began = time.monotonic()
        assert asked(pool, gateway).result(WAIT_S).error["code"] == "connect_failed"
        assert time.monotonic() - began > 2.5
        assert waiting(gateway) == 0


def test_what_an_engine_has_seen_is_not_sent_to_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(models=("m",))
    parked: list[object] = []
    init = Parked.__init__
    monkeypatch.setattr(Parked, "__init__", lambda self, *given: (parked.append(self), init(self, *given))[1])
    with serving(in_state("ready"), engine) as (gateway, _):
        engine.script(faults.closes_at_once())
        assert ask(gateway, CHAT).status == 502
        assert len(engine.calls) == 1 and waiting(gateway) == 0 and parked == []


def test_a_caller_that_goes_away_meanwhile_pays_nothing(nothing: str) -> None:
    world = World([source("s", nothing, engine_state="ready")])
    with WorkerHarness(world) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(raw_request(gateway, CHAT))
            eventually(lambda: waiting(gateway) == 1)
        eventually(lambda: waiting(gateway) == 0)
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.state == "disconnected" and outcome.usage.prompt_tokens == 0
