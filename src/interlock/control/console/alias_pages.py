"""Aliases: the company's own model names, their targets, canaries, shadows and cascades."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from interlock.control.apply import Reason
from interlock.control.console import alias_forms as forms
from interlock.control.console import cascade_forms, objective_forms
from interlock.control.console.alias_faults import at_field
from interlock.control.console.form_values import Misfilled
from interlock.control.console.page import Page
from interlock.control.console.places import TENANTS_MAX, visible
from interlock.control.console.source_pages import seen
from interlock.control.documents import AliasSpec, lean
from interlock.control.identity import reach_of
from interlock.control.permissions import Action, require
from interlock.control.plan import Ref
from interlock.control.services import alias_use, aliases, canaries
from interlock.control.services.base import missing
from interlock.errors import BadRequest, Conflict, InterlockError, NotFound
from interlock.routing.canary import RUNNING
from interlock.storage import aliases as stored_aliases
from interlock.storage import tenants as stored_tenants

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.storage.aliases import AliasRow
    from interlock.storage.table import Stored

LIST = "/console/aliases"
NEW = "/console/aliases/-/-/new"
"""No alias is called so: names begin with a letter or a digit."""
EVERYBODYS = "-"
"""Stands for the platform where a tenant's name would be."""
SHOWN_MAX = 1000
COMPARE_DAYS = (1, 7, 30)
_FORMS = {
    "save": "save-",
    "canary-start": "canary-",
    "canary-promote": "canary-end-",
    "canary-stop": "canary-end-",
    "cascade-save": "cascade-",
    "cascade-end": "cascade-end-",
    "objectives-save": "objectives-",
    "shadow-start": "shadow-",
    "shadow-stop": "shadow-end-",
    "remove": "remove-",
}
"""How the fields of each form of the page are told apart, by what its button does."""
_EDITS = ("save", "cascade-save", "objectives-save")
"""What is put only over what the form was made from."""
DAY_NS = 86_400_000_000_000


class Line(NamedTuple):
    """An alias of the list. `tenant` "": every tenant's."""

    tenant: str
    path: str
    alias: AliasRow
    ending: tuple[str, str]


class At(NamedTuple):
    """The alias that a page is about. `place`: where roles count for it."""

    tenant: str
    tenant_id: str
    place: str | None
    stored: Stored[AliasRow]


def listing(visit: Visit, _: Sessions) -> Response:
    """Every alias that the visitor may see."""
    now_s = int(visit.api.tools.now().timestamp())
    with visit.api.store.platform() as conn:
        rows = [stored.value for stored in stored_aliases.page(conn, limit=SHOWN_MAX)]
        names = {t.value.id: t.value.name for t in stored_tenants.page(conn, limit=TENANTS_MAX)}
    lines = [
        Line(names.get(row.tenant_id, ""), path_of(names.get(row.tenant_id, ""), row.name), row, _ending(row, now_s))
        for row in rows
        if visit.may(Action.alias_read, _place(row.tenant_id)) and (not row.tenant_id or row.tenant_id in names)
    ]
    lines.sort(key=lambda line: (line.tenant, line.alias.name))
    cut = SHOWN_MAX if len(rows) == SHOWN_MAX else 0
    return visit.page("aliases.html", lines=lines, cut=cut, may_write=visit.may_somewhere(Action.alias_write))


def show(visit: Visit, _: Sessions) -> Response:
    """One alias: where it leads, its canary, shadow and cascade, and, when it is asked for, how these do."""
    return _show(visit, _at(visit))


def _show(visit: Visit, at: At, error: InterlockError | None = None) -> Response:
    spec = aliases.spec_of(at.stored.value)
    canary = at.stored.value.canary
    typed = forms.typed(spec) if error is None else forms.retyped(visit.form, spec, error)
    counted = [at.tenant] if at.tenant else visible(visit, Action.usage_read)
    faults, sent = error.faults if isinstance(error, Misfilled) else {}, _FORMS.get(visit.form.get("do", ""), "")
    return visit.page(
        "alias.html",
        error.status if error is not None else 200,
        error=error,
        at=at,
        spec=spec,
        total=sum(target.weight for target in spec.targets) or 1,
        canary=canaries.shown(canary) if canary is not None else None,
        running=canary is not None and canary.state == RUNNING,
        ending=_ending(at.stored.value, int(visit.api.tools.now().timestamp())),
        typed=typed,
        open=visit.form.get("do", "") if error is not None else "",
        at_form=sent,
        own=lambda form: faults if form == sent else {},
        forms=forms,
        checks=cascade_forms.CHECKS,
        weights=objective_forms.shares(spec),
        models=_known_models(visit) if visit.may(Action.alias_write, at.place) else [],
        may_write=visit.may(Action.alias_write, at.place),
        may_see_usage=visit.may(Action.usage_read, at.place),
        counted=[name for name in counted if name],
        days=COMPARE_DAYS,
        report=_compared(visit, at),
        here=path_of(at.tenant, spec.name),
    )


