"""What holds of placement among replicas, whatever their load, and of any number of nodes that place by themselves."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.routing.catalog import offers_of
from interlock.routing.choose import decide
from interlock.routing.placement import SLOTS, rank, slot
from interlock.routing.replay import replay
from interlock.types.decision import Placement, RouteDecision
from interlock.types.identity import DataClass, Workload
from interlock.types.record import Intent
from interlock.types.request import Features, Target
from interlock.types.source import Labels, LoadReading, Model, Offer, Source, SourceKind, SourceLimits
from tests.property.routing.test_decide import cases, offers_in, readings, run

BOUNDS = Placement(4, 1250, 950, 2000)
TARGET = Target(kind="model", model="m")
KEY = bytes(range(32))
slots = st.integers(1, SLOTS)


def fleet(count: int, **limits: int) -> tuple[Offer, ...]:
    """Replicas r0 to r{count - 1} of one model."""
    return offers_of(
        Source(
            id=f"src_r{n}",
            name=f"r{n}",
            kind=SourceKind.vllm,
            base_url="http://x.example",
            limits=SourceLimits(**limits),
            models=(Model(name="m"),),
        )
        for n in range(count)
    )


def asked(affinity: int) -> Features:
    return Features("chat", "m", DataClass.internal, prompt_bytes=10, prompt_tokens_max=20, affinity=affinity)


def at(load: int, **more: int) -> LoadReading:
    """An engine that runs `load` calls."""
    return LoadReading(waiting=0, running=load, kv_permille=more.get("kv", 0), age_ms=10, stay_ms=more.get("stay", -1))


def order(decision: RouteDecision) -> list[str]:
    return [c.offer for c in decision.candidates]


def home(affinity: int, offers: tuple[Offer, ...]) -> str:
    return order(decide(asked(affinity), TARGET, offers, {}, placement=BOUNDS))[0]


placed_cases = st.builds(
    lambda case, affinity, workload: (
        case
        | {"features": msgspec.structs.replace(case["features"], affinity=affinity, workload=workload)}
        | {"placement": BOUNDS}
    ),
    cases(),
    slots,
    st.sampled_from(Workload),
)


@given(placed_cases, st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_a_placed_decision_is_a_permutation_of_what_is_allowed_in_whatever_order_it_came(
    case: dict[str, object], rng: random.Random
) -> None:
    decision = run(case)
    both = order(decision) + [r.offer for r in decision.rejected]
    assert sorted(both) == sorted(o.key for o in offers_in(case))
    shuffled = list(offers_in(case))
    rng.shuffle(shuffled)
    assert run(case, offers=tuple(shuffled)) == decision == run(case)


@given(placed_cases)
@settings(max_examples=120, deadline=None)
def test_placement_changes_nothing_but_the_order_of_replicas(case: dict[str, object]) -> None:
    """By preference and merit the order is what it is without; and whoever stands before a candidate that is no replica
    of it did so by these, or because that one is saturated."""
    by_key = {o.key: o for o in offers_in(case)}
    placed = run(case)
    plain = run(case, placement=None, latencies={c.offer: c.latency_micro for c in placed.candidates})
    assert placed.rejected == plain.rejected and placed.readings == plain.readings
    assert {c.offer: c.score_micro for c in placed.candidates} == {c.offer: c.score_micro for c in plain.candidates}
    for one, other in zip(order(placed), order(plain), strict=True):
        first, second = by_key[one], by_key[other]
        scores = {c.offer: c.score_micro for c in placed.candidates}
        assert scores[one] == scores[other]
        assert first.source.labels.on_prem == second.source.labels.on_prem


def recorded(case: dict[str, object], decision: RouteDecision) -> Intent:
    fields: dict[str, object] = {each.name: "" for each in msgspec.structs.fields(Intent) if each.required}
    fields |= {"call": 1, "wall_ns": 0, "mono_ns": 0, "snapshot_version": 1, "reserved_tokens": 0, "parameters": {}}
    fields |= {"body": b"", "body_sha256": b"", "snapshot_root": b"", "permits": ()}
    fields |= {"features": case["features"], "target": case["target"], "route": decision}
    return msgspec.msgpack.decode(msgspec.msgpack.encode(Intent(**fields)), type=Intent)  # type: ignore[arg-type]


@given(placed_cases)
@settings(max_examples=120, deadline=None)
def test_every_placed_decision_replays_from_its_record(case: dict[str, object]) -> None:
    decision = run(case)
    again = replay(recorded(case, decision), {o.key: o for o in offers_in(case)})
    assert again.same, again.differences
    assert again.decision == decision


@given(
    slots, st.lists(readings, min_size=12, max_size=12), st.integers(1, 11), st.lists(st.integers(0, 9), max_size=12)
)
@settings(max_examples=120, deadline=None)
def test_a_placed_decision_that_was_cut_replays_too(
    affinity: int, loads: list[LoadReading], kept: int, delays: list[int]
) -> None:
    offers = fleet(12, waiting_max=8)
    case: dict[str, object] = {"features": asked(affinity), "target": TARGET}
    given_readings = {o.source.id: reading for o, reading in zip(offers, loads, strict=True)}
    latencies = {o.key: delay * 100_000 for o, delay in zip(offers, delays, strict=False)}
    decision = decide(
        asked(affinity), TARGET, offers, given_readings, latencies=latencies, placement=BOUNDS, candidates_max=kept
    )
    again = replay(recorded(case, decision), {o.key: o for o in offers})
    assert again.same, again.differences


@given(slots, st.lists(readings, min_size=2, max_size=8), st.lists(st.integers(0, 10**6), max_size=8))
@settings(max_examples=150, deadline=None)
def test_whoever_is_before_another_replica_is_within_bounds_or_no_better_one_was(
    affinity: int, loads: list[LoadReading], delays: list[int]
) -> None:
    offers = fleet(len(loads), waiting_max=10_000)
    by_id = {
        o.source.id: msgspec.structs.replace(r, healthy=True, saturated=False)
        for o, r in zip(offers, loads, strict=True)
    }
    latencies = {o.key: delay for o, delay in zip(offers, delays, strict=False)}
    found = decide(asked(affinity), TARGET, offers, by_id, placement=BOUNDS, latencies=latencies).candidates
    assert sorted(c.place for c in found) == list(range(1, len(loads) + 1))
    assert any(c.beyond != "load" for c in found)
    for one, other in pairwise(found):
        if one.beyond == other.beyond != "load":
            assert one.place < other.place
        else:
            assert ("", "kv", "wait", "load").index(one.beyond) <= ("", "kv", "wait", "load").index(other.beyond)
    for c in found:
        assert (c.place == 1) == (c.offer == max((o.key for o in offers), key=lambda key: rank(affinity, key)))


@given(st.integers(2, 40), st.data())
@settings(max_examples=15, deadline=None)
def test_a_replica_that_leaves_moves_its_own_slots_and_no_others(count: int, data: st.DataObject) -> None:
    offers = fleet(count)
    gone = offers[data.draw(st.integers(0, count - 1))].key
    left = tuple(o for o in offers if o.key != gone)
    moved = 0
    for affinity in range(1, SLOTS + 1, 17):
        before, after = home(affinity, offers), home(affinity, left)
        moved += before == gone
        assert before in (after, gone)
    share = moved / len(range(1, SLOTS + 1, 17))
    assert share < 2.5 / count + 0.06, "its share is about one in all of them"


def test_slots_spread_evenly_and_a_replica_that_joins_takes_its_share() -> None:
    for count in (2, 3, 8):
        before = [home(affinity, fleet(count)) for affinity in range(1, SLOTS + 1)]
        homes = Counter(before)
        assert len(homes) == count
        assert max(homes.values()) < 1.25 * SLOTS / count and min(homes.values()) > 0.75 * SLOTS / count
        more = [home(affinity, fleet(count + 1)) for affinity in range(1, SLOTS + 1)]
        moved = sum(one != other for one, other in zip(more, before, strict=True))
        assert moved == more.count(f"r{count}::m")
        assert 0.75 < moved / (SLOTS / (count + 1)) < 1.25


@given(st.binary(min_size=1, max_size=40), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_nodes_that_know_nothing_of_each_other_agree(text: bytes, count: int) -> None:
    """Each has its own latencies and seed, and readings of its own age."""
    offers, homes = fleet(count), set()
    for node in range(4):
        rng = random.Random(node)
        latencies = {o.key: rng.randrange(10**6) for o in offers}
        seen = {o.source.id: msgspec.structs.replace(at(rng.randrange(3)), age_ms=rng.randrange(900)) for o in offers}
        affinity = slot(KEY, (b"ten_a", text))
        decision = decide(
            asked(affinity), TARGET, offers, seen, latencies=latencies, seed=rng.getrandbits(63), placement=BOUNDS
        )
        homes.add(order(decision)[0])
    assert len(homes) == 1


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_slot_depends_on_the_key_and_on_where_its_parts_end(parts: list[bytes]) -> None:
    texts = [[*parts, bytes([n])] for n in range(24)]
    mine = [slot(KEY, each) for each in texts]
    other = [slot(bytes(32), each) for each in texts]
    assert all(1 <= each <= SLOTS for each in mine)
    assert mine != other, "24 texts in the same slots under two keys: one chance in 4096 to the 24th"
    joined = [slot(KEY, [b"".join(each)]) for each in texts]
    assert mine != joined


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from((0.9, 1.1, 1.5)))
@settings(max_examples=15, deadline=None)
def test_under_skewed_prefixes_no_replica_has_more_than_its_bound(seed: int, count: int, skew: float) -> None:
    """Calls of few hot conversations come and go; each is placed by the loads of then."""
    rng = random.Random(seed)
    offers = fleet(count, waiting_max=10_000)
    weights = [1 / (n + 1) ** skew for n in range(200)]
    running: list[str] = []
    stayed = 0
    for number in range(60 * count):
        if number >= 24 * count:
            running.pop(rng.randrange(len(running)))
        loads = Counter(running)
        affinity = slot(KEY, (b"ten_a", b"%d" % rng.choices(range(200), weights)[0]))
        found = decide(
            asked(affinity), TARGET, offers, {o.source.id: at(loads[o.key]) for o in offers}, placement=BOUNDS
        )
        stayed += found.candidates[0].place == 1
        running.append(order(found)[0])
        most = max(BOUNDS.load_slack, -(-BOUNDS.load_factor_milli * len(running) // (1000 * count)))
        assert max(Counter(running).values()) <= most
    assert stayed > 60 * count / 3, "it is still placement"


def test_a_hot_conversation_spreads_and_comes_back() -> None:
    offers = fleet(4)
    first, second, *_ = order(decide(asked(7), TARGET, offers, {}, placement=BOUNDS))
    ids = {o.key: o.source.id for o in offers}

    def goes(**loads: int) -> tuple[str, str]:
        seen = {o.source.id: at(loads.get("home", 0) if o.key == first else 1) for o in offers}
        found = decide(asked(7), TARGET, offers, seen, placement=BOUNDS).candidates
        return found[0].offer, next(c.beyond for c in found if c.offer == first)

    assert goes(home=3) == (first, "")
    assert goes(home=4) == (second, "load")
    assert goes(home=3) == (first, "")
    full = {ids[first]: at(1, kv=951)}
    assert (
        order(
            decide(asked(7), TARGET, offers, full | {i: at(1) for k, i in ids.items() if k != first}, placement=BOUNDS)
        )[0]
        == second
    )
    everywhere = {i: at(1, kv=951) for i in ids.values()}
    assert order(decide(asked(7), TARGET, offers, everywhere, placement=BOUNDS))[0] == first


def test_a_predicted_wait_beyond_the_bound_moves_a_call() -> None:
    offers = fleet(2, waiting_max=100)
    first, second = order(decide(asked(7), TARGET, offers, {}, placement=BOUNDS))
    ids = {o.key: o.source.id for o in offers}

    def goes(waiting: int, stay_ms: int, bounds: Placement = BOUNDS) -> str:
        queue = LoadReading(waiting=waiting, running=2, kv_permille=0, age_ms=10, stay_ms=stay_ms)
        seen = {ids[first]: queue, ids[second]: at(3)}
        return order(decide(asked(7), TARGET, offers, seen, placement=bounds))[0]

    assert goes(waiting=1, stay_ms=6000) == first, "one of three waits, and each is there for six seconds: two seconds"
    assert goes(waiting=1, stay_ms=6300) == second
    assert goes(waiting=1, stay_ms=-1) == first, "nothing is known"
    assert goes(waiting=1, stay_ms=60_000, bounds=msgspec.structs.replace(BOUNDS, wait_ms_max=0)) == first


def test_without_affinity_replicas_within_bounds_take_turns_whatever_was_measured_of_them() -> None:
    """Neither a latency step nor a small difference in load separates them; one that is beyond its share comes last."""
    for count in (4, 8):
        offers = fleet(count)
        seen = {o.source.id: at(n % 3) for n, o in enumerate(offers)} | {"src_r0": at(40)}
        latencies = {o.key: 58_823 * (n % 5) for n, o in enumerate(offers)}
        firsts: Counter[str] = Counter()
        for seed in range(200):
            found = decide(
                asked(0), TARGET, offers, seen, seed=seed * 7919, placement=BOUNDS, latencies=latencies
            ).candidates
            firsts[found[0].offer] += 1
            assert all(c.place == 0 for c in found)
            assert [c.offer for c in found if c.beyond] == ["r0::m"] == [found[-1].offer]
        assert firsts.keys() == {o.key for o in offers[1:]}
        assert max(firsts.values()) < 2 * 200 / (count - 1)


@given(st.integers(0, 2**63 - 1), st.lists(readings, min_size=12, max_size=12), st.integers(1, 11))
@settings(max_examples=60, deadline=None)
def test_a_decision_without_affinity_replays_too_whole_or_cut(seed: int, loads: list[LoadReading], kept: int) -> None:
    offers = fleet(12, waiting_max=8)
    case: dict[str, object] = {"features": asked(0), "target": TARGET}
    seen = {o.source.id: reading for o, reading in zip(offers, loads, strict=True)}
    for most in (50, kept):
        decision = decide(asked(0), TARGET, offers, seen, seed=seed, placement=BOUNDS, candidates_max=most)
        again = replay(recorded(case, decision), {o.key: o for o in offers})
        assert again.same, again.differences


def test_a_record_from_before_there_were_bounds_without_affinity_replays_as_it_was() -> None:
    offers = fleet(3)
    seen = {o.source.id: at(2 - n) for n, o in enumerate(offers)}
    decision = decide(asked(0), TARGET, offers, seen, seed=3, latencies={"r0::m": 0, "r1::m": 58_823})
    assert order(decision) == ["r0::m", "r1::m", "r2::m"] and decision.placement is None
    assert replay(recorded({"features": asked(0), "target": TARGET}, decision), {o.key: o for o in offers}).same


def test_another_model_or_place_is_no_replica() -> None:
    def one(name: str, model: Model, on_prem: bool = True) -> Source:
        labels = Labels(on_prem=on_prem)
        return Source(id=name, name=name, kind=SourceKind.vllm, base_url="http://x", labels=labels, models=(model,))

    offers = offers_of(
        [
            one("a", Model(name="m")),
            one("b", Model(name="m")),
            one("c", Model(name="m"), on_prem=False),
            one("d", Model(name="n")),
            one("e", Model(name="m", version="2")),
        ]
    )
    found = decide(asked(9), Target(kind="auto"), offers, {}, placement=BOUNDS).candidates
    assert {c.offer for c in found if c.place} == {"a::m", "b::m"}
    assert found[-1].offer == "c::m"
