"""List, read, create, replace and delete everything that is declared: one set of endpoints, made for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from interlock.control import documents, source_actions, views
from interlock.control.identity import Actor, tenant_of
from interlock.control.permissions import Action, decide
from interlock.control.plan import Kind, Ref, role_name
from interlock.control.reading import reading_at
from interlock.control.services import (
    aliases,
    budgets,
    issuers,
    keys,
    policies,
    principals,
    roles,
    sources,
    teams,
    tenants,
)
from interlock.control.services.base import Tx
from interlock.control.web import (
    Body,
    Given,
    Json,
    Who,
    api_of,
    page_size,
    reason_of,
    revision_of,
    route,
)
from interlock.errors import BadRequest
from interlock.storage import aliases as stored_aliases
from interlock.storage import bindings as stored_bindings
from interlock.storage import budgets as stored_budgets
from interlock.storage import issuers as stored_issuers
from interlock.storage import keys as stored_keys
from interlock.storage import policies as stored_policies
from interlock.storage import principals as stored_principals
from interlock.storage import sources as stored_sources
from interlock.storage import teams as stored_teams
from interlock.storage import tenants as stored_tenants
from interlock.storage.changes import Author
from interlock.storage.table import Stored


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
BUDGET = Resource("budget", "budgets", documents.BudgetSpec, Action.budget_read, budgets.find, stored_budgets.page)
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

OF_TENANT = (TEAM, PRINCIPAL, KEY, POLICY, ALIAS, BUDGET, ISSUER, ROLE)
OF_PLATFORM = (SOURCE, POLICY, ALIAS, ROLE)


class Done(msgspec.Struct, frozen=True):
    """What a change did: the thing as it now is (null when it was deleted), a new key (shown once), and the error of
    a source that did not answer when it was asked for its models."""

    item: dict[str, Any] | None
    key: str | None = None
    discovery_error: str | None = None


@contextmanager
def reading(request: Request, actor: Actor, tenant: str, action: Action) -> Iterator[tuple[Tx, str]]:
    """A transaction for reading where `tenant` ("": the platform) is, and its id. Raises NotFound, Denied."""
    api = api_of(request)
    with reading_at(api.store, api.tools, actor, tenant, action) as found:
        yield found


def router() -> APIRouter:
    """Every resource's endpoints."""
    out = APIRouter()
    _endpoints(out, TENANT, "/tenants", "tenant", "{tenant}")
    for resource in OF_TENANT:
        _endpoints(out, resource, "/tenants/{tenant}/" + resource.plural, f"{resource.kind} of a tenant")
    for resource in OF_PLATFORM:
        words = resource.kind if resource.kind == "source" else f"{resource.kind} of the platform"
        _endpoints(out, resource, "/" + resource.plural, words)
    summary = "List the sources that a tenant may be given"
    route(out, "GET", "/tenants/{tenant}/sources", _tenant_sources, summary, tag="sources", answer=views.Page)
    return out


def _tenant_sources(request: Request, who: Who) -> Response:
    """The tenant's own, and the platform's that are granted to it; of these not how they are reached."""
    with reading(request, who, request.path_params["tenant"], SOURCE.read) as (_, tenant_id):
        pass
    with _platform(request, who) as tx:
        return Json(views.Page(source_actions.of_tenant(tx, tenant_id), None))


def _endpoints(out: APIRouter, resource: Resource, path: str, words: str, last: str = "{name:path}") -> None:
    """The five endpoints of a resource. A name is last in its path, and may hold slashes (aliases, issuers)."""

    def list_(request: Request, who: Who, after: str = "", limit: int = 100) -> Response:
        return _list(request, who, resource, after, limit)

    def create(request: Request, who: Who, body: Body) -> Response:
        return _put(request, who, resource, body, None)

    def read(request: Request, who: Who) -> Response:
        return _read(request, who, resource)

    def replace(request: Request, who: Who, body: Body) -> Response:
        return _put(request, who, resource, body, _name(request))

    def delete(request: Request, who: Who) -> Response:
        return _delete(request, who, resource)

    form, one, tag = resource.form, f"{path}/{last}", resource.plural
    route(out, "GET", path, list_, f"List every {words}", tag=tag, answer=views.Page)
    a = "an" if words[0] in "ai" else "a"
    route(out, "POST", path, create, f"Create {a} {words}", tag=tag, body=form, answer=Done, status=201, reason=True)
    route(out, "GET", one, read, f"Read {a} {words}", tag=tag, answer=dict[str, Any])
    if resource.replaceable:
        summary = f"Replace {a} {words}"
        route(out, "PUT", one, replace, summary, tag=tag, body=form, answer=Done, reason=True, revision=True)
    route(out, "DELETE", one, delete, f"Delete {a} {words}", tag=tag, answer=Done, reason=True, revision=True)


