"""Bearer tokens: what a good one proves, and that no bad one proves anything."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk, jws

from interlock.errors import Unauthenticated, Unavailable
from interlock.identity.jwks import KeySetFile, KeyStore, file_of, public_keys
from interlock.identity.tokens import TokenVerifier, admin_roles, scopes_of
from interlock.settings import Settings
from interlock.testing.clock import FakeClock
from interlock.types.identity import AdminRole, DataClass, Issuer, PrincipalKind
from tests.unit.identity.issuers import AUDIENCE, EC, EC_384, ED, NAME, NOW_S, RSA, RSA_2, claims, issuer, public, token


class Bench:
    """A verifier over key files in a folder, with a clock that stands still and a list of refreshes asked for."""

    def __init__(self, folder: Path, *issuers: Issuer, **settings: Any) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.refreshes: list[str] = []
        self.settings = Settings(**settings)
        self.store = KeyStore(folder, self.settings, self.clock, self.refreshes.append)
        self.verifier = TokenVerifier(issuers or (issuer(),), self.store, self.settings, self.clock)

    def publish(self, *keys: jwk.Key, issuer_id: str = "iss_1") -> None:
        """As the node would."""
        found = KeySetFile(issuer_id, "url", self.clock.wall_ns(), public_keys(public(*keys), 64))
        file_of(self.folder, issuer_id).write_bytes(msgspec.json.encode(found))
        self.clock.advance(s=1)

    def refused(self, text: str) -> Unauthenticated:
        with pytest.raises(Unauthenticated) as e:
            self.verifier.verify(text)
        return e.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    found = Bench(tmp_path)
    found.publish(RSA, EC, ED, EC_384)
    return found


def forged(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"x") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (EC_384, "ES384"), (ED, "Ed25519")]
)
def test_a_good_token_proves_a_caller(bench: Bench, key: jwk.Key, alg: str) -> None:
    caller = bench.verifier.verify(token(key, alg, groups=["grp-ops", "grp-x", "grp-research"]))
    assert (caller.principal.name, caller.principal.kind, caller.principal.tenant_id) == ("alice", "user", "ten_acme")
    assert caller.principal.team_ids == ("team_research", "team_ops")
    assert caller.principal.id.startswith("jwt_")
    assert (caller.auth_method, caller.credential_id) == ("jwt", "iss_1/j1")
    assert (caller.scopes, caller.data_class) == (("infer",), DataClass.internal)
    assert (caller.not_after_s, caller.delegator, caller.delegation) == (NOW_S + 600, None, "")


def test_the_older_name_of_ed25519_is_taken(bench: Bench) -> None:
    key = jwk.import_key({**ED.as_dict(private=True)})
    with pytest.warns(match="EdDSA is deprecated"):
        text = token(key, "EdDSA")
    assert bench.verifier.verify(text).principal.name == "alice"


def test_the_same_subject_is_the_same_principal_and_others_are_not(bench: Bench) -> None:
    first = bench.verifier.verify(token(jti="a")).principal.id
    assert bench.verifier.verify(token(jti="b")).principal.id == first
    assert bench.verifier.verify(token(sub="bob")).principal.id != first
    service = Bench(bench.folder, issuer(kind=PrincipalKind.service))
    service.clock.advance(s=2)
    assert service.verifier.verify(token()).principal.id != first


# -- signatures


def test_none_is_no_algorithm(bench: Bench) -> None:
    for alg in ("none", "None", "NONE", ""):
        assert "algorithm" in bench.refused(forged({"alg": alg, "kid": "rsa-1"}, claims())).message
    unsigned = forged({"alg": "none"}, claims(), b"")
    assert "not a signed JWT" in bench.refused(unsigned).message


def test_a_public_key_is_not_a_shared_secret(bench: Bench) -> None:
    """RS256 to HS256 confusion, with each form of the public key, even if the issuer's entry allowed HS256."""
    careless = Bench(bench.folder, issuer(algorithms=("RS256", "HS256")))
    careless.clock.advance(s=2)
    forms = (RSA.as_pem(private=False), json.dumps(RSA.as_dict(private=False)).encode(), RSA.as_der(private=False))
    for secret in forms:
        unsigned = forged({"alg": "HS256", "kid": "rsa-1"}, claims()).rpartition(".")[0]
        signature = hmac.digest(secret, unsigned.encode(), "sha256")
        text = f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        assert "algorithm" in bench.refused(text).message
        assert "algorithm" in careless.refused(text).message


