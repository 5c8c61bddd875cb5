"""What a call is predicted to take, what that means for where it goes, and how it is told."""

from __future__ import annotations

import msgspec
import pytest

from interlock.routing.choose import decide
from interlock.routing.explain import explain, header
from interlock.routing.resolve import resolve
from interlock.routing.score import normal
from interlock.routing.slo import refused, unmet, usd, within
from interlock.types.decision import RouteDecision
from interlock.types.request import Features, Target
from interlock.types.slo import MET, MISSED, UNKNOWN, Pace, Slo, altogether, attained_permille, measured, tighter
from interlock.types.snapshot import Alias, AliasSlo, AliasTarget, AliasWeights, Shadow
from interlock.types.source import LoadReading, Model, Offer, Price, PriceTier, loaded_bit

from .samples import catalog, features, idle, offers, priced, source

MODEL = Target(kind="model", model="m")
STREAM_PACE = Pace(first_us=200_000, token_us=10_000, tokens=100)


def asked(slo: Slo | None, *, stream: bool = True, prompt_bytes: int = 3000, completion: int = 256) -> Features:
    plain = features(prompt_bytes=prompt_bytes, completion=completion)
    return msgspec.structs.replace(plain, slo=slo, stream=stream)


def decided(
    slo: Slo,
    among: tuple[Offer, ...],
    reading: LoadReading | None = None,
    pace: Pace | None = STREAM_PACE,
    **more: object,
) -> RouteDecision:
    paces = {offer.key: pace for offer in among} if pace is not None else {}
    readings = {offer.source.id: reading or idle() for offer in among}
    return decide(asked(slo, **more), MODEL, among, readings, paces=paces)  # type: ignore[arg-type]


def test_a_stream_takes_the_wait_in_the_queue_the_first_byte_and_its_tokens() -> None:
    busy = LoadReading(waiting=3, running=6, age_ms=10, stay_ms=900)
    (seen,) = decided(Slo(500, 1500), offers(source("a", "m")), busy).foreseen
    assert seen.ttft_us == 200_000 + 3 * 900_000 // 9
    assert seen.latency_us == seen.ttft_us + 100 * 10_000, "as many tokens as answers have, below the bound"
    assert seen.verdict == MET
    (short,) = decided(Slo(500, 1500), offers(source("a", "m")), busy, completion=40).foreseen
    assert short.latency_us == short.ttft_us + 40 * 10_000
    (late,) = decided(Slo(499), offers(source("a", "m")), busy).foreseen
    assert late.verdict == MISSED


def test_an_answer_that_is_not_streamed_has_its_first_byte_at_its_end() -> None:
    (seen,) = decided(Slo(500), offers(source("a", "m")), stream=False).foreseen
    assert seen.ttft_us == seen.latency_us == 1_200_000 and seen.verdict == MISSED
    whole = Pace(tokens=100, whole_us=2_000_000)
    (scaled,) = decided(Slo(0, 1000), offers(source("a", "m")), pace=whole, stream=False, completion=50).foreseen
    assert scaled.latency_us == 1_000_000 and scaled.verdict == MET


@pytest.mark.parametrize(
    ("reading", "pace"),
    [
        (None, None),
        (None, Pace(tokens=5)),
        (LoadReading(waiting=2, running=1, age_ms=5), STREAM_PACE),
        (LoadReading(waiting=0, running=0, age_ms=5, loaded=loaded_bit("other") & ~loaded_bit("m")), STREAM_PACE),
    ],
    ids=["nothing seen", "only lengths seen", "nobody knows how long calls stay", "the model is not loaded"],
)
def test_what_is_not_known_neither_meets_nor_misses(reading: LoadReading | None, pace: Pace | None) -> None:
    (seen,) = decided(Slo(500), offers(source("a", "m")), reading, pace).foreseen
    assert (seen.ttft_us, seen.verdict) == (-1, UNKNOWN)


def test_a_source_that_does_not_tell_its_queue_has_its_wait_in_the_mean() -> None:
    (seen,) = decided(Slo(500), offers(source("a", "m")), LoadReading()).foreseen
    assert seen.ttft_us == 200_000 and seen.verdict == MET


