"""JWT bearer tokens (RFC 7519, RFC 9068) become callers, with delegation by the `act` claim (RFC 8693).

What a token may say is decided by its issuer's entry in the snapshot, never by the token: which algorithms, which
audience, which claim is the subject, which groups are which teams. Algorithms are asymmetric only, so that a public
key can never be used as a shared secret, and headers that carry or point to keys are not looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import Key

from interlock.errors import Unauthenticated, Unavailable
from interlock.identity.jwks import KeyStore
from interlock.policy.cache import Generations
from interlock.settings import Settings
from interlock.types.clock import Clock
from interlock.types.identity import BY_TOKEN, AdminRole, Caller, Issuer, Principal, PrincipalKind, Scope

ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
)
"""Everything an issuer may be allowed (RFC 7518, RFC 9864): signatures that a public key cannot make."""
SUBJECT_CHARACTERS_MAX = 256
GROUPS_MAX = 1000
"""Groups of a token that are looked at; a token with more is refused rather than half read."""
_TYPES = ("", "jwt", "at+jwt", "application/at+jwt", "application/jwt")
_S = 1_000_000_000


class _Remembered(NamedTuple):
    caller: Caller
    issuer_id: str
    generation: bytes


class Proven(NamedTuple):
    """What a token proved: its issuer's entry, its claims, and who calls by it. `generation`: of the issuer's keys."""

    issuer: Issuer
    claims: Mapping[str, Any]
    caller: Caller
    generation: bytes


class TokenVerifier:
    """Verifies tokens against the issuers of one snapshot. Remembers good ones until they expire, at most
    `jwt_cache_max`; a change of issuers, or of an issuer's keys, forgets them."""

    def __init__(self, issuers: Iterable[Issuer], key_store: KeyStore, settings: Settings, clock: Clock) -> None:
        self._keys = key_store
        self._clock = clock
        self._leeway_ns = settings.jwt_leeway_s * _S
        self._bytes_max = settings.jwt_bytes_max
        self._cache_max = settings.jwt_cache_max
        self._cache: Generations[bytes, _Remembered] = Generations(max(2, settings.jwt_cache_max))
        # One registry for each algorithm: it takes that one and no other, whatever the token's header says.
        self._registries = {alg: jws.JWSRegistry(algorithms=[alg], strict_check_header=False) for alg in ALGORITHMS}
        for registry in self._registries.values():
            registry.max_header_length = self._bytes_max
        self._issuers: tuple[Issuer, ...] = ()
        self._by_name: dict[str, list[Issuer]] = {}
        self.update(issuers)

    def update(self, issuers: Iterable[Issuer]) -> None:
        """Trust these issuers from now on. Costs nothing when they are the same."""
        new = tuple(issuers)
        if new == self._issuers:
            return
        self._issuers = new
        self._by_name = {}
        for issuer in new:
            self._by_name.setdefault(issuer.issuer, []).append(issuer)
        self._cache.clear()
        self._keys.forget_others(issuer.id for issuer in new)

    def verify(self, token: str) -> Caller:
        """The caller that a token proves.

        Raises Unauthenticated with the reason (code `invalid_token` or `expired_token`), or Unavailable while the
        issuer's keys are not known (`issuer_keys_unavailable`) or are just being fetched (`issuer_keys_refreshing`).
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = self._cache.get(digest)
        now_ns = self._clock.wall_ns()
        if remembered is not None:
            ring = self._keys.ring(remembered.issuer_id)
            if ring is not None and ring.generation == remembered.generation:
                _check_expiry(remembered.caller.not_after_s, now_ns, self._leeway_ns)
                return remembered.caller
        proven = self.prove(token)
        if self._cache_max:
            self._cache.put(digest, _Remembered(proven.caller, proven.issuer.id, proven.generation))
        return proven.caller

    def prove(self, token: str) -> Proven:
        """As `verify`, with the claims, and without remembering anything."""
        header, claims = self._read(token)
        issuer = self._issuer(claims)
        generation = self._check_signature(token, header, issuer)
        self._check_times(claims, self._clock.wall_ns())
        return Proven(issuer, claims, _caller(issuer, claims), generation)

    def named_issuer(self, token: str) -> Issuer:
        """The issuer that a token names. INVARIANT: nothing is proven by it. Raises Unauthenticated."""
        return self._issuer(self._read(token)[1])

    def _read(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if len(token) > self._bytes_max:
            _refuse(f"it is larger than {self._bytes_max} bytes")
        return _read(token)

    def _issuer(self, claims: Mapping[str, Any]) -> Issuer:
        """The issuer's entry that `iss` and `aud` name. The claims are not proven yet: they only choose the entry."""
        name = claims.get("iss")
        known = self._by_name.get(name, []) if isinstance(name, str) else []
        if not known:
            _refuse("its issuer (iss) is not one that this installation trusts")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        meant = [issuer for issuer in known if issuer.audience in audiences]
        if not meant:
            _refuse("it is for another audience (aud)")
        if len(meant) > 1:
            _refuse("its audience (aud) is one that several tenants use, so that it does not say which is meant")
        return meant[0]

    def _check_signature(self, token: str, header: Mapping[str, Any], issuer: Issuer) -> bytes:
        """Verify with the issuer's key of the header's id. Returns the generation of the keys."""
        alg, kid = header.get("alg"), header.get("kid")
        if not isinstance(alg, str) or alg not in issuer.algorithms or alg not in ALGORITHMS:
            _refuse("its algorithm (alg) is not one that its issuer may use")
        if kid is not None and not isinstance(kid, str):
            _refuse("its key id (kid) is not text")
        if "crit" in header or "b64" in header:
            _refuse("its header asks for extensions (crit) that are not supported")
        if str(header.get("typ", "")).lower() not in _TYPES:
            _refuse("its type (typ) is not that of a JWT")
        ring = self._keys.ring(issuer.id)
        if ring is None:
            self._keys.request_refresh(issuer.id)
            raise Unavailable(
                "The keys of the token's issuer are not available; try again shortly.",
                code="issuer_keys_unavailable",
                headers={"Retry-After": "2"},
            )
        key = ring.find(kid, alg)
        if key is None:
            if self._keys.request_refresh(issuer.id):
                raise Unavailable(
                    "The token is signed with a key that is not known yet; the issuer's keys are being fetched.",
                    code="issuer_keys_refreshing",
                    headers={"Retry-After": "1"},
                )
            _refuse("it is signed with a key that its issuer does not publish")
        if not self._signed(token, key, alg):
            _refuse("its signature is wrong")
        return ring.generation

    def _signed(self, token: str, key: Key, alg: str) -> bool:
        registry = self._registries[alg]
        try:
            if alg == "EdDSA":  # the older name of Ed25519, which joserfc warns about at each use
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SecurityWarning)
                    jws.deserialize_compact(token, key, registry=registry)
            else:
                jws.deserialize_compact(token, key, registry=registry)
        except (JoseError, ValueError, TypeError, KeyError):
            return False
        return True

    def _check_times(self, claims: Mapping[str, Any], now_ns: int) -> None:
        """`exp` is required; `nbf` and `iat` must not lie ahead. All within the leeway (RFC 7519, section 4.1)."""
        _check_expiry(_seconds(claims, "exp", required=True), now_ns, self._leeway_ns)
        for name in ("nbf", "iat"):
            if _seconds(claims, name) * _S > now_ns + self._leeway_ns:
                _refuse(f"it is not valid yet ({name})")


