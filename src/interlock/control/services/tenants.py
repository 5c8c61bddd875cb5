"""Tenants."""

from __future__ import annotations

import msgspec

from interlock.control.documents import TenantSpec
from interlock.control.services.base import Tx, missing
from interlock.errors import BadRequest
from interlock.storage import tenants
from interlock.storage.table import Stored
from interlock.types.identity import Tenant


def spec_of(tenant: Tenant) -> TenantSpec:
    """The declared form of a tenant's own fields."""
    return TenantSpec(name=tenant.name, time_zone=tenant.time_zone, active=tenant.active)


def find(tx: Tx, name: str) -> Stored[Tenant]:
    """The tenant of that name. Raises NotFound."""
    found = tenants.by_name(tx.conn, name)
    if found is None:
        raise missing("tenant", name)
    return found


def create(tx: Tx, _tenant_id: str, spec: TenantSpec) -> Stored[Tenant]:
    """A new, empty tenant. Raises Conflict when the name is taken."""
    tenant = Tenant(id=tx.tools.new_id("tenant"), name=spec.name, time_zone=spec.time_zone, active=spec.active)
    return tenants.insert(tx.conn, tenant, tx.by)


def update(tx: Tx, _tenant_id: str, spec: TenantSpec, revision: int | None = None) -> Stored[Tenant]:
    """Time zone and whether it is active. Raises NotFound, Conflict."""
    tenant = msgspec.structs.replace(find(tx, spec.name).value, time_zone=spec.time_zone, active=spec.active)
    return tenants.update(tx.conn, tenant, tx.by, revision=revision)


def delete(tx: Tx, _tenant_id: str, name: str, revision: int | None = None) -> None:
    """The tenant and everything in it. Raises NotFound, Conflict, BadRequest for the platform's own."""
    tenant = find(tx, name).value
    if tenant.id == tenants.PLATFORM_TENANT:
        raise BadRequest("the platform's own tenant cannot be removed", param="name")
    tenants.delete(tx.conn, tenant.id, tx.by, revision=revision)
