"""A canary through a whole worker: what takes it back, what its callers see meanwhile, and that it replays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from interlock.routing.canary import BARRED, OFF
from interlock.routing.replay import replay
from interlock.routing.resolve import resolve
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Script
from interlock.types.record import Intent
from interlock.types.snapshot import Alias, AliasTarget, Canary
from tests.gateway import World, model, source, template
from tests.integration.gateway.client import CHAT, Answer, ask, connected, eventually, raw_request, serving

BODY = {**CHAT, "model": "a"}
STREAM = {**BODY, "stream": True}
WHOLE = {"share_milli": 1000, "calls_min": 20, "errors_milli_max": 100}
"""Taken back by its third failure: two of twenty may fail."""
BOUND = 3


def world(**fields: Any) -> Callable[[str], World]:
    made = {**WHOLE, **fields}
    canary = Canary("can_1", AliasTarget("new"), started_s=1, **made)
    alias = Alias("a", targets=(AliasTarget("old"),), canary=canary)

    def build(url: str) -> World:
        return World([source("s", url, model("old"), model("new"))], aliases=[alias])

    return build


def failing(script: Script) -> ScriptedEngine:
    """An engine whose model `new` does what the script says."""
    good = answers.answer()
    return ScriptedEngine(
        models=("old", "new"), default=lambda r: (script if r.json.get("model") == "new" else good)(r)
    )


def sent(engine: ScriptedEngine, name: str = "new") -> int:
    return sum(1 for received in engine.calls if received.json.get("model") == name)


@pytest.mark.parametrize(
    ("script", "body"),
    [
        (answers.error(500), BODY),
        (answers.error(429), BODY),
        (faults.closes_at_once(), BODY),
        (answers.page("no JSON"), BODY),
        (faults.dies_mid_stream(), STREAM),
        (faults.malformed_sse(), STREAM),
    ],
    ids=["500", "429", "closed", "malformed", "broken-stream", "malformed-stream"],
)
def test_a_canary_that_fails_is_taken_back_by_the_failure_that_is_one_too_many(
    script: Script, body: dict[str, Any]
) -> None:
    with serving(world(), failing(script), breaker_failures=100) as (gateway, engine):
        for _ in range(12):
            ask(gateway, body)
        assert sent(engine) == BOUND and sent(engine, "old") == 12 - BOUND
        states = [intent.target.canary for intent in gateway.records_of(Intent)]
        assert states == ["canary"] * BOUND + [OFF] * (12 - BOUND)
        catalog = gateway.view.catalog("ten_acme")
        for intent in gateway.records_of(Intent):
            assert replay(intent, catalog.by_key).same
            assert intent.target == resolve(
                "a",
                catalog,
                now_s=intent.wall_ns // 1_000_000_000,
                seed=intent.route.seed,
                principal_id=intent.principal_id,
                canary_state=intent.target.canary if intent.target.canary == OFF else "",
            )


def test_what_is_the_callers_fault_is_not_the_canarys() -> None:
    with serving(world(), failing(answers.error(400))) as (gateway, engine):
        assert {ask(gateway, BODY).status for _ in range(12)} == {400}
        assert sent(engine) == 12


def test_a_good_canary_stays_and_a_share_is_a_share() -> None:
    with serving(world(share_milli=300, total_ms_max=60_000), failing(answers.answer())) as (gateway, engine):
        assert {ask(gateway, BODY).status for _ in range(60)} == {200}
        assert 5 <= sent(engine) <= 35 and sent(engine) + sent(engine, "old") == 60


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_a_slow_canary_is_taken_back(body: dict[str, Any]) -> None:
    bounds = {"first_byte_ms_max": 30} if body is STREAM else {"total_ms_max": 30}
    with serving(world(**bounds), failing(answers.answer(delay_ms=60))) as (gateway, engine):
        assert {ask(gateway, body).status for _ in range(8)} == {200}
        assert sent(engine) == 2  # one of twenty times may be beyond the bound


def test_a_canary_that_hangs_is_taken_back_before_anybody_has_waited_for_its_time_out() -> None:
    hanging = failing(faults.never_answers())
    with serving(world(total_ms_max=200), hanging) as (gateway, engine), connected(gateway) as one:
        with connected(gateway) as two:
            for sock in (one, two):
                sock.sendall(raw_request(gateway, BODY))
            eventually(lambda: sent(engine) == 2)
            eventually(lambda: gateway.canaries.verdict("can_1") is not None)
        assert ask(gateway, BODY).status == 200 and sent(engine) == 2


def test_callers_who_leave_a_slow_canary_are_counted_when_it_was_too_slow_already() -> None:
    with serving(world(total_ms_max=40), failing(faults.never_answers())) as (gateway, engine):
        for n in range(2):
            with connected(gateway) as sock:
                sock.sendall(raw_request(gateway, BODY))
                eventually(lambda n=n: sent(engine) == n + 1)
                time.sleep(0.05)
        eventually(lambda: gateway.canaries.verdict("can_1") is not None)


def test_a_canary_that_is_slower_than_the_others_is_taken_back() -> None:
    slower = world(share_milli=500, calls_min=10, errors_milli_max=-1, total_percent_max=150)
    with serving(slower, failing(answers.answer(delay_ms=600))) as (gateway, engine):
        for _ in range(160):
            ask(gateway, BODY)
            if gateway.canaries.verdict("can_1") is not None:
                break
        verdict = gateway.canaries.verdict("can_1")
        assert verdict is not None and verdict.reason == "total_over_stable"
        before = sent(engine)
        assert ask(gateway, BODY).status == 200 and sent(engine) == before


def test_who_may_not_use_the_canary_is_answered_without_it() -> None:
    def build(url: str) -> World:
        made = world()(url)
        made.policies = [template("team-models", "team-may-use-models", "ten_acme", team="research", models=["old"])]
        return made

    with serving(build, failing(answers.error(500))) as (gateway, engine):
        assert {ask(gateway, BODY).status for _ in range(5)} == {200} and sent(engine) == 0
        assert {i.target.canary for i in gateway.records_of(Intent)} == {BARRED}
        assert gateway.canaries.verdict("can_1") is None, "it says nothing about the canary"
        denied = ask(gateway, {**CHAT, "model": "new"})
        assert denied.status in (403, 404)


def test_a_call_that_is_barred_from_the_canary_is_authorized_for_what_it_gets_instead() -> None:
    def build(url: str) -> World:
        made = world()(url)
        made.policies = [template("team-models", "team-may-use-models", "ten_acme", team="research", models=["other"])]
        return made

    with serving(build, failing(answers.answer())) as (gateway, engine):
        assert ask(gateway, BODY).status == 404 and not engine.calls


def test_a_canary_without_a_source_in_service_fails_and_nobody_notices() -> None:
    def build(url: str) -> World:
        made = world()(url)
        made.sources = [source("s", url, model("old")), source("t", url, model("new"), drained=True)]
        return made

    with serving(build) as (gateway, _engine):
        assert {ask(gateway, BODY).status for _ in range(8)} == {200}
        states = [intent.target.canary for intent in gateway.records_of(Intent)]
        assert states == [BARRED] * BOUND + [OFF] * (8 - BOUND)


def test_a_new_trial_starts_afresh_while_the_old_verdict_stays_with_the_old_one() -> None:
    with serving(world(), failing(answers.error(500)), breaker_failures=100) as (gateway, engine):
        for _ in range(6):
            ask(gateway, BODY)
        assert sent(engine) == BOUND
        again = world()(engine.base_url)
        old = again.aliases[0].canary
        assert old is not None
        canary = Canary("can_2", old.target, 1000, 1, calls_min=20)
        again.aliases = [Alias("a", targets=(AliasTarget("old"),), canary=canary)]
        gateway.world.aliases = again.aliases
        gateway.change(gateway.world)
        ask(gateway, BODY)
        assert sent(engine) == BOUND + 1


# -- the end of an alias


def told(deprecated_s: int, sunset_s: int, successor: str = "next", body: dict[str, Any] = BODY) -> Answer:
    alias = Alias("a", targets=(AliasTarget("old"),), deprecated_s=deprecated_s, sunset_s=sunset_s, successor=successor)

    def build(url: str) -> World:
        return World([source("s", url, model("old"))], aliases=[alias])

    with serving(build, failing(answers.answer())) as (gateway, _engine):
        return ask(gateway, body)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_answers_say_that_an_alias_will_go(body: dict[str, Any]) -> None:
    answer = told(1_688_169_599, 4_102_444_800, body=body)
    assert answer.status == 200
    assert answer.headers["deprecation"] == "@1688169599"
    assert answer.headers["sunset"] == "Fri, 01 Jan 2100 00:00:00 GMT"
    assert answer.headers["link"] == '</v1/models/next>; rel="successor-version"'


def test_answers_of_an_alias_that_stays_say_nothing() -> None:
    answer = told(0, 0)
    assert answer.status == 200 and not {"deprecation", "sunset", "link"} & answer.headers.keys()


def test_an_alias_that_has_ended_is_refused_with_its_successor() -> None:
    answer = told(1, 2)
    assert answer.status == 404 and answer.error["code"] == "alias_sunset"
    assert "ask for 'next'" in answer.error["message"]
