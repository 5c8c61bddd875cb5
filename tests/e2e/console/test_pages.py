"""The console in a real browser, on the demo: signing in, each page's main task, and what an attacker would try."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.e2e.stack import Stack, fetch, until

from .conftest import Tab, called, password

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{1000003*7}}"


def test_signing_in_leads_where_one_wanted_to_go(tab: Tab, demo: Stack) -> None:
    tab.go("/console/usage")
    assert "/console/sign-in?to=" in tab.page.url
    tab.sign_in("admin", "not the password at all")
    assert "wrong" in tab.page.inner_text("[role=alert]")
    tab.sign_in("admin", password(demo))
    assert tab.page.url == f"{demo.control}/console/usage"
    (cookie,) = tab.page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
        "__Host-interlock", True, True, "Lax",
    )  # fmt: skip
    tab.press("text=Sign out")
    tab.page.context.add_cookies([cast(Any, cookie)])  # the session is gone, not only the cookie
    tab.go("/console/")
    assert "/console/sign-in" in tab.page.url


def test_the_pages_show_what_is_running_what_was_called_and_what_it_took(admin: Tab, demo: Stack) -> None:
    page = admin.page
    admin.press("nav >> text=Health")
    until(lambda: page.reload() and "up to date" in page.inner_text("main"), 180, "the node to be up to date")
    request = called(demo, "What is a signal box?")
    admin.press("nav >> text=Ledger")
    assert "rosa" in page.inner_text("main")
    admin.press(f"a[href$='{request}']")
    words = page.inner_text("main")
    assert "completed" in words and "agrees" in words and "was chosen" in words
    assert "payload_reader" in words and "signal box" not in words, "the owner has no second grant"
    admin.press("nav >> text=Usage")
    page.wait_for_selector(".chart canvas")
    assert "research" in page.inner_text("table.card-table")
    with page.expect_download() as download:
        admin.press("text=CSV")
    text = Path(download.value.path()).read_text()
    assert text.splitlines()[0].startswith("team,model,calls") and "research" in text


def test_what_callers_say_is_inert(admin: Tab, demo: Stack) -> None:
    request = called(demo, HOSTILE)
    page = admin.page
    grant = {"principal": "admin", "role": "payload_reader"}
    assert demo.admin("POST", "/roles", grant).status in (200, 201)
    try:
        admin.go(f"/console/calls/acme/{request}")
        page.fill("#reason", HOSTILE)
        admin.press("text=Show")
        said = page.inner_text("#said >> xpath=ancestor::section")
        assert HOSTILE in said.replace('\\"', '"')
        assert page.title() != "owned" and page.locator("img[src=x]").count() == 0 and "7000021" not in page.content()
    finally:
        assert demo.admin("DELETE", "/roles/admin:payload_reader").status == 200


@pytest.mark.parametrize(
    ("path", "shot"),
    [
        ("/console/sign-in", "sign-in"),
        ("/console/calls", "ledger"),
        ("/console/usage", "usage"),
        ("/console/nowhere", ""),
    ],
)
def test_pages_serve_everybody(path: str, shot: str, admin: Tab) -> None:
    admin.look(path, shot)


def test_pages_are_told_to_run_nothing_but_ours(demo: Stack) -> None:
    answer = fetch(demo.control, "/console/sign-in")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"
    again = fetch(demo.control, "/console/sign-in").headers["content-security-policy"]
    assert policy != again, "a nonce is used once"


def test_changes_are_asked_for_by_our_pages_only(demo: Stack) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = f"name=admin&password={password(demo)}".encode()

    def sign_in(**headers: str) -> int:
        sent = {**form, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return fetch(demo.control, "/console/sign-in", body=body, headers=sent).status

    assert sign_in(origin="https://evil.example") == 403
    assert sign_in(sec_fetch_site="cross-site") == 403
    assert sign_in() == 403
    assert sign_in(origin=demo.control) == 303
    cookie = fetch(demo.control, "/console/sign-in", body=body, headers={**form, "origin": demo.control}).headers
    session = {"cookie": cookie["set-cookie"].partition(";")[0], "origin": demo.control, **form}
    assert fetch(demo.control, "/console/sign-out", body=b"csrf=guessed", headers=session).status == 403
    assert fetch(demo.control, "/console/", headers=session, method="GET").status == 200


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/console/../../x", "/admin", "/console\\evil"]
)
def test_signing_in_leads_to_no_other_site(to: str, tab: Tab, demo: Stack) -> None:
    tab.go("/console/sign-in")
    tab.page.eval_on_selector("[name=to]", "(field, to) => { field.value = to }", to)
    tab.sign_in("admin", password(demo))
    assert tab.page.url.startswith(f"{demo.control}/")
