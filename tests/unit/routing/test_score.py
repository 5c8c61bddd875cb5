"""The score: its scale, its weights, and what each mode prefers."""

from __future__ import annotations

import pytest

from interlock.routing import score as score_module
from interlock.routing.facts import facts_of
from interlock.routing.score import MICRO, UNKNOWN_MICRO, WEIGHTS, Weights, latency_micro
from interlock.types.source import Model, Offer, Power, Price

from .samples import offers, priced, source


def scored(
    offer: Offer, prompt: int, completion: int, weights: Weights, latency: int = UNKNOWN_MICRO
) -> tuple[int, int, int, int, int]:
    return score_module.scored(facts_of(offer), prompt, completion, weights, latency)


def score(model: Model, mode: str = "balanced", latency: int = UNKNOWN_MICRO) -> int:
    return scored(offers(source("s", model))[0], 1000, 200, WEIGHTS[mode], latency)[0]


def test_weights_add_up() -> None:
    assert {sum(weights) for weights in WEIGHTS.values()} == {MICRO}
    assert set(WEIGHTS) == {"eco", "balanced", "quality"}


def test_each_mode_prefers_what_it_is_for() -> None:
    small, large = priced("small", 0.1, quality_milli=400), priced("large", 5, quality_milli=900)
    assert score(small, "eco") > score(large, "eco")
    assert score(large, "quality") > score(small, "quality")


def test_cost_is_the_mean_price_over_the_tokens() -> None:
    model = Model(name="m", price=Price(input_nusd_per_mtok=1_000_000_000, output_nusd_per_mtok=4_000_000_000))
    offer = offers(source("s", model))[0]
    _, _, cost, _, _ = scored(offer, 1000, 500, WEIGHTS["balanced"])  # (1 x 1000 + 4 x 500) / 1500 = 2 USD per million
    assert cost == 666_666
    assert scored(offers(source("s", "free"))[0], 1000, 500, WEIGHTS["balanced"])[2] == 0


def test_a_cloud_without_a_price_is_not_free() -> None:
    unpriced = Model(name="m", price=Price(origin="none"))
    cloud, home = offers(source("cloud", unpriced, on_prem=False), source("home", unpriced))
    assert scored(cloud, 1000, 500, WEIGHTS["balanced"])[2] == UNKNOWN_MICRO
    assert scored(home, 1000, 500, WEIGHTS["balanced"])[2] == 0
    declared = Model(name="m", price=Price(origin="source"))
    assert scored(offers(source("s", declared, on_prem=False))[0], 1000, 500, WEIGHTS["balanced"])[2] == 0


def test_energy_counts_when_it_is_known() -> None:
    model = Model(name="m", power=Power(input_uj_per_token=100_000, output_uj_per_token=2_800_000))
    offer = offers(source("s", model))[0]
    assert scored(offer, 2000, 1000, WEIGHTS["eco"])[4] == MICRO // 2  # (0.1 x 2000 + 2.8 x 1000) / 3000 = 1 J
    assert scored(offers(source("s", "m"))[0], 2000, 1000, WEIGHTS["eco"])[4] == UNKNOWN_MICRO


@pytest.mark.parametrize(
    ("us", "micro"),
    [(-5, 0), (0, 0), (999, 0), (1000, 58_823), (1999, 58_823), (2000, 117_647), (10**9, MICRO), (10**15, MICRO)],
)
def test_latency_steps_double(us: int, micro: int) -> None:
    assert latency_micro(us) == micro


def test_more_is_never_better_of_what_is_to_be_little() -> None:
    assert [score(priced("m", p)) for p in (0, 0.1, 1, 10, 100)] == sorted(
        (score(priced("m", p)) for p in (0, 0.1, 1, 10, 100)), reverse=True
    )
    latencies = [score(Model(name="m"), latency=latency_micro(us)) for us in (0, 5_000, 50_000, 10**7)]
    assert latencies == sorted(latencies, reverse=True)


def test_no_tokens_and_absurd_prices_stay_on_the_scale() -> None:
    model = Model(name="m", quality_milli=1000, price=Price(input_nusd_per_mtok=2**62, output_nusd_per_mtok=2**62))
    offer = offers(source("s", model))[0]
    for tokens in (0, 1, 10**9):
        assert all(0 <= part <= MICRO for part in scored(offer, tokens, tokens, WEIGHTS["balanced"]))
