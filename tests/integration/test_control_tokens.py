"""Administrators by token: a real issuer's tokens at the admin API, over a real database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import until
from tests.integration.control_client import Admin, Running, control_over
from tests.unit.identity.issuers import RSA, RSA_2, Published, serving, token

ROLES = {"grp-owners": "owner", "grp-admins": "admin", "grp-auditors": "auditor"}
PLATFORM = "https://id.example/platform"
PLAIN = "https://id.example/plain"
ACME = "https://id.example/acme"


@pytest.fixture(scope="module")
def published() -> Iterator[Published]:
    with serving() as made:
        made.publish(RSA)
        yield made


@pytest.fixture(scope="module")
def api(postgres_url: str, published: Published) -> Iterator[Running]:
    """A control plane that keeps key sets; tenants acme and globex; issuers of acme, of the platform, and one
    without roles."""
    with control_over(postgres_url, jwks_hosts_private="127.0.0.1", jwks_refetch_min_s=1) as running:
        stop = threading.Event()
        thread = threading.Thread(target=running.control.tokens.run, args=(stop,))
        thread.start()
        try:
            owner = running.owner
            for name in ("acme", "globex"):
                owner.do("POST", "/tenants", {"name": name})
            owner.do("POST", "/tenants/acme/issuers", issuer(published, ACME, group_roles=ROLES))
            owner.do("POST", "/tenants/acme/issuers", issuer(published, PLAIN))
            owner.do("POST", "/tenants/platform/issuers", issuer(published, PLATFORM, group_roles=ROLES))
            for name in (ACME, PLATFORM):
                until(lambda name=name: status(running, name) == 200, 60, "the issuer's keys")  # type: ignore[misc]
            yield running
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()


def issuer(published: Published, name: str, **fields: Any) -> dict[str, Any]:
    """An issuer's declared form."""
    url = f"http://127.0.0.1:{published.port}/jwks"
    return {"issuer": name, "audience": "interlock", "jwks_url": url, **fields}


def signed(name: str = ACME, groups: tuple[str, ...] = ("grp-admins",), **changes: Any) -> str:
    """A token that holds for an hour, made for administration unless told otherwise."""
    now = int(time.time())
    given = {"iss": name, "groups": list(groups), "scope": "openid admin", "iat": now, "exp": now + 3600, **changes}
    key = given.pop("key", RSA)
    return token(key, given.pop("alg", "RS256"), **given)


def status(api: Running, name: str = ACME, **changes: Any) -> int:
    """What /whoami answers a token."""
    return api.as_(signed(name, **changes)).call("GET", "/whoami", reason="")[0]


def refused(api: Running, **changes: Any) -> tuple[int, str]:
    """(status, code) of a token that is refused."""
    code, told = api.as_(signed(**changes)).call("GET", "/whoami", reason="")
    return code, told["error"]["code"]


def test_groups_are_roles_in_the_issuers_tenant_and_changes_say_who(api: Running) -> None:
    alice = api.as_(signed())
    me = alice.get("/whoami?tenant=acme")
    assert (me["principal"], me["tenant"]) == (f"alice ({ACME})", "acme")
    assert me["roles"] == [{"role": "admin", "tenant": "acme"}]
    alice.do("POST", "/tenants/acme/teams", {"name": "by-token"})
    change = api.owner.get("/tenants/acme/changes")["items"][0]
    assert (change["action"], change["actor"], change["reason"]) == ("team.create", f"alice ({ACME})", "test")
    assert change["actor_id"].startswith("jwt_")
    assert status(api, scope=None, scp=["admin"]) == 200
    both = api.as_(signed(groups=("grp-auditors", "grp-owners", "unmapped"))).get("/whoami")["roles"]
    assert {role["role"] for role in both} == {"owner", "auditor"}


def test_a_token_reaches_no_further_than_its_issuers_tenant(api: Running) -> None:
    owner = api.as_(signed(groups=("grp-owners",), tenant="globex", roles=["owner"], tenant_id="ten_platform"))
    assert owner.call("GET", "/tenants/globex", reason="")[0] == 404
    assert owner.call("POST", "/tenants/globex/teams", {"name": "x"})[0] == 404
    for method, path, body in (
        ("GET", "/changes", None),
        ("GET", "/snapshot", None),
        ("POST", "/tenants", {"name": "mine"}),
        ("DELETE", "/tenants/acme", None),
        ("POST", "/roles", {"principal": "admin", "role": "viewer"}),
    ):
        assert owner.call(method, path, body)[0] == 403, path
    assert [t["name"] for t in owner.get("/tenants")["items"]] == ["acme"]


def test_the_platforms_issuer_reaches_everywhere(api: Running) -> None:
    admin = api.as_(signed(PLATFORM))
    assert admin.get("/whoami")["roles"] == [{"role": "admin", "tenant": None}]
    admin.do("POST", "/tenants/globex/teams", {"name": "from-above"})


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"scope": None}, (403, "admin_denied")),
        ({"scope": "openid infer administrator"}, (403, "admin_denied")),
        ({"scope": {"admin": True}}, (403, "admin_denied")),
        ({"groups": ()}, (403, "admin_denied")),
        ({"groups": ("grp-owners ", "GRP-ADMINS", "owner")}, (403, "admin_denied")),
        ({"act": {"sub": "bot", "groups": ["grp-owners"]}}, (403, "admin_denied")),
        ({"name": PLAIN}, (403, "admin_denied")),
        ({"exp": 1_700_000_000}, (401, "expired_token")),
        ({"exp": None}, (401, "invalid_token")),
        ({"nbf": 4_000_000_000}, (401, "invalid_token")),
        ({"aud": "another"}, (401, "invalid_token")),
        ({"name": "https://evil.example"}, (401, "invalid_token")),
        ({"groups": tuple(f"g{n}" for n in range(1001))}, (401, "invalid_token")),
    ],
    ids=str,
)
def test_what_is_refused(api: Running, changes: dict[str, Any], answer: tuple[int, str]) -> None:
    assert refused(api, **changes) == answer


