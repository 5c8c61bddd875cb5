"""Of many models decisions are worked out by columns: the same to the last digit as one model after the other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.routing import facts, table
from interlock.routing.catalog import offers_of
from interlock.routing.choose import decide, spread
from interlock.routing.explore import chances
from interlock.routing.facts import MANY, slate_of
from interlock.routing.load import saturated
from interlock.routing.score import MICRO, WEIGHTS, Weights, merit_of, merits
from interlock.routing.table import FIT, Table, chances_at_once, scores_at_once
from interlock.types.decision import Placement
from interlock.types.identity import DataClass, Workload
from interlock.types.learned import Estimates
from interlock.types.request import Features, Target
from interlock.types.source import Labels, LoadReading, Model, Offer, Power, Price, Source, SourceKind, SourceLimits

ARMS = tuple(f"m{n}" for n in range(8))
rates = st.sampled_from((0, 1, 3, 10**6, 123_456_789, 10**9, 45 * 10**9, 10**12, 2**62, 2**63 - 1))
small = st.sampled_from((0, 1, 77, 25 * 10**7, 10**9, 30 * 10**9))
energy = st.sampled_from((0, 0, 1000, 40_000, 3_000_000))
tokens = st.sampled_from((0, 1, 9, 1024, 200_000, 10**7))
by_arm = st.dictionaries(st.sampled_from(ARMS), st.sampled_from((1, 100, 1000, 4321, 10**5, 2**62, 2**70)))


def worths(rate: st.SearchStrategy[int]) -> st.SearchStrategy[list[facts.Worth]]:
    each = st.tuples(
        st.sampled_from(ARMS), st.integers(0, MICRO), rate, rate, rate, st.booleans(), energy, energy
    )  # fmt: skip
    return st.lists(each, min_size=1, max_size=40)


def known(verbosities: Mapping[str, int], rng: random.Random) -> Estimates:
    qualities = {arm: rng.randrange(10_000, 990_001) for arm in ARMS if rng.random() < 0.8}
    return Estimates(1, 0, qualities, {}, verbosities, {})


@given(
    st.one_of(worths(rates), worths(small)),
    tokens,
    tokens,
    st.sampled_from((*WEIGHTS.values(), Weights(MICRO, 0, 0, 0), Weights(2**60, 1, 1, 1))),
    st.one_of(st.none(), by_arm),
    st.randoms(use_true_random=False),
)
@settings(max_examples=300, deadline=None)
def test_merits_by_columns_are_those_one_by_one(
    listed: list[facts.Worth],
    prompt: int,
    completion: int,
    weights: Weights,
    verbosities: Mapping[str, int] | None,
    rng: random.Random,
) -> None:
    """Where they fit: what does not is left to the loop, and never comes out otherwise."""
    estimates = None if verbosities is None else known(verbosities, rng)
    numbers = rng.choice((None, [rng.randrange(len(listed)) for _ in range(30)]))
    whose = range(len(listed)) if numbers is None else numbers
    latencies = [rng.choice((0, 58_823, rng.randrange(MICRO), MICRO)) for _ in whose]
    found = scores_at_once(Table(listed, 1), prompt, completion, weights, estimates, numbers, latencies)
    if found is not None:
        each = merits(listed, prompt, completion, weights, estimates)
        plain = [each[number] for number in whose]
        made = [(one[3] - weights.latency * late) // MICRO for one, late in zip(plain, latencies, strict=True)]
        assert found == ([one[:3] for one in plain], made)
        assert [merit_of(*one[:3], weights) for one in plain] == [one[3] for one in plain]
    usual = max(max(each[2:5]) for each in listed) <= 30 * 10**9 and weights.quality <= MICRO
    if usual and prompt + completion <= 201_024 and max((verbosities or {}).values(), default=0) < 2**62:
        assert found is not None


@given(
    st.lists(st.tuples(st.integers(-MICRO, MICRO), st.sampled_from((0, 1, 5, 700, 10**9))), min_size=1, max_size=60),
    st.sampled_from((0, 1, 20_000, 500_000, MICRO)),
    st.sampled_from((0, 1, 50_000, 2_000_000)),
    st.sets(st.integers(0, 59), max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_chances_by_columns_are_those_one_by_one(
    listed: list[tuple[int, int]], share: int, money: int, due: set[int]
) -> None:
    gaps, costs = np.array([gap for gap, _ in listed]), np.array([cost for _, cost in listed])
    numbers = [number for number in sorted(due) if number < len(listed)]
    gaps[0] = 0
    found = chances_at_once(gaps, costs, int(costs.max()), share, money, numbers)
    fits = share == 0 or len(listed) < 2 or max(int(costs.max()), money * int(costs[0])) * MICRO < FIT
    assert (found is not None) == fits
    options = [(-int(gap), 0, int(cost)) for gap, cost in zip(gaps, costs, strict=True)]
    assert found in (None, chances(options, share, money, numbers))


def test_what_may_not_fit_is_not_worked_out_by_columns() -> None:
    plain = Table([("m", 0, 1, 1, 0, True, 0, 0)], 1)
    for latency, fits in ((-1, False), (0, True), (MICRO, True), (MICRO + 1, False), (2**70, False)):
        assert (scores_at_once(plain, 1, 1, WEIGHTS["balanced"], None, None, [latency]) is not None) == fits
    gaps, costs = np.array([0, 1000]), np.array([2**40, 2**42])
    assert chances_at_once(gaps, costs, 2**42, 20_000, 50_000) is None
    dear = Table([("m", 0, FIT, FIT, 0, True, 0, 0)], 1)
    assert not dear.fits(1, WEIGHTS["balanced"], {}) and not dear.fits(1, WEIGHTS["balanced"], {"m": 2**70})


def many(rng: random.Random) -> tuple[Offer, ...]:
    """More models than `MANY`, some of them twice, at prices that are known or not."""
    cheap, busy = rng.random() < 0.5, rng.choice((None, None, 2))
    return offers_of(
        Source(
            id=f"src_{n}",
            name=f"s{n}",
            kind=SourceKind.vllm,
            base_url="http://x.example",
            labels=Labels(on_prem=rng.random() < 0.5),
            limits=SourceLimits(concurrency=rng.choice((None, None, busy))),
            models=(
                Model(
                    name=f"m{n if cheap else rng.randrange(60)}",
                    context_length=131_072 if cheap else rng.choice((131_072, 4096)),
                    quality_milli=rng.randrange(1001),
                    price=Price(
                        10**8 * rng.randrange(1 if cheap else 0, 90),
                        10**7,
                        10**8 * rng.randrange(1 if cheap else 0, 400),
                        origin="list" if cheap else rng.choice(("list", "none")),
                        call_nusd=rng.choice((0, 0, 5)),
                    ),
                    power=Power(1000 + n, 40_000) if rng.random() < 0.9 else Power(),
                ),
            ),
        )
        for n in range(MANY + 16)
    )


def learned(offers: tuple[Offer, ...], rng: random.Random) -> Estimates:
    arms = [offer.model.name for offer in offers]
    return Estimates(
        1,
        0,
        {arm: rng.randrange(700_000, 990_000) for arm in arms if rng.random() < 0.9},
        {arm: rng.randrange(300_000) for arm in arms if rng.random() < 0.9},
        {arm: rng.randrange(200, 4000) for arm in arms if rng.random() < 0.9},
        {offer.key: rng.randrange(MICRO) for offer in offers if rng.random() < 0.1},
        rng.choice((20_000, 500_000)),
        rng.choice((0, 50_000, 2_000_000)),
        frozenset(rng.sample(arms, rng.randrange(4))),
    )


def test_decisions_among_many_models_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same offers, readings and estimates, with and without columns; two publications in turn, for what is kept of
    one holds for no other."""
    rng, others, at_once = random.Random(7), 0, 0
    real = table.chances_at_once

    def counted(*given: Any) -> list[int] | None:
        nonlocal at_once
        at_once += 1
        return real(*given)

    for _ in range(40):
        offers = many(rng)
        twin = (*offers[:1], *offers[1:])
        assert twin is not offers
        published = (learned(offers, rng), learned(offers, rng))
        for _ in range(6):
            prompt, full = rng.choice((10, 4000, 200_000)), rng.choice((0, 0, 0.2))
            asked = Features(
                "chat", "auto", DataClass.internal, prompt_bytes=prompt, prompt_tokens_max=prompt,
                completion_tokens_max=rng.choice((1, 1000)), affinity=rng.choice((0, 7)),
                workload=rng.choice((Workload.interactive, Workload.batch)),
            )  # fmt: skip
            readings = {
                offer.source.id: LoadReading(0, rng.randrange(4), 300, rng.randrange(4), saturated=rng.random() < full)
                for offer in offers
            }
            more: dict[str, Any] = {
                "estimates": rng.choice(published), "seed": rng.getrandbits(62),
                "placement": Placement(4, 1250, 950, 2000),
                "latencies": {offer.key: rng.randrange(MICRO) for offer in offers},
            }  # fmt: skip
            target = Target("auto", mode=rng.choice(("eco", "balanced", "quality")))
            with monkeypatch.context() as patched:
                patched.setattr(table, "chances_at_once", counted)
                first = decide(asked, target, offers, readings, **more)
                likely = spread(asked, target, offers, readings, **more)
            with monkeypatch.context() as patched:
                patched.setattr(facts, "MANY", 1000)
                plain = decide(asked, target, twin, readings, **more)
                assert slate_of(twin).table is None and slate_of(offers).table is not None
                assert first == plain and likely == spread(asked, target, twin, readings, **more)
            free = {offer.key for offer in offers if not saturated(offer, readings[offer.source.id])}
            assert len(likely) < 2 or free.issuperset(name for name, _ in likely)
            others += bool(first.best)
    assert others > 5 and at_once > 50


