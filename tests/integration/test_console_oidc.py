"""Signing in to the console at an OpenID provider, over a real database, and what attackers would try at it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.compiler import SMALL
from interlock.control.console.visit import COOKIE
from interlock.storage.tenants import PLATFORM_TENANT
from tests.integration.control_client import Running, control_over
from tests.provider import Provider, provider
from tests.unit.identity.issuers import RSA_2

ROLES = {"grp-admins": "admin", "grp-owners": "owner"}
ORIGIN = "https://testserver"
SECRET = "a secret: with+signs"


class Scene(NamedTuple):
    running: Running
    good: Provider
    other: Provider
    ids: dict[str, str]

    def browser(self) -> TestClient:
        made = TestClient(make_app(self.running.control.api), base_url=ORIGIN, follow_redirects=False)
        made.headers["origin"] = ORIGIN
        return made

    def away(self, browser: TestClient, name: str = "good", to: str = "/console/") -> str:
        """Where the provider's page is."""
        sent = browser.get(f"/console/sign-in/{self.ids[name]}", params={"to": to})
        assert sent.status_code == 303, sent.text
        return sent.headers["location"]


def agreed(url: str, user: str = "alice") -> str:
    """Where the provider sends the browser of somebody who agrees."""
    with httpx.Client(verify=False) as http:  # no certificates here; reading the system's takes longer than the rest
        assert http.get(url).status_code == 200
        return http.get(url.replace("/authorize?", "/consent?") + f"&user={user}").headers["location"]


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def issuer(at: Provider, **login: Any) -> dict[str, Any]:
    return {
        "issuer": at.name, "audience": "interlock", "jwks_url": f"{at.name}/jwks", "group_roles": ROLES,
        "login": {"client_id": "console", **login},
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[Scene]:
    """The platform's provider (a client with a secret), and a tenant's own (a public client)."""
    with (
        provider() as good,
        provider() as other,
        control_over(postgres_url, jwks_hosts_private="127.0.0.1", jwks_refetch_min_s=1, snapshot_poll_ms=100) as api,
    ):
        stop = threading.Event()
        thread = threading.Thread(target=api.control.tokens.run, args=(stop,))
        thread.start()
        file = api.control.settings.home_path("mine", "client_secret")
        file.parent.mkdir(parents=True)
        file.write_text(SECRET + "\n")
        try:
            api.owner.do("POST", "/tenants", {"name": "acme"})
            ids: dict[str, str] = {}
            for name, at, place, fields in (
                ("good", good, "platform", {"secret_file": str(file), "label": "Example ID"}),
                ("other", other, "acme", {}),
            ):
                api.owner.do("POST", f"/tenants/{place}/issuers", issuer(at, **fields))
                ids[name] = api.owner.get(f"/tenants/{place}/issuers/{at.name}")["id"]
                at.clients = {"console": SECRET if name == "good" else "", "another": ""}
                at.redirects = {f"{ORIGIN}/console/sign-in/{each}/callback" for each in ids.values()}
            yield Scene(api, good, other, ids)
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def scene(whole: Scene) -> Scene:
    whole.good.calm()
    whole.other.calm()
    return whole


def refused(scene: Scene, browser: TestClient, url: str, status: int = 401) -> str:
    """What the page says to somebody who is not signed in after all."""
    answer = browser.get(url)
    assert answer.status_code == status, answer.text
    assert COOKIE not in browser.cookies
    assert browser.get("/console/usage").status_code == 303
    return answer.text


def test_alice_signs_in_at_her_provider_is_recorded_as_of_it_and_out(scene: Scene) -> None:
    with scene.running.control.store.platform() as conn:
        conn.execute("DELETE FROM interlock.console_sessions")
    browser = scene.browser()
    url = scene.away(browser, to="/console/usage?tenant=acme")
    sent = asked(url)
    assert sent["response_type"] == "code" and sent["code_challenge_method"] == "S256" and len(sent["nonce"]) == 43
    back = browser.get(agreed(url))
    assert (back.status_code, back.headers["location"]) == (303, "/console/usage?tenant=acme")
    assert scene.good.asked[-1] == "basic", "the client proved itself with its secret"
    page = browser.get("/console/usage")
    assert page.status_code == 200 and "alice" in page.text and "an identity provider" in page.text
    with scene.running.control.store.platform() as conn:
        kept = conn.execute("SELECT method, tenant_id, groups, name FROM interlock.console_sessions").fetchall()
    assert kept == [("oidc", PLATFORM_TENANT, ["grp-admins"], "alice")]
    csrf = page.text.split('data-csrf="')[1].split('"')[0]
    assert browser.post("/console/sign-out", data={"csrf": csrf}).status_code == 303
    assert browser.get("/console/usage").status_code == 303


def test_a_tenants_provider_is_shown_to_who_names_the_tenant_and_reaches_no_further(scene: Scene) -> None:
    browser = scene.browser()
    page, named = browser.get("/console/sign-in").text, browser.get("/console/sign-in?tenant=acme").text
    assert "Example ID" in page and scene.ids["good"] in page
    assert scene.ids["other"] not in page and scene.ids["other"] in named
    assert "acme" not in page and browser.get("/console/sign-in?tenant=nobody").text == page
    assert browser.get(agreed(scene.away(browser, "other"))).status_code == 303
    assert scene.other.asked[-1] == "none", "a public client has PKCE alone"
    assert browser.get("/console/calls?tenant=acme").status_code == 200
    assert browser.get("/console/calls?tenant=platform").status_code == 404


def test_an_answer_counts_once_and_in_the_browser_that_asked(scene: Scene) -> None:
    mine, theirs = scene.browser(), scene.browser()
    scene.away(theirs)
    url = agreed(scene.away(mine))
    refused(scene, theirs, url, 400)
    refused(scene, scene.browser(), url, 400)
    assert mine.get(url).status_code == 303
    mine.cookies.delete(COOKIE)
    refused(scene, mine, url, 400)
    mine = scene.browser()
    url = agreed(scene.away(mine))
    with scene.running.control.store.platform() as conn:
        conn.execute("UPDATE interlock.console_logins SET expires_at = now() - interval '1 second'")
    refused(scene, mine, url, 400)


def test_a_stolen_code_is_of_no_use_in_another_sign_in(scene: Scene) -> None:
    """The attacker's browser brings the victim's code with a state of its own: PKCE and nonce are of another."""
    victim, attacker = scene.browser(), scene.browser()
    code = asked(agreed(scene.away(victim)))["code"]
    mine = agreed(scene.away(attacker))
    assert "did not take the code" in refused(scene, attacker, mine.replace(asked(mine)["code"], code))


def test_a_code_of_another_client_is_refused(scene: Scene) -> None:
    browser = scene.browser()
    url = scene.away(browser).replace("client_id=console", "client_id=another")
    assert "did not take the code" in refused(scene, browser, agreed(url))


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "https://id.example/other"},
        {"aud": "another"},
        {"aud": ["console", "another"]},
        {"aud": ["console", "another"], "azp": "another"},
        {"azp": "another"},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"sub": ""},
        {"act": {"sub": "agent"}},
    ],
)
def test_an_id_token_that_does_not_hold_is_refused(scene: Scene, claims: dict[str, Any]) -> None:
    scene.good.claims = claims
    browser = scene.browser()
    refused(scene, browser, agreed(scene.away(browser)))


