"""Asking for more of a budget, and what becomes of it: approved by somebody else, which changes the budget in the same
transaction, refused, or withdrawn. Each step is a change with its reason."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import msgspec

from interlock.control.amounts import budget_fields
from interlock.control.permissions import Action
from interlock.control.plan import Ref
from interlock.control.reading import reading_at
from interlock.control.services import budgets
from interlock.errors import BadRequest, Conflict, Denied, NotFound
from interlock.storage import budgets as stored_budgets
from interlock.storage import quota_requests
from interlock.storage.quota_requests import OPEN, QuotaRequest

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.identity import Actor
    from interlock.control.services.base import Tx
    from interlock.control.web import Api
    from interlock.storage.table import Stored

SHOWN_MAX = 200


class Shown(msgspec.Struct, frozen=True):
    """A request as it is shown. `now` and `wanted`: the budget's amount and the one that is asked for, in `measure`."""

    id: str
    budget: str
    measure: str
    now: int
    wanted: int
    asker: str
    why: str
    state: str
    decider: str
    answer: str
    asked_at: datetime.datetime
    own: bool


def listed(api: Api, actor: Actor, tenant: str) -> list[Shown]:
    """The requests of a tenant, open ones first. Raises Denied, NotFound."""
    with reading_at(api.store, api.tools, actor, tenant, Action.quota_read) as (tx, tenant_id):
        return [_shown(tx, stored, actor) for stored in quota_requests.newest(tx.conn, tenant_id, SHOWN_MAX)]


def ask(api: Api, actor: Actor, tenant: str, budget: str, amount: int, reason: Reason) -> Shown:
    """Ask for a budget of `amount`, in its own measure. Raises BadRequest, Conflict (too many are open), NotFound."""
    with api.configurator.acting(actor, Ref("budget", tenant, budget), Action.quota_ask, reason) as tx:
        tenant_id = tx.names.tenant(tenant)
        found = budgets.find(tx, tenant_id, budget).value
        if amount <= found.amount:
            raise BadRequest(f"the budget has {found.amount} {found.measure} already; ask for more", param="amount")
        most = tx.tools.settings.quota_requests_open_max
        if len(quota_requests.open_of(tx.conn, tenant_id, actor.principal_id)) >= most:
            raise Conflict(f"you have {most} open requests, the most there may be (quota_requests_open_max)",
                           code="too_many")  # fmt: skip
        made = QuotaRequest(
            tx.tools.new_id("quota_request"), tenant_id, found.id, actor.principal_id, actor.name, amount, tx.by.reason
        )
        return _shown(tx, quota_requests.insert(tx.conn, made, tx.by), actor)


def approve(api: Api, actor: Actor, tenant: str, request_id: str, reason: Reason) -> Shown:
    """The budget gets what was asked for. Raises Conflict (decided already, or the budget is that large), Denied (also
    for one's own), NotFound."""
    with api.configurator.acting(actor, Ref("budget", tenant, request_id), Action.budget_write, reason) as tx:
        found = _open(tx, tenant, request_id)
        if found.asker_id == actor.principal_id:
            raise Denied("nobody approves what they asked for themselves", code="own_request")
        budget = _budget(tx, found)
        if budget.amount >= found.amount:
            raise Conflict("the budget is that large already; refuse the request, and say so")
        spec = budgets.spec_of(budget, tx.names)
        wanted = msgspec.structs.replace(spec, **budget_fields(budget.measure, found.amount))
        budgets.update(tx, found.tenant_id, wanted)
        return _decided(tx, found, actor, "approved", "approve")


def refuse(api: Api, actor: Actor, tenant: str, request_id: str, reason: Reason) -> Shown:
    """It stays as it is. Raises Conflict, Denied, NotFound."""
    with api.configurator.acting(actor, Ref("budget", tenant, request_id), Action.budget_write, reason) as tx:
        return _decided(tx, _open(tx, tenant, request_id), actor, "refused", "refuse")


def withdraw(api: Api, actor: Actor, tenant: str, request_id: str, reason: Reason) -> Shown:
    """Whoever asked asks no longer. Raises Conflict, Denied, NotFound (also for somebody else's)."""
    with api.configurator.acting(actor, Ref("budget", tenant, request_id), Action.quota_ask, reason) as tx:
        found = _open(tx, tenant, request_id)
        if found.asker_id != actor.principal_id:
            raise NotFound(f"there is no request {request_id!r} of yours", param="id")
        return _decided(tx, found, actor, "withdrawn", "withdraw")


def _open(tx: Tx, tenant: str, request_id: str) -> QuotaRequest:
    stored = quota_requests.get(tx.conn, request_id)
    if stored is None or stored.value.tenant_id != tx.names.tenant(tenant):
        raise NotFound(f"there is no request {request_id!r}", param="id")
    if stored.value.state != OPEN:
        raise Conflict(f"the request is {stored.value.state} already")
    return stored.value


def _decided(tx: Tx, found: QuotaRequest, actor: Actor, state: str, verb: str) -> Shown:
    done = msgspec.structs.replace(found, state=state, decider=actor.name, answer=tx.by.reason)
    return _shown(tx, quota_requests.update(tx.conn, done, tx.by, verb), actor)


def _budget(tx: Tx, found: QuotaRequest) -> stored_budgets.BudgetRow:
    stored = stored_budgets.get(tx.conn, found.budget_id)
    if stored is None:
        raise NotFound("its budget is no longer there")
    return stored.value


def _shown(tx: Tx, stored: Stored[QuotaRequest], actor: Actor) -> Shown:
    found, budget = stored.value, _budget(tx, stored.value)
    return Shown(
        found.id,
        budget.name,
        budget.measure,
        budget.amount,
        found.amount,
        found.asker,
        found.why,
        found.state,
        found.decider,
        found.answer,
        stored.created_at,
        found.asker_id == actor.principal_id,
    )
