"""Budgets at a whole worker: who is refused and how, who waits, what is charged and recorded."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

from interlock.gateway.link import LeaseReturned, LeaseWanted
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Script
from interlock.types.budget import Budget
from interlock.types.record import Attempt, Intent, Outcome, Refusal
from interlock.types.snapshot import Alias, AliasTarget
from interlock.types.source import Power, Price
from tests.gateway import Who, WorkerHarness, World, model, source
from tests.integration.gateway.client import (
    CHAT,
    WAIT_S,
    Answer,
    ask,
    connected,
    events,
    eventually,
    raw_request,
    serving,
    text_of,
)

SHORT = {**CHAT, "max_tokens": 5}
STREAM = {**SHORT, "stream": True}
TEN = 10**10
SUBJECTS = {
    "tenant": "ten_acme",
    "team": "team_acme_research",
    "principal": "prn_acme_alice",
    "key": "key_acme_alice",
}


def budget(measure: str = "calls", amount: int = 10, kind: str = "tenant", subject: str = "", **given: Any) -> Budget:
    """A budget of acme's."""
    subjects = {
        "tenant": "ten_acme",
        "team": "team_acme_research",
        "principal": "prn_acme_alice",
        "key": "key_acme_alice",
    }
    on = subject or subjects[kind]
    return Budget(
        f"bdg_{measure}_{kind}_{on}", "ten_acme", f"the {kind}'s {measure}", kind, (on,), measure, amount, **given
    )


def world(url: str, *budgets: Budget, **given: Any) -> World:
    return World(
        [source("s", url, model(price=Price(10**9, 10**9, 2 * 10**9), power=Power(2, 3)))],
        budgets=list(budgets),
        **given,
    )


def purse(gateway: WorkerHarness, **more: int) -> None:
    gateway.purse = {each.id: each.amount for each in gateway.world.budgets} | more


def overlong(words: int) -> Script:
    """An engine that takes no notice of max_tokens, nor of who asks for usage."""

    def script(received: Received) -> Any:
        asked = {k: v for k, v in received.json.items() if k not in ("max_tokens", "max_completion_tokens")}
        text = " ".join(["word"] * words)
        return answers.answer(text, usage=False)(dataclasses.replace(received, body=json.dumps(asked).encode()))

    return script


@pytest.mark.parametrize("kind", ["tenant", "team", "principal", "key", "model"])
def test_a_budget_ends_calls_of_those_it_is_on(kind: str) -> None:
    limited = budget("calls", 3, kind, "m" if kind == "model" else "")
    bob = Who("bob", tenant="globex", team="")
    with serving(lambda url: world(url, limited, people=[Who(), bob])) as (gateway, engine):
        purse(gateway)
        answered = [ask(gateway, CHAT) for _ in range(5)]
        assert [each.status for each in answered] == [200, 200, 200, 429, 429]
        refused = answered[-1]
        assert refused.error["code"] == "budget_exceeded" and refused.error["type"] == "insufficient_quota"
        assert limited.name in refused.error["message"] and refused.headers["x-should-retry"] == "false"
        assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
        assert len(engine.calls) == 3
        assert ask(gateway, CHAT, key=gateway.key("bob")).status == 200, "it is no budget of another tenant's"
        eventually(lambda: len(gateway.records_of(Refusal)) == 2)
        assert {record.code for record in gateway.records_of(Refusal)} == {"budget_exceeded"}


def test_what_a_call_took_is_what_it_is_charged_and_recorded() -> None:
    of = [budget(measure, 10**9) for measure in ("calls", "tokens", "nusd", "uj")]
    soft = budget("tokens", 1, "team", hard=False)
    with serving(lambda url: world(url, *of, soft)) as (gateway, _engine):
        purse(gateway)
        assert ask(gateway, SHORT).status == 200
        assert ask(gateway, STREAM).status == 200
        outcomes, intents = gateway.records_of(Outcome), gateway.records_of(Intent)
        for intent, outcome in zip(intents, outcomes, strict=True):
            charged = dict(zip([(c.measure, c.reserved > 0) for c in intent.charges], outcome.charged, strict=True))
            assert charged == {
                ("calls", True): 1,
                ("tokens", True): outcome.usage.total_tokens,
                ("nusd", True): outcome.cost.nusd,
                ("uj", True): outcome.energy.uj,
                ("tokens", False): outcome.usage.total_tokens,
            }
            assert outcome.cost.nusd and outcome.energy.uj
            for charge, amount in zip(intent.charges, outcome.charged, strict=True):
                assert charge.reserved >= amount or not charge.reserved
            assert {c.start_s % 86_400 for c in intent.charges} == {0}
        taken = sum(outcome.usage.total_tokens for outcome in outcomes)
        left = gateway.call(lambda: gateway.worker.treasury._now[of[1].id].left)
        assert gateway.purse is not None and gateway.purse[of[1].id] + left == 10**9 - taken


