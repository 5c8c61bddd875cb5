"""What the records say that calls cost and took, through a whole worker."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from interlock.ledger.recovery import scan_epoch
from interlock.metering.cost import Rates
from interlock.metering.energy import Estimate
from interlock.testing import answers, faults
from interlock.types.record import Attempt, Intent, Outcome
from interlock.types.snapshot import Alias, AliasTarget
from interlock.types.source import Power, Price
from interlock.types.usage import Cost, Energy, Usage
from tests.gateway import World, model, source
from tests.integration.gateway.client import (
    CHAT,
    ask,
    connected,
    eventually,
    raw_request,
    read_until,
    serving,
)

STREAM = {**CHAT, "stream": True}
USD = 1_000_000_000
PRICE = Price(3 * USD, 300_000_000, 15 * USD, call_nusd=1000, origin="list", version="genai-prices 1 abc")
POWER = Power(40_000, 900_000, method="declared", ug_per_kwh=380_000_000)
PRICED = model(price=PRICE, power=POWER)


def _world(*_: object) -> Callable[[str], World]:
    alias = Alias(name="fast", targets=(AliasTarget(model="m"),), request_class="drafting")
    return lambda url: World([source("s", url, PRICED)], aliases=[alias])


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_a_call_costs_and_takes_what_its_usage_makes(body: dict[str, object]) -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(answers.answer(cached_tokens=1))
        assert ask(gateway, body).status == 200
        (outcome,) = gateway.records_of(Outcome)
    usage = outcome.usage
    assert usage.cached_tokens == 1 and usage.prompt_tokens > 1 and usage.completion_tokens > 0
    worth = (usage.prompt_tokens - 1) * 3000 + 300 + usage.completion_tokens * 15_000 + 1000
    assert outcome.cost == Cost(worth, "list", "genai-prices 1 abc")
    took = (usage.prompt_tokens - 1) * 40_000 + usage.completion_tokens * 900_000
    assert outcome.energy == Energy(took, took // 2, took * 2, "declared", 380_000_000)


def test_each_attempt_has_reserved_what_the_call_may_cost_there() -> None:
    with serving(_world()) as (gateway, _engine):
        assert ask(gateway, {**CHAT, "max_tokens": 7}).status == 200
        (attempt,) = gateway.records_of(Attempt)
        (intent,) = gateway.records_of(Intent)
        (outcome,) = gateway.records_of(Outcome)
    features = intent.features
    assert features.completion_tokens_max == 7
    assert attempt.reserved == Rates(PRICE).bound(features.prompt_tokens_max, 7)
    assert 0 < outcome.cost.nusd <= attempt.reserved.nusd


def test_usage_that_nobody_told_costs_what_was_reserved() -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(answers.answer(usage=False))
        assert ask(gateway, {**CHAT, "max_tokens": 50}).status == 200
        (attempt,) = gateway.records_of(Attempt)
        (intent,) = gateway.records_of(Intent)
        (outcome,) = gateway.records_of(Outcome)
    assert outcome.usage == Usage(intent.features.prompt_tokens_max, 0, 50, "reserved")
    assert outcome.usage.total_tokens == intent.reserved_tokens
    assert outcome.cost == attempt.reserved
    assert outcome.energy == Estimate(POWER).energy(outcome.usage)
    assert outcome.energy.low_uj == 0 < outcome.energy.uj


def test_a_caller_who_leaves_is_charged_the_reservation() -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(faults.endless(between_ms=5))
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
        eventually(lambda: gateway.records_of(Outcome) != [])
        (attempt,) = gateway.records_of(Attempt)
        (outcome,) = gateway.records_of(Outcome)
    assert (outcome.state, outcome.usage.origin) == ("disconnected", "reserved")
    assert outcome.cost == attempt.reserved


def test_a_call_that_no_source_worked_on_costs_nothing() -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(answers.error(500))
        assert ask(gateway, CHAT).status == 502
        (outcome,) = gateway.records_of(Outcome)
    assert outcome.cost == Cost(0, "list", "genai-prices 1 abc"), "not even the price per call"
    assert outcome.energy == Energy(0, 0, 0, "declared", 380_000_000)


def test_a_call_keeps_the_price_it_began_with() -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(faults.endless(between_ms=5))
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
            dearer = Price(9 * USD, 9 * USD, 9 * USD, origin="source", version="declared def")
            gateway.change(
                World([source("s", gateway.world.sources[0].base_url, model(price=dearer))], gateway.world.people)
            )
        eventually(lambda: gateway.records_of(Outcome) != [])
        assert ask(gateway, CHAT).status == 200
        began_before, after = gateway.records_of(Outcome)
    assert (began_before.cost.version, after.cost.version) == ("genai-prices 1 abc", "declared def")


def test_a_model_without_a_price_says_so() -> None:
    with serving() as (gateway, _engine):
        assert ask(gateway, CHAT).status == 200
        (outcome,) = gateway.records_of(Outcome)
    assert outcome.cost == Cost(0, "none", "") and outcome.energy == Energy()


def test_a_killed_call_is_found_with_what_it_had_reserved() -> None:
    with serving(_world()) as (gateway, engine):
        engine.script(faults.endless(between_ms=5))
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            read_until(sock, b"word")
            epoch = gateway.worker.record_log.epoch
            left = scan_epoch(gateway.folder / "log", epoch).open_calls
            (attempt,) = gateway.records_of(Attempt)
            assert [call.cost for call in left.values()] == [attempt.reserved] and attempt.reserved.nusd > 0


@pytest.mark.parametrize(
    ("asked", "header", "body", "found"),
    [
        ("m", None, None, ""),
        ("fast", None, None, "drafting"),
        ("fast", "review", None, "review"),
        ("fast", "review", "contract review", "contract review"),
        ("m", "x" * 64, None, "x" * 64),
        ("m", "x" * 65, None, None),
        ("m", None, "a\tb", None),
    ],
)
def test_a_call_has_the_class_that_it_names_or_else_its_alias(
    asked: str, header: str | None, body: str | None, found: str | None
) -> None:
    with serving(_world()) as (gateway, engine):
        document = {**CHAT, "model": asked, **({"interlock": {"class": body}} if body else {})}
        answer = ask(gateway, document, **({"x_interlock_class": header} if header else {}))
        intents = gateway.records_of(Intent)
        if found is None:
            assert (answer.status, answer.error["param"], intents) == (400, "interlock.class", [])
            return
        assert answer.status == 200
        assert [intent.request_class for intent in intents] == [found]
        assert b"interlock" not in engine.calls[0].body, "the label stays here"


def test_cost_and_energy_are_in_the_metrics() -> None:
    with serving(_world()) as (gateway, _engine):
        for _ in range(3):
            assert ask(gateway, CHAT).status == 200
        outcomes = gateway.records_of(Outcome)
        worth = {
            "interlock_cost_nusd_total": sum(outcome.cost.nusd for outcome in outcomes),
            "interlock_energy_uj_total": sum(outcome.energy.uj for outcome in outcomes),
        }

        def shown() -> dict[str, int]:
            text = ask(gateway, None, "/metrics", method="GET", key="").body.decode()
            pattern = r'^(interlock_(?:cost|energy)_\w+)\{source="s",model="m"\} (\S+)$'
            return {name: int(float(value)) for name, value in re.findall(pattern, text, re.MULTILINE)}

        eventually(lambda: shown() == worth)
