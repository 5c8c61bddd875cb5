"""The playground in the browser: streamed through the gateway as oneself, governed, recorded, inert, ended by signing
out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from interlock.cli.demo_engine import MODEL
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Step
from tests.e2e.stack import Stack, fetch, until
from tests.figures import note
from tests.provider import provider

from .conftest import Tab
from .people import PASSWORD, person

HOSTILE = (
    "<img/src=x/onerror=\"document.title='owned'\"><script>document.title='owned'</script>[a](javascript:alert(1))"
)
SCRIPTED = "scripted-model"


@pytest.fixture(scope="module")
def petra(demo: Stack) -> Iterator[str]:
    """An auditor of acme's research with a password."""
    with person(demo, "petra", "auditor") as name:
        yield name


@pytest.fixture(scope="module")
def viktor(demo: Stack) -> Iterator[str]:
    """A viewer of acme's research with a password."""
    with person(demo, "viktor", "viewer") as name:
        yield name


@pytest.fixture
def play(tab: Tab, petra: str) -> Tab:
    """Petra at the playground, with the list of models there."""
    tab.go("/console/sign-in?to=/console/playground")
    tab.sign_in(petra, PASSWORD)
    tab.page.wait_for_selector("text=You may call")
    return tab


@pytest.fixture
def scripted(demo: Stack) -> Iterator[ScriptedEngine]:
    """An engine of acme's that says what no model would."""
    with ScriptedEngine(kind="vllm", models=(SCRIPTED,), default=_scripted).in_thread() as engine:
        labels = {"region": "eu-central", "on_prem": True}
        spec = {"name": "scripted", "kind": "vllm", "url": engine.base_url, "granted_to": ["acme"], "labels": labels}
        assert demo.admin("POST", "/sources", spec).status == 201
        yield engine
        assert demo.admin("DELETE", "/sources/scripted").status == 200


def _scripted(received: Received) -> Iterable[Step]:
    """Hostile, or slow, as the last message asks."""
    said = received.json["messages"][-1]["content"] if received.body.startswith(b"{") else ""
    script = answers.answer("word " * 6000, between_ms=100) if said == "slow" else answers.answer(HOSTILE)
    return script(received) if said else answers.error(400)(received)


def keys_of(demo: Stack) -> list[dict[str, Any]]:
    """The keys that the console made for sessions, newest last."""
    found = demo.admin("GET", "/tenants/acme/keys?limit=500").json()["items"]
    return sorted((k for k in found if k["name"].startswith("console-")), key=lambda k: k["id"])


def choose(play: Tab, model: str) -> None:
    play.page.wait_for_selector(f"#model-a option[value='{model}']", state="attached")
    play.page.select_option("#model-a", model)


def ask(play: Tab, text: str) -> None:
    play.page.fill("#prompt", text)
    play.page.keyboard.press("Control+Enter")


def test_two_models_answer_side_by_side_and_the_decision_cost_and_record_are_shown(play: Tab, demo: Stack) -> None:
    page = play.page
    page.check("#compare")
    page.select_option("#model-a", "auto")
    page.select_option("#mode-a", "eco")
    page.select_option("#model-b", "assistant")
    page.fill("#max_tokens", "8")
    page.fill("#system", "You are brief.")
    ask(play, "What is a signal box?")
    for letter in "ab":
        log = page.locator(f"#log-{letter}")
        log.locator("text=Recorded as").wait_for(timeout=180_000)
        words = log.inner_text()
        assert log.locator(".play-answer .play-text").inner_text().strip()
        assert f"{MODEL} at " in words and "offer=" in words and "First token" in words and "of answer" in words
        assert "Cost" in words and "completed" in words
        log.locator("summary:has-text('Why there')").click()
        assert "was chosen" in log.inner_text()
    assert "mode=eco" in page.inner_text("#log-a") and "mode=balanced" in page.inner_text("#log-b")
    page.click("#code")
    assert '"mode": "eco"' in page.inner_text("#as-curl") and demo.gateway in page.inner_text("#as-python")
    page.click("#log-a >> text=Record in the ledger")
    page.wait_for_load_state()
    words = page.inner_text("main")
    assert "petra" in words and "team research" in words and "streamed" in words, "recorded as petra's own call"


