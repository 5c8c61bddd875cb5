"""Applying configuration documents to a real database: all or nothing, and once is enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.storage import changes
from interlock.types import apikey
from interlock.types.source import Model
from tests.integration.control_client import Running, control_over
from tests.unit.control.samples import FULL


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        running.engines.models["http://127.0.0.1:9000"] = (Model(name="smollm2"),)
        yield running


@pytest.fixture
def api(running: Running) -> Iterator[Running]:
    """With nothing stored, before and after."""
    yield running
    running.owner.apply("prune: true\ntenants: []\nsources: []\npolicies: []\naliases: []\n")


def _plan(api: Running, text: str) -> Any:
    return api.owner.do("POST", "/plan", {"files": [{"name": "x.yaml", "text": text}]})


def _steps(plan: Any) -> list[str]:
    return [f"{c['operation']} {c['kind']} {c['name']}" for c in plan["changes"]]


def test_the_full_document_applies_once_and_then_changes_nothing(api: Running) -> None:
    planned = _plan(api, FULL)
    applied = api.owner.apply(FULL)
    assert applied["plan"] == planned
    assert sorted(applied["keys"]["acme"]) == ["alice-admin", "alice-laptop", "batch"]
    assert all(apikey.well_formed(key) for key in applied["keys"]["acme"].values())
    assert sorted(applied["discovery"]) == ["cloud", "own"]
    again = api.owner.apply(FULL)
    assert (again["plan"]["changes"], again["keys"]) == ([], {})
    assert _plan(api, FULL + "prune: true")["changes"] == []


def test_what_is_exported_is_what_is_stored(api: Running) -> None:
    api.owner.apply(FULL)
    status, text = api.owner.call("GET", "/export?form=yaml")
    assert status == 200
    assert _plan(api, text + "prune: true\n")["changes"] == []
    assert "il_live_" not in text
    one = api.owner.get("/export?tenant=acme")
    assert [t["name"] for t in one["tenants"]] == ["acme"]


def test_a_made_key_works_at_once(api: Running) -> None:
    key = api.owner.apply(FULL)["keys"]["acme"]["alice-admin"]
    alice = api.as_(key)
    assert alice.get("/whoami")["tenant"] == "acme"
    assert _steps(
        alice.do(
            "POST",
            "/plan",
            {
                "files": [
                    {"name": "x", "text": "tenants: [{name: acme, time_zone: Europe/Berlin, teams: [{name: new}]}]"}
                ]
            },
        )
    ) == ["create team new"]


def test_nothing_is_half_applied(api: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.owner.get("/export")
    with api.control.store.platform() as conn:
        newest = changes.page(conn, limit=1)[0].id
    from interlock.control.services import keys

    def fails(*_: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(keys, "create", fails)
    status, error = api.owner.call("POST", "/apply", {"files": [{"name": "x", "text": FULL}]})
    assert (status, error["error"]["code"]) == (500, "internal_error")
    assert "fire" not in str(error)
    monkeypatch.undo()
    assert api.owner.get("/export") == before
    with api.control.store.platform() as conn:
        assert changes.page(conn, limit=1)[0].id == newest


def test_errors_name_file_line_and_reason_and_change_nothing(api: Running) -> None:
    before = api.owner.get("/export")
    broken = FULL.replace("teams: [research, legal]", "teams: [sales]").replace("permit(principal in", "permit(foo in")
    status, error = api.owner.call("POST", "/apply", {"files": [{"name": "conf/acme.yaml", "text": broken}]})
    assert status == 400
    told = error["error"]["details"]
    assert any(
        line.startswith("conf/acme.yaml:9: tenants[0].principals[0].teams[0]: there is no team") for line in told
    )
    assert any(
        line.startswith("conf/acme.yaml:22: tenants[0].policies[1].cedar: policy 'legal': line 1") for line in told
    )
    assert len(told) == 2
    assert api.owner.get("/export") == before


def test_updates_and_prunes(api: Running) -> None:
    api.owner.apply(FULL)
    changed = (
        FULL.replace("concurrency: 4", "concurrency: 5")
        .replace("  - {name: legal}\n", "")
        .replace("teams: [research, legal]", "teams: [research]")
    )
    assert _steps(api.owner.apply(changed)["plan"]) == ["update principal alice"]
    assert _steps(api.owner.apply(changed + "prune: true\n")["plan"]) == ["delete team legal"]
    assert api.owner.get("/tenants/acme/principals/alice")["limits"]["concurrency"] == 5


def test_a_revoked_key_is_not_made_again(api: Running) -> None:
    api.owner.apply(FULL)
    api.owner.do("POST", "/tenants/acme/keys/batch/revoke", {})
    applied = api.owner.apply(FULL)
    assert applied["keys"] == {}
    assert "key batch in acme is revoked" in applied["plan"]["notes"][0]


def test_agents_that_act_for_each_other_are_made_together(api: Running) -> None:
    text = """
