"""P4 over the admin API: what a real worker recorded is decided again on the snapshot that the record names."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from interlock.storage import snapshots
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.types.identity import PrincipalKind
from interlock.types.record import Intent, Refusal
from interlock.types.snapshot import Alias, AliasTarget, Canary, Cascade, CascadeStep, Shadow, Trial
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source, template
from tests.integration.control_client import Admin, Running, control_over
from tests.integration.gateway.client import CHAT, ask, eventually

VERSION_BASE = 1_000_000
"""Above what the control plane of these tests compiles by itself."""


@pytest.fixture(scope="module")
def api(postgres_url: str) -> Iterator[Running]:
    with control_over(postgres_url) as running:
        yield running


class Site:
    """A worker whose snapshots are in the database too, as the compiler would have put them there."""

    def __init__(self, api: Running, world: World) -> None:
        self.api = api
        self.versions: dict[int, int] = {}
        self.gateway = WorkerHarness(world)

    def publish(self) -> None:
        """Store the worker's snapshot under a version of its own; only a superseded version may differ in number."""
        view = self.gateway.view
        with self.api.control.store.compiling() as conn:
            assert conn is not None
            newest = snapshots.head(conn)
            version = max(newest.version if newest else 0, VERSION_BASE) + 1
            head = msgspec.structs.replace(view.head, version=version)
            parts = [msgspec.structs.replace(part, version=version) for part in view.parts()]
            snapshots.publish(conn, head, parts, snapshots.Dirty())
        self.versions[view.version] = version

    def replay(self, record: Intent | Refusal, by: Admin | None = None) -> tuple[int, Any]:
        """(status, answer) for a record, with the version it has in the database."""
        version = self.versions.get(record.snapshot_version, record.snapshot_version)
        named = msgspec.structs.replace(record, snapshot_version=version)
        encoded = base64.b64encode(msgspec.msgpack.encode(named)).decode()
        return (by or self.api.owner).call("POST", "/replay", {"record": encoded}, reason="")

    def same(self, record: Intent | Refusal) -> bool:
        """Whether a record replays as it was."""
        status, told = self.replay(record)
        assert status == 200, told
        assert told["same"] is not bool(told["differences"])
        return bool(told["same"])

    def stages(self, record: Intent | Refusal) -> set[str]:
        """The stages in which a record differs."""
        status, told = self.replay(record)
        assert status == 200, told
        return {difference["stage"] for difference in told["differences"]}


def world(url: str, team: str = "research") -> World:
    models = (model("small", quality_milli=300), model("large", quality_milli=900))
    return World(
        [source("a", url, *models), source("b", url, *models)],
        people=[
            Who(),
            Who("robot", kind=PrincipalKind.agent, scopes=("infer", "assert-user"), may_act_for=("*",)),
            Who("mallory", team="sales"),
        ],
        policies=[template("team-models", "team-may-use-models", "ten_acme", team=team, models=["small", "large"])],
        aliases=[Alias("canary", targets=(AliasTarget("large"), AliasTarget("small")))],
    )


@pytest.fixture(scope="module")
def site(api: Running) -> Iterator[Site]:
    with ScriptedEngine().in_thread() as engine:
        made = Site(api, world(engine.base_url))
        with made.gateway:
            made.publish()
            for name in ("canary", "auto", "small", "a::large", "auto:eco"):
                assert ask(made.gateway, {**CHAT, "model": name}).status == 200
            key = made.gateway.key("robot")
            told = ask(made.gateway, {**CHAT, "model": "auto"}, key=key, x_interlock_assert_user="alice")
            assert told.status == 200, told
            assert ask(made.gateway, {**CHAT, "model": "small"}, key=made.gateway.key("mallory")).status == 404
            yield made


def test_real_records_replay(site: Site) -> None:
    intents, refusals = site.gateway.records_of(Intent), site.gateway.records_of(Refusal)
    assert len(intents) >= 6 and refusals
    for record in (*intents, *refusals):
        assert site.same(record), site.replay(record)
    assert site.replay(intents[0])[1]["decided"] == ["resolve", "policy", "route"]
    assert site.replay(refusals[0])[1]["decided"] == ["resolve", "policy"]