def _refuse(why: str, code: str = "invalid_token") -> NoReturn:
    raise Unauthenticated(f"The bearer token was refused: {why}.", code=code)


def _check_expiry(expires_s: int, now_ns: int, leeway_ns: int) -> None:
    if now_ns >= expires_s * _S + leeway_ns:
        _refuse("it has expired", "expired_token")


def _seconds(claims: Mapping[str, Any], name: str, *, required: bool = False) -> int:
    """A NumericDate claim as whole seconds, rounded down; 0 when it is absent."""
    value = claims.get(name)
    if value is None and not required:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        _refuse(f"its claim {name} is missing or not a time")
    return int(value)


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, claims) of a compact JWS, not verified. Refuses what is not one."""
    parts = token.split(".")
    if len(parts) != 3 or not all(parts) or not token.isascii():
        _refuse("it is not a signed JWT")
    return _part(parts[0]), _part(parts[1])


def _part(text: str) -> dict[str, Any]:
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = msgspec.json.decode(decoded)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse("it is not a JWT: a part is not base64url of JSON")
    if not isinstance(found, dict):
        _refuse("it is not a JWT: a part is not a JSON object")
    return found


def _caller(issuer: Issuer, claims: Mapping[str, Any]) -> Caller:
    """The caller that verified claims stand for.

    With an `act` claim the actor is an agent and calls, and the subject is the user it acts for (RFC 8693, section
    4.1: only the outermost actor counts, the ones inside it are history).
    """
    subject = _name(claims.get(issuer.subject_claim), issuer.subject_claim)
    principal = _principal(issuer, issuer.kind, subject, claims)
    delegator = None
    act = claims.get("act")
    if act is not None:
        if not isinstance(act, dict):
            _refuse("its actor (act) is not an object")
        if act.get("iss", issuer.issuer) != issuer.issuer:
            _refuse("its actor (act) belongs to another issuer")
        kind = PrincipalKind.user if issuer.kind is PrincipalKind.agent else issuer.kind
        delegator = _principal(issuer, kind, subject, claims)
        actor = _principal(issuer, PrincipalKind.agent, _name(act.get("sub"), "act.sub"), act)
        principal = msgspec.structs.replace(actor, may_act_for=(delegator.id,))
    jti = claims.get("jti")
    return Caller(
        principal=principal,
        auth_method="jwt",
        credential_id=f"{issuer.id}/{jti if isinstance(jti, str) and jti else subject}"[: SUBJECT_CHARACTERS_MAX * 2],
        scopes=(Scope.infer.value,),
        data_class=issuer.data_class,
        delegator=delegator,
        delegation="token" if delegator is not None else "",
        not_after_s=_seconds(claims, "exp", required=True),
    )


def _principal(issuer: Issuer, kind: PrincipalKind, name: str, claims: Mapping[str, Any]) -> Principal:
    """A principal that lives as long as its token. Its id is the same in every token of the same subject."""
    digest = hashlib.sha256(f"{issuer.id}\0{kind.value}\0{name}".encode()).digest()
    return Principal(
        id=BY_TOKEN + base64.b32encode(digest[:15]).decode().lower(),
        tenant_id=issuer.tenant_id,
        kind=kind,
        name=name,
        team_ids=_teams(issuer, claims),
    )


def _name(value: object, claim: str) -> str:
    if not isinstance(value, str) or not value or len(value) > SUBJECT_CHARACTERS_MAX or not value.isprintable():
        _refuse(f"its claim {claim} is not a name of 1 to {SUBJECT_CHARACTERS_MAX} printable characters")
    return value


def admin_roles(issuer: Issuer, claims: Mapping[str, Any]) -> tuple[AdminRole, ...]:
    """The administrative roles of a token's groups, by the issuer's mapping. Refuses a token with too many groups."""
    return roles_of_groups(issuer, _groups(issuer, claims))


def groups_of(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[str]:
    """The groups that a token names. Refuses one with too many."""
    return _groups(issuer, claims)


def roles_of_groups(issuer: Issuer, groups: Collection[str]) -> tuple[AdminRole, ...]:
    """The administrative roles of groups, by the issuer's mapping."""
    return tuple(dict.fromkeys(role for group, role in issuer.group_roles.items() if group in groups))


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """What a token may be used for: the claim `scope` (RFC 8693, section 4.2), or `scp`, as text or list."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        listed = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
        found.update(entry for entry in listed if isinstance(entry, str))
    return frozenset(found)


def _teams(issuer: Issuer, claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Team ids of the token's groups, in the order of the issuer's mapping, so that the first is always the same."""
    named = _groups(issuer, claims)
    return tuple(dict.fromkeys(team for group, team in issuer.group_teams.items() if group in named))


def _groups(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[str]:
    groups = _claim(claims, issuer.groups_claim)
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, list):
        return frozenset()
    if len(groups) > GROUPS_MAX:
        _refuse(f"it names more than {GROUPS_MAX} groups")
    return frozenset(group for group in groups if isinstance(group, str))


def _claim(claims: Mapping[str, Any], path: str) -> object:
    """A claim by its name or, when there is none of that name, by its dotted path (`realm_access.roles`)."""
    if path in claims:
        return claims[path]
    found: object = claims
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found
