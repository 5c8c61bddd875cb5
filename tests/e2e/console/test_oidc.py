"""Signing in at an identity provider, in a real browser: a button, the provider's own page, the console, and out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack
from tests.provider import Provider, provider

from .conftest import Tab


@pytest.fixture
def example(demo: Stack) -> Iterator[Provider]:
    """A provider that the platform trusts, and trusts no more at the end."""
    with provider() as made:
        made.clients = {"console": ""}
        spec = {
            "issuer": made.name, "audience": "interlock", "jwks_url": f"{made.name}/jwks",
            "group_roles": {"grp-admins": "auditor"},
            "login": {"client_id": "console", "label": "Example ID", "end_session": True},
        }  # fmt: skip
        assert demo.admin("POST", "/tenants/platform/issuers", spec).status == 201
        path = f"/tenants/platform/issuers/{made.name}"
        place = f"{demo.control}/console/sign-in/{demo.admin('GET', path).json()['id']}"
        made.redirects, made.after_logout = {f"{place}/callback"}, {f"{place}/signed-out"}
        try:
            yield made
        finally:
            assert demo.admin("DELETE", path).status < 300


def test_alice_clicks_through_her_provider_into_the_console_and_out(tab: Tab, demo: Stack, example: Provider) -> None:
    page = tab.page
    tab.look("/console/sign-in", "sign-in-provider")
    tab.go("/console/usage")
    page.click("text=Example ID")
    page.wait_for_url(f"{example.name}/authorize?**")
    page.click("text=Cancel")
    page.wait_for_url(f"{demo.control}/**")
    assert "was cancelled" in page.inner_text("[role=alert]")
    tab.go("/console/usage")
    page.click("text=Example ID")
    page.click("text=Continue as alice")
    page.wait_for_url(f"{demo.control}/console/usage")
    assert page.inner_text(".who-name") == "alice"
    (cookie,) = page.context.cookies(demo.control)
    assert (cookie["name"], cookie["sameSite"], cookie["httpOnly"]) == ("__Host-interlock", "Lax", True)
    page.click("text=Sign out")
    page.wait_for_url(f"{demo.control}/console/sign-in/*/signed-out?**")
    assert "at your identity provider too" in page.inner_text("[role=status]")
    assert page.context.cookies(demo.control) == [] and len(example.ended) == 1
    tab.fits(1280)
    page.click("text=Example ID")
    page.click("text=Continue as mallory")
    page.wait_for_url(f"{demo.control}/**")
    assert "none of your groups has a role" in page.inner_text("[role=alert]")
    own = [each for each in tab.complaints if not each.startswith(f"asked {example.name}/")]
    assert own == [] and tab.complaints, "only the provider was asked besides"
    tab.complaints.clear()
