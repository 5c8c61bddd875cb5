"""The page of one call: what happened when, the decision's table, related calls, the proof as a file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.stack import Stack, command, fetch, until

from .conftest import Tab, called


def test_a_call_is_told_with_its_stages_its_decision_and_its_proof(admin: Tab, demo: Stack, tmp_path: Path) -> None:
    key = demo.key("acme", "rosa-laptop")
    request = demo.chat(key, text="What is a level crossing?", stream=True).request_id
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").json().get("proofs"), 30, "its proof")
    page = admin.page
    path = f"/console/calls/acme/{request}"
    admin.look(path, "call")
    stages = page.inner_text("table.waterfall")
    assert "Checked and decided" in stages and "until the first byte" in stages and "completed" in stages
    assert page.locator("table.waterfall rect.bar-answer").count() == 1
    candidates = page.inner_text("section:has(#why)")
    assert "::" in candidates and "Score" in candidates.title() and "research-models" in candidates
    with page.expect_download() as download:
        page.click("text=Download the proof")
    file = tmp_path / "proof.json"
    file.write_bytes(Path(download.value.path()).read_bytes())
    assert json.loads(file.read_text())["request"] == request and "level crossing" not in file.read_text()
    keys = demo.admin("GET", "/tenants/acme/ledger/checkpoint").json()["keys"]
    assert command("ledger", "check", str(file), "--key", keys[0]).code == 0
    broken = tmp_path / "broken.json"
    broken.write_text(file.read_text().replace('"completed"', '"failed"'))
    assert command("ledger", "check", str(broken), "--key", keys[0]).code == 3
    page.click("text=Calls of rosa")
    page.wait_for_load_state()
    assert page.input_value("[name=principal]") == "rosa" and page.locator(f"a[href$='{request}']").count() == 1


def test_calls_of_a_document_are_found_from_one_of_them_without_its_name(admin: Tab, demo: Stack) -> None:
    key = demo.key("acme", "rosa-laptop")
    headers = {"x-interlock-document": "contract-7.pdf", "x-interlock-chunk": "1", "x-interlock-chunks": "2"}
    body = {"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": "Sum up."}]}
    first = fetch(demo.gateway, "/v1/chat/completions", key, body, headers=headers).request_id
    second = fetch(demo.gateway, "/v1/chat/completions", key, body, headers={**headers, "x-interlock-chunk": "2"})
    for request in (first, second.request_id):
        until(lambda r=request: demo.admin("GET", f"/tenants/acme/ledger/calls/{r}").status == 200, 30, "it")
    other = called(demo, "Of no document.")
    page = admin.page
    admin.go(f"/console/calls/acme/{first}")
    assert "chunk 1 of 2" in page.inner_text("main")
    assert "contract-7" not in page.content()
    page.click("text=Calls of the same document")
    page.wait_for_load_state()
    assert page.locator(f"a[href$='{second.request_id}']").count() == 1
    assert page.locator(f"a[href$='{other}']").count() == 0


def test_entries_that_are_no_calls_have_pages_too(admin: Tab, demo: Stack) -> None:
    refused = demo.chat(demo.key("acme", "felix-laptop"), model="spare::smollm2")
    assert refused.status == 403
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{refused.request_id}").status == 200, 30, "it")
    admin.go(f"/console/calls/acme/{refused.request_id}")
    words = admin.page.inner_text("main")
    assert "refused" in words and "What happened when" not in words
    admin.go("/console/calls?tenant=acme&kind=change")
    admin.page.click("table a >> nth=0")
    admin.page.wait_for_load_state()
    assert "Proof" in admin.page.inner_text("main") and "Why there" not in admin.page.inner_text("main")