def test_only_the_issuers_own_algorithms_count(bench: Bench) -> None:
    narrow = Bench(bench.folder, issuer(algorithms=("ES256",)))
    narrow.clock.advance(s=2)
    assert "algorithm" in narrow.refused(token()).message
    assert narrow.verifier.verify(token(EC, "ES256"))
    none = Bench(bench.folder, issuer(algorithms=()))
    assert "algorithm" in none.refused(token()).message


def test_a_key_of_another_issuer_or_of_nobody_does_not_verify(bench: Bench) -> None:
    stranger = jwk.generate_key("RSA", 2048, {"kid": "rsa-1"})
    assert "signature is wrong" in bench.refused(token(stranger)).message


def test_every_part_is_covered_by_the_signature(bench: Bench) -> None:
    header, payload, signature = token().split(".")
    other = token(sub="root", jti="j2").split(".")
    assert "signature is wrong" in bench.refused(".".join((header, other[1], signature))).message
    assert "signature is wrong" in bench.refused(".".join((header, payload, other[2]))).message
    assert "signature is wrong" in bench.refused(".".join((header, payload, signature[:-4]))).message


def test_keys_that_a_token_brings_along_are_not_looked_at(bench: Bench) -> None:
    own = jwk.generate_key("RSA", 2048, {"kid": "rsa-1"})
    for header in (
        {"jwk": own.as_dict(private=False)},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/x"},
        {"x5c": ["AAAA"]},
    ):
        text = jws.serialize_compact(
            {"alg": "RS256", "kid": "rsa-1", **header},
            json.dumps(claims()).encode(),
            own,
            registry=jws.JWSRegistry(algorithms=["RS256"], strict_check_header=False),
        )
        assert "signature is wrong" in bench.refused(text).message


def test_a_key_serves_only_its_own_algorithm(bench: Bench) -> None:
    """A P-384 key under ES256, an RSA key under ES256: no such key is found."""
    wide = Bench(bench.folder, issuer(algorithms=("ES256", "ES384", "RS256")))
    wide.clock.advance(s=20)
    assert wide.verifier.verify(token(EC_384, "ES384"))
    forms = [
        forged({"alg": "ES256", "kid": "ec-384"}, claims(), b"x" * 64),
        forged({"alg": "ES256", "kid": "rsa-1"}, claims(), b"x" * 64),
        forged({"alg": "RS256", "kid": "ec-1"}, claims(), b"x" * 256),
    ]
    for text in forms:
        with pytest.raises((Unauthenticated, Unavailable)):
            wide.verifier.verify(text)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"crit": ["exp"], "exp": 1}, "extensions"),
        ({"crit": [], "b64": False}, "extensions"),
        ({"typ": "logout+jwt"}, "type"),
        ({"kid": 3}, "key id"),
        ({"kid": ["rsa-1"]}, "key id"),
        ({"alg": ["RS256"]}, "algorithm"),
    ],
)
def test_headers_that_are_not_understood_are_refused(bench: Bench, header: dict[str, Any], says: str) -> None:
    assert says in bench.refused(forged({"alg": "RS256", "kid": "rsa-1", **header}, claims())).message


def test_a_token_without_a_key_id_needs_the_only_key_there_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish(RSA, EC)
    assert bench.verifier.verify(token(header={"kid": None}))
    bench.publish(RSA, RSA_2)
    with pytest.raises((Unauthenticated, Unavailable)):
        bench.verifier.verify(token(header={"kid": None}))