def test_a_thumb_is_noted_with_the_call_and_counts_once(play: Tab, demo: Stack) -> None:
    page = play.page
    page.select_option("#model-a", "assistant")
    page.fill("#max_tokens", "8")
    ask(play, "Say something.")
    bad = page.locator("#log-a .play-thumbs >> text=Bad answer")
    bad.click(timeout=180_000)
    page.wait_for_selector("#log-a >> text=Noted")
    assert bad.get_attribute("aria-pressed") == "true" and bad.is_disabled(), "once of a kind"
    page.locator("#log-a >> text=Recorded as").wait_for(timeout=180_000)
    href = page.locator("#log-a >> text=Record in the ledger").get_attribute("href")

    def shown() -> bool:
        play.go(href or "")
        return "bad answer" in page.inner_text("main")

    until(shown, 180, "the feedback on the page of the call")
    row = page.locator("section[aria-labelledby=feedback] tbody tr")
    assert row.count() == 1 and "petra" in row.inner_text() and "thumb" in row.inner_text()
    play.go("/console/usage?by_model=1")
    page.click("summary:has-text('How these figures are made')")
    assert "Quality is what callers said" in page.inner_text("main")


def test_what_a_model_says_is_text_and_stop_ends_the_call_at_its_source(
    play: Tab, scripted: ScriptedEngine, demo: Stack
) -> None:
    page = play.page
    demo.everywhere(lambda: _listed(play), "the source to be listed")
    choose(play, SCRIPTED)
    ask(play, "hostile")
    page.wait_for_selector("text=First token")
    assert page.inner_text(".play-answer .play-text").strip() == HOSTILE
    assert page.title() != "owned" and page.locator("img[src=x]").count() == 0
    assert page.locator(".play-text a, .play-text script").count() == 0
    ask(play, "slow")
    page.wait_for_selector(".play-answer .play-text:has-text('word')")
    page.click("#stop")
    page.wait_for_selector("text=by you")
    until(lambda: _gone(scripted), 180, "the source to see that nobody waits any more")


def test_signing_out_ends_what_runs_and_the_key_at_once(play: Tab, scripted: ScriptedEngine, demo: Stack) -> None:
    page = play.page
    demo.everywhere(lambda: _listed(play), "the source to be listed")
    choose(play, SCRIPTED)
    ask(play, "slow")
    page.wait_for_selector(".play-answer .play-text:has-text('word')")
    key = keys_of(demo)[-1]
    assert (key["scopes"], key["principal"], key["state"]) == (["infer"], "petra", "active")
    csrf = page.get_attribute("body", "data-csrf")
    left = time.monotonic()
    signed_out = page.request.post(  # in another window of the same session, say: this one leaves by itself
        f"{demo.control}/console/sign-out", form={"csrf": csrf or ""}, headers={"origin": demo.control}
    )
    assert signed_out.status == 200 and signed_out.url.endswith("/console/sign-in")
    until(lambda: _gone(scripted), 180, "the running call to be cut off")
    note(f"from signing out to the end of a running call: {1000 * (time.monotonic() - left):.0f} ms")
    assert keys_of(demo)[-1] == {**keys_of(demo)[-1], "id": key["id"], "state": "revoked"}
    page.wait_for_selector("#password")
    assert "/console/sign-in" in page.url, "the page leads to signing in"


