"""Sources and aliases in the console over a real database: who may look where, and what a form leaves as it was."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.identity import console_password_path, ensure_console_password
from interlock.storage import changes
from interlock.types.source import Model

from .control_client import Running, control_over

URL = "http://10.0.0.7:8000"
CONFIG = f"""
tenants:
  - name: acme
    principals: [{{name: olga}}]
    roles: [{{principal: olga, role: admin}}]
    aliases: [{{name: helper, targets: [{{model: m}}]}}]
  - name: globex
    aliases: [{{name: secret-project, targets: [{{model: m}}]}}]
sources:
  - {{name: ours, kind: vllm, url: "{URL}", granted_to: ["*"], labels: {{region: eu, extra: {{rack: r7}}}},
     credential: {{env: VLLM_KEY}}, price: {{input_usd_per_mtok: 2}}, limits: {{waiting_max: 5}}}}
  - {{name: theirs, kind: vllm, url: "http://10.0.0.8:8000", granted_to: [globex]}}
"""
OLGAS = "correct horse battery"


@pytest.fixture(scope="module")
def running(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        running.engines.models[URL] = (Model("m", version="sha256:1", context_length=8192),)
        assert ensure_console_password(running.control.store, running.control.tools)
        yield running


@pytest.fixture(autouse=True)
def configured(running: Running) -> None:
    running.owner.apply(CONFIG)
    running.owner.do("POST", "/tenants/acme/principals/olga/password", {"password": OLGAS})
    running.engines.asked.clear()


class Visitor:
    """A browser that is signed in."""

    def __init__(self, running: Running, name: str, password: str) -> None:
        self.http = TestClient(make_app(running.control.api), base_url="https://testserver", follow_redirects=False)
        self.http.headers["origin"] = "https://testserver"
        assert self.http.post("/console/sign-in", data={"name": name, "password": password}).status_code == 303

    def get(self, path: str) -> Any:
        return self.http.get(f"/console{path}")

    def post(self, path: str, **form: Any) -> Any:
        found = re.search(r'data-csrf="([^"]+)"', self.http.get("/console/health").text)
        assert found is not None
        return self.http.post(f"/console{path}", data={"csrf": found[1], **form})


@pytest.fixture
def admin(running: Running) -> Visitor:
    return Visitor(running, "admin", console_password_path(running.control.tools).read_text().strip())


@pytest.fixture
def olga(running: Running) -> Visitor:
    return Visitor(running, "acme/olga", OLGAS)


def _looks(running: Running) -> list[changes.Change]:
    with running.control.store.platform() as conn:
        return [each for each in changes.page(conn, limit=200) if each.action == "source.look"]


NEW = {"name": "new", "kind": "vllm", "url": URL}


def test_a_look_is_the_platforms_and_on_record_before_anything_is_asked(running: Running) -> None:
    before = len(_looks(running))
    key = running.owner.do("POST", "/tenants/acme/keys", {"name": "o", "principal": "olga", "scopes": ["admin"]})["key"]
    status, _ = running.as_(key).call("POST", "/sources/look", NEW)
    assert status == 403 and running.engines.asked == [] and len(_looks(running)) == before
    found = running.owner.do("POST", "/sources/look", {**NEW, "credential": {"env": "VLLM_KEY"}})
    assert found["engine"] == "scripted" and [offer["name"] for offer in found["offers"]] == ["m"]
    (look, *_) = _looks(running)
    assert len(_looks(running)) == before + 1
    assert look.after is not None and (look.after["url"], look.after["credential"]) == (URL, {"env": "VLLM_KEY"})
    assert running.owner.call("GET", "/sources/new")[0] == 404
    running.owner.do("DELETE", "/tenants/acme/keys/o")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"url": "file:///etc/passwd"}, 400),
        ({"url": "http://user:pw@10.0.0.7"}, 400),
        ({"credential": {"env": "INTERLOCK_PEPPER"}}, 400),
        ({"credential": {"file": "relative/path"}}, 400),
        ({"name": "ours"}, 409),
        ({"name": "<b>"}, 400),
    ],
)
def test_what_could_not_be_registered_is_not_looked_at(running: Running, fields: dict[str, Any], status: int) -> None:
    found, error = running.owner.call("POST", "/sources/look", {**NEW, **fields})
    assert found == status, error
    assert running.engines.asked == []


def test_no_secret_of_interlock_itself_is_sent_anywhere(running: Running) -> None:
    file = Path(running.control.settings.home, "secrets", "admin_key").absolute()
    status, _ = running.owner.call("POST", "/sources/look", {**NEW, "credential": {"file": str(file)}})
    assert status == 400 and running.engines.asked == []


def test_who_may_not_register_gets_no_page_and_asks_nobody(running: Running, olga: Visitor) -> None:
    assert olga.get("/sources/-/register").status_code == 404
    refused = olga.post("/sources/-/register", do="look", **NEW)
    assert refused.status_code == 403 and running.engines.asked == []
    assert olga.post("/sources/-/register", do="store", reason="r", **NEW).status_code == 403
    for verb in ("drain", "resume", "test", "remove"):
        assert olga.post("/sources/ours", do=verb, reason="r").status_code in (403, 404)
    assert running.engines.asked == []
    assert olga.post("/sources/ours/edit", reason="r", region="x").status_code == 404
    shown = running.owner.get("/sources/ours")
    assert not shown["drained"] and shown["labels"]["region"] == "eu"


def test_a_tenant_sees_what_it_may_be_given_and_not_how_that_is_reached(olga: Visitor) -> None:
    listed, one = olga.get("/sources"), olga.get("/sources/ours")
    assert "ours" in listed.text and "theirs" not in listed.text
    assert one.status_code == 200 and "10.0.0.7" not in one.text and "VLLM_KEY" not in one.text
    assert olga.get("/sources/theirs").status_code == 404


def test_registering_stores_what_was_confirmed(running: Running, admin: Visitor) -> None:
    seen = admin.post("/sources/-/register", do="look", **NEW)
    assert seen.status_code == 200 and "scripted" in seen.text and "8\u202f192" in seen.text
    bounds = {"region": "eu", "on_prem": "no", "data_class_max": "public", "granted_to": ["acme"]}
    empty = admin.post("/sources/-/register", do="store", **NEW, **bounds)
    assert empty.status_code == 400 and 'value="eu"' in empty.text, "what was typed stays"
    assert running.owner.call("GET", "/sources/new")[0] == 404
    done = admin.post("/sources/-/register", do="store", reason="a new one", concurrency="4", **NEW, **bounds)
    assert done.status_code == 303
    shown = running.owner.get("/sources/new")
    assert shown["labels"] == {"region": "eu", "on_prem": False, "data_class_max": "public"}
    assert shown["granted_to"] == ["acme"] and shown["limits"] == {"concurrency": 4}
    assert admin.post("/sources/new", do="remove", reason="over").status_code == 303


def test_a_form_leaves_what_it_does_not_show(running: Running, admin: Visitor) -> None:
    before = running.owner.get("/sources/ours")
    form = {"region": "us", "on_prem": "yes", "data_class_max": "restricted", "granted_to": ["*"], "waiting_max": "5",
            "waiting_resume": "2", "revision": str(before["revision"])}  # fmt: skip
    assert admin.post("/sources/ours/edit", reason="moved", **form).status_code == 303
    after = running.owner.get("/sources/ours")
    assert after["labels"] == {"region": "us", "extra": {"rack": "r7"}}
    for field in ("credential", "price", "limits", "granted_to", "url"):
        assert after[field] == before[field]
    late = admin.post("/sources/ours/edit", reason="moved again", **{**form, "region": "asia"})
    assert late.status_code == 409 and 'value="asia"' in late.text, "it has changed since it was read"
    assert running.owner.get("/sources/ours")["labels"]["region"] == "us"


def test_a_source_that_an_alias_leads_to_stays(running: Running, admin: Visitor) -> None:
    alias = {"name": "pinned", "targets": [{"model": "m", "source": "ours"}]}
    running.owner.do("POST", "/aliases", alias)
    try:
        assert "pinned" in admin.get("/sources/ours").text
        assert admin.post("/sources/ours", do="remove", reason="r").status_code == 409
    finally:
        running.owner.do("DELETE", "/aliases/pinned")


def test_a_cascade_is_shown_kept_and_holds_its_sources(running: Running, admin: Visitor) -> None:
    cascade = {"steps": [{"model": "m", "source": "ours"}, {"model": "large"}], "checks": ["json", "finish"]}
    running.owner.do("POST", "/aliases", {"name": "extract", "cascade": {**cascade, "time_ms_max": 900}})
    try:
        page = admin.get("/aliases/-/extract").text
        assert "m at ours" in page and "json, finish" in page and "after 900 ms" in page
        assert "cascade: m" in admin.get("/aliases").text
        assert admin.post("/sources/ours", do="remove", reason="r").status_code == 409
        saved = admin.post("/aliases/-/extract", do="save", model_0="m", max_tokens="7", reason="r")
        assert saved.status_code == 303, saved.text
        item = running.owner.get("/aliases/extract")
        assert item["max_tokens"] == 7 and item["cascade"]["steps"] == cascade["steps"]
        begun = admin.post("/aliases/-/extract", do="shadow-start", candidate="m", share_percent="10", reason="try")
        assert begun.status_code == 422 or begun.status_code == 400, begun.status_code
        assert "has a cascade or a shadow, not both" in begun.text
    finally:
        running.owner.do("DELETE", "/aliases/extract")


def test_a_cascade_is_made_changed_and_ended_on_its_page(running: Running, olga: Visitor) -> None:
    path = "/aliases/acme/helper"
    before = running.owner.get("/tenants/acme/aliases/helper")
    steps = {"step_model_0": "m", "step_source_0": "ours", "step_model_1": " large ", "step_model_2": ""}
    whole = {**steps, "check_json": "1", "check_confidence": "1", "confidence_percent": "62,5", "money_usd": "0.02"}
    try:
        made = olga.post(path, do="cascade-save", reason="cheap first", time_ms="20000", **whole)
        assert made.status_code == 303, made.text
        item = running.owner.get("/tenants/acme/aliases/helper")
        assert item["cascade"] == {
            "steps": [{"model": "m", "source": "ours"}, {"model": "large"}],
            "checks": ["json", "confidence"], "confidence_min_milli": 625, "money_nusd_max": 20_000_000,
            "time_ms_max": 20_000,
        }  # fmt: skip
        assert item["targets"] == before["targets"]
        page = olga.get(path).text
        assert "62.5 %" in page and 'name="confidence_percent" type="text" value="62.5"' in page
        assert 'name="money_usd" type="text" value="0.02"' in page and page.count('name="step_model_') == 4
        begun = olga.post(path, do="shadow-start", candidate="m", share_percent="10", reason="try")
        assert begun.status_code == 400
        late = olga.post(path, do="cascade-save", reason="r", revision=str(before["revision"]), **whole)
        assert late.status_code == 409 and 'value=" large "' in late.text
        ended = olga.post(path, do="cascade-end", reason="enough")
        assert ended.status_code == 303
        assert running.owner.get("/tenants/acme/aliases/helper")["cascade"] is None
    finally:
        running.owner.do("PUT", "/tenants/acme/aliases/helper", {"name": "helper", "targets": [{"model": "m"}]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step_model_1": ""}, "a cascade has 2 to 8 steps"),
        ({"step_model_1": "m"}, "each step is another model"),
        ({"step_model_1": "no model"}, "is no model name"),
        ({"step_source_0": "nowhere"}, "there is no source"),
        ({"step_model_1": "", "step_source_1": "ours"}, "step 2 names a source and no model"),
        ({"check_json": None}, "names each check once, and at least one"),
        ({"check_confidence": "1"}, "both are given, or neither"),
        ({"confidence_percent": "50"}, "both are given, or neither"),
        ({"check_confidence": "1", "confidence_percent": "0.05"}, "is no percentage"),
        ({"check_confidence": "1", "confidence_percent": "NaN"}, "is no percentage"),
        ({"check_confidence": "1", "confidence_percent": "100.1"}, "is no percentage"),
        ({"check_confidence": "1", "confidence_percent": "0"}, "Confidence: more than 0"),
        ({"money_usd": "a lot"}, "a lot"),
        ({"money_usd": "0"}, "No further step beyond: more than 0"),
        ({"time_ms": "1.5"}, "whole number"),
        ({"time_ms": "0"}, "No further step after: at least 1"),
    ],
)
def test_what_is_no_cascade_is_refused_and_kept_as_typed(
    running: Running, olga: Visitor, change: dict[str, str | None], words: str
) -> None:
    form = {"step_model_0": "m", "step_source_0": "", "step_model_1": "large", "check_json": "1", **change}
    sent = {name: value for name, value in form.items() if value is not None}
    refused = olga.post("/aliases/acme/helper", do="cascade-save", reason="r", **sent)
    assert refused.status_code in (400, 422), refused.text
    alert = refused.text.partition('role="alert">')[2].partition("</div>")[0]
    assert words in html.unescape(alert), alert
    for name in ("step_model_1", "money_usd", "confidence_percent"):
        if form.get(name):
            assert f'name="{name}"' in refused.text and f'value="{form[name]}"' in refused.text
    assert running.owner.get("/tenants/acme/aliases/helper")["cascade"] is None


def test_objectives_and_weights_are_set_changed_and_cleared_on_the_page(running: Running, olga: Visitor) -> None:
    path = "/aliases/acme/helper"
    before = running.owner.get("/tenants/acme/aliases/helper")
    form = {"slo_ttft_ms": " 800 ", "slo_latency_ms": "", "slo_cost_usd": "0,02", "own_quality": "6", "own_cost": "0"}
    try:
        made = olga.post(path, do="objectives-save", reason="a promise", slo_strict="1", **form)
        assert made.status_code == 303, made.text
        item = running.owner.get("/tenants/acme/aliases/helper")
        assert item["slo"] == {"ttft_ms": 800, "cost_usd": "0.02", "strict": True} and item["weights"] == {"quality": 6}
        assert item["targets"] == before["targets"]
        page = olga.get(path).text
        assert "a first byte within 800 ms, at most 0.02 USD, and are refused" in page and "(100.0 %)" in page
        assert 'name="slo_cost_usd" type="text" value="0.02"' in page
        saved = olga.post(path, do="save", reason="r", model_0="m", revision=str(item["revision"]))
        assert saved.status_code == 303
        kept = running.owner.get("/tenants/acme/aliases/helper")
        assert (kept["slo"], kept["weights"]) == (item["slo"], item["weights"]), "the form of targets leaves them"
        late = olga.post(path, do="objectives-save", reason="r", **{**form, "revision": str(before["revision"])})
        assert late.status_code == 409 and 'value=" 800 "' in late.text
        cleared = olga.post(path, do="objectives-save", reason="no more", slo_ttft_ms="", slo_cost_usd=" ")
        assert cleared.status_code == 303
        item = running.owner.get("/tenants/acme/aliases/helper")
        assert (item["slo"], item["weights"]) == (None, None)
        changes = running.owner.get("/tenants/acme/changes?limit=50")["items"]
        assert {"a promise", "no more"} <= {each["reason"] for each in changes}
    finally:
        running.owner.do("PUT", "/tenants/acme/aliases/helper", {"name": "helper", "targets": [{"model": "m"}]})


def test_whoever_only_looks_is_offered_no_objectives_and_refused(running: Running) -> None:
    owner, helper = running.owner, {"name": "helper", "targets": [{"model": "m"}]}
    owner.do("POST", "/tenants/acme/principals", {"name": "vera"})
    owner.do("POST", "/tenants/acme/roles", {"principal": "vera", "role": "viewer"})
    owner.do("POST", "/tenants/acme/principals/vera/password", {"password": OLGAS})
    owner.do("PUT", "/tenants/acme/aliases/helper", {**helper, "slo": {"latency_ms": 900}})
    try:
        vera = Visitor(running, "acme/vera", OLGAS)
        page = vera.get("/aliases/acme/helper").text
        assert "an end within 900 ms" in page and "slo_latency_ms" not in page and "/console/usage" not in page
        refused = vera.post("/aliases/acme/helper", do="objectives-save", reason="r", slo_latency_ms="1")
        assert refused.status_code == 403
        assert owner.get("/tenants/acme/aliases/helper")["slo"]["latency_ms"] == 900
    finally:
        owner.do("PUT", "/tenants/acme/aliases/helper", helper)


def test_what_is_no_objective_is_told_at_its_field_and_kept_as_typed(running: Running, olga: Visitor) -> None:
    sent = {"slo_ttft_ms": "0", "slo_latency_ms": "900", "slo_cost_usd": "<b>", "own_energy": "1000001"}
    refused = olga.post("/aliases/acme/helper", do="objectives-save", reason="r", **sent)
    assert refused.status_code == 400
    for name in sent:
        field = refused.text.partition(f'id="f-objectives-{name}"')[2].partition(">")[0]
        assert ('aria-invalid="true"' in field) == (name != "slo_latency_ms"), name
        assert ("autofocus" in field) == (name == "slo_ttft_ms"), "one arrives at the first"
        if name != "slo_latency_ms":
            assert f'aria-describedby="e-objectives-{name}' in field
            assert f'id="e-objectives-{name}"' in refused.text and f'href="#f-objectives-{name}"' in refused.text
    assert "3 fields are wrong" in refused.text and "<b>" not in refused.text.partition("<main")[2]
    assert 'value="&lt;b&gt;"' in refused.text and 'value="900"' in refused.text
    assert running.owner.get("/tenants/acme/aliases/helper")["slo"] is None


def test_a_cascade_without_targets_cannot_be_ended_and_a_canary_excludes_it(running: Running, admin: Visitor) -> None:
    steps = [{"model": "m"}, {"model": "large"}]
    running.owner.do("POST", "/aliases", {"name": "stepped", "cascade": {"steps": steps, "checks": ["finish"]}})
    try:
        page = admin.get("/aliases/-/stepped").text
        assert "cascade-end" not in page
        assert 'value="canary-start"' not in page and 'value="shadow-start"' not in page, "what would be refused"
        refused = admin.post("/aliases/-/stepped", do="cascade-end", reason="r")
        assert refused.status_code in (400, 422) and "at least one target" in refused.text
    finally:
        running.owner.do("DELETE", "/aliases/stepped")


def test_aliases_of_others_are_not_there(running: Running, olga: Visitor) -> None:
    running.owner.do("POST", "/aliases", {"name": "house", "targets": [{"model": "m"}]})
    try:
        listed = olga.get("/aliases").text
        assert "helper" in listed and "secret-project" not in listed and "house" not in listed
        for path in ("/aliases/globex/secret-project", "/aliases/-/house", "/aliases/nowhere/x"):
            assert olga.get(path).status_code == 404
            assert olga.post(path, do="remove", reason="r").status_code == 404
        made = olga.post("/aliases/-/-/new", tenant="", name="mine", model_0="m", reason="r")
        assert made.status_code == 403
    finally:
        running.owner.do("DELETE", "/aliases/house")


def test_a_canary_is_started_once_and_a_failed_one_anew(running: Running, olga: Visitor) -> None:
    form = {"candidate": "m", "share_percent": "10", "errors_milli_max": "100", "reason": "try"}
    begun = olga.post("/aliases/acme/helper", do="canary-start", **form)
    assert begun.status_code == 303, re.findall('role="alert">([^<]*)', begun.text)
    first = running.owner.get("/tenants/acme/aliases/helper")["canary_state"]
    again = olga.post("/aliases/acme/helper", do="canary-start", **form)
    assert again.status_code == 409 and "promote or stop it first" in again.text
    assert running.owner.get("/tenants/acme/aliases/helper")["canary_state"]["id"] == first["id"]
    with running.control.store.platform() as conn:
        conn.execute(
            'UPDATE interlock.aliases SET canary = canary || \'{"state": "failed", "ended_s": 1800000000,'
            ' "ended_why": "41 of 50 calls failed"}\' WHERE name = \'helper\''
        )
    shown = olga.get("/aliases/acme/helper").text
    assert "taken back" in shown and "41 of 50 calls failed" in shown
    assert olga.post("/aliases/acme/helper", do="canary-promote", reason="r").status_code == 409
    assert olga.post("/aliases/acme/helper", do="canary-start", **form).status_code == 303
    anew = running.owner.get("/tenants/acme/aliases/helper")["canary_state"]
    assert anew["state"] == "running" and anew["id"] != first["id"]
    assert olga.post("/aliases/acme/helper", do="canary-stop", reason="over").status_code == 303


def test_a_changed_alias_is_not_overwritten(running: Running, olga: Visitor) -> None:
    read = running.owner.get("/tenants/acme/aliases/helper")
    running.owner.do(
        "PUT", "/tenants/acme/aliases/helper", {"name": "helper", "targets": [{"model": "m", "weight": 2}]}
    )
    form = {"model_0": "m", "weight_0": "9", "revision": str(read["revision"])}
    late = olga.post("/aliases/acme/helper", do="save", reason="r", **form)
    assert late.status_code == 409 and 'value="9"' in late.text


def test_an_alias_of_many_targets_loses_none_to_its_form(running: Running, olga: Visitor) -> None:
    targets = [{"model": f"m{n}", "weight": n + 1, "prefer_version": n == 3} for n in range(30)]
    running.owner.do("PUT", "/tenants/acme/aliases/helper", {"name": "helper", "targets": targets, "class": "batch"})
    read = running.owner.get("/tenants/acme/aliases/helper")
    form = {"revision": str(read["revision"]), "mode": "eco", "reason": "greener"}
    for n, row in enumerate(targets):
        form |= {f"model_{n}": str(row["model"]), f"weight_{n}": str(row["weight"])}
        form |= {f"prefer_{n}": "1"} if row["prefer_version"] else {}
    assert olga.post("/aliases/acme/helper", do="save", **form).status_code == 303
    after = running.owner.get("/tenants/acme/aliases/helper")
    assert after["targets"] == read["targets"] and (after["mode"], after["class"]) == ("eco", "batch")


def test_a_search_by_document_takes_a_hash_only(admin: Visitor) -> None:
    assert admin.get("/calls?tenant=acme&document=contract.pdf").status_code == 400
    assert admin.get("/calls?tenant=acme&document=" + "ab" * 31).status_code == 400
    assert admin.get("/calls?tenant=acme&document=" + "ab" * 32).status_code == 200