# -- claims


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"exp": NOW_S - 31}, "expired_token", "expired"),
        ({"exp": None}, "invalid_token", "exp is missing"),
        ({"exp": "soon"}, "invalid_token", "exp is missing or not a time"),
        ({"exp": True}, "invalid_token", "exp"),
        ({"exp": -5}, "invalid_token", "exp"),
        ({"exp": 1e300}, "invalid_token", "exp"),
        ({"nbf": NOW_S + 40}, "invalid_token", "not valid yet"),
        ({"iat": NOW_S + 40}, "invalid_token", "not valid yet"),
        ({"nbf": "x"}, "invalid_token", "nbf"),
        ({"iss": "https://evil.example"}, "invalid_token", "issuer"),
        ({"iss": NAME + "/"}, "invalid_token", "issuer"),
        ({"iss": None}, "invalid_token", "issuer"),
        ({"iss": [NAME]}, "invalid_token", "issuer"),
        ({"aud": "other"}, "invalid_token", "audience"),
        ({"aud": None}, "invalid_token", "audience"),
        ({"aud": []}, "invalid_token", "audience"),
        ({"aud": {"a": AUDIENCE}}, "invalid_token", "audience"),
        ({"sub": None}, "invalid_token", "sub"),
        ({"sub": ""}, "invalid_token", "sub"),
        ({"sub": 7}, "invalid_token", "sub"),
        ({"sub": "a\nb"}, "invalid_token", "sub"),
        ({"sub": "x" * 300}, "invalid_token", "sub"),
        ({"groups": [str(i) for i in range(1001)]}, "invalid_token", "groups"),
        ({"act": "bot"}, "invalid_token", "act"),
        ({"act": {}}, "invalid_token", "act.sub"),
        ({"act": {"sub": "bot", "iss": "https://else.example"}}, "invalid_token", "another issuer"),
    ],
)
def test_claims_that_do_not_hold(bench: Bench, changes: dict[str, Any], code: str, says: str) -> None:
    error = bench.refused(token(**changes))
    assert (error.code, error.status) == (code, 401)
    assert says in error.message
    assert "alice" not in error.message


def test_times_have_a_leeway_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwt_leeway_s=30)
    bench.publish(RSA)
    text = token(exp=NOW_S + 10, nbf=NOW_S + 25)
    assert bench.verifier.verify(text)
    bench.clock.advance(s=38)
    assert bench.verifier.verify(text)
    bench.clock.advance(s=2)
    assert bench.refused(text).code == "expired_token"


def test_one_of_several_audiences_is_enough(bench: Bench) -> None:
    assert bench.verifier.verify(token(aud=["account", AUDIENCE]))


def test_groups_come_in_several_shapes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, issuer(groups_claim="realm_access.roles"))
    bench.publish(RSA)
    for changes, teams in (
        ({"realm_access": {"roles": ["grp-ops"]}}, ("team_ops",)),
        ({"realm_access.roles": "grp-research"}, ("team_research",)),
        ({"realm_access": ["grp-ops"]}, ()),
        ({"realm_access": {"roles": [["grp-ops"], None]}}, ()),
        ({}, ()),
    ):
        assert bench.verifier.verify(token(**changes)).principal.team_ids == teams


def test_another_claim_may_be_the_subject(tmp_path: Path) -> None:
    bench = Bench(tmp_path, issuer(subject_claim="email", data_class=DataClass.confidential))
    bench.publish(RSA)
    caller = bench.verifier.verify(token(email="alice@acme.example"))
    assert (caller.principal.name, caller.data_class) == ("alice@acme.example", DataClass.confidential)
    assert "email" in bench.refused(token()).message


# -- delegation


