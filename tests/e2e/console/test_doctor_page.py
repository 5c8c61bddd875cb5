"""The doctor in the browser: findings with remedies, for those who look after the installation."""

from __future__ import annotations

from tests.e2e.stack import Stack

from .conftest import Tab
from .people import PASSWORD, person


def test_the_doctor_finds_what_the_command_finds(admin: Tab, demo: Stack) -> None:
    hostile = {"name": "gone", "kind": "vllm", "url": "http://127.0.0.1:9", "granted_to": ["acme"]}
    assert demo.admin("POST", "/sources", hostile).status == 201
    try:
        admin.go("/console/health")
        admin.page.click("text=Doctor")
        admin.page.click("text=Run the checks")
        admin.page.wait_for_selector("#findings")
        words = admin.page.inner_text("main")
        told = demo.ok_or(3, "doctor")["findings"]
        (same,) = [each for each in told if "source gone" in each["words"]]
        assert same["words"] in words and same["remedy"].replace("`", "") in words
        assert "shipped its records" in words and "schema of the database" in words
        admin.seen("doctor")
    finally:
        assert demo.admin("DELETE", "/sources/gone").status == 200


def test_an_auditor_of_one_tenant_is_not_shown_it_and_refused(tab: Tab, demo: Stack) -> None:
    with person(demo, "doris", "auditor") as name:
        tab.go("/console/sign-in")
        tab.sign_in(name, PASSWORD)
        assert tab.page.locator("text=Doctor").count() == 0
        tab.go("/console/doctor")
        assert tab.page.locator("text=Run the checks").count() == 0