tenants:
- name: duo
  principals:
  - {name: a, kind: agent, may_act_for: [b]}
  - {name: b, kind: agent, may_act_for: [a]}
"""
    api.owner.apply(text)
    assert api.owner.get("/tenants/duo/principals/a")["may_act_for"] == ["b"]
    assert api.owner.apply(text)["plan"]["changes"] == []


def test_a_tenants_administrator_applies_to_their_tenant_only(api: Running) -> None:
    alice = api.as_(api.owner.apply(FULL)["keys"]["acme"]["alice-admin"])
    own = "tenants:\n- name: acme\n  time_zone: Europe/Berlin\n  teams: [{name: alices}]\n"
    assert _steps(alice.apply(own)["plan"]) == ["create team alices"]
    for text in (
        "tenants: [{name: globex, teams: [{name: x}]}]",
        "tenants: [{name: acme}, {name: globex}]",
        "tenants: [{name: other}]",
        own.replace("alices", "more") + "sources: [{name: mine, kind: vllm, url: 'http://x'}]",
        own.replace("alices", "more") + "policies: [{id: p, cedar: 'permit(principal, action, resource);'}]",
        "tenants: [{name: acme, time_zone: Europe/Berlin, roles: [{principal: alice, role: owner}]}]",
    ):
        status, error = alice.call("POST", "/apply", {"files": [{"name": "x", "text": text}]})
        assert status in (403, 404), (text, error)
    assert "more" not in [t["name"] for t in api.owner.get("/tenants/acme/teams")["items"]]


def test_two_files_are_one_document(api: Running) -> None:
    files = [
        {"name": "a.yaml", "text": "tenants: [{name: one, teams: [{name: t}]}]"},
        {"name": "b.json", "text": '{"tenants": [{"name": "two"}], "prune": false}'},
    ]
    applied = api.owner.do("POST", "/apply", {"files": files})
    assert [c["place"] for c in applied["plan"]["changes"]] == ["a.yaml:1", "b.json:1", "a.yaml:1"]


NAMING = {
    "targets": {"targets": [{"model": "small", "source": "own"}]},
    "canary": {"targets": [{"model": "large"}], "canary": {"model": "small", "source": "own", "share_milli": 10}},
    "shadow": {"targets": [{"model": "large"}], "shadow": {"model": "small", "source": "own", "share_milli": 10}},
    "cascade": {
        "cascade": {"steps": [{"model": "small", "source": "own"}, {"model": "large"}], "checks": ["finish"]},
    },
}


@pytest.mark.parametrize("place", NAMING)
@pytest.mark.parametrize("owner", ["", "acme"], ids=["platforms", "tenants"])
def test_a_source_that_any_part_of_an_alias_names_is_found_and_stays(api: Running, place: str, owner: str) -> None:
    source = {"name": "own", "kind": "vllm", "url": "https://10.0.0.9", "tenant": owner}
    if not owner:
        source |= {"granted_to": ["acme"]}
    api.owner.apply(json.dumps({"tenants": [{"name": "acme"}], "sources": [source]}))
    spec = {"name": "a", **NAMING[place]}
    document = json.dumps({"tenants": [{"name": "acme", "aliases": [spec]}]})
    assert _steps(_plan(api, document)) == ["create alias a"]
    made = api.owner.do("POST", "/tenants/acme/aliases", spec)
    assert api.owner.apply(document)["plan"]["changes"] == [] and made
    status, refused = api.owner.call("DELETE", "/sources/own")
    assert (status, refused["error"]["code"]) == (409, "still_used")
    gone = json.loads(document.replace('"own"', '"nowhere"'))
    assert api.owner.call("PUT", "/tenants/acme/aliases/a", gone["tenants"][0]["aliases"][0])[0] == 400
