"""Policies in a real browser, on the demo: from a template to a refused call and back, and who may look and ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.stack import Stack

from .conftest import Tab, called

PASSWORD = "correct horse battery"
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"></textarea><script>document.title='owned'</script>{{1000003*7}}"
)
PEOPLE = {"wendy": "admin", "boris": "admin", "vera": "viewer", "devi": "developer"}
POLICIES = "/console/policies"


@pytest.fixture(scope="module")
def people(demo: Stack) -> Iterator[None]:
    """Members of acme with roles and passwords, while these tests run; acme's policies are put back."""
    before = demo.admin("GET", "/tenants/acme/policies").json()["items"]
    for name, role in PEOPLE.items():
        assert demo.admin("POST", "/tenants/acme/principals", {"name": name}).status == 201
        assert demo.admin("POST", "/tenants/acme/roles", {"principal": name, "role": role}).status == 201
        path = f"/tenants/acme/principals/{name}/password"
        assert demo.admin("POST", path, {"password": PASSWORD}).status in (200, 201)
    yield
    demo.admin("DELETE", "/tenants/acme/policy-draft")
    rule = demo.admin("GET", "/tenants/acme").json()
    assert rule["policy_approval"] is False
    assert demo.admin("GET", "/tenants/acme/policies").json()["items"] is not None
    assert ids(demo) == sorted(p["id"] for p in before)
    for name in PEOPLE:
        demo.admin("DELETE", f"/tenants/acme/roles/{name}:{PEOPLE[name]}")
        assert demo.admin("DELETE", f"/tenants/acme/principals/{name}").status == 200


def ids(demo: Stack) -> list[str]:
    return sorted(p["id"] for p in demo.admin("GET", "/tenants/acme/policies").json()["items"])


def signed_in(browser: Browser, demo: Stack, name: str) -> Tab:
    tab = Tab(browser.new_context(viewport={"width": 1280, "height": 900}).new_page(), demo.control)
    tab.go("/")
    tab.sign_in(f"acme/{name}", PASSWORD)
    return tab


def press(tab: Tab, button: str, reason: str = "a test") -> str:
    """Give the page's reason and press; the text of what comes."""
    tab.page.fill("#f-reason", reason)
    tab.page.click(f"button:text-is('{button}')")
    tab.page.wait_for_load_state()
    return tab.page.inner_text("main")


def status(demo: Stack) -> int:
    return demo.chat(demo.key("acme", "rosa-laptop")).status


def test_from_a_template_to_a_refused_call_and_back(browser: Browser, demo: Stack, people: None) -> None:
    assert status(demo) == 200
    version = demo.admin("GET", "/tenants/acme/policy-versions").json()["items"][0]["number"]
    olga = signed_in(browser, demo, "wendy")
    second = signed_in(browser, demo, "boris")
    assert demo.admin("PUT", "/tenants/acme", rule(on=True)).status == 200
    try:
        _draft(olga)
        _refusal_of_the_author(olga)
        second.go(f"{POLICIES}/draft?tenant=acme")
        assert "You approved" in press(second, "Approve", "read it")
        assert "is in force" in press(second, "Put it in force")
        demo.answers(403, demo.key("acme", "rosa-laptop"), what="the call to be refused")
        ask(olga, "rosa")
        words = olga.page.inner_text("main")
        assert "✗ Refused" in words and "closed-weeks" in words and "forbids it" in words
    finally:
        assert demo.admin("PUT", "/tenants/acme", rule(on=False)).status == 200
    olga.go(f"{POLICIES}/history?tenant=acme")
    article = olga.page.locator(f"article[aria-label='Version {version}']")
    article.locator("summary").click()
    article.locator("input[name=reason]").fill("it was a test")
    article.locator("button.btn-danger").click()
    olga.page.wait_for_load_state()
    assert f"Version {version} is in force again" in olga.page.inner_text("main")
    demo.answers(200, demo.key("acme", "rosa-laptop"), what="the call to be allowed again")
    ask(olga, "rosa")
    assert "✓ Allowed" in olga.page.inner_text("main")
    olga.go(f"{POLICIES}/diff?tenant=acme&from={version}&to={version + 1}")
    assert "+ new" in olga.page.inner_text("main") and "closed-weeks" in olga.page.inner_text("main")
    olga.look(f"{POLICIES}/history?tenant=acme", "policies-history")
    olga.look(f"{POLICIES}/diff?tenant=acme&from={version}&to={version + 1}", "policies-diff")
    assert olga.complaints == second.complaints == []


def rule(*, on: bool) -> dict[str, object]:
    return {"name": "acme", "policy_approval": on}