def test_a_token_without_signature_or_by_a_stranger_is_refused(scene: Scene) -> None:
    browser = scene.browser()
    scene.good.unsigned = True
    refused(scene, browser, agreed(scene.away(browser)))
    scene.good.calm()
    scene.good.key = RSA_2
    refused(scene, browser, agreed(scene.away(browser)))


@pytest.mark.parametrize("iss", ["", "https://id.example/other"])
def test_an_answer_that_names_another_provider_or_none_is_refused(scene: Scene, iss: str) -> None:
    scene.good.iss = iss
    browser = scene.browser()
    before = len(scene.good.asked)
    refused(scene, browser, agreed(scene.away(browser)))
    assert len(scene.good.asked) == before, "no code was sent anywhere"


def test_the_answer_of_one_provider_is_not_taken_for_that_of_another(scene: Scene) -> None:
    """Mix-up (RFC 9700, section 4.4): sent to one provider, led on to the other by it."""
    browser = scene.browser()
    state = asked(scene.away(browser, "other"))["state"]
    honest = agreed(scene.away(browser, "good"))
    before = len(scene.other.asked)
    refused(scene, browser, honest.replace(asked(honest)["state"], state), 400)
    assert len(scene.other.asked) == before, "the other provider never sees the code"


def test_who_has_no_role_or_cancels_is_told_so(scene: Scene) -> None:
    browser = scene.browser()
    assert "none of your groups has a role" in refused(scene, browser, agreed(scene.away(browser), "mallory"), 403)
    assert "was cancelled" in refused(scene, browser, agreed(scene.away(browser), ""))


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", "/console\\@evil"])
def test_nobody_is_led_elsewhere(scene: Scene, to: str) -> None:
    browser = scene.browser()
    assert browser.get(agreed(scene.away(browser, to=to))).headers["location"] == "/console/"


