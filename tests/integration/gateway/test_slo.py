"""Calls with objectives through a real worker: where they go, what they are told, and what is on record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from interlock.ledger.entry import call_entry
from interlock.ledger.proof.shape import Entry
from interlock.ledger.reader import CallRecords
from interlock.routing.replay import replay
from interlock.routing.resolve import resolve
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.types.record import Attempt, Intent, Outcome, Refusal
from interlock.types.slo import Slo
from interlock.types.snapshot import Alias, AliasSlo, AliasTarget, AliasWeights
from interlock.types.source import Price
from tests.gateway import WorkerHarness, World, model, source
from tests.integration.gateway.client import CHAT, Answer, ask, serving

DEAR, CHEAP = Price(9_000_000_000, 0, 9_000_000_000, origin="source"), Price(1000, 0, 1000, origin="source")
Served = tuple[WorkerHarness, ScriptedEngine]


def world(url: str) -> World:
    cheap = model("m", quality_milli=200, price=CHEAP)
    dear = model("m", quality_milli=950, price=DEAR)
    aliases = [
        Alias("bounded", targets=(AliasTarget("m"),), mode="quality", slo=AliasSlo(cost_nusd=20_000)),
        Alias("frugal", targets=(AliasTarget("m"),), mode="quality", weights=AliasWeights(cost=1)),
    ]
    return World([source("dear", url, dear), source("cheap", url, cheap)], aliases=aliases)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(world) as made:
        yield made


def chat(served: Served, slo: Any = None, name: str = "m", mode: str = "quality", **more: Any) -> Answer:
    gateway, engine = served
    engine.script(answers.answer(delay_ms=20))
    own = {"mode": mode} if mode else {}
    if slo is not None:
        own["slo"] = slo
    headers = more.pop("headers", {})
    return ask(gateway, {**CHAT, "model": name, "interlock": {**own, **more}}, **headers)


def leaf_of(gateway: WorkerHarness, kind: str = "call") -> dict[str, Any]:
    """The ledger's entry of the last call, as the collector makes it."""
    if kind == "refusal":
        refusal = gateway.records_of(Refusal)[-1]
        return call_entry(CallRecords("e", refusal.call, (), refusal=refusal), 1, None).leaf
    intent, outcome = gateway.records_of(Intent)[-1], gateway.records_of(Outcome)[-1]
    tries = tuple(each for each in gateway.records_of(Attempt) if each.call == intent.call)
    return call_entry(CallRecords("e", intent.call, (), intent, attempts=tries, outcome=outcome), 1, None).leaf


def counted(gateway: WorkerHarness) -> dict[tuple[str, ...], float]:
    runtime = gateway.worker.runtime
    assert runtime is not None
    return gateway.call(lambda: dict(runtime.metrics.slo_calls.cells))


def test_a_bound_on_cost_sends_the_call_where_it_is_met_and_what_came_of_it_is_on_record(served: Served) -> None:
    gateway, _ = served
    assert chat(served).headers["x-interlock-source"] == "dear"
    assert "slo" not in leaf_of(gateway) and "slo=" not in chat(served).headers["x-interlock-decision"]
    chat(served, name="cheap::m")  # so that it is known how long it takes
    answer = chat(served, {"cost_usd": 0.00002, "latency_ms": 3_600_000})
    assert answer.status == 200, answer.body
    assert answer.headers["x-interlock-source"] == "cheap" and "; slo=met" in answer.headers["x-interlock-decision"]
    told = leaf_of(gateway)["slo"]
    assert (told["cost_nusd"], told["latency_ms"], told["ttft_ms"], told["strict"]) == (20_000, 3_600_000, 0, False)
    assert told["predicted"]["verdict"] == "met" and 0 <= told["predicted"]["cost_nusd"] < 20_000
    assert (told["cost"], told["latency"], told["outcome"]) == ("met", "met", "met")
    assert counted(gateway) == {("cost", "met"): 1, ("latency", "met"): 1}


def test_times_are_not_known_at_first_and_learned_from_calls(served: Served) -> None:
    gateway, _ = served
    hour, ms = {"latency_ms": 3_600_000}, {"latency_ms": 1}
    assert "; slo=unknown" in chat(served, hour).headers["x-interlock-decision"]
    assert "; slo=met" in chat(served, hour).headers["x-interlock-decision"]
    intent = gateway.records_of(Intent)[-1]
    pace = intent.route.foreseen[0].pace
    assert pace is not None and pace.whole_us > 0 and pace.tokens > 0
    for each in ("dear", "cheap"):
        chat(served, name=f"{each}::m")
    answer = chat(served, ms)
    assert answer.status == 200 and "; slo=missed" in answer.headers["x-interlock-decision"], "it runs all the same"
    assert leaf_of(gateway)["slo"]["outcome"] == "missed"


def test_a_strict_objective_is_refused_before_anything_is_sent(served: Served) -> None:
    gateway, engine = served
    before = len(engine.requests)
    answer = chat(served, {"cost_usd": 0.0, "strict": True})
    assert answer.status == 503 and answer.error["code"] == "slo_unmet"
    assert "would take" in answer.error["message"] and "cheap::m" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false" and len(engine.requests) == before
    told = leaf_of(gateway, "refusal")["slo"]
    assert told["strict"] and told["predicted"]["verdict"] == "missed" and "outcome" not in told
    assert gateway.records_of(Refusal)[-1].route is not None


