"""Tenants."""

from __future__ import annotations

import msgspec

from interlock.control.documents import LEARNING, JudgingSpec, RetentionSpec, TenantSpec, restate
from interlock.control.services.base import Tx, missing, recording_name
from interlock.errors import BadRequest
from interlock.storage import tenants
from interlock.storage.table import Stored
from interlock.types.identity import Judging, Recording, Retention, Tenant


def spec_of(tenant: Tenant) -> TenantSpec:
    """The declared form of a tenant's own fields."""
    return TenantSpec(
        name=tenant.name,
        time_zone=tenant.time_zone,
        active=tenant.active,
        recording=recording_name(tenant.recording),
        retention=restate(tenant.retention, RetentionSpec),
        policy_approval=tenant.policy_approval,
        learning=LEARNING[tenant.learning],
        learning_shares=tenant.learning_shares,
        judging=restate(tenant.judging, JudgingSpec),
    )


def find(tx: Tx, name: str) -> Stored[Tenant]:
    """The tenant of that name. Raises NotFound."""
    found = tenants.by_name(tx.conn, name)
    if found is None:
        raise missing("tenant", name)
    return found


def create(tx: Tx, _tenant_id: str, spec: TenantSpec) -> Stored[Tenant]:
    """A new, empty tenant. Raises Conflict when the name is taken."""
    return tenants.insert(tx.conn, _with(Tenant(id=tx.tools.new_id("tenant"), name=spec.name), spec), tx.by)


def update(tx: Tx, _tenant_id: str, spec: TenantSpec, revision: int | None = None) -> Stored[Tenant]:
    """Everything but the name. Raises NotFound, Conflict."""
    return tenants.update(tx.conn, _with(find(tx, spec.name).value, spec), tx.by, revision=revision)


def delete(tx: Tx, _tenant_id: str, name: str, revision: int | None = None) -> None:
    """The tenant and everything in it. Raises NotFound, Conflict, BadRequest for the platform's own."""
    tenant = find(tx, name).value
    if tenant.id == tenants.PLATFORM_TENANT:
        raise BadRequest("the platform's own tenant cannot be removed", param="name")
    tenants.delete(tx.conn, tenant.id, tx.by, revision=revision)


def _with(tenant: Tenant, spec: TenantSpec) -> Tenant:
    return msgspec.structs.replace(
        tenant,
        time_zone=spec.time_zone,
        active=spec.active,
        recording=Recording[spec.recording],
        retention=restate(spec.retention, Retention),
        policy_approval=spec.policy_approval,
        learning=spec.learning,
        learning_shares=spec.learning_shares,
        judging=restate(spec.judging, Judging),
    )
