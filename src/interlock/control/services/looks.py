"""Looks at the ledger are recorded among the changes, whoever makes them: the admin API or a page of the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action, require
from interlock.storage import changes
from interlock.storage.changes import Author, Change

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.control.services.base import Tools
    from interlock.storage.pool import Store

NO_REASON = "(no reason given)"


def allowed_tenant(store: Store, actor: Actor, name: str, action: Action) -> str:
    """Id of the tenant whose ledger the actor may look at. Raises NotFound, Denied."""
    tenant_id = tenant_of(store, actor, name)
    # the platform's tree tells of the whole installation
    require(actor.bindings, action, reach_of(tenant_id))
    return tenant_id


def note(
    store: Store,
    tools: Tools,
    actor: Actor,
    tenant_id: str,
    action: str,
    object_id: str,
    after: dict[str, object] | None,
    reason: Reason,
    *,
    reason_needed: bool = False,
) -> None:
    """Record a look. Raises BadRequest without a reason where one is needed."""
    words = reason.text or ("" if reason_needed else NO_REASON)
    by = Author(actor.principal_id, actor.name, words, tools.now(), reason.request_id)
    with store.platform() as conn:
        changes.record(conn, Change(tenant_id, action, "ledger", object_id or tenant_id, None, after), by)
