"""Accounts and sessions of the console over a real database: wrong passwords, roles that end, time that passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.console import passwords
from interlock.control.console.visit import COOKIE
from interlock.control.identity import console_password_path, ensure_console_password
from interlock.testing.clock import FakeClock

from .control_client import Running, control_over

TENANT = """
tenants:
  - name: acme
    principals:
      - {name: olga, kind: user}
      - {name: paul, kind: user}
    roles:
      - {principal: olga, role: admin}
      - {principal: paul, role: owner}
  - name: globex
"""
OLGAS = "correct horse battery"


@dataclasses.dataclass
class Scene:
    running: Running
    clock: FakeClock

    def browser(self) -> TestClient:
        """A client with cookies of its own, as a browser on the console's own pages."""
        made = TestClient(make_app(self.running.control.api), base_url="https://testserver", follow_redirects=False)
        made.headers["origin"] = "https://testserver"
        return made

    def sign_in(self, browser: TestClient, name: str, password: str) -> int:
        return browser.post("/console/sign-in", data={"name": name, "password": password}).status_code


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[Scene]:
    with control_over(postgres_url) as running:
        clock = FakeClock()
        api = running.control.api
        object.__setattr__(api, "tools", dataclasses.replace(api.tools, clock=clock))
        running.owner.apply(TENANT)
        yield Scene(running, clock)


@pytest.fixture
def scene(whole: Scene) -> Scene:
    """Olga has her password and her role, and no wrong password counts."""
    whole.running.owner.apply(TENANT)
    whole.running.owner.do("POST", "/tenants/acme/principals/olga/password", {"password": OLGAS})
    return whole


def test_the_first_administrator_gets_a_password_once(scene: Scene) -> None:
    control = scene.running.control
    path = console_password_path(control.tools)
    assert not path.exists(), "somebody has an account already"
    with control.store.platform() as conn:
        conn.execute("DELETE FROM interlock.console_accounts")
    assert ensure_console_password(control.store, control.tools)
    assert not ensure_console_password(control.store, control.tools)
    assert scene.sign_in(scene.browser(), "admin", path.read_text().strip()) == 303


def test_an_account_waits_after_wrong_passwords_and_says_nothing(scene: Scene) -> None:
    browser = scene.browser()
    for _ in range(passwords.FREE_TRIES):
        assert scene.sign_in(browser, "acme/olga", "wrong") == 401
    waits = browser.post("/console/sign-in", data={"name": "acme/olga", "password": OLGAS})
    nobody = browser.post("/console/sign-in", data={"name": "acme/nobody", "password": OLGAS})
    assert waits.status_code == nobody.status_code == 401
    assert waits.text.replace("olga", "nobody") == nobody.text
    scene.clock.advance(s=passwords.LOCK_S + 1)
    assert scene.sign_in(browser, "acme/olga", OLGAS) == 303
    assert scene.sign_in(browser, "acme/olga", "wrong") == 401, "the count began anew"
    assert scene.sign_in(browser, "acme/olga", OLGAS) == 303


@pytest.mark.parametrize("name", ["olga", "globex/olga", "platform/olga", "acme/olga/x", "", "acme/paul"])
def test_only_the_whole_name_of_an_account_signs_in(scene: Scene, name: str) -> None:
    assert scene.sign_in(scene.browser(), name, OLGAS) == 401


def test_a_link_puts_no_words_into_a_page(scene: Scene) -> None:
    browser = scene.browser()
    assert scene.sign_in(browser, "acme/olga", OLGAS) == 303
    for seal in ("", "0" * 32):
        assert "Call 0800" not in browser.get("/console/", params={"said": "Call 0800", "seal": seal}).text


