"""What holds of decisions of calls with objectives: policy's set, the three classes in their order, replay; and that
calls without any are decided as they were before there were objectives."""

from __future__ import annotations

import hashlib
import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.routing.catalog import offers_of
from interlock.routing.choose import decide, spread
from interlock.routing.replay import replay
from interlock.routing.steps import decide_steps
from interlock.types.decision import RouteDecision
from interlock.types.identity import DataClass
from interlock.types.learned import Estimates
from interlock.types.record import Intent
from interlock.types.request import Features, Target, TargetStep
from interlock.types.slo import MET, MISSED, Pace, Slo, tighter
from interlock.types.source import Labels, LoadReading, Model, Offer, Price, Source, SourceKind

from .test_decide import cases, offers_in
from .test_learned import estimates

slos = st.builds(
    Slo,
    ttft_ms=st.sampled_from((0, 100, 1000)),
    latency_ms=st.sampled_from((0, 1500, 20_000)),
    cost_nusd=st.sampled_from((-1, 0, 500_000, 10**9)),
    strict=st.booleans(),
)
paces = st.builds(
    Pace,
    first_us=st.sampled_from((-1, 20_000, 400_000, 3_000_000)),
    token_us=st.sampled_from((-1, 100, 20_000)),
    tokens=st.sampled_from((-1, 1, 120, 9000)),
    whole_us=st.sampled_from((-1, 1_000_000)),
)


@st.composite
def asking(draw: st.DrawFn) -> dict[str, object]:
    """A case whose call, or alias, or both, ask for objectives."""
    case = draw(cases())
    features, target, readings = case["features"], case["target"], case["readings"]
    assert isinstance(features, Features) and isinstance(target, Target) and isinstance(readings, dict)
    both = draw(st.sampled_from(("caller", "alias", "both")))
    stay = st.sampled_from((-1, 10, 5000))
    case["features"] = msgspec.structs.replace(
        features, slo=draw(slos) if both != "alias" else None, stream=draw(st.booleans())
    )
    case["target"] = msgspec.structs.replace(target, slo=draw(slos) if both != "caller" else None)
    case["readings"] = {name: msgspec.structs.replace(r, stay_ms=draw(stay)) for name, r in readings.items()}
    case["paces"] = {o.key: draw(paces) for o in offers_in(case) if draw(st.booleans())}
    return case


def run(case: dict[str, object], **changes: object) -> RouteDecision:
    return decide(**{**case, **changes})  # type: ignore[arg-type]


def plain(case: dict[str, object]) -> dict[str, object]:
    """The same call, asking for nothing."""
    features, target = case["features"], case["target"]
    assert isinstance(features, Features) and isinstance(target, Target)
    return {
        **case,
        "features": msgspec.structs.replace(features, slo=None),
        "target": msgspec.structs.replace(target, slo=None),
        "paces": {},
    }


def intent_of(case: dict[str, object], decision: RouteDecision) -> Intent:
    fields: dict[str, object] = {each.name: "" for each in msgspec.structs.fields(Intent) if each.required}
    fields |= {"call": 1, "wall_ns": 0, "mono_ns": 0, "snapshot_version": 1, "reserved_tokens": 0, "parameters": {}}
    fields |= {"body": b"", "body_sha256": b"", "snapshot_root": b"", "permits": ()}
    fields |= {"features": case["features"], "target": case["target"], "route": decision}
    return msgspec.msgpack.decode(msgspec.msgpack.encode(Intent(**fields)), type=Intent)  # type: ignore[arg-type]


@given(asking())
@settings(max_examples=120, deadline=None)
def test_objectives_order_what_policy_allows_and_add_or_leave_out_nothing(case: dict[str, object]) -> None:
    decision, before = run(case), run(plain(case))
    assert sorted(c.offer for c in decision.candidates) == sorted(c.offer for c in before.candidates)
    assert {c.offer for c in decision.candidates} <= {o.key for o in offers_in(case)}
    assert decision.rejected == before.rejected and decision.readings == before.readings
    assert len(decision.foreseen) == len(decision.candidates) and before.foreseen == ()


@given(asking())
@settings(max_examples=120, deadline=None)
def test_those_that_meet_come_first_then_the_unknown_then_those_that_miss(case: dict[str, object]) -> None:
    decision = run(case)
    verdicts = [seen.verdict for seen in decision.foreseen]
    assert verdicts == sorted(verdicts)
    for verdict in set(verdicts):
        alone = {c.offer for c, v in zip(decision.candidates, verdicts, strict=True) if v == verdict}
        others = run({**plain(case), "offers": tuple(o for o in offers_in(case) if o.key in alone)})
        assert others.candidates == tuple(c for c in decision.candidates if c.offer in alone), (
            "the order within a class"
        )


