"""Budgets and usage in a real browser, on the demo."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.stack import Stack, until

from .conftest import Tab, called

HOSTILE = "<img src=x onerror=\"document.title='owned'\">{{1000003*7}}"
LISTING = "/console/budgets?tenant=acme"


def gone(demo: Stack, name: str) -> None:
    demo.admin("DELETE", f"/tenants/acme/budgets/{quote(name, safe='')}")


def test_a_budget_is_set_watched_changed_and_deleted(admin: Tab, demo: Stack) -> None:
    page = admin.page
    try:
        admin.go(LISTING)
        admin.press("text=New budget")
        page.fill("#f-name", "trains")
        page.select_option("#f-kind", "team")
        page.fill("#f-on", "nobody at all")
        page.fill("#f-amount", "1000")
        page.select_option("#f-unit", "calls")
        page.fill("#f-reason", "the spring timetable")
        admin.press("text=Set budget")
        assert "nobody at all" in page.inner_text("[role=alert]")
        assert page.input_value("#f-amount") == "1000", "what was typed is kept"
        page.fill("#f-on", "research")
        admin.press("text=Set budget")
        assert "Budget trains is set" in page.inner_text("[role=status]")
        called(demo, "When does it leave?")
        there = "fetch(location.href).then(r => r.text()).then(t => /1 calls/.test(t) && !/No gateway holds/.test(t))"
        until(lambda: page.evaluate(there), 120, "the call, and a worker's lease, on the page")
        page.reload()
        admin.press("text=Change it")
        page.fill("form[aria-label=Change] [name=amount]", "2000")
        page.fill("form[aria-label=Change] [name=reason]", HOSTILE)
        admin.press("text=Change budget")
        words = page.inner_text("main")
        assert "2\u202f000 calls" in words and HOSTILE in words and page.title() != "owned"
        assert "1000 calls" in page.inner_text("del >> nth=0")
        admin.press("text=Delete it")
        page.fill("#d-reason", "over")
        admin.press("text=Delete budget")
        assert "Budget trains is deleted" in page.inner_text("[role=status]")
    finally:
        gone(demo, "trains")


def test_what_is_typed_is_inert_and_pages_serve_everybody(admin: Tab, demo: Stack) -> None:
    made = [
        {"name": "small-model", "model": "smollm2", "tokens": 200, "hard": False, "window": "day", "alerts": [10, 100]},
        {"name": "green", "team": "research", "joules": 3600000, "window": "week", "hard": False},
    ]
    try:
        for each in made:
            assert demo.admin("POST", "/tenants/acme/budgets", each).status == 201

        def used() -> bool:
            called(demo, "Is it far?")
            return any(each["used"] and each["alerts"] for each in demo.admin("GET", "/tenants/acme/budget-use").json())

        until(used, 180, "a budget to be used and told of")
        admin.go("/console/budgets/new?tenant=acme")
        for name in ("name", "on", "amount", "window", "alerts", "reason"):
            admin.page.fill(f"[name={name}]", HOSTILE)
        admin.press("text=Set budget")
        assert admin.page.locator("[role=alert]").count() == 1 and admin.page.input_value("#f-name") == HOSTILE
        assert admin.page.locator("img[src=x]").count() == 0 and admin.page.title() != "owned"
        admin.look(LISTING, "budgets")
        admin.look("/console/budgets/budget?tenant=acme&name=small-model", "budget")
        admin.look("/console/budgets/new?tenant=acme")
    finally:
        for each in made:
            gone(demo, str(each["name"]))


def test_usage_leads_to_its_calls_and_into_files(admin: Tab, demo: Stack) -> None:
    page = admin.page
    called(demo, "How heavy is a locomotive?")
    calls = 0

    def just_these() -> bool:
        nonlocal calls
        admin.go("/console/usage?tenant=acme&figure=calls")
        number = page.locator(".pivot tbody tr.whole", has_text="research").locator("td a").first
        calls = int(number.inner_text().replace("\u202f", ""))
        assert calls >= 1
        number.click()
        page.wait_for_load_state()
        assert page.input_value("[name=team]") == "research"
        return page.locator("tbody tr").count() == min(calls, 50)

    until(just_these, 180, "the search to show just the calls of the report, while no other call comes to the ledger")
    admin.go("/console/usage?tenant=acme")
    with page.expect_download() as download:
        admin.press("button:has-text('JSON')")
    report = json.loads(Path(download.value.path()).read_text())
    assert report["total"]["calls"] >= calls and report["total"]["sci"]["m_ug"] is None


def test_usage_is_told_by_alias_with_its_objectives(admin: Tab, demo: Stack) -> None:
    page = admin.page
    hour = {"slo": {"latency_ms": 3_600_000}}
    answer = demo.chat(demo.key("acme", "rosa-laptop"), "assistant", "How long is a train?", interlock=hour)
    assert answer.status == 200, answer.body
    shown = "/console/usage?tenant=acme&rows=alias&figure=objectives&by_alias=1"

    def told() -> bool:
        admin.go(shown)
        return page.locator(".pivot tbody tr.whole", has_text="assistant").count() == 1

    until(told, 180, "the call to be in the pivot")
    line = page.locator(".pivot tbody tr.whole", has_text="assistant").locator("td")
    assert "%" in line.first.inner_text() and line.locator("a").count() == 0
    assert page.is_checked("[name=by_alias]") and "Objectives met" in page.inner_text("main")
    with page.expect_download() as download:
        admin.press("button:has-text('CSV')")
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert int(next(row["slo_calls"] for row in rows if row["alias"] == "assistant")) >= 1
    admin.look(shown)
    assert page.locator(".report thead").inner_text().lower().count("objectives met") == 1
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.locator("[role=region][aria-label=Report]").evaluate(
            "table => table.scrollWidth - table.clientWidth"
        )
        assert wide == 0, f"nobody has to push the table aside, at {width}"


def test_usage_by_alias_leads_to_its_calls(admin: Tab, demo: Stack) -> None:
    page = admin.page
    for model in ("assistant", "smollm2"):
        called(demo, "Where does it stop?", model)

    def just_these(row: str, field: str, value: str) -> bool:
        """The number of a line of the pivot, and then that of the table, is how many calls it leads to."""
        told = []
        for number in (".pivot tbody tr.whole", ".report tbody tr"):
            admin.go("/console/usage?tenant=acme&figure=calls&rows=alias&by_alias=1")
            line = page.locator(number).filter(has=page.get_by_text(row, exact=True)).locator("td.num a").first
            calls = int(line.inner_text().replace("\u202f", ""))
            line.click()
            page.wait_for_load_state()
            assert page.input_value(f"[name={field}]") == value and page.input_value("[name=since]")
            told.append(page.locator("tbody tr").count() == min(calls, 50) and calls >= 1)
            row = row if row == "assistant" else "–"
        return all(told)

    until(lambda: just_these("assistant", "alias", "assistant"), 180, "the calls of the alias, and no others")
    assert {*page.locator("tbody td .hint-line").all_inner_texts()} == {"by assistant"}
    until(lambda: just_these("no alias", "without", "alias"), 180, "the calls that went through none")
    assert "by assistant" not in page.inner_text("main")
    admin.go("/console/calls?tenant=globex&alias=assistant")
    assert page.locator("tbody tr").count() == 0, "another tenant's calls are not behind it"
    admin.look("/console/calls?tenant=acme&alias=assistant")


def test_what_the_ledger_is_searched_by_is_inert(admin: Tab, demo: Stack) -> None:
    page = admin.page
    called(demo, "Is it late?", "assistant")
    for name in ("alias", "class", "cost_center"):
        admin.go(f"/console/calls?tenant=acme&{name}={quote(HOSTILE)}")
        assert page.input_value(f"[name={name}]") == HOSTILE and page.locator("tbody tr").count() == 0
        assert page.locator("img[src=x]").count() == 0 and page.title() != "owned"
        for value in ("x" * 600, "a\x00b", "\u202ea"):
            answer = page.request.get(f"{demo.control}/console/calls?tenant=acme&{name}={quote(value)}")
            assert answer.status == 400 and f"{name} is a filter of at most" in answer.text()
    answer = page.request.get(f"{demo.control}/console/calls?tenant=acme&without={quote(HOSTILE)}")
    assert answer.status == 400 and "<img" not in answer.text().split("<main")[-1]


@pytest.mark.parametrize("shot", ["usage"])
def test_the_usage_page_serves_everybody(shot: str, admin: Tab) -> None:
    admin.look("/console/usage?tenant=acme", shot)


def test_a_tenants_viewer_sees_its_budgets_and_changes_none(tab: Tab, demo: Stack) -> None:
    principal = {"name": "vera", "kind": "user"}
    assert demo.admin("POST", "/tenants/acme/principals", principal).status == 201
    try:
        assert demo.admin("POST", "/tenants/acme/roles", {"principal": "vera", "role": "viewer"}).status == 201
        secret = {"password": "a viewer's long password"}
        assert demo.admin("POST", "/tenants/acme/principals/vera/password", secret).status == 200
        assert (
            demo.admin("POST", "/tenants/acme/budgets", {"name": "seen", "calls": 10, "team": "research"}).status == 201
        )
        tab.go("/")
        tab.sign_in("acme/vera", secret["password"])
        tab.press("nav >> text=Budgets")
        assert "seen" in tab.page.inner_text("main") and "New budget" not in tab.page.inner_text("main")
        assert tab.page.locator("nav >> text=Usage").count() == 0
        tab.go("/console/budgets/budget?tenant=acme&name=seen")
        assert tab.page.locator("form[aria-label=Change]").count() == 0
        assert tab.page.locator("#history").count() == 0, "the list of changes is the auditor's"
        for path in ("/console/budgets/new?tenant=acme", "/console/budgets?tenant=globex", "/console/usage"):
            answer = tab.page.request.get(demo.control + path)
            assert answer.status in (403, 404), path
    finally:
        gone(demo, "seen")
        assert demo.admin("DELETE", "/tenants/acme/principals/vera").status == 200
