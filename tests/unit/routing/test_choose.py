"""The decision: order of preference, load among equals, overflow, and what is rejected."""

from __future__ import annotations

from collections import Counter

from interlock.errors import BadRequest, ModelNotFound, NoCandidate
from interlock.routing.choose import decide
from interlock.routing.explain import no_candidate
from interlock.routing.load import saturated, sent_since
from interlock.routing.score import latency_micro
from interlock.types.decision import Placement, RouteDecision
from interlock.types.identity import Workload
from interlock.types.request import Target
from interlock.types.source import LoadReading, Model, Offer, SourceLimits, loaded_bit

from .samples import features, idle, offers, priced, queue, source

MODEL = Target(kind="model", model="m")


def order(decision: RouteDecision) -> list[str]:
    return [c.offer for c in decision.candidates]


def overflowing(decision: RouteDecision) -> list[str]:
    return [c.offer for c in decision.candidates if c.overflow]


def twins() -> tuple[Offer, ...]:
    return offers(source("a", "m"), source("b", "m"))


def test_the_higher_score_comes_first() -> None:
    among = offers(source("dear", priced("m", 10)), source("cheap", priced("m", 1)), source("free", "m"))
    assert order(decide(features(), MODEL, among, {})) == ["free::m", "cheap::m", "dear::m"]


def test_the_mode_decides_what_a_high_score_is() -> None:
    among = offers(source("s", priced("small", 0.1, quality_milli=400), priced("large", 5, quality_milli=900)))
    assert order(decide(features(), Target(kind="auto", mode="eco"), among, {}))[0] == "s::small"
    assert order(decide(features(), Target(kind="auto", mode="quality"), among, {}))[0] == "s::large"


def test_on_prem_comes_first_at_equal_score_whatever_the_load() -> None:
    among = offers(source("away", "m", on_prem=False), source("home", "m"))
    assert order(decide(features(), MODEL, among, {"src_home": queue(5), "src_away": idle()})) == ["home::m", "away::m"]


def test_replicas_share_by_queue_then_by_calls_running() -> None:
    readings = {"src_a": queue(2, 8), "src_b": queue(1, 8)}
    assert order(decide(features(), MODEL, twins(), readings)) == ["b::m", "a::m"]
    readings = {"src_a": queue(0, 5), "src_b": queue(0, 3)}
    assert order(decide(features(), MODEL, twins(), readings)) == ["b::m", "a::m"]
    readings = {"src_a": queue(1, 2, inflight=3), "src_b": queue(0, 2, inflight=6, inflight_since=4)}
    assert order(decide(features(), MODEL, twins(), readings)) == ["a::m", "b::m"]


def test_calls_that_are_not_interactive_stay_with_ones_own_sources_when_these_are_full() -> None:
    among = offers(source("own", "m"), source("cloud", priced("m", 3), on_prem=False))
    busy = {"src_own": queue(9)}
    assert order(decide(features(), MODEL, among, busy)) == ["cloud::m", "own::m"]
    for workload in (Workload.batch, Workload.background):
        decision = decide(features(workload=workload), MODEL, among, busy)
        assert (order(decision), overflowing(decision)) == (["own::m", "cloud::m"], ["cloud::m"])
        calm = decide(features(workload=workload), MODEL, among, {})
        assert (order(calm), overflowing(calm)) == (["own::m", "cloud::m"], [])


def test_that_ones_own_source_is_slow_is_no_reason_to_spend() -> None:
    among = offers(source("own", "m"), source("cloud", "m", on_prem=False))
    slow = {"own::m": 10**6, "cloud::m": 0}
    assert order(decide(features(), MODEL, among, {}, latencies=slow)) == ["cloud::m", "own::m"]
    less = features(workload=Workload.batch)
    assert order(decide(less, MODEL, among, {}, latencies=slow)) == ["own::m", "cloud::m"]


