"""The console's pages about policies, over a real database: who is refused what, lost races, tenants apart."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.apply import Reason
from interlock.control.identity import Actor
from interlock.control.lifecycle import Lifecycle
from interlock.control.permissions import Binding
from interlock.errors import Conflict
from interlock.types.identity import AdminRole

from .control_client import Running, control_over

PASSWORD = "correct horse battery"
SMALL = {"id": "small", "template": "team-may-use-models", "parameters": {"team": "research", "models": ["small"]}}
CEDAR = 'forbid (principal, action, resource)\nwhen { resource.model == "large" };\n'
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as control:
        yield control


class Browser:
    """Somebody's browser. `seen` is what the last page carried."""

    def __init__(self, http: TestClient, tenant: str) -> None:
        self.http = http
        self.tenant = tenant
        self.seen = ""
        self.csrf = ""

    def get(self, path: str, **query: str) -> Any:
        answer = self.http.get(f"/console/policies{path}", params={"tenant": self.tenant, **query})
        self.csrf = (re.findall(r'data-csrf="([^"]+)"', answer.text) or [self.csrf])[0]
        self.seen = (re.findall(r'name="seen" value="([^"]+)"', answer.text) or [""])[0]
        return answer

    def post(self, path: str, **fields: Any) -> Any:
        sent = {"tenant": self.tenant, "csrf": self.csrf, "seen": self.seen, "reason": "a test", **fields}
        return self.http.post(f"/console/policies{path}", data=sent)

    def write(self, name: str, cedar: str = CEDAR, **fields: Any) -> Any:
        return self.post("/edit", id=name, cedar=cedar, **fields)


@dataclasses.dataclass
class Site:
    """A tenant of its own for a test, with one policy and people by role."""

    running: Running
    name: str

    @property
    def at(self) -> str:
        return f"/tenants/{self.name}"

    def browser(self, person: str, role: str, tenant: str = "") -> Browser:
        """A new member with that role, signed in; their pages are about `tenant`, else their own."""
        owner = self.running.owner
        owner.do("POST", f"{self.at}/principals", {"name": person})
        owner.do("POST", f"{self.at}/roles", {"principal": person, "role": role})
        owner.do("POST", f"{self.at}/principals/{person}/password", {"password": PASSWORD})
        http = TestClient(make_app(self.running.control.api), base_url="https://testserver", follow_redirects=False)
        http.headers["origin"] = "https://testserver"
        form = {"name": f"{self.name}/{person}", "password": PASSWORD}
        assert http.post("/console/sign-in", data=form).status_code == 303
        found = Browser(http, tenant or self.name)
        found.csrf = re.findall(r'data-csrf="([^"]+)"', http.get("/console/health").text)[0]
        return found

    def draft(self) -> Any:
        return self.running.owner.get(f"{self.at}/policy-draft")


@pytest.fixture
def site(running: Running) -> Site:
    found = Site(running, f"umbra{next(_numbers)}")
    running.owner.do("POST", "/tenants", {"name": found.name})
    running.owner.do("POST", f"{found.at}/teams", {"name": "research"})
    running.owner.do("POST", f"{found.at}/policies", SMALL)
    return found


def test_nobody_writes_over_what_somebody_else_wrote_meanwhile(site: Site) -> None:
    ada, bob = site.browser("ada", "admin"), site.browser("bob", "admin")
    ada.get("/edit")
    bob.get("/edit")
    assert bob.write("bobs").status_code == 303
    answer = ada.write("adas", "// my long text\n" + CEDAR)
    assert answer.status_code == 409
    assert "Somebody else changed" in answer.text and "// my long text" in answer.text, "what was typed is still there"
    assert [p["id"] for p in site.draft()["policies"]] == ["bobs", "small"]
    ada.seen = re.findall(r'name="seen" value="([^"]+)"', answer.text)[0]
    assert ada.write("adas").status_code == 303
    assert [p["id"] for p in site.draft()["policies"]] == ["adas", "bobs", "small"]
    assert bob.post("/draft/discard", seen=bob.seen).status_code == 409, "the draft that he saw is no more"
    assert site.draft()["policies"]


def test_two_who_save_in_the_same_moment_are_told_apart_in_the_transaction(site: Site) -> None:
    control = site.running.control
    life = Lifecycle(control.api.configurator)
    actor = Actor("prn_ada", "ada", "", "", (Binding(AdminRole.owner, None),))
    with pytest.raises(Conflict, match="somebody else changed the draft"):
        life.draft(actor, site.name, (), Reason("a test"), seen="0" * 64)
    assert site.running.owner.call("GET", f"{site.at}/policy-draft")[0] == 404


def test_a_draft_that_was_overtaken_is_not_written_on_unseen(site: Site) -> None:
    ada = site.browser("ada", "admin")
    ada.get("/edit")
    assert ada.write("adas").status_code == 303
    site.running.owner.do("POST", f"{site.at}/policies", {**SMALL, "id": "urgent"})
    ada.get("/edit")
    refused = ada.write("more")
    assert refused.status_code == 409 and "base it on version" in refused.text
    page = ada.get("/draft").text
    assert "− removed" in page and "urgent" in page, "it is shown what the draft would undo"
    assert ada.post("/draft/start").status_code == 303
    assert site.draft()["current"]


