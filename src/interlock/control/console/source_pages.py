"""Sources and the models they offer: what there is, one in detail, registering with a look first, test, drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from interlock.control import source_actions, views
from interlock.control.apply import Reason
from interlock.control.console import source_forms as forms
from interlock.control.console.page import Page
from interlock.control.console.places import chosen, visible
from interlock.control.documents import LabelsSpec, SourceLimitsSpec
from interlock.control.identity import reach_of
from interlock.control.permissions import Action
from interlock.control.plan import Ref
from interlock.control.services import sources
from interlock.control.services.base import Tx, missing
from interlock.control.validate import PLATFORM
from interlock.errors import BadRequest, InterlockError
from interlock.storage import aliases as stored_aliases
from interlock.storage import changes
from interlock.storage import sources as stored_sources
from interlock.storage.changes import Author

if TYPE_CHECKING:
    import datetime

    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.storage.changes import Change

LIST = "/console/sources"
REGISTER = "/console/sources/-/register"
"""No source is called so: names begin with a letter or a digit."""
HISTORY_MAX = 30
ALIASES_MAX = 10_000
_ENGINE_BAD = ("failed", "lost")
_ENGINE_COLD = ("starting", "loading", "restarting", "stopping")


class State(NamedTuple):
    """How a source is, in a word or two, with its colour and a sentence."""

    words: str
    tone: str
    more: str


class Step(NamedTuple):
    """One change of a source, in words."""

    at: datetime.datetime | None
    actor: str
    what: str
    reason: str


def state_of(item: dict[str, Any]) -> State:
    """The state of a source as it is shown; of one whose address is not shown, only whether it is drained."""
    managed = (item.get("managed") or {}).get("state", "")
    if item["drained"]:
        return State("drained", "yellow", "It is given no new calls; running ones finish.")
    if managed in _ENGINE_BAD:
        return State(f"engine {managed}", "red", item["managed"].get("words", ""))
    if managed in _ENGINE_COLD:
        return State(f"engine {managed}", "yellow", item["managed"].get("words", ""))
    if item.get("discovery_error"):
        return State("does not answer", "red", item["discovery_error"])
    if item["discovered_at"] is None:
        return State("not looked at yet", "yellow", "")
    return State("in use", "green", "")


def listing(visit: Visit, _: Sessions) -> Response:
    """Every source that the visitor may see, and the models that these offer together."""
    items, tenant, names = seen(visit)
    items = [_whole(item) for item in items]
    models: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for item in items:
        for offer in item["offers"]:
            models.setdefault(offer["name"], []).append((item["name"], offer))
    return visit.page(
        "sources.html",
        tenant=tenant,
        tenants=names,
        rows=[(item, state_of(item)) for item in items],
        models=sorted(models.items()),
        now=visit.api.tools.now(),
        may_register=visit.may(Action.source_write),
    )


def show(visit: Visit, _: Sessions) -> Response:
    """One source: what it is, what it offers, how it came to be so, and what can be done to it."""
    return _show(visit)


def _show(visit: Visit, error: InterlockError | None = None) -> Response:
    tested = visit.query.get("answers", "")
    item = _whole(_item(visit, visit.path_params["name"]))
    owner = _owner(visit, item)
    with visit.api.store.platform() as conn:
        used = _users(conn, item["name"]) if visit.may(Action.alias_read) else []
        steps = changes.page(conn, object_id=item["id"], limit=HISTORY_MAX) if visit.may(Action.change_read) else []
    return visit.page(
        "source.html",
        error.status if error is not None else 200,
        error=error,
        typed=visit.form.get("reason", ""),
        item=item,
        state=state_of(item),
        used=used,
        tested=tested if tested in ("open", "closed", "unknown") else "",
        now=visit.api.tools.now(),
        history=[_step(each) for each in steps],
        may_operate=visit.may(Action.source_operate, owner),
        may_write=visit.may(Action.source_write),
        here=f"{LIST}/{quote(item['name'], safe='')}",
    )


def act(visit: Visit, _: Sessions) -> Response:
    """Drain, resume, test or remove a source, as the pressed button says."""
    name, verb = visit.path_params["name"], visit.form.get("do", "")
    reason = Reason(visit.form.get("reason", "").strip())
    api, actor = visit.api, visit.who()
    here = f"{LIST}/{quote(name, safe='')}"
    try:
        if verb == "drain":
            source_actions.set_drained(api, actor, name, True, reason)
            return visit.go(here, said=f"{name} is given no new calls. Those that run there finish.")
        if verb == "resume":
            source_actions.set_drained(api, actor, name, False, reason)
            return visit.go(here, said=f"{name} is given calls again.")
        if verb == "test":
            return _tested(visit, name, here)
        if verb == "remove":
            api.configurator.remove(actor, Ref("source", "", name), reason)
            return visit.go(LIST, said=f"{name} was removed.")
        raise BadRequest("there is no such action", param="do")
    except InterlockError as error:
        return _show(visit, error)


def _tested(visit: Visit, name: str, here: str) -> Response:
    done = source_actions.test(visit.api, visit.who(), name, Reason("tested from the console"))
    told = done.refreshed
    if told.discovery_error:
        return visit.go(here, said=f"{name} did not answer.")
    offers = len(told.item["offers"])
    words = f"{name} answers and offers {offers} model{'' if offers == 1 else 's'}"
    words += ", something else than before." if told.changed else ", as before."
    return visit.go(f"{here}?answers={done.answers or 'unknown'}", said=words)


def registering(visit: Visit, _: Sessions) -> Response:
    """The first step: where it is."""
    if not visit.may(Action.source_write):
        raise missing("page", "register")
    return _register(visit, dict(forms.NEW))


def register(visit: Visit, _: Sessions) -> Response:
    """Look at it and show what is there; or, once that was seen, register it."""
    typed = forms.retyped(visit.form)
    looked = None
    try:
        given = forms.reached(visit.form)
        if visit.form.get("do") != "store":
            looked = source_actions.look(visit.api, visit.who(), forms.spec(given))
            return _register(visit, typed, looked)
        spec = forms.spec(forms.bounds(visit.form, given))
        reason = Reason(visit.form.get("reason", "").strip())
        done = visit.api.configurator.put(visit.who(), Ref("source", "", spec.name), spec, reason, new=True)
        told = done.discovery.get(spec.name, "")
        words = f"{spec.name} is registered" + (f", and does not answer: {told}" if told else ".")
        return visit.go(f"{LIST}/{quote(spec.name, safe='')}", said=words)
    except InterlockError as error:
        return _register(visit, typed, looked, error, seen=visit.form.get("do") == "store")


def _register(
    visit: Visit,
    typed: dict[str, Any],
    looked: source_actions.Looked | None = None,
    error: InterlockError | None = None,
    *,
    seen: bool = False,
) -> Response:
    """`seen`: what is there was looked at before, and is not looked at again to say what was wrong."""
    return visit.page(
        "source_register.html",
        error.status if error is not None else 200,
        error=error,
        typed=typed,
        looked=looked,
        seen=seen or looked is not None,
        tenants=_grantable(visit),
        forms=forms,
        here=REGISTER,
    )


def editing(visit: Visit, _: Sessions) -> Response:
    """Labels, limits and grants of a source, to be changed."""
    stored = _declared(visit)
    return _edit(visit, stored.value.name, forms.typed(sources.spec_of(stored.value)), stored.revision)


def edit(visit: Visit, _: Sessions) -> Response:
    """Change them; whatever else is declared of the source stays."""
    stored = _declared(visit)
    name, spec = stored.value.name, sources.spec_of(stored.value)
    revision = visit.form.get("revision", "")
    try:
        wanted = forms.changed(spec, visit.form)
        reason = Reason(visit.form.get("reason", "").strip())
        number = int(revision) if revision.isdecimal() else None
        visit.api.configurator.put(visit.who(), Ref("source", "", name), wanted, reason, revision=number, new=False)
        return visit.go(f"{LIST}/{quote(name, safe='')}", said=f"{name} was changed.")
    except InterlockError as error:
        return _edit(visit, name, forms.retyped(visit.form), revision, error)


def _edit(
    visit: Visit, name: str, typed: dict[str, Any], revision: object, error: InterlockError | None = None
) -> Response:
    return visit.page(
        "source_edit.html",
        error.status if error is not None else 200,
        error=error,
        name=name,
        typed=typed,
        revision=revision,
        own=bool(_item(visit, name).get("tenant")),
        tenants=_grantable(visit),
        forms=forms,
        here=f"{LIST}/{quote(name, safe='')}",
    )


def seen(visit: Visit) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Sources that the visitor may see: all of them, or those that a tenant may be given; the tenant and the others
    that could be looked at ("" and none for who sees everything)."""
    api = visit.api
    if visit.may(Action.source_read):
        with api.store.platform() as conn:
            tx = _tx(visit, conn)
            rows = stored_sources.page(conn, limit=api.tools.settings.sources_max)
            return sorted((views.show(tx, "source", row) for row in rows), key=lambda item: item["name"]), "", []
    tenant, names = chosen(visit, Action.source_read)
    with api.store.platform() as conn:
        tx = _tx(visit, conn)
        found = source_actions.of_tenant(tx, tx.names.tenant(tenant))
    return sorted(found, key=lambda item: item["name"]), tenant, names


