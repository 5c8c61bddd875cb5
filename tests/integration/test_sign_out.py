"""Signing out at the identity provider too (OpenID Connect RP-Initiated Logout 1.0), and what attackers would try."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from interlock.control.console.sessions import Sessions
from interlock.control.console.sign_out import STATE_COOKIE
from interlock.control.console.visit import COOKIE
from interlock.storage.console import Session

from .test_console_oidc import ORIGIN, Scene, agreed, asked, issuer, scene, whole

__all__ = ["scene", "whole"]


@pytest.fixture
def signed_in(scene: Scene) -> Iterator[TestClient]:
    """Alice in the console, by acme's provider, where signing out is to sign out there too."""
    path = f"/tenants/acme/issuers/{scene.other.name}"
    scene.running.owner.do("PUT", path, issuer(scene.other, end_session=True))
    scene.other.ended.clear()
    scene.other.after_logout = {f"{ORIGIN}/console/sign-in/{scene.ids['other']}/signed-out"}
    yield enter(scene)
    scene.other.document = {}
    scene.running.owner.do("PUT", path, issuer(scene.other))


def enter(scene: Scene, name: str = "other") -> TestClient:
    browser = scene.browser()
    assert browser.get(agreed(scene.away(browser, name))).status_code == 303
    return browser


def out(browser: TestClient, query: str = "", **fields: str) -> Any:
    csrf = browser.get("/console/usage").text.split('data-csrf="')[1].split('"')[0]
    return browser.post(f"/console/sign-out{query}", data={"csrf": csrf, **fields})


def led(answer: Any) -> str:
    """Where the page leads at once."""
    assert answer.status_code == 200, answer.headers
    return html.unescape(answer.text.split('http-equiv="refresh" content="0; url=')[1].split('"')[0])


def gone(browser: TestClient) -> None:
    assert COOKIE not in browser.cookies and browser.get("/console/usage").status_code == 303


def test_signing_out_ends_the_session_here_and_leads_to_the_provider_and_back(
    scene: Scene, signed_in: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = led(out(signed_in))
    gone(signed_in)
    sent = asked(url)
    assert url.startswith(f"{scene.other.name}/end-session?") and sent["client_id"] == "console"
    assert sent["id_token_hint"].count(".") == 2 and len(sent["state"]) == 43
    back = httpx.get(url).headers["location"]
    assert back == f"{sent['post_logout_redirect_uri']}?state={sent['state']}"
    page = signed_in.get(back.removeprefix(ORIGIN))
    assert "at your identity provider too" in page.text and STATE_COOKIE not in signed_in.cookies
    assert "provider too" not in signed_in.get(back.removeprefix(ORIGIN)).text, "it is said once"
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("interlock")]
    assert not any(sent["id_token_hint"] in said for said in ours)


def test_the_id_token_is_kept_under_a_key_that_only_the_cookie_gives(scene: Scene, signed_in: TestClient) -> None:
    token = str(signed_in.cookies[COOKIE])
    with scene.running.control.store.platform() as conn:
        rows = conn.execute("SELECT row_to_json(s)::text FROM interlock.console_sessions AS s").fetchall()
    told = " ".join(row for (row,) in rows)
    assert "eyJ" not in told and "id_token" in told
    sessions = Sessions(scene.running.control.api)
    session, _ = sessions.find(token)
    hint = asked(led(out(signed_in)))["id_token_hint"]
    assert sessions.id_token(token, session) == hint
    assert sessions.id_token("another" + token[7:], session) == "", "another session's cookie opens nothing"
    broken = Session(**{f: getattr(session, f) for f in session.__struct_fields__ if f != "id_token"}, id_token="AAAA")
    assert sessions.id_token(token, broken) == ""


def test_nobody_is_led_where_a_request_says(signed_in: TestClient, scene: Scene) -> None:
    evil = "https://evil.example/"
    query = f"?to={evil}&post_logout_redirect_uri={evil}&end_session_endpoint={evil}&state=x"
    answer = out(signed_in, query, to=evil, post_logout_redirect_uri=evil, end_session_endpoint=evil, state="x")
    url = led(answer)
    assert "evil" not in answer.text and urlsplit(url).netloc == urlsplit(scene.other.name).netloc
    back = signed_in.get(f"/console/sign-in/{scene.ids['other']}/signed-out?state=x&to={evil}")
    assert back.status_code == 200 and "location" not in back.headers
    assert "evil" not in back.text and "provider too" not in back.text, (
        "a state that is not this browser's says nothing"
    )


def test_another_host_is_followed_only_if_the_discovery_document_says_so(scene: Scene, signed_in: TestClient) -> None:
    scene.other.document = {"end_session_endpoint": "https://login.example/out?app=1"}
    browser = enter(scene)  # of a process that has not asked the provider yet
    assert led(out(browser)).startswith("https://login.example/out?app=1&id_token_hint=")
    gone(browser)


@pytest.mark.parametrize(
    "endpoint",
    ["http://login.example/out", "javascript:alert(1)", "//login.example", "https://u@login.example/", "", 7, None],
)
def test_an_endpoint_that_is_not_safe_is_none(scene: Scene, signed_in: TestClient, endpoint: object) -> None:
    scene.other.document = {"end_session_endpoint": endpoint}
    answer = out(enter(scene))
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


def test_the_session_ends_here_also_when_the_provider_does_not_answer(scene: Scene, signed_in: TestClient) -> None:
    scene.other.document = {"issuer": "https://id.example/other"}
    fresh = scene.browser()  # of a process that has not asked the provider yet
    fresh.cookies = signed_in.cookies
    answer = out(fresh)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    gone(fresh)
    assert signed_in.get("/console/usage").status_code == 303, "in the database, for every process"


def test_without_the_setting_or_with_a_password_it_ends_here_alone(scene: Scene) -> None:
    browser = enter(scene, "good")
    with scene.running.control.store.platform() as conn:
        (groups,) = conn.execute(
            "SELECT groups FROM interlock.console_sessions ORDER BY created_at DESC"
        ).fetchone() or (None,)
    assert groups == ["grp-admins"], "no token is kept that nobody needs"
    assert out(browser).headers["location"] == "/console/sign-in"
    gone(browser)


def test_only_our_own_pages_sign_somebody_out(scene: Scene, signed_in: TestClient) -> None:
    for fields, headers in (
        ({}, {}),
        ({"csrf": "x"}, {}),
        ({"csrf": "x"}, {"origin": "https://evil.example"}),
        ({}, {"sec-fetch-site": "cross-site"}),
    ):
        assert signed_in.post("/console/sign-out", data=fields, headers=headers).status_code == 403
    assert signed_in.get("/console/sign-out").status_code in (404, 405)
    signed_in.get(f"/console/sign-in/{scene.ids['other']}/signed-out?state=")
    assert signed_in.get("/console/usage").status_code == 200
    assert scene.other.ended == []
