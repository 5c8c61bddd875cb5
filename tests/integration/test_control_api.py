"""The admin API over a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.discovery import DiscoveryLoop
from interlock.types import apikey
from interlock.types.source import Model
from tests.integration.control_client import Admin, Running, control_over


@pytest.fixture(scope="module")
def api(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        yield running


@pytest.fixture(scope="module")
def acme(api: Running) -> Admin:
    """The platform's owner, with a tenant `acme` made."""
    owner = api.owner
    owner.do("POST", "/tenants", {"name": "acme", "time_zone": "Europe/Berlin"})
    owner.do("POST", "/tenants", {"name": "globex"})
    owner.do("POST", "/tenants/acme/teams", {"name": "research", "limits": {"requests_per_minute": 60}})
    for name in ("alice", "bob", "carol"):
        owner.do("POST", "/tenants/acme/principals", {"name": name, "teams": ["research"]})
    return owner


def _admin_of(owner: Admin, tenant: str, principal: str, role: str, key: str) -> Admin:
    owner.do("POST", f"/tenants/{tenant}/roles", {"principal": principal, "role": role})
    made = owner.do("POST", f"/tenants/{tenant}/keys", {"name": key, "principal": principal, "scopes": ["admin"]})
    return Admin(owner.http, made["key"])


@pytest.fixture(scope="module")
def alice(acme: Admin) -> Admin:
    """An administrator of acme."""
    return _admin_of(acme, "acme", "alice", "admin", "alice-admin")


def test_nothing_is_open_but_health_ready_and_metrics(api: Running) -> None:
    document = api.owner.get("/openapi.json")
    for path, methods in document["paths"].items():
        for method in methods:
            shown = path.replace("{", "").replace("}", "")
            for header in ({}, {"authorization": "Bearer il_live_" + "0" * 36}, {"authorization": "Basic eDp5"}):
                answer = api.http.request(method.upper(), shown, headers=header)
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/ready", "/metrics"):
        assert api.http.get(path).status_code == 200
    assert "interlock_control_snapshot_version" in api.http.get("/metrics").text


def test_openapi_describes_bodies_answers_and_parameters(api: Running) -> None:
    document = api.owner.get("/openapi.json")
    put = document["paths"]["/admin/v1/tenants/{tenant}/teams/{name}"]["put"]
    schema = put["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/TeamSpec"}
    assert {p["name"] for p in put["parameters"]} == {"tenant", "name", "X-Interlock-Reason", "If-Match"}
    assert "limits" in document["components"]["schemas"]["TeamSpec"]["properties"]
    ids = [m["operationId"] for methods in document["paths"].values() for m in methods.values()]
    assert len(ids) == len(set(ids))


def test_a_team_lives(acme: Admin) -> None:
    path = "/tenants/acme/teams"
    made = acme.do("POST", path, {"name": "sales", "cost_center": "CC-7"})["item"]
    assert made["revision"] == 1
    assert acme.get(f"{path}/sales")["cost_center"] == "CC-7"
    assert acme.call("POST", path, {"name": "sales"})[0] == 409
    replaced = acme.do("PUT", f"{path}/sales", {"name": "sales", "limits": {"concurrency": 2}})["item"]
    assert (replaced["cost_center"], replaced["limits"]["concurrency"], replaced["revision"]) == ("", 2, 2)
    status, error = acme.call("PUT", f"{path}/sales", {"name": "sales"}, if_match='"1"')
    assert (status, error["error"]["code"]) == (409, "revision_conflict")
    assert acme.call("DELETE", f"{path}/sales")[0] == 200
    assert acme.call("GET", f"{path}/sales")[0] == 404
    assert acme.call("DELETE", f"{path}/sales")[0] == 404


