"""Drafts, approval by a second person, activation, versions and roll-back, over the admin API and a real database."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.control.parse import write_yaml
from tests.integration.control_client import Admin, Running, control_over

SMALL = {"id": "small", "template": "team-may-use-models", "parameters": {"team": "research", "models": ["small"]}}
LARGE = {"id": "large", "cedar": 'permit(principal in Team::"research",action,resource in Model::"large");'}
NO_CLOUD = {"id": "no-cloud", "cedar": "forbid (principal, action, resource)\nunless { resource.on_prem };\n"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as control:
        yield control


class Site:
    """A tenant of its own for a test, with two policies."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.owner = running.owner
        self.name = f"acme{next(_numbers)}"
        self.at = f"/tenants/{self.name}"
        self.path = f"{self.at}/policy-draft"
        self.owner.do("POST", "/tenants", {"name": self.name})
        self.owner.do("POST", f"{self.at}/teams", {"name": "research"})
        for policy in (SMALL, LARGE):
            self.owner.do("POST", f"{self.at}/policies", policy)

    def member(self, name: str, role: str) -> Admin:
        """Somebody with a role there."""
        self.owner.do("POST", f"{self.at}/principals", {"name": name})
        self.owner.do("POST", f"{self.at}/roles", {"principal": name, "role": role})
        wish = {"name": name, "principal": name, "scopes": ["admin"]}
        return self.running.as_(self.owner.do("POST", f"{self.at}/keys", wish)["key"])

    def ask_for_two(self, on: bool = True) -> None:
        """Whether a change needs a second person."""
        self.owner.do("PUT", self.at, {"name": self.name, "policy_approval": on})

    def in_force(self) -> list[str]:
        """Ids of its policies."""
        return sorted(item["id"] for item in self.owner.get(f"{self.at}/policies")["items"])


@pytest.fixture
def api(running: Running) -> Site:
    return Site(running)


def code(answer: tuple[int, Any]) -> str:
    """The error code of a refusal."""
    status, said = answer
    assert status >= 400, said
    return str(said["error"]["code"])


def test_a_draft_needs_somebody_else_and_exactly_its_own_text(api: Site) -> None:
    alice, bob, carl = (api.member(name, "admin") for name in ("alice", "bob", "carl"))
    api.ask_for_two()
    first = alice.do("PUT", api.path, {"policies": [SMALL, NO_CLOUD]})
    digest = first["digest"]
    assert first["approval_needed"] and first["current"] and first["approvals"] == []
    assert {(c["operation"], c["name"]) for c in first["changes"]} == {("create", "no-cloud"), ("delete", "large")}
    assert code(alice.call("POST", api.path + "/activate", {"digest": digest})) == "approval_needed"
    assert code(alice.call("POST", api.path + "/approve", {"digest": digest})) == "own_draft"
    assert code(bob.call("POST", api.path + "/approve", {"digest": "0" * 64})) == "draft_changed"
    for part in ("", digest[:12], digest[:-1]):
        assert code(bob.call("POST", api.path + "/approve", {"digest": part})) == "draft_changed"
    approved = bob.do("POST", api.path + "/approve", {"digest": digest})
    assert [a["by"] for a in approved["approvals"]] == ["bob"]
    # whoever changes it afterwards needs another yes, and is an author
    changed = carl.do("PUT", api.path, {"policies": [SMALL]})
    assert changed["approvals"] == [] and changed["digest"] != digest
    assert code(alice.call("POST", api.path + "/activate", {"digest": digest})) == "draft_changed"
    assert code(alice.call("POST", api.path + "/activate", {"digest": changed["digest"]})) == "approval_needed"
    assert code(carl.call("POST", api.path + "/approve", {"digest": changed["digest"]})) == "own_draft"
    # the yes was to this text: it counts again when the draft says this again, and no longer when bob wrote on it
    back = alice.do("PUT", api.path, {"policies": [NO_CLOUD, SMALL]})
    assert back["digest"] == digest and [a["by"] for a in back["approvals"]] == ["bob"]
    bob.do("PUT", api.path, {"policies": []})
    back = alice.do("PUT", api.path, {"policies": [NO_CLOUD, SMALL]})
    assert back["digest"] == digest and back["approvals"] == []
    assert code(bob.call("POST", api.path + "/approve", {"digest": digest})) == "own_draft"
    alice.do("DELETE", api.path)
    alice.do("PUT", api.path, {"policies": [NO_CLOUD, SMALL]})
    bob.do("POST", api.path + "/approve", {"digest": digest})
    done = alice.do("POST", api.path + "/activate", {"digest": digest})
    assert api.in_force() == ["no-cloud", "small"]
    assert code(alice.call("GET", api.path)) == "no_draft"
    version = alice.get(f"{api.at}/policy-versions/{done['version']}")
    assert (version["origin"], version["author"], version["reason"]) == ("draft", "alice", "test")
    assert [a["by"] for a in version["approvals"]] == ["bob"]
    verbs = [c["action"] for c in api.owner.get(f"{api.at}/changes")["items"]]
    for verb in ("create", "update", "approve", "delete"):
        assert f"policy_draft.{verb}" in verbs