def test_a_session_ends_with_time_roles_password_and_sign_out(scene: Scene) -> None:
    settings = scene.running.control.settings

    def signed_in() -> TestClient:
        browser = scene.browser()
        assert scene.sign_in(browser, "acme/olga", OLGAS) == 303
        assert browser.get("/console/").status_code == 200
        return browser

    browser = signed_in()
    for _ in range(settings.console_session_ms // settings.console_idle_ms + 2):
        scene.clock.advance(s=settings.console_idle_ms / 1000 - 1)
        last = browser.get("/console/").status_code
    assert last == 303, "at the latest after console_session_ms"
    browser = signed_in()
    scene.clock.advance(s=settings.console_idle_ms / 1000 + 1)
    assert browser.get("/console/").status_code == 303, "unused for console_idle_ms"
    browser = signed_in()
    scene.running.owner.do("DELETE", "/tenants/acme/roles/olga:admin")
    assert browser.get("/console/").status_code == 403, "its role was taken away"
    scene.running.owner.do("POST", "/tenants/acme/roles", {"principal": "olga", "role": "admin"})
    scene.running.owner.do("POST", "/tenants/acme/principals/olga/password", {"password": OLGAS})
    assert browser.get("/console/").status_code == 303, "its password was set anew"
    browser = signed_in()
    scene.running.owner.do("PUT", "/tenants/acme/principals/olga", {"name": "olga", "kind": "user", "active": False})
    assert browser.get("/console/").status_code == 303, "it was switched off"


def test_one_tenant_is_not_shown_another(scene: Scene) -> None:
    browser = scene.browser()
    assert scene.sign_in(browser, "acme/olga", OLGAS) == 303
    for path in ("/console/calls", "/console/usage"):
        shown = browser.get(path)
        assert shown.status_code == 200 and "globex" not in shown.text
        assert browser.get(f"{path}?tenant=globex").status_code == 404
    assert browser.get("/console/calls/globex/req_x_1").status_code == 404
    assert "Gateway nodes" not in browser.get("/console/health").text, "the installation is the platform's"


def test_nobody_sets_the_password_of_somebody_stronger(scene: Scene) -> None:
    key = scene.running.owner.do(
        "POST", "/tenants/acme/keys", {"name": "olga", "principal": "olga", "scopes": ["admin"]}
    )["key"]
    olga = scene.running.as_(key)
    status, error = olga.call("POST", "/tenants/acme/principals/paul/password", {"password": OLGAS})
    assert status == 403, error
    status, _ = olga.call("POST", "/tenants/platform/principals/admin/password", {"password": OLGAS})
    assert status in (403, 404)
    status, _ = olga.call("POST", "/tenants/acme/principals/olga/password", {"password": OLGAS})
    assert status == 200
    status, error = olga.call("POST", "/tenants/acme/principals/olga/password", {"password": "short"})
    assert status == 400 and "12" in error["error"]["message"] and "short" not in error["error"]["message"]


def test_no_secret_is_kept_as_it_was_sent(scene: Scene) -> None:
    browser = scene.browser()
    assert scene.sign_in(browser, "acme/olga", OLGAS) == 303
    token = browser.cookies[COOKIE]
    with scene.running.control.store.platform() as conn:
        rows: list[Any] = []
        for table in ("console_accounts", "console_sessions", "changes"):
            rows += conn.execute(f"SELECT * FROM interlock.{table}").fetchall()
    said = repr(rows)
    assert OLGAS not in said and token not in said and "principal.password" in said


def test_changes_come_from_our_own_pages(scene: Scene) -> None:
    browser = scene.browser()
    form = {"name": "acme/olga", "password": OLGAS}

    def sign_in(**headers: str) -> int:
        browser.headers.pop("origin", None)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return browser.post("/console/sign-in", data=form, headers=sent).status_code

    assert sign_in(origin="https://evil.example") == 403
    assert sign_in(origin="null") == 403
    assert sign_in(sec_fetch_site="cross-site") == 403
    assert sign_in(sec_fetch_site="same-site", origin="https://testserver") == 403
    assert sign_in() == 403
    assert sign_in(sec_fetch_site="same-origin") == 303
    ours = {"sec-fetch-site": "same-origin"}
    assert browser.post("/console/sign-out", data={"csrf": "guessed"}, headers=ours).status_code == 403
    assert browser.get("/console/").status_code == 200
    page = browser.get("/console/").text
    token = page.split('name="csrf" value="')[1].split('"')[0]
    assert browser.post("/console/sign-out", data={"csrf": token}, headers=ours).status_code == 303
    assert browser.get("/console/").status_code == 303
