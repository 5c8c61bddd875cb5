"""What another configuration, or other ways to decide, would make of logged calls."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import comparing
from interlock.control.permissions import Action
from interlock.control.rerouting import service
from interlock.control.rerouting.change import ModeWeights, Otherwise
from interlock.control.rerouting.report import Rerouted
from interlock.control.routes.policies import checked_period
from interlock.control.routes.resources import reading
from interlock.control.routes.system import File, Files
from interlock.control.web import Body, Given, Json, Who, allow, api_of, reason_of, route
from interlock.errors import BadRequest

WITHOUT_MAX = 100


class Rerouting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The change. `files`: configuration as `apply` takes it; none: it stays as it is. `mode`: every call is decided in
    it. `weights`: in place of a mode's. `explore_share_milli`, `explore_money_milli`: bounds of trying others.
    `without`: sources, or `SOURCE::MODEL`, that are not there. Calls admitted in [since_ns, until_ns), 0: open."""

    files: tuple[File, ...] = ()
    mode: str = ""
    weights: ModeWeights | None = None
    explore_share_milli: int | None = None
    explore_money_milli: int | None = None
    without: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = 0


def router() -> APIRouter:
    """The endpoint."""
    out = APIRouter()
    path, summary = "/tenants/{tenant}/route/what-if", "What a change would make of the routing of a tenant's calls"
    route(out, "POST", path, what_if, summary, tag="policies", body=Rerouting, answer=Rerouted)
    return out


def what_if(request: Request, who: Who, body: Body) -> Response:
    """Exact where calls are decided again; estimates have intervals. The look at the ledger is recorded."""
    asked = Given(request, body).as_(Rerouting)
    checked_period(asked.since_ns, asked.until_ns)
    if len(asked.without) > WITHOUT_MAX:
        raise BadRequest(f"without: at most {WITHOUT_MAX}", param="without")
    api = api_of(request)
    with reading(request, who, request.path_params["tenant"], Action.config_plan) as (_, tenant_id):
        allow(who, Action.ledger_read, tenant_id or None)
    otherwise = Otherwise(
        asked.mode, asked.weights, asked.explore_share_milli, asked.explore_money_milli, asked.without
    )
    files = tuple(Files(asked.files).texts()) if asked.files else ()
    asker = comparing.Asker(api.store, api.tools, who, reason_of(request))
    period = comparing.Period(asked.since_ns, asked.until_ns, 0)
    proposed = service.Proposed(files, otherwise)
    return Json(service.what_if(asker, api.configurator, tenant_id, proposed, period))
