"""Tenants, teams, sources and callers in Cedar's terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from interlock.types.identity import Principal, Team, Tenant
from interlock.types.source import Source

PRINCIPAL_TYPES: Mapping[str, str] = {"user": "User", "service": "Service", "agent": "Agent"}
"""Cedar entity type by principal kind."""


class Uid(TypedDict):
    """An entity reference in Cedar's JSON form. It takes any id, unlike the quoted surface form."""

    type: str
    id: str


class Entity(TypedDict, total=False):
    """An entity in Cedar's JSON form."""

    uid: Uid
    attrs: dict[str, str | int | bool]
    parents: list[Uid]
    tags: dict[str, str]


def uid(kind: str, name: str) -> Uid:
    """The reference of an entity, e.g. `uid("Team", "research")`."""
    return {"type": kind, "id": name}


def principal_uid(principal: Principal) -> Uid:
    """The reference of a caller: its kind and name."""
    return uid(PRINCIPAL_TYPES[principal.kind], principal.name)


def offer_key(source: str, model: str) -> str:
    """The id of an offer: `source::model`."""
    return f"{source}::{model}"


def tenant_entities(tenant: Tenant, teams: Iterable[Team], sources: Iterable[Source]) -> list[Entity]:
    """What every caller of a tenant shares: the tenant, its teams, and the models and sources it can see."""
    found: list[Entity] = [{"uid": uid("Tenant", tenant.name), "attrs": {"name": tenant.name}, "parents": []}]
    for team in teams:
        parent = uid("Tenant", tenant.name)
        found.append({"uid": uid("Team", team.name), "attrs": {"name": team.name}, "parents": [parent]})
    models: dict[str, None] = {}
    for source in sources:
        facts: dict[str, str | int | bool] = {
            "kind": str(source.kind.value),
            "region": source.labels.region,
            "on_prem": source.labels.on_prem,
            "data_class_max": int(source.labels.data_class_max),
        }
        found.append({"uid": uid("Source", source.name), "attrs": {"name": source.name, **facts}, "parents": []})
        for model in {m.name: m for m in source.models}.values():
            models[model.name] = None
            found.append(
                {
                    "uid": uid("Offer", offer_key(source.name, model.name)),
                    "attrs": {**facts, "model": model.name, "source": source.name},
                    "parents": [uid("Model", model.name), uid("Source", source.name)],
                    "tags": dict(source.labels.extra),
                }
            )
    found += [{"uid": uid("Model", name), "attrs": {"name": name}, "parents": []} for name in models]
    return found


def principal_entity(principal: Principal, tenant: Tenant, team_names: Iterable[str]) -> Entity:
    """A caller as an entity: its attributes, and membership in its teams and its tenant."""
    return {
        "uid": principal_uid(principal),
        "attrs": {"kind": str(principal.kind.value), "name": principal.name, "tenant": tenant.name},
        "parents": [uid("Tenant", tenant.name), *(uid("Team", name) for name in team_names)],
    }
