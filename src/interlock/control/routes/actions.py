"""What is done to things besides declaring them: rotate and revoke keys, drain and refresh sources."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import key_actions, source_actions, views
from interlock.control.documents import Natural, SourceSpec
from interlock.control.identity import Actor
from interlock.control.plan import Ref
from interlock.control.routes.resources import Done
from interlock.control.services import engines, keys
from interlock.control.web import Body, Given, Json, Who, api_of, route


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


class OwnKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that somebody makes for themselves; it ends after `expires_in_days`, at most `own_key_days_max`."""

    name: str
    expires_in_days: Natural


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
    answer = key_actions.PasswordSet
    route(out, "POST", path, password, summary, tag="principals", body=Password, answer=answer, reason=True)
    own = "/my/keys"
    route(out, "GET", own, own_keys, "List one's own keys", tag="keys", answer=views.Page)
    summary = "Make a key for oneself"
    route(out, "POST", own, make_own_key, summary, tag="keys", body=OwnKey, answer=Done, status=201, reason=True)
    path, summary = f"{own}/{{name}}/revoke", "Revoke a key of one's own"
    route(out, "POST", path, revoke_own_key, summary, tag="keys", body=Nothing, answer=Revoked, reason=True)
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
    given = Given(request, body)
    wish = given.as_(Rotate)
    tenant, name = request.path_params["tenant"], request.path_params["name"]
    made = key_actions.rotate(api_of(request), who, tenant, name, wish.overlap_s, given.reason)
    return Json(Done(made.item, made.key), status_code=201)


def revoke(request: Request, who: Who, body: Body) -> Response:
    """Refuse a key everywhere, within a second; a name stands for every key of it, an id for one."""
    given = Given(request, body)
    wish = given.as_(Revoke)
    tenant, name = request.path_params["tenant"], request.path_params["name"]
    return Json(Revoked(key_actions.revoke(api_of(request), who, tenant, name, given.reason, cut=wish.cut)))


def password(request: Request, who: Who, body: Body) -> Response:
    """The first password or another one; sessions that were begun with the old one end."""
    given = Given(request, body)
    new = given.as_(Password).password
    tenant, name = request.path_params["tenant"], request.path_params["name"]
    return Json(key_actions.set_password(api_of(request), who, tenant, name, new, given.reason))


def own_keys(request: Request, who: Who) -> Response:
    """The keys of the very principal that asks, newest first."""
    return Json(views.Page(key_actions.own(api_of(request), who), None))


def make_own_key(request: Request, who: Who, body: Body) -> Response:
    """A key for inference of the very principal that asks, shown once."""
    given = Given(request, body)
    wish = given.as_(OwnKey)
    made = key_actions.make_own(api_of(request), who, wish.name, wish.expires_in_days, given.reason)
    return Json(Done(made.item, made.key), status_code=201)


def revoke_own_key(request: Request, who: Who, body: Body) -> Response:
    """Refuse a key of the very principal that asks, everywhere, within a second."""
    given = Given(request, body)
    given.as_(Nothing)
    return Json(Revoked(key_actions.revoke_own(api_of(request), who, request.path_params["name"], given.reason)))


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
