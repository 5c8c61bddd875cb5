"""What a call takes in energy, estimated from its tokens. Pure; docs/metering.md says where coefficients come from."""

from __future__ import annotations

from interlock.types.source import Power
from interlock.types.usage import Energy, Usage

COEFFICIENT_MAX = 10**9
"""A kilojoule per token, or per call: with the most tokens a call may report, energies stay below 2^63."""
UJ_MAX = 2**63 - 1
UG_PER_KWH_MAX = 10**10
"""Ten kilograms per kilowatt-hour."""
DECLARED = "declared"
"""The method of coefficients that an administrator declared."""
LOW_PERCENT, HIGH_PERCENT = 50, 200
"""The range of declared coefficients that name none: half to double."""

WORK_PER_OUTPUT = 1000
WORK_PER_INPUT = 100
"""Weights of tokens when measured energy is split: a prompt token counts a tenth of a completion token, unless
coefficients say otherwise."""

_Per = tuple[int, int, int]
"""Microjoules per call, per input token, per output token."""


class Estimate:
    """The coefficients of one model at one source, ready to be applied."""

    __slots__ = ("_high", "_low", "_mid", "_unknown", "_work_per_input", "method", "nothing", "ug_per_kwh")

    def __init__(self, power: Power) -> None:
        self._mid = _per(power.call_uj, power.input_uj_per_token, power.output_uj_per_token)
        self.method = power.method or (DECLARED if any(self._mid) else "")
        self.ug_per_kwh = min(max(power.ug_per_kwh, 0), UG_PER_KWH_MAX)
        self._low = _per(power.low_call_uj, power.low_input_uj_per_token, power.low_output_uj_per_token)
        self._high = _per(power.high_call_uj, power.high_input_uj_per_token, power.high_output_uj_per_token)
        if not any(self._high):  # of a snapshot from before there were ranges
            self._low, self._high = _percent(self._mid, LOW_PERCENT), _percent(self._mid, HIGH_PERCENT)
        self._unknown = not self.method
        _, per_input, per_output = self._mid
        both = per_input > 0 and per_output > 0
        self._work_per_input = max(per_input * WORK_PER_OUTPUT // per_output, 1) if both else WORK_PER_INPUT
        self.nothing = Energy(0, 0, 0, self.method, self.ug_per_kwh)
        """The energy of a call that no engine worked on."""

    def work(self, usage: Usage) -> int:
        """How much of a source's work a call was, beside other calls there; in thousandths of a completion token."""
        worked = max(usage.prompt_tokens - usage.cached_tokens, 0)
        return worked * self._work_per_input + usage.completion_tokens * WORK_PER_OUTPUT

    def energy(self, usage: Usage) -> Energy:
        """The energy of what was used. Of usage that nobody knows: at what was reserved, at the least nothing."""
        if self._unknown:
            return self.nothing
        output = usage.completion_tokens
        worked = usage.prompt_tokens - usage.cached_tokens
        if worked < 0:
            worked = 0
        if not worked and not output:
            return self.nothing
        call, per_input, per_output = self._mid
        low_call, low_input, low_output = self._low
        high_call, high_input, high_output = self._high
        mid = call + worked * per_input + output * per_output
        high = high_call + worked * high_input + output * high_output
        if usage.origin == "reserved":
            return Energy(min(mid, UJ_MAX), 0, min(high, UJ_MAX), self.method, self.ug_per_kwh)
        low = low_call + worked * low_input + output * low_output
        return Energy(mid, low, high, self.method, self.ug_per_kwh)


def _per(call: int, per_input: int, per_output: int) -> _Per:
    return _bounded(call), _bounded(per_input), _bounded(per_output)


def _percent(per: _Per, percent: int) -> _Per:
    call, per_input, per_output = per
    return call * percent // 100, per_input * percent // 100, per_output * percent // 100


def _bounded(coefficient: int) -> int:
    return min(max(coefficient, 0), COEFFICIENT_MAX)