def test_a_call_that_no_source_worked_on_is_charged_nothing() -> None:
    with serving(lambda url: world(url, budget("calls", 2), budget("nusd", TEN))) as (gateway, engine):
        purse(gateway)
        engine.script(faults.closes_at_once(), faults.closes_at_once(), faults.closes_at_once())
        for _ in range(3):
            assert ask(gateway, SHORT).status == 502
        assert all(not any(outcome.charged) for outcome in gateway.records_of(Outcome))
        assert [ask(gateway, SHORT).status for _ in range(3)] == [200, 200, 429]


def test_usage_that_nobody_tells_is_charged_as_reserved() -> None:
    with serving(lambda url: world(url, budget("tokens", 10**6))) as (gateway, engine):
        purse(gateway)
        engine.script(answers.answer("a b c", usage=False))
        assert ask(gateway, STREAM).status == 200
        (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
        assert outcome.charged == (intent.charges[0].reserved,) == (intent.reserved_tokens,)


def test_more_than_a_period_gives_is_not_waited_for() -> None:
    with serving(lambda url: world(url, budget("tokens", 50))) as (gateway, _engine):
        purse(gateway)
        refused = ask(gateway, {**CHAT, "max_tokens": 1000})
        assert (refused.status, refused.error["code"]) == (429, "budget_too_small")
        assert refused.headers["x-should-retry"] == "false" and "max_tokens" in refused.error["message"]


def test_candidates_that_are_too_dear_are_left_out() -> None:
    cheap, dear = Price(10**6, 10**6, 10**6), Price(10**9, 10**9, 10**9)

    def made(url: str) -> World:
        small = source("small", url, model("small", price=cheap, quality_milli=1))
        large = source("large", url, model("large", price=dear, quality_milli=1000))
        return World([small, large], budgets=[budget("nusd", 20_000)])

    asked = {**SHORT, "model": "auto:quality"}
    engine = ScriptedEngine(models=("small", "large"))
    with serving(made, engine) as (gateway, _engine):
        purse(gateway)
        answered = ask(gateway, asked)
        assert answered.status == 200 and answered.headers["x-interlock-model"] == "small"
        (intent,) = gateway.records_of(Intent)
        assert intent.route.candidates[0].offer.startswith("large::"), "the decision itself stays as it was"
        assert [attempt.model for attempt in gateway.records_of(Attempt)] == ["small"]
        refused = ask(gateway, {**asked, "model": "large"})
        assert refused.error["code"] == "budget_too_small"


def test_a_model_without_a_price_is_not_touched_by_a_budget_of_money() -> None:
    with serving(lambda url: World([source("s", url)], budgets=[budget("nusd", 0)])) as (gateway, _engine):
        purse(gateway)
        assert ask(gateway, SHORT).status == 200
        assert gateway.records_of(Outcome)[0].charged == (0,)


def test_a_budget_on_a_model_counts_the_one_that_answers() -> None:
    def made(url: str) -> World:
        both = [source("one", url, model("one")), source("two", url, model("two"))]
        alias = Alias("any", targets=(AliasTarget("one"), AliasTarget("two", weight=1)))
        return World(
            both, aliases=[alias], budgets=[budget("calls", 9, "model", "one"), budget("calls", 9, "model", "two")]
        )

    with serving(made, ScriptedEngine(models=("one", "two"))) as (gateway, _engine):
        purse(gateway)
        for _ in range(6):
            assert ask(gateway, {**SHORT, "model": "auto"}).status == 200
        for intent, outcome in zip(gateway.records_of(Intent), gateway.records_of(Outcome), strict=True):
            charged = {c.model: amount for c, amount in zip(intent.charges, outcome.charged, strict=True)}
            assert charged[outcome.model] == 1 and sum(charged.values()) == 1


# -- waiting


def test_a_call_waits_for_its_share_and_then_runs() -> None:
    with serving(lambda url: world(url, budget("calls", 5)), lease_wait_ms=60_000) as (gateway, _engine):
        gateway.purse = None
        found: list[Answer] = []
        asking = threading.Thread(target=lambda: found.append(ask(gateway, STREAM)))
        asking.start()
        eventually(lambda: any(isinstance(each, LeaseWanted) for each in gateway.told))
        assert not gateway.records_of(Intent)
        wanted = next(each for each in gateway.told if isinstance(each, LeaseWanted))
        purse(gateway)
        gateway.call(lambda: gateway._tell(wanted))
        asking.join(2 * WAIT_S)
        assert found[0].status == 200 and text_of(events(found[0].body))


def test_nobody_waits_for_longer_than_the_setting_says() -> None:
    with serving(lambda url: world(url, budget("calls", 5)), lease_wait_ms=100) as (gateway, engine):
        gateway.purse = None
        refused = ask(gateway, CHAT)
        assert (refused.status, refused.error["code"]) == (503, "budget_unavailable")
        assert refused.headers["retry-after"] == "1" and not engine.calls
        assert [record.code for record in gateway.records_of(Refusal)] == ["budget_unavailable"]
        assert gateway.call(lambda: len(gateway.worker.treasury._leases)) == 1
        assert not gateway.call(lambda: gateway.worker.runtime.waiting if gateway.worker.runtime else None)


def test_who_goes_away_while_waiting_leaves_a_record_and_no_call() -> None:
    with serving(lambda url: world(url, budget("calls", 5)), lease_wait_ms=60_000) as (gateway, engine):
        gateway.purse = None
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, CHAT))
            eventually(lambda: any(isinstance(each, LeaseWanted) for each in gateway.told))
        eventually(lambda: gateway.records_of(Refusal))
        assert gateway.records_of(Refusal)[0].code == "client_disconnected"
        purse(gateway)
        wanted = next(each for each in gateway.told if isinstance(each, LeaseWanted))
        gateway.call(lambda: gateway._tell(wanted))
        assert ask(gateway, CHAT).status == 200 and len(engine.calls) == 1


