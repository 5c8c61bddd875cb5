"""What holds of decisions by what was learned, whatever was learned: policy's set, bounds on what is tried, replay."""

from __future__ import annotations

import random

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.routing.choose import decide, spread
from interlock.routing.explore import DUE_PARTS, MICRO, SHARPNESS, Option, chances, drawn
from interlock.routing.load import saturated
from interlock.routing.replay import replay
from interlock.types.decision import RouteDecision
from interlock.types.identity import DataClass
from interlock.types.learned import Estimates, arm_of
from interlock.types.record import Intent
from interlock.types.request import Features, Target
from interlock.types.source import Labels, LoadReading, Model, Offer, Price, Source, SourceKind

from .test_decide import cases, offers_in

ARMS = ("m", "n", "o", "m@v1", "n@v1", "o@v1")
micro = st.integers(10_000, 990_000)
estimates = st.builds(
    Estimates,
    version=st.integers(1, 9),
    task=st.integers(-1, 3),
    quality_micro=st.dictionaries(st.sampled_from(ARMS), micro),
    doubt_micro=st.dictionaries(st.sampled_from(ARMS), st.integers(0, 400_000)),
    verbosity_milli=st.dictionaries(st.sampled_from(ARMS), st.integers(100, 10_000)),
    failure_micro=st.dictionaries(st.sampled_from(("s0::m", "s1::n", "s2::o")), st.integers(0, MICRO)),
    share_micro=st.sampled_from((0, 20_000, 500_000)),
    money_micro=st.sampled_from((0, 50_000, 2_000_000)),
)


def run(case: dict[str, object], **changes: object) -> RouteDecision:
    return decide(**{**case, **changes})  # type: ignore[arg-type]


@given(cases(), estimates)
@settings(max_examples=150, deadline=None)
def test_what_was_learned_orders_the_same_candidates_and_adds_none(case: dict[str, object], known: Estimates) -> None:
    plain, learned = run(case), run(case, estimates=known)
    assert sorted(c.offer for c in learned.candidates) == sorted(c.offer for c in plain.candidates)
    assert learned.rejected == plain.rejected and learned.router_version == known.version


@given(cases(), estimates)
@settings(max_examples=150, deadline=None)
def test_what_is_tried_is_free_fits_and_is_another_model(case: dict[str, object], known: Estimates) -> None:
    by_key = {o.key: o for o in offers_in(case)}
    readings = case["readings"]
    assert isinstance(readings, dict)
    decision = run(case, estimates=known)
    if not decision.best:
        return
    without = run(case, estimates=known._replace(share_micro=0))
    first, best = by_key[decision.candidates[0].offer], by_key[decision.best]
    assert without.candidates[0].offer == decision.best and decision.candidates[1].offer == decision.best
    assert arm_of(first.model) != arm_of(best.model) and 0 < decision.chance_micro <= known.share_micro
    assert not saturated(first, readings.get(first.source.id, LoadReading()))
    assert known.money_micro or first.model.price.output_nusd_per_mtok <= best.model.price.output_nusd_per_mtok * 100


