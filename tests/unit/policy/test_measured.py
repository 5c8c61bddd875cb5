"""Policies over cost and time: exact at their numbers, remembered between them, and closed to tricks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.errors import ConfigError
from interlock.metering.cost import NUSD_MAX, bound_nusd
from interlock.policy.engine import PolicyEngine
from interlock.policy.measured import every, stands_for, week_minute
from interlock.policy.schema import validate
from interlock.policy.templates import render
from interlock.policy.testfile import parse, run
from interlock.policy.world import from_document
from interlock.types.source import Offer, Price
from tests.unit.policy.acme import ACME, ALICE, BOT, CLOUD, LOCAL, OPS, RESEARCH, asks, caller, made, offers_of

OFFERS = offers_of(LOCAL, CLOUD)
EVERYTHING = made("all", "team-may-use-models", team="*", models="*")
NOW = int(datetime(2026, 11, 28, 22, 0, tzinfo=UTC).timestamp())  # a Saturday


def priced(offer: Offer, prompt: int, completion: int) -> int:
    """A thousandth of a dollar a token in the cloud, nothing at home."""
    return 0 if offer.source.labels.on_prem else (prompt + completion) * 1_000_000


def engine(*policies: Any, bound: Any = priced) -> PolicyEngine:
    return PolicyEngine([EVERYTHING, *policies], [ACME], [RESEARCH, OPS], [LOCAL, CLOUD], bound=bound)


def allowed(of: PolicyEngine, at_s: int = 0, prompt: int = 0, who: Any = ALICE) -> set[str]:
    features = msgspec.structs.replace(asks(), prompt_tokens_max=prompt)
    return set(of.authorize(caller(who), features, OFFERS, at_s * 1_000_000_000).allowed)


@given(st.integers(-(2**62), 2**62), st.lists(st.integers(-50, 50), min_size=1).map(lambda n: tuple(sorted(set(n)))))
@example(5, (5,))
@example(6, (5, 7))
@example(6, (5, 10))
@example(4, (5,))
@example(11, (5, 10))
def test_what_stands_for_a_value_compares_as_it_does(value: int, numbers: tuple[int, ...]) -> None:
    told = stands_for(value, numbers)
    for number in numbers:
        assert (value < number, value == number) == (told < number, told == number)
    assert told in every(numbers)
    assert stands_for(told, numbers) == told


@given(st.integers(0, 2**33))
@example(0)
def test_weeks_begin_on_monday(time_s: int) -> None:
    at = datetime.fromtimestamp(time_s, UTC)
    assert week_minute(time_s) == (at.weekday() * 24 + at.hour) * 60 + at.minute


def test_a_ceiling_is_exact_and_decisions_below_it_are_one() -> None:
    ceiling = engine(made("ceiling", "cost-ceiling-per-call", usd="0.1"))
    assert "cloud::large" in allowed(ceiling, prompt=100), "what costs just as much may be"
    assert "cloud::large" not in allowed(ceiling, prompt=101)
    assert "local::large" in allowed(ceiling, prompt=10_000)
    decided = ceiling.decided
    for prompt in range(1, 100, 7):
        assert "cloud::large" in allowed(ceiling, prompt=prompt)
        assert "cloud::large" not in allowed(ceiling, prompt=prompt + 101)
    assert ceiling.decided == decided + 1, "below the ceiling is one decision, and above it was one already"
    dear = msgspec.structs.replace(asks(), prompt_tokens_max=101)
    (denial,) = ceiling.authorize(caller(ALICE), dear, OFFERS[3:]).denials
    assert denial.policy_ids == ("ceiling",) and "may cost more than 0.1 USD" in denial.words


def test_a_ceiling_is_for_those_it_names() -> None:
    only = engine(made("c", "cost-ceiling-per-call", usd=0.001, teams=["ops"], models=["large"]))
    assert "cloud::large" in allowed(only, prompt=5)
    assert "cloud::large" not in allowed(only, prompt=5, who=BOT)


def test_an_engine_that_knows_no_prices_is_above_every_ceiling() -> None:
    policies = [EVERYTHING, made("c", "cost-ceiling-per-call", usd=1_000_000)]
    blind = PolicyEngine(policies, [ACME], [RESEARCH, OPS], [LOCAL, CLOUD])
    assert allowed(blind) == set()


def test_what_has_no_price_is_free_at_home_and_unknown_elsewhere() -> None:
    home, cloud = OFFERS[1], OFFERS[3]
    assert bound_nusd(home, 1000, 1000) == 0
    assert bound_nusd(cloud, 0, 0) == NUSD_MAX
    model = msgspec.structs.replace(cloud.model, price=Price(input_nusd_per_mtok=2_000_000_000, origin="source"))
    assert bound_nusd(msgspec.structs.replace(cloud, model=model), 500, 0) == 1_000_000


def test_a_window_closes_and_opens_to_the_second() -> None:
    window = engine(
        made(
            "w",
            "maintenance-window",
            **{"from": "2026-11-28T22:00", "to": "2026-11-29T02:00+02:00", "sources": ["local"]},
        )
    )
    end = NOW + 2 * 3600
    for at_s, closed in ((NOW - 1, False), (NOW, True), (end - 1, True), (end, False)):
        assert ("local::large" not in allowed(window, at_s)) is closed, at_s
        assert "cloud::large" in allowed(window, at_s)
    decided = window.decided
    for at_s in range(NOW, end, 600):
        allowed(window, at_s)
    assert window.decided <= decided + 1


@pytest.mark.parametrize(
    ("weekly", "open_at", "closed_at"),
    [
        ("sat 22:00 - sat 23:30", [NOW - 60, NOW + 90 * 60], [NOW, NOW + 89 * 60, NOW + 7 * 86_400]),
        ("Sat 22:00-Mon 02:00", [NOW - 60, NOW + 28 * 3600], [NOW, NOW + 27 * 3600, NOW + 5 * 3600]),
    ],
)
def test_a_window_comes_every_week(weekly: str, open_at: list[int], closed_at: list[int]) -> None:
    window = engine(made("w", "maintenance-window", weekly=weekly, models=["large"]))
    for at_s in open_at:
        assert "local::large" in allowed(window, at_s)
    for at_s in closed_at:
        assert "local::large" not in allowed(window, at_s)
        assert "local::small" in allowed(window, at_s)
    assert window.may_list(caller(ALICE), OFFERS[1]), "that it is closed for now is no reason to hide it"


def test_where_nobody_asks_nothing_is_measured() -> None:
    plain = engine(bound=None)  # would fail when called
    assert allowed(plain, NOW, 5) and allowed(plain, NOW + 1, 6)
    assert plain.decided == 1


@pytest.mark.parametrize(
    "condition",
    [
        "context.cost_nusd * 2 > 10",
        "context.cost_nusd > context.time_s",
        "context.time_s - 5 < 10",
        "[context.time_s].contains(5)",
        "[context].contains(context)",
        "(if context.delegated then context.cost_nusd else 5) > 7",
        "context.week_minute > resource.data_class_max",
    ],
)
def test_nothing_but_a_number_is_compared(condition: str) -> None:
    problems = validate(f"permit (principal, action, resource) when {{ {condition} }};")
    assert problems and ("whole number" in problems[0].message or "as a whole" in problems[0].message)


@pytest.mark.parametrize("condition", ["5 >= context.cost_nusd", "context.time_s != -5", 'context["week_minute"] == 7'])
def test_numbers_on_either_side_are_compared(condition: str) -> None:
    assert validate(f"permit (principal, action, resource) when {{ {condition} }};") == []


@pytest.mark.parametrize(
    ("template", "parameters", "says"),
    [
        ("cost-ceiling-per-call", {"usd": "much"}, "US dollars"),
        ("cost-ceiling-per-call", {"usd": -1}, "US dollars"),
        ("cost-ceiling-per-call", {"usd": float("nan")}, "US dollars"),
        ("cost-ceiling-per-call", {"usd": "1e-10"}, "billionth"),
        ("cost-ceiling-per-call", {"usd": True}, "US dollars"),
        ("maintenance-window", {}, "must be given"),
        ("maintenance-window", {"from": "2026-01-01"}, "must be given"),
        ("maintenance-window", {"from": "2026-01-02", "to": "2026-01-01"}, "after from"),
        ("maintenance-window", {"from": "soon", "to": "2026-01-01"}, "ISO 8601"),
        ("maintenance-window", {"weekly": "sat 22:00"}, "is written"),
        ("maintenance-window", {"weekly": "sat 25:00 - sun 02:00"}, "is written"),
        ("maintenance-window", {"weekly": "sat 22:00 - sat 22:00"}, "must not end"),
        ("maintenance-window", {"weekly": "sat 22:00 - sun 02:00", "from": "2026-01-01"}, "without from"),
    ],
)
def test_wrong_parameters_are_told(template: str, parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        render(template, parameters)


def test_the_other_templates_of_the_catalogue() -> None:
    public = engine(made("p", "cloud-only-for-public-data", teams=["research"]))
    assert "cloud::large" not in allowed(public)
    assert "cloud::large" in allowed(public, who=BOT)
    agents = engine(made("a", "agents-need-a-delegator", teams=["ops"]))
    assert allowed(agents, who=BOT) == set() and allowed(agents)
    assert agents.authorize(caller(BOT, ALICE), asks(), OFFERS).allowed


def test_policy_tests_name_times_and_tokens() -> None:
    world = from_document(
        {
            "tenants": [
                {
                    "name": "acme",
                    "teams": ["research"],
                    "principals": [{"name": "alice", "teams": ["research"]}],
                    "policies": [
                        {"id": "all", "template": "team-may-use-models", "parameters": {"team": "*", "models": "*"}},
                        {
                            "id": "w",
                            "template": "maintenance-window",
                            "parameters": {"weekly": "sat 22:00 - sun 02:00"},
                        },
                        {"id": "c", "template": "cost-ceiling-per-call", "parameters": {"usd": "0.1"}},
                    ],
                }
            ],
            "sources": [
                {"name": "s", "kind": "openai", "granted_to": "*", "labels": {"on_prem": False}, "models": ["m"]}
            ],
        }
    )
    text = """
cases:
  - {tenant: acme, as: alice, model: m, expect: deny, because: w, at: "2026-11-28T22:00"}
  - {tenant: acme, as: alice, model: m, expect: permit, at: "2026-11-28T21:59", prompt_tokens: 60}
  - {tenant: acme, as: alice, model: m, expect: deny, because: c, prompt_tokens: 61, completion_tokens: 40}
  - {tenant: acme, as: alice, model: m, expect: deny, because: w}
"""
    first, second, third, fourth = run(parse(text), world, (NOW - 60) * 1_000_000_000, priced)
    assert (first.passed, second.passed, third.passed, fourth.passed) == (True, True, True, False)
    for wrong in ("at: soon", "prompt_tokens: many"):
        with pytest.raises(ConfigError, match="line 2"):
            parse(f"cases:\n  - {{tenant: acme, as: alice, model: m, expect: deny, {wrong}}}\n")
