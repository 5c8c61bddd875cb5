"""Budgets: how far each is used and how long it will last, what gateways hold of it, and changing it with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from interlock.control.amounts import budget_fields
from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import visible
from interlock.control.documents import BudgetSpec
from interlock.control.permissions import Action, require
from interlock.control.plan import Ref
from interlock.control.reading import reading_at
from interlock.control.services import budgets
from interlock.control.services.base import Tx
from interlock.control.validate import PLATFORM
from interlock.errors import BadRequest, InterlockError, NotFound
from interlock.storage import aliases, changes, keys, principals, teams
from interlock.storage.changes import Change

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Fields, Visit

PLACE = "/console/budgets"
ALL = "tenant"
KINDS = (
    (ALL, "the tenant as a whole"),
    ("team", "a team"),
    ("principal", "a caller"),
    ("key", "a key"),
    ("model", "a model"),
    ("shadow", "the shadow of an alias"),
    ("judge", "a judge of answers, with challengers"),
)
UNITS = (("usd", "US dollars"), ("tokens", "tokens"), ("calls", "calls"), ("joules", "joules"), ("kwh", "kWh"))
JOULES_PER_KWH = 3_600_000
WINDOWS = ("hour", "day", "week", "month", "quarter", "year", "total")
HARDNESS = (("hard", "hard: what would exceed it is refused"), ("soft", "soft: it counts and tells, refuses nothing"))
SUGGESTIONS_MAX = 500
HISTORY = 50
NEAR_PERCENT = 80
"""From here on a budget is shown as nearly used up."""


class Suggestion(NamedTuple):
    """Something that a budget can be on."""

    name: str
    kind: str


class Step(NamedTuple):
    """One change of a budget: what it was before and is now, field by field."""

    change: Change
    fields: list[tuple[str, str, str]]


def listing(visit: Visit, _: Sessions) -> Response:
    """The budgets of a tenant, those that are used furthest first."""
    names = _tenants(visit)
    if not names:
        return visit.page("budgets.html", tenant="", tenants=[], uses=[], may_write=False, near=NEAR_PERCENT)
    tenant = _tenant(visit, names)
    with _reading(visit, tenant) as (tx, tenant_id):
        uses = budgets.uses(tx, tenant_id)
    return visit.page(
        "budgets.html",
        tenant=tenant,
        tenants=names,
        uses=sorted(uses, key=lambda use: (-use.percent, use.name)),
        may_write=visit.may(Action.budget_write, tenant_id),
        near=NEAR_PERCENT,
    )


def show(visit: Visit, _: Sessions) -> Response:
    """One budget: use, outlook, leases, what was told, its history, and the form that changes it."""
    return _show(visit, None, None)


def fresh(visit: Visit, _: Sessions) -> Response:
    """The form of a new budget."""
    typed = {"kind": "team", "unit": "usd", "window": "month", "hardness": "hard", "alerts": "80, 100"}
    return _form(visit, typed, None)


def create(visit: Visit, _: Sessions) -> Response:
    """A new budget, or the form again with what is wrong."""
    tenant, name = _tenant(visit, _tenants(visit)), visit.form.get("name", "").strip()
    try:
        spec = _spec(visit.form, name)
        visit.api.configurator.put(visit.who(), Ref("budget", tenant, name), spec, _reason(visit), new=True)
    except InterlockError as error:
        return _form(visit, visit.form, error)
    return visit.go(_path(tenant, name), said=f"Budget {name} is set.")


def change(visit: Visit, _: Sessions) -> Response:
    """Everything but the name, unless somebody else changed it meanwhile."""
    tenant, name = _tenant(visit, _tenants(visit)), visit.form.get("name", "")
    revision = visit.form.get("revision", "")
    try:
        spec = _spec(visit.form, name)
        given = int(revision) if revision.isdecimal() else None
        ref = Ref("budget", tenant, name)
        visit.api.configurator.put(visit.who(), ref, spec, _reason(visit), revision=given, new=False)
    except InterlockError as error:
        return _show(visit, visit.form, error)
    return visit.go(_path(tenant, name), said=f"Budget {name} is changed.")


def delete(visit: Visit, _: Sessions) -> Response:
    """Away with it; what was charged to it stays in the ledger."""
    tenant, name = _tenant(visit, _tenants(visit)), visit.form.get("name", "")
    try:
        visit.api.configurator.remove(visit.who(), Ref("budget", tenant, name), _reason(visit))
    except InterlockError as error:
        return _show(visit, None, error)
    return visit.go(f"{PLACE}?{urlencode({'tenant': tenant})}", said=f"Budget {name} is deleted.")


def _show(visit: Visit, typed: Fields | None, error: InterlockError | None) -> Response:
    tenant = _tenant(visit, _tenants(visit))
    name = visit.query.get("name", "") or visit.form.get("name", "")
    with _reading(visit, tenant) as (tx, tenant_id):
        found = budgets.details(tx, tenant_id, name)
        spec = budgets.spec_of(found.stored.value, tx.names)
        told = visit.may(Action.change_read, tenant_id)
        seen = changes.page(tx.conn, tenant_id=tenant_id, object_id=found.stored.value.id, limit=HISTORY)
        may_write = visit.may(Action.budget_write, tenant_id)
        suggestions = _suggestions(tx, tenant_id) if may_write else []
        history = [_step(each, tx) for each in seen] if told else []
    return visit.page(
        "budget.html",
        error.status if error else 200,
        tenant=tenant,
        use=found.use,
        leases=found.leases,
        revision=found.stored.revision,
        told=told,
        history=history,
        may_write=may_write,
        typed=typed if typed is not None else _typed(spec),
        error=error,
        suggestions=suggestions,
        near=NEAR_PERCENT,
        **_choices(visit),
    )


def _form(visit: Visit, typed: dict[str, str], error: InterlockError | None) -> Response:
    names = _tenants(visit)
    tenant = _tenant(visit, names)
    with _reading(visit, tenant) as (tx, tenant_id):
        require(visit.who().bindings, Action.budget_write, tenant_id)
        suggestions = _suggestions(tx, tenant_id)
    return visit.page(
        "budget_new.html",
        error.status if error else 200,
        tenant=tenant,
        typed=typed,
        error=error,
        suggestions=suggestions,
        **_choices(visit),
    )


def _choices(visit: Visit) -> dict[str, Any]:
    """What the form offers. What a tenant as a whole may use is set by the platform's administrators."""
    whole = visit.may(Action.budget_write)
    kinds = [kind for kind in KINDS if whole or kind[0] != ALL]
    return {"kinds": kinds, "units": UNITS, "windows": WINDOWS, "hardness": HARDNESS}