def test_a_better_model_off_prem_is_no_excess() -> None:
    among = offers(source("own", priced("s", 0, quality_milli=300)), source("cloud", priced("l", 1), on_prem=False))
    auto, less = Target(kind="auto", mode="quality"), features(workload=Workload.background)
    decision = decide(less, auto, among, {"src_own": queue(9)})
    assert (order(decision), overflowing(decision)) == (["cloud::l", "own::s"], [])


def test_idle_replicas_take_turns() -> None:
    readings = {"src_a": idle(), "src_b": idle()}
    first = Counter(order(decide(features(), MODEL, twins(), readings, seed=s))[0] for s in range(400))
    assert set(first) == {"a::m", "b::m"} and min(first.values()) > 140


def test_an_unknown_load_is_not_idle() -> None:
    for unknown in ({}, {"src_a": LoadReading()}, {"src_a": LoadReading(age_ms=9000)}):
        for seed in range(20):
            readings = {"src_b": idle(), **unknown}
            assert order(decide(features(), MODEL, twins(), readings, seed=seed)) == ["b::m", "a::m"]
    assert order(decide(features(), MODEL, twins(), {"src_b": queue(7)})) == ["a::m", "b::m"]


def test_among_unknown_loads_the_fewest_calls_of_ours_go_first() -> None:
    readings = {"src_a": LoadReading(inflight=3), "src_b": LoadReading(inflight=2)}
    assert order(decide(features(), MODEL, twins(), readings)) == ["b::m", "a::m"]


def test_overflow_goes_to_the_next_and_comes_back() -> None:
    among = offers(source("home", "m"), source("cloud", priced("m", 3), on_prem=False))
    calm = decide(features(), MODEL, among, {"src_home": queue(8)})
    assert order(calm) == ["home::m", "cloud::m"] and overflowing(calm) == []
    busy = decide(features(), MODEL, among, {"src_home": queue(9)})
    assert order(busy) == ["cloud::m", "home::m"] and overflowing(busy) == ["cloud::m"]
    still = decide(features(), MODEL, among, {"src_home": queue(4, saturated=True)})
    assert order(still) == ["cloud::m", "home::m"] and overflowing(still) == ["cloud::m"]
    back = decide(features(), MODEL, among, {"src_home": queue(2)})
    assert order(back) == ["home::m", "cloud::m"] and overflowing(back) == []


def test_the_excess_sent_since_the_reading_counts() -> None:
    offer = offers(source("s", "m", limits=SourceLimits(waiting_max=4)))[0]
    assert not saturated(offer, queue(3, 8, inflight=12, inflight_since=1))
    assert saturated(offer, queue(3, 8, inflight=13, inflight_since=2))
    assert saturated(offer, queue(0, 0, inflight=5, inflight_since=5))
    assert saturated(offer, LoadReading(waiting=3, inflight=2, inflight_since=2, age_ms=1))


def test_throughput_alone_does_not_saturate() -> None:
    """50 calls ended and 50 were sent since the reading: the engine holds no more than it said."""
    steady = queue(0, 100, inflight=100, inflight_since=50)
    assert sent_since(steady) == 0
    assert not saturated(twins()[0], steady)


def test_an_unknown_load_is_not_saturated_either() -> None:
    assert not saturated(twins()[0], LoadReading(inflight=500, inflight_since=500))


def test_a_cap_that_is_reached_sends_the_excess_on() -> None:
    among = offers(source("home", "m", limits=SourceLimits(concurrency=2)), source("cloud", priced("m", 3)))
    assert order(decide(features(), MODEL, among, {"src_home": idle(1)})) == ["home::m", "cloud::m"]
    full = decide(features(), MODEL, among, {"src_home": idle(2)})
    assert order(full) == ["cloud::m", "home::m"] and overflowing(full) == ["cloud::m"]


