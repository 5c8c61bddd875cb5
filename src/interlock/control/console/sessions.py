"""Sessions of the console: kept in the database, so that every control process knows them; the cookie holds a token.

What a session may do is looked up at each request: roles that were taken away, a principal that was switched off, or an
issuer that is trusted no longer, end it.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from interlock.control.console.exports import Exports
from interlock.control.console.own_calls import OwnCalls
from interlock.control.identity import Actor, reach_of
from interlock.control.permissions import Binding
from interlock.errors import Denied, Unauthenticated
from interlock.identity.oidc import Providers
from interlock.identity.tokens import roles_of_groups
from interlock.ledger.vault import KeyWrapper, VaultError
from interlock.storage import bindings, console, issuers, principals, tenants
from interlock.storage.console import Session

if TYPE_CHECKING:
    from interlock.control.web import Api

TOKEN_BYTES = 32
SEEN_S = 30
"""How seldom a session in use is written down as such."""


def digest(token: str) -> bytes:
    """What of a token is kept."""
    return hashlib.sha256(token.encode()).digest()


def _sealer(token: str) -> KeyWrapper:
    """Seals under a key that follows from the token: the database, which has its hash alone, opens nothing."""
    return KeyWrapper(hmac.digest(token.encode(), b"interlock console id token", "sha256"), os.urandom)


def _seal(token: str, id_token: str) -> str:
    return base64.b64encode(_sealer(token).wrap(id_token.encode(), _context(token))).decode()


def _context(token: str) -> str:
    return f"session {digest(token).hex()}"


class Sessions:
    """Begins, finds and ends sessions. `calls`: what the people of these sessions call themselves; `exports`: of the
    ledger, that they have made."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.calls = OwnCalls(api)
        self.exports = Exports(api)

    @cached_property
    def providers(self) -> Providers:
        """The identity providers that people sign in at."""
        return Providers(self._api.tools.settings, self._api.tools.clock)

    def begin(
        self,
        *,
        method: str,
        principal_id: str,
        name: str,
        tenant_id: str,
        issuer_id: str = "",
        groups: Sequence[str] = (),
        id_token: str = "",
    ) -> str:
        """Somebody has proven who they are; returns the token. Raises Denied when they have no administrative role.
        `id_token`: kept, sealed, for when they sign out at their provider."""
        tools = self._api.tools
        now = tools.now()
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(
            csrf=secrets.token_urlsafe(TOKEN_BYTES),
            method=method,
            principal_id=principal_id,
            name=name,
            tenant_id=tenant_id,
            issuer_id=issuer_id,
            groups=list(groups),
            id_token=_seal(token, id_token) if id_token else "",
            created_at=now,
            seen_at=now,
            expires_at=now + datetime.timedelta(milliseconds=tools.settings.console_session_ms),
        )
        self._actor(session)
        with self._api.store.platform() as conn:
            console.begin_session(conn, digest(token), session)
        return token

    def find(self, token: str, *, use: bool = True) -> tuple[Session, Actor]:
        """Who a token stands for, and with which roles. Raises Unauthenticated, Denied. `use`: somebody does something;
        a page that is merely open keeps no session alive."""
        tools = self._api.tools
        hashed, now = digest(token), tools.now()
        idle = datetime.timedelta(milliseconds=tools.settings.console_idle_ms)
        with self._api.store.platform() as conn:
            session = console.session(conn, hashed)
            if session is None:
                raise Unauthenticated("there is no such session", code="no_session")
            if now >= session.expires_at or now - session.seen_at >= idle:
                console.end_session(conn, hashed)
                raise Unauthenticated("the session is over", code="session_over")
            if use and (now - session.seen_at).total_seconds() >= SEEN_S:
                console.seen(conn, hashed, now)
        return session, self._actor(session)

    @staticmethod
    def id_token(token: str, session: Session) -> str:
        """The ID token that a session of this token began with; "" when none was kept."""
        try:
            return _sealer(token).unwrap(base64.b64decode(session.id_token), _context(token)).decode()
        except (VaultError, ValueError):
            return ""

    def end(self, token: str) -> None:
        """Sign out: also the keys that were made for the session end, with what runs by them."""
        hashed = digest(token)
        with self._api.store.platform() as conn:
            session = console.session(conn, hashed)
            if session is not None:
                self.calls.end(conn, hashed, session)
            console.end_session(conn, hashed)

    def _actor(self, session: Session) -> Actor:
        who = session.name
        with self._api.store.platform() as conn:
            tenant = tenants.get(conn, session.tenant_id)
            if tenant is None or not tenant.value.active:
                raise Unauthenticated("the tenant is switched off", code="inactive_principal")
            if session.method == "password":
                stored = principals.get(conn, session.principal_id)
                if stored is None or not stored.value.active:
                    raise Unauthenticated("the account is switched off", code="inactive_principal")
                held = tuple(
                    Binding(b.role, b.tenant_id or None) for b in bindings.of_principal(conn, session.principal_id)
                )
            else:
                issuer = issuers.get(conn, session.issuer_id)
                if issuer is None or issuer.value.login is None:
                    raise Unauthenticated("the identity provider is trusted no longer", code="no_session")
                who = f"{session.name} ({issuer.value.issuer})"
                declared = principals.by_name(conn, session.tenant_id, session.name)
                own = principals.get(conn, session.principal_id)
                if any(each is not None and not each.value.active for each in (declared, own)):
                    raise Unauthenticated("the account is switched off", code="inactive_principal")
                reach = reach_of(issuer.value.tenant_id)
                held = tuple(Binding(role, reach) for role in roles_of_groups(issuer.value, session.groups))
        if not held:
            raise Denied(f"{session.name} has no administrative role", code="admin_denied")
        return Actor(session.principal_id, who, session.tenant_id, f"console/{session.method}", held)
