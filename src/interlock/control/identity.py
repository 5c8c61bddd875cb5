"""Who asks the admin API: an API key with scope `admin`, or a bearer token of an issuer that maps groups to roles,
becomes an `Actor` with the roles of its principal or of its groups."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Protocol

import msgspec
from psycopg import Connection

from interlock.control.console.passwords import hash_password
from interlock.control.permissions import Action, Binding, decide
from interlock.control.secrets import write_secret
from interlock.control.services import keys as key_service
from interlock.control.services.base import Tools, Tx
from interlock.errors import Denied, NotFound, Unauthenticated
from interlock.identity.tokens import Proven
from interlock.storage import bindings, console, keys, principals, tenants
from interlock.storage.bindings import RoleBinding
from interlock.storage.changes import Author
from interlock.storage.pool import Store
from interlock.types import apikey
from interlock.types.identity import AdminRole, Issuer, Principal, PrincipalKind, Scope
from interlock.types.snapshot import key_digest

ADMIN = "admin"
"""Name of the first administrator and of its key."""

WRITE_LOCK = 0x494C_0003
"""Advisory lock that every change of the configuration holds, so that what was checked is so when it is written."""

_INVALID = (
    "the admin key is missing or not valid; send `Authorization: Bearer il_...` with a key of scope admin, or a token"
)


class Actor(msgspec.Struct, frozen=True):
    """An authenticated administrator: the principal, its key or token, and every role it holds.

    `name` is what changes are recorded under: of who signed in by token, the subject and the issuer.
    """

    principal_id: str
    name: str
    tenant_id: str
    key_id: str
    bindings: tuple[Binding, ...]

    @property
    def platform(self) -> bool:
        """Whether any of its roles is platform-wide."""
        return any(b.tenant_id is None for b in self.bindings)


class ByToken(Protocol):
    """Makes an actor of a bearer token. Raises as `authenticate`, and Unavailable without the issuer's keys."""

    def actor(self, token: str) -> Actor:
        """The administrator that a token proves."""

    def signed_in(self, issuer: Issuer, id_token: str) -> Proven:
        """What an ID token for the console proves, whatever roles it gives."""


def authenticate(store: Store, tools: Tools, by_token: ByToken, authorization: str) -> Actor:
    """The actor behind an `Authorization` header.

    Raises Unauthenticated (no key, malformed, unknown, expired, revoked), Denied (scope or role missing), StoreError.
    """
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip()
    if scheme.lower() == "bearer" and secret.count(".") == 2:
        return by_token.actor(secret)
    if scheme.lower() != "bearer" or not apikey.well_formed(secret):
        raise Unauthenticated(_INVALID)
    digest = key_digest(tools.pepper, secret.encode())
    with store.platform() as conn:
        found = keys.by_digest(conn, digest)
        if found is None:
            raise Unauthenticated(_INVALID)
        key = found.value
        state = key_service.state_of(key, int(tools.now().timestamp()))
        if state:
            raise Unauthenticated(f"the admin key is {state}", code=f"{state}_api_key")
        if Scope.admin.value not in key.scopes:
            raise Denied("the key has no scope admin: it may call models, not administer", code="admin_denied")
        principal = _active(conn, key.principal_id)
        held = tuple(Binding(b.role, b.tenant_id or None) for b in bindings.of_principal(conn, principal.id))
    if not held:
        raise Denied(f"{principal.kind} {principal.name} holds no administrative role", code="admin_denied")
    return Actor(principal.id, principal.name, principal.tenant_id, key.id, held)


def _active(conn: Connection[Any], principal_id: str) -> Principal:
    stored = principals.get(conn, principal_id)
    tenant = tenants.get(conn, stored.value.tenant_id) if stored is not None else None
    if stored is None or tenant is None:
        raise Unauthenticated(_INVALID)
    if not stored.value.active or not tenant.value.active:
        raise Unauthenticated("the key's principal or tenant is switched off", code="inactive_principal")
    return stored.value


