"""The live page in a browser: calls appear by themselves, figures move, a pause holds, a lost stream comes back."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as NotSeen

from tests.e2e.stack import Stack, until

from .conftest import SHOTS, Tab, called

HOSTILE = "<img src=x onerror=\"document.title='owned'\">{{1000003*7}}"
PASSWORD = "correct horse battery"

RECORDED = """
(() => {
  const link = document.querySelector("tr[data-key^='run/'] a");
  if (link) return {title: link.title, href: link.getAttribute("href"), line: link.closest("tr").innerText};
  return document.querySelector("tr[data-key^='run/']") ? null : {title: "", href: "", line: ""};
})()
"""
"""The line of a call that ran and has its record, read at one moment: it goes ten seconds after its end, and a line
beside it may be of a call that still runs. Without a title when no line is left; null while there are such only."""


def row(page: Page, request: str) -> str:
    """The selector of a call's line."""
    return f"a[href='/console/calls/acme/{request}']"


def shows(page: Page, what: str) -> None:
    """Wait until an expression is true in the page. Its policy forbids what would wait inside it."""
    until(lambda: page.evaluate(what), 120, what)


def test_a_call_appears_without_reload_and_leads_to_its_evidence(admin: Tab, demo: Stack) -> None:
    page = admin.page
    assert page.url == f"{demo.control}/console/", "Live is where one arrives"
    page.wait_for_selector("#live-state[data-state=live]")
    page.evaluate("window.stayed = true")
    request = called(demo, "What is a signal box?")
    page.wait_for_selector(row(page, request), timeout=180_000)
    assert page.evaluate("window.stayed"), "the page was not loaded again"
    line = page.inner_text(f"tr[data-key='{request}']")
    assert "completed" in line and "rosa" in line and "research" in line and "chosen: balanced" in line
    shows(page, "Number(document.querySelector('.live-tiles')?.innerText.match(/(\\d+) calls in/)?.[1]) > 0")
    shows(page, "[...document.querySelectorAll('.live-chart canvas')].length === 3")
    shows(page, "document.querySelector('tr[data-key=local]')?.innerText.includes('healthy')")
    admin.press(row(page, request))
    assert request in page.inner_text("h1") and "was chosen" in page.inner_text("main")


@contextmanager
def long_calls(demo: Stack, count: int, tokens: int = 300) -> Iterator[None]:
    """Calls of rosa's that take a while, until the end of the context."""
    key = demo.key("acme", "rosa-laptop")
    callers = [
        threading.Thread(
            target=demo.chat, args=(key,), kwargs={"text": f"Tell a story, {n}.", "stream": True, "max_tokens": tokens}
        )
        for n in range(count)
    ]
    for each in callers:
        each.start()
    try:
        yield
    finally:
        for each in callers:
            each.join()


def test_a_running_call_is_shown_until_it_leads_to_its_record(admin: Tab, demo: Stack) -> None:
    page = admin.page
    admin.go("/console/?tenant=acme")
    page.wait_for_selector("#live-state[data-state=live]")
    line, ended = "", {"title": ""}
    for _ in range(12):  # until its node knows that somebody watches, and the record comes while the line is there
        with long_calls(demo, 1), suppress(NotSeen):
            shown = page.wait_for_selector("tr[data-key^='run/']", timeout=10_000)
            line = shown.inner_text() if shown is not None else ""
        ended = until(lambda: page.evaluate(RECORDED), 120, "calls that ran to have their records, or to be gone")
        if line and ended["title"]:
            break
    assert "rosa" in line and "research" in line and "chosen: balanced" in line
    assert ended["title"].startswith("req_") and "completed" in ended["line"]
    admin.go(ended["href"])
    assert ended["title"] in page.inner_text("h1") and "was chosen" in page.inner_text("main")
    admin.go("/console/?tenant=acme")
    admin.press("nav[aria-label='Order of running calls'] a >> nth=1")
    assert "order=longest" in page.url and "longest" in page.inner_text("[aria-current=true] >> nth=0")


def test_numbers_lead_to_their_records(admin: Tab, demo: Stack) -> None:
    page = admin.page
    called(demo, "And a point?", "local::smollm2")
    refused = demo.chat(demo.key("acme", "rosa-laptop"), model="no-such-model")
    assert refused.status == 404
    admin.go("/console/?tenant=acme&by=team")
    page.wait_for_selector("tr[data-key='acme/research']")
    assert "globex" not in page.inner_text("#live")
    admin.press("tr[data-key='acme/research'] a >> nth=0")
    assert "team=research" in page.url and "rosa" in page.inner_text("table")
    admin.go("/console/?by=source")
    page.wait_for_selector("tr[data-key='/local']")
    admin.press("tr[data-key='/local'] a")
    assert "Only source local" in page.inner_text("main") and "by model" not in page.inner_text("main")
    admin.press("tr[data-key='acme/acme'] a")
    assert "source=local" in page.url and "tenant=acme" in page.url


def test_a_pause_holds_and_a_lost_stream_comes_back(admin: Tab, demo: Stack) -> None:
    page = admin.page
    page.wait_for_selector("#live-state[data-state=live]")
    admin.press("#live-pause")
    request = called(demo, "Hold that train")
    page.wait_for_timeout(2500)
    assert page.locator(row(page, request)).count() == 0 and "paused" in page.inner_text("#live-state")
    admin.press("#live-pause")
    page.wait_for_selector(row(page, request), timeout=180_000)
    page.focus("#live nav[aria-label='Figures by'] a >> nth=1")
    page.context.set_offline(True)
    page.wait_for_timeout(100)
    page.evaluate("0")  # an open stream outlives this; a new page's does not begin
    page.context.set_offline(False)
    request = called(demo, "On it goes")
    page.wait_for_selector(row(page, request), timeout=180_000)
    assert page.evaluate("document.activeElement.textContent") == "by model", "the focus stays where it was"
    page.route("**/live/stream*", lambda route: route.fulfill(status=503, body="full"))
    page.reload()
    page.wait_for_selector("#live-state[data-state=lost]")
    assert "trying again" in page.inner_text("#live-state")
    page.unroute("**/live/stream*")
    page.wait_for_selector("#live-state[data-state=live]", timeout=180_000)
    own = ("503", "ERR_INTERNET_DISCONNECTED")  # what this test does to the page
    admin.complaints[:] = [each for each in admin.complaints if not any(words in each for words in own)]