def test_when_all_are_saturated_the_order_is_as_without() -> None:
    among = offers(source("home", "m"), source("cloud", priced("m", 3)))
    decision = decide(features(), MODEL, among, {"src_home": queue(90), "src_cloud": queue(20)})
    assert order(decision) == ["home::m", "cloud::m"] and overflowing(decision) == []


def test_a_prompt_that_may_not_fit_goes_where_it_does() -> None:
    small, large = Model(name="m", context_length=2048), Model(name="m", context_length=32768, quality_milli=100)
    among = offers(source("small", small), source("large", large))
    assert order(decide(features(prompt_bytes=9_000), MODEL, among, {})) == ["large::m", "small::m"]
    assert order(decide(features(prompt_bytes=600), MODEL, among, {})) == ["small::m", "large::m"]


def test_rejected_offers_are_named_with_their_stage() -> None:
    among = offers(
        source("blind", Model(name="m", abilities=("chat",))),
        source("drained", Model(name="m", abilities=("chat", "vision")), drained=True),
        source("sick", Model(name="m", abilities=("chat", "vision"))),
        source("broken", Model(name="m", abilities=("chat", "vision"))),
        source("well", Model(name="m", abilities=("chat", "vision"))),
    )
    decision = decide(
        features(needs=("vision",)),
        MODEL,
        among,
        {"src_sick": LoadReading(healthy=False)},
        open_breakers={"src_broken"},
    )
    assert order(decision) == ["well::m"]
    assert [(r.offer, r.stage) for r in decision.rejected] == [
        ("blind::m", "capability"),
        ("broken::m", "breaker"),
        ("drained::m", "drained"),
        ("sick::m", "health"),
    ]
    assert len(decision.readings) == 5


def test_at_most_candidates_max_are_kept_and_it_is_said_so() -> None:
    among = offers(*(source(f"s{i:02d}", priced("m", i)) for i in range(20)))
    decision = decide(features(), MODEL, among, {}, candidates_max=5)
    assert order(decision) == [f"s{i:02d}::m" for i in range(5)]
    assert [r.code for r in decision.rejected] == ["candidates_max"] and "15 more" in decision.rejected[0].words


def test_reasons_are_bounded() -> None:
    among = offers(*(source(f"s{i:02d}", Model(name="m", abilities=())) for i in range(20)))
    decision = decide(features(), MODEL, among, {}, candidates_max=5)
    assert len(decision.rejected) == 6 and "15 more" in decision.rejected[-1].words


def test_an_unknown_mode_counts_as_balanced() -> None:
    among = offers(source("a", priced("m", 3)), source("b", "m"))
    plain = decide(features(), MODEL, among, {}, seed=3)
    assert order(decide(features(), Target(kind="model", model="m", mode="odd"), among, {}, seed=3)) == order(plain)


def test_errors_when_nothing_is_left() -> None:
    blind = offers(source("s", Model(name="m", abilities=("chat",), version="v1", context_length=100)))
    cannot = no_candidate(decide(features(needs=("vision",)), MODEL, blind, {}))
    assert isinstance(cannot, BadRequest) and cannot.code == "model_cannot" and "vision" in cannot.message
    versioned = Target(kind="model", model="m", version="v2")
    assert isinstance(no_candidate(decide(features(), versioned, blind, {})), ModelNotFound)
    too_long = no_candidate(decide(features(prompt_bytes=5000), MODEL, blind, {}))
    assert isinstance(too_long, BadRequest) and too_long.code == "context_length_exceeded"
    sick = {"src_s": LoadReading(healthy=False)}
    down = no_candidate(decide(features(), MODEL, blind, sick))
    assert isinstance(down, NoCandidate) and down.retryable and "health probe" in down.message
    assert isinstance(no_candidate(decide(features(), MODEL, (), {})), NoCandidate)