def test_where_two_are_asked_for_no_other_way_changes_a_policy(api: Site) -> None:
    alice = api.member("alice", "admin")
    api.ask_for_two()
    before = api.in_force()
    changed = {**LARGE, "cedar": "permit (principal, action, resource);"}
    rule_off = {"name": api.name, "policy_approval": False}
    text = write_yaml({"tenants": [{**rule_off, "policies": [changed]}]})
    for who in (alice, api.owner):
        assert code(who.call("POST", f"{api.at}/policies", {**NO_CLOUD})) == "approval_needed"
        assert code(who.call("PUT", f"{api.at}/policies/large", changed)) == "approval_needed"
        assert code(who.call("DELETE", f"{api.at}/policies/large")) == "approval_needed"
        assert code(who.call("POST", f"{api.at}/policy-versions/1/rollback")) == "approval_needed"
        answer = who.call("POST", "/apply", {"files": [{"name": "x", "text": text}]})
        assert code(answer) == ("admin_denied" if who is alice else "approval_needed")
    assert code(alice.call("PUT", api.at, rule_off)) == "admin_denied", "an owner answers for the rule"
    assert api.in_force() == before
    api.owner.do("PUT", api.at, rule_off)
    alice.do("PUT", f"{api.at}/policies/large", changed)