def reach_of(tenant_id: str) -> str | None:
    """Where the roles that a tenant's issuers hand out hold: in that tenant; of the platform's own tenant, everywhere
    (None)."""
    return None if tenant_id == tenants.PLATFORM_TENANT else tenant_id


def tenant_of(store: Store, actor: Actor, name: str) -> str:
    """Id of a tenant that the actor may see. Raises NotFound alike for one that is not there and one that is not
    theirs to know of."""
    with store.platform() as conn:
        found = tenants.by_name(conn, name)
    if found is None or not decide(actor.bindings, Action.tenant_read, found.value.id).allowed:
        raise NotFound(f"there is no tenant {name!r}", param="tenant")
    return found.value.id


def admin_key_path(tools: Tools) -> Path:
    """Where the first administrator's key is written."""
    return tools.settings.home_path("secrets", "admin_key")


def roles_of(store: Store, principal_id: str) -> list[RoleBinding]:
    """Every role a principal holds, platform-wide ones too: nobody may act with one that is stronger than their own."""
    with store.platform() as conn:
        return bindings.of_principal(conn, principal_id)


def ensure_admin(store: Store, tools: Tools) -> bool:
    """Make sure that somebody can administer: without a working key of a platform owner, make one.

    It is written to `secrets/admin_key` in the home folder (0600). Returns whether one was made. Raises StoreError.
    """
    by = Author("system", "system", "no working key of a platform owner existed", tools.now())
    with store.platform() as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
        tx = Tx(conn, by, tools)
        if _has_owner_key(tx):
            return False
        platform = tenants.PLATFORM_TENANT
        stored = principals.by_name(conn, platform, ADMIN)
        if stored is None:
            admin = Principal(id=tools.new_id("principal"), tenant_id=platform, kind=PrincipalKind.service, name=ADMIN)
            stored = principals.insert(conn, admin, by)
        elif not stored.value.active:
            stored = principals.update(conn, msgspec.structs.replace(stored.value, active=True), by)
        owner = stored.value.id
        if not any(b.role is AdminRole.owner and not b.tenant_id for b in bindings.of_principal(conn, owner)):
            bindings.insert(conn, RoleBinding(tools.new_id("binding"), owner, AdminRole.owner), by)
        minted = key_service.mint(tx, platform, owner, ADMIN, (Scope.admin,))
        # Written before the commit: a key that nobody can read would lock everybody out.
        write_secret(admin_key_path(tools), minted.secret + "\n")
    return True


def console_password_path(tools: Tools) -> Path:
    """Where the first administrator's password for the console is written."""
    return tools.settings.home_path("secrets", "console_password")


def ensure_console_password(store: Store, tools: Tools) -> bool:
    """Make sure that the first administrator has a password for the console: without any account, make one.

    It is written to `secrets/console_password` in the home folder (0600). Returns whether one was made.
    """
    with store.platform() as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
        stored = principals.by_name(conn, tenants.PLATFORM_TENANT, ADMIN)
        if stored is None or console.has_accounts(conn):
            return False
        password = base64.b32encode(tools.random(15)).decode().lower()
        console.set_password(conn, stored.value.id, hash_password(password), tools.now())
        write_secret(console_password_path(tools), password + "\n")
    return True


def _has_owner_key(tx: Tx) -> bool:
    now_s = int(tx.by.at.timestamp())
    for binding in bindings.page(tx.conn, tenant_id="", limit=10_000):
        if binding.value.role is not AdminRole.owner:
            continue
        principal = principals.get(tx.conn, binding.value.principal_id)
        if principal is None or not principal.value.active:
            continue
        for key in keys.page(tx.conn, principal_id=principal.value.id, limit=1000):
            if Scope.admin.value in key.value.scopes and not key_service.state_of(key.value, now_s):
                return True
    return False
