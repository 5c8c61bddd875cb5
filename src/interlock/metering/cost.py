"""What a call costs: integers from tokens and rates. Pure.

A rate is in nano-USD per million tokens, so tokens times rates are counted in millionths of a nano-USD, exactly. All
of a call is added up first, and rounded once: to the nearest nano-USD, halfway to the even one. What is added up
later are those whole nano-USD, so that a sum over records is exact in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from interlock.types.source import Offer, Price, PriceTier
from interlock.types.usage import Cost, Usage, divide_half_even

PER_MTOK = 1_000_000
HALF = PER_MTOK // 2
RATE_MAX = 10**15
"""A million dollars per million tokens, or per call: with the most tokens a call may report, costs stay below 2^63."""
NUSD_MAX = 2**63 - 1
HOUR_NS = 3_600_000_000_000
SECONDS_PER_HOUR = 3600

_Rates = tuple[int, int, int, int]
"""Input, cached input, cache write, output."""


class Rates:
    """The rates of one model at one source, ready to be applied. Made once for each snapshot, used for each call."""

    __slots__ = (
        "_asked",
        "_base",
        "_bound",
        "_call_nusd",
        "_most",
        "_most_of_tiers",
        "_tiers",
        "nothing",
        "origin",
        "version",
    )

    def __init__(self, price: Price) -> None:
        self.origin = origin_of(price)
        self.version = price.version
        self.nothing = Cost(0, self.origin, self.version)
        """The cost of a call that no source worked on."""
        self._call_nusd = _bounded(price.call_nusd)
        self._base = _rates(price)
        tiers = sorted(price.tiers, key=lambda tier: tier.above_tokens)
        self._tiers = tuple((tier.above_tokens, _rates(tier)) for tier in tiers)
        self._most = max(self._base[:3]), self._base[3]
        self._most_of_tiers = tuple(_most_by_tier(self._most, self._tiers))
        self._asked, self._bound = (-1, -1), self.nothing
        """The bound that was asked for last: a call asks for the same one for its budgets and for its record."""

    def cost(self, usage: Usage) -> Cost:
        """The cost of what was used. Usage that nobody knows costs what was reserved for it.

        INVARIANT: each prompt token is charged once: as cached, as written to the cache, or as input.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if usage.origin == "reserved":
            return self.bound(prompt, completion)
        cached = usage.cached_tokens
        if cached > prompt:
            cached = prompt
        written = usage.cache_write_tokens
        if written > prompt - cached:
            written = prompt - cached
        per_input, per_cached, per_write, per_output = self._rates_for(prompt) if self._tiers else self._base
        fresh = prompt - cached - written
        total = fresh * per_input + cached * per_cached + written * per_write + completion * per_output
        nusd, rest = divmod(total, PER_MTOK)  # `divide_half_even`, inline
        if rest > HALF or (rest == HALF and nusd & 1):
            nusd += 1
        return Cost(nusd + self._call_nusd, self.origin, self.version)

    def bound(self, prompt_tokens: int, completion_tokens: int) -> Cost:
        """The most that a call can cost that uses no more than these tokens: what is reserved for it."""
        asked = prompt_tokens, completion_tokens
        if asked == self._asked:
            return self._bound
        per_prompt, per_output = self._most
        for above, most_prompt, most_output in self._most_of_tiers:
            if prompt_tokens > above:
                per_prompt, per_output = most_prompt, most_output
        total = prompt_tokens * per_prompt + completion_tokens * per_output
        nusd = divide_half_even(total, PER_MTOK) + self._call_nusd
        self._asked = asked
        bound = self._bound = Cost(min(nusd, NUSD_MAX), self.origin, self.version)
        return bound

    def _rates_for(self, prompt_tokens: int) -> _Rates:
        rates = self._base
        for above, tier in self._tiers:
            if prompt_tokens > above:
                rates = tier
        return rates


@functools.lru_cache(maxsize=4096)
def _rates_of(price: Price) -> Rates:
    return Rates(price)


def bound_nusd(offer: Offer, prompt_tokens: int, completion_tokens: int) -> int:
    """The most that a call with these bounds may cost at an offer, in nano-USD.

    What nobody named a price for costs nothing on the premises, and off them as much as there is: it is not known.
    """
    rates = _rates_of(offer.model.price)
    if rates.origin == "none" and not offer.source.labels.on_prem:
        return NUSD_MAX
    return rates.bound(prompt_tokens, completion_tokens).nusd


def _most_by_tier(most: tuple[int, int], tiers: tuple[tuple[int, _Rates], ...]) -> Iterator[tuple[int, int, int]]:
    """(tokens above which it holds, dearest rate of a prompt token, dearest of an output token) up to each tier: a
    prompt that may be longer may also turn out shorter, so the tiers below count too."""
    per_prompt, per_output = most
    for above, rates in tiers:
        per_prompt, per_output = max(per_prompt, *rates[:3]), max(per_output, rates[3])
        yield above, per_prompt, per_output


def origin_of(price: Price) -> str:
    """Whose price it is; of prices from before there were origins: declared, or nobody's."""
    if price.origin:
        return price.origin
    declared = price.input_nusd_per_mtok or price.cached_input_nusd_per_mtok or price.output_nusd_per_mtok
    return "source" if declared else "none"


def hourly(hour_nusd: int, tokens_per_s: int) -> int:
    """Nano-USD per million tokens when an hour costs `hour_nusd` and is full with `tokens_per_s` tokens a second."""
    return min(divide_half_even(hour_nusd * PER_MTOK, SECONDS_PER_HOUR * tokens_per_s), RATE_MAX)


def accrued(hour_nusd: int, start_ns: int, end_ns: int) -> int:
    """Nano-USD of the time from `start_ns` to `end_ns` (Unix nanoseconds) at a price per hour.

    Adjacent times add up to what the whole costs, to the nano-USD, however time is cut.
    """
    return hour_nusd * end_ns // HOUR_NS - hour_nusd * start_ns // HOUR_NS


def unallocated(hour_nusd: int, start_ns: int, end_ns: int, charged_nusd: int) -> int:
    """What of a source's hours no call was charged for: idle time. Below zero, the source did more work than declared
    to fill it, and its tokens were charged too much by that."""
    return accrued(hour_nusd, start_ns, end_ns) - charged_nusd


def _rates(price: Price | PriceTier) -> _Rates:
    write = price.cache_write_nusd_per_mtok
    return (
        _bounded(price.input_nusd_per_mtok),
        _bounded(price.cached_input_nusd_per_mtok),
        _bounded(price.input_nusd_per_mtok if write < 0 else write),
        _bounded(price.output_nusd_per_mtok),
    )


def _bounded(rate: int) -> int:
    return min(max(rate, 0), RATE_MAX)