def test_every_change_carries_who_and_why(acme: Admin) -> None:
    status, error = acme.call("POST", "/tenants/acme/teams", {"name": "hr"}, reason="")
    assert (status, error["error"]["param"]) == (400, "reason")
    acme.do("POST", "/tenants/acme/teams", {"name": "hr", "reason": "HR asked for it, ticket 7"})
    change = acme.get("/tenants/acme/changes?limit=1")["items"][0]
    assert (change["action"], change["reason"], change["actor"]) == (
        "team.create",
        "HR asked for it, ticket 7",
        "admin",
    )
    assert change["after"]["name"] == "hr"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tenants/acme/teams", {"name": "x", "limits": {"concurrency": 0}}, "limits.concurrency"),
        ("/tenants/acme/teams", {"name": "x", "limit": {}}, None),
        ("/tenants/acme/teams", {"name": "a b"}, "name"),
        ("/tenants/acme/teams", ["x"], None),
        ("/tenants/acme/principals", {"name": "x", "teams": ["nobody"]}, "teams[0]"),
        ("/tenants/acme/keys", {"name": "x", "principal": "nobody"}, "principal"),
        ("/tenants/acme/aliases", {"name": "auto:x", "targets": [{"model": "m"}]}, "name"),
        ("/tenants/acme/policies", {"id": "x", "cedar": "permit(principal, action, thing);"}, "cedar"),
        ("/tenants/acme/policies", {"id": "x", "template": "team-may-use-models", "parameters": {}}, None),
        ("/tenants", {"name": "platform"}, "name"),
    ],
)
def test_bad_bodies_are_told_with_the_field(acme: Admin, path: str, body: Any, param: str | None) -> None:
    status, error = acme.call("POST", path, body)
    assert status == 400, error
    assert error["error"]["message"]
    if param:
        assert error["error"]["param"] == param


def test_bodies_that_are_no_json_or_too_large_are_refused(api: Running, acme: Admin) -> None:
    headers = {"authorization": f"Bearer {acme.key}", "x-interlock-reason": "test"}
    url = "/admin/v1/tenants/acme/teams"
    assert api.http.post(url, content=b"{", headers=headers).json()["error"]["code"] == "invalid_request"
    assert api.http.post(url, content=b"[" * 100_000, headers=headers).status_code == 400
    assert api.http.post(url, content=b" " * 4_000_001, headers=headers).status_code == 413
    chunks = (b" " * 500_000 for _ in range(9))
    assert api.http.post(url, content=chunks, headers=headers).status_code == 413
    assert api.http.post("/admin/v1/nothing", headers=headers).json()["error"]["code"] == "not_found"
    assert api.http.patch(url, headers=headers).json()["error"]["code"] == "method_not_allowed"


def test_a_key_is_shown_once_rotated_and_revoked(acme: Admin) -> None:
    path = "/tenants/acme/keys"
    made = acme.do("POST", path, {"name": "bob", "principal": "bob", "expires_in_days": 30, "data_class": "public"})
    assert apikey.well_formed(made["key"])
    item = made["item"]
    assert (item["prefix"], item["state"]) == (made["key"][:12], "active")
    assert made["key"] not in str(acme.get(path)) + str(acme.get("/changes"))
    renewed = acme.do("POST", f"{path}/bob/rotate", {"overlap_s": 3600})
    assert renewed["key"] != made["key"]
    assert renewed["item"]["replaces"] == item["id"]
    assert renewed["item"]["data_class"] == "public"
    both = [k for k in acme.get(path)["items"] if k["name"] == "bob"]
    assert [k["state"] for k in both] == ["active", "active"]
    assert both[0]["expires_at"] < both[1]["expires_at"]
    status, _ = acme.call("POST", f"{path}/{item['id']}/rotate", {})
    assert status == 409
    revoked = acme.do("POST", f"{path}/bob/revoke", {"cut": True})["items"]
    assert [k["state"] for k in revoked] == ["revoked", "revoked"]
    assert acme.call("POST", f"{path}/bob/rotate", {})[0] == 409
    status, error = acme.call("POST", path, {"name": "bob", "principal": "bob"})
    assert (status, "revoked" in error["error"]["message"]) == (409, True)


def test_admin_keys_stop_working_when_revoked_expired_or_switched_off(api: Running, acme: Admin) -> None:
    carol = _admin_of(acme, "acme", "carol", "viewer", "carol-admin")
    assert carol.get("/whoami")["principal"] == "carol"
    plain = acme.do("POST", "/tenants/acme/keys", {"name": "carol-plain", "principal": "carol"})["key"]
    status, error = api.as_(plain).call("GET", "/whoami")
    assert (status, error["error"]["code"]) == (403, "admin_denied")
    acme.do("PUT", "/tenants/acme/principals/carol", {"name": "carol", "active": False})
    assert carol.call("GET", "/whoami")[1]["error"]["code"] == "inactive_principal"
    acme.do("PUT", "/tenants/acme/principals/carol", {"name": "carol"})
    acme.do("POST", "/tenants/acme/keys/carol-admin/revoke", {})
    assert carol.call("GET", "/whoami")[1]["error"]["code"] == "revoked_api_key"


