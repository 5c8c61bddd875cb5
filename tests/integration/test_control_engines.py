"""What supervisors of engines tell the admin API, and those that fall silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.diagnosis import answers_to
from interlock.control.discovery import DiscoveryLoop
from interlock.settings import Settings
from interlock.storage import sources as stored
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.types.source import CredentialRef, Model, Source, SourceKind
from tests.integration.control_client import Running, control_over

URL = "http://127.0.0.1:9100"
REPORT: dict[str, Any] = {"state": "loading", "words": "it loads", "host": "here", "log": "/l", "restarts": 0}


@pytest.fixture(scope="module")
def api(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url, engine_silent_s=2) as running:
        running.owner.do("POST", "/tenants", {"name": "acme"})
        running.owner.do("POST", "/sources", {"name": "gpu", "kind": "vllm", "url": URL, "granted_to": ["*"]})
        yield running


def compiled(api: Running) -> list[Any]:
    """The sources of the newest snapshot."""
    api.control.compiler.compile_once()
    with api.control.store.platform() as conn:
        return stored.everything(conn)


def test_a_report_is_shown_recorded_and_reaches_the_snapshot(api: Running) -> None:
    owner = api.owner
    assert "managed" not in owner.get("/sources/gpu")
    before = compiled(api)[0]
    assert before.engine_state == ""
    shown = owner.do("POST", "/sources/gpu/engine", REPORT)["item"]
    assert shown["managed"]["state"] == "loading" and shown["managed"]["words"] == "it loads"
    assert compiled(api)[0].engine_state == "loading"
    version = api.control.compiler.last.version if api.control.compiler.last else 0
    changes = [c["action"] for c in owner.get("/changes")["items"]]
    assert changes[0] == "source.engine"
    # the same again is no change, and another declaration does not forget it
    owner.do("POST", "/sources/gpu/engine", {**REPORT, "restarts": 3})
    assert [c["action"] for c in owner.get("/changes")["items"]] == changes
    owner.do("PUT", "/sources/gpu", {"name": "gpu", "kind": "vllm", "url": URL, "granted_to": ["acme"]})
    assert owner.get("/sources/gpu")["managed"]["restarts"] == 3
    assert compiled(api)[0].engine_state == "loading"
    assert api.control.compiler.last is not None and api.control.compiler.last.version > version


def test_the_version_of_a_pin_is_on_offer_before_the_engine_answers(api: Running) -> None:
    spec = {"name": "own", "kind": "vllm", "url": "http://127.0.0.1:9101", "granted_to": ["*"]}
    api.owner.do("POST", "/sources", {**spec, "models": [{"name": "m", "version": "sha256:ab"}]})
    own = next(s for s in compiled(api) if s.name == "own")
    assert [(m.name, m.version) for m in own.models] == [("m", "sha256:ab")]
    api.engines.models["http://127.0.0.1:9101"] = (Model(name="m", context_length=4096),)
    api.owner.do("POST", "/sources/own/refresh", {})
    own = next(s for s in compiled(api) if s.name == "own")
    assert [(m.name, m.version, m.context_length) for m in own.models] == [("m", "sha256:ab", 4096)]


def test_what_is_no_report_is_refused(api: Running) -> None:
    for body in ({}, {"state": "lost"}, {"state": "well"}, {"state": "ready", "more": 1}):
        assert api.owner.call("POST", "/sources/gpu/engine", body)[0] == 400
    assert api.owner.call("POST", "/sources/none/engine", REPORT)[0] == 404
    assert api.owner.call("POST", "/sources/gpu/engine", REPORT, reason="")[0] == 400


def test_tenants_see_no_engines_and_do_not_speak_for_them(api: Running) -> None:
    owner = api.owner
    owner.do("POST", "/tenants/acme/principals", {"name": "ada"})
    owner.do("POST", "/tenants/acme/roles", {"principal": "ada", "role": "owner"})
    made = owner.do("POST", "/tenants/acme/keys", {"name": "k", "principal": "ada", "scopes": ["admin"]})
    owner.do("POST", "/sources/gpu/engine", REPORT)
    ada = api.as_(made["key"])
    assert ada.call("POST", "/sources/gpu/engine", REPORT)[0] in (403, 404)
    shown = next(s for s in ada.get("/tenants/acme/sources")["items"] if s["name"] == "gpu")
    assert "managed" not in shown


def test_a_supervisor_that_falls_silent_is_lost_and_may_come_back(api: Running) -> None:
    loop, stop = DiscoveryLoop(api.control.store, api.control.tools, api.engines), threading.Event()
    for state, after in (("loading", "lost"), ("ready", "lost"), ("stopped", "stopped"), ("failed", "failed")):
        api.owner.do("POST", "/sources/gpu/engine", {**REPORT, "state": state})
        loop.round(stop)
        assert api.owner.get("/sources/gpu")["managed"]["state"] == state
        with api.control.store.platform() as conn:
            conn.execute("UPDATE interlock.sources SET engine_seen_at = engine_seen_at - interval '3 seconds'")
        loop.round(stop)
        assert api.owner.get("/sources/gpu")["managed"]["state"] == after
        assert compiled(api)[0].engine_state == after


def test_a_source_that_answers_without_its_credential_is_told_apart(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("the-key")
    settings = Settings(home=str(tmp_path), discovery_timeout_ms=1000)
    for kind in (SourceKind.vllm, SourceKind.openai):
        for status, told in ((401, "closed"), (403, "closed"), (400, "open"), (200, "open"), (404, ""), (503, "")):
            engine = ScriptedEngine(models=("m",))
            engine.script(answers.error(status) if status != 200 else answers.answer())
            with engine.in_thread():
                source = Source("", "s", kind, engine.base_url, credential=CredentialRef(file=str(key)))
                assert answers_to(source, settings) == told, (kind, status)
                (asked,) = engine.calls
                assert "authorization" not in dict(asked.headers)
    assert answers_to(Source("", "s", SourceKind.vllm, "http://127.0.0.1:1"), settings) == ""


def test_facts_for_the_doctor_hold_no_secret(api: Running) -> None:
    api.owner.do("POST", "/tenants/acme/principals", {"name": "idle"})
    api.owner.do("POST", "/tenants/acme/roles", {"principal": "idle", "role": "viewer"})
    facts = api.owner.get("/diagnosis")
    assert facts["schema"] == facts["schema_wanted"]
    assert abs(facts["clock_s"] - facts["database_clock_s"]) < 5
    assert "idle: viewer in acme" in facts["idle_roles"]
    assert {"tenant": "platform", "name": "admin", "admin": True} in facts["keys"]
    assert api.owner.key not in str(facts)

    # a grant that was made lately may be used yet; one of long ago was not
    def unused() -> list[str]:
        return next(s["unused_by"] for s in api.owner.get("/diagnosis")["sources"] if s["name"] == "gpu")

    assert unused() == []
    with api.control.store.platform() as conn:
        conn.execute("UPDATE interlock.sources SET updated_at = updated_at - interval '31 days' WHERE name = 'gpu'")
    assert unused() == ["acme"]
