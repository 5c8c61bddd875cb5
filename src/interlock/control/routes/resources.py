"""List, read, create, replace and delete everything that is declared: one set of endpoints, made for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import documents, views
from interlock.control.identity import Actor, tenant_of
from interlock.control.permissions import Action, decide
from interlock.control.plan import Kind, Ref, role_name
from interlock.control.services import aliases, issuers, keys, policies, principals, roles, sources, teams, tenants
from interlock.control.services.base import Tx
from interlock.control.web import (
    Body,
    Given,
    Json,
    Who,
    allow,
    api_of,
    describe,
    page_size,
    reason_of,
    revision_of,
)
from interlock.errors import BadRequest
from interlock.storage import aliases as stored_aliases
from interlock.storage import bindings as stored_bindings
from interlock.storage import issuers as stored_issuers
from interlock.storage import keys as stored_keys
from interlock.storage import policies as stored_policies
from interlock.storage import principals as stored_principals
from interlock.storage import sources as stored_sources
from interlock.storage import teams as stored_teams
from interlock.storage import tenants as stored_tenants
from interlock.storage.changes import Author
from interlock.storage.table import Stored
from interlock.storage.tenants import PLATFORM_TENANT


class Resource(msgspec.Struct, frozen=True):
    """One kind of thing: its path, declared form, permission to read it, and how it is found and listed."""

    kind: Kind
    plural: str
    form: Any
    read: Action
    find: Callable[[Tx, str, str], Stored[Any]]
    page: Callable[..., list[Stored[Any]]]
    replaceable: bool = True

    def name_of(self, spec: Any) -> str:
        """What the thing of this declared form is called."""
        if self.kind == "role":
            return role_name(spec)
        return str(getattr(spec, {"policy": "id", "issuer": "issuer"}.get(self.kind, "name")))


TEAM = Resource("team", "teams", documents.TeamSpec, Action.team_read, teams.find, stored_teams.page)
PRINCIPAL = Resource(
    "principal",
    "principals",
    documents.PrincipalSpec,
    Action.principal_read,
    principals.find,
    stored_principals.page,
)
KEY = Resource("key", "keys", documents.KeySpec, Action.key_read, keys.find, stored_keys.page)
POLICY = Resource("policy", "policies", documents.PolicySpec, Action.policy_read, policies.find, stored_policies.page)
ALIAS = Resource("alias", "aliases", documents.AliasSpec, Action.alias_read, aliases.find, stored_aliases.page)
ISSUER = Resource("issuer", "issuers", documents.IssuerSpec, Action.issuer_read, issuers.find, stored_issuers.page)
ROLE = Resource(
    "role", "roles", documents.RoleSpec, Action.role_read, roles.find, stored_bindings.page, replaceable=False
)
SOURCE = Resource(
    "source",
    "sources",
    documents.SourceSpec,
    Action.source_read,
    lambda tx, _tenant, name: sources.find(tx, name),
    stored_sources.page,
)
TENANT = Resource(
    "tenant",
    "tenants",
    documents.TenantSpec,
    Action.tenant_read,
    lambda tx, _tenant, name: tenants.find(tx, name),
    lambda conn, **given: stored_tenants.page(conn, after=given["after"], limit=given["limit"]),
)

OF_TENANT = (TEAM, PRINCIPAL, KEY, POLICY, ALIAS, ISSUER, ROLE)
OF_PLATFORM = (SOURCE, POLICY, ALIAS, ROLE)


class Done(msgspec.Struct, frozen=True):
    """What a change did: the thing as it now is (null when it was deleted), a new key (shown once), and the error of
    a source that did not answer when it was asked for its models."""

    item: dict[str, Any] | None
    key: str | None = None
    discovery_error: str | None = None


def router() -> APIRouter:
    """Every resource's endpoints."""
    out = APIRouter()
    _tenants(out)
    for resource in OF_TENANT:
        _endpoints(out, resource, "/tenants/{tenant}/" + resource.plural, in_tenant=True)
    for resource in OF_PLATFORM:
        _endpoints(out, resource, "/" + resource.plural, in_tenant=False)
    return out


