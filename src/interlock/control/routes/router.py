"""What the router has learned of a tenant: to be looked at, corrected and forgotten."""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from starlette.responses import Response

from interlock.control import router_actions
from interlock.control.identity import tenant_of
from interlock.control.permissions import Action
from interlock.control.routes.actions import Nothing
from interlock.control.services import router as services
from interlock.control.services import router_quality, router_reports
from interlock.control.web import Api, Body, Given, Json, Who, allow, api_of, reason_of, route
from interlock.errors import BadRequest

MICRO = 1_000_000
HISTORY = 50
DAYS = 30
HOURS_MAX = 24 * 366


class ResetAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`arm`: the model that is forgotten, "" all of them."""

    arm: str = ""


class PriorAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`quality`: what to expect of the model's answers, in [0, 1]. `outcomes`: as how many outcomes that counts."""

    quality: Annotated[float, Meta(ge=0, le=1)]
    outcomes: Annotated[int, Meta(ge=1)] = 100


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    path, tag = "/tenants/{tenant}/router", "router"
    route(out, "GET", path, shown, "What the router has learned, and by what it decides", tag=tag,
          answer=services.State)  # fmt: skip
    route(out, "GET", f"{path}/history", history, "States of the router that were in force", tag=tag,
          answer=services.History)  # fmt: skip
    route(out, "GET", f"{path}/quality", quality, "Quality of answers per model, department and task", tag=tag,
          answer=router_quality.QualityReport)  # fmt: skip
    route(out, "GET", f"{path}/shares", shares, "Which models answered what the router decided", tag=tag,
          answer=router_reports.Shares)  # fmt: skip
    route(out, "GET", f"{path}/shared", shared, "What a tenant tells others of models, and is told", tag=tag,
          answer=services.Sharing)  # fmt: skip
    route(out, "POST", f"{path}/reset", reset, "Forget what was learned", tag=tag, body=ResetAsked,
          answer=router_actions.Forgotten, reason=True)  # fmt: skip
    one = f"{path}/arms/{{arm:path}}"
    route(out, "PUT", one, put, "Say what to expect of a model", tag=tag, body=PriorAsked, answer=services.Prior,
          reason=True)  # fmt: skip
    route(out, "DELETE", one, delete, "Unsay what was said of a model", tag=tag, answer=Nothing, reason=True)
    return out


def shown(request: Request, who: Who) -> Response:
    """Tasks, models and offers with figures, the bounds of trying others, and what administrators said."""
    api, tenant_id = _place(request, who, Action.router_read)
    with api.store.tenant(tenant_id) as conn:
        return Json(services.state(conn, tenant_id, api.tools.settings))


def history(request: Request, who: Who, limit: int = HISTORY) -> Response:
    """At most `limit` states, evenly spread over all that there were."""
    api, tenant_id = _place(request, who, Action.router_read)
    if not 1 <= limit <= services.HISTORY_MAX:
        raise BadRequest(f"limit is 1 to {services.HISTORY_MAX}", param="limit")
    with api.store.platform() as conn:
        return Json(services.history(conn, tenant_id, limit))


def quality(request: Request, who: Who, by: str = "model") -> Response:
    """`by`: some of model, team, cost_center, principal, source, class, workload, day, month, of feedback on the calls
    of [from, to), 30 days when left out; or task with some of model, team and cost_center, of the outcomes that the
    learner holds (model and task alone: what the state in force expects)."""
    api, tenant_id = _place(request, who, Action.router_read)
    today = api.tools.now().date()
    first = _day(request, "from", today - datetime.timedelta(days=DAYS - 1))
    after = _day(request, "to", today + datetime.timedelta(days=2))
    columns = [name.strip() for name in by.split(",") if name.strip()]
    with api.store.tenant(tenant_id) as conn:
        return Json(router_quality.report(conn, tenant_id, columns, first, after))


def shares(request: Request, who: Who, hours: int = 24, step_hours: int = 1) -> Response:
    """Of the last `hours`, in steps of `step_hours`: calls by model, how many tried another than the best, what was
    said of answers, and an estimate of what was given up."""
    api, tenant_id = _place(request, who, Action.router_read)
    if not 1 <= hours <= HOURS_MAX or not 1 <= step_hours <= HOURS_MAX:
        raise BadRequest(f"hours and step_hours are 1 to {HOURS_MAX}", param="hours")
    until_ns = api.tools.clock.wall_ns()
    step_ns = step_hours * router_reports.HOUR_NS
    with api.store.tenant(tenant_id) as conn:
        since_ns = until_ns - hours * router_reports.HOUR_NS
        return Json(router_reports.shares(conn, tenant_id, since_ns, until_ns, step_ns))


def shared(request: Request, who: Who) -> Response:
    """All figures that leave the tenant, and as how many outcomes those of others count here."""
    api, tenant_id = _place(request, who, Action.router_read)
    with api.store.tenant(tenant_id) as conn:
        return Json(services.shared(conn, tenant_id))


def reset(request: Request, who: Who, body: Body) -> Response:
    """Of one model, or of all: decisions are without it at once, and the learner begins anew."""
    api, tenant_id = _place(request, who, Action.router_write)
    given = Given(request, body)
    asked = given.as_(ResetAsked)
    return Json(router_actions.reset(api.store, api.tools, who, tenant_id, asked.arm, given.reason))


def put(request: Request, who: Who, body: Body) -> Response:
    """It counts beside what was seen as that many outcomes do, and does not fade; the next state has it."""
    api, tenant_id = _place(request, who, Action.router_write)
    given = Given(request, body)
    asked = given.as_(PriorAsked)
    arm = request.path_params["arm"]
    prior = (arm, round(asked.quality * MICRO), asked.outcomes)
    made = router_actions.put(api.store, api.tools, who, tenant_id, prior, given.reason)
    return Json(services.prior(made))


def delete(request: Request, who: Who) -> Response:
    """From the next state on, what was learned counts alone."""
    api, tenant_id = _place(request, who, Action.router_write)
    router_actions.delete(api.store, api.tools, who, tenant_id, request.path_params["arm"], reason_of(request))
    return Json(Nothing())


def _place(request: Request, who: Who, action: Action) -> tuple[Api, str]:
    api = api_of(request)
    tenant_id = tenant_of(api.store, who, request.path_params["tenant"])
    allow(who, action, tenant_id)
    return api, tenant_id


def _day(request: Request, name: str, default: datetime.date) -> datetime.date:
    text = request.query_params.get(name, "")
    try:
        return datetime.date.fromisoformat(text) if text else default
    except ValueError:
        raise BadRequest(f"{name} is a day such as 2026-03-01", param=name) from None
