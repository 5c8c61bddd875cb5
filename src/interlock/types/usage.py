"""What a call took: tokens, money, energy. Integers only, so that sums are exact."""

from __future__ import annotations

import msgspec

UJ_PER_KWH = 3_600_000_000_000
"""Microjoules of a kilowatt-hour."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one call. `origin`: "engine" (reported), or "reserved" (unknown: at the bound it was admitted with).

    `cached_tokens` and `cache_write_tokens` are parts of `prompt_tokens`: read from the engine's prefix cache, and
    written to it where a provider bills that apart.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    origin: str = "engine"
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


class Cost(msgspec.Struct, frozen=True, array_like=True):
    """What a call cost, in nano-USD. `price` says whose price it is: "source" (declared per token), "hour" (declared
    per hour of the source), "list" (the price list), "none" (nobody named one); "" in records from before there were
    costs. `version` identifies the rates: the same version is the same rates."""

    nusd: int = 0
    price: str = ""
    version: str = ""


class Energy(msgspec.Struct, frozen=True, array_like=True):
    """What a call took, in microjoules, with the range it lies in. `method` says how that is known; "" with zeros:
    nothing is known. `ug_per_kwh`: micrograms of CO2 equivalent per kilowatt-hour at its place, 0 when unknown."""

    uj: int = 0
    low_uj: int = 0
    high_uj: int = 0
    method: str = ""
    ug_per_kwh: int = 0

    @property
    def co2e_ug(self) -> int:
        """Micrograms of CO2 equivalent of `uj`, rounded half to even; 0 when the factor is unknown."""
        return divide_half_even(self.uj * self.ug_per_kwh, UJ_PER_KWH)


def divide_half_even(dividend: int, divisor: int) -> int:
    """The nearest whole quotient of two integers (`divisor` > 0); halfway between two, the even one."""
    quotient, rest = divmod(dividend, divisor)
    rest *= 2
    if rest > divisor or (rest == divisor and quotient & 1):
        quotient += 1
    return quotient