def test_a_tenants_administrator_is_confined_to_it(acme: Admin, alice: Admin) -> None:
    assert [t["name"] for t in alice.get("/tenants")["items"]] == ["acme"]
    alice.do("POST", "/tenants/acme/teams", {"name": "made-by-alice"})
    for method, path, body in (
        ("GET", "/tenants/globex", None),
        ("GET", "/tenants/globex/teams", None),
        ("POST", "/tenants/globex/teams", {"name": "x"}),
        ("PUT", "/tenants/globex", {"name": "globex"}),
        ("DELETE", "/tenants/globex", None),
        ("GET", "/tenants/platform/keys", None),
    ):
        assert alice.call(method, path, body)[0] == 404, (method, path)
    for method, path, body in (
        ("POST", "/tenants", {"name": "mine"}),
        ("DELETE", "/tenants/acme", None),
        ("GET", "/changes", None),
        ("GET", "/snapshot", None),
        ("GET", "/sources", None),
        ("POST", "/sources", {"name": "s", "kind": "vllm", "url": "http://10.0.0.1"}),
        ("POST", "/policies", {"id": "p", "cedar": "permit(principal, action, resource);"}),
        ("POST", "/roles", {"principal": "admin", "role": "viewer"}),
    ):
        status, error = alice.call(method, path, body)
        assert (status, error["error"]["code"]) == (403, "admin_denied"), (method, path, error)
    assert acme.get("/tenants/acme/teams/made-by-alice")["name"] == "made-by-alice"


def test_nobody_gains_a_stronger_role_than_their_own(acme: Admin, alice: Admin) -> None:
    acme.do("POST", "/tenants/acme/principals", {"name": "owen"})
    acme.do("POST", "/tenants/acme/roles", {"principal": "owen", "role": "owner"})
    for method, path, body in (
        ("POST", "/tenants/acme/roles", {"principal": "alice", "role": "owner"}),
        ("DELETE", "/tenants/acme/roles/owen:owner", None),
        ("POST", "/tenants/acme/keys", {"name": "sneaky", "principal": "owen", "scopes": ["admin"]}),
        ("DELETE", "/tenants/acme/principals/owen", None),
        ("PUT", "/tenants/acme/principals/owen", {"name": "owen", "active": False}),
    ):
        status, error = alice.call(method, path, body)
        assert (status, error["error"]["code"]) == (403, "admin_denied"), (method, path, error)
    alice.do("POST", "/tenants/acme/roles", {"principal": "bob", "role": "admin"})
    alice.do("DELETE", "/tenants/acme/roles/bob:admin")
    alice.do("POST", "/tenants/acme/keys", {"name": "owen-calls", "principal": "owen"})


def test_the_last_owner_of_the_platform_stays(acme: Admin) -> None:
    for method, path in (("DELETE", "/roles/admin:owner"), ("DELETE", "/tenants/platform/principals/admin")):
        status, error = acme.call(method, path)
        assert (status, "without an owner" in error["error"]["message"]) == (409, True)
    assert acme.call("DELETE", "/tenants/platform")[0] == 400


def test_a_source_is_discovered_when_registered(api: Running, acme: Admin) -> None:
    api.engines.models["http://engine:1"] = (Model(name="m1", context_length=4096), Model(name="m2"))
    done = acme.do(
        "POST",
        "/sources",
        {
            "name": "gpu",
            "kind": "vllm",
            "url": "http://engine:1/",
            "granted_to": ["acme"],
            "price": {"output_usd_per_mtok": 1.5},
            "models": [{"name": "m1", "context_length": 2048}, {"name": "absent"}],
        },
    )
    offers = {m["name"]: m for m in done["item"]["offers"]}
    assert sorted(offers) == ["m1", "m2"]
    assert offers["m1"]["context_length"] == 2048
    assert offers["m2"]["price"]["output_nusd_per_mtok"] == 1_500_000_000
    assert "absent" in done["item"]["warnings"][0]
    assert done["discovery_error"] is None
    down = acme.do("POST", "/sources", {"name": "down", "kind": "vllm", "url": "http://engine:2"})
    assert "refused the connection" in down["discovery_error"]
    api.engines.models["http://engine:2"] = (Model(name="late"),)
    refreshed = acme.do("POST", "/sources/down/refresh")
    assert refreshed["changed"]
    assert [m["name"] for m in refreshed["item"]["offers"]] == ["late"]
    assert acme.do("POST", "/sources/gpu/drain")["item"]["drained"]
    assert not acme.do("POST", "/sources/gpu/undrain")["item"]["drained"]
    actions = [c["action"] for c in acme.get("/changes?limit=20")["items"]]
    assert {"source.drain", "source.undrain", "source.observe", "source.create"} <= set(actions)


