"""An explanation says what the engine decided, and what became of every rule."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings

from interlock.policy.explain import explain
from interlock.types.identity import DataClass
from tests.property.policy.test_authorize import Situation, situations
from tests.unit.policy.acme import (
    ALICE,
    BOT,
    CLOUD,
    EVERYTHING,
    FOREIGN,
    LOCAL,
    OFFERS,
    asks,
    caller,
    engine,
    made,
    offers_of,
    written,
)

RESEARCH = made("research", "team-may-use-models", team="research", models=["large"])
OPS = made("ops", "team-may-use-models", team="ops", models="*")
ON_PREM = made("on-prem", "data-class-stays-on-prem", data_class="confidential")
PINNED = written("pinned", 'permit (principal, action == Action::"store", resource in Source::"cloud");')


def test_every_rule_is_told() -> None:
    (found,) = explain(engine(RESEARCH, OPS, ON_PREM, PINNED), caller(ALICE), asks(), OFFERS[1:2])
    assert found.permitted
    (check,) = found.checks
    assert {rule.policy_id: rule.state for rule in check.rules} == {
        "base/data-class": "condition",
        "research": "applies",
        "ops": "other_principal",
        "on-prem": "condition",
        "pinned": "other_action",
    }
    assert check.rules[0].policy_id == "research"
    text = "\n".join(found.lines())
    assert 'PERMIT local::large: user "alice" may call local::large by research (team research may call large).' in text
    assert "> research (team research may call large) permits it." in text
    assert "on-prem (confidential data and above of everyone stays on the premises) does not apply" in text
    assert "context.data_class" in text


def test_a_denial_is_told_rule_by_rule() -> None:
    (found,) = explain(engine(EVERYTHING, ON_PREM), caller(ALICE), asks(DataClass.confidential), OFFERS[3:4])
    assert not found.permitted
    states = {rule.policy_id: (rule.effect, rule.state) for rule in found.checks[0].rules}
    assert states["base/data-class"] == states["on-prem"] == ("forbid", "applies")
    assert states["all"] == ("permit", "applies")
    assert found.lines()[0].startswith("DENY cloud::large: ")


def test_the_other_parts_of_a_scope() -> None:
    (found,) = explain(engine(PINNED), caller(ALICE), asks(actions=("store",)), OFFERS[:1])
    assert [check.action for check in found.checks] == ["infer", "store"]
    assert [next(r.state for r in c.rules if r.policy_id == "pinned") for c in found.checks] == [
        "other_action",
        "other_resource",
    ]


def test_an_error_is_told() -> None:
    broken = written(
        "sum", "permit (principal, action, resource) when { context.data_class * 9223372036854775807 > 1 };"
    )
    (found,) = explain(engine(EVERYTHING, broken), caller(ALICE), asks(DataClass.restricted), OFFERS[:1])
    rule = next(r for r in found.checks[0].rules if r.policy_id == "sum")
    assert (found.permitted, rule.state) == (False, "error")
    assert "overflow" in rule.words


def test_words_may_hold_anything() -> None:
    odd = written(
        "odd", 'permit (principal, action, resource) when { resource.region == "{x}" };', words="{braces} {0}"
    )
    (found,) = explain(engine(odd), caller(ALICE), asks(), OFFERS[:1])
    assert "{braces} {0}" in "\n".join(found.lines()) and '"{x}"' in "\n".join(found.lines())


def test_both_parties_of_a_delegation_are_explained() -> None:
    (found,) = explain(engine(OPS), caller(BOT, ALICE), asks(), OFFERS[:1])
    assert [(check.party, check.permitted) for check in found.checks] == [
        ('agent "bot"', True),
        ('user "alice"', False),
    ]


def test_grants_are_explained_and_other_tenants_are_not_shown() -> None:
    hidden = msgspec.structs.replace(CLOUD, granted_to=())
    told = explain(
        engine(EVERYTHING, sources=(LOCAL, hidden, FOREIGN)), caller(ALICE), asks(), offers_of(hidden, FOREIGN)
    )
    assert [(e.offer, e.reason.stage, e.checks) for e in told] == [("cloud::large", "grant", ())]


@given(situations())
@settings(max_examples=15, deadline=None)
def test_the_rules_told_agree_with_the_decision(case: Situation) -> None:
    """Permitted is: some permit applies and no forbid does, by what is told of the rules alone."""
    for found in explain(case.engine(), case.caller, case.features, case.offers()):
        for check in found.checks:
            applying = {rule.effect for rule in check.rules if rule.state == "applies"}
            assert check.permitted is (applying == {"permit"})
        if found.checks:
            assert found.permitted is all(check.permitted for check in found.checks)