def _tenants(visit: Visit) -> list[str]:
    """Tenants whose budgets the visitor may see; the platform's own tenant calls nothing and has none."""
    return [name for name in visible(visit, Action.budget_read) if name != PLATFORM]


def _tenant(visit: Visit, names: list[str]) -> str:
    wanted = visit.query.get("tenant", "") or visit.form.get("tenant", "")
    if not names or (wanted and wanted not in names):
        raise NotFound("There is no such tenant, or none that you may see.")
    return wanted or names[0]


@contextmanager
def _reading(visit: Visit, tenant: str) -> Iterator[tuple[Tx, str]]:
    """A transaction that sees one tenant only. Raises NotFound, Denied."""
    with reading_at(visit.api.store, visit.api.tools, visit.who(), tenant, Action.budget_read) as found:
        yield found


def _suggestions(tx: Tx, tenant_id: str) -> list[Suggestion]:
    """Names that the form's field completes; any other may be typed."""
    found = {
        "team": [t.value.name for t in teams.page(tx.conn, tenant_id=tenant_id, limit=SUGGESTIONS_MAX)],
        "caller": [p.value.name for p in principals.page(tx.conn, tenant_id=tenant_id, limit=SUGGESTIONS_MAX)],
        "key": [k.value.name for k in keys.page(tx.conn, tenant_id=tenant_id, limit=SUGGESTIONS_MAX)],
        "alias": [a.value.name for a in aliases.page(tx.conn, tenant_id=tenant_id, limit=SUGGESTIONS_MAX)],
    }
    return [Suggestion(name, kind) for kind, names in found.items() for name in dict.fromkeys(names)]


