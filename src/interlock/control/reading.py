"""A transaction in which an administrator looks at what is stored, in one tenant or on the platform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interlock.control.identity import tenant_of
from interlock.control.permissions import Action, require
from interlock.control.services.base import Tools, Tx
from interlock.storage.changes import Author
from interlock.storage.tenants import PLATFORM_TENANT

if TYPE_CHECKING:
    from interlock.control.identity import Actor
    from interlock.storage.pool import Store


@contextmanager
def reading_at(store: Store, tools: Tools, actor: Actor, tenant: str, action: Action) -> Iterator[tuple[Tx, str]]:
    """A transaction for reading where `tenant` ("": the platform) is, and its id. Raises NotFound, Denied."""
    by = Author(actor.principal_id, actor.name, "", tools.now())
    if not tenant:
        require(actor.bindings, action, None)
        with store.platform() as conn:
            yield Tx(conn, by, tools), ""
        return
    tenant_id = tenant_of(store, actor, tenant)
    require(actor.bindings, action, tenant_id)
    opened = store.platform() if tenant_id == PLATFORM_TENANT else store.tenant(tenant_id)
    with opened as conn:
        yield Tx(conn, by, tools), tenant_id