def test_an_alias_may_lead_to_granted_sources_only(api: Running, acme: Admin, alice: Admin) -> None:
    api.engines.models["http://engine:3"] = (Model(name="m"),)
    acme.do("POST", "/sources", {"name": "granted", "kind": "vllm", "url": "http://engine:3", "granted_to": ["acme"]})
    acme.do("POST", "/sources", {"name": "hidden", "kind": "vllm", "url": "http://engine:3"})
    shown = {s["name"]: s for s in alice.get("/tenants/acme/sources")["items"]}
    assert "hidden" not in shown
    assert [m["name"] for m in shown["granted"]["offers"]] == ["m"]
    assert "url" not in shown["granted"]
    alias = {"name": "team/fast", "targets": [{"model": "m", "source": "granted"}]}
    alice.do("POST", "/tenants/acme/aliases", alias)
    assert alice.get("/tenants/acme/aliases/team/fast")["targets"][0]["source"] == "granted"
    status, error = alice.call(
        "POST", "/tenants/acme/aliases", {"name": "b", "targets": [{"model": "m", "source": "hidden"}]}
    )
    assert (status, error["error"]["message"]) == (400, "targets[0].source: there is no source 'hidden'")
    assert acme.call("DELETE", "/sources/granted")[1]["error"]["code"] == "still_used"
    alice.do("DELETE", "/tenants/acme/aliases/team/fast")


def test_explanations_name_the_rule_both_ways(api: Running, acme: Admin, alice: Admin) -> None:
    api.engines.models["http://engine:4"] = (Model(name="explained"),)
    acme.do("POST", "/sources", {"name": "ex", "kind": "vllm", "url": "http://engine:4", "granted_to": ["*"]})
    question = {"principal": "alice", "model": "explained"}
    assert not alice.do("POST", "/tenants/acme/explain", question)["permitted"]
    alice.do(
        "POST",
        "/tenants/acme/policies",
        {"id": "ex", "template": "team-may-use-models", "parameters": {"team": "research", "models": ["explained"]}},
    )
    answer = alice.do("POST", "/tenants/acme/explain", question)
    assert answer["permitted"]
    assert any("team research may call explained" in line for line in answer["lines"])
    answer = alice.do("POST", "/tenants/acme/explain", {**question, "data_class": "restricted", "features": ["store"]})
    assert not answer["permitted"]


def test_listings_are_paged(acme: Admin) -> None:
    acme.do("POST", "/tenants", {"name": "pages"})
    for i in range(5):
        acme.do("POST", "/tenants/pages/teams", {"name": f"t{i}"})
    names, after = [], ""
    while True:
        page = acme.get(f"/tenants/pages/teams?limit=2&after={after}")
        names += [t["name"] for t in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert names == [f"t{i}" for i in range(5)]
    assert acme.call("GET", "/tenants/pages/teams?limit=0")[0] == 400
    assert acme.call("GET", "/tenants/pages/teams?limit=many")[1]["error"]["param"] == "limit"
    acme.do("DELETE", "/tenants/pages")
    assert acme.call("GET", "/tenants/pages")[0] == 404


def test_a_lost_admin_key_can_be_replaced(api: Running) -> None:
    from interlock.control.identity import ensure_admin

    control = api.control
    assert not ensure_admin(control.store, control.tools)
    file = Path(control.settings.home, "secrets", "admin_key")
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    api.owner.do("POST", "/tenants/platform/keys/admin/revoke", {})
    assert ensure_admin(control.store, control.tools)
    assert file.read_text() != before
    assert api.as_(file.read_text().strip()).get("/whoami")["roles"] == [{"role": "owner", "tenant": None}]
    api.owner.key = file.read_text().strip()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"credential": {"env": "INTERLOCK_DATABASE_URL"}}, "is Interlock's own secret"),
        ({"credential": {"env": "KEY", "file": "/x"}}, "names either env or file"),
        ({"tenant": "acme", "credential": {"env": "KEY"}}, "cannot read the gateway's environment"),
        ({"tenant": "acme", "credential": {"file": "/etc/shadow"}}, "files of a tenant's source must be in"),
        ({"url": "http://user:secret@engine"}, "holds a user or password"),
    ],
)
def test_a_source_refers_to_no_secret_that_is_not_its_own(acme: Admin, fields: dict[str, Any], words: str) -> None:
    status, error = acme.call("POST", "/sources", {"name": "greedy", "kind": "vllm", "url": "http://e", **fields})
    assert status == 400
    assert words in error["error"]["message"]
    assert acme.call("GET", "/sources/greedy")[0] == 404


