"""The decision: deny by default, a forbid wins, grants come first, what cannot be decided is denied."""

from __future__ import annotations

import msgspec
import pytest

from interlock.errors import ConfigError
from interlock.policy.engine import PolicyEngine
from interlock.types.decision import Authorization
from interlock.types.identity import DataClass, Principal, PrincipalKind, Team, Tenant
from interlock.types.request import Features
from interlock.types.source import Labels, Model, Source
from tests.unit.policy.acme import (
    ACME,
    ALICE,
    ALL_KEYS,
    BOB,
    BOT,
    CLOUD,
    EVERYTHING,
    FOREIGN,
    LOCAL,
    OFFERS,
    OPS,
    OTHER,
    RESEARCH,
    asks,
    caller,
    engine,
    made,
    offers_of,
    person,
    written,
)

RESEARCH_MAY = made("research-large", "team-may-use-models", team="research", models=["large"])


def codes(authorization: Authorization) -> dict[str, str]:
    return {reason.offer: reason.code for reason in authorization.denials}


def test_without_a_policy_nothing_is_allowed() -> None:
    found = engine().authorize(caller(ALICE), asks(), OFFERS)
    assert found.allowed == ()
    assert codes(found) == dict.fromkeys(ALL_KEYS, "no_permit")


def test_a_permit_names_its_policy_and_says_why() -> None:
    found = engine(RESEARCH_MAY).authorize(caller(ALICE), asks(), OFFERS)
    assert found.allowed == ("local::large", "cloud::large")
    assert found.permits[0].policy_ids == ("research-large",)
    assert found.permits[0].words == (
        'user "alice" may call local::large by research-large (team research may call large)'
    )
    assert codes(found) == {"local::small": "no_permit", "local::embed": "no_permit"}


def test_a_forbid_wins_whatever_permits() -> None:
    no_cloud = written("no-cloud", 'forbid (principal, action, resource in Source::"cloud");', words="not to the cloud")
    found = engine(RESEARCH_MAY, EVERYTHING, no_cloud).authorize(caller(ALICE), asks(), OFFERS)
    assert found.allowed == ("local::small", "local::large", "local::embed")
    (denial,) = found.denials
    assert (denial.code, denial.policy_ids) == ("forbidden", ("no-cloud",))
    assert denial.words == 'user "alice" may not call cloud::large: forbidden by no-cloud (not to the cloud)'


def test_a_source_never_sees_data_above_its_class() -> None:
    found = engine(EVERYTHING).authorize(caller(ALICE), asks(DataClass.confidential), OFFERS)
    assert found.allowed == ("local::small", "local::large", "local::embed")
    assert found.denials[0].policy_ids == ("base/data-class",)
    assert engine(EVERYTHING).authorize(caller(ALICE), asks(), OFFERS).allowed == ALL_KEYS


def test_every_action_of_the_request_must_be_permitted() -> None:
    both = written("p", 'permit (principal, action in [Action::"infer", Action::"store"], resource);')
    decide = engine(both).authorize
    assert len(decide(caller(ALICE), asks(actions=("store",)), OFFERS).allowed) == 4
    denied = decide(caller(ALICE), asks(actions=("store", "use_images")), OFFERS)
    assert denied.allowed == ()
    assert "may not send images to local::small" in denied.denials[0].words


def test_an_unknown_action_is_denied() -> None:
    found = engine(EVERYTHING).authorize(caller(ALICE), asks(actions=("fly",)), OFFERS)
    assert (found.allowed, codes(found)["local::small"]) == ((), "unknown_action")


def test_the_operation_can_be_asked_about() -> None:
    policy = written("p", 'permit (principal, action, resource) when { context.operation == "embeddings" };')
    decide = engine(policy)
    assert decide.authorize(caller(ALICE), asks(), OFFERS).allowed == ()
    assert len(decide.authorize(caller(ALICE), asks(operation="embeddings"), OFFERS).allowed) == 4
    embed, small = OFFERS[2], OFFERS[0]
    assert decide.may_list(caller(ALICE), embed)
    assert not decide.may_list(caller(ALICE), small)


# -- grants


def test_a_source_of_another_tenant_is_passed_over_in_silence() -> None:
    found = engine(EVERYTHING).authorize(caller(ALICE), asks(), offers_of(FOREIGN))
    assert found == Authorization(allowed=())
    assert not engine(EVERYTHING).may_list(caller(ALICE), offers_of(FOREIGN)[0])
    alien = caller(person("zoe", tenant=OTHER))
    assert engine(EVERYTHING).authorize(alien, asks(), OFFERS).allowed == ("cloud::large", "foreign::large")


