"""Looks at the ledger are recorded among the changes, whoever makes them: the admin API or a page of the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.control.apply import Reason
from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action, require
from interlock.errors import NotFound
from interlock.storage import changes
from interlock.storage.changes import Author, Change

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interlock.control.identity import Actor
    from interlock.control.services.base import Tools
    from interlock.storage.pool import Store

NO_REASON = "(no reason given)"
WATCH_S = 3600.0
"""One change stands for so long of watching."""
WATCHERS_MAX = 4096


class Watching:
    """Looks at the newest calls as they come: one change when it begins, and one an hour while it goes on."""

    def __init__(self) -> None:
        self._until_s: dict[tuple[str, str], float] = {}

    def unrecorded(self, tools: Tools, actor: Actor, tenants: Iterable[str]) -> list[str]:
        """Of these tenants, by name, those where a look is not on record."""
        now_s = tools.clock.mono_ns() / 1e9
        return [t for t in tenants if self._until_s.get((t, actor.principal_id or actor.name), 0.0) <= now_s]

    def note(self, store: Store, tools: Tools, actor: Actor, tenants: Iterable[str]) -> None:
        """Record looks at the newest calls of these tenants. Call before anything is shown. Raises Denied.

        A tenant that was deleted has no record of changes of its own any more: the platform's tells of the look.
        """
        for name in self.unrecorded(tools, actor, tenants):
            try:
                tenant_id, gone = allowed_tenant(store, actor, name, Action.ledger_read), ""
            except NotFound:
                require(actor.bindings, Action.ledger_read, None)
                tenant_id, gone = changes.PLATFORM_TREE, name
            note(store, tools, actor, tenant_id, "ledger.live", gone, None, Reason(""))
            if len(self._until_s) >= WATCHERS_MAX:
                self._until_s.clear()  # what is forgotten is recorded once more
            self._until_s[name, actor.principal_id or actor.name] = tools.clock.mono_ns() / 1e9 + WATCH_S


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