def test_one_offer_takes_the_same_decision_as_many_would() -> None:
    bad = offers(source("zz", Model(name="m", abilities=())))
    for reading in (idle(), queue(9), LoadReading(healthy=False), LoadReading()):
        for one in twins()[:1], offers(source("a", "m", drained=True)):
            alone = decide(features(), MODEL, one, {"src_a": reading}, seed=5)
            beside = decide(features(), MODEL, one + bad, {"src_a": reading}, seed=5)
            assert alone.candidates == beside.candidates
            assert alone.rejected == tuple(r for r in beside.rejected if r.offer != "zz::m")


def test_a_model_that_is_loaded_goes_before_one_that_is_not() -> None:
    warm, cold = LoadReading(loaded=loaded_bit("m"), age_ms=5), LoadReading(loaded=0, age_ms=5)
    for seed in range(20):
        found = decide(features(), MODEL, twins(), {"src_a": cold, "src_b": warm}, seed=seed)
        assert order(found) == ["b::m", "a::m"]
        found = decide(features(), MODEL, twins(), {"src_a": warm, "src_b": cold}, seed=seed)
        assert order(found) == ["a::m", "b::m"]
    slow_but_loaded = {"a::m": latency_micro(100_000), "b::m": latency_micro(9_000_000)}
    found = decide(features(), MODEL, twins(), {"src_a": cold, "src_b": warm}, latencies=slow_but_loaded)
    assert order(found) == ["b::m", "a::m"], "how fast it was while it was loaded does not matter"
    assert [c.latency_micro for c in found.candidates] == [slow_but_loaded["b::m"], 1_000_000]
    unknown = LoadReading()
    first = {order(decide(features(), MODEL, twins(), {"src_a": unknown, "src_b": warm}, seed=s))[0] for s in range(40)}
    assert first == {"a::m", "b::m"}, "what does not say what it has loaded is not taken for cold"


def test_replicas_score_by_their_own_latency_where_they_are_not_placed() -> None:
    three = offers(source("a", "m"), source("b", "m"), source("c", "m"))
    latencies = {"a::m": 500_000, "b::m": 900_000, "c::m": 500_000}
    decision = decide(features(), MODEL, three, {}, latencies=latencies)
    known = {c.offer: c.latency_micro for c in decision.candidates}
    scores = {c.offer: c.score_micro for c in decision.candidates}
    assert known == latencies and scores["a::m"] == scores["c::m"] > scores["b::m"]
    assert decision.candidates[-1].offer == "b::m"


def test_a_replica_that_has_to_load_its_model_first_keeps_that_where_replicas_are_placed() -> None:
    three = offers(source("a", "m"), source("b", "m"), source("c", "m"))
    latencies = {"a::m": 500_000, "b::m": 300_000, "c::m": 100_000}
    cold, warm = LoadReading(loaded=0), LoadReading(loaded=loaded_bit("m"))
    readings = {"src_a": warm, "src_b": warm, "src_c": cold}
    bounds = Placement(4, 1250, 950, 2000)
    decision = decide(features(), MODEL, three, readings, latencies=latencies, placement=bounds)
    known = {c.offer: c.latency_micro for c in decision.candidates}
    assert known == {"a::m": 300_000, "b::m": 300_000, "c::m": 1_000_000} and decision.candidates[-1].offer == "c::m"


def test_idle_replicas_take_turns_also_beside_another_model() -> None:
    among = offers(source("a", "m"), source("b", "m"), source("c", priced("dear", 9)))
    readings = {f"src_{name}": idle() for name in "abc"}
    first = Counter(order(decide(features(), Target("auto"), among, readings, seed=s))[0] for s in range(400))
    assert first.keys() == {"a::m", "b::m"} and min(first.values()) > 120


def test_what_does_not_answer_its_probe_is_left_out_among_what_is_as_usual() -> None:
    decision = decide(features(), MODEL, twins(), {"src_a": LoadReading(healthy=False)})
    assert [c.offer for c in decision.candidates] == ["b::m"]
    assert [(r.offer, r.stage) for r in decision.rejected] == [("a::m", "health")]