def _draft(olga: Tab) -> None:
    page = olga.page
    olga.go(f"{POLICIES}/templates?tenant=acme")
    page.click("a[aria-label='Use it: Maintenance window']")
    page.wait_for_load_state()
    page.fill("#f-id", "closed-weeks")
    page.click("text=Preview")
    page.wait_for_selector("#preview [role=alert]")
    assert "must be given" in page.inner_text("#preview")
    page.fill("#f-from", "2020-01-01T00:00")
    page.fill("#f-to", "2099-01-01T00:00")
    page.click("text=Preview")
    page.wait_for_selector("#preview pre.cedar")
    words = page.inner_text("#preview")
    assert "closed for maintenance" in words and "context.time_s" in words and "would be refused" in words
    olga.fits(1280)
    assert "closed-weeks is in the draft" in press(olga, "Put it in the draft", "the halls are rebuilt")
    page.click("text=Who could then do what?")
    page.wait_for_load_state()
    words = page.inner_text("main")
    assert "▼ loses" in words and "felix" in words and "closed-weeks" in words
    page.fill("#f-days", "30")
    words = press(olga, "Decide them under the draft", "how many would it hit?")
    assert "calls of the last 30 days would be decided otherwise" in words and "▼ refused" in words
    olga.look(f"{POLICIES}/what-if?tenant=acme", "policies-what-if")


def _refusal_of_the_author(olga: Tab) -> None:
    olga.go(f"{POLICIES}/draft?tenant=acme")
    words = olga.page.inner_text("main")
    assert "somebody else has to approve" in words and "Put it in force" not in words
    assert olga.page.locator("button:text-is('Approve')").count() == 0
    olga.look(f"{POLICIES}/draft?tenant=acme", "policies-draft")


def ask(tab: Tab, who: str) -> None:
    tab.go(f"{POLICIES}/ask?tenant=acme")
    tab.page.fill("#f-principal", who)
    tab.page.click("button:text-is('Ask')")
    tab.page.wait_for_load_state()


def test_an_error_in_the_text_is_shown_while_one_types_and_what_is_hostile_is_inert(
    browser: Browser, demo: Stack, people: None
) -> None:
    olga = signed_in(browser, demo, "wendy")
    page = olga.page
    olga.go(f"{POLICIES}/edit?tenant=acme")
    page.wait_for_selector("#problems >> text=valid")
    page.fill("#cedar", "// " + HOSTILE + "\nforbid (principal, action, resource)\nwhen { resource.nowhere };\n")
    page.wait_for_selector("#problems [data-line='3']")
    olga.fits(1280)
    page.keyboard.press("Tab")
    page.focus("#problems button")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "cedar"
    assert page.evaluate("c => c.value.slice(c.selectionStart)", page.query_selector("#cedar")).startswith("nowhere")
    page.fill("#f-id", "no-cloud")
    page.fill("#f-words", HOSTILE)
    assert "line 3, column" in press(olga, "Put it in the draft", HOSTILE)
    assert page.input_value("#f-reason") == HOSTILE and HOSTILE in page.input_value("#cedar")
    page.fill("#cedar", "// " + HOSTILE + "\nforbid (principal, action, resource)\nunless { resource.on_prem };\n")
    page.wait_for_selector("#problems >> text=valid")
    olga.look(f"{POLICIES}/edit?tenant=acme", "policies-edit")
    olga.go(f"{POLICIES}/edit?tenant=acme")
    page.fill("#f-id", "no-cloud")
    page.fill("#f-words", HOSTILE)
    page.fill("#cedar", "// " + HOSTILE + "\nforbid (principal, action, resource)\nunless { resource.on_prem };\n")
    assert "no-cloud is in the draft" in press(olga, "Put it in the draft", HOSTILE)
    for path in ("draft", "what-if", "history", "ask"):
        olga.go(f"{POLICIES}/{path}?tenant=acme")
        assert page.title() != "owned" and page.locator("img[src=x]").count() == 0
    olga.go(f"{POLICIES}/draft?tenant=acme")
    assert HOSTILE in page.inner_text("main") and "7000021" not in page.inner_text("article")
    assert "given up" in press(olga, "Give the draft up")
    assert olga.complaints == []


def test_viewers_look_and_developers_ask(browser: Browser, demo: Stack, people: None) -> None:
    called(demo, "Who may what?")
    vera = signed_in(browser, demo, "vera")
    vera.page.click("nav >> text=Policies")
    vera.page.wait_for_load_state()
    words = vera.page.inner_text("main")
    assert "Team research may call every model" in words and "research-models" in words
    assert vera.page.locator("main form[method=post]").count() == 0 and "Write Cedar" not in words
    for path in ("draft", "edit", "history", "ask", "what-if", "templates"):
        vera.go(f"{POLICIES}/{path}?tenant=acme")
        assert vera.page.title().startswith(("Not found", "Not allowed")), path
    devi = signed_in(browser, demo, "devi")
    ask(devi, "rosa")
    assert "✓ Allowed" in devi.page.inner_text("main") and "research-models" in devi.page.inner_text("main")
    devi.look(devi.page.url.removeprefix(devi.url), "policies-ask")
    assert vera.complaints == devi.complaints == []


def test_pages_serve_everybody(admin: Tab) -> None:
    admin.look(f"{POLICIES}?tenant=acme", "policies")
    admin.look(f"{POLICIES}/templates?tenant=acme", "policies-templates")
    admin.look(f"{POLICIES}/templates/team-may-use-models?tenant=acme&policy=research-models", "policies-template")