def test_a_platform_source_needs_a_grant() -> None:
    for granted, allowed in (((), 0), (("ten_other",), 0), (("ten_acme",), 1), (("*",), 1)):
        source = msgspec.structs.replace(CLOUD, granted_to=granted)
        found = engine(EVERYTHING, sources=(source,)).authorize(caller(ALICE), asks(), offers_of(source))
        assert len(found.allowed) == allowed
        if not allowed:
            assert [(d.stage, d.code) for d in found.denials] == [("grant", "source_not_granted")]


def test_two_visible_sources_of_one_name_are_both_denied() -> None:
    twin = msgspec.structs.replace(CLOUD, name="local")
    found = engine(EVERYTHING, sources=(LOCAL, twin)).authorize(caller(ALICE), asks(), offers_of(LOCAL, twin))
    assert found.allowed == ()
    assert set(codes(found).values()) == {"source_name_ambiguous"}


def test_a_foreign_source_of_the_same_name_changes_nothing() -> None:
    twin = msgspec.structs.replace(FOREIGN, name="local", models=LOCAL.models)
    ruling = engine(EVERYTHING, sources=(twin, LOCAL)).rule(caller(ALICE), asks(), offers_of(twin, LOCAL))
    assert ruling.authorization.allowed == ALL_KEYS[:3]
    assert all(offer.source is LOCAL for offer in ruling.offers)


def test_an_offer_that_the_policies_do_not_know_is_denied() -> None:
    moved = msgspec.structs.replace(LOCAL, labels=Labels(on_prem=False))
    grown = offers_of(msgspec.structs.replace(LOCAL, models=(Model("new"),)))
    for offers in (offers_of(moved), grown):
        found = engine(EVERYTHING).authorize(caller(ALICE), asks(), offers)
        assert found.allowed == ()
        assert set(codes(found).values()) == {"unknown_offer"}


# -- who asks


def test_policies_of_one_tenant_do_not_reach_another() -> None:
    theirs = written("theirs", "permit (principal, action, resource);", OTHER)
    assert engine(theirs).authorize(caller(ALICE), asks(), OFFERS).allowed == ()
    assert engine(theirs).authorize(caller(person("zoe", tenant=OTHER)), asks(), OFFERS).allowed


def test_a_team_of_the_same_name_in_another_tenant_is_another_team() -> None:
    zoe = Principal("prn_zoe", OTHER.id, PrincipalKind.user, "zoe", ("team_theirs",))
    mine = made("p", "team-may-use-models", ACME, team="research", models="*")
    teams = (RESEARCH, OPS, Team("team_theirs", OTHER.id, "research"))
    decide = PolicyEngine((mine,), (ACME, OTHER), teams, (LOCAL, CLOUD, FOREIGN), 64)
    assert decide.authorize(caller(zoe), asks(), OFFERS).allowed == ()


@pytest.mark.parametrize(
    ("scope", "who", "allowed"),
    [
        ('principal == User::"alice"', ALICE, True),
        ('principal == User::"alice"', BOB, False),
        ('principal == Service::"alice"', ALICE, False),
        ('principal in Team::"research"', ALICE, True),
        ('principal in Team::"research"', BOB, False),
        ('principal == Team::"research"', ALICE, False),
        ('principal in Tenant::"acme"', BOB, True),
        ('principal in Tenant::"other"', BOB, False),
        ("principal is User", ALICE, True),
        ("principal is User", BOT, False),
        ('principal is Agent in Team::"ops"', BOT, True),
        ('principal is Agent in Team::"ops"', BOB, False),
        ('principal in User::"alice"', ALICE, True),
        ("principal", BOT, True),
    ],
)
def test_scopes(scope: str, who: Principal, allowed: bool) -> None:
    found = engine(written("p", f"permit ({scope}, action, resource);")).authorize(caller(who), asks(), OFFERS)
    assert bool(found.allowed) is allowed


def test_a_team_that_does_not_exist_denies() -> None:
    lost = Principal("prn_1", ACME.id, PrincipalKind.user, "lost", ("team_gone", RESEARCH.id))
    found = engine(EVERYTHING).authorize(caller(lost), asks(), OFFERS)
    assert (found.allowed, set(codes(found).values())) == ((), {"unknown_team"})


def test_deactivated_and_unknown_are_denied() -> None:
    off = msgspec.structs.replace(ALICE, active=False)
    assert set(codes(engine(EVERYTHING).authorize(caller(off), asks(), OFFERS)).values()) == {"principal_inactive"}
    closed = Tenant(ACME.id, ACME.name, active=False)
    for tenants, code in (((closed,), "tenant_inactive"), ((), "unknown_tenant")):
        found = PolicyEngine((EVERYTHING,), tenants, (RESEARCH,), (LOCAL,), 64).authorize(caller(ALICE), asks(), OFFERS)
        assert found.allowed == ()
        assert set(codes(found).values()) == {code}


