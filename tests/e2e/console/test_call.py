"""The page of one call: what happened when, the decision's table, related calls, the proof as a file."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, command, fetch, until

from .conftest import Tab, called


def test_a_call_is_told_with_its_stages_its_decision_and_its_proof(admin: Tab, demo: Stack, tmp_path: Path) -> None:
    key = demo.key("acme", "rosa-laptop")
    request = demo.chat(key, text="What is a level crossing?", stream=True).request_id
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").json().get("proofs"), 180, "its proof")
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
        until(lambda r=request: demo.admin("GET", f"/tenants/acme/ledger/calls/{r}").status == 200, 180, "it")
    other = called(demo, "Of no document.")
    page = admin.page
    admin.go(f"/console/calls/acme/{first}")
    assert "chunk 1 of 2" in page.inner_text("main")
    assert "contract-7" not in page.content()
    page.click("text=Calls of the same document")
    page.wait_for_load_state()
    assert page.locator(f"a[href$='{second.request_id}']").count() == 1
    assert page.locator(f"a[href$='{other}']").count() == 0


class _Quoting(http.server.BaseHTTPRequestHandler):
    """An engine that fails, and says in its error what it was asked."""

    def do_GET(self) -> None:
        self._say(200 if self.path.endswith("/models") else 404, {"object": "list", "data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        self._say(400, {"error": {"message": f"cannot answer {asked}", "type": "invalid_request_error"}})

    def _say(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def parrot(demo: Stack) -> Iterator[str]:
    """The model of a source that quotes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quoting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    source = {"name": "parrot", "kind": "openai", "url": url, "granted_to": ["*"], "labels": {"region": "eu-central"}}
    assert demo.admin("POST", "/sources", source).status == 201
    try:
        yield "parrot::parrot"
    finally:
        assert demo.admin("DELETE", "/sources/parrot").status == 200
        server.shutdown()
        server.server_close()


def test_what_a_source_said_of_a_failed_call_takes_the_second_grant(admin: Tab, demo: Stack, parrot: str) -> None:
    key, page = demo.key("acme", "rosa-laptop"), admin.page
    demo.answers(400, key, parrot, "the gateway to know the source")
    request = demo.chat(key, model=parrot, text="open sesame").request_id
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").status == 200, 180, "the call")
    grant = {"principal": "admin", "role": "payload_reader"}
    admin.go(f"/console/calls/acme/{request}")
    assert page.locator("table.waterfall rect.bar-failed").count() == 1
    assert "sesame" not in page.content()
    assert demo.admin("POST", "/roles", grant).status in (200, 201)
    try:
        admin.go(f"/console/calls/acme/{request}")
        assert "sesame" not in page.content()
        page.fill("#reason", "why it failed")
        page.click("#said >> xpath=ancestor::section >> text=Show")
        page.wait_for_load_state()
        assert "cannot answer" in page.inner_text("section:has(#said)")
    finally:
        assert demo.admin("DELETE", "/roles/admin:payload_reader").status == 200


def test_entries_that_are_no_calls_have_pages_too(admin: Tab, demo: Stack) -> None:
    refused = demo.chat(demo.key("acme", "felix-laptop"), model="spare::smollm2")
    assert refused.status == 403
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{refused.request_id}").status == 200, 180, "it")
    admin.go(f"/console/calls/acme/{refused.request_id}")
    words = admin.page.inner_text("main")
    assert "refused" in words and "What happened when" not in words
    admin.go("/console/calls?tenant=acme&kind=change")
    admin.page.click("table a >> nth=0")
    admin.page.wait_for_load_state()
    assert "Proof" in admin.page.inner_text("main") and "Why there" not in admin.page.inner_text("main")