def test_an_actor_is_an_agent_that_acts_for_the_subject(bench: Bench) -> None:
    caller = bench.verifier.verify(
        token(groups=["grp-research"], act={"sub": "bot", "groups": ["grp-ops"], "act": {"sub": "older"}})
    )
    assert caller.delegation == "token"
    assert (caller.principal.kind, caller.principal.name, caller.principal.team_ids) == ("agent", "bot", ("team_ops",))
    assert caller.delegator is not None
    assert (caller.delegator.kind, caller.delegator.name) == ("user", "alice")
    assert caller.delegator.team_ids == ("team_research",)
    assert caller.principal.may_act_for == (caller.delegator.id,)
    assert caller.delegator.id == bench.verifier.verify(token(jti="j2")).principal.id


def test_an_agent_without_an_actor_claim_acts_for_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, issuer(kind=PrincipalKind.agent))
    bench.publish(RSA)
    alone = bench.verifier.verify(token(sub="bot"))
    assert (alone.principal.kind, alone.delegator) == ("agent", None)
    acting = bench.verifier.verify(token(sub="alice", act={"sub": "bot"}))
    assert acting.delegator is not None and acting.delegator.kind == "user"


# -- which issuer


def test_an_audience_tells_tenants_of_one_issuer_apart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, issuer(), issuer(id="iss_2", tenant_id="ten_other", audience="theirs"))
    bench.publish(RSA)
    bench.publish(RSA_2, issuer_id="iss_2")
    assert bench.verifier.verify(token()).principal.tenant_id == "ten_acme"
    assert bench.verifier.verify(token(RSA_2, aud="theirs")).principal.tenant_id == "ten_other"
    with pytest.raises((Unauthenticated, Unavailable)):
        bench.verifier.verify(token(RSA, aud="theirs"))
    assert "several tenants" in bench.refused(token(aud=[AUDIENCE, "theirs"])).message


# -- keys come and go


def test_without_keys_the_answer_is_try_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(Unavailable) as e:
        bench.verifier.verify(token())
    assert (e.value.code, e.value.status, e.value.headers) == ("issuer_keys_unavailable", 503, {"Retry-After": "2"})
    assert bench.refreshes == ["iss_1"]


def test_an_unknown_key_is_asked_for_and_then_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwks_refetch_min_s=10)
    bench.publish(RSA)
    with pytest.raises(Unavailable) as e:
        bench.verifier.verify(token(RSA_2))
    assert e.value.code == "issuer_keys_refreshing"
    assert bench.refreshes == ["iss_1"]
    with pytest.raises(Unavailable):
        bench.verifier.verify(token(RSA_2))
    assert bench.refreshes == ["iss_1"], "asked again within jwks_refetch_min_s"
    bench.clock.advance(s=1)
    bench.publish(RSA)
    assert bench.verifier.verify(token())
    assert "does not publish" in bench.refused(token(RSA_2)).message
    bench.clock.advance(s=10)
    with pytest.raises(Unavailable):
        bench.verifier.verify(token(RSA_2))
    assert len(bench.refreshes) == 2


def test_a_refresh_that_never_comes_ends_in_a_refusal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwks_refetch_min_s=60)
    bench.publish(RSA)
    with pytest.raises(Unavailable):
        bench.verifier.verify(token(RSA_2))
    bench.clock.advance(s=6)
    assert "does not publish" in bench.refused(token(RSA_2)).message


def test_a_rotated_key_takes_over_and_a_withdrawn_one_stops(bench: Bench) -> None:
    old = token()
    assert bench.verifier.verify(old)
    bench.publish(RSA, RSA_2)
    assert bench.verifier.verify(token(RSA_2)) and bench.verifier.verify(old)
    bench.publish(RSA_2)
    with pytest.raises((Unauthenticated, Unavailable)):
        bench.verifier.verify(old)


def test_keys_are_not_believed_forever(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwks_age_max_s=3600)
    bench.publish(RSA)
    text = token(exp=NOW_S + 100_000)
    assert bench.verifier.verify(text)
    bench.clock.advance(s=3600)
    with pytest.raises(Unavailable):
        bench.verifier.verify(text)


# -- what is remembered