def act(visit: Visit, _: Sessions) -> Response:
    """Change an alias as the pressed button says."""
    at = _at(visit)
    try:
        return _do(visit, at)
    except InterlockError as error:
        return _show(visit, at, at_field(error, visit.form))


def _do(visit: Visit, at: At) -> Response:
    verb, name = visit.form.get("do", ""), at.stored.value.name
    spec, here = aliases.spec_of(at.stored.value), path_of(at.tenant, name)
    if verb == "save":
        _put(visit, at, forms.declared(visit.form, lean(spec), _ref(at)))
        return visit.go(here, said=f"{name} was changed.")
    if verb == "canary-start":
        _start(visit, at, spec)
        return visit.go(here, said="The canary has started. It is taken back by itself when a bound is broken.")
    if verb == "canary-promote":
        _promote(visit, at, spec)
        return visit.go(here, said=f"{name} leads to what was its canary.")
    if verb == "canary-stop":
        _put(visit, at, forms.replaced(spec, canary=None))
        return visit.go(here, said="The canary is no more; all calls go to the targets.")
    if verb == "shadow-start":
        _put(visit, at, forms.with_shadow(visit.form, spec, _ref(at)))
        return visit.go(here, said="The shadow has started. Nobody sees its answers.")
    if verb == "shadow-stop":
        _put(visit, at, forms.replaced(spec, shadow=None))
        return visit.go(here, said="The shadow has stopped.")
    if verb == "cascade-save":
        _put(visit, at, forms.with_cascade(visit.form, spec, _ref(at)))
        return visit.go(here, said="Its chats and completions go step by step.")
    if verb == "cascade-end":
        _put(visit, at, forms.replaced(spec, cascade=None))
        return visit.go(here, said="The cascade is no more; all calls go to the targets.")
    if verb == "objectives-save":
        wanted = objective_forms.declared(visit.form)
        _put(visit, at, forms.replaced(spec, **wanted))
        return visit.go(here, said=_asked_words(wanted))
    if verb == "remove":
        visit.api.configurator.remove(visit.who(), Ref("alias", at.tenant, name), _reason(visit))
        return visit.go(LIST, said=f"{name} was removed.")
    raise BadRequest("there is no such action", param="do")


def _asked_words(wanted: dict[str, Any]) -> str:
    asked = "Its calls ask for these objectives" if wanted["slo"] else "Its calls ask for no objectives of its own"
    return f"{asked} and are decided by {'its own weights' if wanted['weights'] else 'the weights of the mode'}."


def _start(visit: Visit, at: At, spec: AliasSpec) -> None:
    """INVARIANT: the same declaration is the same trial; a new one begins only after the old one is gone."""
    wanted = forms.with_canary(visit.form, spec, _ref(at))
    before = at.stored.value.canary
    if before is not None and before.state == RUNNING:
        raise Conflict("there is a running canary: promote or stop it first")
    if before is not None:
        _put(visit, at, forms.replaced(spec, canary=None))
        at = _at(visit)
    _put(visit, at, wanted)


def _promote(visit: Visit, at: At, spec: AliasSpec) -> None:
    before = at.stored.value.canary
    if before is None or spec.canary is None or before.state != RUNNING:
        raise Conflict("there is no running canary to promote")
    target = {
        "model": spec.canary.model,
        "source": spec.canary.source,
        "prefer_version": spec.canary.prefer_version,
    }
    _put(visit, at, forms.replaced(spec, targets=[target], canary=None))


def adding(visit: Visit, _: Sessions) -> Response:
    """The form of a new alias."""
    return _new(visit)


def add(visit: Visit, _: Sessions) -> Response:
    """Make it."""
    ref = Ref("alias", visit.form.get("tenant", ""), visit.form.get("name", "").strip())
    try:
        visit.api.configurator.put(visit.who(), ref, _described(visit, ref), _reason(visit), new=True)
        return visit.go(path_of(ref.tenant, ref.name), said=f"{ref.name} can be called.")
    except InterlockError as error:
        return _new(visit, at_field(error, visit.form))


def _described(visit: Visit, ref: Ref) -> AliasSpec:
    """The new alias as its form describes it. Raises Misfilled with every field at fault."""
    faults: dict[str, str] = {}
    wanted: dict[str, Any] = {}
    try:
        wanted = objective_forms.declared(visit.form)
    except Misfilled as error:
        faults |= error.faults
    return forms.declared(visit.form, {"name": ref.name, **wanted}, ref, faults)