def test_the_author_is_not_offered_approval_and_is_refused_it(site: Site) -> None:
    site.running.owner.do("PUT", site.at, {"name": site.name, "policy_approval": True})
    ada, bob = site.browser("ada", "admin"), site.browser("bob", "admin")
    ada.get("/edit")
    assert ada.write("adas").status_code == 303
    assert "draft/approve" not in ada.get("/draft").text
    own = ada.post("/draft/approve")
    assert own.status_code == 403 and "second person" in own.text
    early = ada.post("/draft/activate")
    assert early.status_code == 409 and "second person" in early.text
    assert "draft/approve" in bob.get("/draft").text
    assert bob.post("/draft/approve", reason="").status_code == 400
    assert bob.post("/draft/approve").status_code == 303
    assert ada.get("/draft").text.count("draft/activate") == 1
    assert ada.post("/draft/activate").status_code == 303
    back = ada.post("/roll-back", version="1")
    assert back.status_code == 409 and "second person" in back.text


@pytest.mark.parametrize(
    ("role", "sees", "refused"),
    [
        ("viewer", ["", ], ["/draft", "/history", "/what-if", "/ask", "/edit", "/templates"]),
        ("developer", ["", "/ask"], ["/draft", "/history", "/what-if", "/edit", "/templates"]),
        ("auditor", ["", "/draft", "/history", "/what-if"], ["/edit", "/templates"]),
    ],
)  # fmt: skip
def test_who_may_not_is_not_shown_and_refused(role: str, sees: list[str], refused: list[str], site: Site) -> None:
    person = site.browser("eve", role)
    for path in sees:
        answer = person.get(path)
        assert answer.status_code == 200, path
        assert not any(f'href="/console/policies{p}?' in answer.text for p in refused), path
        assert "/draft/" not in answer.text and 'method="post" action="/console/policies/rule"' not in answer.text
    for path in refused:
        assert person.get(path).status_code in (403, 404), path
    changes = ("/edit", "/draft/start", "/draft/discard", "/draft/approve", "/draft/activate", "/rule", "/roll-back")
    for path in (*changes, "/templates/cloud-only-for-public-data"):
        assert person.post(path, id="mine", cedar=CEDAR, version="1", second="1").status_code in (403, 404), path
    assert site.running.owner.call("GET", f"{site.at}/policy-draft")[0] == 404


def test_another_tenant_s_policies_are_not_there(site: Site, running: Running) -> None:
    other = Site(running, f"umbra{next(_numbers)}")
    running.owner.do("POST", "/tenants", {"name": other.name})
    running.owner.do("POST", f"{other.at}/teams", {"name": "secret-team"})
    stranger = site.browser("ada", "owner", tenant=other.name)
    for path in ("", "/draft", "/history", "/what-if", "/ask", "/edit", "/templates/cloud-only-for-public-data"):
        answer = stranger.get(path)
        assert answer.status_code == 404 and "secret-team" not in answer.text, path
    assert stranger.write("mine").status_code == 404
    assert stranger.post("/rule", second="1").status_code == 404
    own = Browser(stranger.http, site.name)
    assert "secret-team" not in own.get("/templates/team-may-use-models").text
    assert other.name not in own.get("").text, "nobody is told which other tenants there are"


def test_only_an_owner_says_whether_a_second_person_is_needed(site: Site) -> None:
    admin, owner = site.browser("ada", "admin"), site.browser("olga", "owner")
    assert admin.post("/rule", second="1").status_code in (403, 404)
    owner.get("")
    assert owner.post("/rule", second="1", reason=" ").status_code == 400
    assert owner.post("/rule", second="1").status_code == 303
    assert site.running.owner.get(site.at)["policy_approval"] is True
    assert [t["name"] for t in site.running.owner.get(f"{site.at}/teams")["items"]] == ["research"]


def test_the_editor_says_where_the_text_is_wrong_and_keeps_it(site: Site) -> None:
    ada = site.browser("ada", "admin")
    ada.get("/edit")
    wrong = "forbid (principal, action, resource)\nwhen { resource.nowhere };\n"
    piece = ada.post("/check", cedar=wrong.replace("\n", "\r\n"))
    assert 'data-line="2" data-column="17"' in piece.text and "<html" not in piece.text
    whole = ada.write("mine", wrong)
    assert whole.status_code == 400 and "line 2, column 17" in whole.text and "resource.nowhere" in whole.text
    assert "valid" in ada.post("/check", cedar=CEDAR).text


def test_a_form_of_a_template_makes_what_its_fields_say(site: Site) -> None:
    ada = site.browser("ada", "admin")
    ada.get("/templates/cost-ceiling-per-call")
    bad = ada.post("/templates/cost-ceiling-per-call", id="ceiling", usd="much", teams="research")
    assert bad.status_code == 400 and "US dollars" in bad.text and 'value="much"' in bad.text
    good = {"id": "ceiling", "usd": "0.05", "teams": "research", "models_more": "gpt-*, small"}
    assert ada.post("/templates/cost-ceiling-per-call", **good).status_code == 303
    (made,) = (p for p in site.draft()["policies"] if p["id"] == "ceiling")
    assert made["parameters"] == {"usd": "0.05", "teams": ["research"], "models": ["gpt-*", "small"]}
    again = ada.get("/templates/cost-ceiling-per-call", policy="ceiling").text
    assert 'value="gpt-*, small"' in again and 'value="research" checked' in again


def test_a_look_at_logged_calls_needs_a_reason_and_is_recorded(site: Site) -> None:
    ada = site.browser("ada", "admin")
    ada.get("/edit")
    assert ada.write("mine").status_code == 303
    auditor = site.browser("audrey", "auditor")
    auditor.get("/what-if")
    assert auditor.post("/what-if", days="7", reason="").status_code == 400
    assert auditor.post("/report", days="0").status_code == 400
    assert "0 of 0 calls" in auditor.post("/what-if", days="7", reason="before the review").text
    with site.running.control.store.platform() as conn:
        row = conn.execute(
            "SELECT actor, reason FROM interlock.changes WHERE action = 'ledger.what_if' ORDER BY at DESC LIMIT 1"
        ).fetchone()
    assert row == ("audrey", "before the review")