def test_names_are_data() -> None:
    name = 'x" || true || "\n\u202e'
    team = Team("team_odd", ACME.id, name)
    odd = Principal("prn_odd", ACME.id, PrincipalKind.user, name, (team.id,))
    decide = PolicyEngine((RESEARCH_MAY,), (ACME,), (team, RESEARCH), (LOCAL,), 64)
    assert decide.authorize(caller(odd), asks(), offers_of(LOCAL)).allowed == ()
    assert (
        PolicyEngine((EVERYTHING,), (ACME,), (team,), (LOCAL,), 64)
        .authorize(caller(odd), asks(), offers_of(LOCAL))
        .allowed
    )


# -- delegation


def test_agent_and_delegator_must_both_be_permitted() -> None:
    agents = made("agents", "team-may-use-models", team="ops", models=["large", "small"])
    decide = engine(RESEARCH_MAY, agents).authorize
    assert decide(caller(BOT, ALICE), asks(), OFFERS).allowed == ("local::large", "cloud::large")
    assert set(decide(caller(BOT), asks(), OFFERS).allowed) == {"local::large", "local::small", "cloud::large"}
    denied = decide(caller(BOT, BOB), asks(), OFFERS)
    assert denied.allowed == decide(caller(BOT), asks(), OFFERS).allowed
    both = decide(caller(BOT, ALICE), asks(), OFFERS)
    assert both.permits[0].policy_ids == ("agents", "research-large")
    assert 'agent "bot" may call' in both.permits[0].words and 'user "alice" may call' in both.permits[0].words
    small = next(d for d in both.denials if d.offer == "local::small")
    assert small.words == 'user "alice" may not call local::small: no policy permits it'


def test_delegation_can_be_required() -> None:
    need = written("need", "forbid (principal is Agent, action, resource) unless { context.delegated };")
    decide = engine(EVERYTHING, need).authorize
    assert decide(caller(BOT), asks(), OFFERS).allowed == ()
    assert decide(caller(BOT, ALICE), asks(), OFFERS).allowed == ALL_KEYS
    assert decide(caller(ALICE), asks(), OFFERS).allowed == ALL_KEYS


def test_nobody_acts_for_another_tenants_user() -> None:
    found = engine(EVERYTHING).authorize(caller(BOT, person("zoe", tenant=OTHER)), asks(), OFFERS)
    assert set(codes(found).values()) == {"delegation_across_tenants"}
    off = msgspec.structs.replace(ALICE, active=False)
    assert engine(EVERYTHING).authorize(caller(BOT, off), asks(), OFFERS).allowed == ()


# -- errors deny


def test_a_policy_that_cannot_be_evaluated_denies() -> None:
    """Cedar alone would skip the forbid and permit."""
    broken = written(
        "overflow", "forbid (principal, action, resource) when { context.data_class + 9223372036854775807 > 5 };"
    )
    found = engine(EVERYTHING, broken).authorize(caller(ALICE), asks(), OFFERS)
    assert found.allowed == ()
    assert set(codes(found).values()) == {"policy_error"}
    assert found.denials[0].policy_ids == ("overflow",)
    assert "overflow" in found.denials[0].words and "policy2" not in found.denials[0].words


@pytest.mark.parametrize(
    "cedar", ["permit (principal, action);", "permit (principal == ?principal, action, resource);"]
)
def test_a_stored_policy_that_is_not_cedar_denies_its_tenant_and_no_other(cedar: str) -> None:
    decide = engine(EVERYTHING, written("bad", cedar, ACME))
    found = decide.authorize(caller(ALICE), asks(), OFFERS)
    assert set(codes(found).values()) == {"policy_error"}
    assert "policy bad" in found.denials[0].words
    assert decide.authorize(caller(person("zoe", tenant=OTHER)), asks(), OFFERS).allowed
    with pytest.raises(ConfigError, match="policy bad"):
        decide.check()


def test_a_policy_of_several_statements_has_one_name() -> None:
    two = written(
        "two",
        'permit (principal, action, resource in Model::"small");\n'
        'forbid (principal, action, resource) when { resource.region == "us" };',
    )
    found = engine(two, RESEARCH_MAY).authorize(caller(ALICE), asks(), OFFERS)
    assert found.allowed == ("local::small", "local::large")
    assert next(d for d in found.denials if d.offer == "cloud::large").policy_ids == ("two",)


def test_many_policies_keep_their_names() -> None:
    policies = [
        written(f"p{i}", f'permit (principal, action, resource) when {{ resource.model == "m{i}" }};')
        for i in range(40)
    ]
    source = msgspec.structs.replace(LOCAL, models=tuple(Model(f"m{i}") for i in range(40)))
    found = engine(*policies, sources=(source,)).authorize(caller(ALICE), asks(), offers_of(source))
    assert [reason.policy_ids for reason in found.permits] == [(f"p{i}",) for i in range(40)]


