"""Alerts in a real browser, on the demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, until

from .conftest import Tab, called
from .people import PASSWORD, person

HOSTILE = "<img src=x onerror=\"document.title='owned'\">{{1000003*7}}"
ACME = "/console/alerts?tenant=acme"
FIRES_S = 120
"""Rules are evaluated every 15 seconds."""


@pytest.fixture
def budget(demo: Stack) -> Iterator[str]:
    """A budget that one call uses up, and stays used up at midnight, and no rule or channel of acme left over."""
    made = {"name": "trial", "team": "research", "calls": 1, "hard": False, "window": "year"}
    assert demo.admin("POST", "/tenants/acme/budgets", made).status == 201
    yield "trial"
    found: dict[str, Any] = demo.admin("GET", "/alerts?tenant=acme").json()
    for each in found["rules"]:
        demo.admin("DELETE", f"/alerts/rules/{each['name']}?tenant=acme")
    for each in found["channels"]:
        demo.admin("DELETE", f"/alerts/channels/{each['name']}?tenant=acme")
    demo.admin("DELETE", "/tenants/acme/budgets/trial")


def fires(demo: Stack, rule: str) -> bool:
    things = demo.admin("GET", f"/alerts/rules/{rule}?tenant=acme").json()["things"]
    return any(each["status"] == "firing" for each in things)


def counted(admin: Tab) -> bool:
    """Whether the navigation, whose number is some seconds old, says that an alert fires."""
    admin.go(ACME)
    return admin.page.locator("nav a[href='/console/alerts'] .badge", has_text=re.compile("[1-9]")).count() == 1


def test_a_rule_is_set_fires_leads_to_its_evidence_is_silenced_and_deleted(
    admin: Tab, demo: Stack, budget: str
) -> None:
    page = admin.page
    admin.go(ACME)
    assert "There is no rule" in page.inner_text("main") and "Nobody is told" in page.inner_text("main")
    admin.press("text=Set the first one")
    page.select_option("#f-kind", "budget_used")
    admin.press("text=Go on")
    page.fill("#f-name", "trial-budget")
    page.fill("#f-threshold", "ninety")
    page.fill("#f-for_s", "0")
    page.fill("#f-budget", budget)
    page.fill("#f-n-reason", HOSTILE)
    admin.press("text=Set rule")
    assert "a percentage such as" in page.inner_text("[role=alert]") and page.title() != "owned"
    assert page.input_value("#f-name") == "trial-budget", "what was typed is kept"
    page.fill("#f-threshold", "90")
    page.select_option("#f-severity", "critical")
    admin.press("text=Set rule")
    assert "Rule trial-budget is set" in page.inner_text("[role=status]")
    assert "at 90 % or above" in page.inner_text("main")
    called(demo, "When does it leave?")
    until(lambda: fires(demo, "trial-budget"), FIRES_S, "the rule to fire")
    until(lambda: counted(admin), 180, "the navigation to count it")
    row = page.locator("section[aria-labelledby=firing] tbody tr")
    assert row.count() == 1 and "trial-budget" in row.inner_text() and "90 %" in row.inner_text()
    assert "critical" in row.inner_text() and "ago" in row.inner_text()
    admin.go("/console/alerts?tenant=platform")
    assert "acme 1" in page.inner_text("form[aria-label=Tenant]")
    admin.press("form[aria-label=Tenant] >> text=acme 1")
    row.locator("text=look").click()
    page.wait_for_load_state()
    assert "Budget trial" in page.inner_text("h1")
    admin.go("/console/alerts/rule?tenant=acme&name=trial-budget")
    page.fill("form[aria-label=Silence] [name=reason]", "a trial")
    admin.press("text=Tell nobody until then")
    assert "Nobody is told of trial-budget until" in page.inner_text("[role=status]")
    assert "a trial" in page.inner_text("main")
    admin.look("/console/alerts/rule?tenant=acme&name=trial-budget", "alert-rule")
    page.fill("form[aria-label=Silence] [name=reason]", "it is over")
    admin.press("text=End the silence")
    admin.press("text=Change it")
    page.fill("form[aria-label=Change] [name=threshold]", "95.5")
    page.fill("form[aria-label=Change] [name=reason]", "closer")
    admin.press("text=Change rule")
    assert "at 95.5 % or above" in page.inner_text("main")
    admin.press("text=Delete it")
    page.fill("form[aria-label=Delete] [name=reason]", "over")
    admin.press("text=Delete rule")
    assert "Rule trial-budget is deleted" in page.inner_text("[role=status]")
    assert "its rule was removed" in page.inner_text("section[aria-labelledby=history]")


def test_channels_are_made_and_tried_and_lead_nowhere_private(admin: Tab, demo: Stack, budget: str) -> None:
    page = admin.page
    tenant: str = demo.admin("GET", "/tenants/acme").json()["id"]
    folder = Path(demo.home, "credentials", tenant)
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "hook"
    secret.touch(0o600)
    secret.write_text("a signing secret of more than 24 bytes")
    admin.go(ACME)
    admin.press("text=Add a webhook")
    page.fill("#f-name", "on-call")
    page.fill("#f-url", "http://169.254.169.254/latest/meta-data")
    page.fill("#f-secret_file", str(folder / "hook"))
    page.fill("#f-reason", "somebody has to know")
    admin.press("text=Set channel")
    assert "https" in page.inner_text("[role=alert]")
    page.fill("#f-url", "https://127.0.0.1:1/hook")
    admin.press("text=Set channel")
    assert "Channel on-call is set" in page.inner_text("[role=status]")
    assert "a signing secret" not in page.content()
    page.fill("[aria-labelledby=channels] [name=reason]", "does it arrive?")
    admin.press("text=Send a test")
    assert "private address" in page.inner_text("[role=alert]")
    admin.go("/console/alerts/channel?tenant=acme&kind=email")
    page.fill("#f-name", "post")
    page.fill("#f-addresses", "ops@example.com, sec@example.com")
    page.fill("#f-reason", "and by e-mail")
    admin.press("text=Set channel")
    words = page.inner_text("section[aria-labelledby=channels]")
    assert "ops@example.com, sec@example.com" in words
    assert "https://127.0.0.1:1/…" in words and "127.0.0.1:1/hook" not in words, "its path is a secret"
    assert "failed" in page.inner_text("section[aria-labelledby=history]")
    admin.go("/console/alerts/channel?tenant=acme&name=on-call")
    assert page.input_value("#f-url") == "https://127.0.0.1:1/…"
    admin.look("/console/alerts/channel?tenant=acme&name=on-call")


def test_the_pages_serve_everybody(admin: Tab, demo: Stack, budget: str) -> None:
    rules = {
        "trial-budget": {"kind": "budget_used", "threshold": 900, "for_s": 0, "severity": "critical"},
        "research-fails": {"kind": "call_failures", "threshold": 50, "count_min": 20, "scope": {"team": "research"}},
        "denials-jump": {
            "kind": "denials",
            "threshold": 5000,
            "count_min": 10,
            "severity": "info",
            "channels": ["post"],
        },
    }
    channel = {"kind": "email", "addresses": ["ops@example.com"]}
    assert demo.admin("PUT", "/alerts/channels/post?tenant=acme", channel).status == 200
    for name, body in rules.items():
        assert demo.admin("PUT", f"/alerts/rules/{name}?tenant=acme", body).status == 200
    called(demo, "How long is the platform?")
    until(lambda: fires(demo, "trial-budget"), FIRES_S, "the rule to fire")
    admin.look(ACME, "alerts")
    admin.look("/console/alerts?tenant=platform", "alerts-platform")
    admin.look("/console/alerts/new?tenant=acme&kind=call_failures")
    admin.look("/console/alerts/channel?tenant=acme&kind=email")


def test_what_one_may_not_do_is_not_shown_and_refused(tab: Tab, demo: Stack, budget: str) -> None:
    body = {"kind": "budget_used", "threshold": 900}
    assert demo.admin("PUT", "/alerts/rules/seen?tenant=acme", body).status == 200
    with person(demo, "alba", "auditor") as name:
        tab.go("/")
        tab.sign_in(name, PASSWORD)
        tab.press("nav >> text=Alerts")
        words = tab.page.inner_text("main")
        assert "seen" in words and "New rule" not in words and "New channel" not in words
        tab.go("/console/alerts/rule?tenant=acme&name=seen")
        assert tab.page.locator("main form").count() == 0
        for path, status in (
            ("/console/alerts/new?tenant=acme", 403),
            ("/console/alerts/channel?tenant=acme", 403),
            ("/console/alerts?tenant=globex", 404),
            ("/console/alerts?tenant=platform", 404),
        ):
            assert tab.page.request.get(demo.control + path).status == status, path
        csrf = tab.page.get_attribute("body", "data-csrf")
        form = {"csrf": csrf or "", "tenant": "acme", "name": "seen", "do": "delete", "reason": "x"}
        headers = {"origin": demo.control}
        for path in ("rule", "channel"):
            answer = tab.page.request.post(f"{demo.control}/console/alerts/{path}", form=form, headers=headers)
            assert answer.status == 403, path
    assert demo.admin("GET", "/alerts/rules/seen?tenant=acme").status == 200


def test_who_may_not_read_alerts_is_not_shown_them(tab: Tab, demo: Stack) -> None:
    with person(demo, "delia", "developer") as name:
        tab.go("/")
        tab.sign_in(name, PASSWORD)
        tab.go("/console/budgets")
        assert tab.page.locator("nav >> text=Alerts").count() == 0
        assert tab.page.request.get(demo.control + ACME).status == 404


def test_the_commands_do_what_the_page_does(demo: Stack, budget: str) -> None:
    whose = ("--tenant", "acme")
    demo.ok("alert", "channel", "set", "post", *whose, "--address", "ops@example.com")
    made = demo.ok("alert", "rule", "set", "r", *whose, "--kind", "budget_used", "--threshold", "12.5%", "--for", "2m",
                   "--budget", budget, "--severity", "critical", "--channel", "post")  # fmt: skip
    assert (made["threshold"], made["for_s"], made["scope"], made["channels"]) == (
        125,
        120,
        {"budget": budget},
        ["post"],
    )
    silent = demo.ok("alert", "silence", "r", *whose, "--for", "4h", "--reason", "a load test")
    assert silent["silenced_until"] and silent["silence_reason"] == "a load test"
    listed = demo.run("alert", "list", *whose).out
    assert "budget_used" in listed and "12.5 %" in listed and "silenced" in listed and "ops@example.com" in listed
    assert demo.ok("alert", "silence", "r", *whose, "--end")["silenced_until"] is None
    assert "at 12.5 % or above for 120 s" in demo.run("alert", "show", "r", *whose).out
    for bad in (("--threshold", "12.55%"), ("--threshold", "12"), ("--for", "soon")):
        given = {"--kind": "budget_used", "--threshold": "9%", **dict([bad])}
        assert demo.run("alert", "rule", "set", "r", *whose, *(x for pair in given.items() for x in pair)).code == 1
    tried = demo.run("alert", "test", "post", *whose)
    assert tried.code == 1 and "no mail server is set" in tried.err
    assert demo.run("alert", "channel", "delete", "post", *whose).code == 1, "a rule names it"
    demo.ok("alert", "rule", "delete", "r", *whose)
    demo.ok("alert", "channel", "delete", "post", *whose)
