"""What is kept and for how long, as it is declared, stored, exported and compiled."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from interlock.storage import snapshots
from interlock.types.identity import DataClass, Recording, Retention, Team, Tenant
from interlock.types.snapshot import Alias
from tests.integration.control_client import Running, control_over

DOCUMENT = """
tenants:
- name: acme
  recording: prompt_only
  retention: {contents_days: 90, by_data_class: {restricted: 30, public: 0}}
  teams:
  - {name: works, recording: metadata}
  - {name: rest}
  aliases:
  - {name: quiet, targets: [{model: m}], recording: metadata}
"""


@pytest.fixture
def api(postgres_migrated_url: str) -> Iterator[Running]:
    from interlock.storage.migrate import migrate

    migrate(postgres_migrated_url)
    with control_over(postgres_migrated_url) as running:
        yield running


def test_what_is_declared_is_stored_exported_and_compiled(api: Running) -> None:
    api.owner.apply(DOCUMENT)
    assert api.owner.apply(DOCUMENT)["plan"]["changes"] == []
    (exported,) = api.owner.get("/export?tenant=acme")["tenants"]
    assert exported["recording"] == "prompt_only"
    assert exported["retention"] == {"contents_days": 90, "by_data_class": {"restricted": 30, "public": 0}}
    assert {team["name"]: team.get("recording") for team in exported["teams"]} == {"works": "metadata", "rest": None}
    assert exported["aliases"][0]["recording"] == "metadata"
    compiled = api.control.compiler.compile_once()
    assert compiled is not None
    with api.control.store.compiling() as conn:
        assert conn is not None
        parts = {part.name: part.body for part in snapshots.small_parts(conn, compiled.version)}
    tenants = msgspec.msgpack.decode(parts["tenants"], type=list[Tenant])
    acme = next(tenant for tenant in tenants if tenant.name == "acme")
    assert acme.recording is Recording.prompt_only
    assert acme.retention == Retention(90, {"restricted": 30, "public": 0})
    assert [acme.retention.days(each) for each in DataClass] == [0, 90, 90, 30]
    teams = msgspec.msgpack.decode(parts["teams"], type=list[Team])
    assert {team.name: team.recording for team in teams} == {"works": Recording.metadata, "rest": Recording.full}
    assert msgspec.msgpack.decode(parts["aliases"], type=list[Alias])[0].recording is Recording.metadata


def test_what_is_left_out_is_the_default_again(api: Running) -> None:
    api.owner.apply(DOCUMENT)
    plain = "tenants:\n- name: acme\n  teams: [{name: works}, {name: rest}]\n"
    changes = api.owner.apply(plain)["plan"]["changes"]
    assert sorted(change["name"] for change in changes) == ["acme", "works"]
    found = api.owner.get("/tenants/acme")
    assert (found["retention"], found["recording"]) == (None, "full")


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("recording: nothing", "tenants[0].recording"),
        ("retention: {contents_days: -1}", "tenants[0].retention.contents_days"),
        ("retention: {contents_days: 36501}", "tenants[0].retention.contents_days"),
        ("retention: {contents_days: 1.5}", "tenants[0].retention.contents_days"),
        ("retention: {by_data_class: {secret: 3}}", "tenants[0].retention.by_data_class"),
        ("retention: {by_data_class: {public: -3}}", "tenants[0].retention.by_data_class"),
        ("retention: {entries_days: 3}", "tenants[0].retention"),
        ("teams: [{name: x, recording: 1}]", "tenants[0].teams[0].recording"),
        ("aliases: [{name: x, targets: [{model: m}], recording: all}]", "tenants[0].aliases[0].recording"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(api: Running, field: str, place: str) -> None:
    text = f"tenants:\n- name: acme\n  {field}\n"
    status, answer = api.owner.call("POST", "/plan", {"files": [{"name": "x.yaml", "text": text}]})
    assert status == 400
    assert place in str(answer), answer


def test_how_long_it_is_kept_is_an_owners_decision(api: Running) -> None:
    """Whoever makes the time shorter destroys what is older."""
    api.owner.apply(DOCUMENT)
    clients = {}
    for role in ("admin", "owner"):
        api.owner.do("POST", "/tenants/acme/principals", {"name": role})
        api.owner.do("POST", "/tenants/acme/roles", {"principal": role, "role": role})
        body = {"name": f"{role}-key", "principal": role, "scopes": ["admin"]}
        clients[role] = api.as_(api.owner.do("POST", "/tenants/acme/keys", body)["key"])
    kept = {"contents_days": 90, "by_data_class": {"restricted": 30, "public": 0}}
    same = {"name": "acme", "recording": "full", "retention": kept}
    assert clients["admin"].call("PUT", "/tenants/acme", same)[0] == 200, "what is kept of calls to come is not"
    for retention in ({"contents_days": 1}, {**kept, "by_data_class": {"restricted": 29}}, None):
        changed = {**same, "retention": retention}
        status, answer = clients["admin"].call("PUT", "/tenants/acme", changed)
        assert status == 403 and "ledger.retention" in answer["error"]["message"]
        text = msgspec.json.encode({"tenants": [changed]}).decode()
        files = {"files": [{"name": "x.json", "text": text}]}
        assert clients["admin"].call("POST", "/apply", files)[0] == 403
        assert api.owner.get("/tenants/acme")["retention"] == kept
    assert clients["owner"].call("PUT", "/tenants/acme", {**same, "retention": None})[0] == 200
    assert api.owner.get("/tenants/acme")["retention"] is None
