"""P4: what was decided is decided again, from the record alone."""

from __future__ import annotations

from collections import Counter

from interlock.routing.replay import replay
from interlock.routing.resolve import resolve
from interlock.testing import answers
from interlock.types.identity import Workload
from interlock.types.record import Intent
from interlock.types.snapshot import Alias, AliasTarget
from interlock.types.source import Labels, Model
from tests.gateway import World, model, source
from tests.integration.gateway.client import CHAT, ask, serving

ASKED = ("canary", "auto", "canary", "large", "canary", "auto:eco", "canary", "a::small")


def world(url: str) -> World:
    models: tuple[Model, ...] = (model("small", quality_milli=300), model("large", quality_milli=900))
    canary = Alias("canary", targets=(AliasTarget("large"), AliasTarget("small")))
    cloud = source("c", url, *models, labels=Labels(region="us", on_prem=False))
    return World([source("a", url, *models), source("b", url, *models), cloud], aliases=[canary])


def test_every_decision_is_made_again_from_its_record() -> None:
    with serving(world) as (gateway, engine):
        for n in range(40):
            engine.script(answers.error(500) if n % 7 == 3 else answers.answer())
            workload = ("interactive", "batch", "background")[n % 3]
            ask(gateway, {**CHAT, "model": ASKED[n % len(ASKED)], "interlock": {"workload": workload}})
        intents = gateway.records_of(Intent)
        catalog = gateway.view.catalog("ten_acme")
        assert len(intents) == 40
        for intent in intents:
            again = replay(intent, catalog.by_key)
            assert again.same, (intent.features.asked, again)
            target = resolve(intent.features.asked, catalog, now_s=0, seed=intent.route.seed)
            assert target == intent.target
        drawn = Counter(i.target.model for i in intents if i.features.asked == "canary")
        assert set(drawn) == {"small", "large"}
        assert {i.features.workload for i in intents} == set(Workload)
