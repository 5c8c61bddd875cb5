"""Who may see what of the live view, whichever way it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.control.identity import reach_of, tenant_of
from interlock.control.live.view import ORDERS, Scope
from interlock.control.permissions import Action, decide, require

if TYPE_CHECKING:
    from interlock.control.identity import Actor
    from interlock.storage.pool import Store


def scope_of(
    store: Store, actor: Actor, tenant: str, by: str, field: str = "", value: str = "", order: str = ORDERS[0]
) -> Scope:
    """The scope of a look at a tenant, by its name, or at all of them (""). Raises NotFound, Denied, BadRequest.

    Figures are for who may read usage there, single calls for who may read its ledger. Sources that the platform
    lends carry the load of all tenants: they are for who may read the platform's.
    """
    tenant_id = tenant_of(store, actor, tenant) if tenant else ""
    reach = reach_of(tenant_id) if tenant_id else None
    require(actor.bindings, Action.usage_read, reach)

    def may(action: Action, where: str | None) -> bool:
        return decide(actor.bindings, action, where).allowed

    sources = "*" if may(Action.source_read, None) else tenant_id if may(Action.source_read, reach) else ""
    return Scope(tenant_id, by, field, value, sources, may(Action.ledger_read, reach), order).checked()
