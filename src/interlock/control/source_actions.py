"""What is done to sources besides declaring them, for the admin API and the console: look, test, drain, refresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock.control import views
from interlock.control.apply import Reason
from interlock.control.diagnosis import answers_to
from interlock.control.permissions import Action, decide, require
from interlock.control.plan import Ref
from interlock.control.services import sources
from interlock.control.services.base import Tx, missing
from interlock.storage import sources as stored_sources
from interlock.types.source import Model

if TYPE_CHECKING:
    from interlock.control.documents import SourceSpec
    from interlock.control.identity import Actor
    from interlock.control.web import Api

_REACHED_BY = (
    "url",
    "api_prefix",
    "credential",
    "tls",
    "egress_proxy",
    "granted_to",
    "discovery_error",
    "warnings",
    "managed",
)


class Refreshed(msgspec.Struct, frozen=True):
    """The source after it was asked for its models; `changed`: it offers something else than before."""

    item: dict[str, Any]
    changed: bool
    discovery_error: str | None


class Looked(msgspec.Struct, frozen=True):
    """What a source would offer if it were registered as it was described; nothing is stored of it. `error`: why it
    could not be asked, "" when it was."""

    engine: str
    engine_version: str
    offers: list[Model]
    warnings: list[str]
    error: str


class Tested(msgspec.Struct, frozen=True):
    """A refreshed source, and what it says to who has no credential: "open" (it works for anybody), "closed", or ""
    when that cannot be told."""

    refreshed: Refreshed
    answers: str


def look(api: Api, who: Actor, spec: SourceSpec) -> Looked:
    """Ask a source what it offers before it is registered. That somebody looked is recorded. Raises BadRequest,
    ConfigError, Conflict (the name is taken), Denied."""
    found = api.configurator.examine(who, spec)
    models, warnings = sources.offered(
        spec, found.models, listed=not found.error, at=api.tools.now(), factors=api.tools.carbon_factors
    )
    return Looked(found.engine, found.engine_version, list(models), [*found.warnings, *warnings], found.error)


def set_drained(api: Api, who: Actor, name: str, drained: bool, reason: Reason) -> dict[str, Any]:
    """Give a source no new calls, or give it calls again; running ones finish. Raises NotFound, Denied, BadRequest."""
    with api.configurator.changing(who, Ref("source", "", name), reason) as tx:
        allow_operating(tx, who, name)
        return views.show(tx, "source", sources.set_drained(tx, name, drained))


def refresh(api: Api, who: Actor, name: str, reason: Reason) -> Refreshed:
    """Ask a source for its models now, and store what is found. Raises NotFound, Denied, BadRequest."""
    with api.store.platform() as conn:
        row = stored_sources.named(conn, name)
    if row is None or not decide(who.bindings, Action.source_read, row.value.tenant_id or None).allowed:
        raise missing("source", name)
    require(who.bindings, Action.source_operate, row.value.tenant_id or None)
    found = api.configurator.look(sources.spec_of(row.value))
    with api.configurator.changing(who, Ref("source", "", name), reason) as tx:
        allow_operating(tx, who, name)
        changed = sources.refresh(tx, name, found)
        item = views.show(tx, "source", sources.find(tx, name))
    return Refreshed(item, changed, found.error or None)


def test(api: Api, who: Actor, name: str, reason: Reason) -> Tested:
    """Refresh a source, and ask it without its credential, as `interlock doctor` does."""
    refreshed = refresh(api, who, name, reason)
    with api.store.platform() as conn:
        row = stored_sources.named(conn, name)
    if row is None:
        raise missing("source", name)
    bare = sources.probe(sources.spec_of(row.value))
    return Tested(refreshed, answers_to(bare, api.tools.settings))


def allow_operating(tx: Tx, who: Actor, name: str) -> None:
    """Raise NotFound for a source that the actor may not see, Denied for one it may not operate."""
    place = sources.find(tx, name).value.tenant_id or None
    if not decide(who.bindings, Action.source_read, place).allowed:
        raise missing("source", name)
    require(who.bindings, Action.source_operate, place)


def of_tenant(tx: Tx, tenant_id: str) -> list[dict[str, Any]]:
    """Sources that a tenant may be given: its own, and the platform's that are granted to it; of these not how they
    are reached. `tx` is the platform's."""
    items = []
    for row in stored_sources.page(tx.conn, limit=tx.tools.settings.sources_max):
        item = views.show(tx, "source", row)
        if row.value.tenant_id == tenant_id:
            items.append(item)
        elif not row.value.tenant_id and {"*", tenant_id} & set(row.value.granted_to):
            items.append({k: v for k, v in item.items() if k not in _REACHED_BY})
    return items
