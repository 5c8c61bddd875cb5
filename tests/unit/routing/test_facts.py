"""What decisions remember of offers, and draws for many of them at once."""

from __future__ import annotations

import random

import msgspec

from interlock.routing import facts, steps
from interlock.routing.choose import decide
from interlock.routing.draws import mix, mixed_lanes, packed
from interlock.routing.facts import FACTS_MAX, SLATES_MAX, facts_of, slate_of
from interlock.routing.load import UNKNOWN
from interlock.routing.placement import rank
from interlock.routing.steps import split
from interlock.types.decision import Placement
from interlock.types.identity import DataClass
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target, TargetStep
from interlock.types.source import Model, Power, Price

from .samples import idle, offers, queue, source


def test_draws_side_by_side_are_those_one_after_the_other() -> None:
    rng = random.Random(1)
    for count in (1, 2, 3, 50, 400):
        seed = rng.choice((0, 1, 4096, rng.getrandbits(63), 2**64 - 1))
        salts = [rng.choice((0, 2**32 - 1, rng.getrandbits(32))) for _ in range(count)]
        assert list(mixed_lanes(seed, packed(salts), count)) == [mix(seed, salt) for salt in salts]


def test_an_offer_is_itself_whatever_others_of_its_name_were() -> None:
    """Snapshots and tenants have offers of one name that differ, also where an old one is gone from memory."""
    for dollars in range(40):
        price = Price(input_nusd_per_mtok=dollars * 10**9, output_nusd_per_mtok=dollars * 10**9)
        two = offers(source("s", Model(name="m", price=price)), source("t", Model(name="m")))
        asked = Features("chat", "m", DataClass.internal, prompt_tokens_max=10, completion_tokens_max=10)
        found = {c.offer: c.cost_micro for c in decide(asked, Target(kind="model", model="m"), two, {}).candidates}
        assert found == {"s::m": 1_000_000 * dollars // (dollars + 1), "t::m": 0}
        assert facts_of(two[0]).offer is two[0]


def test_what_is_remembered_of_offers_is_bounded() -> None:
    many = offers(*(source(f"s{n}", Model(name="m")) for n in range(FACTS_MAX + 50)))
    for offer in many:
        assert facts_of(offer).key == offer.key
        assert len(facts._known) <= FACTS_MAX


def test_a_list_of_offers_is_looked_at_each_time() -> None:
    """A tuple cannot change; of anything else the next call may find something else in the same place."""
    one, two = offers(source("s", Model(name="m")), source("t", Model(name="m")))
    asked, target = Features("chat", "m", DataClass.internal), Target(kind="model", model="m")
    given = [one, two]
    assert {c.offer for c in decide(asked, target, given, {}).candidates} == {"s::m", "t::m"}
    given[1] = offers(source("u", Model(name="m")))[0]
    assert {c.offer for c in decide(asked, target, given, {}).candidates} == {"s::m", "u::m"}
    assert slate_of((one, two)).replicated and not slate_of((one,)).replicated


def test_what_is_remembered_of_sets_of_offers_is_bounded() -> None:
    both = offers(source("s", Model(name="m")), source("t", Model(name="m")))
    held = [(both[0], both[1]) for _ in range(SLATES_MAX + 50)]
    for each in held:
        assert slate_of(each).offers is each
        assert len(facts._slates) <= SLATES_MAX


def test_the_offers_of_a_cascades_steps_are_split_once() -> None:
    """The same tuples at each call, and other steps or offers have their own; a list is looked at each time."""
    many = offers(*(source(f"s{n}", f"m{n % 3}") for n in range(9)))
    one, two = (TargetStep("m0"), TargetStep("m1")), (TargetStep("m1"), TargetStep("m1", "s4"), TargetStep("m2"))
    first, again = split(one, many), split(one, many)
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert [[offer.key for offer in part] for part in first] == [
        ["s0::m0", "s3::m0", "s6::m0"],
        ["s1::m1", "s4::m1", "s7::m1"],
    ]
    assert [len(part) for part in split(two, many)] == [3, 0, 3] and split(one, many[:2]) == (many[:1], many[1:2])
    changing = list(many[:1])
    assert split(one, changing) == (many[:1], ())
    changing[0] = many[1]
    assert split(one, changing) == ((), many[1:2])
    held = [(many[0], many[1]) for _ in range(SLATES_MAX + 50)]
    for each in held:
        assert split(one, each)[0] == many[:1] and len(steps._split) <= SLATES_MAX


def test_replicas_that_hash_alike_stand_by_name_and_not_by_load() -> None:
    """Of two equal ranks every node takes the same one first, whatever it has read of their queues."""
    both = offers(source("r13", "m"), source("r10221900", "m"))
    assert len({facts_of(offer).salt for offer in both}) == 1 and slate_of(both).twins
    readings = {"src_r13": idle(), "src_r10221900": queue(0, 2)}
    for affinity in range(1, 50):
        asked = Features("chat", "m", DataClass.internal, affinity=affinity)
        found = decide(asked, Target(kind="model", model="m"), both, readings, placement=Placement(4, 1250, 950, 2000))
        assert [(c.offer, c.place) for c in found.candidates] == [("r10221900::m", 1), ("r13::m", 2)]


def test_the_reading_of_a_source_is_recorded_once_however_many_of_its_models_are_asked() -> None:
    three = offers(source("t", "m"), source("s", "m", "n"))
    found = decide(Features("chat", "auto", DataClass.internal), Target(kind="auto"), three, {"src_s": idle()})
    assert found.readings == (("src_s", idle()), ("src_t", UNKNOWN)) and len(found.candidates) == 3
    alone = decide(Features("chat", "auto", DataClass.internal), Target(kind="auto"), three[:2], {})
    assert [name for name, _ in alone.readings] == sorted({offer.source.id for offer in three[:2]})


def test_offers_of_one_worth_score_alike_and_others_by_their_own() -> None:
    """What is worked out once for all offers of one worth holds for these only: price, energy, prior and version."""
    plain = Model(name="m", price=Price(10**9, 0, 10**9, origin="list"), power=Power(1000, 40_000))
    others = (
        msgspec.structs.replace(plain, price=Price(2 * 10**9, 0, 10**9, origin="list")),
        msgspec.structs.replace(plain, price=Price(10**9, 0, 2 * 10**9, origin="list")),
        msgspec.structs.replace(plain, power=Power(900_000, 40_000)),
        msgspec.structs.replace(plain, power=Power(1000, 900_000)),
        msgspec.structs.replace(plain, quality_milli=700),
        msgspec.structs.replace(plain, version="2"),
    )
    asked, target = (
        Features("chat", "m", DataClass.internal, prompt_tokens_max=9, completion_tokens_max=9),
        Target("auto"),
    )
    known = Estimates(1, -1, {"m@2": 900_000}, {}, {"m@2": 3000}, {})
    for other in others:
        three = offers(source("s", plain), source("t", other), source("u", plain))
        both = {c.offer: c for c in decide(asked, target, three, {}, estimates=known).candidates}
        for offer in three:
            alone = decide(asked, target, (offer,), {}, estimates=known).candidates[0]
            assert both[offer.key] == alone
        assert both["s::m"].score_micro == both["u::m"].score_micro != both["t::m"].score_micro


def test_prices_of_a_set_of_offers_stand_to_each_other_as_they_are() -> None:
    """What trials may cost is compared in a unit of the set: all prices are whole in it, and none is rounded."""
    prices = (
        Price(10**9, 0, 4 * 10**9, call_nusd=7),
        Price(25 * 10**7, 0, 10**9),
        Price(),
        Price(0, 0, 3, call_nusd=9),
    )
    for among in (prices, prices[:2], prices[:3], prices[2:3]):
        slate = slate_of(offers(*(source(f"s{n}", Model(name="m", price=each)) for n, each in enumerate(among))))
        exact = [price for facts in slate.facts for price in facts.often[-1][4:7]]
        found = [price for often in slate.often for price in often[-1][4:7]]
        assert [a * b for a in exact for b in found] == [b * a for a in found for b in exact]
        assert [bool(price) for price in found] == [bool(price) for price in exact]


def test_equal_models_stand_by_load_and_their_replicas_by_rank() -> None:
    among = offers(*(source(f"{model}{n}", model) for model in ("m", "n") for n in range(3)))
    readings = {offer.source.id: idle(inflight=1) for offer in among}
    bounds, firsts = Placement(4, 1250, 950, 2000), set()
    for affinity in range(1, 60):
        asked = Features("chat", "auto", DataClass.internal, affinity=affinity)
        even = decide(asked, Target("auto"), among, readings, seed=affinity, placement=bounds).candidates
        firsts.add(even[0].offer[-1])
        idlest = {**readings, f"src_n{affinity % 3}": idle()}
        uneven = decide(asked, Target("auto"), among, idlest, seed=affinity, placement=bounds).candidates
        assert uneven[0].offer.endswith("::n")
        for found in (even, uneven):
            for three in (found[:3], found[3:]):
                assert [c.place for c in three] == [1, 2, 3] and len({c.offer[-1] for c in three}) == 1
                assert [c.offer for c in three] == sorted((c.offer for c in three), key=lambda k: -rank(affinity, k))
    assert firsts == {"m", "n"}, "equal models take turns"