def test_cost_is_that_of_the_expected_tokens_by_the_tier_of_the_prompt() -> None:
    tier = PriceTier(900, 4_000_000_000, 0, 8_000_000_000)
    price = Price(1_000_000_000, 0, 2_000_000_000, call_nusd=7, tiers=(tier,), origin="list")
    among = offers(source("a", Model(name="m", price=price)))
    (small,) = decided(Slo(cost_nusd=10**9), among, prompt_bytes=300).foreseen
    assert small.cost_nusd == 100 * 1000 + 100 * 2000 + 7
    (large,) = decided(Slo(cost_nusd=10**6), among, prompt_bytes=3000).foreseen
    assert large.cost_nusd == 1000 * 4000 + 100 * 8000 + 7 and large.verdict == MISSED
    nobody = Model(name="m", price=Price(origin="none"))
    (away,) = decided(Slo(cost_nusd=0), offers(source("b", nobody, on_prem=False))).foreseen
    (home,) = decided(Slo(cost_nusd=0), offers(source("c", nobody))).foreseen
    assert (away.cost_nusd, away.verdict, home.cost_nusd, home.verdict) == (-1, UNKNOWN, 0, MET)


def test_what_meets_comes_before_what_is_better_and_misses() -> None:
    good, cheap = priced("m", 50, quality_milli=900), priced("m", 0.1, quality_milli=300)
    among = offers(source("good", good), source("cheap", cheap))
    free_choice = decided(Slo(60_000), among)
    assert [c.offer for c in free_choice.candidates] == ["good::m", "cheap::m"]
    bound = decided(Slo(60_000, cost_nusd=10_000_000), among)
    assert [c.offer for c in bound.candidates] == ["cheap::m", "good::m"]
    assert [seen.verdict for seen in bound.foreseen] == [MET, MISSED]
    assert "slo=met" in header(bound, 0) and "slo=missed" in header(bound, 1)
    told = explain(MODEL, "m", bound, features=asked(Slo(60_000, cost_nusd=10_000_000)))
    assert told.asked.endswith("It asks for: first byte within 60000 ms, at most 0.01 USD.")
    assert "predicted met: 200 ms to its first byte, 1200 ms in all, 0.00011 USD" in told.order[0]
    assert "behind those that are predicted met" in told.order[1]


def test_a_saturated_source_that_meets_comes_before_a_free_one_that_misses() -> None:
    among = offers(source("full", priced("m", 0.1)), source("free", priced("m", 50)))
    readings = {"src_full": LoadReading(waiting=9, running=4, age_ms=5, stay_ms=10, saturated=True), "src_free": idle()}
    decision = decide(
        asked(Slo(cost_nusd=10_000_000)), MODEL, among, readings, paces={o.key: STREAM_PACE for o in among}
    )
    assert [c.offer for c in decision.candidates] == ["full::m", "free::m"]
    assert not any(c.overflow for c in decision.candidates), "the free one takes nobody's excess"


def test_a_strict_objective_that_all_miss_is_refused_with_what_the_best_would_take() -> None:
    slo = Slo(100, strict=True)
    missed = decided(slo, offers(source("a", "m"), source("b", "m")))
    assert refused(slo, missed) and not refused(Slo(100), missed) and not within(missed)
    error = unmet(slo, missed)
    assert (error.status, error.code, error.retryable) == (503, "slo_unmet", False)
    assert "first byte within 100 ms" in error.message and "would take 200 ms to its first byte" in error.message
    far = Pace(first_us=900_000)
    among, paces = offers(source("a", "m"), source("b", "m")), {"a::m": far, "b::m": STREAM_PACE}
    assert "the best, b::m, would" in unmet(slo, decide(asked(slo), MODEL, among, {}, paces=paces)).message
    unknown = decided(slo, offers(source("a", "m")), pace=None)
    assert not refused(slo, unknown) and within(unknown) == {"a::m"}, "what is not known does not miss"