def _item(visit: Visit, name: str) -> dict[str, Any]:
    """One source as the visitor may see it, in whichever tenant that is. Raises NotFound."""
    api = visit.api
    with api.store.platform() as conn:
        tx = _tx(visit, conn)
        if visit.may(Action.source_read):
            return views.show(tx, "source", sources.find(tx, name))
        for tenant in visible(visit, Action.source_read):
            for item in source_actions.of_tenant(tx, tx.names.tenant(tenant)):
                if item["name"] == name:
                    return item
    raise missing("source", name)


def _whole(item: dict[str, Any]) -> dict[str, Any]:
    """With labels and limits that are at their defaults, too."""
    labels, limits = msgspec.convert(item["labels"], LabelsSpec), msgspec.convert(item["limits"], SourceLimitsSpec)
    return {**item, "labels": msgspec.structs.asdict(labels), "limits": msgspec.structs.asdict(limits)}


def _owner(visit: Visit, item: dict[str, Any]) -> str | None:
    """Id of the tenant whose source it is; None: the platform's."""
    if not item.get("tenant"):
        return None
    with visit.api.store.platform() as conn:
        return reach_of(_tx(visit, conn).names.tenant(item["tenant"]))


def _declared(visit: Visit) -> Any:
    """The stored source, for who may change it. Raises NotFound."""
    name = visit.path_params["name"]
    if not visit.may(Action.source_write):
        raise missing("source", name)
    with visit.api.store.platform() as conn:
        return sources.find(_tx(visit, conn), name)