@contextmanager
def reading(request: Request, actor: Actor, tenant: str, action: Action) -> Iterator[tuple[Tx, str]]:
    """A transaction for reading where `tenant` ("": the platform) is, and its id. Raises NotFound, Denied."""
    api = api_of(request)
    by = Author(actor.principal_id, actor.name, "", api.tools.now())
    if not tenant:
        allow(actor, action, None)
        with api.store.platform() as conn:
            yield Tx(conn, by, api.tools), ""
        return
    tenant_id = tenant_of(api.store, actor, tenant)
    allow(actor, action, tenant_id)
    opened = api.store.platform() if tenant_id == PLATFORM_TENANT else api.store.tenant(tenant_id)
    with opened as conn:
        yield Tx(conn, by, api.tools), tenant_id


def _list(request: Request, actor: Actor, resource: Resource, tenant: str, after: str, limit: int) -> Response:
    limit = page_size(request, limit)
    with reading(request, actor, tenant, resource.read) as (tx, tenant_id):
        owner = None if resource.kind == "source" and not tenant else tenant_id
        rows = resource.page(tx.conn, tenant_id=owner, after=after, limit=limit)
        items = [views.show(tx, resource.kind, row) for row in rows]
    return Json(views.Page(items, items[-1]["id"] if len(items) == limit else None))


def _read(request: Request, actor: Actor, resource: Resource, tenant: str, name: str) -> Response:
    with reading(request, actor, tenant, resource.read) as (tx, tenant_id):
        stored = resource.find(tx, tenant_id, name)
        item = views.show(tx, resource.kind, stored)
    return Json(item, headers={"etag": f'"{stored.revision}"'})


def _put(request: Request, actor: Actor, resource: Resource, tenant: str, body: bytes, name: str | None) -> Response:
    given = Given(request, body)
    spec = given.as_(resource.form)
    called = resource.name_of(spec)
    if name is not None and called != name:
        raise BadRequest(f"the body is about {called!r} and the path about {name!r}; names are not changed")
    ref = Ref(resource.kind, called if resource.kind == "tenant" else tenant, called)
    new = name is None
    applied = api_of(request).configurator.put(
        actor, ref, spec, given.reason, revision=None if new else revision_of(request), new=new
    )
    place = called if resource.kind == "tenant" and actor.platform else tenant
    secret = applied.keys.get(ref.tenant, {}).get(called)
    with _after(request, actor, "" if resource.kind == "tenant" else place) as (tx, tenant_id):
        item = views.show(tx, resource.kind, resource.find(tx, tenant_id, called))
    done = Done(item, secret, applied.discovery.get(called))
    return Json(done, status_code=201 if new else 200, headers={"etag": f'"{item["revision"]}"'})


@contextmanager
def _after(request: Request, actor: Actor, tenant: str) -> Iterator[tuple[Tx, str]]:
    """To show what was just written: whoever may write a thing may see it."""
    api = api_of(request)
    by = Author(actor.principal_id, actor.name, "", api.tools.now())
    with api.store.platform() as conn:
        tx = Tx(conn, by, api.tools)
        yield tx, tx.names.tenant(tenant)


def _delete(request: Request, actor: Actor, resource: Resource, tenant: str, name: str) -> Response:
    ref = Ref(resource.kind, name if resource.kind == "tenant" else tenant, name)
    api_of(request).configurator.remove(actor, ref, reason_of(request), revision=revision_of(request))
    return Json(Done(None))


def _endpoints(out: APIRouter, resource: Resource, path: str, *, in_tenant: bool) -> None:
    """The five endpoints of a resource. Names are last in the path, and may hold slashes (policies, aliases)."""
    one = path + "/{name:path}"
    tag = {"tags": [resource.plural]}
    what = resource.kind if in_tenant else f"platform {resource.kind}"
    if in_tenant:

        @out.get(path, summary=f"List {resource.plural} of a tenant", **describe(answer=views.Page), **tag)
        def list_(request: Request, who: Who, tenant: str, after: str = "", limit: int = 100) -> Response:
            return _list(request, who, resource, tenant, after, limit)

        @out.get(one, summary=f"Read a {what}", **describe(answer=dict[str, Any]), **tag)
        def read(request: Request, who: Who, tenant: str, name: str) -> Response:
            return _read(request, who, resource, tenant, name)

        @out.post(
            path,
            summary=f"Create a {what}",
            **describe(body=resource.form, answer=Done, status=201, reason=True),
            **tag,
        )
        def create(request: Request, who: Who, tenant: str, body: Body) -> Response:
            return _put(request, who, resource, tenant, body, None)

        @out.delete(
            one, summary=f"Delete a {what}", **describe(answer=Done, reason=True, parameters=("If-Match",)), **tag
        )
        def delete(request: Request, who: Who, tenant: str, name: str) -> Response:
            return _delete(request, who, resource, tenant, name)

        if resource.replaceable:

            @out.put(
                one,
                summary=f"Replace a {what}",
                **describe(body=resource.form, answer=Done, reason=True, parameters=("If-Match",)),
                **tag,
            )
            def replace(request: Request, who: Who, tenant: str, name: str, body: Body) -> Response:
                return _put(request, who, resource, tenant, body, name)

        return
    _platform_endpoints(out, resource, path, one, what)


