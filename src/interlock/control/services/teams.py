"""Teams of a tenant."""

from __future__ import annotations

import msgspec

from interlock.control.documents import LimitsSpec, TeamSpec, restate
from interlock.control.services.base import Tx, missing, recording_name
from interlock.control.services.budgets import unused
from interlock.errors import Conflict
from interlock.storage import issuers, teams
from interlock.storage.table import Stored
from interlock.types.identity import LimitSet, Recording, Team


def spec_of(team: Team) -> TeamSpec:
    """The declared form of a team."""
    return TeamSpec(
        name=team.name,
        cost_center=team.cost_center,
        limits=restate(team.limits, LimitsSpec),
        recording=recording_name(team.recording),
    )


def find(tx: Tx, tenant_id: str, name: str) -> Stored[Team]:
    """The team of that name. Raises NotFound."""
    found = teams.by_name(tx.conn, tenant_id, name)
    if found is None:
        raise missing("team", name)
    return found


def create(tx: Tx, tenant_id: str, spec: TeamSpec) -> Stored[Team]:
    """A new team. Raises Conflict when the name is taken."""
    team = Team(
        id=tx.tools.new_id("team"),
        tenant_id=tenant_id,
        name=spec.name,
        cost_center=spec.cost_center,
        limits=restate(spec.limits, LimitSet),
        recording=Recording[spec.recording],
    )
    return teams.insert(tx.conn, team, tx.by)


def update(tx: Tx, tenant_id: str, spec: TeamSpec, revision: int | None = None) -> Stored[Team]:
    """Everything but the name. Raises NotFound, Conflict."""
    team = msgspec.structs.replace(
        find(tx, tenant_id, spec.name).value,
        cost_center=spec.cost_center,
        limits=restate(spec.limits, LimitSet),
        recording=Recording[spec.recording],
    )
    return teams.update(tx.conn, team, tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """A team without members. Raises NotFound, Conflict (members, a budget, an issuer that maps a group to it)."""
    team = find(tx, tenant_id, name).value
    for stored in issuers.page(tx.conn, tenant_id=tenant_id, limit=1000):
        if team.id in stored.value.group_teams.values():
            raise Conflict(f"issuer {stored.value.issuer} maps a group to team {name!r}", code="still_used")
    unused(tx, tenant_id, "team", team.id, name)
    teams.delete(tx.conn, team.id, tx.by, revision=revision)