def test_names_and_answers_are_inert(admin: Tab, demo: Stack) -> None:
    page = admin.page
    page.wait_for_selector("#live-state[data-state=live]")
    called(demo, HOSTILE)
    admin.go(f"/console/?tenant=acme&source={HOSTILE.replace('#', '')}")
    page.wait_for_selector("#live-state[data-state=live]")
    assert HOSTILE in page.inner_text(".live-only")
    assert page.title() != "owned" and page.locator("img[src=x]").count() == 0


@pytest.fixture
def visitor(demo: Stack) -> Iterator[str]:
    """A viewer of acme; its name to sign in with."""
    assert demo.admin("POST", "/tenants/acme/principals", {"name": "vera", "kind": "user"}).status in (200, 201)
    grant = {"principal": "vera", "role": "viewer"}
    assert demo.admin("POST", "/tenants/acme/roles", grant).status in (200, 201)
    path = "/tenants/acme/principals/vera"
    assert demo.admin("POST", f"{path}/password", {"password": PASSWORD}).status in (200, 201)
    yield "acme/vera"
    assert demo.admin("DELETE", "/tenants/acme/roles/vera:viewer").status == 200
    assert demo.admin("DELETE", path).status == 200


def test_whoever_may_not_see_it_lands_on_health(tab: Tab, visitor: str) -> None:
    tab.go("/")
    tab.sign_in(visitor, PASSWORD)
    assert tab.page.url.endswith("/console/health")
    assert "Live" not in tab.page.inner_text("nav")


@contextmanager
def traffic(demo: Stack) -> Iterator[None]:
    """People of two tenants call, some in vain."""
    ended = threading.Event()

    def calls(tenant: str, label: str, pause_s: float) -> None:
        key, number = demo.key(tenant, label), 0
        while not ended.wait(pause_s):
            number += 1
            demo.chat(key, text=f"Signal {number}?", stream=number % 3 != 0, max_tokens=4 + number % 9)
            if number % 7 == 0:
                demo.chat(key, model="spare::smollm2")
            if number % 11 == 0:
                demo.chat(key, model="no-such-model")

    who = (("acme", "rosa-laptop", 0.3), ("acme", "felix-laptop", 1.1), ("globex", "gina-desk", 0.7))
    callers = [threading.Thread(target=calls, args=each) for each in who]
    for each in callers:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in callers:
            each.join()


@contextmanager
def priced(demo: Stack) -> Iterator[None]:
    """For the pictures: both sources have a price and an estimate of what they take."""
    before = {"sources": demo.admin("GET", "/export").json()["sources"]}
    power = {"output_uj_per_token": 900_000, "input_uj_per_token": 40_000, "low_percent": 80, "high_percent": 130}
    price = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}
    after = {"sources": [source | {"power": power, "price": price} for source in before["sources"]]}

    def apply(document: object) -> None:
        files = {"files": [{"name": "sources.json", "text": json.dumps(document)}]}
        assert demo.admin("POST", "/apply", files).status == 200

    apply(after)
    try:
        yield
    finally:
        apply(before)


def test_it_serves_everybody(admin: Tab, demo: Stack) -> None:
    with priced(demo) if SHOTS else nullcontext(), traffic(demo):
        if SHOTS:
            admin.page.wait_for_timeout(25_000)  # so that there is something to see
        with long_calls(demo, 3, 350) if SHOTS else nullcontext():
            admin.page.wait_for_timeout(3_000 if SHOTS else 0)
            admin.look("/console/", "live")
        admin.look("/console/?tenant=acme&by=team")
        admin.look("/console/health", "health")


def test_shares_of_objectives_are_shown_where_calls_had_any(admin: Tab, demo: Stack) -> None:
    page, key = admin.page, demo.key("acme", "rosa-laptop")
    for latency_ms in (600_000, 600_000, 1):  # two that are met, one that is missed
        assert demo.chat(key, interlock={"slo": {"ttft_ms": 600_000, "latency_ms": latency_ms}}).status == 200
    admin.go("/console/?tenant=acme&by=model")
    shows(page, r"/of [^0-2] calls with any; first byte \d+/.test(document.querySelector('.live-tiles').innerText)")
    share = re.compile(r"\b\d\d(\.\d)?\s%\sof [3-9]\b")
    assert share.search(page.inner_text("[aria-label='Figures by model']"))
    admin.look("/console/?tenant=acme&by=model")
    admin.look("/console/usage?tenant=acme&by_team=1&by_model=1&by_day=1")
    table = page.inner_text("section:has(#report) table")
    assert "objectives met" in table.lower() and share.search(table)
    assert "calls that had any" in page.inner_text(".tiles >> nth=0")


def test_the_command_line_shows_the_same(demo: Stack) -> None:
    request = called(demo, "Once more")
    until(lambda: request in str(demo.ok("live", "--tenant", "acme")["calls"]), 180, "the call to be in the live view")
    shown = demo.run("live", "--once")
    assert shown.code == 0 and "local" in shown.out and "all tenants" in shown.out