def test_placed_replicas_score_as_each_alone() -> None:
    """What is worked out once for replicas holds for those of one price and latency: one that costs more, and one that
    has to load its model first, have a score of their own."""
    rng = random.Random(3)
    for _ in range(60):
        apart, cold = rng.random() < 0.5, rng.random() < 0.5
        offers = offers_of(
            Source(
                id=f"src_{rng.getrandbits(30)}",
                name=f"s{n}",
                kind=SourceKind.vllm,
                base_url="http://x.example",
                models=(Model(name=f"m{n % 3}", price=Price(10**9 * (1 + n % 3 + (apart and n == 4)), origin="list")),),
            )
            for n in range(9)
        )
        readings = {offer.source.id: LoadReading(0, 1, 300, loaded=0 if cold and n == 5 else -1)
                    for n, offer in enumerate(offers)}  # fmt: skip
        latencies = {f"m{n}": rng.randrange(MICRO) for n in range(3)}
        asked = Features("chat", "auto", DataClass.internal, prompt_tokens_max=9, completion_tokens_max=9, affinity=5)
        more: dict[str, Any] = {
            "latencies": {offer.key: latencies[offer.model.name] for offer in offers},
            "placement": Placement(4, 1250, 950, 2000),
        }
        placed = decide(asked, Target("auto"), offers, readings, **more)
        found = {c.offer: (c.score_micro, c.latency_micro) for c in placed.candidates}
        for offer in offers:
            (alone,) = decide(asked, Target("auto"), (offer,), readings, **more).candidates
            assert found[offer.key] == (alone.score_micro, alone.latency_micro)