@given(cases(), estimates, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_input_does_not_matter(case: dict[str, object], known: Estimates, rng: random.Random) -> None:
    shuffled = list(offers_in(case))
    rng.shuffle(shuffled)
    assert run(case, offers=tuple(shuffled), estimates=known) == run(case, estimates=known)


@given(cases(), estimates)
@settings(max_examples=100, deadline=None)
def test_every_learned_decision_replays_from_its_record(case: dict[str, object], known: Estimates) -> None:
    decision = run(case, estimates=known)
    fields: dict[str, object] = {each.name: "" for each in msgspec.structs.fields(Intent) if each.required}
    fields |= {"call": 1, "wall_ns": 0, "mono_ns": 0, "snapshot_version": 1, "reserved_tokens": 0, "parameters": {}}
    fields |= {"body": b"", "body_sha256": b"", "snapshot_root": b"", "permits": ()}
    fields |= {"features": case["features"], "target": case["target"], "route": decision}
    intent = msgspec.msgpack.decode(msgspec.msgpack.encode(Intent(**fields)), type=Intent)  # type: ignore[arg-type]
    again = replay(intent, {o.key: o for o in offers_in(case)}, known)
    assert again.same, again.differences
    if decision.best:
        other = replay(intent, {o.key: o for o in offers_in(case)}, known._replace(share_micro=0))
        assert not other.same


@given(cases(), estimates)
@settings(max_examples=150, deadline=None)
def test_the_spread_of_a_decision_has_every_chance_that_is_recorded(case: dict[str, object], known: Estimates) -> None:
    decision = run(case, estimates=known)
    more = {name: value for name, value in case.items() if name != "candidates_max"}
    likely = spread(**{**more, "estimates": known})  # type: ignore[arg-type]
    assert sum(chance for _, chance in likely) == (MICRO if decision.candidates else 0)
    assert all(chance > 0 for _, chance in likely) and len({name for name, _ in likely}) == len(likely)
    if decision.candidates:
        assert dict(likely)[decision.candidates[0].offer] == decision.chance_micro
        assert likely[0][0] == (decision.best or decision.candidates[0].offer)


options = st.builds(
    Option,
    score_micro=st.integers(0, MICRO),
    credit_micro=st.integers(0, 150_000),
    cost=st.sampled_from((0, 1, 5, 10**9)),
)


@given(
    st.lists(options, min_size=1, max_size=50),
    st.sampled_from((0, 1, 20_000, 500_000)),
    st.integers(0, 10**6),
    st.sets(st.integers(0, 49)),
)
@example([Option(900_000, 0, 10), Option(899_000, 0, 1000)], 500_000, 50_000, set())
@example([Option(900_000, 0, 10), Option(1, 0, 1000)], 500_000, 50_000, {1})
@example([Option(900_000, 0, 0), Option(899_000, 0, 7)], 500_000, 1_000_000, set())
@example([Option(900_000, 0, 9), Option(899_000, 0, 7), Option(0, 0, 7)], 500_000, 1_000_000, {0, 2})
@settings(max_examples=200, deadline=None)
def test_chances_add_up_and_stay_within_share_and_money(
    listed: list[Option], share: int, money: int, due: set[int]
) -> None:
    likely = chances(listed, share, money, [number for number in due if number < len(listed)])
    assert sum(likely) == MICRO and min(likely) >= 0 and len(likely) == len(listed)
    assert sum(likely[1:]) <= share
    best = listed[0]
    extra = sum(c * max(o.cost - best.cost, 0) for c, o in zip(likely, listed, strict=True))
    assert extra <= money * best.cost


def plainly(listed: list[Option], share: int, money: int, due: list[int]) -> list[int]:
    """What `chances` says of itself, one option after the other."""
    best, number, rest = listed[0], len(listed), [0]
    if number < 2 or share <= 0:
        return [MICRO, *[0] * (number - 1)]
    for option in listed[1:]:
        gap = best.score_micro - option.score_micro - option.credit_micro
        if option.cost > best.cost and money <= 0:
            rest.append(0)
        elif gap <= 0:
            rest.append(MICRO // number)
        else:
            rest.append(MICRO * MICRO // (number * (MICRO + SHARPNESS * gap)))
    apart = [i for i in due if rest[i]]
    own = share // DUE_PARTS // len(apart) if apart else 0
    left, total = share - own * len(apart), sum(rest)
    if total > left:
        rest = [chance * left // total for chance in rest]
    for i in apart:
        rest[i] += own
    extra = sum(rest[i] * (listed[i].cost - best.cost) for i in range(number) if listed[i].cost > best.cost)
    if extra > money * best.cost:
        for i in range(number):
            if listed[i].cost > best.cost:
                rest[i] = rest[i] * money * best.cost // extra
    return [MICRO - sum(rest), *rest[1:]]


@given(
    st.lists(options, min_size=1, max_size=50),
    st.sampled_from((0, 1, 20_000, 500_000)),
    st.sampled_from((0, 1, 50_000, 2_000_000)),
    st.sets(st.integers(0, 49)),
)
@example([Option(900_000, 0, 10), Option(899_000, 0, 1000), Option(899_000, 0, 9)], 20_000, 0, set())
@example([Option(900_000, 50, 10), Option(899_000, 0, 1000), Option(880_000, 0, 9)], 20_000, 50_000, {0, 2})
@settings(max_examples=300, deadline=None)
def test_chances_come_out_to_the_millionth_as_they_are_defined(
    listed: list[Option], share: int, money: int, due: set[int]
) -> None:
    """What is on record is decided again by them: a rounding elsewhere would be another decision."""
    numbers = [number for number in sorted(due) if number < len(listed)]
    assert chances(listed, share, money, numbers) == plainly(listed, share, money, numbers)


def test_what_became_worse_has_a_part_of_the_share_however_bad_it_is() -> None:
    listed = [Option(900_000, 0, 10), *[Option(890_000, 0, 10)] * 8, Option(10_000, 0, 10)]
    assert chances(listed, 20_000, 50_000)[-1] < 100
    likely = chances(listed, 20_000, 50_000, [9])
    assert 10_000 <= likely[-1] <= 10_100 and all(1_200 < chance < 1_250 for chance in likely[1:9])
    assert chances(listed, 20_000, 50_000, [0]) == chances(listed, 20_000, 50_000), "the best one needs no part"
    dear = [*listed[:-1], Option(10_000, 0, 1_000)]
    assert chances(dear, 20_000, 50_000, [9])[-1] < 600, "money bounds it too"


def test_a_model_that_became_worse_is_tried_more_where_calls_are_decided() -> None:
    known = Estimates(3, 0, {"m": 900_000, "n": 10_000, "o": 890_000}, {}, {}, {}, 20_000, 50_000)
    listed = (offer("s0", "m", 1.0), offer("s1", "n", 1.0), offer("s2", "o", 1.0))
    target = Target(kind="auto")
    seldom = dict(spread(ASKED, target, listed, {}, estimates=known))
    often = dict(spread(ASKED, target, listed, {}, estimates=known._replace(due=frozenset(("n",)))))
    assert seldom["s1::n"] < 5_000 and 10_000 <= often["s1::n"] < 20_000
    assert 980_000 <= often["s0::m"] <= 980_010


def test_draws_follow_the_chances() -> None:
    likely = [900_000, 90_000, 10_000]
    counts = [0, 0, 0]
    for seed in range(20_000):
        counts[drawn(likely, seed)] += 1
    assert [abs(c / 20_000 - p / MICRO) < 0.01 for c, p in zip(counts, likely, strict=True)] == [True] * 3


def offer(source: str, model: str, usd: float, *, on_prem: bool = True, origin: str = "list") -> Offer:
    price = Price(input_nusd_per_mtok=int(usd * 1e9), output_nusd_per_mtok=int(usd * 1e9), origin=origin)
    made = Source(
        id=source, name=source, kind=SourceKind.vllm, base_url="http://x", labels=Labels(on_prem=on_prem),
        models=(Model(name=model, price=price),),
    )  # fmt: skip
    return Offer(made, made.models[0], f"{source}::{model}")


def known(share: int = 500_000, money: int = 50_000, **quality: int) -> Estimates:
    return Estimates(3, 1, quality, dict.fromkeys(quality, 0), {}, {}, share, money)


ASKED = Features("chat", "auto", DataClass.internal, (), (), False, 10, 20, 30)


def first_of(among: tuple[Offer, ...], what: Estimates, seed: int = 1) -> RouteDecision:
    return decide(ASKED, Target(kind="auto"), among, {}, estimates=what, seed=seed)


def test_a_model_that_does_well_is_preferred_to_its_prior() -> None:
    among = (offer("a", "m", 0), offer("b", "n", 0))
    assert first_of(among, known(0, m=300_000, n=900_000)).candidates[0].offer == "b::n"
    assert first_of(among, known(0, m=900_000, n=300_000)).candidates[0].offer == "a::m"


def test_what_fails_often_and_what_talks_much_is_worth_less() -> None:
    among = (offer("a", "m", 0.5), offer("b", "n", 0.5))
    even = known(0, m=800_000, n=800_000)
    assert first_of(among, even._replace(failure_micro={"a::m": 500_000})).candidates[0].offer == "b::n"
    assert first_of(among, even._replace(verbosity_milli={"b::n": 3000, "m": 3000})).candidates[0].offer == "b::n"


def test_where_the_best_is_free_nothing_that_costs_is_tried_and_no_unknown_price_ever() -> None:
    free, dear = offer("a", "m", 0), offer("b", "n", 1.0)
    unknown = offer("c", "o", 0, on_prem=False, origin="none")
    what = known(500_000, 1_000_000, m=700_000, n=700_000, o=700_000)
    tried = [first_of((free, dear, unknown), what, seed).best for seed in range(400)]
    assert not any(tried)
    tried = [first_of((free, offer("d", "n", 0)), what, seed).best for seed in range(400)]
    assert 20 < sum(map(bool, tried)) < 380
