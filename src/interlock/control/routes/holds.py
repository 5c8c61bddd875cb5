"""Legal holds: list, add, release. Adding one stops removal, releasing one lets it go on: each by its own rule."""

from __future__ import annotations

import datetime

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control.identity import Actor, tenant_of
from interlock.control.permissions import Action
from interlock.control.services import keeping
from interlock.control.web import Body, Given, Json, Who, allow, api_of, route
from interlock.storage import holds


class AddHold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On whom: the name of a principal, or the id of one that is in no table; "": on everything of the tenant."""

    subject: str = ""


class HoldView(msgspec.Struct, frozen=True):
    """A legal hold. `subject`: id of a principal, "" for the whole tenant. `released_at` null: it stands."""

    id: str
    subject: str
    reason: str
    added_by: str
    added_at: datetime.datetime
    released_by: str | None
    released_at: datetime.datetime | None
    released_reason: str | None


class HoldList(msgspec.Struct, frozen=True):
    """All holds of a tenant, oldest first, released ones too."""

    items: list[HoldView]


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    base = "/tenants/{tenant}/ledger/holds"
    route(out, "GET", base, listed, "List legal holds", tag="ledger", answer=HoldList)
    summary = "Add a legal hold: nothing that it is on is removed or erased"
    route(out, "POST", base, add, summary, tag="ledger", body=AddHold, answer=HoldView, reason=True)
    path = f"{base}/{{hold}}/release"
    route(out, "POST", path, release, "Release a legal hold", tag="ledger", answer=HoldView, reason=True)
    return out


def listed(request: Request, who: Who) -> Response:
    """Who held what, why and since when; and who released it."""
    tenant_id = _tenant(request, who, Action.ledger_read)
    with api_of(request).store.tenant(tenant_id) as conn:
        found = holds.every(conn, tenant_id)
    return Json(HoldList([_view(hold) for hold in found]))


def add(request: Request, who: Who, body: Body) -> Response:
    """From the answer on, retention removes nothing of the subject, and it cannot be erased."""
    api = api_of(request)
    given = Given(request, body)
    asked = given.as_(AddHold).subject
    tenant_id = _tenant(request, who, Action.ledger_hold)
    return Json(_view(keeping.hold(api.store, api.tools, who, tenant_id, asked, given.reason)))


def release(request: Request, who: Who, body: Body) -> Response:
    """It stays in the list. What other holds are on is still kept."""
    api = api_of(request)
    reason = Given(request, body).reason
    tenant_id = _tenant(request, who, Action.ledger_hold_release)
    hold_id = request.path_params["hold"]
    return Json(_view(keeping.release(api.store, api.tools, who, tenant_id, hold_id, reason)))


def _view(hold: holds.Hold) -> HoldView:
    return msgspec.convert(hold, HoldView, from_attributes=True)


def _tenant(request: Request, who: Actor, action: Action) -> str:
    tenant_id = tenant_of(api_of(request).store, who, request.path_params["tenant"])
    allow(who, action, tenant_id)
    return tenant_id
