"""Policies that only report, and policies over cost and time, through a whole worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from interlock.testing.engine import ScriptedEngine
from interlock.types.record import Intent, Refusal
from interlock.types.snapshot import PolicyText, Trial
from interlock.types.source import Labels, Price
from tests.gateway import Who, WorkerHarness, World, model, permit_all, source, template
from tests.integration.gateway.client import CHAT, ask

NOBODY = (PolicyText("nobody", "forbid (principal, action, resource);", words="nobody may call"),)


def test_what_only_reports_is_recorded_and_decides_nothing() -> None:
    people = [Who(), Who("gina", tenant="globex"), Who("bob", team="")]
    with ScriptedEngine().in_thread() as engine:
        sources = [source("a", engine.base_url), source("b", engine.base_url)]
        only_a = PolicyText("only-a", 'forbid (principal, action, resource) unless {resource.source == "a"};')
        acme = Trial("d" * 64, (permit_all(), only_a), "ten_acme")
        platform = Trial("e" * 64, NOBODY)
        world = World(sources, people, trials=[acme, platform])
        with WorkerHarness(world) as gateway:
            assert ask(gateway, CHAT).status == 200
            assert ask(gateway, CHAT, key=gateway.key("gina")).status == 200
            alice, gina = gateway.records_of(Intent)
            assert len(alice.permits) == 2, "both offers may be called, whatever reports"
            of_platform, of_acme = alice.trials
            assert (of_platform.digest, of_platform.would, of_platform.tenant_id) == ("e" * 64, "denied", "")
            assert {r.policy_ids for r in of_platform.reasons} == {("nobody",)}
            assert (of_acme.would, of_acme.allowed, of_acme.tenant_id) == ("other", ("a::m",), "ten_acme")
            assert [r.offer for r in of_acme.reasons] == ["b::m"]
            assert [t.tenant_id for t in gina.trials] == [""], "another tenant's draft is no business of hers"
            runtime = gateway.worker.runtime
            assert runtime is not None
            counted = gateway.call(lambda: dict(runtime.metrics.policy_trials.cells))
            assert counted == {("denied",): 2, ("other",): 1}
            # what is refused is compared too, and stays refused
            gateway.change(World(sources, people, policies=[], trials=[Trial("f" * 64, (permit_all(),))]))
            assert ask(gateway, CHAT).status == 404
            (refused,) = gateway.records_of(Refusal)
            assert (refused.trials[0].would, refused.trials[0].allowed) == ("permitted", ("a::m", "b::m"))
            # one that cannot be evaluated denies nothing
            broken = Trial("0" * 64, (PolicyText("x", "permit (principal"),), "ten_acme")
            gateway.change(World(sources, people, trials=[broken]))
            assert ask(gateway, CHAT).status == 200
            assert gateway.records_of(Intent)[-1].trials[0].would == "denied"
            # and nothing is compared where nothing reports
            gateway.change(World(sources, people))
            assert ask(gateway, CHAT).status == 200
            assert gateway.records_of(Intent)[-1].trials == ()


def test_a_ceiling_leaves_the_dear_source_out_and_the_reason_is_said() -> None:
    with ScriptedEngine().in_thread() as engine:
        dear = model(price=Price(output_nusd_per_mtok=10**12, origin="source"))
        sources = [source("cheap", engine.base_url), source("dear", engine.base_url, dear)]
        ceiling = template("ceiling", "cost-ceiling-per-call", usd="0.05")
        with WorkerHarness(World(sources, policies=[permit_all(), ceiling])) as gateway:
            assert ask(gateway, {**CHAT, "max_tokens": 50}).status == 200
            assert {r.offer for r in gateway.records_of(Intent)[-1].permits} == {"cheap::m", "dear::m"}
            assert ask(gateway, {**CHAT, "max_tokens": 51}).status == 200
            assert {r.offer for r in gateway.records_of(Intent)[-1].permits} == {"cheap::m"}
            refused = ask(gateway, {**CHAT, "model": "dear::m", "max_tokens": 51})
            assert refused.status == 403 and "may cost more than 0.05 USD" in refused.error["message"]


def test_a_cloud_without_a_price_is_above_every_ceiling() -> None:
    with ScriptedEngine().in_thread() as engine:
        cloud = source("cloud", engine.base_url, labels=Labels(region="us", on_prem=False))
        ceiling = template("ceiling", "cost-ceiling-per-call", usd=1000)
        with WorkerHarness(World([cloud], policies=[permit_all(), ceiling])) as gateway:
            assert ask(gateway, CHAT).status == 403


def test_a_window_that_is_open_now_refuses_with_its_reason() -> None:
    now = datetime.now(UTC)
    during = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    with ScriptedEngine().in_thread() as engine:
        window = template("window", "maintenance-window", sources=["a"], **during)
        world = World([source("a", engine.base_url)], policies=[permit_all(), window])
        with WorkerHarness(world) as gateway:
            refused = ask(gateway, CHAT)
            assert refused.status == 403 and "closed for maintenance" in refused.error["message"]
            listed = ask(gateway, path="/v1/models", method="GET").json["data"]
            assert "m" in [each["id"] for each in listed]