def _new(visit: Visit, error: InterlockError | None = None) -> Response:
    places = [(name, name) for name in visible(visit, Action.alias_write)]
    if visit.may(Action.alias_write):
        places.insert(0, ("", "every tenant"))
    if not places:
        raise NotFound("There is no such page.")
    blank = forms.blank()
    return visit.page(
        "alias_new.html",
        error.status if error is not None else 200,
        error=error,
        typed=forms.typed(blank) if error is None else forms.retyped(visit.form, blank, error),
        places=places,
        faults=error.faults if isinstance(error, Misfilled) else {},
        folded=dict.fromkeys(objective_forms.FIELDS, "objectives-"),
        forms=forms,
        models=_known_models(visit),
        here=NEW,
    )


def path_of(tenant: str, name: str) -> str:
    """The page of an alias. `tenant` "": every tenant's."""
    return f"{LIST}/{quote(tenant, safe='') or EVERYBODYS}/{quote(name, safe='/')}"


def _at(visit: Visit) -> At:
    """The alias in the path. Raises NotFound, alike for what is not there and what one may not see."""
    tenant, name = visit.path_params["tenant"], visit.path_params["name"]
    tenant = "" if tenant == EVERYBODYS else tenant
    with visit.api.store.platform() as conn:
        owner = stored_tenants.by_name(conn, tenant) if tenant else None
        tenant_id = owner.value.id if owner is not None else ""
        place = _place(tenant_id)
        stored = None
        if (owner is not None or not tenant) and visit.may(Action.alias_read, place):
            stored = stored_aliases.by_name(conn, tenant_id, name)
    if stored is None:
        raise missing("alias", name)
    return At(tenant, tenant_id, place, stored)


def _place(tenant_id: str) -> str | None:
    return reach_of(tenant_id) if tenant_id else None


def _ref(at: At) -> Ref:
    return Ref("alias", at.tenant, at.stored.value.name)


def _put(visit: Visit, at: At, spec: AliasSpec) -> None:
    """As it was read; refused when it has changed since."""
    ref = _ref(at)
    given = visit.form.get("revision", "")
    revision = int(given) if given.isdecimal() and visit.form.get("do") in _EDITS else at.stored.revision
    visit.api.configurator.put(visit.who(), ref, spec, _reason(visit), revision=revision, new=False)


def _reason(visit: Visit) -> Reason:
    return Reason(visit.form.get("reason", "").strip())


def _compared(visit: Visit, at: At) -> alias_use.CompareReport | None:
    """How the ways through the alias did, for who asked; over one tenant's calls. Raises NotFound, Denied."""
    asked = visit.query.get("compare", "")
    if not asked:
        return None
    if asked not in map(str, COMPARE_DAYS):
        raise BadRequest(f"compare is one of {', '.join(map(str, COMPARE_DAYS))} days", param="compare")
    tenant = at.tenant or visit.query.get("tenant", "")
    with visit.api.store.platform() as conn:
        found = stored_tenants.by_name(conn, tenant)
    if found is None or not visit.may(Action.tenant_read, found.value.id):
        raise NotFound("There is no such tenant, or none that you may see.")
    require(visit.who().bindings, Action.usage_read, found.value.id)
    until_ns = visit.api.tools.clock.wall_ns()
    with visit.api.store.tenant(found.value.id) as conn:
        since_ns = until_ns - int(asked) * DAY_NS
        name = at.stored.value.name
        if visit.query.get("whole"):
            return alias_use.compare(conn, found.value.id, name, since_ns, until_ns)
        return alias_use.sample(conn, found.value.id, name, since_ns, until_ns, visit.api.tools.settings)


def _known_models(visit: Visit) -> list[str]:
    """Names to choose from: what the sources offer that the visitor may see."""
    items, _, _ = seen(visit)
    return sorted({offer["name"] for item in items for offer in item["offers"]})


def _ending(alias: AliasRow, now_s: int) -> tuple[str, str]:
    """What is to be said of an alias's end, and its colour; ("", "") of one without."""
    if alias.sunset_s and alias.sunset_s <= now_s:
        return "ended", "red"
    if alias.deprecated_s and alias.deprecated_s <= now_s:
        return "deprecated", "yellow"
    if alias.sunset_s:
        day = datetime.datetime.fromtimestamp(alias.sunset_s, datetime.UTC).date()
        return f"ends {day.isoformat()}", "yellow"
    return "", ""


PAGES = (
    Page("GET", "/aliases", listing),
    Page("GET", "/aliases/-/-/new", adding),
    Page("POST", "/aliases/-/-/new", add),
    Page("GET", "/aliases/{tenant}/{name:path}", show),
    Page("POST", "/aliases/{tenant}/{name:path}", act),
)
