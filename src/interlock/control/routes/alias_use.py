"""Who uses an alias, and how a candidate does beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from psycopg import Connection
from starlette.responses import Response

from interlock.control.identity import tenant_of
from interlock.control.permissions import Action
from interlock.control.services import alias_use
from interlock.control.web import Json, Who, allow, api_of, route
from interlock.errors import BadRequest

DAY_NS = 86_400_000_000_000
DAYS_MAX = 366
_T = TypeVar("_T")


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    path = "/tenants/{tenant}/alias-use"
    summary = "Who uses an alias of a tenant or of the platform"
    route(out, "GET", f"{path}/users", users, summary, tag="aliases", answer=list[alias_use.AliasUser])
    summary = "How the ways through an alias did, and how its shadow's answers compare"
    route(out, "GET", f"{path}/compare", compare, summary, tag="aliases", answer=alias_use.CompareReport)
    return out


def users(request: Request, who: Who, alias: str = "", days: int = 30) -> Response:
    """Those whose calls went through `alias` in the last `days` days, most calls first, and their last call."""
    return _report(request, who, alias, days, alias_use.users)


def compare(request: Request, who: Who, alias: str = "", days: int = 7) -> Response:
    """Failures, times, tokens, cost and energy of each way through `alias` in the last `days` days; agreement of
    answers."""
    return _report(request, who, alias, days, alias_use.compare)


def _report(
    request: Request, who: Who, alias: str, days: int, make: Callable[[Connection[Any], str, str, int, int], _T]
) -> Response:
    api = api_of(request)
    tenant_id = tenant_of(api.store, who, request.path_params["tenant"])
    allow(who, Action.usage_read, tenant_id)
    if not alias:
        raise BadRequest("alias is missing", param="alias")
    if not 1 <= days <= DAYS_MAX:
        raise BadRequest(f"days is 1 to {DAYS_MAX}", param="days")
    until_ns = api.tools.clock.wall_ns()
    with api.store.tenant(tenant_id) as conn:
        return Json(make(conn, tenant_id, alias, until_ns - days * DAY_NS, until_ns))