# -- what is remembered


def test_a_repeated_question_is_answered_from_memory() -> None:
    decide = engine(RESEARCH_MAY)
    features, who = asks(), caller(ALICE)
    first = decide.authorize(who, features, OFFERS)
    assert decide.authorize(who, features, OFFERS) is first
    assert decide.authorize(caller(ALICE), asks(), OFFERS) is first
    assert decide.decided == 1


def test_a_principal_that_changed_is_decided_again() -> None:
    decide = engine(RESEARCH_MAY)
    assert decide.authorize(caller(ALICE), asks(), OFFERS).allowed
    moved = msgspec.structs.replace(ALICE, team_ids=(OPS.id,))
    assert decide.authorize(caller(moved), asks(), OFFERS).allowed == ()
    off = msgspec.structs.replace(ALICE, active=False)
    assert decide.authorize(caller(off), asks(), OFFERS).allowed == ()


def test_a_list_of_offers_may_change_between_calls() -> None:
    decide = engine(EVERYTHING)
    offers = list(OFFERS[:1])
    assert len(decide.authorize(caller(ALICE), asks(), offers).allowed) == 1
    offers.append(OFFERS[1])
    assert len(decide.authorize(caller(ALICE), asks(), offers).allowed) == 2


def test_memory_is_bounded() -> None:
    decide = PolicyEngine((EVERYTHING,), (ACME,), (RESEARCH,), (LOCAL,), 64)
    for i in range(200):
        decide.authorize(caller(person(f"u{i}")), asks(), OFFERS[:2])
    assert len(decide._rulings) <= 64
    assert len(decide._outcomes) <= 64


def test_the_version_changes_with_what_decisions_depend_on() -> None:
    base = engine(EVERYTHING).version
    assert engine(EVERYTHING).version == base
    other = (
        engine(),
        engine(EVERYTHING, RESEARCH_MAY),
        engine(EVERYTHING, sources=(LOCAL,)),
        PolicyEngine((EVERYTHING,), (ACME,), (RESEARCH, OPS), (LOCAL, CLOUD, FOREIGN)),
        PolicyEngine((EVERYTHING,), (ACME, OTHER), (RESEARCH,), (LOCAL, CLOUD, FOREIGN)),
    )
    assert len({base, *(e.version for e in other)}) == len(other) + 1


def test_tags_of_a_source_can_be_asked_about() -> None:
    policy = written(
        "z", 'permit (principal, action, resource) when { resource.hasTag("zone") && resource.getTag("zone") == "a" };'
    )
    assert engine(policy).authorize(caller(ALICE), asks(), OFFERS).allowed == ALL_KEYS[:3]


def test_a_model_listed_twice_by_a_source_is_one_offer() -> None:
    twice = Source("src_1", "s", LOCAL.kind, "http://x", tenant_id=ACME.id, models=(Model("m"), Model("m")))
    found = engine(EVERYTHING, sources=(twice,)).authorize(caller(ALICE), asks(), offers_of(twice)[:1])
    assert found.allowed == ("s::m",)


def test_listing_needs_no_more_than_a_public_call() -> None:
    decide = engine(RESEARCH_MAY)
    local_small, local_large = OFFERS[0], OFFERS[1]
    assert decide.may_list(caller(ALICE), local_large)
    assert not decide.may_list(caller(ALICE), local_small)
    assert not decide.may_list(caller(BOB), local_large)
    restricted = Features("chat", "large", DataClass.restricted)
    assert "cloud::large" not in decide.authorize(caller(ALICE), restricted, OFFERS).allowed
    assert decide.may_list(caller(ALICE), OFFERS[3])


def test_what_an_engine_keeps_is_bounded_and_forgetting_changes_nothing() -> None:
    tenants = [msgspec.structs.replace(ACME, id=f"ten_{n}", name=f"t{n}") for n in range(9)]
    people = [msgspec.structs.replace(ALICE, id=f"prn_{t.id}", tenant_id=t.id, team_ids=()) for t in tenants]
    small = PolicyEngine((EVERYTHING,), tenants, (), (LOCAL,), 16, tenants_max=2, callers_max=2)
    large = PolicyEngine((EVERYTHING,), tenants, (), (LOCAL,), 4096, tenants_max=64, callers_max=64)
    for someone in [*people, *people]:
        given = caller(someone), asks(), OFFERS
        assert small.authorize(*given) == large.authorize(*given)
    assert len(small._slices) <= 2 and len(small._askers) <= 2
    assert len(large._slices) == len(large._askers) == len(tenants)