def test_nobody_calls_through_another_site_without_the_token_or_the_role(
    play: Tab, viktor: str, tab: Tab, demo: Stack
) -> None:
    (cookie,) = play.page.context.cookies()
    body = urlencode({"ask": '{"model":"auto","messages":[{"role":"user","content":"x"}]}', "csrf": "guessed"}).encode()
    form = {"content-type": "application/x-www-form-urlencoded", "cookie": f"{cookie['name']}={cookie['value']}"}

    def send(**headers: str) -> int:
        sent = {**form, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return fetch(demo.control, "/console/playground/send", body=body, headers=sent).status

    csrf = play.page.get_attribute("body", "data-csrf") or ""
    assert send(origin="https://evil.example", x_interlock_csrf=csrf) == 403
    assert send(origin=demo.control) == 403, "no token of the session"
    foreign = demo.chat(demo.key("acme", "rosa-laptop")).request_id
    until(lambda: demo.admin("GET", f"/tenants/acme/ledger/calls/{foreign}").status == 200, 180, "rosa's call")
    tab.go(f"/console/playground/calls/{foreign}")
    assert "no such call of yours" in tab.page.inner_text("main")
    tab.page.click("text=Sign out")
    tab.go("/console/sign-in")
    tab.sign_in(viktor, PASSWORD)
    assert "Playground" not in tab.page.inner_text("nav")
    tab.go("/console/playground")
    assert "developer" in tab.page.inner_text("main") and tab.page.locator("#play").count() == 0


def test_the_playground_serves_everybody(play: Tab) -> None:
    page = play.page
    page.check("#compare")
    page.fill("#max_tokens", "48")
    ask(play, "Say hello in one sentence.")
    for letter in "ab":
        page.locator(f"#log-{letter} >> text=Recorded as").wait_for(timeout=180_000)
    play.seen("playground")
    play.look("/console/playground")


def _listed(play: Tab) -> bool:
    play.page.reload()
    play.page.wait_for_selector("text=You may call")
    return play.page.locator(f"#model-a option[value='{SCRIPTED}']").count() == 1


def _gone(engine: ScriptedEngine) -> bool:
    """Whether whoever waited for the slow answer left."""
    slow = [call for call in engine.calls if b'"slow"' in call.body]
    return bool(slow) and slow[-1].ended == "gone"


def test_the_administrator_is_told_what_is_missing_and_where(admin: Tab) -> None:
    page = admin.page
    admin.go("/console/playground")
    page.wait_for_selector(".play-missing li >> nth=1")
    told = page.inner_text(".play-missing")
    assert "No policy in force lets admin of platform call a model" in told and "platform's own tenant" in told
    admin.fits(1280)
    page.click("text=See which policies were asked")
    page.wait_for_load_state()
    assert "admin" in page.inner_text("main") and page.locator("[role=alert]").count() == 0
    admin.go("/console/playground")
    page.click("text=Draft a policy")
    page.wait_for_load_state()
    assert "template" in page.inner_text("main").lower()


def test_somebody_of_an_identity_provider_calls_as_themselves(tab: Tab, demo: Stack) -> None:
    with provider() as made:
        made.clients, made.groups = {"console": ""}, {"alice": ["grp-dev", "grp-research"]}
        spec = {
            "issuer": made.name, "audience": "interlock", "jwks_url": f"{made.name}/jwks",
            "group_roles": {"grp-dev": "auditor"}, "group_teams": {"grp-research": "research"},
            "login": {"client_id": "console", "label": "Example ID"},
        }  # fmt: skip
        assert demo.admin("POST", "/tenants/acme/issuers", spec).status == 201
        path = f"/tenants/acme/issuers/{made.name}"
        made.redirects = {f"{demo.control}/console/sign-in/{demo.admin('GET', path).json()['id']}/callback"}
        try:
            tab.go("/console/sign-in?tenant=acme&to=/console/playground")
            tab.page.click("text=Example ID")
            tab.page.click("text=Continue as alice")
            tab.page.wait_for_selector("text=You may call")
            ask(tab, "Hello")
            tab.page.locator("#log-a").locator("text=Recorded as").wait_for(timeout=180_000)
            tab.page.click("#log-a >> text=Record in the ledger")
            tab.page.wait_for_load_state()
            words = tab.page.inner_text("main")
            assert "alice" in words and "team research" in words, "recorded as their own call"
        finally:
            assert demo.admin("DELETE", path).status < 300
    tab.complaints[:] = [each for each in tab.complaints if not each.startswith(f"asked {made.name}/")]
