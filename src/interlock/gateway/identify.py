"""Who is asking: an API key or a bearer token becomes an `Identity`, once per snapshot and credential.

Keys are looked up by their HMAC under the installation's pepper, so that neither memory nor snapshot holds a key,
and the comparison takes the same time whatever was sent.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from interlock.errors import Denied, Unauthenticated
from interlock.metering.book import NO_BUDGETS, TenantBook
from interlock.metering.limits import Subject
from interlock.types.apikey import well_formed
from interlock.types.identity import ApiKey, Caller, DataClass, PrincipalKind, Scope, Workload
from interlock.types.record import Party
from interlock.types.snapshot import key_digest

if TYPE_CHECKING:
    from interlock.gateway.snapshot import SnapshotView
    from interlock.identity.tokens import TokenVerifier
    from interlock.types.budget import Budget
    from interlock.types.clock import Clock

_INVALID = "The API key is not valid; check that it was copied whole and belongs to this installation."


class Identity(NamedTuple):
    """A caller with what the later stages would otherwise work out at each call.

    `subjects`: whose limits its calls count on. `asserts`: may name a user it acts for.
    """

    caller: Caller
    tenant_id: str
    team_id: str
    subjects: tuple[Subject, ...]
    asserts: bool
    digest: bytes
    """Digest of the API key (empty for tokens), by which running calls are found when it is cut off."""
    parties: tuple[Party, ...]
    """Who calls and whom it acts for, as records have them."""
    budgets: tuple[Budget, ...] = ()
    """Budgets that its calls count on, whatever model answers."""
    book: TenantBook = NO_BUDGETS
    recording: int = 0
    """The strictest that its tenant, and the teams of all parties, ask for."""
    workload: Workload = Workload.interactive
    """The less urgent of what its key and its principal have."""


class Authenticator:
    """Turns credentials into identities. Remembers them until the snapshot changes, at most `cache_max` of them."""

    def __init__(self, pepper: bytes, tokens: TokenVerifier, clock: Clock, cache_max: int) -> None:
        self._pepper = pepper
        self._tag_key = os.urandom(32)
        self._tokens = tokens
        self._clock = clock
        self._cache_max = cache_max
        self._cache: dict[bytes, Identity] = {}
        self._view: SnapshotView | None = None

    def identify(self, headers: dict[bytes, bytes], view: SnapshotView) -> Identity:
        """The identity behind a request's headers. Raises Unauthenticated or, without the scope, Denied."""
        if view is not self._view:
            self._cache.clear()
            self._view = view
        authorization = headers.get(b"authorization")
        plain = authorization is not None and b"x-api-key" not in headers and b"api-key" not in headers
        # A keyed tag of the header, under a key that lives as long as this process: memory holds no credential.
        tag = blake2b(authorization, digest_size=16, key=self._tag_key).digest() if plain and authorization else b""
        identity = self._cache.get(tag)
        if identity is None:
            secret = _credential(headers)
            if not secret.startswith(b"il_"):
                return self._from_token(secret, view)
            identity = self._from_key(secret, key_digest(self._pepper, secret), view)
            if tag:
                if len(self._cache) >= self._cache_max:
                    self._cache.clear()
                self._cache[tag] = identity
        expiry = identity.caller.not_after_s
        if expiry and self._clock.wall_ns() >= expiry * 1_000_000_000:
            raise Unauthenticated("The API key has expired; ask for a new one.", code="expired_api_key")
        return identity

    def acting_for(self, identity: Identity, name: str, view: SnapshotView) -> Identity:
        """The identity with a user it asserts to act for (header `x-interlock-assert-user`)."""
        caller = identity.caller
        if not identity.asserts:
            raise Denied(f"This credential may not act for others: it lacks the scope {Scope.assert_user.value!r}.")
        user = view.principal_named(identity.tenant_id, name)
        if user is None or not user.active or user.kind is not PrincipalKind.user:
            raise Denied(f"There is no user {name!r} that this credential could act for.")
        if caller.principal.kind is PrincipalKind.agent and not _may_act(caller, user.id):
            raise Denied(f"The agent {caller.principal.name!r} may not act for {name!r}.")
        acting = Caller(
            principal=caller.principal,
            auth_method=caller.auth_method,
            credential_id=caller.credential_id,
            scopes=caller.scopes,
            data_class=caller.data_class,
            key_limits=caller.key_limits,
            delegator=user,
            delegation="asserted",
            not_after_s=caller.not_after_s,
        )
        parties = _parties(acting)
        return identity._replace(
            caller=acting, parties=parties, recording=_recording(identity.tenant_id, parties, view)
        )

    def _from_key(self, secret: bytes, digest: bytes, view: SnapshotView) -> Identity:
        key = view.key(digest)
        if key is None:
            if not well_formed(secret.decode("latin-1")):
                raise Unauthenticated("The API key is malformed: it was not copied whole, or mistyped.")
            raise Unauthenticated(_INVALID)
        if key.revoked:
            raise Unauthenticated("The API key was revoked; ask for a new one.", code="revoked_api_key")
        if Scope.infer.value not in key.scopes:
            raise Denied(f"This API key has no scope {Scope.infer.value!r}: it cannot call models.")
        principal = view.principal(key.principal_id)
        tenant = view.tenant(key.tenant_id)
        if principal is None or not principal.active or tenant is None or not tenant.active:
            raise Unauthenticated("The API key belongs to an account that is not active.")
        caller = Caller(
            principal=principal,
            auth_method="api_key",
            credential_id=key.id,
            scopes=key.scopes,
            data_class=key.data_class,
            key_limits=key.limits,
            not_after_s=key.not_after_s,
        )
        return _identity(caller, view, key, digest)

    def _from_token(self, secret: bytes, view: SnapshotView) -> Identity:
        if secret.count(b".") != 2:
            raise Unauthenticated("The API key is malformed: it starts with neither 'il_' nor the form of a JWT.")
        caller = self._tokens.verify(secret.decode("latin-1"))
        tenant = view.tenant(caller.principal.tenant_id)
        if tenant is None or not tenant.active:
            raise Unauthenticated("The token belongs to a tenant that is not active.")
        return _identity(caller, view, None, b"")


