"""Transactions for reading, where something is, for who may: what the admin API's reads and the console's share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interlock.control.identity import tenant_of
from interlock.control.permissions import Action, require
from interlock.control.services.base import Tx
from interlock.storage.changes import Author
from interlock.storage.tenants import PLATFORM_TENANT

if TYPE_CHECKING:
    from interlock.control.identity import Actor
    from interlock.control.web import Api


@contextmanager
def reading(api: Api, actor: Actor, tenant: str, action: Action) -> Iterator[tuple[Tx, str]]:
    """A transaction for reading where `tenant` ("": the platform) is, and its id. Raises NotFound, Denied."""
    by = Author(actor.principal_id, actor.name, "", api.tools.now())
    if not tenant:
        require(actor.bindings, action, None)
        with api.store.platform() as conn:
            yield Tx(conn, by, api.tools), ""
        return
    tenant_id = tenant_of(api.store, actor, tenant)
    require(actor.bindings, action, tenant_id)
    opened = api.store.platform() if tenant_id == PLATFORM_TENANT else api.store.tenant(tenant_id)
    with opened as conn:
        yield Tx(conn, by, api.tools), tenant_id
