"""Sources and aliases in the console, in a real browser on the demo."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, until

from .conftest import SHOTS, Tab

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


class _Rogue(http.server.BaseHTTPRequestHandler):
    """An engine whose models have names that no page may take for its own text."""

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": HOSTILE, "object": "model"}, {"id": "plain"}]}).encode()
        self.send_response(200 if self.path.endswith("/models") else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def rogue() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Rogue)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _describe(tab: Tab, name: str, url: str, kind: str = "llamacpp", key_file: str = "") -> None:
    page = tab.page
    page.select_option("[name=kind]", kind)
    page.fill("[name=url] >> nth=0", url)
    page.fill("[name=name] >> nth=0", name)
    if key_file:
        page.select_option("[name=secret] >> nth=0", "file")
        page.fill("[name=secret_at] >> nth=0", key_file)
    tab.press("[value=look]")


def _press(tab: Tab, button: str, reason: str) -> None:
    form = tab.page.locator("form", has=tab.page.locator(f"button[value={button}]"))
    form.locator("[name=reason]").fill(reason)
    form.locator(f"button[value={button}]").click()
    tab.page.wait_for_load_state()


def _said(tab: Tab) -> str:
    return tab.page.locator("main [role=status]").first.inner_text()


def test_a_source_is_registered_after_a_look_tested_drained_resumed_and_removed(admin: Tab, demo: Stack) -> None:
    page = admin.page
    spare = demo.admin("GET", "/sources/spare").json()
    admin.press("nav >> text=Sources")
    assert "spare" in page.inner_text("main") and "local" in page.inner_text("main")
    admin.press("text=Register a source")
    _describe(admin, "twin", spare["url"], key_file=spare["credential"]["file"])
    found = page.inner_text("section:has(#found)")
    assert "llama.cpp" in found and spare["offers"][0]["name"] in found
    assert demo.admin("GET", "/sources/twin").status == 404, "nothing is stored before it is confirmed"
    page.fill("[name=region]", "eu-north")
    page.select_option("[name=data_class_max]", "internal")
    page.uncheck("[name=granted_to][value='*']")
    admin.fits(1280)
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / "source-register-light.png", full_page=True)
    _press(admin, "store", "a second name for the spare engine")
    try:
        assert "registered" in _said(admin)
        twin = demo.admin("GET", "/sources/twin").json()
        assert (twin["labels"]["region"], twin["labels"]["data_class_max"]) == ("eu-north", "internal")
        assert twin["granted_to"] == [] and [m["name"] for m in twin["offers"]] == [m["name"] for m in spare["offers"]]
        admin.press("button[value=test]")
        assert "answers and offers" in _said(admin)
        assert "refuses those who do not have its credential" in page.inner_text("main")
        _press(admin, "drain", "a test")
        assert demo.admin("GET", "/sources/twin").json()["drained"] is True
        assert "drained" in page.inner_text(".tiles")
        _press(admin, "resume", "a test")
        assert demo.admin("GET", "/sources/twin").json()["drained"] is False
        admin.press("text=Labels and limits")
        page.fill("[name=concurrency]", "three")
        page.fill("[name=reason]", "fewer at a time")
        admin.press("text=Save")
        assert "whole number" in page.inner_text("[role=alert]") and page.input_value("[name=concurrency]") == "three"
        page.fill("[name=concurrency]", "3")
        admin.press("text=Save")
        changed = demo.admin("GET", "/sources/twin").json()
        assert changed["limits"]["concurrency"] == 3 and changed["credential"] == twin["credential"]
        history = page.inner_text("section:has(#history)")
        assert all(words in history for words in ("registered", "drained", "resumed", "fewer at a time"))
        _press(admin, "remove", "the test is over")
        assert "removed" in _said(admin) and demo.admin("GET", "/sources/twin").status == 404
    finally:
        demo.admin("DELETE", "/sources/twin")


def test_names_of_models_are_inert(admin: Tab, demo: Stack, rogue: str) -> None:
    page = admin.page
    admin.go("/console/sources/-/register")
    _describe(admin, "rogue", rogue, "openai")
    assert "plain" in page.inner_text("section:has(#found)")
    try:
        _press(admin, "store", "hostile names")
        for path in ("/console/sources", "/console/sources/rogue", "/console/aliases/-/-/new"):
            admin.go(path)
            assert page.title() != "owned" and page.locator("img[src=x]").count() == 0
    finally:
        assert demo.admin("DELETE", "/sources/rogue").status == 200


def test_a_source_that_does_not_answer_is_told_before_it_is_registered(admin: Tab, demo: Stack) -> None:
    admin.go("/console/sources/-/register")
    _describe(admin, "nowhere", "http://127.0.0.1:1")
    assert "refused the connection" in admin.page.inner_text("section:has(#found) [role=alert]")
    assert "Register all the same" in admin.page.inner_text("main")
    assert demo.admin("GET", "/sources/nowhere").status == 404


def test_an_alias_gets_targets_a_canary_a_shadow_and_an_end(admin: Tab, demo: Stack) -> None:
    page = admin.page
    model = demo.admin("GET", "/sources/spare").json()["offers"][0]["name"]
    admin.press("nav >> text=Aliases")
    assert "assistant" in page.inner_text("main")
    admin.press("text=New alias")
    page.fill("[name=name]", "house/writer")
    page.select_option("[name=tenant]", "acme")
    page.fill("[name=model_0]", model)
    page.fill("[name=reason]", "a name of our own")
    admin.press("text=Make it")
    path = "/tenants/acme/aliases/house/writer"
    try:
        assert "can be called" in _said(admin)
        admin.press("text=Change targets, mode and end")
        page.fill("[name=source_0]", "local")
        page.fill("[name=weight_0]", "3")
        page.fill("[name=model_1]", model)
        page.fill("[name=source_1]", "spare")
        page.fill("[name=sunset]", "2099-12-31")
        _press(admin, "save", "three to one")
        item = demo.admin("GET", path).json()
        assert [t["source"] for t in item["targets"]] == ["local", "spare"] and item["sunset"] == "2099-12-31"
        assert "75.0 %" in page.inner_text("section:has(#targets)")
        admin.press("text=Start a canary")
        page.fill("#f-canary-candidate", model)
        page.fill("#f-canary-share_percent", "2.5")
        _press(admin, "canary-start", "try it")
        assert demo.admin("GET", path).json()["canary"]["share_milli"] == 25
        assert "running" in page.inner_text("section:has(#canary)")
        admin.press("text=Start a shadow")
        page.fill("#f-shadow-candidate", model)
        page.fill("#f-shadow-share_percent", "not a number")
        _press(admin, "shadow-start", "compare it")
        assert "percent" in page.inner_text("[role=alert]")
        assert page.input_value("#f-shadow-share_percent") == "not a number"
        page.fill("#f-shadow-share_percent", "100")
        _press(admin, "shadow-start", "compare it")
        assert demo.admin("GET", path).json()["shadow"]["share_milli"] == 1000
        _press(admin, "canary-promote", "it is good")
        item = demo.admin("GET", path).json()
        assert item["canary"] is None and len(item["targets"]) == 1
        _press(admin, "shadow-stop", "seen enough")
        assert demo.admin("GET", path).json()["shadow"] is None
        admin.press("button >> text=Compare")
        assert "No call went through it" in page.inner_text("main")
        admin.press("details >> text=Remove >> nth=0")
        _press(admin, "remove", "the test is over")
        assert demo.admin("GET", path).status == 404
    finally:
        demo.admin("DELETE", path)


def test_an_alias_is_made_a_cascade_changed_and_ended(admin: Tab, demo: Stack) -> None:
    page = admin.page
    model = demo.admin("GET", "/sources/spare").json()["offers"][0]["name"]
    path = "/tenants/acme/aliases/house/stepped"
    made = {"name": "house/stepped", "targets": [{"model": model}]}
    assert demo.admin("POST", "/tenants/acme/aliases", made).status in (200, 201)
    try:
        admin.go("/console/aliases/acme/house/stepped")
        assert "None. A cascade asks a cheap model first" in page.inner_text("section:has(#cascade)")
        admin.press("text=Make it a cascade")
        page.fill("[name=step_model_0]", model)
        page.fill("[name=step_source_0]", "local")
        page.check("[name=check_json]")
        page.fill("[name=money_usd]", "0.02")
        _press(admin, "cascade-save", "cheap first")
        assert "2 to 8 steps" in page.inner_text("[role=alert]")
        assert page.input_value("[name=step_source_0]") == "local" and page.is_checked("[name=check_json]")
        page.fill("[name=step_model_1]", "large-model")
        page.fill("[name=time_ms]", "20000")
        admin.fits(1280)
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / "alias-cascade-light.png", full_page=True)
        _press(admin, "cascade-save", "cheap first")
        assert "step by step" in _said(admin)
        cascade = demo.admin("GET", path).json()["cascade"]
        assert cascade["steps"] == [{"model": model, "source": "local"}, {"model": "large-model"}]
        assert (cascade["checks"], cascade["money_nusd_max"], cascade["time_ms_max"]) == (
            ["json", "finish"], 20_000_000, 20_000,
        )  # fmt: skip
        shown = page.inner_text("section:has(#cascade)")
        assert f"{model} at local" in shown and "0.02 USD" in shown
        admin.press("text=Change the cascade")
        assert (
            page.input_value("[name=step_model_1]") == "large-model" and page.input_value("[name=money_usd]") == "0.02"
        )
        page.fill("[name=step_model_1]", "larger-model")
        page.uncheck("[name=check_finish]")
        page.fill("[name=money_usd]", "")
        _press(admin, "cascade-save", "another one")
        cascade = demo.admin("GET", path).json()["cascade"]
        assert cascade["steps"][1]["model"] == "larger-model" and cascade["checks"] == ["json"]
        assert cascade.get("money_nusd_max") is None and cascade["time_ms_max"] == 20_000
        admin.look("/console/aliases/acme/house/stepped", "")
        _press(admin, "cascade-end", "seen enough")
        assert "no more" in _said(admin) and demo.admin("GET", path).json()["cascade"] is None
    finally:
        demo.admin("DELETE", path)


def test_an_alias_gets_objectives_and_weights_by_keyboard(admin: Tab, demo: Stack) -> None:
    page = admin.page
    model = demo.admin("GET", "/sources/spare").json()["offers"][0]["name"]
    path, here = "/tenants/acme/aliases/house/prompt", "/console/aliases/acme/house/prompt"
    made = {"name": "house/prompt", "targets": [{"model": model}]}
    assert demo.admin("POST", "/tenants/acme/aliases", made).status in (200, 201)
    try:
        admin.go(here)
        assert "None. Its calls ask for" in page.inner_text("section:has(#objectives)")
        page.focus("summary >> text=Set objectives and weights")
        page.keyboard.press("Enter")
        for text in ("soon", "800", "0.0000000001"):
            page.keyboard.press("Tab")
            page.keyboard.type(text)
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        for text in ("", "0"):
            page.keyboard.press("Tab")
            page.keyboard.type(text)
        page.locator("#f-objectives-reason").fill("a promise")
        page.keyboard.press("Enter")
        page.wait_for_load_state()
        assert "3 fields are wrong" in page.inner_text("[role=alert]")
        wrong = page.locator("[aria-invalid=true]")
        assert [each.get_attribute("name") for each in wrong.all()] == ["slo_ttft_ms", "slo_cost_usd", "own_cost"]
        for each in wrong.all():
            told = (each.get_attribute("aria-describedby") or "").split()[0]
            assert page.locator(f"#{told}").is_visible(), "what is wrong stands at the field, and belongs to it"
        assert page.evaluate("document.activeElement.name") == "slo_ttft_ms", "one arrives at the first of them"
        assert page.input_value("[name=slo_latency_ms]") == "800" and page.is_checked("[name=slo_strict]")
        assert demo.admin("GET", path).json()["slo"] is None, "nothing was stored"
        admin.seen("alias-objectives-wrong")
        page.click("[role=alert] a >> nth=1")
        assert page.evaluate("document.activeElement.name") == "slo_cost_usd"
        page.fill("[name=slo_ttft_ms]", "300")
        page.fill("[name=slo_cost_usd]", "0,02")
        page.fill("[name=own_quality]", "6")
        page.fill("[name=own_latency]", "2")
        _press(admin, "objectives-save", "a promise")
        assert "Its calls ask for these objectives and are decided by its own weights." in _said(admin)
        alias = demo.admin("GET", path).json()
        assert alias["slo"] == {"ttft_ms": 300, "latency_ms": 800, "cost_usd": "0.02", "strict": True}
        assert alias["weights"] == {"quality": 6, "latency": 2}
        shown = page.inner_text("section:has(#objectives)")
        assert "a first byte within 300 ms, an end within 800 ms, at most 0.02 USD" in shown and "6 (75.0 %)" in shown
        page.click("summary >> text=Change objectives and weights")
        assert page.input_value("[name=slo_cost_usd]") == "0.02" and page.input_value("[name=own_energy]") == ""
        admin.seen("alias-objectives")
        for name in ("slo_ttft_ms", "slo_latency_ms", "slo_cost_usd"):
            page.fill(f"[name={name}]", "")
        page.uncheck("[name=slo_strict]")
        _press(admin, "objectives-save", "no promise any more")
        alias = demo.admin("GET", path).json()
        assert alias["slo"] is None and alias["weights"]["quality"] == 6 and alias["targets"] == [{"model": model}]
        changes = demo.admin("GET", "/tenants/acme/changes?limit=20").json()["items"]
        assert "no promise any more" in [each["reason"] for each in changes]
    finally:
        demo.admin("DELETE", path)


def test_what_is_wrong_with_a_new_alias_is_told_at_its_fields_and_mended_there(admin: Tab, demo: Stack) -> None:
    page = admin.page
    admin.go("/console/aliases/-/-/new")
    page.fill("[name=name]", "auto")
    page.select_option("[name=tenant]", "acme")
    page.fill("[name=model_0]", "no model")
    page.fill("[name=weight_0]", "many")
    page.fill("[name=source_1]", "spare")
    page.select_option("[name=mode]", "eco")
    page.fill("[name=max_tokens]", "a few")
    page.fill("[name=sunset]", "soon")
    page.fill("[name=reason]", "a test")
    admin.press("button >> text=Make it")
    assert "6 fields are wrong" in page.inner_text("[role=alert]")
    wrong = page.locator("[aria-invalid=true]")
    names = [each.get_attribute("name") for each in wrong.all()]
    assert names == ["name", "model_0", "weight_0", "model_1", "max_tokens", "sunset"]
    for each in wrong.all():
        told = (each.get_attribute("aria-describedby") or "").split()[0]
        assert page.locator(f"#{told}").is_visible(), "what is wrong stands at the field, and belongs to it"
    assert page.evaluate("document.activeElement.name") == "name", "one arrives at the first of them"
    assert page.input_value("[name=weight_0]") == "many" and page.input_value("[name=source_1]") == "spare"
    assert page.input_value("[name=mode]") == "eco", "what was typed is kept"
    admin.seen("alias-new-wrong")
    page.click("[role=alert] a >> nth=2")
    assert page.evaluate("document.activeElement.name") == "weight_0"
    for name, value in (("name", "house/mended"), ("model_0", "some-model"), ("weight_0", "2"), ("source_1", "")):
        page.fill(f"[name={name}]", value)
    page.fill("[name=max_tokens]", "40")
    page.fill("[name=sunset]", "")
    try:
        admin.press("button >> text=Make it")
        assert "can be called" in page.inner_text("main"), page.inner_text("main")
        page.click("summary >> text=Start a canary")
        page.fill("#f-canary-candidate", "other-model")
        page.fill("#f-canary-share_percent", "lots")
        page.fill("#f-canary-reason", "a test")
        admin.press("button[value=canary-start]")
        assert page.is_visible("#e-canary-share_percent"), "the form that was sent is open"
        assert page.locator("[aria-invalid=true]").count() == 1, "no other form of the page has what it said"
        alias = demo.admin("GET", "/tenants/acme/aliases/house/mended").json()
        assert (alias["mode"], alias["max_tokens"], alias["canary"]) == ("eco", 40, None)
    finally:
        demo.admin("DELETE", "/tenants/acme/aliases/house/mended")


def test_a_new_alias_may_have_objectives_at_once(admin: Tab, demo: Stack) -> None:
    page = admin.page
    admin.go("/console/aliases/-/-/new")
    page.fill("[name=name]", "house/hasty")
    page.select_option("[name=tenant]", "acme")
    page.click("summary >> text=Objectives and weights")
    page.check("[name=slo_strict]")
    page.fill("[name=reason]", "a test")
    admin.press("button >> text=Make it")
    assert page.is_visible("#e-objectives-slo_strict") and page.input_value("[name=name]") == "house/hasty"
    admin.seen("alias-new-objectives")
    page.fill("[name=slo_latency_ms]", "2000")
    page.fill("[name=model_0]", "some-model")
    try:
        admin.press("button >> text=Make it")
        assert "can be called" in page.inner_text("main"), page.inner_text("main")
        alias = demo.admin("GET", "/tenants/acme/aliases/house/hasty").json()
        assert (alias["slo"]["latency_ms"], alias["slo"]["strict"], alias["weights"]) == (2000, True, None)
    finally:
        demo.admin("DELETE", "/tenants/acme/aliases/house/hasty")


def test_who_may_not_write_sees_no_form_and_is_refused(tab: Tab, demo: Stack) -> None:
    role = {"principal": "rosa", "role": "admin"}
    assert demo.admin("POST", "/tenants/acme/roles", role).status in (200, 201)
    try:
        secret = "correct horse battery"
        assert demo.admin("POST", "/tenants/acme/principals/rosa/password", {"password": secret}).status == 200
        tab.go("/console/sources")
        tab.sign_in("acme/rosa", secret)
        words = tab.page.inner_text("main")
        assert "local" in words and "Register a source" not in words
        tab.go("/console/sources/local")
        words = tab.page.inner_text("main")
        assert "127.0.0.1" not in words and "Drain" not in words and "Labels and limits" not in words
        for path in ("/console/sources/-/register", "/console/sources/local/edit"):
            tab.go(path)
            assert "There is no" in tab.page.inner_text("main") or "there is no" in tab.page.inner_text("main")
        tab.go("/console/aliases/acme/assistant")
        token = tab.page.get_attribute("body", "data-csrf")
        form = {"csrf": token or "", "do": "drain", "reason": "a test"}
        refused = tab.page.request.post(
            f"{demo.control}/console/sources/local", form=form, headers={"origin": demo.control}
        )
        assert refused.status in (403, 404) and not demo.admin("GET", "/sources/local").json()["drained"]
    finally:
        assert demo.admin("DELETE", "/tenants/acme/roles/rosa:admin").status == 200


def test_the_ways_through_an_alias_are_compared_from_the_ledger(admin: Tab, demo: Stack) -> None:
    request = demo.chat(demo.key("acme", "rosa-laptop"), model="assistant").request_id
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").status == 200, 180, "the call")
    admin.go("/console/aliases/acme/assistant?compare=1")
    ways = admin.page.inner_text("section:has(#compare) table")
    assert "targets" in ways and "0.0 %" in ways


@pytest.mark.parametrize(
    ("path", "shot"),
    [
        ("/console/sources", "sources"),
        ("/console/sources/spare", "source"),
        ("/console/sources/-/register", ""),
        ("/console/sources/spare/edit", ""),
        ("/console/aliases", "aliases"),
        ("/console/aliases/acme/assistant", "alias"),
        ("/console/aliases/-/-/new", ""),
    ],
)
def test_pages_serve_everybody(path: str, shot: str, admin: Tab) -> None:
    admin.look(path, shot)
