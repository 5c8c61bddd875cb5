"""Alerts: what fires, rules, channels, silence, tests. `?tenant=` says whose; left out, the platform's."""

from __future__ import annotations

import datetime

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.alerts import service, shown
from interlock.control.alerts.service import ChannelSpec
from interlock.control.documents import RuleSpec
from interlock.control.routes.actions import Nothing
from interlock.control.web import Body, Given, Json, Who, api_of, reason_of, revision_of, route


class Silence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`until`: an instant within 30 days; null ends a silence."""

    until: datetime.datetime | None = None


class Tried(msgspec.Struct, frozen=True):
    """What became of a test: the event's id, and the delivery."""

    event: str
    delivery: shown.DeliveryView


def router() -> APIRouter:
    """The endpoints."""
    out, tag = APIRouter(), "alerts"
    rule, channel = "/alerts/rules/{name}", "/alerts/channels/{name}"
    route(out, "GET", "/alerts", listed, "What fires, rules, channels, newest events", tag=tag, answer=shown.AlertsView)
    route(out, "GET", rule, show_rule, "A rule, and what it watches", tag=tag, answer=shown.RuleView)
    route(out, "PUT", rule, put_rule, "Make or change a rule", tag=tag, body=RuleSpec, answer=shown.RuleView,
          reason=True, revision=True)  # fmt: skip
    route(out, "DELETE", rule, delete_rule, "Remove a rule", tag=tag, reason=True)
    summary = "Tell nobody of a rule's events until a time"
    route(out, "POST", f"{rule}/silence", silence, summary, tag=tag, body=Silence, answer=shown.RuleView, reason=True)
    route(out, "PUT", channel, put_channel, "Make or change a channel", tag=tag, body=ChannelSpec,
          answer=shown.ChannelView, reason=True, revision=True)  # fmt: skip
    route(out, "DELETE", channel, delete_channel, "Remove a channel that no rule names", tag=tag, reason=True)
    summary = "Tell a channel of a test, now"
    route(out, "POST", f"{channel}/test", test, summary, tag=tag, body=Nothing, answer=Tried, reason=True)
    return out


def listed(request: Request, who: Who, tenant: str = "") -> Response:
    """Rules that fire first."""
    return Json(shown.overview(api_of(request), who, tenant))


def show_rule(request: Request, who: Who, tenant: str = "") -> Response:
    """Those of its things that fire first."""
    return Json(shown.one_rule(api_of(request), who, tenant, request.path_params["name"]))


def put_rule(request: Request, who: Who, body: Body, tenant: str = "") -> Response:
    """What it reads (`kind`) stays what it was made with."""
    given, name = Given(request, body), request.path_params["name"]
    spec = given.as_(RuleSpec)
    service.put_rule(api_of(request), who, tenant, name, spec, given.reason, revision_of(request))
    return Json(shown.one_rule(api_of(request), who, tenant, name))


def delete_rule(request: Request, who: Who, tenant: str = "") -> Response:
    """What it fires for is over, and its channels are told so."""
    service.delete_rule(api_of(request), who, tenant, request.path_params["name"], reason_of(request))
    return Json({"deleted": request.path_params["name"]})


def silence(request: Request, who: Who, body: Body, tenant: str = "") -> Response:
    """It is evaluated, and its events are kept. What still fires at the end of the silence is told then."""
    given, name = Given(request, body), request.path_params["name"]
    service.silence(api_of(request), who, tenant, name, given.as_(Silence).until, given.reason)
    return Json(shown.one_rule(api_of(request), who, tenant, name))


def put_channel(request: Request, who: Who, body: Body, tenant: str = "") -> Response:
    """The secret is named, never sent: an environment variable or a file."""
    given = Given(request, body)
    name, spec = request.path_params["name"], given.as_(ChannelSpec)
    made = service.put_channel(api_of(request), who, tenant, name, spec, given.reason, revision_of(request))
    return Json(shown.channel_view(made))


def delete_channel(request: Request, who: Who, tenant: str = "") -> Response:
    """What was still to be told there fails."""
    service.delete_channel(api_of(request), who, tenant, request.path_params["name"], reason_of(request))
    return Json({"deleted": request.path_params["name"]})


def test(request: Request, who: Who, body: Body, tenant: str = "") -> Response:
    """One attempt, whose outcome is the answer; it is not tried again."""
    given = Given(request, body)
    given.as_(Nothing)
    name = request.path_params["name"]
    event, delivery = service.try_channel(api_of(request), who, tenant, name, given.reason)
    return Json(Tried(event.id, shown.delivery_view(delivery)))
