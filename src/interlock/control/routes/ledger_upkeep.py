"""What the owner of an installation does to its ledger: another signing key, the end of a node that never returns."""

from __future__ import annotations

import datetime

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import rotation
from interlock.control.permissions import Action
from interlock.control.web import Body, Given, Json, Who, allow, api_of, reason_of, route
from interlock.errors import BadRequest
from interlock.storage import changes, retirement, roles
from interlock.storage.changes import Author, Change

NODE_CHARACTERS_MAX = 255


class RetireNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a gateway node."""

    node: str


class LostView(msgspec.Struct, frozen=True):
    """An epoch that was given up: how many entries arrived, of all tenants, and after which instant calls are lost."""

    epoch: str
    entries: int
    lost_after: datetime.datetime


class RetiredView(msgspec.Struct, frozen=True):
    """A node that was retired at an instant, what was given up, and after which instant it may have begun more that
    nobody knows of."""

    node: str
    at: datetime.datetime
    epochs: list[LostView]
    unannounced_after: datetime.datetime


def router() -> APIRouter:
    """The endpoints."""
    out = APIRouter()
    summary = "Change the key that the ledger is signed with"
    answer = rotation.Rotated
    route(out, "POST", "/ledger/rotate-key", rotate_key, summary, tag="ledger", answer=answer, reason=True)
    summary = "Give up what a node that never comes back has not shipped"
    path = "/ledger/retire-node"
    route(out, "POST", path, retire_node, summary, tag="ledger", body=RetireNode, answer=RetiredView, reason=True)
    return out


def rotate_key(request: Request, who: Who) -> Response:
    """The new private key stays in a file of the machine that answers; the old key signs nothing more."""
    api = api_of(request)
    allow(who, Action.ledger_rotate_key, None)
    reason = reason_of(request)
    by = Author(who.principal_id, who.name, reason.text, api.tools.now(), reason.request_id)
    return Json(rotation.rotate(api.store, api.tools, api.keyring, by))


def retire_node(request: Request, who: Who, body: Body) -> Response:
    """Its open epochs are settled as lost, with what arrived. It must have been silent for ledger_retire_silent_s."""
    api = api_of(request)
    allow(who, Action.ledger_retire_node, None)
    given = Given(request, body)
    node = given.as_(RetireNode).node
    if not 0 < len(node) <= NODE_CHARACTERS_MAX or not node.isprintable():
        raise BadRequest("node is the name of a gateway node", param="node")
    by = Author(who.principal_id, who.name, given.reason.text, api.tools.now(), given.reason.request_id)
    silent_ns = api.tools.settings.ledger_retire_silent_s * 1_000_000_000
    with api.store.shipping() as conn:
        done = retirement.retire(conn, node, api.tools.clock.wall_ns(), silent_ns)
        entries = {each.epoch: retirement.arrived(conn, each.epoch) for each in done.epochs}
        roles.take(conn, roles.PLATFORM)
        after = {"at_ns": done.at_ns, "epochs": {each.epoch: each.after_ns for each in done.epochs}}
        changes.record(conn, Change("", "ledger.retire_node", "node", node, None, after), by)
    lost = [LostView(each.epoch, entries[each.epoch], _instant(each.after_ns)) for each in done.epochs]
    return Json(RetiredView(node, _instant(done.at_ns), lost, _instant(done.unannounced_after_ns)))


def _instant(ns: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
