"""What happens now, as the console's page Live shows it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.live.view import FILTERS, View
from interlock.control.services.live import scope_of
from interlock.control.web import Json, Who, api_of, route
from interlock.errors import Unavailable


def router() -> APIRouter:
    """The endpoint."""
    out = APIRouter()
    route(out, "GET", "/live", live, "What happens now: figures, sources, newest calls", tag="live", answer=View)
    return out


def live(request: Request, who: Who, tenant: str = "", by: str = "source", order: str = "newest") -> Response:
    """Of one tenant, or of all of them when left out. `by`: source, model, team, cost_center, principal or tenant.
    `source`, `model` or `cost_center` narrows it down. Single calls are there for who may read the ledger; that they
    are watched is recorded, once an hour. `order`, of those that run: newest or longest first."""
    api = api_of(request)
    if api.live is None:
        raise Unavailable("this control process has no live view")
    field = next((name for name in FILTERS if request.query_params.get(name)), "")
    value = request.query_params.get(field, "") if field else ""
    view = api.live.feed.view(scope_of(api.store, who, tenant, by, field, value, order))
    api.live.watching.note(api.store, api.tools, who, sorted(view.looked_at))
    return Json(view)
