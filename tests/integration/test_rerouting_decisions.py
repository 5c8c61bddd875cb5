"""Calls that a real worker recorded, decided again under changes: no database, no ledger."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from interlock.control.replay import Past
from interlock.control.rerouting.change import NOTHING_ELSE, ModeWeights, Otherwise, Ways, ways
from interlock.control.rerouting.deciding import (
    DENIED,
    DIFFERS,
    ERASED,
    OTHERWISE_REFUSED,
    SHADOW,
    SNAPSHOT,
    UNDECIDED,
    Again,
    Pasts,
    again,
)
from interlock.control.whatif import Ground
from interlock.errors import NotFound
from interlock.testing.engine import ScriptedEngine
from interlock.types.identity import Principal, Team, Tenant
from interlock.types.record import Intent, Refusal
from interlock.types.snapshot import Alias, AliasTarget, PolicyText
from interlock.types.source import Price, Source
from tests.gateway import Who, WorkerHarness, World, model, source, template
from tests.integration.gateway.client import CHAT, ask

TENANT = "ten_acme"


def world(url: str) -> World:
    cheap = Price(10_000_000, 10_000_000, 10_000_000, origin="source")
    dear = Price(5_000_000_000, 5_000_000_000, 5_000_000_000, origin="source")
    models = (model("small", quality_milli=300, price=cheap), model("large", quality_milli=900, price=dear))
    return World(
        [source("a", url, *models), source("b", url, *models)],
        people=[Who(), Who("mallory", team="sales")],
        policies=[template("team-models", "team-may-use-models", TENANT, team="research", models=["small", "large"])],
        aliases=[Alias("drawn", targets=(AliasTarget("large"), AliasTarget("small")))],
    )


class Site:
    def __init__(self, gateway: WorkerHarness) -> None:
        self.gateway = gateway
        self.intents: dict[str, Intent] = {}

    def ask(self, name: str, key: str = "alice") -> None:
        before = len(self.gateway.records_of(Intent))
        ask(self.gateway, {**CHAT, "model": name}, key=self.gateway.key(key))
        found = self.gateway.records_of(Intent)
        if len(found) > before:
            self.intents[name] = found[-1]

    def past(self, version: int) -> Past:
        view = self.gateway.view
        if version != view.version:
            raise NotFound("gone")
        return Past(view.head, self._tenants(), self._teams(), tuple(view.sources), self._policies(), self._aliases())

    def side(self, otherwise: Otherwise = NOTHING_ELSE, **replaced: object) -> Ways:
        view = self.gateway.view
        there = Ground(
            self._tenants(), self._teams(), tuple(view.sources), self._aliases(), self._policies(), _NOBODY, 0
        )
        return ways(msgspec.structs.replace(there, **replaced), TENANT, otherwise)

    def pasts(self) -> Pasts:
        return Pasts(TENANT, self.past, 4)

    def _part(self, name: str, kind: type) -> tuple[object, ...]:
        part = next(p for p in self.gateway.view.parts() if p.name == name)
        found: tuple[object, ...] = msgspec.msgpack.decode(part.body, type=tuple[kind, ...])  # type: ignore[valid-type]
        return found

    def _tenants(self) -> tuple[Tenant, ...]:
        return self._part("tenants", Tenant)  # type: ignore[return-value]

    def _teams(self) -> tuple[Team, ...]:
        return self._part("teams", Team)  # type: ignore[return-value]

    def _policies(self) -> tuple[PolicyText, ...]:
        return self._part("policies", PolicyText)  # type: ignore[return-value]

    def _aliases(self) -> tuple[Alias, ...]:
        return self._part("aliases", Alias)  # type: ignore[return-value]

    def decided(self, record: Intent | Refusal, then: Ways) -> Again:
        found = again(record, self.pasts(), self.side(), then)
        assert isinstance(found, Again), found
        return found


_NOBODY: dict[str, Principal] = {}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ScriptedEngine().in_thread() as engine, WorkerHarness(world(engine.base_url)) as gateway:
        made = Site(gateway)
        for name in ("auto", "auto:eco", "auto:quality", "small", "a::large", "drawn"):
            made.ask(name)
        made.ask("small", "mallory")
        yield made


def test_without_a_change_a_call_goes_where_it_went(site: Site) -> None:
    assert len(site.intents) == 6
    for record in site.intents.values():
        found = site.decided(record, site.side())
        assert found.now == found.then and found.now.offer == record.route.candidates[0].offer
        assert found.logged == {found.first: 1_000_000} == found.now.spread and found.chance_micro == 1_000_000


def test_weights_and_modes_send_calls_to_other_models(site: Site) -> None:
    quality, cost = Otherwise(weights=ModeWeights(quality=1)), Otherwise(weights=ModeWeights(cost=1))
    for name in ("auto", "auto:eco", "auto:quality"):
        assert site.decided(site.intents[name], site.side(quality)).then.arm == "large"
        assert site.decided(site.intents[name], site.side(cost)).then.arm == "small"
    for name in ("small", "a::large"):
        found = site.decided(site.intents[name], site.side(quality))
        assert found.then.arm == found.now.arm, "a call that names its model keeps it"
    of_eco = Otherwise(weights=ModeWeights(quality=1, mode="eco"))
    assert site.decided(site.intents["auto:eco"], site.side(of_eco)).then.arm == "large"
    assert (
        site.decided(site.intents["auto:quality"], site.side(of_eco)).then
        == site.decided(site.intents["auto:quality"], site.side()).now
    )
    assert site.decided(site.intents["auto:quality"], site.side(Otherwise(mode="eco"))).then.arm == "small"
    assert site.decided(site.intents["auto:eco"], site.side(Otherwise(mode="quality"))).then.arm == "large"


def test_prices_aliases_and_sources_count(site: Site) -> None:
    free = tuple(_repriced(each, "large", Price(origin="source")) for each in site.gateway.view.sources)
    assert site.decided(site.intents["auto:eco"], site.side(sources=free)).then.arm == "large"
    for target in ("small", "large"):
        alias = Alias("drawn", targets=(AliasTarget(target, "b"),))
        assert site.decided(site.intents["drawn"], site.side(aliases=(alias,))).then.offer == f"b::{target}"
    only_b = site.decided(site.intents["a::large"], site.side(Otherwise(without=("a",))))
    assert only_b.then.offer == "" and not only_b.then.spread, "a source that was named and is gone"
    moved = site.decided(site.intents["small"], site.side(Otherwise(without=("a",))))
    assert moved.then.offer == "b::small"


def test_a_denied_call_may_be_permitted_and_the_other_way(site: Site) -> None:
    refusal = site.gateway.records_of(Refusal)[-1]
    everybody = PolicyText("p_all", "permit(principal, action, resource);", tenant_id=TENANT)
    found = site.decided(refusal, site.side(policies=(everybody,)))
    assert found.now.offer == "" and found.then.arm == "small" and found.logged == {}
    assert site.decided(site.intents["small"], site.side(policies=())).then.offer == ""


def test_what_cannot_be_decided_again_says_why(site: Site) -> None:
    record, side, replace = site.intents["auto"], site.side(), msgspec.structs.replace
    refusal = site.gateway.records_of(Refusal)[-1]
    for given, why in (
        (None, ERASED),
        (replace(record, snapshot_version=99), SNAPSHOT),
        (replace(record, route=replace(record.route, chance_micro=500_000)), DIFFERS),
        (replace(record, route=replace(record.route, router_version=3)), DIFFERS),
        (replace(record, parties=()), UNDECIDED),
        (replace(refusal, features=None), UNDECIDED),
        (replace(record, shadow_of="req_x_1"), SHADOW),
        (replace(record, judge_of="req_x_1"), SHADOW),
        (replace(record, challenger_of="req_x_1"), SHADOW),
        (replace(refusal, permits=record.permits), OTHERWISE_REFUSED),
    ):
        assert again(given, site.pasts(), side, side) == why


def test_few_snapshots_are_kept(site: Site) -> None:
    asked: list[int] = []

    def load(version: int) -> Past:
        asked.append(version)
        return site.past(site.gateway.view.version)

    pasts = Pasts(TENANT, load, 2)
    for version in (1, 2, 1, 2, 3, 1):
        assert pasts.of(version) is not None
    assert asked == [1, 2, 3, 1] and len(pasts._known) == 2


def _repriced(each: Source, name: str, price: Price) -> Source:
    models = tuple(msgspec.structs.replace(m, price=price) if m.name == name else m for m in each.models)
    return msgspec.structs.replace(each, models=models)


def test_objectives_and_weights_of_calls_hold_in_what_if() -> None:
    with ScriptedEngine().in_thread() as engine, WorkerHarness(world(engine.base_url)) as gateway:
        _objectives(Site(gateway), gateway)


def _objectives(site: Site, gateway: WorkerHarness) -> None:
    def asked(**own: object) -> Intent | Refusal:
        ask(gateway, {**CHAT, "model": "auto:quality", "interlock": own})
        found: list[Intent | Refusal] = [*gateway.records_of(Intent), *gateway.records_of(Refusal)]
        return max(found, key=lambda record: record.call)

    free = Price(origin="source")
    given = tuple(
        msgspec.structs.replace(s, models=tuple(msgspec.structs.replace(m, price=free) for m in s.models))
        for s in gateway.view.sources
    )
    bounded = asked(slo={"cost_usd": 0.001})
    found = site.decided(bounded, site.side(sources=given))
    assert (found.now.arm, found.then.arm) == ("small", "large"), "where it costs nothing both meet the bound"
    refused = asked(slo={"cost_usd": 0, "strict": True})
    assert isinstance(refused, Refusal) and refused.code == "slo_unmet"
    found = site.decided(refused, site.side(sources=given))
    assert (found.now, found.first, found.logged) == (DENIED, "", {}) and found.then.arm == "large"
    own = asked(weights={"cost": 1})
    quality = Otherwise(weights=ModeWeights(quality=1, mode="quality"))
    assert site.decided(own, site.side(quality)).then.arm == "small", "it is not decided by that mode's weights"
    assert site.decided(own, site.side(Otherwise(mode="quality"))).then.arm == "large"
