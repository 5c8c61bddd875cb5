"""A small company to decide things for: one tenant, two teams, an on-premises source and a cloud one."""

from __future__ import annotations

from interlock.policy.engine import PolicyEngine
from interlock.policy.templates import render
from interlock.types.identity import Caller, DataClass, Principal, PrincipalKind, Team, Tenant
from interlock.types.request import Features
from interlock.types.snapshot import PolicyText
from interlock.types.source import Labels, Model, Offer, Source, SourceKind

ACME = Tenant("ten_acme", "acme")
OTHER = Tenant("ten_other", "other")
RESEARCH = Team("team_research", ACME.id, "research")
OPS = Team("team_ops", ACME.id, "ops")
LOCAL = Source(
    id="src_local",
    name="local",
    kind=SourceKind.vllm,
    base_url="http://127.0.0.1:1",
    tenant_id=ACME.id,
    labels=Labels(region="eu", on_prem=True, extra={"zone": "a"}),
    models=(Model("small"), Model("large"), Model("embed", abilities=("embeddings",))),
)
CLOUD = Source(
    id="src_cloud",
    name="cloud",
    kind=SourceKind.openai,
    base_url="https://cloud.example",
    granted_to=("*",),
    labels=Labels(region="us", on_prem=False, data_class_max=DataClass.internal),
    models=(Model("large"),),
)
FOREIGN = Source(
    id="src_foreign",
    name="foreign",
    kind=SourceKind.vllm,
    base_url="http://127.0.0.1:2",
    tenant_id=OTHER.id,
    models=(Model("large"),),
)


def offers_of(*sources: Source) -> tuple[Offer, ...]:
    return tuple(Offer(s, m, f"{s.name}::{m.name}") for s in sources for m in s.models)


OFFERS = offers_of(LOCAL, CLOUD, FOREIGN)
ALL_KEYS = ("local::small", "local::large", "local::embed", "cloud::large")


def person(name: str, *teams: Team, kind: PrincipalKind = PrincipalKind.user, tenant: Tenant = ACME) -> Principal:
    return Principal(f"prn_{name}", tenant.id, kind, name, tuple(team.id for team in teams))


ALICE = person("alice", RESEARCH)
BOB = person("bob", OPS)
BOT = person("bot", OPS, kind=PrincipalKind.agent)


def caller(principal: Principal, delegator: Principal | None = None) -> Caller:
    return Caller(principal, "api_key", "key_1", ("infer",), DataClass.internal, delegator=delegator)


def asks(
    data_class: DataClass = DataClass.internal, actions: tuple[str, ...] = (), operation: str = "chat"
) -> Features:
    return Features(operation=operation, asked="large", data_class=data_class, actions=actions)


def written(policy_id: str, cedar: str, tenant: Tenant | None = None, words: str = "") -> PolicyText:
    return PolicyText(policy_id, cedar, tenant.id if tenant else "", words)


def made(policy_id: str, template: str, tenant: Tenant | None = None, **parameters: object) -> PolicyText:
    cedar, words = render(template, parameters, policy_id=policy_id)
    return PolicyText(policy_id, cedar, tenant.id if tenant else "", words)


EVERYTHING = written("all", "permit (principal, action, resource);")


def engine(*policies: PolicyText, sources: tuple[Source, ...] = (LOCAL, CLOUD, FOREIGN)) -> PolicyEngine:
    return PolicyEngine(policies, (ACME, OTHER), (RESEARCH, OPS), sources, 1024)
