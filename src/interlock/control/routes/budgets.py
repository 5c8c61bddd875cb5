"""How far budgets are used."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.permissions import Action
from interlock.control.routes.resources import reading
from interlock.control.services import budgets
from interlock.control.web import Json, Who, route


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    summary = "How far a tenant's budgets are used now"
    path = "/tenants/{tenant}/budget-use"
    route(out, "GET", path, of_tenant, summary, tag="budgets", answer=list[budgets.BudgetUse])
    return out


def of_tenant(request: Request, who: Who) -> Response:
    """Each budget's current period: its amount, what was used, what is held by running calls, alerts passed."""
    with reading(request, who, request.path_params["tenant"], Action.budget_read) as (tx, tenant_id):
        return Json(budgets.uses(tx, tenant_id))
