"""People, teams and keys of a tenant, one's own keys, and what is shown once: a new key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from interlock.control import key_actions, views
from interlock.control.apply import Reason
from interlock.control.console.form_values import whole_number
from interlock.control.console.page import Page
from interlock.control.console.places import chosen
from interlock.control.documents import KeySpec, PrincipalSpec, RoleSpec, TeamSpec, lean
from interlock.control.identity import reach_of
from interlock.control.permissions import Action, may_grant
from interlock.control.plan import Ref
from interlock.control.reading import reading_at
from interlock.control.services import principals, teams
from interlock.control.validate import PLATFORM
from interlock.control.web import read_as
from interlock.errors import BadRequest, InterlockError
from interlock.storage import bindings, nodes
from interlock.storage import keys as stored_keys
from interlock.storage import principals as stored_principals
from interlock.storage import teams as stored_teams
from interlock.types.identity import AdminRole, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response

    from interlock.control.console.sessions import Sessions
    from interlock.control.console.visit import Visit
    from interlock.control.services.base import Tx

SHOWN_MAX = 1000
KINDS = (
    (PrincipalKind.user.value, "a person"),
    (PrincipalKind.service.value, "a service: an application of ours"),
    (PrincipalKind.agent.value, "an agent: acts for people"),
)
ROLES = (
    (AdminRole.viewer.value, "viewer: sees how things are set up"),
    (AdminRole.developer.value, "developer: also own keys, the playground, why a call is allowed"),
    (AdminRole.auditor.value, "auditor: also the ledger, usage, changes"),
    (AdminRole.admin.value, "admin: changes everything but who owns it"),
    (AdminRole.owner.value, "owner: also what cannot be taken back"),
    (AdminRole.payload_reader.value, "payload_reader: beside auditor, what was asked and answered"),
)
CLASSES = ("public", "internal", "confidential", "restricted")
SCOPES = (
    ("infer", "call models"),
    ("assert-user", "call models in the name of users that it names"),
    ("admin", "administer, with the roles of its principal"),
)
LIMITS = (
    ("requests_per_minute", "Requests a minute"),
    ("tokens_per_minute", "Tokens a minute"),
    ("concurrency", "Calls at a time"),
)


class Person(NamedTuple):
    """One principal of the list."""

    item: dict[str, Any]
    roles: list[str]
    keys: int


def listing(visit: Visit, _: Sessions) -> Response:
    """Teams, principals and keys of a tenant."""
    return _listing(visit)


def _listing(visit: Visit, error: InterlockError | None = None) -> Response:
    tenant, names = chosen(visit, Action.principal_read)
    with reading_at(visit.api.store, visit.api.tools, visit.who(), tenant, Action.principal_read) as (tx, tenant_id):
        may_keys = visit.may(Action.key_read, tenant_id)
        may_roles = visit.may(Action.role_read, reach_of(tenant_id))
        found = _keys(tx, tenant_id) if may_keys else []
        people = [
            _person(tx, stored.value.id, views.show(tx, "principal", stored), may_roles, found)
            for stored in stored_principals.page(tx.conn, tenant_id=tenant_id, limit=SHOWN_MAX)
        ]
        groups = [
            views.show(tx, "team", stored)
            for stored in stored_teams.page(tx.conn, tenant_id=tenant_id, limit=SHOWN_MAX)
        ]
    groups.sort(key=lambda team: team["name"])
    people.sort(key=lambda person: (not person.item["active"], person.item["kind"], person.item["name"]))
    return visit.page(
        "people.html",
        error.status if error is not None else 200,
        error=error,
        open=visit.form.get("do", "") if error is not None else "",
        typed=visit.form,
        tenant=tenant,
        tenants=names,
        teams=groups,
        members={t["name"]: sum(t["name"] in p.item["teams"] for p in people) for t in groups},
        people=people,
        keys=sorted(found, key=lambda key: (key["state"] != "active", key["name"])),
        may_keys=may_keys,
        may_teams=visit.may(Action.team_write, tenant_id),
        may_people=visit.may(Action.principal_write, tenant_id),
        kinds=KINDS,
        limits=LIMITS,
        now=visit.api.tools.now(),
        full=len(people) == SHOWN_MAX,
    )


def act(visit: Visit, _: Sessions) -> Response:
    """Add a team or a principal."""
    form, who = visit.form, visit.who()
    tenant, name = form.get("tenant", ""), form.get("name", "").strip()
    try:
        if form.get("do") == "team":
            _put_team(visit, tenant, {"name": name}, new=True)
            return visit.go(_people(tenant), said=f"Team {name} was made.")
        if form.get("do") == "principal":
            fields = {"name": name, "kind": form.get("kind", ""), "teams": form.every("teams"), "limits": _limits(form)}
            spec = read_as({key: value for key, value in fields.items() if value}, PrincipalSpec)
            visit.api.configurator.put(who, Ref("principal", tenant, name), spec, _reason(visit), new=True)
            return visit.go(path_of(tenant, name), said=f"{name} was added.")
        raise BadRequest("there is no such action", param="do")
    except InterlockError as error:
        return _listing(visit, error)


def person(visit: Visit, _: Sessions) -> Response:
    """One principal: teams, limits, roles, keys."""
    return _show(visit)


def _show(visit: Visit, error: InterlockError | None = None) -> Response:
    tenant, name = visit.path_params["tenant"], visit.path_params["name"]
    actor = visit.who()
    with reading_at(visit.api.store, visit.api.tools, actor, tenant, Action.principal_read) as (tx, tenant_id):
        stored = principals.find(tx, tenant_id, name)
        item = views.show(tx, "principal", stored)
        may_keys = visit.may(Action.key_read, tenant_id)
        found = [key for key in _keys(tx, tenant_id) if key["principal"] == name] if may_keys else []
        held = [b.role.value for b in bindings.of_principal(tx.conn, stored.value.id)]
        groups = [t.value.name for t in stored_teams.page(tx.conn, tenant_id=tenant_id, limit=SHOWN_MAX)]
    place = reach_of(tenant_id)
    return visit.page(
        "person.html",
        error.status if error is not None else 200,
        error=error,
        open=visit.form.get("do", "") if error is not None else "",
        typed=visit.form,
        tenant=tenant,
        item=item,
        keys=sorted(found, key=lambda key: (key["state"] != "active", key["name"])),
        held=sorted(held) if visit.may(Action.role_read, place) else None,
        grantable=[
            pair
            for pair in ROLES
            if pair[0] not in held and may_grant(actor.bindings, AdminRole(pair[0]), place).allowed
        ],
        teams=groups,
        may_write=visit.may(Action.principal_write, tenant_id),
        may_keys=visit.may(Action.key_write, tenant_id),
        may_roles=visit.may(Action.role_write, place),
        kinds=dict(KINDS),
        words=dict(ROLES),
        classes=CLASSES,
        scopes=SCOPES,
        limits=LIMITS,
        here=path_of(tenant, name),
    )


def change(visit: Visit, _: Sessions) -> Response:
    """Do to a principal what the pressed button says."""
    tenant, name = visit.path_params["tenant"], visit.path_params["name"]
    verb = _VERBS.get(visit.form.get("do", ""))
    try:
        if verb is None:
            raise BadRequest("there is no such action", param="do")
        return verb(visit, tenant, name)
    except InterlockError as error:
        return _show(visit, error)


def _save(visit: Visit, tenant: str, name: str) -> Response:
    form = visit.form
    with reading_at(visit.api.store, visit.api.tools, visit.who(), tenant, Action.principal_read) as (tx, tenant_id):
        before = lean(principals.spec_of(principals.find(tx, tenant_id, name).value, tx.names))
    fields = {**before, "teams": form.every("teams"), "limits": _limits(form), "active": "active" in form}
    spec = read_as({key: value for key, value in fields.items() if value not in (None, {})}, PrincipalSpec)
    revision = whole_number(form, "revision")
    visit.api.configurator.put(
        visit.who(), Ref("principal", tenant, name), spec, _reason(visit), revision=revision, new=False
    )
    return visit.go(path_of(tenant, name), said=f"{name} was changed.")


def _remove(visit: Visit, tenant: str, name: str) -> Response:
    visit.api.configurator.remove(visit.who(), Ref("principal", tenant, name), _reason(visit))
    return visit.go(_people(tenant), said=f"{name} was removed, with its keys and roles.")


def _grant(visit: Visit, tenant: str, name: str) -> Response:
    role = visit.form.get("role", "")
    spec = read_as({"principal": name, "role": role}, RoleSpec)
    visit.api.configurator.put(visit.who(), _role_ref(tenant, name, role), spec, _reason(visit), new=True)
    return visit.go(path_of(tenant, name), said=f"{name} is {role} now.")


def _take(visit: Visit, tenant: str, name: str) -> Response:
    role = visit.form.get("role", "")
    visit.api.configurator.remove(visit.who(), _role_ref(tenant, name, role), _reason(visit))
    return visit.go(path_of(tenant, name), said=f"{name} is no longer {role}.")


def _role_ref(tenant: str, principal: str, role: str) -> Ref:
    return Ref("role", "" if tenant == PLATFORM else tenant, f"{principal}:{role}")


def _make_key(visit: Visit, tenant: str, name: str) -> Response:
    form = visit.form
    fields: dict[str, Any] = {
        "name": form.get("key", "").strip(),
        "principal": name,
        "scopes": form.every("scopes"),
        "data_class": form.get("data_class", "internal"),
        "expires_in_days": whole_number(form, "days") or 0,
    }
    spec = read_as(fields, KeySpec)
    ref = Ref("key", tenant, spec.name)
    applied = visit.api.configurator.put(visit.who(), ref, spec, _reason(visit), new=True)
    return _made(visit, spec.name, applied.keys[tenant][spec.name], path_of(tenant, name))


def _rotate_key(visit: Visit, tenant: str, name: str) -> Response:
    key = visit.form.get("key", "")
    overlap_s = 3600 * (whole_number(visit.form, "overlap_h") or 0)
    made = key_actions.rotate(visit.api, visit.who(), tenant, key, overlap_s, _reason(visit))
    return _made(visit, key, made.key, path_of(tenant, name))


def _revoke_key(visit: Visit, tenant: str, name: str) -> Response:
    key = visit.form.get("key", "")
    key_actions.revoke(visit.api, visit.who(), tenant, key, _reason(visit))
    return visit.go(path_of(tenant, name), said=f"{key} is refused everywhere from now on.")


def _password(visit: Visit, tenant: str, name: str) -> Response:
    password = visit.form.get("password", "")
    key_actions.set_password(visit.api, visit.who(), tenant, name, password, _reason(visit))
    return visit.go(path_of(tenant, name), said=f"{name} signs in as {tenant}/{name} with this password.")


_VERBS: dict[str, Callable[[Visit, str, str], Response]] = {
    "save": _save,
    "remove": _remove,
    "grant": _grant,
    "take": _take,
    "key": _make_key,
    "rotate": _rotate_key,
    "revoke": _revoke_key,
    "password": _password,
}


def team(visit: Visit, _: Sessions) -> Response:
    """One team."""
    return _team(visit)


def _team(visit: Visit, error: InterlockError | None = None) -> Response:
    tenant, name = visit.path_params["tenant"], visit.path_params["name"]
    with reading_at(visit.api.store, visit.api.tools, visit.who(), tenant, Action.team_read) as (tx, tenant_id):
        item = views.show(tx, "team", teams.find(tx, tenant_id, name))
        members = [
            tx.names.of(stored.value.id) or stored.value.name
            for stored in stored_principals.page(tx.conn, tenant_id=tenant_id, limit=SHOWN_MAX)
            if item["id"] in stored.value.team_ids
        ]
    return visit.page(
        "team.html",
        error.status if error is not None else 200,
        error=error,
        typed=visit.form,
        tenant=tenant,
        item=item,
        members=sorted(members),
        may_write=visit.may(Action.team_write, tenant_id),
        limits=LIMITS,
        here=team_path(tenant, name),
    )


def change_team(visit: Visit, _: Sessions) -> Response:
    """Change or remove a team."""
    tenant, name = visit.path_params["tenant"], visit.path_params["name"]
    try:
        if visit.form.get("do") == "remove":
            visit.api.configurator.remove(visit.who(), Ref("team", tenant, name), _reason(visit))
            return visit.go(_people(tenant), said=f"Team {name} was removed.")
        with reading_at(visit.api.store, visit.api.tools, visit.who(), tenant, Action.team_read) as (tx, tenant_id):
            before = lean(teams.spec_of(teams.find(tx, tenant_id, name).value))
        _put_team(visit, tenant, before, new=False)
        return visit.go(team_path(tenant, name), said=f"Team {name} was changed.")
    except InterlockError as error:
        return _team(visit, error)


def _put_team(visit: Visit, tenant: str, before: dict[str, Any], *, new: bool) -> None:
    form = visit.form
    fields = {**before, "cost_center": form.get("cost_center", "").strip(), "limits": _limits(form)}
    spec = read_as({key: value for key, value in fields.items() if value}, TeamSpec)
    revision = None if new else whole_number(form, "revision")
    visit.api.configurator.put(
        visit.who(), Ref("team", tenant, spec.name), spec, _reason(visit), revision=revision, new=new
    )


def mine(visit: Visit, _: Sessions) -> Response:
    """One's own keys."""
    return _mine(visit)