def test_sources_are_looked_at_again(api: Running, acme: Admin) -> None:
    control = api.control
    acme.do("POST", "/sources", {"name": "moving", "kind": "vllm", "url": "http://engine:9"})
    loop = DiscoveryLoop(control.store, control.tools, api.engines)
    stop = threading.Event()
    loop.round(stop)
    version = acme.get("/sources/moving")["revision"]
    api.engines.models["http://engine:9"] = (Model(name="first"),)
    assert loop.round(stop, silent_only=True) >= 1
    moving = acme.get("/sources/moving")
    assert ([m["name"] for m in moving["offers"]], moving["discovery_error"]) == (["first"], "")
    assert moving["revision"] == version
    del api.engines.models["http://engine:9"]
    loop.round(stop)
    moving = acme.get("/sources/moving")
    assert [m["name"] for m in moving["offers"]] == ["first"]
    assert "refused" in moving["discovery_error"]


def test_policy_tests_run_on_what_is_stored(acme: Admin, alice: Admin) -> None:
    text = "cases: [{tenant: acme, as: alice, model: nothing, expect: permit}]"
    answer = acme.do("POST", "/policy-test", {"name": "t.yaml", "text": text})
    assert (answer["cases"], answer["failed"]) == (1, 1)
    assert acme.call("POST", "/policy-test", {"name": "t.yaml", "text": "cases: 5"})[0] == 400
    assert alice.call("POST", "/policy-test", {"name": "t.yaml", "text": text})[0] == 403


def test_prices_and_energy_of_a_source_are_shown_and_follow_what_is_declared(api: Running, acme: Admin) -> None:
    api.engines.models["https://api.openai.com"] = (Model(name="gpt-4o"), Model(name="fine-tuned"))
    cloud = {"name": "cloud", "kind": "openai", "url": "https://api.openai.com", "labels": {"on_prem": False}}
    done = acme.do("POST", "/sources", cloud)
    offers = {m["name"]: m for m in done["item"]["offers"]}
    assert offers["gpt-4o"]["price"]["origin"] == "list"
    assert offers["gpt-4o"]["price"]["version"].startswith("genai-prices ")
    assert offers["gpt-4o"]["power"]["method"].startswith("ecologits ")
    assert offers["fine-tuned"]["price"] == {"origin": "none"}
    hour = {"usd": 3.6, "input_tokens_per_s": 10000, "output_tokens_per_s": 1000}
    models = [{"name": "gpt-4o", "price": {"output_usd_per_mtok": 7, "usd_per_call": "0.001"}}]
    done = acme.do("PUT", "/sources/cloud", {**cloud, "gpu_hour": hour, "models": models})
    offers = {m["name"]: m["price"] for m in done["item"]["offers"]}
    assert (offers["gpt-4o"]["origin"], offers["gpt-4o"]["call_nusd"]) == ("source", 1_000_000)
    assert (offers["fine-tuned"]["origin"], offers["fine-tuned"]["hour_nusd"]) == ("hour", 3_600_000_000)
    assert acme.do("PUT", "/sources/cloud", {**cloud, "price_list": "opnai"})["item"]["warnings"] == [
        "price_list 'opnai' is no provider of the price list"
    ]
    status, error = acme.call("PUT", "/sources/cloud", {**cloud, "gpu_hour": hour, "price": {}})
    assert status == 400 and "leave out one of the two" in error["error"]["message"]


def test_an_alias_has_a_request_class(acme: Admin) -> None:
    alias = {"name": "drafts", "targets": [{"model": "m"}], "class": "drafting"}
    assert acme.do("POST", "/tenants/acme/aliases", alias)["item"]["class"] == "drafting"
    assert acme.get("/tenants/acme/aliases/drafts")["class"] == "drafting"
    assert acme.call("PUT", "/tenants/acme/aliases/drafts", {**alias, "class": "x" * 65})[0] == 400