def test_of_two_objectives_the_tighter_figures_hold() -> None:
    both = tighter(Slo(500, 0, 7), Slo(800, 2000, -1, strict=True))
    assert both == Slo(500, 2000, 7, strict=True)
    assert tighter(None, both) == both == tighter(both, None) and tighter(None, None) is None


def test_what_became_of_a_call_is_met_missed_or_not_known() -> None:
    slo = Slo(500, 2000, 1000)

    def of(*, completed: bool, first_us: int, total_us: int, cost_nusd: int) -> list[int]:
        found = measured(slo, completed=completed, first_us=first_us, total_us=total_us, cost_nusd=cost_nusd)
        assert list(found) == ["ttft", "latency", "cost"]
        return list(found.values())

    assert of(completed=True, first_us=500_000, total_us=2_000_000, cost_nusd=1000) == [MET, MET, MET]
    assert of(completed=True, first_us=500_001, total_us=2_000_001, cost_nusd=1001) == [MISSED, MISSED, MISSED]
    assert of(completed=False, first_us=0, total_us=400_000, cost_nusd=0) == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert of(completed=False, first_us=0, total_us=600_000, cost_nusd=0) == [MISSED, UNKNOWN, UNKNOWN]
    assert of(completed=True, first_us=1, total_us=2, cost_nusd=-1) == [MET, MET, UNKNOWN]
    assert altogether([MET, UNKNOWN]) == UNKNOWN and altogether([UNKNOWN, MISSED]) == MISSED


def test_weights_of_the_caller_come_before_the_aliass_and_these_before_the_modes() -> None:
    among = offers(source("s", priced("small", 0.1, quality_milli=400), priced("large", 5, quality_milli=900)))
    by_quality, by_cost = tuple(normal(3, 0, 0, 0)), tuple(normal(0, 9, 0, 0))
    auto = Target(kind="auto", mode="eco")
    alias = msgspec.structs.replace(auto, weights=by_quality)
    own = msgspec.structs.replace(features(), weights=by_cost)
    first = decide(features(), alias, among, {})
    assert (first.candidates[0].offer, first.mode) == ("s::large", "own")
    assert decide(own, alias, among, {}).candidates[0].offer == "s::small"
    assert decide(features(), auto, among, {}).mode == "eco"
    told = explain(alias, "auto", first, features=features())
    assert "by weights of its own" in told.asked and "quality 0.90 x 1.00" in told.order[0]


def test_weights_add_up_to_one_million_whatever_they_are() -> None:
    for given in ((1, 1, 1, 0), (7, 3, 0, 0), (1, 1_000_000, 3, 999)):
        assert sum(normal(*given)) == 1_000_000
    assert normal(7, 3, 0, 0) == (700_000, 300_000, 0, 0)


def test_an_aliass_objectives_and_weights_are_its_targets_and_no_shadows() -> None:
    alias = Alias(
        "a", targets=(AliasTarget("m"),), slo=AliasSlo(ttft_ms=300, strict=True),
        weights=AliasWeights(quality=1, cost=1), shadow=Shadow(AliasTarget("m"), 10),
    )  # fmt: skip
    names = catalog(source("s", "m"), aliases=(alias,))
    target = resolve("a", names, now_s=0, seed=1)
    assert target.slo == Slo(300, strict=True) and target.weights == (500_000, 500_000, 0, 0)
    assert resolve("a", names, now_s=0, seed=1, canary_state="shadow").slo is None


def test_amounts_are_told_exactly() -> None:
    assert [usd(n) for n in (0, 1, 1_500_000_000, 2_000_000_000, 10_000_000)] == [
        "0",
        "0.000000001",
        "1.5",
        "2",
        "0.01",
    ]


@pytest.mark.parametrize(
    ("met", "calls", "permille"), [(0, 0, 0), (0, 3, 0), (2, 3, 666), (9_999, 10_000, 999), (7, 7, 1000)]
)
def test_all_of_them_is_said_of_all_of_them_only(met: int, calls: int, permille: int) -> None:
    assert attained_permille(met, calls) == permille
