"""What is done to things besides declaring them: rotate and revoke keys, drain and refresh sources."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import source_actions, views
from interlock.control.console.passwords import hash_password
from interlock.control.documents import Natural, SourceSpec
from interlock.control.identity import Actor
from interlock.control.permissions import Action
from interlock.control.plan import Ref
from interlock.control.routes.resources import Done
from interlock.control.services import engines, keys, principals
from interlock.control.web import Body, Given, Json, Who, allow, api_of, route
from interlock.errors import BadRequest
from interlock.storage import changes, console, roles
from interlock.storage.changes import Change
from interlock.storage.keys import KeyRow
from interlock.types.identity import Scope


class Rotate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_s`: how many seconds the old key goes on working (a day by default, at most thirty)."""

    overlap_s: Natural = keys.DAY_S


class Revoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cut`: cut running calls off instead of letting them finish."""

    cut: bool = False


class Revoked(msgspec.Struct, frozen=True):
    """Every key of the name, as it now is."""

    items: list[dict[str, Any]]


class Password(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a principal signs in to the console with, 12 to 256 characters."""

    password: str

    def __repr__(self) -> str:
        return "Password(...)"


class PasswordSet(msgspec.Struct, frozen=True):
    """Whose password was set, and when."""

    principal: str
    at: datetime.datetime


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body with at most a reason."""


def router() -> APIRouter:
    """The action endpoints."""
    out = APIRouter()
    key = "/tenants/{tenant}/keys/{name}"
    route(
        out,
        "POST",
        f"{key}/rotate",
        rotate,
        "Rotate a key",
        tag="keys",
        body=Rotate,
        answer=Done,
        status=201,
        reason=True,
    )
    route(out, "POST", f"{key}/revoke", revoke, "Revoke a key", tag="keys", body=Revoke, answer=Revoked, reason=True)
    path, summary = "/tenants/{tenant}/principals/{name}/password", "Let a principal sign in to the console"
    answer = PasswordSet
    route(out, "POST", path, password, summary, tag="principals", body=Password, answer=answer, reason=True)
    for verb, endpoint, summary in (
        ("drain", drain, "Give a source no new calls"),
        ("undrain", undrain, "Give a drained source calls again"),
    ):
        route(out, "POST", f"/sources/{{name}}/{verb}", endpoint, summary, tag="sources", answer=Done, reason=True)
    summary = "Tell the state of an engine that Interlock runs"
    form = engines.EngineReport
    path = "/sources/{name}/engine"
    route(out, "POST", path, engine, summary, tag="sources", body=form, answer=Done, reason=True)
    summary = "Ask a source for its models now"
    route(
        out,
        "POST",
        "/sources/{name}/refresh",
        refresh,
        summary,
        tag="sources",
        answer=source_actions.Refreshed,
        reason=True,
    )
    summary = "Ask a source what it offers before it is registered"
    path, looked = "/sources/look", source_actions.Looked
    route(out, "POST", path, look, summary, tag="sources", body=SourceSpec, answer=looked)
    return out


def rotate(request: Request, who: Who, body: Body) -> Response:
    """A new key with the rights of the old one, shown once; the old one works on for the overlap."""
    api = api_of(request)
    given = Given(request, body)
    wish = given.as_(Rotate)
    if wish.overlap_s > keys.OVERLAP_S_MAX:
        raise BadRequest(f"overlap_s: at most {keys.OVERLAP_S_MAX} seconds", param="overlap_s")
    ref = Ref("key", request.path_params["tenant"], request.path_params["name"])
    with api.configurator.acting(who, ref, Action.key_rotate_own, given.reason) as tx:
        tenant_id = tx.names.tenant(ref.tenant)
        old = keys.find(tx, tenant_id, ref.name).value
        if old.principal_id != who.principal_id:
            allow(who, Action.key_write, tenant_id)
        _may_act_as(request, who, old)
        minted = keys.rotate(tx, tenant_id, ref.name, wish.overlap_s)
        item = views.show(tx, "key", minted.stored)
    return Json(Done(item, minted.secret), status_code=201)


def revoke(request: Request, who: Who, body: Body) -> Response:
    """Refuse a key everywhere, within a second; a name stands for every key of it, an id for one."""
    api = api_of(request)
    given = Given(request, body)
    wish = given.as_(Revoke)
    ref = Ref("key", request.path_params["tenant"], request.path_params["name"])
    with api.configurator.acting(who, ref, Action.key_write, given.reason) as tx:
        rows = keys.revoke(tx, tx.names.tenant(ref.tenant), ref.name, cut=wish.cut)
        items = [views.show(tx, "key", row) for row in rows]
    return Json(Revoked(items))


def password(request: Request, who: Who, body: Body) -> Response:
    """The first password or another one; sessions that were begun with the old one end."""
    api = api_of(request)
    given = Given(request, body)
    hashed = hash_password(given.as_(Password).password)
    ref = Ref("principal", request.path_params["tenant"], request.path_params["name"])
    with api.configurator.acting(who, ref, Action.key_write, given.reason) as tx:
        tenant_id = tx.names.tenant(ref.tenant)
        stored = principals.find(tx, tenant_id, ref.name)
        api.configurator.allow_key(who, stored.value.id, (Scope.admin,))
        changes.record(tx.conn, Change(tenant_id, "principal.password", "principal", stored.value.id), tx.by)
        roles.take(tx.conn, roles.PLATFORM)  # accounts are that role's, whoever's they are
        console.set_password(tx.conn, stored.value.id, hashed, tx.by.at)
    return Json(PasswordSet(ref.name, tx.by.at))


def drain(request: Request, who: Who, body: Body) -> Response:
    """Running calls finish; new ones go to other sources."""
    return _drained(request, who, body, True)


def undrain(request: Request, who: Who, body: Body) -> Response:
    """New calls may go there again."""
    return _drained(request, who, body, False)


def refresh(request: Request, who: Who, body: Body) -> Response:
    """Models, context lengths, engine and version are read from the source; its error is told."""
    given = Given(request, body)
    given.as_(Nothing)
    return Json(source_actions.refresh(api_of(request), who, request.path_params["name"], given.reason))


def look(request: Request, who: Who, body: Body) -> Response:
    """As it would be registered: engine, version and models with what is declared of them. Nothing is stored but that
    somebody looked."""
    return Json(source_actions.look(api_of(request), who, Given(request, body).as_(SourceSpec)))


def engine(request: Request, who: Who, body: Body) -> Response:
    """From its supervisor, at every change and every few seconds; one that falls silent is called lost."""
    api = api_of(request)
    given = Given(request, body)
    said = given.as_(engines.EngineReport)
    ref = Ref("source", "", request.path_params["name"])
    with api.configurator.changing(who, ref, given.reason) as tx:
        source_actions.allow_operating(tx, who, ref.name)
        item = views.show(tx, "source", engines.report(tx, ref.name, said))
    return Json(Done(item))


def _drained(request: Request, who: Actor, body: bytes, drained: bool) -> Response:
    given = Given(request, body)
    given.as_(Nothing)
    name = request.path_params["name"]
    return Json(Done(source_actions.set_drained(api_of(request), who, name, drained, given.reason)))


def _may_act_as(request: Request, who: Actor, key: KeyRow) -> None:
    api_of(request).configurator.allow_key(who, key.principal_id, key.scopes)
