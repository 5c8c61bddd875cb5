"""Administrators who sign in at an identity provider: their token's groups are roles, by their issuer's entry.

Verified by the code that gateways verify callers with. Issuers are read from the database at each request, so that one
that was removed is believed no longer. This process keeps its own key sets, of the issuers that hand out roles.

A token counts here only when it was made for it: with the scope `admin`, as an API key would need. A token that an
application holds to call models does not administer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress

import msgspec

from interlock.control.identity import Actor, reach_of
from interlock.control.permissions import Binding
from interlock.control.services.base import Tools
from interlock.errors import Denied, InterlockError, Unauthenticated, Unavailable
from interlock.identity.jwks import JwksFetcher, KeyStore
from interlock.identity.tokens import Proven, TokenVerifier, admin_roles, scopes_of
from interlock.storage import issuers, principals, tenants
from interlock.storage.pool import Store
from interlock.types.identity import Caller, Issuer, Scope

logger = logging.getLogger(__name__)

_STEP_S = 0.25
"""How often the thread looks whether it should stop, and somebody who signs in whether there are keys."""
_KEY_WAITS = 20


class AdminTokens:
    """Makes actors of tokens. Threads may share one; `run` is the life of the thread that fetches keys."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._tools = tools
        self._folder = tools.settings.home_path("control", "jwks")
        keys = KeyStore(self._folder, tools.settings, tools.clock, self._ask)
        self._verifier = TokenVerifier((), keys, tools.settings, tools.clock)
        people = KeyStore(self._folder, tools.settings, tools.clock, self._ask)
        self._people = TokenVerifier((), people, tools.settings, tools.clock)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: set[str] = set()
        self._wake = asyncio.Event()

    def actor(self, token: str) -> Actor:
        """The administrator that a token proves.

        Raises Unauthenticated for a token that does not hold, Denied for one that was not made for this or gives no
        role, Unavailable while the issuer's keys are not known, StoreError.
        """
        trusted = self._trusted()
        with self._lock:  # the verifier is not for two threads at once
            self._verifier.update(trusted)
            if not self._verifier.named_issuer(token).group_roles:
                raise Denied("the token's issuer gives nobody an administrative role", code="admin_denied")
            proven = self._verifier.prove(token)
        issuer, caller = proven.issuer, proven.caller
        if Scope.admin.value not in scopes_of(proven.claims):
            raise Denied("the token has no scope admin: it may call models, not administer", code="admin_denied")
        if caller.delegator is not None:
            raise Denied("a token of somebody who acts for another does not administer", code="admin_denied")
        self._check_active(caller)
        roles = admin_roles(issuer, proven.claims)
        name = caller.principal.name
        if not roles:
            raise Denied(f"no group of {name} has an administrative role", code="admin_denied")
        # INVARIANT: the place comes from the issuer's entry, never from the token
        held = tuple(Binding(role, reach_of(issuer.tenant_id)) for role in roles)
        who = f"{name} ({issuer.issuer})"
        return Actor(caller.principal.id, who, issuer.tenant_id, caller.credential_id, held)

    def signed_in(self, issuer: Issuer, id_token: str) -> Proven:
        """What an ID token for the console proves: signature, issuer, audience (the console's client) and times.

        Waits a few seconds for keys that are not known yet. Raises as `actor`.
        """
        if issuer.login is None:
            raise Unauthenticated("nobody signs in at this issuer", code="invalid_token")
        meant = msgspec.structs.replace(issuer, audience=issuer.login.client_id)
        for left in range(_KEY_WAITS, -1, -1):
            try:
                with self._lock:
                    self._people.update((meant,))
                    return self._people.prove(id_token)
            except Unavailable:
                if not left:
                    raise
                time.sleep(_STEP_S)
        raise AssertionError  # INVARIANT: the last turn returns or raises

    def run(self, stop: threading.Event) -> None:
        """Keep the key sets of issuers that hand out roles, until `stop`. An outage of the database is waited out."""
        asyncio.run(self._follow(stop))

    def _trusted(self) -> list[Issuer]:
        with self._store.platform() as conn:
            return issuers.everything(conn)

    def _check_active(self, caller: Caller) -> None:
        """Raise Unauthenticated when the tenant, or a declared principal of that name and kind, is switched off."""
        who = caller.principal
        with self._store.platform() as conn:
            tenant = tenants.get(conn, who.tenant_id)
            declared = principals.by_name(conn, who.tenant_id, who.name)
        off = declared is not None and declared.value.kind is who.kind and not declared.value.active
        if tenant is None or not tenant.value.active or off:
            raise Unauthenticated("the token's principal or tenant is switched off", code="inactive_principal")

    def _ask(self, issuer_id: str) -> None:
        """Have an issuer's keys fetched; from whatever thread needs them."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # just stopping
                loop.call_soon_threadsafe(self._asked_for, issuer_id)

    def _asked_for(self, issuer_id: str) -> None:
        self._asked.add(issuer_id)
        self._wake.set()

    async def _follow(self, stop: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        fetcher = JwksFetcher(self._folder, self._tools.settings, self._tools.clock)
        fetching = asyncio.create_task(fetcher.run())
        interval_s = self._tools.settings.snapshot_poll_ms / 1000
        followed: list[Issuer] | None = None
        try:
            while not stop.is_set():
                with suppress(InterlockError):  # the requests themselves say that the database is away
                    wanted = [each for each in await asyncio.to_thread(self._trusted) if each.group_roles]
                    if wanted != followed:
                        fetcher.update(wanted)
                        followed = wanted
                while self._asked:
                    fetcher.request(self._asked.pop())
                await self._pause(stop, interval_s)
        finally:
            self._loop = None
            fetching.cancel()
            with suppress(asyncio.CancelledError):
                await fetching

    async def _pause(self, stop: threading.Event, seconds: float) -> None:
        """Until a key set is asked for, at most `seconds`, in steps short enough for a prompt stop."""
        left = seconds
        while left > 0 and not stop.is_set() and not self._wake.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left, _STEP_S))
            left -= _STEP_S
        self._wake.clear()
