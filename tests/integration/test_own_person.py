"""People of an identity provider in the playground: they call models as themselves, whom nobody declared."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.identity.tokens import _principal
from interlock.storage import issuers, keys, principals
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.types.identity import BY_TOKEN, DataClass, PrincipalKind
from interlock.types.snapshot import key_digest
from tests.provider import Provider, provider

from .control_client import Running, control_over

ORIGIN = "https://testserver"
ASK = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}


class Person:
    """Somebody who signed in at the provider."""

    def __init__(self, scene: Scene, user: str) -> None:
        self.http = TestClient(make_app(scene.running.control.api), base_url=ORIGIN, follow_redirects=False)
        self.http.headers["origin"] = ORIGIN
        url = self.http.get(f"/console/sign-in/{scene.issuer_id}").headers["location"]
        back = httpx.get(url.replace("/authorize?", "/consent?") + f"&user={user}").headers["location"]
        self.status = self.http.get(back).status_code
        self.csrf = self.http.get("/console/health").text.partition('data-csrf="')[2].partition('"')[0]

    def post(self, path: str, **fields: str) -> Any:
        return self.http.post(f"/console{path}", data={"csrf": self.csrf, **fields})


class Scene(NamedTuple):
    running: Running
    at: Provider
    issuer_id: str
    gateway: ScriptedEngine

    def key(self) -> keys.KeyRow:
        """That of the last call at the gateway."""
        secret = (self.gateway.calls[-1].header("authorization") or "").removeprefix("Bearer ")
        with self.running.control.store.platform() as conn:
            found = keys.by_digest(conn, key_digest(self.running.control.tools.pepper, secret.encode()))
        assert found is not None
        return found.value

    def person(self, principal_id: str) -> Any:
        with self.running.control.store.platform() as conn:
            found = principals.get(conn, principal_id)
        return found.value if found is not None else None


@pytest.fixture(scope="module")
def scene(postgres_url: str) -> Iterator[Scene]:
    with (
        provider() as at,
        ScriptedEngine(kind="openai", models=(), default=answers.answer("It-works.")).in_thread() as engine,
    ):
        url = engine.base_url.removesuffix("/v1")
        settings: dict[str, Any] = {"jwks_hosts_private": "127.0.0.1", "jwks_refetch_min_s": 1, "snapshot_poll_ms": 100}
        with control_over(postgres_url, playground_gateway_url=url, **settings) as running:
            stop = threading.Event()
            thread = threading.Thread(target=running.control.tokens.run, args=(stop,))
            thread.start()
            owner = running.owner
            owner.do("POST", "/tenants", {"name": "acme"})
            for name in ("research", "finance"):
                owner.do("POST", "/tenants/acme/teams", {"name": name})
            owner.do("POST", "/tenants/acme/principals", {"name": "ada", "kind": "user"})
            spec = {
                "issuer": at.name, "audience": "interlock", "jwks_url": f"{at.name}/jwks", "data_class": "confidential",
                "group_roles": {"grp-dev": "developer"}, "group_teams": {"grp-r": "research", "grp-f": "finance"},
                "login": {"client_id": "console"},
            }  # fmt: skip
            owner.do("POST", "/tenants/acme/issuers", spec)
            issuer_id = str(owner.get(f"/tenants/acme/issuers/{at.name}")["id"])
            at.clients = {"console": ""}
            at.redirects = {f"{ORIGIN}/console/sign-in/{issuer_id}/callback"}
            at.groups = {"alice": ["grp-dev", "grp-r", "grp-else"], "ada": ["grp-dev"], "bob": ["grp-r"]}
            try:
                yield Scene(running, at, issuer_id, engine)
            finally:
                stop.set()
                thread.join(60)


def send(person: Person) -> Any:
    return person.post("/playground/send", ask=json.dumps(ASK))


def team(scene: Scene, name: str) -> str:
    return str(scene.running.owner.get(f"/tenants/acme/teams/{name}")["id"])


def test_who_signed_in_at_a_provider_calls_as_the_principal_of_their_tokens(scene: Scene) -> None:
    alice = Person(scene, "alice")
    assert "It-works." in send(alice).text
    key = scene.key()
    with scene.running.control.store.platform() as conn:
        found = issuers.get(conn, scene.issuer_id)
    assert found is not None
    claims = {"groups": scene.at.groups["alice"]}
    as_token = _principal(found.value, PrincipalKind.user, "alice", claims)
    assert (key.principal_id, key.scopes, key.data_class) == (as_token.id, ("infer",), DataClass.confidential)
    stored = scene.person(key.principal_id)
    assert stored == as_token and stored.team_ids == (team(scene, "research"),)
    scene.at.groups["alice"] = ["grp-dev", "grp-f", "grp-r"]
    again = Person(scene, "alice")
    assert send(again).status_code == 200
    assert (
        scene.person(key.principal_id).team_ids
        == _principal(found.value, PrincipalKind.user, "alice", {"groups": scene.at.groups["alice"]}).team_ids
        != as_token.team_ids
    )
    mine = scene.key()
    assert again.post("/sign-out").status_code == 303
    assert scene.running.owner.get(f"/tenants/acme/keys/{mine.name}")["state"] == "revoked"


def test_nobody_becomes_a_declared_principal_by_name(scene: Scene) -> None:
    declared = scene.running.owner.get("/tenants/acme/principals/ada")["id"]
    assert send(Person(scene, "ada")).status_code == 200
    stored = scene.person(scene.key().principal_id)
    assert stored.id != declared and stored.id.startswith(BY_TOKEN) and stored.name.startswith("ada.")


def test_who_has_no_role_for_it_has_no_account(scene: Scene) -> None:
    bob = Person(scene, "bob")
    assert bob.status == 403 and send(bob).status_code == 303, "not signed in at all"
    names = [item["name"] for item in scene.running.owner.get("/tenants/acme/principals?limit=100")["items"]]
    assert "bob" not in names


def test_their_accounts_are_not_configuration_and_have_no_keys_that_outlive_them(scene: Scene) -> None:
    alice = Person(scene, "alice")
    assert send(alice).status_code == 200
    told = json.dumps(scene.running.owner.get("/export"))
    assert "alice" not in told and "console-" not in told and '"ada"' in told
    page = alice.http.get("/console/keys").text
    assert "identity provider" in page and "would outlive it" in page and "Make it" not in page
    assert "would outlive it" in alice.post("/keys", do="make", key="mine", days="30", reason="x").text
    assert not any(k["name"] == "mine" for k in scene.running.owner.get("/tenants/acme/keys?limit=100")["items"])


def test_an_account_that_is_switched_off_signs_in_no_more(scene: Scene) -> None:
    ada = Person(scene, "ada")
    assert send(ada).status_code == 200
    name = scene.person(scene.key().principal_id).name
    path = f"/tenants/acme/principals/{name}"
    scene.running.owner.do("PUT", path, {"kind": "user", "name": name, "active": False})
    assert send(ada).status_code in (303, 401, 403)
    assert Person(scene, "ada").status in (401, 403)


def test_who_may_call_nothing_is_told_what_is_missing(scene: Scene) -> None:
    alice = Person(scene, "alice")
    assert send(alice).status_code == 200
    found = alice.post("/playground/models").json()
    assert found["models"] == []
    (only,) = found["missing"]
    assert only["words"].startswith("No source that serves a model is granted to the tenant acme.")
    assert only["path"] == "", "she may not change that"
