"""Requests for more of a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import quotas
from interlock.control.documents import Positive
from interlock.control.routes.actions import Nothing
from interlock.control.web import Body, Given, Json, Who, api_of, route


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`amount`: what the budget should have, in the unit it is kept in: calls, tokens, nano-USD, microjoules."""

    budget: str
    amount: Positive


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    path, tag = "/tenants/{tenant}/quota-requests", "budgets"
    route(out, "GET", path, listed, "List requests for more of a budget", tag=tag, answer=list[quotas.Shown])
    summary = "Ask for more of a budget"
    route(out, "POST", path, ask, summary, tag=tag, body=Ask, answer=quotas.Shown, status=201, reason=True)
    for verb, act, summary in (
        ("approve", quotas.approve, "Approve a request: its budget gets what was asked for"),
        ("refuse", quotas.refuse, "Refuse a request for more of a budget"),
        ("withdraw", quotas.withdraw, "Withdraw one's own request"),
    ):
        where = f"{path}/{{id}}/{verb}"
        route(out, "POST", where, _deciding(act), summary, tag=tag, body=Nothing, answer=quotas.Shown, reason=True)
    return out


def listed(request: Request, who: Who) -> Response:
    """Open ones first, then the newest."""
    return Json(quotas.listed(api_of(request), who, request.path_params["tenant"]))


def ask(request: Request, who: Who, body: Body) -> Response:
    """Nothing changes until somebody else approves."""
    given = Given(request, body)
    wish = given.as_(Ask)
    tenant = request.path_params["tenant"]
    made = quotas.ask(api_of(request), who, tenant, wish.budget, wish.amount, given.reason)
    return Json(made, status_code=201)


def _deciding(act: Callable[..., Any]) -> Callable[..., Response]:
    def decide(request: Request, who: Who, body: Body) -> Response:
        given = Given(request, body)
        given.as_(Nothing)
        return Json(act(api_of(request), who, request.path_params["tenant"], request.path_params["id"], given.reason))

    decide.__doc__ = act.__doc__
    return decide