def test_an_older_record_agrees_after_its_policy_was_changed(site: Site) -> None:
    """Decided on the snapshot that it names, not on the newest, on which it would be denied."""
    before = site.gateway.records_of(Intent)
    engine_url = site.gateway.view.sources[0].base_url
    site.gateway.change(world(engine_url, team="sales"))
    site.publish()
    try:
        answer = ask(site.gateway, {**CHAT, "model": "small"}, key=site.gateway.key("mallory"))
        assert answer.status == 200
        newer = next(r for r in site.gateway.records_of(Intent) if r not in before)
        assert site.same(newer)
        for record in before:
            assert site.same(record), site.replay(record)
        claimed = msgspec.structs.replace(before[0], snapshot_version=newer.snapshot_version)
        assert {"snapshot", "policy"} <= site.stages(claimed)
    finally:
        site.gateway.change(world(engine_url))
        site.publish()


def test_what_the_time_decided_is_decided_again_at_that_time(site: Site) -> None:
    now = datetime.now(UTC)
    during = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    engine_url = site.gateway.view.sources[0].base_url
    policies = [*world(engine_url).policies, template("window", "maintenance-window", sources=["a"], **during)]
    trial = Trial("d" * 64, ())  # the platform without its window
    site.gateway.change(dataclasses.replace(world(engine_url), policies=policies, trials=[trial]))
    site.publish()
    try:
        assert ask(site.gateway, {**CHAT, "model": "small"}).status == 200
        record = site.gateway.records_of(Intent)[-1]
        assert [r.offer for r in record.permits] == ["b::small"] and record.trials[0].would == "other"
        assert site.same(record), site.replay(record)
        earlier = msgspec.structs.replace(record, wall_ns=record.wall_ns - 7200 * 10**9)
        assert "policy" in site.stages(earlier)
        told = msgspec.structs.replace(record.trials[0], would="same")
        assert site.stages(msgspec.structs.replace(record, trials=(told,))) == {"policy"}
    finally:
        site.gateway.change(world(engine_url))
        site.publish()


def test_a_tampered_record_disagrees(site: Site) -> None:
    replace = msgspec.structs.replace
    record = next(r for r in site.gateway.records_of(Intent) if len(r.route.candidates) > 1)
    route, permits, party = record.route, record.permits, record.parties[0]
    best = replace(route.candidates[0], score_micro=route.candidates[0].score_micro + 1)
    tampered = {
        "order": (replace(record, route=replace(route, candidates=route.candidates[::-1])), {"route"}),
        "score": (replace(record, route=replace(route, candidates=(best, *route.candidates[1:]))), {"route"}),
        "seed": (replace(record, target=replace(record.target, model="other", kind="model")), {"resolve"}),
        "team": (replace(record, parties=(replace(party, team_ids=()),)), {"policy"}),
        "name": (replace(record, permits=(replace(permits[0], policy_ids=("x",)), *permits[1:])), {"policy"}),
        "permit": (replace(record, permits=permits[1:]), {"policy"}),
        "root": (replace(record, snapshot_root=bytes(32)), {"snapshot"}),
        "router": (replace(record, route=replace(route, router_version=9)), {"snapshot"}),
    }
    for name, (changed, expected) in tampered.items():
        assert expected <= site.stages(changed), name
    refusal = site.gateway.records_of(Refusal)[0]
    assert refusal.reasons and site.stages(replace(refusal, reasons=())) == {"policy"}


def test_what_is_missing_is_said(site: Site) -> None:
    record = site.gateway.records_of(Intent)[0]
    status, told = site.replay(msgspec.structs.replace(record, snapshot_version=77_000_000))
    assert (status, told["error"]["code"]) == (404, "snapshot_gone") and "77000000" in told["error"]["message"]
    early = msgspec.structs.replace(site.gateway.records_of(Refusal)[0], features=None)
    for nothing in (early, msgspec.structs.replace(record, parties=())):
        status, told = site.replay(nothing)
        assert (status, told["error"]["code"]) == (400, "nothing_to_replay")
    for text in ("", "AAAA", base64.b64encode(msgspec.msgpack.encode([8, "x", 0, 0])).decode()):
        assert site.api.owner.call("POST", "/replay", {"record": text}, reason="")[0] == 400


