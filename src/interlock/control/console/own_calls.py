"""Calls that signed-in people make themselves: each session has a short-lived API key of its own principal. People of
an identity provider have the one that their bearer tokens stand for (`own_person`).

The key is made by the keys service when it is first needed, with the scope `infer` only, and is kept in the memory of
this process alone: no browser, file or log ever has it. So the gateway governs and records such a call as any other of
that principal. Signing out revokes it and cuts off what runs with it, whichever control process made it.
"""

from __future__ import annotations

import datetime
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock.control.apply import Reason
from interlock.control.console.own_person import own_person
from interlock.control.identity import WRITE_LOCK
from interlock.control.permissions import Action, require
from interlock.control.plan import Ref
from interlock.control.services import keys as key_service
from interlock.control.services.base import Tx
from interlock.errors import LimitExceeded, NotFound, Unauthenticated
from interlock.storage import console, keys, tenants
from interlock.storage.changes import Author
from interlock.types.identity import DataClass, Scope

if TYPE_CHECKING:
    from psycopg import Connection

    from interlock.control.identity import Actor
    from interlock.control.web import Api
    from interlock.storage.console import Session

FRESH_S = 30
"""A key with less time than this left is not used for another call."""
NAME_CHARS = 16


class _Held(NamedTuple):
    secret: str
    not_after_s: int


class OwnCalls:
    """The keys of the sessions that this process has made, and how many calls each person has running."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._held: dict[bytes, _Held] = {}
        self._running: Counter[str] = Counter()

    def key(self, hashed: bytes, session: Session, actor: Actor) -> str:
        """The key of a session (`hashed`: the digest of its token), made when there is none. Raises Denied for who may
        not use the playground where they are; StoreError."""
        require(actor.bindings, Action.playground_use, actor.tenant_id)
        with self._lock:
            now_s = self._now_s()
            held = self._held.get(hashed)
            if held is None or held.not_after_s - now_s < FRESH_S:
                self._held = {name: each for name, each in self._held.items() if each.not_after_s > now_s}
                held = self._held[hashed] = self._made(hashed, session, actor)
            return held.secret

    def end(self, conn: Connection[Any], hashed: bytes, session: Session) -> None:
        """Revoke every key of a session, and cut off what runs with it. The connection is the platform's."""
        self._held.pop(hashed, None)
        if not keys.named(conn, session.tenant_id, _name(hashed)):
            return
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))
        by = Author(session.principal_id, session.name, "signed out of the console", self._api.tools.now())
        key_service.revoke(Tx(conn, by, self._api.tools), session.tenant_id, _name(hashed), cut=True)

    def begin(self, principal_id: str) -> None:
        """One more call of a person begins; `done` ends it. Raises LimitExceeded."""
        most = self._api.tools.settings.playground_calls_max
        with self._lock:
            if self._running[principal_id] >= most:
                raise LimitExceeded(
                    f"{most} of your calls are running here already (playground_calls_max); stop one or wait for it."
                )
            self._running[principal_id] += 1

    def done(self, principal_id: str) -> None:
        """A call of a person is over."""
        with self._lock:
            self._running[principal_id] -= 1
            if self._running[principal_id] <= 0:
                del self._running[principal_id]

    def _made(self, hashed: bytes, session: Session, actor: Actor) -> _Held:
        with self._api.store.platform() as conn:
            tenant = tenants.get(conn, session.tenant_id)
        if tenant is None:
            raise NotFound("there is no such tenant", param="tenant")
        ends = datetime.datetime.timestamp(session.expires_at)
        not_after_s = min(self._now_s() + self._api.tools.settings.playground_key_s, int(ends))
        ref = Ref("key", tenant.value.name, _name(hashed))
        reason = Reason("a call in the console's playground")
        with self._api.configurator.acting(actor, ref, Action.playground_use, reason) as tx:
            scopes = (Scope.infer,)
            data_class = own_person(tx, session) if session.method == "oidc" else DataClass.internal
            made = key_service.mint(
                tx, session.tenant_id, session.principal_id, ref.name, scopes, not_after_s, data_class
            )
        with self._api.store.platform() as conn:
            over = console.session(conn, hashed) is None
            if over:  # signed out meanwhile, when there was no key to revoke yet
                self.end(conn, hashed, session)
        if over:
            raise Unauthenticated("the session is over", code="session_over")
        return _Held(made.secret, not_after_s)

    def _now_s(self) -> int:
        return self._api.tools.clock.wall_ns() // 1_000_000_000


def _name(hashed: bytes) -> str:
    """What the keys of a session are called; it tells nothing of the token."""
    return f"console-{hashed.hex()[:NAME_CHARS]}"
