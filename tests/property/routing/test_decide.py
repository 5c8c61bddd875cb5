"""What holds of every routing decision, whatever the offers, readings and seed."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.routing.catalog import offers_of
from interlock.routing.choose import decide
from interlock.routing.load import saturated
from interlock.routing.replay import replay
from interlock.types.decision import RouteDecision
from interlock.types.identity import DataClass
from interlock.types.record import Intent
from interlock.types.request import Features, Target
from interlock.types.source import (
    Labels,
    LoadReading,
    Model,
    Offer,
    Power,
    Price,
    Source,
    SourceKind,
    SourceLimits,
)

ABILITIES = ("chat", "completions", "embeddings", "tools", "vision")

models = st.builds(
    Model,
    name=st.sampled_from(("m", "n", "o")),
    abilities=st.lists(st.sampled_from(ABILITIES), unique=True, max_size=5).map(tuple),
    context_length=st.sampled_from((0, 512, 2048, 131_072)),
    version=st.sampled_from(("", "v1")),
    quality_milli=st.sampled_from((0, 400, 500, 1000)),
    price=st.builds(
        Price,
        input_nusd_per_mtok=st.sampled_from((0, 10**8, 10**10)),
        output_nusd_per_mtok=st.sampled_from((0, 10**8, 10**10)),
    ),
    power=st.builds(Power, output_uj_per_token=st.sampled_from((0, 10**6))),
)
readings = st.builds(
    LoadReading,
    waiting=st.integers(-1, 12),
    running=st.integers(-1, 12),
    kv_permille=st.integers(-1, 1000),
    inflight=st.integers(0, 20),
    inflight_since=st.integers(0, 20),
    age_ms=st.integers(-1, 5000),
    healthy=st.sampled_from((True, True, True, False)),
    saturated=st.sampled_from((False, False, True)),
)


@st.composite
def sources(draw: st.DrawFn) -> tuple[Source, ...]:
    count = draw(st.integers(0, 6))
    return tuple(
        Source(
            id=f"src_{i}",
            name=f"s{i}",
            kind=SourceKind.vllm,
            base_url="http://x.example",
            labels=Labels(on_prem=draw(st.booleans())),
            limits=SourceLimits(
                concurrency=draw(st.sampled_from((None, None, 3))), waiting_max=draw(st.sampled_from((0, 4, 8)))
            ),
            drained=draw(st.sampled_from((False, False, False, True))),
            models=tuple(draw(st.lists(models, max_size=2, unique_by=lambda m: m.name))),
        )
        for i in range(count)
    )


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    among = offers_of(draw(sources()))
    ids = sorted({o.source.id for o in among})
    return {
        "features": Features(
            operation=draw(st.sampled_from(ABILITIES[:3])),
            asked="m",
            data_class=DataClass.internal,
            needs=tuple(draw(st.lists(st.sampled_from(ABILITIES[3:]), unique=True, max_size=1))),
            prompt_bytes=(prompt := draw(st.sampled_from((10, 3_000, 100_000)))),
            prompt_tokens_max=prompt + 16,
            completion_tokens_max=draw(st.sampled_from((1, 256, 4096))),
        ),
        "target": Target(
            kind="auto",
            version=draw(st.sampled_from(("", "", "v1"))),
            mode=draw(st.sampled_from(("eco", "balanced", "quality"))),
        ),
        "offers": among,
        "readings": {i: draw(readings) for i in ids if draw(st.booleans())},
        "open_breakers": {i for i in ids if draw(st.integers(0, 4)) == 0},
        "latencies": {o.key: draw(st.sampled_from((0, 58_823, 10**6))) for o in among if draw(st.booleans())},
        "seed": draw(st.integers(0, 2**63 - 1)),
    }


def run(case: dict[str, object], **changes: object) -> RouteDecision:
    return decide(**{**case, **changes})  # type: ignore[arg-type]


def offers_in(case: dict[str, object]) -> tuple[Offer, ...]:
    among = case["offers"]
    assert isinstance(among, tuple)
    return among


@given(cases())
@settings(max_examples=120, deadline=None)
def test_candidates_and_rejected_are_exactly_the_offers(case: dict[str, object]) -> None:
    decision = run(case)
    chosen = [c.offer for c in decision.candidates]
    rejected = [r.offer for r in decision.rejected]
    assert sorted(chosen + rejected) == sorted(o.key for o in offers_in(case))
    assert len(set(chosen)) == len(chosen)


@given(cases())
@settings(max_examples=120, deadline=None)
def test_no_candidate_lacks_what_the_request_needs(case: dict[str, object]) -> None:
    by_key = {o.key: o for o in offers_in(case)}
    features, target = case["features"], case["target"]
    breakers, readings_in = case["open_breakers"], case["readings"]
    assert isinstance(features, Features) and isinstance(target, Target)
    assert isinstance(breakers, set) and isinstance(readings_in, dict)
    for candidate in run(case).candidates:
        offer = by_key[candidate.offer]
        assert {features.operation, *features.needs} <= set(offer.model.abilities)
        assert target.version in ("", offer.model.version)
        assert not offer.source.drained and offer.source.id not in breakers
        assert readings_in.get(offer.source.id, LoadReading()).healthy


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_the_order_of_the_input_does_not_matter(case: dict[str, object], rng: random.Random) -> None:
    shuffled = list(offers_in(case))
    rng.shuffle(shuffled)
    assert run(case, offers=tuple(shuffled)) == run(case)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_a_saturated_source_never_stands_before_a_free_one(case: dict[str, object]) -> None:
    by_key = {o.key: o for o in offers_in(case)}
    readings_in = case["readings"]
    assert isinstance(readings_in, dict)
    decision = run(case)
    full = [
        saturated(by_key[c.offer], readings_in.get(by_key[c.offer].source.id, LoadReading()))
        for c in decision.candidates
    ]
    assert full == sorted(full)
    for candidate, is_full in zip(decision.candidates, full, strict=True):
        assert not (candidate.overflow and (is_full or not any(full)))


@given(cases(), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_removing_an_offer_never_changes_the_order_of_the_others(case: dict[str, object], index: int) -> None:
    among = offers_in(case)
    if not among:
        return
    gone = among[index % len(among)].key
    fewer = run(case, offers=tuple(o for o in among if o.key != gone))
    assert [c.offer for c in run(case).candidates if c.offer != gone] == [c.offer for c in fewer.candidates]


@given(cases())
@settings(max_examples=80, deadline=None)
def test_every_decision_replays_from_its_record(case: dict[str, object]) -> None:
    decision = run(case)
    fields: dict[str, object] = {each.name: "" for each in msgspec.structs.fields(Intent) if each.required}
    fields |= {"call": 1, "wall_ns": 0, "mono_ns": 0, "snapshot_version": 1, "reserved_tokens": 0, "parameters": {}}
    fields |= {"body": b"", "body_sha256": b"", "snapshot_root": b"", "permits": ()}
    fields |= {"features": case["features"], "target": case["target"], "route": decision}
    intent = msgspec.msgpack.decode(msgspec.msgpack.encode(Intent(**fields)), type=Intent)  # type: ignore[arg-type]
    again = replay(intent, {o.key: o for o in offers_in(case)})
    assert again.same, again.differences
    assert again.decision == decision


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=60), st.integers(0, 8), st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_only_the_excess_overflows_and_it_comes_back(steps: list[int], waiting_max: int, gap: int) -> None:
    """A queue that rises and falls: away exactly from above `waiting_max` until at or below `waiting_resume`."""
    resume = max(0, waiting_max - gap)
    limits = SourceLimits(waiting_max=waiting_max, waiting_resume=resume)
    home = Source(id="h", name="h", kind=SourceKind.vllm, base_url="http://x", limits=limits, models=(Model(name="m"),))
    dear = Model(name="m", price=Price(input_nusd_per_mtok=10**9))
    cloud = Source(id="c", name="c", kind=SourceKind.openai, base_url="http://y", models=(dear,))
    asked = Features("chat", "m", DataClass.internal, (), (), False, 10, 20, 30)
    waiting, held = 0, False
    for step in steps:
        waiting = max(0, waiting + step)
        held = waiting > waiting_max or (held and waiting > resume)
        reading = LoadReading(waiting=waiting, running=4, inflight=4 + waiting, age_ms=10, saturated=held)
        decision = decide(asked, Target(kind="model", model="m"), offers_of((home, cloud)), {"h": reading})
        first = decision.candidates[0]
        assert (first.offer == "c::m") is held and first.overflow is held