def test_a_record_is_replayed_for_who_may_ask_in_its_tenant(site: Site, api: Running) -> None:
    owner = api.owner
    for tenant in ("north", "south"):
        owner.do("POST", "/tenants", {"name": tenant})
    owner.do("POST", "/tenants/north/principals", {"name": "dev"})
    owner.do("POST", "/tenants/north/roles", {"principal": "dev", "role": "developer"})
    made = owner.do("POST", "/tenants/north/keys", {"name": "dev", "principal": "dev", "scopes": ["admin"]})
    dev = api.as_(made["key"])
    record = site.gateway.records_of(Intent)[0]
    ids = {t: owner.get(f"/tenants/{t}")["id"] for t in ("north", "south")}
    assert site.replay(msgspec.structs.replace(record, tenant_id=ids["north"]), dev)[0] == 200
    for other in (ids["south"], "", "ten_acme"):
        assert site.replay(msgspec.structs.replace(record, tenant_id=other), dev)[0] == 403


def test_a_policy_for_everybody_replays_too(api: Running) -> None:
    with ScriptedEngine().in_thread() as engine:
        open_world = World([source("a", engine.base_url)], policies=[permit_all()])
        site = Site(api, open_world)
        with site.gateway:
            site.publish()
            assert ask(site.gateway, CHAT).status == 200
            assert all(site.same(r) for r in site.gateway.records_of(Intent))


def test_a_canary_that_was_taken_back_replays(api: Running) -> None:
    script = answers.error(500)
    with ScriptedEngine(
        default=lambda r: (script if r.json["model"] == "new" else answers.answer())(r)
    ).in_thread() as e:
        canary = Canary("can_1", AliasTarget("new"), 500, 1, calls_min=10, sticky=False)
        sticky = Canary("can_2", AliasTarget("new"), 500, 1, calls_min=10, sticky=True)
        # Of the first two no call may be left to the other targets before they are taken back.
        rare = Canary("can_3", AliasTarget("new"), 1, 1, calls_min=10, sticky=False)
        aliases = [
            Alias("d", targets=(AliasTarget("old"),), canary=rare),
            Alias("a", targets=(AliasTarget("old"),), canary=canary),
            Alias("b", targets=(AliasTarget("old"),), canary=sticky),
            Alias("c", targets=(AliasTarget("old"),), shadow=Shadow(AliasTarget("new"), 1000)),
        ]
        site = Site(api, World([source("s", e.base_url, model("old"), model("new"))], aliases=aliases))
        with site.gateway:
            site.publish()
            for _ in range(12):
                for name in ("a", "b", "c", "d"):
                    ask(site.gateway, {**CHAT, "model": name})
            eventually(lambda: not site.gateway.worker.runtime.shadows)  # type: ignore[union-attr]
            records = site.gateway.records_of(Intent)
            assert {"canary", "stable", "off", "shadow"} <= {record.target.canary for record in records}
            for record in records:
                assert site.same(record), (record.target, site.replay(record))
            off = next(record for record in records if record.target.canary == "off")
            claimed = msgspec.structs.replace(off, target=msgspec.structs.replace(off.target, model="new"))
            assert "resolve" in site.stages(claimed)


def test_a_cascade_replays(api: Running) -> None:
    bad = answers.answer("no JSON")
    with ScriptedEngine(
        default=lambda r: (bad if r.json["model"] == "one" else answers.answer("{}"))(r)
    ).in_thread() as e:
        alias = Alias("a", cascade=Cascade((CascadeStep("one"), CascadeStep("two"), CascadeStep("three")), ("json",)))
        models = [model(name) for name in ("one", "two", "three")]
        policies = [template("team-models", "team-may-use-models", "ten_acme", team="research", models=["one", "two"])]
        sources = [source("s", e.base_url, *models), source("t", e.base_url, *models)]
        site = Site(api, World(sources, aliases=[alias], policies=policies))
        with site.gateway:
            site.publish()
            assert ask(site.gateway, {**CHAT, "model": "a"}).headers["x-interlock-cascade"].startswith("step=2/3")
            ask(site.gateway, {"model": "a", "input": "x"}, path="/v1/embeddings")
            (record, *others) = site.gateway.records_of(Intent)
            assert len(record.route.candidates) == 4
            for each in (record, *others, *site.gateway.records_of(Refusal)):
                assert site.same(each), (each, site.replay(each))
            steps = record.target.steps[::-1]
            claimed = msgspec.structs.replace(record, target=msgspec.structs.replace(record.target, steps=steps))
            assert "resolve" in site.stages(claimed)