def _platform_endpoints(out: APIRouter, resource: Resource, path: str, one: str, what: str) -> None:
    tag = {"tags": [resource.plural]}

    @out.get(path, summary=f"List every {what}", **describe(answer=views.Page), **tag)
    def list_(request: Request, who: Who, after: str = "", limit: int = 100) -> Response:
        return _list(request, who, resource, "", after, limit)

    @out.get(one, summary=f"Read a {what}", **describe(answer=dict[str, Any]), **tag)
    def read(request: Request, who: Who, name: str) -> Response:
        return _read(request, who, resource, "", name)

    @out.post(
        path,
        summary=f"Create a {what}",
        **describe(body=resource.form, answer=Done, status=201, reason=True),
        **tag,
    )
    def create(request: Request, who: Who, body: Body) -> Response:
        return _put(request, who, resource, "", body, None)

    @out.delete(one, summary=f"Delete a {what}", **describe(answer=Done, reason=True, parameters=("If-Match",)), **tag)
    def delete(request: Request, who: Who, name: str) -> Response:
        return _delete(request, who, resource, "", name)

    if resource.replaceable:

        @out.put(
            one,
            summary=f"Replace a {what}",
            **describe(body=resource.form, answer=Done, reason=True, parameters=("If-Match",)),
            **tag,
        )
        def replace(request: Request, who: Who, name: str, body: Body) -> Response:
            return _put(request, who, resource, "", body, name)


def _tenants(out: APIRouter) -> None:
    tag = {"tags": ["tenants"]}

    @out.get("/tenants", summary="List tenants that you may see", **describe(answer=views.Page), **tag)
    def list_(request: Request, who: Who, after: str = "", limit: int = 100) -> Response:
        if who.platform:
            return _list(request, who, TENANT, "", after, limit)
        api = api_of(request)
        by = Author(who.principal_id, who.name, "", api.tools.now())
        with api.store.platform() as conn:
            tx = Tx(conn, by, api.tools)
            own = sorted({b.tenant_id for b in who.bindings if b.tenant_id})
            rows = [row for row in (stored_tenants.get(conn, tenant_id) for tenant_id in own) if row is not None]
            items = [views.show(tx, "tenant", row) for row in rows if decide(who.bindings, TENANT.read, row.value.id)]
        return Json(views.Page(items, None))

    @out.get("/tenants/{tenant}", summary="Read a tenant", **describe(answer=dict[str, Any]), **tag)
    def read(request: Request, who: Who, tenant: str) -> Response:
        with reading(request, who, tenant, TENANT.read) as (tx, _):
            stored = tenants.find(tx, tenant)
            item = views.show(tx, "tenant", stored)
        return Json(item, headers={"etag": f'"{stored.revision}"'})

    @out.post(
        "/tenants",
        summary="Create a tenant",
        **describe(body=documents.TenantSpec, answer=Done, status=201, reason=True),
        **tag,
    )
    def create(request: Request, who: Who, body: Body) -> Response:
        return _put(request, who, TENANT, "", body, None)

    @out.put(
        "/tenants/{tenant}",
        summary="Replace a tenant's own fields",
        **describe(body=documents.TenantSpec, answer=Done, reason=True, parameters=("If-Match",)),
        **tag,
    )
    def replace(request: Request, who: Who, tenant: str, body: Body) -> Response:
        tenant_of(api_of(request).store, who, tenant)
        return _put(request, who, TENANT, "", body, tenant)

    @out.delete(
        "/tenants/{tenant}",
        summary="Delete a tenant and everything in it",
        **describe(answer=Done, reason=True, parameters=("If-Match",)),
        **tag,
    )
    def delete(request: Request, who: Who, tenant: str) -> Response:
        tenant_of(api_of(request).store, who, tenant)
        return _delete(request, who, TENANT, "", tenant)