def _credential(headers: dict[bytes, bytes]) -> bytes:
    """The key or token: `Authorization: Bearer`, `x-api-key` or `api-key`; two different ones are refused."""
    found = {headers[name].strip() for name in (b"x-api-key", b"api-key") if name in headers}
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not secret.strip():
            raise Unauthenticated("Header 'authorization' must be 'Bearer <API key>'.")
        found.add(secret.strip())
    if not found:
        raise Unauthenticated("No API key: send it as 'Authorization: Bearer <API key>'.", code="missing_api_key")
    if len(found) > 1:
        raise Unauthenticated("Two different API keys were sent; send one.")
    return found.pop()


def _may_act(caller: Caller, user_id: str) -> bool:
    allowed = caller.principal.may_act_for
    return user_id in allowed or "*" in allowed


def _identity(caller: Caller, view: SnapshotView, key: ApiKey | None, digest: bytes) -> Identity:
    principal = caller.principal
    subjects = []
    if key is not None and key.limits is not None:
        subjects.append(Subject("key", key.id, key.limits))
    if principal.limits is not None:
        subjects.append(Subject("principal", principal.id, principal.limits))
    team_id = principal.team_ids[0] if principal.team_ids else ""
    team = view.team(team_id) if team_id else None
    if team is not None and team.limits is not None:
        subjects.append(Subject("team", team.id, team.limits))
    asserts = Scope.assert_user.value in caller.scopes
    parties = _parties(caller)
    book = view.book.of(principal.tenant_id)
    return Identity(
        caller,
        principal.tenant_id,
        team_id,
        tuple(subjects),
        asserts,
        digest,
        parties,
        book.of(principal.tenant_id, team_id, principal.id, key.id if key is not None else ""),
        book,
        _recording(principal.tenant_id, parties, view),
        max(principal.workload, key.workload) if key is not None else principal.workload,
    )


def _recording(tenant_id: str, parties: tuple[Party, ...], view: SnapshotView) -> int:
    """What a team asks for holds for each call that concerns one of its members, whichever team comes first."""
    tenant = view.tenant(tenant_id)
    strictest = int(tenant.recording) if tenant is not None else 0
    for party in parties:
        for team_id in party.team_ids:
            team = view.team(team_id)
            if team is not None and team.recording > strictest:
                strictest = int(team.recording)
    return strictest


def _parties(caller: Caller) -> tuple[Party, ...]:
    both = (caller.principal,) if caller.delegator is None else (caller.principal, caller.delegator)
    return tuple(Party(p.id, p.kind.value, p.name, p.team_ids) for p in both)


def raised(base: DataClass, *others: DataClass) -> DataClass:
    """The highest of several data classes: a caller may only raise."""
    return max((base, *others))