def test_the_installation_may_ask_for_two_everywhere(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = api.running.control.tools
    strict = dataclasses.replace(tools, settings=dataclasses.replace(tools.settings, policy_approval="always"))
    monkeypatch.setattr(api.running.control.api.configurator, "_tools", strict)
    owner = api.owner
    owner.apply(write_yaml({"tenants": [{"name": "globex", "policies": [NO_CLOUD]}]}))  # a tenant's own beginning
    assert code(owner.call("POST", "/policies", NO_CLOUD)) == "approval_needed"
    assert code(owner.call("DELETE", "/tenants/globex/policies/no-cloud")) == "approval_needed"
    draft = owner.do("PUT", "/policy-draft", {"policies": [NO_CLOUD]})
    assert code(owner.call("POST", "/policy-draft/activate", {"digest": draft["digest"]})) == "approval_needed"
    owner.do("DELETE", "/policy-draft")


def test_every_change_is_a_version_and_any_of_them_comes_back_whole(api: Site) -> None:
    owner = api.owner
    assert [v["origin"] for v in owner.get(f"{api.at}/policy-versions")["items"]] == ["change", "change"]
    owner.do("PUT", f"{api.at}/policies/large", {**LARGE, "cedar": "permit (principal, action, resource);"})
    owner.do("DELETE", f"{api.at}/policies/small")
    owner.do("POST", f"{api.at}/policies", NO_CLOUD)
    wanted = owner.get(f"{api.at}/policy-versions/2")["policies"]
    assert [p["id"] for p in wanted] == ["large", "small"]
    done = owner.do("POST", f"{api.at}/policy-versions/2/rollback")
    assert done["version"] == 6
    newest = owner.get(f"{api.at}/policy-versions/6")
    assert (newest["origin"], newest["of_number"], newest["policies"]) == ("rollback", 2, wanted)
    page = owner.get(f"{api.at}/policy-versions?limit=2")
    assert [v["number"] for v in page["items"]] == [6, 5] and page["next"] == 5
    assert [v["number"] for v in owner.get(f"{api.at}/policy-versions?before=5")["items"]] == [4, 3, 2, 1]
    assert code(owner.call("POST", f"{api.at}/policy-versions/2/rollback")) == "no_change"
    for number in ("7", "0"):
        assert code(owner.call("GET", f"{api.at}/policy-versions/{number}")) == "not_found"
    assert code(owner.call("GET", f"{api.at}/policy-versions/two")) == "invalid_request"
    # one document is one version, whatever it changes
    owner.apply(write_yaml({"tenants": [{"name": api.name, "policies": [NO_CLOUD, {**SMALL, "id": "b"}]}]}))
    assert owner.get(f"{api.at}/policy-versions")["items"][0]["number"] == 7


def test_a_draft_of_what_is_no_longer_in_force_is_not_activated(api: Site) -> None:
    alice = api.member("alice", "admin")
    draft = alice.do("PUT", api.path, {"policies": [SMALL]})
    api.owner.do("POST", f"{api.at}/policies", NO_CLOUD)
    assert not alice.get(api.path)["current"]
    assert code(alice.call("POST", api.path + "/activate", {"digest": draft["digest"]})) == "draft_outdated"
    again = alice.do("PUT", api.path, {"policies": [SMALL]})
    assert again["digest"] != draft["digest"], "an approval is of what it takes the place of, too"
    alice.do("POST", api.path + "/activate", {"digest": again["digest"]})
    assert api.in_force() == ["small"]
    alice.do("PUT", api.path, {"version": 3})
    assert [p["id"] for p in alice.get(api.path)["policies"]] == ["large", "no-cloud", "small"]
    assert alice.call("DELETE", api.path)[0] == 200
    assert code(alice.call("DELETE", api.path)) == "no_draft"


def test_who_may_do_what_with_a_draft(api: Site) -> None:
    alice, audit, dev = (api.member(n, r) for n, r in (("alice", "admin"), ("audit", "auditor"), ("dev", "developer")))
    digest = alice.do("PUT", api.path, {"policies": [SMALL]})["digest"]
    assert audit.get(api.path)["digest"] == digest
    assert audit.get(f"{api.at}/policy-versions")["items"]
    for path in (api.path, f"{api.at}/policy-versions", f"{api.at}/policy-versions/1"):
        assert code(dev.call("GET", path)) == "admin_denied"
    for who in (audit, dev):
        for path in ("/approve", "/activate"):
            assert code(who.call("POST", api.path + path, {"digest": digest})) == "admin_denied"
        assert code(who.call("PUT", api.path, {"policies": []})) == "admin_denied"
        assert code(who.call("POST", api.path + "/report-only", {})) == "admin_denied"
        assert code(who.call("DELETE", api.path)) == "admin_denied"
        assert code(who.call("POST", f"{api.at}/policy-versions/1/rollback")) == "admin_denied"
    assert code(alice.call("PUT", "/policy-draft", {"policies": []})) == "admin_denied"
    assert code(alice.call("GET", "/policy-draft")) == "admin_denied"
    status, said = alice.call("PUT", api.path, {"policies": [SMALL]}, reason="")
    assert status == 400 and "reason" in said["error"]["message"]
    for wrong in ({}, {"policies": [SMALL, SMALL]}, {"policies": [{"id": "x", "cedar": "permit"}]}, {"version": 99}):
        assert alice.call("PUT", api.path, wrong)[0] in (400, 404, 422)
    assert audit.get(api.path)["digest"] == digest


def test_what_only_reports_is_in_the_snapshot_and_not_in_force(api: Site) -> None:
    from interlock.storage import policies, policy_drafts

    owner = api.owner
    tenant_id = owner.get(api.at)["id"]
    owner.do("POST", f"{api.at}/policies", {**NO_CLOUD, "report_only": True})
    with api.running.control.store.platform() as conn:
        assert "no-cloud" not in [p.id for p in policies.everything(conn) if p.tenant_id == tenant_id]
        (trial,) = [t for t in policy_drafts.trials(conn) if t.tenant_id == tenant_id]
    assert {p.id for p in trial.policies} == {"small", "large", "no-cloud"}
    draft = owner.do("PUT", api.path, {"policies": [LARGE, {**NO_CLOUD, "report_only": True}]})
    assert owner.do("POST", api.path + "/report-only", {})["report_only"]
    compiled = api.running.control.compiler.compile_once()
    assert compiled is not None and "trials" in compiled.changed
    with api.running.control.store.platform() as conn:
        (trial,) = [t for t in policy_drafts.trials(conn) if t.tenant_id == tenant_id]
    assert (trial.digest, [p.id for p in trial.policies]) == (draft["digest"], ["large"])
    owner.do("POST", api.path + "/report-only", {"on": False})
    with api.running.control.store.platform() as conn:
        (trial,) = [t for t in policy_drafts.trials(conn) if t.tenant_id == tenant_id]
    assert {p.id for p in trial.policies} == {"small", "large", "no-cloud"}
    # a tenant goes with all of it
    owner.do("DELETE", api.at)


def test_an_export_is_one_text_and_planning_it_changes_nothing(api: Site) -> None:
    owner = api.owner
    owner.do("POST", "/policies", {**NO_CLOUD, "report_only": True})
    api.ask_for_two()
    status, text = owner.call("GET", "/export?form=yaml", reason="")
    assert status == 200 and "permit (\n" in text, "policies are written over several lines, in one way"
    answer = owner.do("POST", "/plan", {"files": [{"name": "x", "text": text}]})
    assert answer["changes"] == []
    assert owner.call("GET", "/export?form=yaml", reason="")[1] == text