def test_a_token_is_verified_once_until_something_changes(bench: Bench) -> None:
    text = token()
    first = bench.verifier.verify(text)
    assert bench.verifier.verify(text) is first
    bench.publish(RSA, EC, ED, EC_384)
    assert bench.verifier.verify(text) is first, "the same keys, fetched again"
    bench.verifier.update([issuer()])
    assert bench.verifier.verify(text) is first, "the same issuers"
    bench.verifier.update([issuer(group_teams={})])
    assert bench.verifier.verify(text) is not first
    bench.verifier.update([])
    assert "issuer" in bench.refused(text).message


def test_a_remembered_token_still_expires(bench: Bench) -> None:
    text = token()
    assert bench.verifier.verify(text)
    bench.clock.advance(s=640)
    assert bench.refused(text).code == "expired_token"


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwt_cache_max=4)
    bench.publish(ED)
    for i in range(12):
        bench.verifier.verify(token(ED, "Ed25519", jti=str(i)))
    assert len(bench.verifier._cache) <= 4
    off = Bench(tmp_path, jwt_cache_max=0)
    off.clock.advance(s=2)
    off.verifier.verify(token(ED, "Ed25519"))
    assert len(off.verifier._cache) == 0


# -- garbage


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "e30.e30.e30", "W10.W10.e30", "\0"]
)
def test_garbage_is_refused(bench: Bench, text: str) -> None:
    assert bench.refused(text).code == "invalid_token"


def test_a_huge_token_is_refused_unread(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jwt_bytes_max=1000)
    assert "larger than 1000 bytes" in bench.refused("x" * 1001).message


def test_deep_json_is_refused(bench: Bench) -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' * 3000 + b"1" + b"}" * 3000).rstrip(b"=").decode()
    for verifier in (bench, Bench(bench.folder, jwt_bytes_max=1_000_000)):
        verifier.refused(f"{deep}.{deep}.AA")


@given(st.data())
def test_no_change_of_a_token_verifies(data: st.DataObject) -> None:
    """One changed character anywhere: refused, unless it only changes base64's unused trailing bits."""
    text = GOOD
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("ABCxyz019-_.=")) if text[at] != "." else "A"
    changed = text[:at] + new + text[at + 1 :]
    decoded: Callable[[str], list[bytes]] = lambda t: [base64.urlsafe_b64decode(p + "==") for p in t.split(".")]  # noqa: E731
    if changed == text or (changed.count(".") == 2 and "=" not in changed and decoded(changed) == decoded(text)):
        return
    with pytest.raises((Unauthenticated, Unavailable)):
        SHARED.verifier.verify(changed)


GOOD = token(ED, "Ed25519")


@pytest.fixture(autouse=True, scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SHARED
    SHARED = Bench(tmp_path_factory.mktemp("keys"))
    SHARED.publish(ED)
    assert SHARED.verifier.verify(GOOD)


SHARED: Bench


def test_groups_become_administrative_roles_by_the_issuers_mapping() -> None:
    mapped = issuer(group_roles={"ops": AdminRole.admin, "all": AdminRole.viewer, "root": AdminRole.admin})
    assert admin_roles(mapped, {"groups": ["root", "all", "ops", 7]}) == (AdminRole.admin, AdminRole.viewer)
    assert admin_roles(mapped, {"groups": "all"}) == (AdminRole.viewer,)
    for nothing in ({}, {"groups": {"ops": 1}}, {"groups": ["admin", "Ops"]}, {"roles": ["ops"]}):
        assert admin_roles(mapped, nothing) == ()
    assert admin_roles(issuer(), {"groups": ["ops"]}) == ()


def test_scopes_are_words_of_scope_or_scp() -> None:
    assert scopes_of({"scope": "openid admin", "scp": ["infer", 3]}) == {"openid", "admin", "infer"}
    assert scopes_of({"scope": {"admin": 1}, "scp": None}) == frozenset()
    assert "admin" not in scopes_of({"scope": "administrator admin.read"})