def test_a_token_with_the_signature_of_another_is_refused(api: Running) -> None:
    mine, other = signed(groups=("grp-owners",)), signed()
    forged = mine.rsplit(".", 1)[0] + "." + other.rsplit(".", 1)[1]
    for secret in (forged, "..", "a.b.c", mine[:-4]):
        assert api.as_(secret).call("GET", "/whoami", reason="")[0] == 401


def test_a_new_key_is_fetched_and_an_unknown_one_refused(api: Running, published: Published) -> None:
    assert refused(api, key=RSA_2)[0] in (401, 503)
    published.publish(RSA, RSA_2)
    until(lambda: status(api, key=RSA_2) == 200, 60, "the new key")
    published.publish(RSA)
    assert status(api) == 200


def test_an_issuer_or_a_role_that_is_removed_counts_at_once(api: Running, published: Published) -> None:
    name = "https://id.example/leaving"
    path = "/tenants/globex/issuers"
    made = issuer(published, name, group_roles={"grp-admins": "admin", "grp-auditors": "auditor"})
    api.owner.do("POST", path, made)
    until(lambda: status(api, name) == 200, 60, "the issuer's keys")
    api.owner.do("PUT", f"{path}/{name}", {**made, "group_roles": {"grp-auditors": "auditor"}})
    assert refused(api, name=name) == (403, "admin_denied")
    assert status(api, name, groups=("grp-auditors",)) == 200
    api.owner.do("DELETE", f"{path}/{name}")
    assert refused(api, name=name, groups=("grp-auditors",)) == (401, "invalid_token")


def test_who_is_switched_off_is_refused(api: Running) -> None:
    spec = {"name": "alice", "active": False}
    api.owner.do("POST", "/tenants/acme/principals", spec)
    assert refused(api) == (401, "inactive_principal")
    assert status(api, sub="bob") == 200
    api.owner.do("PUT", "/tenants/acme/principals/alice", {**spec, "active": True})
    assert status(api) == 200
    api.owner.do("PUT", "/tenants/acme", {"name": "acme", "active": False})
    assert refused(api, sub="bob") == (401, "inactive_principal")
    api.owner.do("PUT", "/tenants/acme", {"name": "acme", "active": True})


def test_nobody_makes_an_issuer_hand_out_more_than_they_hold(api: Running, published: Published) -> None:
    """Not in acme by an admin, and not on the platform by who owns the platform's tenant only."""
    new = issuer(published, "https://id.example/mine", group_roles={"everyone": "owner"})
    assert api.as_(signed()).call("POST", "/tenants/acme/issuers", new)[0] == 403
    acme_owner = api.as_(signed(groups=("grp-owners",)))
    acme_owner.do("POST", "/tenants/acme/issuers", new)
    assert acme_owner.call("POST", "/tenants/platform/issuers", new)[0] == 404
    api.owner.do("DELETE", "/tenants/acme/issuers/https://id.example/mine")

    local = owner_of_the_platforms_tenant(api)
    for role in ("viewer", "owner"):
        climb = issuer(published, "https://id.example/climb", group_roles={"everyone": role})
        assert local.call("POST", "/tenants/platform/issuers", climb)[0] == 403, role
    local.do("POST", "/tenants/platform/issuers", issuer(published, "https://id.example/harmless"))
    path = f"/tenants/platform/issuers/{PLATFORM}"
    elsewhere = {**issuer(published, PLATFORM, group_roles=ROLES), "jwks_url": "https://evil.example/jwks"}
    assert local.call("PUT", path, elsewhere)[0] == 403, "its keys would sign as any administrator"
    assert local.call("PUT", path, issuer(published, PLATFORM))[0] == 403
    assert local.call("DELETE", path)[0] == 403


def owner_of_the_platforms_tenant(api: Running) -> Admin:
    """Somebody who owns the tenant `platform` and holds nothing over the installation."""
    owner = api.owner
    owner.do("POST", "/tenants/platform/principals", {"name": "local"})
    owner.do("POST", "/tenants/platform/roles", {"principal": "local", "role": "owner"})
    made = owner.do("POST", "/tenants/platform/keys", {"name": "local", "principal": "local", "scopes": ["admin"]})
    return api.as_(made["key"])


def test_documents_declare_roles_and_wrong_ones_are_named(api: Running, published: Published) -> None:
    text = f"""
tenants:
- name: initech
  issuers:
  - {{issuer: https://id.example/initech, audience: interlock, jwks_url: "http://127.0.0.1:{published.port}/jwks",
     group_roles: {{ops: developer}}}}
"""
    api.owner.apply(text)
    assert api.owner.get("/tenants/initech/issuers")["items"][0]["group_roles"] == {"ops": "developer"}
    assert api.owner.get("/export?tenant=initech")["tenants"][0]["issuers"][0]["group_roles"] == {"ops": "developer"}
    assert api.owner.do("POST", "/plan", {"files": [{"name": "x.yaml", "text": text}]})["changes"] == []
    files = {"files": [{"name": "x.yaml", "text": text.replace("developer", "emperor")}]}
    code, told = api.owner.call("POST", "/plan", files)
    assert code == 400 and "emperor" in str(told)