def test_waiting_calls_end_when_the_worker_stops() -> None:
    with serving(lambda url: world(url, budget("calls", 5)), lease_wait_ms=60_000) as (gateway, _engine):
        gateway.purse = None
        found: list[Answer] = []
        asking = threading.Thread(target=lambda: found.append(ask(gateway, CHAT)))
        asking.start()
        eventually(lambda: any(isinstance(each, LeaseWanted) for each in gateway.told))
        gateway.stop(grace_ms=50)
        asking.join(2 * WAIT_S)
        assert (found[0].status, found[0].error["code"]) == (503, "draining")


def test_what_is_left_goes_back_when_the_budget_changes() -> None:
    with serving(lambda url: world(url, budget("calls", 50))) as (gateway, engine):
        purse(gateway)
        assert ask(gateway, CHAT).status == 200
        gateway.change(world(engine.base_url, budget("calls", 2)))
        eventually(lambda: any(isinstance(each, LeaseReturned) for each in gateway.told))
        assert gateway.purse is not None and sum(gateway.purse.values()) == 49


# -- streams


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_beyond_its_bound_is_cut_with_a_proper_end(path: str) -> None:
    with serving(lambda url: world(url, budget("tokens", 10**6))) as (gateway, engine):
        purse(gateway)
        engine.script(overlong(60))
        asked = STREAM if "chat" in path else {"model": "m", "prompt": "say", "max_tokens": 5, "stream": True}
        answered = ask(gateway, asked, path)
        found = events(answered.body)
        assert answered.status == 200 and found[-1] == "[DONE]"
        assert found[-2]["choices"][0]["finish_reason"] == "length"
        assert len(found) <= 5 + 8 + 3, "more was let through than the bound and what is spared"
        (intent,), (outcome,) = gateway.records_of(Intent), gateway.records_of(Outcome)
        assert (outcome.state, outcome.finish_reasons) == ("completed", ("length",))
        assert outcome.usage.origin == "reserved" and outcome.charged == (intent.charges[0].reserved,)
        assert len(engine.calls) == 1


def test_without_a_budget_streams_are_not_cut() -> None:
    with serving(lambda url: world(url)) as (gateway, engine):
        engine.script(overlong(60))
        found = events(ask(gateway, STREAM).body)
        assert len(text_of(found).split()) == 60


def test_a_stream_within_its_bound_is_not_cut() -> None:
    with serving(lambda url: world(url, budget("tokens", 10**6))) as (gateway, engine):
        purse(gateway)
        engine.script(answers.answer("one two three four five"))
        found = events(ask(gateway, STREAM).body)
        assert text_of(found) == "one two three four five"