def _mine(visit: Visit, error: InterlockError | None = None) -> Response:
    settings = visit.api.tools.settings
    try:
        found = key_actions.own(visit.api, visit.who())
    except InterlockError as refused:
        if refused.code != "no_principal":
            raise
        return visit.page("my_keys.html", why=refused.message, keys=[], error=None, typed=visit.form, settings=settings)
    status = error.status if error is not None else 200
    return visit.page("my_keys.html", status, why="", keys=found, error=error, typed=visit.form, settings=settings)


def act_mine(visit: Visit, _: Sessions) -> Response:
    """Make or revoke a key of one's own."""
    api, who, name = visit.api, visit.who(), visit.form.get("key", "").strip()
    try:
        if visit.form.get("do") == "revoke":
            key_actions.revoke_own(api, who, name, _reason(visit))
            return visit.go("/console/keys", said=f"{name} is refused everywhere from now on.")
        made = key_actions.make_own(api, who, name, whole_number(visit.form, "days") or 0, _reason(visit))
        return _made(visit, name, made.key, "/console/keys")
    except InterlockError as error:
        return _mine(visit, error)


def _made(visit: Visit, name: str, secret: str, back: str) -> Response:
    """The only page that ever shows a key."""
    with visit.api.store.platform() as conn:
        known = [row.address for row in nodes.page(conn, limit=1)]
    gateway = known[0] if known else "https://GATEWAY"
    return visit.page("key_made.html", name=name, secret=secret, back=back, gateway=gateway)


