"""For any policies, callers and sources: what is allowed is exactly what some permit permits and no forbid forbids.

The expectation comes from a small evaluator of its own, over a restricted grammar of policies; it shares nothing with
the engine but the types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.policy import slices
from interlock.policy.engine import PolicyEngine
from interlock.policy.schema import validate
from interlock.types.identity import Caller, DataClass, Principal, PrincipalKind, Team, Tenant
from interlock.types.request import Features
from interlock.types.snapshot import PolicyText
from interlock.types.source import Labels, Model, Offer, Source, SourceKind

TENANTS = (Tenant("ten_a", "a"), Tenant("ten_b", "b"))
TEAMS = tuple(Team(f"team_{t.name}_{n}", t.id, n) for t in TENANTS for n in ("red", "blue"))
KINDS = {"User": PrincipalKind.user, "Agent": PrincipalKind.agent}
ACTIONS = ("infer", "use_images", "store")


@dataclasses.dataclass(frozen=True)
class Call:
    """What one policy looks at: one party, one action, one offer."""

    party: Principal
    delegated: bool
    action: str
    offer: Offer
    features: Features

    @property
    def team_names(self) -> set[str]:
        return {team.name for team in TEAMS if team.id in self.party.team_ids}

    @property
    def tenant_name(self) -> str:
        return next(t.name for t in TENANTS if t.id == self.party.tenant_id)


Test = Callable[[Call], bool]
Piece = tuple[str, Test]
"""Cedar text, and the same meaning in Python."""


def _pieces(*pieces: Piece) -> st.SearchStrategy[Piece]:
    return st.sampled_from(pieces)


PRINCIPALS = _pieces(
    ("principal", lambda c: True),
    ('principal == User::"ann"', lambda c: c.party.kind == "user" and c.party.name == "ann"),
    ('principal == Agent::"ann"', lambda c: c.party.kind == "agent" and c.party.name == "ann"),
    ('principal in Team::"red"', lambda c: "red" in c.team_names),
    ('principal in Team::"blue"', lambda c: "blue" in c.team_names),
    ('principal in Tenant::"a"', lambda c: c.tenant_name == "a"),
    ("principal is Agent", lambda c: c.party.kind == "agent"),
    ('principal is User in Team::"red"', lambda c: c.party.kind == "user" and "red" in c.team_names),
)
VERBS = _pieces(
    ("action", lambda c: True),
    ('action == Action::"infer"', lambda c: c.action == "infer"),
    ('action in [Action::"infer", Action::"store"]', lambda c: c.action in ("infer", "store")),
    ('action == Action::"use_images"', lambda c: c.action == "use_images"),
)
RESOURCES = _pieces(
    ("resource", lambda c: True),
    ('resource in Model::"m0"', lambda c: c.offer.model.name == "m0"),
    ('resource in Source::"s0"', lambda c: c.offer.source.name == "s0"),
    ('resource == Offer::"s1::m1"', lambda c: (c.offer.source.name, c.offer.model.name) == ("s1", "m1")),
    ("resource is Offer", lambda c: True),
)
CONDITIONS = _pieces(
    ("context.data_class >= 1", lambda c: c.features.data_class >= 1),
    ("context.data_class > 2", lambda c: c.features.data_class > 2),
    ("context.delegated", lambda c: c.delegated),
    ('context.operation == "embeddings"', lambda c: c.features.operation == "embeddings"),
    ("resource.on_prem", lambda c: c.offer.source.labels.on_prem),
    ('["eu", "de"].contains(resource.region)', lambda c: c.offer.source.labels.region in ("eu", "de")),
    ('resource.model like "m*"', lambda c: c.offer.model.name.startswith("m")),
    ('principal.name == "ann"', lambda c: c.party.name == "ann"),
)
CLAUSES = st.lists(st.tuples(st.sampled_from(["when", "unless"]), CONDITIONS), max_size=2)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One generated policy: its text, and what it means."""

    effect: str
    tenant_id: str
    scopes: tuple[Piece, ...]
    clauses: tuple[tuple[str, Piece], ...]

    def cedar(self) -> str:
        clauses = "".join(f" {kind} {{ {text} }}" for kind, (text, _) in self.clauses)
        return f"{self.effect} ({', '.join(text for text, _ in self.scopes)}){clauses};"

    def matches(self, call: Call) -> bool:
        return (
            self.tenant_id in ("", call.party.tenant_id)
            and all(test(call) for _, test in self.scopes)
            and all(test(call) is (kind == "when") for kind, (_, test) in self.clauses)
        )


RULES = st.builds(
    lambda effect, tenant, p, a, r, clauses: Rule(effect, tenant, (p, a, r), tuple(clauses)),
    st.sampled_from(["permit", "permit", "forbid"]),
    st.sampled_from(["", "", "ten_a", "ten_b"]),
    PRINCIPALS,
    VERBS,
    RESOURCES,
    CLAUSES,
)


@st.composite
def _principals(draw: st.DrawFn, tenant: str) -> Principal:
    kind = draw(st.sampled_from(list(KINDS.values())))
    name = draw(st.sampled_from(["ann", "ben"]))
    teams = draw(st.sets(st.sampled_from([t.id for t in TEAMS if t.tenant_id == tenant])))
    return Principal(f"prn_{name}", tenant, kind, name, tuple(sorted(teams)))