def _tenant(request: Request, resource: Resource) -> str:
    """The tenant in the path; "" for what is the platform's, and for tenants themselves."""
    return "" if resource.kind == "tenant" else str(request.path_params.get("tenant", ""))


def _name(request: Request) -> str:
    return str(request.path_params.get("name") or request.path_params["tenant"])


def _list(request: Request, actor: Actor, resource: Resource, after: str, limit: int) -> Response:
    limit = page_size(request, limit)
    if resource.kind == "tenant" and not actor.platform:
        return _own_tenants(request, actor)
    tenant = _tenant(request, resource)
    with reading(request, actor, tenant, resource.read) as (tx, tenant_id):
        owner = None if resource.kind == "source" else tenant_id
        rows = resource.page(tx.conn, tenant_id=owner, after=after, limit=limit)
        items = [views.show(tx, resource.kind, row) for row in rows]
    return Json(views.Page(items, items[-1]["id"] if len(items) == limit else None))


def _own_tenants(request: Request, actor: Actor) -> Response:
    """The tenants in which somebody without a platform role holds one."""
    own = sorted({b.tenant_id for b in actor.bindings if b.tenant_id})
    with _platform(request, actor) as tx:
        rows = [row for row in (stored_tenants.get(tx.conn, tenant_id) for tenant_id in own) if row is not None]
        items = [
            views.show(tx, "tenant", row) for row in rows if decide(actor.bindings, TENANT.read, row.value.id).allowed
        ]
    return Json(views.Page(items, None))


def _read(request: Request, actor: Actor, resource: Resource) -> Response:
    name = _name(request)
    tenant = name if resource.kind == "tenant" else _tenant(request, resource)
    with reading(request, actor, tenant, resource.read) as (tx, tenant_id):
        stored = resource.find(tx, tenant_id, name)
        item = views.show(tx, resource.kind, stored)
    return Json(item, headers={"etag": f'"{stored.revision}"'})


def _put(request: Request, actor: Actor, resource: Resource, body: bytes, name: str | None) -> Response:
    given = Given(request, body)
    spec = given.as_(resource.form)
    called = resource.name_of(spec)
    if name is not None and called != name:
        raise BadRequest(f"the body is about {called!r} and the path about {name!r}; names are not changed")
    if name is not None and resource.kind == "tenant":
        tenant_of(api_of(request).store, actor, name)
    tenant = _tenant(request, resource)
    ref = Ref(resource.kind, called if resource.kind == "tenant" else tenant, called)
    new = name is None
    revision = None if new else revision_of(request)
    applied = api_of(request).configurator.put(actor, ref, spec, given.reason, revision=revision, new=new)
    with _platform(request, actor) as tx:  # whoever may write a thing may see it
        item = views.show(tx, resource.kind, resource.find(tx, tx.names.tenant(tenant), called))
    done = Done(item, applied.keys.get(ref.tenant, {}).get(called), applied.discovery.get(called))
    return Json(done, status_code=201 if new else 200, headers={"etag": f'"{item["revision"]}"'})


def _delete(request: Request, actor: Actor, resource: Resource) -> Response:
    name = _name(request)
    if resource.kind == "tenant":
        tenant_of(api_of(request).store, actor, name)
    ref = Ref(resource.kind, name if resource.kind == "tenant" else _tenant(request, resource), name)
    api_of(request).configurator.remove(actor, ref, reason_of(request), revision=revision_of(request))
    return Json(Done(None))


@contextmanager
def _platform(request: Request, actor: Actor) -> Iterator[Tx]:
    api = api_of(request)
    by = Author(actor.principal_id, actor.name, "", api.tools.now())
    with api.store.platform() as conn:
        yield Tx(conn, by, api.tools)
