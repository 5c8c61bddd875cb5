"""What is done with keys besides declaring them, for API and console: rotate, revoke, one's own, passwords.

One's own keys: whoever holds the role developer in a tenant makes and ends keys of the very principal they are, for
inference alone, no more than `own_keys_max` and for at most `own_key_days_max` days.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.control import views
from interlock.control.console.passwords import hash_password
from interlock.control.documents import KeySpec
from interlock.control.identity import Actor
from interlock.control.parse import show
from interlock.control.permissions import Action, require
from interlock.control.plan import Ref
from interlock.control.reading import reading_at
from interlock.control.services import keys, principals
from interlock.control.validate import form
from interlock.errors import BadRequest, Conflict, Denied, NotFound
from interlock.storage import changes, console, roles
from interlock.storage import keys as stored_keys
from interlock.storage import principals as stored_principals
from interlock.storage import tenants as stored_tenants
from interlock.storage.changes import Change
from interlock.types.identity import BY_TOKEN, Scope

if TYPE_CHECKING:
    from interlock.control.apply import Reason
    from interlock.control.services.base import Tx
    from interlock.control.web import Api


FROM_PROVIDER = (
    "you signed in at an identity provider, whose word for you ends with your account there; a key would outlive it."
    " Programs call models as you with a token of that provider. For a key of your own ask an administrator to declare"
    " a principal for you"
)


class Made(msgspec.Struct, frozen=True):
    """A key as it is shown, and its secret, once."""

    item: dict[str, Any]
    key: str


class PasswordSet(msgspec.Struct, frozen=True):
    """Whose password was set, and when."""

    principal: str
    at: datetime.datetime


def rotate(api: Api, actor: Actor, tenant: str, name: str, overlap_s: int, reason: Reason) -> Made:
    """A new key with the rights of the old one, which works on for `overlap_s`. One's own, or with permission to write
    keys. Raises BadRequest, Conflict, Denied, NotFound."""
    if overlap_s > keys.OVERLAP_S_MAX:
        raise BadRequest(f"overlap_s: at most {keys.OVERLAP_S_MAX} seconds", param="overlap_s")
    with api.configurator.acting(actor, Ref("key", tenant, name), Action.key_rotate_own, reason) as tx:
        tenant_id = tx.names.tenant(tenant)
        old = keys.find(tx, tenant_id, name).value
        if old.principal_id != actor.principal_id:
            require(actor.bindings, Action.key_write, tenant_id)
        api.configurator.allow_key(actor, old.principal_id, old.scopes)
        minted = keys.rotate(tx, tenant_id, name, overlap_s)
        return Made(views.show(tx, "key", minted.stored), minted.secret)


def revoke(
    api: Api, actor: Actor, tenant: str, name: str, reason: Reason, *, cut: bool = False
) -> list[dict[str, Any]]:
    """Every key of that name as it then is, refused everywhere within a second. Raises Denied, NotFound."""
    with api.configurator.acting(actor, Ref("key", tenant, name), Action.key_write, reason) as tx:
        rows = keys.revoke(tx, tx.names.tenant(tenant), name, cut=cut)
        return [views.show(tx, "key", row) for row in rows]


def set_password(api: Api, actor: Actor, tenant: str, name: str, password: str, reason: Reason) -> PasswordSet:
    """The first password of a principal for the console, or another one; sessions begun with the old one end.

    Raises BadRequest, Denied (also when its roles are stronger than the actor's), NotFound.
    """
    hashed = hash_password(password)
    with api.configurator.acting(actor, Ref("principal", tenant, name), Action.key_write, reason) as tx:
        tenant_id = tx.names.tenant(tenant)
        stored = principals.find(tx, tenant_id, name)
        api.configurator.allow_key(actor, stored.value.id, (Scope.admin,))
        changes.record(tx.conn, Change(tenant_id, "principal.password", "principal", stored.value.id), tx.by)
        roles.take(tx.conn, roles.PLATFORM)  # accounts are that role's, whoever's they are
        console.set_password(tx.conn, stored.value.id, hashed, tx.by.at)
        return PasswordSet(name, tx.by.at)


def own(api: Api, actor: Actor) -> list[dict[str, Any]]:
    """The actor's own keys, newest first. Raises Denied, NotFound (nobody declared this principal)."""
    with reading_at(api.store, api.tools, actor, _own_tenant(api, actor), Action.key_write_own) as (tx, _):
        _myself(tx, actor)
        return [views.show(tx, "key", row) for row in _keys_of(tx, actor)]


def make_own(api: Api, actor: Actor, name: str, days: int, reason: Reason) -> Made:
    """A key of the actor's own. Raises BadRequest, Conflict (the name is taken, or there are too many), Denied."""
    settings, tenant = api.tools.settings, _own_tenant(api, actor)
    if not 1 <= days <= settings.own_key_days_max:
        raise BadRequest(f"expires_in_days is from 1 to own_key_days_max ({settings.own_key_days_max})",
                         param="expires_in_days")  # fmt: skip
    with api.configurator.acting(actor, Ref("key", tenant, name), Action.key_write_own, reason) as tx:
        spec = KeySpec(name=name, principal=_myself(tx, actor), scopes=(Scope.infer,), expires_in_days=days)
        for path, words in form(Ref("key", tenant, name), spec):
            raise BadRequest(words, param=show(path) or "name")
        working = [row for row in _keys_of(tx, actor) if not keys.state_of(row.value, int(tx.by.at.timestamp()))]
        if len(working) >= settings.own_keys_max:
            raise Conflict(f"there are own_keys_max ({settings.own_keys_max}) working keys already; revoke one first",
                           code="too_many_keys")  # fmt: skip
        minted = keys.create(tx, actor.tenant_id, spec)
        return Made(views.show(tx, "key", minted.stored), minted.secret)


def revoke_own(api: Api, actor: Actor, name: str, reason: Reason) -> list[dict[str, Any]]:
    """End a key of the actor's own. Raises Denied, NotFound (also for somebody else's key)."""
    tenant = _own_tenant(api, actor)
    with api.configurator.acting(actor, Ref("key", tenant, name), Action.key_write_own, reason) as tx:
        if keys.find(tx, actor.tenant_id, name).value.principal_id != actor.principal_id:
            raise NotFound(f"there is no key {name!r} of yours", param="name")
        return [views.show(tx, "key", row) for row in keys.revoke(tx, actor.tenant_id, name, cut=False)]


def _keys_of(tx: Tx, actor: Actor) -> list[Any]:
    found = stored_keys.page(tx.conn, tenant_id=actor.tenant_id, principal_id=actor.principal_id, limit=1000)
    return sorted(found, key=lambda row: row.created_at, reverse=True)


def _myself(tx: Tx, actor: Actor) -> str:
    """The name of the principal that the actor is. Raises Denied for who signed in but was never declared here."""
    if actor.principal_id.startswith(BY_TOKEN):
        raise Denied(FROM_PROVIDER, code="no_principal")
    stored = stored_principals.get(tx.conn, actor.principal_id)
    if stored is None or not stored.value.active or stored.value.tenant_id != actor.tenant_id:
        raise Denied("keys belong to declared principals; ask an administrator to declare you", code="no_principal")
    return stored.value.name


def _own_tenant(api: Api, actor: Actor) -> str:
    with api.store.platform() as conn:
        stored = stored_tenants.get(conn, actor.tenant_id)
    if stored is None:
        raise NotFound("your tenant is no longer there")
    return stored.value.name
