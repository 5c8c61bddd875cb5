"""Reports of usage, of a tenant or of all of them."""

from __future__ import annotations

import datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.identity import tenant_of
from interlock.control.permissions import Action
from interlock.control.services import usage
from interlock.control.web import Json, Who, allow, api_of, route
from interlock.errors import BadRequest


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    summary = "What a tenant used"
    route(out, "GET", "/tenants/{tenant}/usage", of_tenant, summary, tag="usage", answer=usage.Report)
    route(out, "GET", "/usage", of_all, "What all tenants used", tag="usage", answer=usage.Report)
    return out


def of_tenant(request: Request, who: Who, by: str = "") -> Response:
    """`by`: some of day, month, team, cost_center, principal, source, model, alias, class, workload.

    `from`, `to`: days, [from, to)."""
    api = api_of(request)
    tenant_id = tenant_of(api.store, who, request.path_params["tenant"])
    allow(who, Action.usage_read, tenant_id)
    first, after = _days(request)
    with api.store.tenant(tenant_id) as conn:
        return Json(usage.report(conn, tenant_id, _list(by), first, after))


def of_all(request: Request, who: Who, by: str = "tenant") -> Response:
    """As for a tenant, and by tenant: also unasked where names of several tenants would be taken for one."""
    api = api_of(request)
    allow(who, Action.usage_read, None)
    first, after = _days(request)
    columns = _list(by)
    if "tenant" not in columns and {"team", "principal", "cost_center"} & set(columns):
        columns.insert(0, "tenant")
    with api.store.platform() as conn:
        return Json(usage.report(conn, "", columns, first, after))


def _days(request: Request) -> tuple[datetime.date, datetime.date]:
    found = []
    for name in ("from", "to"):
        try:
            found.append(datetime.date.fromisoformat(request.query_params.get(name, "")))
        except ValueError:
            raise BadRequest(f"{name} is a day such as 2026-03-01", param=name) from None
    return found[0], found[1]


def _list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