@st.composite
def _sources(draw: st.DrawFn, number: int) -> Source:
    owner = draw(st.sampled_from(["", "", "ten_a", "ten_b"]))
    return Source(
        id=f"src_{number}",
        name=f"s{number}",
        kind=SourceKind.vllm,
        base_url="http://127.0.0.1:1",
        tenant_id=owner,
        granted_to=draw(st.sampled_from([(), ("*",), ("ten_a",), ("ten_b", "ten_a")])),
        labels=Labels(
            region=draw(st.sampled_from(["", "eu", "us"])),
            on_prem=draw(st.booleans()),
            data_class_max=draw(st.sampled_from(list(DataClass))),
        ),
        models=tuple(Model(m) for m in draw(st.sampled_from([("m0",), ("m0", "m1"), ("m1", "x")]))),
    )


@dataclasses.dataclass(frozen=True)
class Situation:
    """Everything of one decision."""

    rules: tuple[Rule, ...]
    sources: tuple[Source, ...]
    caller: Caller
    features: Features

    def policies(self) -> tuple[PolicyText, ...]:
        return tuple(PolicyText(f"r{i}", rule.cedar(), rule.tenant_id) for i, rule in enumerate(self.rules))

    def engine(self) -> PolicyEngine:
        return PolicyEngine(self.policies(), TENANTS, TEAMS, self.sources, 64)

    def offers(self) -> tuple[Offer, ...]:
        return tuple(Offer(s, m, f"{s.name}::{m.name}") for s in self.sources for m in s.models)

    def expected(self) -> tuple[str, ...]:
        return tuple(offer.key for offer in self.offers() if self._may(offer))

    def _may(self, offer: Offer) -> bool:
        tenant = self.caller.principal.tenant_id
        source = offer.source
        if source.tenant_id:
            if source.tenant_id != tenant:
                return False
        elif tenant not in source.granted_to and "*" not in source.granted_to:
            return False
        if self.features.data_class > source.labels.data_class_max:
            return False
        parties = [self.caller.principal, *([self.caller.delegator] if self.caller.delegator else [])]
        calls = [
            Call(party, self.caller.delegator is not None, action, offer, self.features)
            for party in parties
            for action in ("infer", *self.features.actions)
        ]
        return all(
            any(rule.effect == "permit" and rule.matches(call) for rule in self.rules)
            and not any(rule.effect == "forbid" and rule.matches(call) for rule in self.rules)
            for call in calls
        )


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    tenant = draw(st.sampled_from([t.id for t in TENANTS]))
    data_class = draw(st.sampled_from(list(DataClass)))
    caller = Caller(
        draw(_principals(tenant)),
        "jwt",
        "key",
        ("infer",),
        data_class,
        delegator=draw(st.none() | _principals(tenant)),
    )
    features = Features(
        operation=draw(st.sampled_from(["chat", "embeddings"])),
        asked="m0",
        data_class=data_class,
        actions=draw(st.sampled_from([(), (), ("use_images",), ("store", "use_images")])),
    )
    count = draw(st.integers(1, 3))
    sources = tuple(draw(_sources(i)) for i in range(count))
    return Situation(tuple(draw(st.lists(RULES, max_size=6))), sources, caller, features)


@given(situations())
@settings(max_examples=120, deadline=None)
def test_allowed_is_exactly_what_the_policies_say(case: Situation) -> None:
    assert all(validate(p.cedar) == [] for p in case.policies())
    found = case.engine().authorize(case.caller, case.features, case.offers())
    assert found.allowed == case.expected()
    visible = {o.key for o in case.offers() if o.source.tenant_id in ("", case.caller.principal.tenant_id)}
    assert {r.offer for r in found.permits} == set(found.allowed)
    assert {r.offer for r in found.denials} == visible - set(found.allowed)


@given(situations(), st.lists(st.tuples(st.booleans(), st.sampled_from(list(DataClass))), max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_remembered_never_differs_from_what_is_decided(
    case: Situation, before: list[tuple[bool, DataClass]]
) -> None:
    """An engine with a history of other questions answers as one without any."""
    engine, offers = case.engine(), case.offers()
    for whole, data_class in before:
        asked = Features("chat", "m0", data_class)
        engine.authorize(case.caller, asked, offers if whole else offers[:1])
        engine.may_list(case.caller, offers[0])
    fresh = case.engine().authorize(case.caller, case.features, offers)
    assert engine.authorize(case.caller, case.features, offers) == fresh
    assert engine.authorize(case.caller, case.features, offers) == fresh
    assert engine.authorize(case.caller, case.features, tuple(reversed(offers))).allowed == fresh.allowed[::-1]


@given(situations())
@settings(max_examples=60, deadline=None)
def test_a_slice_loses_no_policy_that_could_matter(case: Situation) -> None:
    """Every rule of the tenant that matches the caller's scope by the small evaluator is in the caller's slice."""
    party = case.caller.principal
    rules = [r for p in case.policies() if p.tenant_id in ("", party.tenant_id) for r in slices.parse(p)]
    index = slices.RuleIndex(rules)
    names = [team.name for team in TEAMS if team.id in party.team_ids]
    tenant = next(t.name for t in TENANTS if t.id == party.tenant_id)
    own = ("User" if party.kind is PrincipalKind.user else "Agent", party.name)
    kept = {rules[i].policy.id for i in index.concerning(own, [("Tenant", tenant), *(("Team", n) for n in names)])}
    call = Call(party, False, "infer", case.offers()[0], case.features)
    for i, rule in enumerate(case.rules):
        if rule.tenant_id in ("", party.tenant_id):
            assert (f"r{i}" in kept) is rule.scopes[0][1](call)
