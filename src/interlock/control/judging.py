"""Whether what a tenant names as its judge is there: looked at when all of a change is stored, in its transaction.

Only then is it known which models there are: a document may bring tenant, source and alias at once, and most models are
found by asking their sources. A plan is refused too where that is known already: where it changes no source or alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from interlock.control.plan import Plan
from interlock.control.services import tenants
from interlock.control.services.base import Tx
from interlock.errors import BadRequest, ModelNotFound
from interlock.routing.catalog import Catalog, offers_of
from interlock.routing.resolve import resolve
from interlock.storage import aliases as stored_aliases
from interlock.storage import sources as stored_sources
from interlock.storage import tenants as stored_tenants
from interlock.storage.pool import Store
from interlock.types.source import Ability

_NEW = "new"
"""In place of the id of a tenant that is not there yet: nothing is granted to it alone."""
_NEEDED = frozenset((Ability.chat.value, Ability.json_schema.value))


def require_judges(store: Store, tx: Tx, steps: Plan) -> None:
    """Raise BadRequest when a tenant that is made or changed names a judge that it cannot see or that cannot judge.

    `store`: for what the platform gives it, which a tenant's own administrators do not see.
    """
    for name, judge in _named(steps):
        _require(store, tx, name, tenants.find(tx, name).value.id, judge)


def require_planned_judges(store: Store, tx: Tx, steps: Plan) -> None:
    """The same of a plan of which nothing is stored yet, where it leaves sources and aliases as they are."""
    if not any(change.kind in ("source", "alias") for change in steps.changes):
        for name, judge in _named(steps):
            found = stored_tenants.by_name(tx.conn, name)
            _require(store, tx, name, found.value.id if found is not None else _NEW, judge)


def _named(steps: Plan) -> Iterator[tuple[str, str]]:
    """(name, judge) of each tenant that is made or changed and names one."""
    for change in steps.changes:
        if change.kind == "tenant" and change.operation != "delete":
            judging = (change.after or {}).get("judging")
            if judging:
                yield change.name, judging["model"]


def _require(store: Store, tx: Tx, name: str, tenant_id: str, judge: str) -> None:
    why = _why_not(_catalog(store, tx, tenant_id), judge, int(tx.by.at.timestamp()))
    if why:
        raise BadRequest(f"tenant {name!r}: {why}", param="judging.model")


def _catalog(store: Store, tx: Tx, tenant_id: str) -> Catalog:
    """What the tenant can name: as it is stored, with what this transaction has stored."""
    with store.platform() as conn:
        given, shared = stored_sources.everything(conn), stored_aliases.everything(conn)
    sources = {each.id: each for each in (*given, *stored_sources.everything(tx.conn))}
    aliases = {(each.tenant_id, each.name): each for each in (*shared, *stored_aliases.everything(tx.conn))}
    return Catalog(tenant_id, offers_of(sources.values()), aliases.values())


def _why_not(catalog: Catalog, name: str, now_s: int) -> str:
    try:
        target = resolve(name, catalog, now_s=now_s, seed=0)
    except ModelNotFound:
        return f"there is no model or alias {name!r} that it can use as a judge"
    if target.steps:
        return f"{name!r} is a cascade, which cannot judge; name a model, or an alias with targets"
    seen = [offer for offer in catalog.offers_for(target) if offer.key in catalog.by_key]
    if not seen:
        return f"there is no model or alias {name!r} that it can use as a judge"
    if not any(set(_names(offer.model.abilities)) >= _NEEDED for offer in seen):
        return f"{name!r} cannot judge: no model of it answers chats by a JSON schema"
    return ""


def _names(abilities: Iterable[str]) -> Iterable[str]:
    return (str(each) for each in abilities)
