"""Energy from tokens: ranges, what is unknown, and carbon."""

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.metering.energy import COEFFICIENT_MAX, Estimate
from interlock.types.source import Power
from interlock.types.usage import Energy, Usage

tokens = st.integers(0, 2**31 - 1)
coefficients = st.one_of(st.integers(0, 5_000_000), st.integers(0, COEFFICIENT_MAX))


def test_coefficients_that_name_no_range_have_one_all_the_same() -> None:
    energy = Estimate(Power(100_000, 2_000_000)).energy(Usage(1000, 200, 50))
    # 800 tokens were worked on: 80 J for the prompt, 100 J for the answer
    assert energy == Energy(180_000_000, 90_000_000, 360_000_000, "declared")


def test_a_declared_range_a_base_per_call_and_a_method() -> None:
    power = Power(10, 20, 1000, 5, 10, 500, 20, 40, 2000, "ecologits 1", 300_000_000)
    assert Estimate(power).energy(Usage(100, 0, 100)) == Energy(4000, 2000, 8000, "ecologits 1", 300_000_000)


def test_nothing_known_is_nothing_claimed() -> None:
    assert Estimate(Power()).energy(Usage(1000, 0, 1000)) == Energy(0, 0, 0, "")


def test_a_call_that_was_never_worked_on_took_nothing() -> None:
    assert Estimate(Power(10, 20, 1000)).energy(Usage()) == Energy(0, 0, 0, "declared")


def test_of_unknown_usage_the_least_is_nothing() -> None:
    energy = Estimate(Power(10, 20)).energy(Usage(100, 0, 100, "reserved"))
    assert (energy.low_uj, energy.uj, energy.high_uj) == (0, 3000, 6000)


def test_carbon_is_energy_times_the_grids_factor() -> None:
    # 1 kWh at 380 g
    assert Energy(3_600_000_000_000, 0, 0, "m", 380_000_000).co2e_ug == 380_000_000
    assert Energy(3_600_000_000_000, 0, 0, "m").co2e_ug == 0


def test_carbon_is_rounded_half_to_even() -> None:
    assert [Energy(1_800_000_000_000 * odd, 0, 0, "m", 1).co2e_ug for odd in (1, 3, 5)] == [0, 2, 2]


@settings(deadline=None)
@given(coefficients, coefficients, coefficients, tokens, tokens, tokens)
def test_an_energy_lies_in_its_range_and_fits_the_record(
    call: int, per_input: int, per_output: int, prompt: int, cached: int, completion: int
) -> None:
    energy = Estimate(Power(per_input, per_output, call)).energy(Usage(prompt, cached, completion))
    assert 0 <= energy.low_uj <= energy.uj <= energy.high_uj < 2**63


@settings(deadline=None)
@given(coefficients, tokens, tokens)
def test_cached_tokens_take_nothing(per_input: int, prompt: int, cached: int) -> None:
    estimate = Estimate(Power(per_input, 1))
    cached = min(cached, prompt)
    assert estimate.energy(Usage(prompt, cached, 1)) == estimate.energy(Usage(prompt - cached, 0, 1))
