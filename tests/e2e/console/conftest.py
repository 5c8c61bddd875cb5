"""What browser tests share: one chromium, a tab that minds everything, somebody signed in, screenshots.

Screenshots are kept in the documentation; made anew by
`INTERLOCK_SCREENSHOTS=docs/images/console pytest tests/e2e/console`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from interlock.control.console.assets import FOLDER, VENDOR
from tests.e2e.stack import Stack, until

CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
AXE = FOLDER / "vendor" / "axe.min.js"
SHOTS = os.environ.get("INTERLOCK_SCREENSHOTS", "")
STILL = "document.getAnimations().every(each => each.playState !== 'running')"
LOOKS = (("light", False, 1280), ("dark", True, 1280), ("narrow", False, 390)) if SHOTS else (
    ("light", False, 1280), ("dark and narrow", True, 390),
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing of this folder runs without a browser and the assets; each says which is missing."""
    built = all((FOLDER / name).exists() for name in VENDOR)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"))
            item.add_marker(pytest.mark.skipif(not built, reason="the console's assets were not built: make assets"))


class Tab:
    """A page of the browser that minds everything: errors, requests to other hosts, refused inline code."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(180_000)
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "status of 4" not in text:
            self.complaints.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "data:")):
            self.complaints.append(f"asked {url}")

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def press(self, selector: str) -> None:
        """Click what leads to a page, and wait until that is there whole: its first half is no page to read."""
        self.page.click(selector)
        self.page.wait_for_load_state()

    def look(self, path: str, shot: str = "") -> None:
        """The page serves everybody: axe finds nothing serious, in light, dark and narrow, and nothing is wider
        than the window. `shot`: the name of its screenshots, when they are wanted."""
        for look, dark, width in LOOKS:
            self.page.emulate_media(color_scheme="dark" if dark else "light")
            self.page.set_viewport_size({"width": width, "height": 900})
            self.go(path)
            self.fits(width)
            if SHOTS and shot:
                self.page.screenshot(path=Path(SHOTS) / f"{shot}-{look}.png", full_page=True)

    def seen(self, shot: str) -> None:
        """As `look`, of what the page shows now, which loading it again would lose."""
        for look, dark, width in LOOKS:
            theme = "dark" if dark else "light"
            self.page.emulate_media(color_scheme=theme)
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.evaluate("theme => { document.documentElement.dataset.bsTheme = theme }", theme)
            until(lambda: self.page.evaluate(STILL), 180, "the colours to be those of the theme")
            self.fits(width)
            if SHOTS:
                self.page.screenshot(path=Path(SHOTS) / f"{shot}-{look}.png", full_page=True)

    def fits(self, width: int) -> None:
        """What is shown now serves everybody (see `look`)."""
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate('axe.run({resultTypes: ["violations"]})')
        bad = [
            (v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert bad == []
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width

    def sign_in(self, name: str, password: str) -> None:
        self.page.fill("#name", name)
        self.page.fill("#password", password)
        self.page.click("text=Sign in >> nth=-1")
        self.page.wait_for_load_state()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser, demo: Stack) -> Iterator[Tab]:
    """Not signed in. Whatever the page complained of fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = Tab(context.new_page(), demo.control)
    yield tab
    context.close()
    assert tab.complaints == []


@pytest.fixture
def admin(tab: Tab, demo: Stack) -> Tab:
    """Signed in as the first administrator."""
    tab.go("/")
    tab.sign_in("admin", password(demo))
    return tab


def password(demo: Stack) -> str:
    path: Path = demo.home / "secrets" / "console_password"
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text().strip()


def called(demo: Stack, text: str, model: str = "auto") -> str:
    """A call of rosa's that is in the ledger."""
    answer = demo.chat(demo.key("acme", "rosa-laptop"), model, text)
    assert answer.status == 200
    path = f"/tenants/acme/ledger/calls/{answer.request_id}"
    until(lambda: demo.admin("GET", path).status == 200, 180, "the call to be in the ledger")
    return answer.request_id