def test_failover_of_a_strict_call_stays_within_its_objective(served: Served) -> None:
    gateway, engine = served
    engine.script(answers.error(500))
    own = {"mode": "quality", "slo": {"cost_usd": 0.00002, "strict": True}}
    answer = ask(gateway, {**CHAT, "interlock": own})
    assert answer.status >= 500
    assert {each.source for each in gateway.records_of(Attempt)} == {"cheap"}
    engine.script(answers.error(500), answers.answer())
    own = {"mode": "quality", "slo": {"cost_usd": 0.00002}}
    assert ask(gateway, {**CHAT, "interlock": own}).headers["x-interlock-source"] == "dear"


def test_an_aliass_objectives_and_weights_hold_and_a_caller_may_tighten_them(served: Served) -> None:
    gateway, _ = served
    assert chat(served, name="bounded", mode="").headers["x-interlock-source"] == "cheap"
    answer = chat(served, {"cost_usd": 5, "ttft_ms": 1000, "strict": True}, name="bounded", mode="")
    assert answer.headers["x-interlock-source"] == "cheap"
    assert leaf_of(gateway)["slo"]["cost_nusd"] == 20_000 and leaf_of(gateway)["slo"]["ttft_ms"] == 1000
    assert chat(served, name="frugal", mode="").headers["x-interlock-decision"].startswith("offer=cheap::m; mode=own")
    assert chat(served, name="frugal", mode="quality").headers["x-interlock-source"] == "dear", (
        "the caller's mode holds"
    )
    own = chat(served, name="frugal", mode="", weights={"quality": 9, "cost": 1})
    assert own.headers["x-interlock-source"] == "dear"


def test_headers_say_what_bodies_say(served: Served) -> None:
    gateway, _ = served
    slo = {"x_interlock_slo": "cost_usd=0.00002; ttft_ms=900000"}
    assert chat(served, headers=slo).headers["x-interlock-source"] == "cheap"
    assert gateway.records_of(Intent)[-1].features.slo == Slo(900_000, 0, 20_000)
    chat(served, {"ttft_ms": 5}, headers=slo | {"x_interlock_slo": "ttft_ms=900000; strict"})
    assert gateway.records_of(Intent)[-1].features.slo == Slo(5, strict=True)
    weights = {"x_interlock_weights": "cost=2; quality=0"}
    assert chat(served, mode="", headers=weights).headers["x-interlock-source"] == "cheap"
    assert gateway.records_of(Intent)[-1].features.weights == (0, 1_000_000, 0, 0)


BAD = [
    ({"slo": {}}, {}, "interlock.slo"),
    ({"slo": {"strict": True}}, {}, "interlock.slo"),
    ({"slo": {"ttft_ms": 0}}, {}, "interlock.slo.ttft_ms"),
    ({"slo": {"latency_ms": 1.5}}, {}, "interlock.slo.latency_ms"),
    ({"slo": {"cost_usd": -1}}, {}, "interlock.slo.cost_usd"),
    ({"weights": {"quality": -1}}, {}, "interlock.weights.quality"),
    ({"weights": {}}, {}, "interlock.weights"),
    ({}, {"x_interlock_slo": "ttft=5"}, "x-interlock-slo"),
    ({}, {"x_interlock_slo": "ttft_ms=5; ttft_ms=6"}, "x-interlock-slo"),
    ({}, {"x_interlock_slo": "cost_usd=nan"}, "x-interlock-slo"),
    ({}, {"x_interlock_slo": "ttft_ms=0"}, "x-interlock-slo"),
    ({}, {"x_interlock_slo": "ttft_ms=1_0"}, "x-interlock-slo"),
    ({}, {"x_interlock_weights": "strict"}, "x-interlock-weights"),
    ({}, {"x_interlock_weights": "quality=0"}, "x-interlock-weights"),
]


def test_what_makes_no_sense_is_refused_at_the_door_by_name_in_each_dialect(served: Served) -> None:
    gateway, engine = served
    before = len(engine.requests)
    for own, headers, param in BAD:
        answer = ask(gateway, {**CHAT, "interlock": own}, **headers)
        assert answer.status == 400 and answer.error["param"] == param, (own, headers, answer.body)
    body = {"model": "m", "max_tokens": 5, "messages": CHAT["messages"], "interlock": {"slo": {"ttft_ms": 0}}}
    answer = ask(gateway, body, "/v1/messages", anthropic_version="2023-06-01")
    assert answer.status == 400 and "interlock.slo.ttft_ms" in answer.json["error"]["message"]
    assert len(engine.requests) == before


def test_decisions_replay_from_their_records_and_entries_have_their_shape(served: Served) -> None:
    gateway, _ = served
    for n in range(12):
        slo = {"latency_ms": (1, 50, 3_600_000)[n % 3], "cost_usd": (0.0, 0.00002)[n % 2]}
        chat(served, slo, name=("m", "bounded", "frugal", "cheap::m")[n % 4], mode="" if n % 5 else "eco")
        msgspec.convert({"epoch": "e", "n": 1, **leaf_of(gateway)}, Entry)
    names = gateway.view.catalog("ten_acme")
    for intent in gateway.records_of(Intent):
        again = replay(intent, names.by_key)
        assert again.same, again.differences
        target = resolve(intent.features.asked, names, now_s=0, seed=intent.route.seed)
        assert target.slo == intent.target.slo
