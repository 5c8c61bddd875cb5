"""Cost of a call by examples a person can follow. What holds in general is in tests/property/metering/test_cost.py."""

import pytest

from interlock.metering.cost import Rates, accrued, hourly, unallocated
from interlock.types.source import Price, PriceTier
from interlock.types.usage import Cost, Usage

USD = 1_000_000_000
HOUR_NS = 3_600_000_000_000


def test_a_call_of_a_known_price() -> None:
    # 3 USD, 0.30 USD cached, 15 USD per million tokens: 700 x 3 + 300 x 0.30 + 200 x 15 = 5190 millionths of a dollar
    rates = Rates(Price(3 * USD, 300_000_000, 15 * USD, origin="list", version="v1"))
    assert rates.cost(Usage(1000, 300, 200)) == Cost(5_190_000, "list", "v1")


@pytest.mark.parametrize(("tokens", "nusd"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)])
def test_half_a_nano_dollar_goes_to_the_even_one(tokens: int, nusd: int) -> None:
    assert Rates(Price(output_nusd_per_mtok=500_000)).cost(Usage(0, 0, tokens)).nusd == nusd


def test_parts_are_not_rounded_before_they_are_added() -> None:
    # 0.4 + 0.4 + 0.4 nano-USD are 1.2: rounded apart they would be nothing
    rates = Rates(Price(400_000, 400_000, 400_000))
    assert rates.cost(Usage(2, 1, 1)).nusd == 1


def test_a_tier_holds_for_all_tokens_of_a_call_whose_prompt_is_longer() -> None:
    rates = Rates(Price(1 * USD, 1 * USD, 2 * USD, tiers=(PriceTier(200_000, 2 * USD, 2 * USD, 4 * USD),)))
    assert rates.cost(Usage(200_000, 0, 10)).nusd == 200_000_000 + 20_000
    assert rates.cost(Usage(200_001, 0, 10)).nusd == 400_002_000 + 40_000


def test_the_last_tier_that_is_exceeded_holds_in_whatever_order_they_stand() -> None:
    tiers = (PriceTier(200, 9_000_000, 0, 0), PriceTier(100, 5_000_000, 0, 0))
    rates = Rates(Price(1_000_000, 0, 0, tiers=tiers))
    assert [rates.cost(Usage(prompt)).nusd for prompt in (100, 101, 200, 201)] == [100, 505, 1000, 1809]


def test_tokens_written_to_a_cache_cost_their_own_price_or_that_of_input() -> None:
    usage = Usage(1000, 0, 0, "engine", 400)
    assert Rates(Price(1_000_000, 0, 0, 1_250_000)).cost(usage).nusd == 600 + 500
    assert Rates(Price(1_000_000, 0, 0)).cost(usage).nusd == 1000


def test_a_price_per_call_is_added_whole() -> None:
    assert Rates(Price(call_nusd=5 * USD // 1000)).cost(Usage()).nusd == 5_000_000


def test_a_reservation_takes_the_dearest_of_what_may_come() -> None:
    tiers = (PriceTier(100, 1_000_000, 0, 9_000_000), PriceTier(1000, 7_000_000, 0, 1_000_000))
    rates = Rates(Price(2_000_000, 3_000_000, 4_000_000, tiers=tiers))
    assert rates.bound(100, 10).nusd == 300 + 40, "cached tokens are the dearest here, and no tier is reached"
    assert rates.bound(500, 10).nusd == 1500 + 90
    assert rates.bound(2000, 10).nusd == 14_000 + 90


def test_a_reservation_is_of_the_bounds_that_are_asked_for_whatever_was_asked_before() -> None:
    rates = Rates(Price(1_000_000, 1_000_000, 2_000_000, origin="list", version="v1"))
    asked = [(100, 10), (100, 10), (100, 20), (200, 20), (100, 10)]
    assert [rates.bound(*each) for each in asked] == [
        Cost(nusd, "list", "v1") for nusd in (100 + 20, 100 + 20, 100 + 40, 200 + 40, 100 + 20)
    ]


def test_who_named_the_price() -> None:
    assert Rates(Price()).cost(Usage(5, 0, 5)) == Cost(0, "none", "")
    assert Rates(Price(output_nusd_per_mtok=1)).cost(Usage()).price == "source"
    assert Rates(Price(origin="source")).cost(Usage(5, 0, 5)) == Cost(0, "source", ""), "declared to cost nothing"
    assert Rates(Price(1, origin="hour")).cost(Usage()).price == "hour"


def test_an_hour_that_is_full_of_tokens_costs_what_the_hour_costs() -> None:
    hour_nusd, tokens_per_s = 2_500_000_000, 1250
    rate = hourly(hour_nusd, tokens_per_s)
    assert rate == 555_555_556  # 0.5556 USD per million tokens
    full = Rates(Price(output_nusd_per_mtok=rate, origin="hour")).cost(Usage(0, 0, tokens_per_s * 3600))
    assert abs(full.nusd - hour_nusd) <= 3, "the rate is rounded to a nano-USD per million tokens"


def test_idle_time_is_what_no_call_was_charged_for() -> None:
    assert accrued(2 * USD, 0, HOUR_NS // 2) == USD
    assert unallocated(2 * USD, 0, HOUR_NS, 700_000_000) == 1_300_000_000
    assert unallocated(2 * USD, 0, HOUR_NS, 3 * USD) == -USD, "it did more than it was declared to be able to"