def test_strangers_begin_no_more_sign_ins_than_there_may_be(scene: Scene) -> None:
    control = scene.running.control
    with control.store.platform() as conn:
        (under_way,) = conn.execute("SELECT count(*) FROM interlock.console_logins").fetchone() or (0,)
    tools = control.api.tools
    few = dataclasses.replace(tools, settings=dataclasses.replace(tools.settings, console_logins_max=under_way + 1))
    object.__setattr__(control.api, "tools", few)
    try:
        scene.away(scene.browser())
        full = scene.browser().get(f"/console/sign-in/{scene.ids['good']}")
        assert full.status_code == 503 and "under way" in full.text
    finally:
        object.__setattr__(control.api, "tools", tools)


def test_a_session_ends_with_the_way_in(scene: Scene) -> None:
    browser = scene.browser()
    assert browser.get(agreed(scene.away(browser, "other"))).status_code == 303
    assert browser.get("/console/usage").status_code == 200
    path, spec = f"/tenants/acme/issuers/{scene.other.name}", issuer(scene.other)
    scene.running.owner.do("PUT", path, {**spec, "login": None})
    assert browser.get("/console/usage").status_code == 303
    assert browser.get(f"/console/sign-in/{scene.ids['other']}").status_code == 404
    scene.running.owner.do("PUT", path, spec)


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://id.example/other"},
        {"code_challenge_methods_supported": ["plain"]},
        {"authorization_endpoint": "http://id.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": None},
    ],
)
def test_a_discovery_document_that_is_not_safe_leads_nowhere(scene: Scene, document: dict[str, Any]) -> None:
    scene.other.document = document
    try:
        answer = scene.browser().get(f"/console/sign-in/{scene.ids['other']}")
    finally:
        scene.other.document = {}
    assert answer.status_code == 503 and "location" not in answer.headers and scene.other.name not in answer.text


def test_a_tenants_owner_has_no_file_of_this_machine_sent_anywhere(scene: Scene) -> None:
    """Its provider would be told the secret: only files in the tenant's own folder are read, no variable is."""
    path, spec = f"/tenants/acme/issuers/{scene.other.name}", issuer(scene.other)
    secret = scene.running.control.settings.home_path("secrets", "admin_key")
    try:
        for login in ({"secret_env": "PATH"}, {"secret_file": "/etc/passwd"}, {"secret_file": str(secret)}):
            scene.running.owner.do("PUT", path, issuer(scene.other, **login))
            browser, before = scene.browser(), len(scene.other.asked)
            words = refused(scene, browser, agreed(scene.away(browser, "other")), 503)
            assert len(scene.other.asked) == before and "passwd" not in words
    finally:
        scene.running.owner.do("PUT", path, spec)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"group_roles": {}}, "group_roles"),
        ({"login": {"client_id": ""}}, "client_id"),
        ({"login": {"client_id": "x", "scopes": ["profile"]}}, "openid"),
        ({"login": {"client_id": "x", "secret_env": "A", "secret_file": "/b"}}, "secret_env"),
        ({"issuer": "acme-directory"}, "discovery"),
    ],
)
def test_wrong_declarations_are_named(scene: Scene, changes: dict[str, Any], word: str) -> None:
    spec = {**issuer(scene.other), "issuer": "https://id.example/new", **changes}
    status, told = scene.running.owner.call("POST", "/tenants/acme/issuers", spec)
    assert status in (400, 422) and word in told["error"]["message"] + str(told["error"].get("details")), told


def test_gateways_are_not_told_how_people_sign_in(scene: Scene) -> None:
    with scene.running.control.store.platform() as conn:
        told = SMALL["issuers"](conn)
    assert scene.other.name.encode() in told and b"login" not in told and b"client_id" not in told
