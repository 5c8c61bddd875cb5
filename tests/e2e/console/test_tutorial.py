"""docs/tutorial-console.md, each step of it in the browser: from `make up` to a proved call at one's own engine."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.e2e.stack import Stack, until

from .conftest import Tab, password


@pytest.fixture
def cleared(demo: Stack) -> Iterator[None]:
    """What the tutorial makes is gone afterwards."""
    yield
    for path in ("/tenants/acme/budgets/apps-month", "/tenants/acme/policies/apps-models",
                 "/tenants/acme/principals/reports", "/tenants/acme/teams/apps", "/sources/mine"):  # fmt: skip
        demo.admin("DELETE", path)


def press(tab: Tab, words: str, reason: str = "first steps") -> str:
    """Give the reason of the form that has this button, press it, and read what comes."""
    form = tab.page.locator("form", has=tab.page.locator(f"button:text-is('{words}')"))
    form.locator("[name=reason]").fill(reason)
    form.locator(f"button:text-is('{words}')").click()
    tab.page.wait_for_load_state()
    return tab.page.inner_text("main")


def test_the_first_ten_minutes(tab: Tab, demo: Stack, cleared: None) -> None:
    page = tab.page
    tab.go("/")
    tab.sign_in("admin", password(demo))
    assert page.inner_text("h1") == "Live"

    _an_engine(tab, demo)
    _a_team_and_a_service(tab)
    _a_budget(tab)
    _a_policy(tab)
    secret = _a_key(tab)

    with openai.OpenAI(base_url=f"{demo.gateway}/v1", api_key=secret, max_retries=0) as client:
        demo.everywhere(lambda: _may_call(client), "the gateway to know the key and its policy")
        answer = client.chat.completions.with_raw_response.create(
            model="mine::smollm2", messages=[{"role": "user", "content": "What is a railway signal?"}], max_tokens=16
        )
    request = answer.headers["x-interlock-request-id"]
    assert answer.headers["x-interlock-source"] == "mine" and answer.parse().choices[0].message.content

    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").status == 200, 180, "its entry")
    _its_record(tab, request)


def _may_call(client: openai.OpenAI) -> bool:
    try:
        return any(model.id == "smollm2" for model in client.models.list())
    except openai.APIStatusError:
        return False


def _an_engine(tab: Tab, demo: Stack) -> None:
    page, spare = tab.page, demo.admin("GET", "/sources/spare").json()
    page.click("nav >> text=Sources")
    page.click("text=Register a source")
    page.wait_for_load_state()
    page.select_option("[name=kind]", "llamacpp")
    page.fill("[name=url] >> nth=0", spare["url"])
    page.fill("[name=name] >> nth=0", "mine")
    page.select_option("[name=secret] >> nth=0", "file")
    page.fill("[name=secret_at] >> nth=0", spare["credential"]["file"])
    page.click("[value=look]")
    page.wait_for_load_state()
    assert "smollm2" in page.inner_text("section:has(#found)")
    page.fill("[name=region]", "home")
    page.check("[name=granted_to][value='acme']")
    page.uncheck("[name=granted_to][value='*']")
    page.locator("form", has=page.locator("button[value=store]")).locator("[name=reason]").fill("first steps")
    page.click("button[value=store]")
    page.wait_for_load_state()
    assert "registered" in page.inner_text("main [role=status] >> nth=0")


def _a_team_and_a_service(tab: Tab) -> None:
    page = tab.page
    page.click("nav >> text=People")
    page.wait_for_load_state()
    page.click("summary >> text=Make a team")
    page.fill("form:has([value=team]) [name=name]", "apps")
    page.fill("form:has([value=team]) [name=requests_per_minute]", "120")
    assert "Team apps was made." in press(tab, "Make it")
    page.click("summary >> text=Add somebody")
    page.fill("form:has([value=principal]) [name=name]", "reports")
    page.select_option("form:has([value=principal]) [name=kind]", "service")
    page.check("form:has([value=principal]) [value=apps]")
    assert "reports was added." in press(tab, "Add")


def _a_budget(tab: Tab) -> None:
    page = tab.page
    page.click("nav >> text=Budgets")
    page.click("text=New budget")
    page.wait_for_load_state()
    page.fill("#f-name", "apps-month")
    page.select_option("#f-kind", "team")
    page.fill("#f-on", "apps")
    page.fill("#f-amount", "5")
    page.select_option("#f-unit", "usd")
    assert "Budget apps-month is set" in press(tab, "Set budget")


def _a_policy(tab: Tab) -> None:
    page = tab.page
    page.click("nav >> text=Policies")
    page.wait_for_load_state()
    tab.go("/console/policies/templates?tenant=acme")
    page.click("a[href*='team-may-use-models']")
    page.wait_for_load_state()
    page.fill("#f-id", "apps-models")
    page.select_option("#f-team", "apps")
    page.check("[name=models][value='*']")
    page.click("text=Preview")
    page.wait_for_selector("#preview pre.cedar")
    assert "is in the draft" in press(tab, "Put it in the draft")
    assert "is in force" in press(tab, "Put it in force")
    tab.go("/console/policies/ask?tenant=acme")
    page.fill("#f-principal", "reports")
    page.click("button:text-is('Ask')")
    page.wait_for_load_state()
    assert "✓ Allowed" in page.inner_text("main") and "apps-models" in page.inner_text("main")


def _a_key(tab: Tab) -> str:
    page = tab.page
    tab.go("/console/people/acme/reports")
    page.click("summary >> text=Make a key")
    page.fill("form:has([name=scopes]) [name=key]", "reports-key")
    press(tab, "Make it")
    return page.input_value("#secret")


def _its_record(tab: Tab, request: str) -> None:
    page = tab.page
    page.click("nav >> text=Ledger")
    page.wait_for_load_state()
    page.fill("[name=principal]", "reports")
    page.click("button:text-is('Search')")
    page.wait_for_load_state()
    page.click(f"a[href$='{request}']")
    page.wait_for_load_state()
    until(lambda: page.reload() and "included" in page.inner_text("main"), 180, "the next checkpoint")
    words = page.inner_text("main")
    assert all(each in words for each in ("completed", "mine", "apps-models", "agrees", "included")), words
    tab.go("/console/calls/proof?tenant=acme")
    page.click("#verify")
    page.wait_for_selector("#verdict .alert", timeout=180_000)
    assert page.inner_text("#verdict").startswith("COMPLETE:")
