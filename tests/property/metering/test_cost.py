"""P6, exact money: what holds of the cost of a call, for all usages and prices. The reference adds up fractions."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.metering.cost import RATE_MAX, Rates, accrued, unallocated
from interlock.types.source import Price, PriceTier
from interlock.types.usage import Cost, Usage

TOKENS_MAX = 2**31 - 1
rates = st.one_of(st.integers(0, 10), st.integers(0, 20_000_000_000), st.integers(0, RATE_MAX))
tokens = st.one_of(st.integers(0, 10), st.integers(0, 300_000), st.integers(0, TOKENS_MAX))


@st.composite
def prices(draw: st.DrawFn, tiers: bool = True) -> Price:
    found = draw(st.lists(st.integers(0, 400_000), max_size=3, unique=True)) if tiers else []
    return Price(
        draw(rates),
        draw(rates),
        draw(rates),
        draw(st.one_of(st.just(-1), rates)),
        draw(st.one_of(st.just(0), rates)),
        tuple(PriceTier(above, draw(rates), draw(rates), draw(rates), draw(st.just(-1) | rates)) for above in found),
        origin="list",
        version="v",
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(tokens)
    cached = draw(st.integers(0, prompt))
    return Usage(prompt, cached, draw(tokens), "engine", draw(st.integers(0, prompt - cached)))


def exact(price: Price, usage: Usage) -> Fraction:
    """Nano-USD, unrounded, by the words of docs/metering.md."""
    at: Price | PriceTier = price
    for tier in sorted(price.tiers, key=lambda t: t.above_tokens):
        if usage.prompt_tokens > tier.above_tokens:
            at = tier
    written = at.input_nusd_per_mtok if at.cache_write_nusd_per_mtok < 0 else at.cache_write_nusd_per_mtok
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    total = fresh * at.input_nusd_per_mtok + usage.cached_tokens * at.cached_input_nusd_per_mtok
    total += usage.cache_write_tokens * written + usage.completion_tokens * at.output_nusd_per_mtok
    return Fraction(total, 1_000_000) + price.call_nusd


@settings(deadline=None)
@given(prices(), usages())
def test_a_cost_is_the_exact_sum_rounded_once_half_to_even(price: Price, usage: Usage) -> None:
    assert Rates(price).cost(usage) == Cost(round(exact(price, usage)), "list", "v")  # Fraction rounds half to even


@settings(deadline=None)
@given(prices(), usages())
def test_a_cost_fits_the_records_and_the_database(price: Price, usage: Usage) -> None:
    assert 0 <= Rates(price).cost(usage).nusd < 2**63


DEARER_WHEN_LONG = Price(1, 1, 1, tiers=(PriceTier(10, 9_000_000, 9_000_000, 9_000_000),), origin="list", version="v")


@settings(deadline=None)
@given(prices(), usages(), tokens, tokens)
@example(DEARER_WHEN_LONG, Usage(20, 0, 5, "engine"), 0, 0)
def test_nothing_costs_more_than_what_was_reserved_for_it(
    price: Price, usage: Usage, more_prompt: int, more_output: int
) -> None:
    bound = Rates(price).bound(usage.prompt_tokens + more_prompt, usage.completion_tokens + more_output)
    assert Rates(price).cost(usage).nusd <= bound.nusd
    assert (bound.price, bound.version) == ("list", "v")


@settings(deadline=None)
@given(prices(), tokens, tokens)
def test_the_reservation_is_reached_by_no_less_than_the_dearest_tokens(
    price: Price, prompt: int, completion: int
) -> None:
    """A bound that is too high would refuse calls early: without tiers it is what the dearest prompt token makes."""
    flat = Price(
        price.input_nusd_per_mtok,
        price.cached_input_nusd_per_mtok,
        price.output_nusd_per_mtok,
        price.cache_write_nusd_per_mtok,
    )
    dearest = max(
        Rates(flat).cost(Usage(prompt, cached, completion, "engine", written)).nusd
        for cached, written in ((0, 0), (prompt, 0), (0, prompt))
    )
    assert Rates(flat).bound(prompt, completion).nusd == dearest


@settings(deadline=None)
@given(prices(tiers=False), usages(), tokens)
def test_more_tokens_never_cost_less(price: Price, usage: Usage, more: int) -> None:
    rates = Rates(price)
    more_output = Usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens + more)
    more_prompt = Usage(usage.prompt_tokens + more, usage.cached_tokens, usage.completion_tokens)
    least = rates.cost(Usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)).nusd
    assert rates.cost(more_output).nusd >= least
    assert rates.cost(more_prompt).nusd >= least


@settings(deadline=None)
@given(prices(tiers=False), usages(), usages())
def test_two_calls_cost_what_one_of_both_would_but_for_one_rounding(price: Price, one: Usage, other: Usage) -> None:
    rates = Rates(price)
    both = Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.cached_tokens + other.cached_tokens,
        one.completion_tokens + other.completion_tokens,
        "engine",
        one.cache_write_tokens + other.cache_write_tokens,
    )
    apart = rates.cost(one).nusd + rates.cost(other).nusd
    assert abs(rates.cost(both).nusd + price.call_nusd - apart) <= 1


@settings(deadline=None)
@given(rates, usages())
def test_a_cached_token_is_not_billed_as_input_too(rate: int, usage: Usage) -> None:
    """With cached tokens free, each that is cached takes a whole input token off."""
    rates = Rates(Price(input_nusd_per_mtok=rate, cache_write_nusd_per_mtok=0))
    fresh = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    assert rates.cost(usage) == rates.cost(Usage(fresh))
    everything = Rates(Price(rate, rate, 0, rate))
    assert everything.cost(usage) == everything.cost(Usage(usage.prompt_tokens)), "each prompt token exactly once"


@settings(deadline=None)
@given(prices(), tokens, tokens, tokens, tokens)
def test_a_source_that_reports_more_cached_than_prompt_tokens_is_not_paid_for_them(
    price: Price, prompt: int, cached: int, written: int, completion: int
) -> None:
    cost = Rates(price).cost(Usage(prompt, cached, completion, "engine", written))
    assert cost.nusd <= Rates(price).bound(prompt, completion).nusd


@settings(deadline=None)
@given(prices(), tokens, tokens)
def test_unknown_usage_costs_what_was_reserved(price: Price, prompt: int, completion: int) -> None:
    rates = Rates(price)
    assert rates.cost(Usage(prompt, 0, completion, "reserved")) == rates.bound(prompt, completion)


instants = st.integers(0, 4 * 10**18)


@settings(deadline=None)
@given(st.integers(0, RATE_MAX), st.lists(instants, min_size=2, max_size=20))
def test_hours_add_up_however_they_are_cut(hour_nusd: int, cuts: list[int]) -> None:
    cuts.sort()
    parts = [accrued(hour_nusd, a, b) for a, b in pairwise(cuts)]
    assert sum(parts) == accrued(hour_nusd, cuts[0], cuts[-1])
    assert abs(sum(parts) - Fraction(hour_nusd * (cuts[-1] - cuts[0]), 3_600_000_000_000)) < 1


@settings(deadline=None)
@given(st.integers(0, RATE_MAX), instants, instants, st.integers(0, 10**18))
def test_what_is_charged_and_what_is_idle_are_the_price_of_the_hours(
    hour_nusd: int, start: int, end: int, charged: int
) -> None:
    start, end = sorted((start, end))
    assert charged + unallocated(hour_nusd, start, end, charged) == accrued(hour_nusd, start, end)
