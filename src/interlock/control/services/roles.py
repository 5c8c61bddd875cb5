"""Administrative roles: which principal may do what, in a tenant or over the platform."""

from __future__ import annotations

from interlock.control.documents import RoleSpec
from interlock.control.services.base import Names, Tx, missing
from interlock.errors import Conflict
from interlock.storage import bindings, principals
from interlock.storage.bindings import RoleBinding
from interlock.storage.table import Stored
from interlock.storage.tenants import PLATFORM_TENANT
from interlock.types.identity import AdminRole


def spec_of(binding: RoleBinding, names: Names) -> RoleSpec:
    """The declared form of a binding."""
    return RoleSpec(principal=names.of(binding.principal_id), role=binding.role)


def find(tx: Tx, tenant_id: str, name: str) -> Stored[RoleBinding]:
    """The binding called "<principal>:<role>" in that tenant ("": platform-wide). Raises NotFound."""
    principal, _, role = name.rpartition(":")
    principal_id = _principal(tx, tenant_id, principal)
    for binding in bindings.of_principal(tx.conn, principal_id):
        if binding.tenant_id == tenant_id and binding.role == role:
            stored = bindings.get(tx.conn, binding.id)
            if stored is not None:
                return stored
    raise missing("role", name)


def create(tx: Tx, tenant_id: str, spec: RoleSpec) -> Stored[RoleBinding]:
    """Give a role. Platform-wide ones go to principals of the platform's tenant. Raises NotFound, Conflict."""
    binding = RoleBinding(
        id=tx.tools.new_id("binding"),
        principal_id=_principal(tx, tenant_id, spec.principal),
        role=spec.role,
        tenant_id=tenant_id,
    )
    return bindings.insert(tx.conn, binding, tx.by)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Take a role away. Raises NotFound, Conflict."""
    bindings.delete(tx.conn, find(tx, tenant_id, name).value.id, tx.by, revision=revision)


def require_owner(tx: Tx) -> None:
    """Raise Conflict unless an active principal is owner of the whole platform."""
    for stored in bindings.page(tx.conn, tenant_id="", limit=10_000):
        if stored.value.role is AdminRole.owner:
            principal = principals.get(tx.conn, stored.value.principal_id)
            if principal is not None and principal.value.active:
                return
    raise Conflict("the platform would be left without an owner: nobody could administer it any more")


def _principal(tx: Tx, tenant_id: str, name: str) -> str:
    return tx.names.principal(tenant_id or PLATFORM_TENANT, name)