def _reason(visit: Visit) -> Reason:
    return Reason(visit.form.get("reason", "").strip())


def _path(tenant: str, name: str) -> str:
    return f"{PLACE}/budget?{urlencode({'tenant': tenant, 'name': name})}"


def _typed(spec: BudgetSpec) -> dict[str, str]:
    """The fields of the form that declare this budget."""
    subject = budgets.subject_of(spec)
    unit = next(unit for unit in ("usd", "tokens", "calls", "joules") if getattr(spec, unit) is not None)
    return {
        "name": spec.name,
        "kind": subject.kind,
        "on": subject.name,
        "amount": str(getattr(spec, unit)),
        "unit": unit,
        "window": spec.window,
        "hardness": "hard" if spec.hard else "soft",
        "alerts": ", ".join(map(str, spec.alerts)),
    }


def _spec(form: Fields, name: str) -> BudgetSpec:
    """What a filled-in form declares. Raises BadRequest."""
    kind, on = form.get("kind", ""), form.get("on", "").strip()
    if kind not in dict(KINDS):
        raise BadRequest("say what the budget is on", param="kind")
    if kind != ALL and not on:
        raise BadRequest(f"name {dict(KINDS)[kind]} that the budget is on", param="on")
    given: dict[str, Any] = {} if kind == ALL else {kind: on}
    given |= _amount(form.get("amount", "").strip(), form.get("unit", ""))
    given |= {"name": name, "window": form.get("window", "").strip(), "hard": form.get("hardness", "") != "soft"}
    percents = [part.strip(" %") for part in form.get("alerts", "").split(",") if part.strip(" %")]
    if not all(re.fullmatch("[0-9]{1,4}", part) for part in percents):
        raise BadRequest("tell at: whole percentages with commas between them, such as 80, 100", param="alerts")
    try:
        return msgspec.convert({**given, "alerts": [int(part) for part in percents]}, BudgetSpec)
    except msgspec.ValidationError:
        raise BadRequest("tell at: percentages from 1 to 1000", param="alerts") from None


def _amount(text: str, unit: str) -> dict[str, Any]:
    plain = text.replace("\u202f", "").replace(" ", "")
    if unit in ("calls", "tokens"):
        if not re.fullmatch("[0-9]{1,18}", plain):
            raise BadRequest(f"amount: a whole number of {unit}", param="amount")
        return {unit: int(plain)}
    if unit not in dict(UNITS):
        raise BadRequest("amount: say in which unit", param="unit")
    try:
        value = Decimal(plain) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", plain) else Decimal("nan")
    except InvalidOperation:
        value = Decimal("nan")
    if value.is_nan():
        raise BadRequest("amount: a number such as 500 or 12.50", param="amount")
    return {"joules": f"{value * JOULES_PER_KWH:f}"} if unit == "kwh" else {unit: plain}


def _step(change: Change, tx: Tx) -> Step:
    before, after = _plain(change.before, tx), _plain(change.after, tx)
    names = dict.fromkeys((*before, *after))
    return Step(
        change, [(n, before.get(n, ""), after.get(n, "")) for n in names if before.get(n, "") != after.get(n, "")]
    )


def _plain(row: dict[str, Any] | None, tx: Tx) -> dict[str, str]:
    """A kept budget in the words of its declaration."""
    if not row:
        return {}
    measure, amount = str(row["measure"]), int(row["amount"])
    (unit, value), *_ = budget_fields(measure, amount).items()
    return {
        "on": f"{row['kind']} {tx.names.of(str(row['subject']))}".strip(),
        "amount": f"{value} {unit}",
        "window": str(row["window"]),
        "kind": "hard" if row["hard"] else "soft",
        "tells at": ", ".join(f"{percent} %" for percent in row["alerts"]),
    }


PAGES = (
    Page("GET", "/budgets", listing),
    Page("GET", "/budgets/budget", show),
    Page("GET", "/budgets/new", fresh),
    Page("POST", "/budgets/new", create),
    Page("POST", "/budgets/budget", change),
    Page("POST", "/budgets/delete", delete),
)
