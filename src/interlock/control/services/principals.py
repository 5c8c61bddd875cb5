"""Users, services and agents of a tenant."""

from __future__ import annotations

import msgspec

from interlock.control.documents import LimitsSpec, PrincipalSpec, restate
from interlock.control.services.base import Names, Tx, missing, workload_name
from interlock.control.services.budgets import unused
from interlock.storage import principals
from interlock.storage.table import Stored
from interlock.types.identity import LimitSet, Principal, Workload


def spec_of(principal: Principal, names: Names) -> PrincipalSpec:
    """The declared form of a principal."""
    return PrincipalSpec(
        name=principal.name,
        kind=principal.kind,
        teams=tuple(names.of(t) for t in principal.team_ids),
        limits=restate(principal.limits, LimitsSpec),
        may_act_for=tuple(names.of(p) for p in principal.may_act_for),
        active=principal.active,
        workload=workload_name(principal.workload),
    )


def find(tx: Tx, tenant_id: str, name: str) -> Stored[Principal]:
    """The principal of that name. Raises NotFound."""
    found = principals.by_name(tx.conn, tenant_id, name)
    if found is None:
        raise missing("principal", name)
    return found


def create(tx: Tx, tenant_id: str, spec: PrincipalSpec) -> Stored[Principal]:
    """A new principal. Whom it may act for must exist or be planned (`Names.plan_principal`).

    Raises Conflict when the name is taken, NotFound for an unknown team or principal.
    """
    principal = Principal(
        id=tx.names.planned(tenant_id, spec.name) or tx.tools.new_id("principal"),
        tenant_id=tenant_id,
        kind=spec.kind,
        name=spec.name,
        team_ids=tuple(tx.names.team(tenant_id, t) for t in spec.teams),
        limits=restate(spec.limits, LimitSet),
        may_act_for=tuple(tx.names.principal(tenant_id, p) for p in spec.may_act_for),
        active=spec.active,
        workload=Workload[spec.workload],
    )
    return principals.insert(tx.conn, principal, tx.by)


def update(tx: Tx, tenant_id: str, spec: PrincipalSpec, revision: int | None = None) -> Stored[Principal]:
    """Everything but the name. Raises NotFound, Conflict."""
    principal = msgspec.structs.replace(
        find(tx, tenant_id, spec.name).value,
        kind=spec.kind,
        team_ids=tuple(tx.names.team(tenant_id, t) for t in spec.teams),
        limits=restate(spec.limits, LimitSet),
        may_act_for=tuple(tx.names.principal(tenant_id, p) for p in spec.may_act_for),
        active=spec.active,
        workload=Workload[spec.workload],
    )
    return principals.update(tx.conn, principal, tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """A principal with its keys and roles. Raises NotFound, Conflict (also while a budget is on it)."""
    principal = find(tx, tenant_id, name).value
    unused(tx, tenant_id, "principal", principal.id, name)
    principals.delete(tx.conn, principal.id, tx.by, revision=revision)