def _grantable(visit: Visit) -> list[str]:
    """Names of the tenants that a source of the platform can be granted to."""
    return [name for name in visible(visit, Action.tenant_read) if name != PLATFORM]


def _users(conn: Any, name: str) -> list[str]:
    """Aliases that lead to a source by name: it cannot be removed before them."""
    return sorted(
        stored.value.name
        for stored in stored_aliases.page(conn, limit=ALIASES_MAX)
        if any(target.source == name for target in stored.value.targets)
    )


def _tx(visit: Visit, conn: Any) -> Tx:
    actor = visit.who()
    return Tx(conn, Author(actor.principal_id, actor.name, "", visit.api.tools.now()), visit.api.tools)


def _step(change: Change) -> Step:
    before, after = change.before or {}, change.after or {}
    verb = change.action.partition(".")[2]
    words = _found(before, after) if verb == "observe" else _VERBS.get(verb, verb)
    if verb == "engine":
        words = f"engine {after.get('engine_state', '')}"
    return Step(change.at, change.actor, words, change.reason)


def _found(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What a look found that was otherwise before."""
    parts = []
    if before.get("engine_version") != after.get("engine_version") or before.get("engine") != after.get("engine"):
        was = f"{before.get('engine', '')} {before.get('engine_version', '')}".strip() or "nothing known"
        parts.append(f"{was} became {after.get('engine', '')} {after.get('engine_version', '')}".rstrip())
    had, has = (_versions(value) for value in (before, after))
    for title, found in (("new", has.keys() - had.keys()), ("gone", had.keys() - has.keys())):
        if found:
            parts.append(f"{title}: {', '.join(sorted(found))}")
    parts += [
        f"{name}: version {had[name] or 'unknown'} became {has[name] or 'unknown'}"
        for name in sorted(had.keys() & has.keys())
        if had[name] != has[name]
    ]
    return "; ".join(parts) or "prices or abilities of models changed"


def _versions(value: dict[str, Any]) -> dict[str, str]:
    return {model["name"]: model.get("version", "") for model in value.get("models", ())}


_VERBS = {
    "create": "registered",
    "update": "declaration changed",
    "drain": "drained",
    "undrain": "resumed",
}

PAGES = (
    Page("GET", "/sources", listing),
    Page("GET", "/sources/-/register", registering),
    Page("POST", "/sources/-/register", register),
    Page("GET", "/sources/{name}", show),
    Page("POST", "/sources/{name}", act),
    Page("GET", "/sources/{name}/edit", editing),
    Page("POST", "/sources/{name}/edit", edit),
)
