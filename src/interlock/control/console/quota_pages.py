"""Requests for more of a budget: asking, and what somebody else makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from interlock.control import quotas
from interlock.control.amounts import FIELDS, kept_amount
from interlock.control.apply import Reason
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.identity import reach_of, tenant_of
from interlock.control.permissions import Action
from interlock.control.reading import reading_at
from interlock.errors import BadRequest, InterlockError
from interlock.storage import budgets as stored_budgets

if TYPE_CHECKING:
    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit

PLACE = "/console/requests"
_ACTS = {
    "approve": (quotas.approve, "The budget has what was asked for."),
    "refuse": (quotas.refuse, "The request is refused."),
    "withdraw": (quotas.withdraw, "The request is withdrawn."),
}


def listing(visit: Visit, _: Sessions) -> Response:
    """What is asked for, and what became of it."""
    return _listing(visit)


def _listing(visit: Visit, error: InterlockError | None = None) -> Response:
    tenant, names = chosen(visit, Action.quota_read)
    api, actor = visit.api, visit.who()
    tenant_id = tenant_of(api.store, actor, tenant)
    with reading_at(api.store, api.tools, actor, tenant, Action.quota_read) as (tx, _):
        most = api.tools.settings.budgets_max
        rows = [stored.value for stored in stored_budgets.page(tx.conn, tenant_id=tenant_id, limit=most)]
    return visit.page(
        "requests.html",
        error.status if error is not None else 200,
        error=error,
        typed=visit.form,
        tenant=tenant,
        tenants=names,
        requests=quotas.listed(api, actor, tenant),
        budgets=sorted(rows, key=lambda row: row.name),
        units=FIELDS,
        may_ask=visit.may(Action.quota_ask, reach_of(tenant_id)),
        may_decide=visit.may(Action.budget_write, reach_of(tenant_id)),
    )


def act(visit: Visit, _: Sessions) -> Response:
    """Ask, approve, refuse or withdraw, as the pressed button says."""
    form, api, who = visit.form, visit.api, visit.who()
    verb, tenant, reason = form["do"], form["tenant"], Reason(form["reason"].strip())
    try:
        if verb == "ask":
            quotas.ask(api, who, tenant, form["budget"], _amount(visit, tenant), reason)
            said = "Your request is open. Somebody who may change budgets decides."
        elif verb in _ACTS:
            does, said = _ACTS[verb]
            does(api, who, tenant, form["id"], reason)
        else:
            raise BadRequest("there is no such action", param="do")
    except InterlockError as error:
        return _listing(visit, error)
    return visit.go(f"{PLACE}?{urlencode({'tenant': tenant})}", said=said)


def _amount(visit: Visit, tenant: str) -> int:
    """What was typed, in the unit that the budget is kept in. Raises BadRequest, NotFound."""
    api, name = visit.api, visit.form["budget"]
    with reading_at(api.store, api.tools, visit.who(), tenant, Action.quota_read) as (tx, tenant_id):
        stored = stored_budgets.by_name(tx.conn, tenant_id, name)
    if stored is None:
        raise BadRequest("choose a budget", param="budget")
    text = visit.form["amount"].replace("\u202f", "").replace(" ", "")
    try:
        return kept_amount(stored.value.measure, text)
    except ValueError as error:
        raise BadRequest(f"amount: {error}", param="amount") from None


PAGES = (Page("GET", "/requests", listing), Page("POST", "/requests", act))
