"""People, teams and keys in the browser: adding somebody, a key that calls, one's own keys, and who may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.stack import Stack, until

from .conftest import Tab

TENANT = "/console/people?tenant=acme"
HOSTILE = "<img src=x onerror=document.title=1>"
WORD = "a long enough password"


@pytest.fixture
def cleared(demo: Stack) -> Iterator[None]:
    """What the tests add is gone afterwards."""
    yield
    for name in ("dora", "dev-dan"):
        demo.admin("DELETE", f"/tenants/acme/principals/{name}")
    demo.admin("DELETE", "/tenants/acme/teams/signals")


def reason(tab: Tab, form: str, why: str = "a test") -> None:
    tab.page.fill(f"{form} [name=reason]", why)


def test_somebody_is_added_to_a_team_and_calls_with_a_key(admin: Tab, demo: Stack, cleared: None) -> None:
    page = admin.page
    admin.go(TENANT)
    form = "form:has([value=team])"
    page.click("summary >> text=Make a team")
    page.fill(f"{form} [name=name]", "signals")
    page.fill(f"{form} [name=cost_center]", HOSTILE)
    page.fill(f"{form} [name=requests_per_minute]", "60")
    reason(admin, form)
    page.click("text=Make it")
    page.wait_for_load_state()
    assert "Team signals was made." in page.inner_text("[role=status]")
    assert HOSTILE in page.inner_text("#teams >> xpath=ancestor::section")

    form = "form:has([value=principal])"
    page.click("summary >> text=Add somebody")
    page.fill(f"{form} [name=name]", "rosa")
    page.check(f"{form} [value=signals]")
    reason(admin, form)
    page.click(f"{form} button")
    page.wait_for_load_state()
    assert "already" in page.inner_text("[role=alert]")
    assert page.is_checked(f"{form} [value=signals]"), "what was typed is kept"
    page.fill(f"{form} [name=name]", "dora")
    page.click(f"{form} button")
    page.wait_for_selector("h1:text-is('dora')")

    form = "form:has([name=scopes])"
    page.click("summary >> text=Make a key")
    page.fill(f"{form} [name=key]", "dora-laptop")
    reason(admin, form)
    page.click(f"{form} button")
    page.wait_for_load_state()
    secret = page.input_value("#secret")
    assert secret.startswith("il_") and demo.gateway in page.inner_text("pre")
    until(lambda: demo.chat(secret).status != 401, 180, "the key to be known to the gateway")
    page.click("text=I have copied it")
    page.wait_for_load_state()
    assert secret not in page.content() and "dora-laptop" in page.inner_text("#keys >> xpath=ancestor::section")

    form = "form:has([value=revoke])"
    page.click("summary >> text=Renew or end a key")
    reason(admin, form)
    page.click("text=End it now")
    page.wait_for_load_state()
    assert "revoked" in page.inner_text("#keys >> xpath=ancestor::section")
    until(lambda: demo.chat(secret).status == 401, 180, "the key to be refused")


def test_a_developer_has_keys_of_their_own_and_no_others(
    admin: Tab, demo: Stack, browser: Browser, cleared: None
) -> None:
    admin.go(TENANT)
    given = {"name": "dev-dan", "kind": "user", "teams": ["research"]}
    assert demo.admin("POST", "/tenants/acme/principals", given).status == 201
    page = admin.page
    admin.go("/console/people/acme/dev-dan")
    form = "form:has([value=grant])"
    page.select_option(f"{form} [name=role]", "developer")
    reason(admin, form)
    page.click(f"{form} button")
    page.wait_for_load_state()
    assert "developer" in page.inner_text(".tiles")
    form = "form:has([type=password])"
    page.click("summary >> text=Password for this console")
    page.fill(f"{form} [name=password]", WORD)
    reason(admin, form)
    page.click(f"{form} button")
    page.wait_for_load_state()

    context = browser.new_context()
    dan = Tab(context.new_page(), demo.control)
    dan.go("/console/keys")
    dan.sign_in("acme/dev-dan", WORD)
    assert dan.page.inner_text("h1") == "My keys"
    assert "Ledger" not in dan.page.inner_text("nav") and "My keys" in dan.page.inner_text("nav")
    form = "form:has([value=make])"
    dan.page.fill(f"{form} [name=key]", "dans-own")
    dan.page.fill(f"{form} [name=reason]", "to try it out")
    dan.page.click(f"{form} button")
    dan.page.wait_for_load_state()
    secret = dan.page.input_value("#secret")
    until(lambda: demo.chat(secret).status == 200, 180, "the key to be known to the gateway")
    dan.go("/console/people/acme/rosa")
    assert dan.page.locator("summary").count() == 0, "nothing there is his to change"
    csrf = dan.page.get_attribute("[name=csrf]", "value")
    for path, fields in (
        ("/console/people/acme/rosa", {"do": "key", "key": "stolen", "scopes": "infer"}),
        ("/console/people/acme/dev-dan", {"do": "grant", "role": "admin"}),
        ("/console/keys", {"do": "revoke", "key": "rosa-laptop"}),
    ):
        answer = dan.page.request.post(
            demo.control + path, form={"csrf": csrf or "", "reason": "x", **fields}, headers={"origin": demo.control}
        )
        assert answer.status in (403, 404), (path, answer.status)
    assert dan.complaints == []
    context.close()


@pytest.mark.parametrize(
    ("path", "shot"),
    [(TENANT, "people"), ("/console/people/acme/rosa", "person"), ("/console/teams/acme/research", "team"),
     ("/console/keys", "my-keys")],
)  # fmt: skip
def test_the_pages_serve_everybody(path: str, shot: str, admin: Tab) -> None:
    admin.look(path, shot)
    for summary in admin.page.query_selector_all("summary"):
        summary.click()
    admin.fits(390)


def test_more_of_a_budget_is_asked_for_and_approved_by_somebody_else(
    admin: Tab, demo: Stack, browser: Browser, cleared: None
) -> None:
    given = {"name": "dev-dan", "kind": "user", "teams": ["research"]}
    assert demo.admin("POST", "/tenants/acme/principals", given).status == 201
    assert demo.admin("POST", "/tenants/acme/roles", {"principal": "dev-dan", "role": "developer"}).status == 201
    assert demo.admin("POST", "/tenants/acme/principals/dev-dan/password", {"password": WORD}).status == 200
    assert demo.admin("POST", "/tenants/acme/budgets", {"name": "dans", "principal": "dev-dan", "usd": 5}).status == 201
    context = browser.new_context()
    dan = Tab(context.new_page(), demo.control)
    try:
        dan.go("/console/requests")
        dan.sign_in("acme/dev-dan", WORD)
        for amount, reason_given in (("4", "x"), ("7.50", HOSTILE)):
            dan.page.fill("[name=amount]", amount)
            dan.page.fill("form:has([value=ask]) [name=reason]", reason_given)
            dan.page.click("button[value=ask]")
            dan.page.wait_for_load_state()
        assert "asks for $7.50 of dans" in dan.page.inner_text("main") and HOSTILE in dan.page.inner_text("main")
        assert dan.page.locator("[value=approve]").count() == 0 and dan.page.locator("[value=withdraw]").count() == 1
        admin.look("/console/requests?tenant=acme", "requests")
        reason(admin, "form:has([value=approve])", "he needs it")
        admin.page.click("button[value=approve]")
        admin.page.wait_for_load_state()
        assert "The budget has what was asked for." in admin.page.inner_text("[role=status]")
        assert demo.admin("GET", "/tenants/acme/budgets/dans").json()["usd"] == "7.5"
        assert dan.complaints == []
    finally:
        context.close()
        demo.admin("DELETE", "/tenants/acme/budgets/dans")