def _keys(tx: Tx, tenant_id: str) -> list[dict[str, Any]]:
    return [views.show(tx, "key", row) for row in stored_keys.page(tx.conn, tenant_id=tenant_id, limit=SHOWN_MAX)]


def _person(tx: Tx, principal_id: str, item: dict[str, Any], roles: bool, keys: list[dict[str, Any]]) -> Person:
    held = [b.role.value for b in bindings.of_principal(tx.conn, principal_id)] if roles else []
    working = sum(key["principal"] == item["name"] and key["state"] == "active" for key in keys)
    return Person(item, sorted(held), working)


def _limits(form: Any) -> dict[str, int]:
    found = {name: whole_number(form, name) for name, _ in LIMITS}
    return {name: value for name, value in found.items() if value is not None}


def _reason(visit: Visit) -> Reason:
    return Reason(visit.form.get("reason", "").strip())


def _people(tenant: str) -> str:
    return f"/console/people?tenant={quote(tenant, safe='')}"


def path_of(tenant: str, name: str) -> str:
    """The page of a principal."""
    return f"/console/people/{quote(tenant, safe='')}/{quote(name, safe='')}"


def team_path(tenant: str, name: str) -> str:
    """The page of a team."""
    return f"/console/teams/{quote(tenant, safe='')}/{quote(name, safe='')}"


PAGES = (
    Page("GET", "/people", listing),
    Page("POST", "/people", act),
    Page("GET", "/people/{tenant}/{name}", person),
    Page("POST", "/people/{tenant}/{name}", change),
    Page("GET", "/teams/{tenant}/{name}", team),
    Page("POST", "/teams/{tenant}/{name}", change_team),
    Page("GET", "/keys", mine),
    Page("POST", "/keys", act_mine),
)
