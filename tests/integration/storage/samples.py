"""Values to store, and who stores them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from interlock.storage import ids
from interlock.storage.aliases import AliasRow
from interlock.storage.bindings import RoleBinding
from interlock.storage.changes import Author
from interlock.storage.keys import KeyRow
from interlock.storage.policies import PolicyRow
from interlock.storage.sources import SourceRow
from interlock.types.identity import AdminRole, Issuer, LimitSet, Principal, PrincipalKind, Team, Tenant
from interlock.types.snapshot import AliasSlo, AliasTarget, AliasWeights, key_digest
from interlock.types.source import CredentialRef, Labels, Model, SourceKind

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BY = Author(actor_id="prn_root", actor="root", reason="testing", at=NOW, request_id="req_1")
_count = itertools.count(1)


def new_id(kind: str) -> str:
    """An id that was not used before."""
    return ids.make_id(kind, now_ms=next(_count), random=lambda n: bytes(n))


def tenant(name: str) -> Tenant:
    """A tenant of that name."""
    return Tenant(id=new_id("tenant"), name=name, time_zone="Europe/Berlin")


def team(tenant_id: str, name: str = "research") -> Team:
    """A team with a limit."""
    limits = LimitSet(requests_per_minute=60)
    return Team(id=new_id("team"), tenant_id=tenant_id, name=name, cost_center="4711", limits=limits)


def principal(tenant_id: str, name: str = "alice", teams: tuple[str, ...] = ()) -> Principal:
    """An agent in those teams."""
    return Principal(
        id=new_id("principal"),
        tenant_id=tenant_id,
        kind=PrincipalKind.agent,
        name=name,
        team_ids=teams,
        may_act_for=("*",),
    )


def key(owner: Principal, name: str = "laptop") -> tuple[KeyRow, bytes]:
    """A key of a principal, and its digest."""
    row = KeyRow(
        id=new_id("key"),
        tenant_id=owner.tenant_id,
        principal_id=owner.id,
        name=name,
        prefix="il_test_abcd",
        limits=LimitSet(concurrency=2),
    )
    return row, key_digest(b"pepper", row.id.encode())


def policy(tenant_id: str, name: str = "all-may-chat") -> PolicyRow:
    """A policy."""
    return PolicyRow(
        id=new_id("policy"),
        name=name,
        tenant_id=tenant_id,
        cedar="permit (principal, action, resource);",
        words="Everyone may do everything.",
        template="team-may-use-models",
        parameters={"team": "research", "models": ["*"]},
    )


def source(tenant_id: str, name: str) -> SourceRow:
    """A source with a model, a credential and labels."""
    return SourceRow(
        id=new_id("source"),
        name=name,
        kind=SourceKind.vllm,
        base_url="http://10.0.0.1:8000",
        tenant_id=tenant_id,
        labels=Labels(region="eu", extra={"rack": "7"}),
        credential=CredentialRef(env="VLLM_KEY"),
        models=(Model(name="qwen", context_length=32_768),),
        pins=({"name": "qwen", "quality_milli": 800},),
    )


def alias(tenant_id: str, name: str = "fast") -> AliasRow:
    """An alias with two targets."""
    return AliasRow(
        id=new_id("alias"),
        name=name,
        tenant_id=tenant_id,
        targets=(AliasTarget(model="qwen", weight=9), AliasTarget(model="smollm2", source="local")),
        slo=AliasSlo(ttft_ms=500, cost_nusd=0, strict=True),
        weights=AliasWeights(quality=6, cost=1),
    )


def issuer(tenant_id: str, url: str = "https://id.example.org") -> Issuer:
    """A JWT issuer."""
    return Issuer(
        id=new_id("issuer"),
        tenant_id=tenant_id,
        issuer=url,
        audience="interlock",
        jwks_url=f"{url}/jwks",
        group_teams={"researchers": "team_1"},
        group_roles={"researchers": AdminRole.viewer},
    )


def binding(tenant_id: str, owner: Principal) -> RoleBinding:
    """An administrative role."""
    return RoleBinding(id=new_id("binding"), tenant_id=tenant_id, principal_id=owner.id, role=AdminRole.admin)