@given(asking())
@settings(max_examples=120, deadline=None)
def test_a_verdict_follows_from_what_was_predicted(case: dict[str, object]) -> None:
    features, target = case["features"], case["target"]
    assert isinstance(features, Features) and isinstance(target, Target)
    slo = tighter(features.slo, target.slo)
    assert slo is not None
    bounds = [slo.ttft_ms * 1000 or None, slo.latency_ms * 1000 or None, slo.cost_nusd if slo.cost_nusd >= 0 else None]
    for seen in run(case).foreseen:
        values = (seen.ttft_us, seen.latency_us, seen.cost_nusd)
        asked = [(value, bound) for value, bound in zip(values, bounds, strict=True) if bound is not None]
        assert (seen.verdict == MISSED) == any(value > bound for value, bound in asked)
        assert (seen.verdict == MET) == all(0 <= value <= bound for value, bound in asked)


@given(asking(), estimates)
@settings(max_examples=120, deadline=None)
def test_every_decision_with_objectives_replays_from_its_record(case: dict[str, object], known: Estimates) -> None:
    for what in (None, known):
        decision = run(case, estimates=what)
        again = replay(intent_of(case, decision), {o.key: o for o in offers_in(case)}, what)
        assert again.same, again.differences
        assert again.decision == decision


@given(asking())
@settings(max_examples=60, deadline=None)
def test_a_decision_that_was_cut_replays_too(case: dict[str, object]) -> None:
    decision = run(case, candidates_max=2)
    again = replay(intent_of(case, decision), {o.key: o for o in offers_in(case)})
    assert again.same, again.differences
    assert again.decision.foreseen == decision.foreseen


@given(asking(), estimates)
@settings(max_examples=150, deadline=None)
def test_nothing_is_tried_that_meets_less_than_the_best(case: dict[str, object], known: Estimates) -> None:
    decision = run(case, estimates=known)
    more = {name: value for name, value in case.items() if name != "candidates_max"}
    verdicts = {c.offer: seen.verdict for c, seen in zip(decision.candidates, decision.foreseen, strict=True)}
    for offer, _ in spread(**{**more, "estimates": known}):  # type: ignore[arg-type]
        assert verdicts[offer] == verdicts[decision.best or decision.candidates[0].offer]


@given(asking())
@settings(max_examples=60, deadline=None)
def test_each_step_of_a_cascade_is_ordered_by_itself(case: dict[str, object]) -> None:
    target = case["target"]
    assert isinstance(target, Target)
    steps = (TargetStep("n"), TargetStep("m"))
    changed = {**case, "target": msgspec.structs.replace(target, kind="alias", alias="c", steps=steps)}
    decision = decide_steps(**changed)  # type: ignore[arg-type]
    of_step = [
        (c.offer.endswith("::m"), s.verdict) for c, s in zip(decision.candidates, decision.foreseen, strict=True)
    ]
    assert of_step == sorted(of_step)


def seeded(rng: random.Random) -> dict[str, object]:
    """A case from plain random numbers, the same for ever."""

    def price() -> Price:
        return Price(rng.choice((0, 10**8, 10**9)), 0, rng.choice((0, 10**9)), origin=rng.choice(("list", "none")))

    sources = tuple(
        Source(
            id=f"src_{i}", name=f"s{i}", kind=SourceKind.vllm, base_url="http://x",
            labels=Labels(on_prem=rng.random() < 0.6),
            models=tuple(
                Model(
                    name=name, quality_milli=rng.choice((300, 500, 900)), context_length=rng.choice((0, 900)),
                    price=price(),
                )
                for name in ("m", "n") if rng.random() < 0.8
            ),
        )
        for i in range(rng.randrange(7))
    )  # fmt: skip
    among: tuple[Offer, ...] = offers_of(sources)
    readings = {
        s.id: LoadReading(rng.randrange(-1, 12), rng.randrange(-1, 9), -1, rng.randrange(9), rng.randrange(4), 20)
        for s in sources
    }
    size, bound = rng.choice((10, 3000)), rng.choice((1, 256))
    asked = Features("chat", "auto", DataClass.internal, (), (), False, size, 900, bound)
    known = Estimates(3, 1, {"m": 700_000}, {"m": 9, "n": 90_000}, {}, {}, 300_000, 90_000)
    return {
        "features": asked, "target": Target(kind="auto", mode=rng.choice(("eco", "balanced", "quality"))),
        "offers": among, "readings": readings, "latencies": {o.key: rng.choice((58_823, 10**6)) for o in among},
        "seed": rng.getrandbits(60), "estimates": known,
    }  # fmt: skip


FIELDS = 10
"""Of a decision, before there were objectives."""
BEFORE = "0c7061c585ed94543690e7d4f346fa1ab8a6adc3641bb63a326cea7dc95f4c77"
"""SHA-256 over 400 decisions, as the version before objectives made and encoded them."""


def test_without_objectives_decisions_are_byte_for_byte_as_before() -> None:
    rng, digest = random.Random(0x51_0), hashlib.sha256()
    for _ in range(400):
        decision = run(seeded(rng))
        values = [getattr(decision, name) for name in RouteDecision.__struct_fields__[:FIELDS]]
        digest.update(msgspec.msgpack.encode(values))
        assert getattr(decision, "foreseen", ()) == ()
    assert digest.hexdigest() == BEFORE
