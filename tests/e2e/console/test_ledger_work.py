"""What is done to a ledger in the browser: proved, exported, held, erased, searched by document; and by whom not."""

from __future__ import annotations

import datetime
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.e2e.stack import Stack, command, fetch, until

from .conftest import Tab, called
from .people import PASSWORD, person

PROOF = "/console/calls/proof?tenant=acme"
KEEPING = "/console/calls/keeping?tenant=acme"


@pytest.fixture(scope="module")
def anton(demo: Stack) -> Iterator[str]:
    """An auditor with the second grant."""
    with person(demo, "anton", "auditor", "payload_reader") as name:
        yield name


def erasable(demo: Stack, name: str) -> str:
    """A person of acme of whom the ledger keeps a call; its request id."""
    with person(demo, name):
        key = demo.admin("POST", "/tenants/acme/keys", {"name": f"{name}-key", "principal": name}).json()["key"]
        request = demo.answers(200, key, what="the key to be known", text="Keep this.").request_id
        until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").status == 200, 180, "the call")
        assert demo.admin("POST", f"/tenants/acme/keys/{name}-key/revoke", {}).status == 200
    return request


def test_a_range_is_proved_with_a_plain_verdict(admin: Tab, demo: Stack) -> None:
    called(demo, "Prove it.")
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    newest = "/tenants/acme/ledger/checkpoint"
    until(lambda: demo.admin("GET", newest).json()["complete_until"] > then.isoformat(), 180, "a later checkpoint")
    admin.go("/console/calls?tenant=acme")
    admin.page.click("text=Verify and export")
    admin.page.wait_for_load_state()
    admin.page.click("#verify")
    admin.page.wait_for_selector("#verdict .alert", timeout=180_000)
    words = admin.page.inner_text("#verdict")
    assert words.startswith("COMPLETE:") and "signed by" in words and " 0 of them" not in words
    looks = demo.admin("GET", "/changes?limit=100").json()["items"]
    assert any(each["action"] == "ledger.verify" for each in looks), "the look is recorded"


def test_an_export_is_downloaded_and_proves_itself_elsewhere(admin: Tab, demo: Stack, tmp_path: Path) -> None:
    called(demo, "Export it.")
    admin.go(PROOF)
    assert admin.page.locator("[name=payloads]").count() == 0, "the owner has no second grant"
    admin.page.fill("#f-reason", "the yearly audit")
    with admin.page.expect_download() as download:
        admin.page.click("text=Download the export")
    assert download.value.suggested_filename.startswith("ledger-acme-")
    with tarfile.open(download.value.path()) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    key = demo.ok("ledger", "checkpoint", "-t", "acme")["keys"][0]
    assert command("ledger", "verify", str(folder), "--key", key, "--json").json()["verdict"] == "complete"
    until(lambda: not any((demo.home / "control" / "exports").iterdir()), 180, "the folder to be removed")


def test_an_erasure_takes_two_steps_and_a_hold_forbids_it(admin: Tab, demo: Stack) -> None:
    request = erasable(demo, "ella")
    page = admin.page
    admin.go(KEEPING)
    page.fill("#f-held", "ella")
    page.fill("#f-held_reason", "a lawsuit")
    page.click("text=Add a legal hold")
    page.wait_for_load_state()
    assert "A legal hold stands on ella" in page.inner_text("[role=status]")
    page.fill("#f-subject", "ella")
    page.click("text=Show what would be destroyed")
    page.wait_for_load_state()
    assert "may not be erased" in page.inner_text("[role=alert]") and page.locator("#f-typed").count() == 0
    page.click("summary:has-text('Release')")
    page.fill("#r-1", "it is settled")
    page.click("text=Release this hold")
    page.wait_for_load_state()
    page.fill("#f-subject", "ella")
    page.click("text=Show what would be destroyed")
    page.wait_for_load_state()
    assert "Erase ella?" in page.inner_text("main")
    admin.seen("ledger-erase")
    page.fill("#f-typed", "someone else")
    page.fill("#f-reason", "she asked for it")
    page.click("text=Destroy these contents")
    page.wait_for_load_state()
    assert "exactly as it is" in page.inner_text("[role=alert]")
    assert page.input_value("#f-reason") == "she asked for it", "what was typed is still there"
    page.fill("#f-typed", "ella")
    page.click("text=Destroy these contents")
    page.wait_for_load_state()
    assert "are destroyed" in page.inner_text("[role=status]")
    notes = demo.admin("GET", f"/tenants/acme/ledger/calls/{request}").json()["notes"]
    assert any("erased" in note for note in notes)


def test_a_document_is_found_by_its_name_and_each_chunk_has_its_calls(tab: Tab, anton: str, demo: Stack) -> None:
    labels = {"interlock": {"batch": "b-1", "document": "Contract <b>7</b>", "chunk": 1, "chunks": 2}}
    answer = demo.chat(demo.key("acme", "rosa-laptop"), text="Sum this up.", **labels)
    assert answer.status == 200
    path = f"/tenants/acme/ledger/calls/{answer.request_id}"
    until(lambda: demo.admin("GET", path).status == 200, 180, "the call")
    tab.go("/console/sign-in?to=/console/calls/documents")
    tab.sign_in(anton, PASSWORD)
    page = tab.page
    page.fill("#f-document", "Contract <b>7</b>")
    page.fill("#f-reason", "a question of the customer")
    page.check("[name=content]")
    page.click("button:has-text('Search')")
    page.wait_for_load_state()
    words = page.inner_text("main")
    assert "1 of 2" in words and "Without any call: chunk 2" in words and "Sum this up." in words
    assert page.locator("main b").count() == 0, "a name is text"
    tab.seen("ledger-documents")


def test_who_may_only_look_is_offered_nothing_more_and_refused(tab: Tab, anton: str, demo: Stack) -> None:
    tab.go("/console/sign-in?to=/console/calls/keeping")
    tab.sign_in(anton, PASSWORD)
    page = tab.page
    for absent in ("#f-held", "#f-subject", "text=Release this hold"):
        assert page.locator(absent).count() == 0
    csrf = page.get_attribute("body", "data-csrf") or ""
    (cookie,) = page.context.cookies()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "cookie": f"{cookie['name']}={cookie['value']}",
        "origin": demo.control,
    }
    fields = {"csrf": csrf, "tenant": "acme", "subject": "rosa", "typed": "rosa", "reason": "x", "held": "rosa"}

    def post(path: str, **changed: str) -> int:
        body = urlencode({**fields, **changed}).encode()
        return fetch(demo.control, f"/console/calls/{path}", body=body, headers=headers).status

    for path in ("erase", "erase-now", "hold", "release"):
        assert post(path) == 403, path
        assert post(path, csrf="guessed") == 403, path
    assert post("export", tenant="globex") == 404, "another tenant is not there for them"
    assert json.loads(
        fetch(
            demo.control,
            "/console/calls/verify",
            body=urlencode({**fields, "tenant": "globex"}).encode(),
            headers=headers,
        ).body
    )["problem"]


@pytest.mark.parametrize(("path", "shot"), [(PROOF, "ledger-proof"), (KEEPING, "ledger-keeping")])
def test_the_pages_serve_everybody(path: str, shot: str, admin: Tab) -> None:
    admin.look(path, shot)
