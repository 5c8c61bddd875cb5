"""What a call is predicted to take at an offer, against what it asks: integers, from what is recorded with a decision.

- *time to first byte*: the mean of the offer's streams, and the predicted wait in its queue (`placement.wait_ms`). Of
  an answer that is not streamed, and so comes all at once: as its latency.
- *latency*: that, and the time of a token for each token expected. Of an offer that only whole answers were seen of:
  the mean time of those, by how long this one is expected to be.
- *tokens expected*: as many as the offer's answers have on average, at most the bound.
- *cost*: the price of these, and of as many prompt tokens as prose of that size has.

A model that its source is known not to have loaded has no predictable times. A source that does not tell its queue has
its wait in the mean; one that does, and of which nobody knows how long calls stay, has no predictable wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from interlock.errors import Unavailable
from interlock.routing.constraints import BYTES_PER_TOKEN_TYPICAL
from interlock.types.decision import RouteDecision
from interlock.types.request import Features
from interlock.types.slo import MET, MISSED, NOT_KNOWN, UNASKED, UNKNOWN, VERDICTS, Foreseen, Pace, Slo
from interlock.types.source import LoadReading, Offer, Price, loaded_bit

PER_MTOK = 1_000_000
US_PER_MS = 1000
ANYTHING = 1 << 62
"""A bound that nothing is above."""
NO_PACES: Mapping[str, Pace] = {}
_NO_PACE = Pace()
NUSD_PER_USD = 1_000_000_000


class SloUnmet(Unavailable):
    """A strict objective that every candidate is predicted to miss."""

    code, retryable = "slo_unmet", False


class Foresight(NamedTuple):
    """The predictions of one decision. `verdict`: whether the call is predicted to meet what it asks at an offer, with
    this reading of its source and this queue (`choose.load_of`). `seen`: the predictions made so, by offer."""

    verdict: Callable[[Offer, LoadReading, int], int]
    seen: dict[str, Foreseen]


def foresight(features: Features, slo: Slo, paces: Mapping[str, Pace]) -> Foresight:
    """What predicts for one call. A closure, because each of its candidates is asked for: locals are quickest."""
    stream, bound = features.stream, features.completion_tokens_max
    prompt = min(features.prompt_tokens_max, features.prompt_bytes // BYTES_PER_TOKEN_TYPICAL)
    ttft_most = slo.ttft_ms * US_PER_MS or ANYTHING
    latency_most = slo.latency_ms * US_PER_MS or ANYTHING
    priced = slo.cost_nusd != UNASKED
    cost_most = slo.cost_nusd if priced else ANYTHING
    seen: dict[str, Foreseen] = {}

    def verdict(offer: Offer, reading: LoadReading, queue: int) -> int:
        key, model = offer.key, offer.model
        price, pace = model.price, paces.get(key, _NO_PACE)
        first_us, typical, wait_us = pace.first_us, pace.tokens, 0
        tokens = typical if 0 <= typical < bound else bound
        if queue and reading.waiting >= 0:
            wait_us = NOT_KNOWN
            if reading.stay_ms >= 0:  # `placement.wait_ms`, inline, in microseconds
                there = queue + reading.running if reading.running > 0 else queue
                wait_us = queue * reading.stay_ms * US_PER_MS // there
        ttft_us = latency_us = NOT_KNOWN
        if wait_us >= 0 and (reading.loaded < 0 or reading.loaded & loaded_bit(model.name)):
            if first_us >= 0:
                ttft_us = first_us + wait_us
            if first_us >= 0 and (pace.token_us >= 0 or not tokens):
                latency_us = ttft_us + tokens * pace.token_us
            elif pace.whole_us >= 0:
                latency_us = wait_us + (pace.whole_us * tokens // typical if typical > 0 else pace.whole_us)
            if not stream:
                ttft_us = latency_us
        nusd = price.input_nusd_per_mtok * prompt + price.output_nusd_per_mtok * tokens
        if price.tiers:
            nusd = _tiered(price, prompt, tokens)
        nusd = (nusd + PER_MTOK - 1) // PER_MTOK + price.call_nusd
        if not nusd and price.origin == "none" and not offer.source.labels.on_prem:
            nusd = NOT_KNOWN
        if ttft_us > ttft_most or latency_us > latency_most or nusd > cost_most:
            found = MISSED
        elif (
            (ttft_us < 0 and ttft_most != ANYTHING)
            or (latency_us < 0 and latency_most != ANYTHING)
            or (nusd < 0 and priced)
        ):
            found = UNKNOWN
        else:
            found = MET
        seen[key] = Foreseen(found, ttft_us, latency_us, nusd, pace)
        return found

    return Foresight(verdict, seen)


def _tiered(price: Price, prompt: int, completion: int) -> int:
    """Nano-USD per million calls: by the tier of a prompt of this size."""
    per_input, per_output = price.input_nusd_per_mtok, price.output_nusd_per_mtok
    for tier in price.tiers:
        if prompt > tier.above_tokens:
            per_input, per_output = tier.input_nusd_per_mtok, tier.output_nusd_per_mtok
    return per_input * prompt + per_output * completion


def recorded_paces(decision: RouteDecision) -> Mapping[str, Pace]:
    """What the predictions of a decision were made from, by offer."""
    pairs = zip(decision.candidates, decision.foreseen, strict=False)
    return {candidate.offer: seen.pace for candidate, seen in pairs if seen.pace is not None}


def within(decision: RouteDecision) -> frozenset[str]:
    """The candidates that are not predicted to miss."""
    pairs = zip(decision.candidates, decision.foreseen, strict=True)
    return frozenset(candidate.offer for candidate, seen in pairs if seen.verdict != MISSED)


def refused(slo: Slo | None, decision: RouteDecision) -> bool:
    """True when a strict objective is predicted to be missed by every candidate."""
    if slo is None or not slo.strict or not decision.candidates:
        return False
    return all(seen.verdict == MISSED for seen in decision.foreseen)


def unmet(slo: Slo, decision: RouteDecision) -> SloUnmet:
    """The error for it, with what the candidate would take that comes closest."""
    seen, best = min(
        ((seen, candidate.offer) for candidate, seen in zip(decision.candidates, decision.foreseen, strict=True)),
        key=lambda pair: _overrun_milli(slo, pair[0]),
    )
    return SloUnmet(
        f"No source is predicted to meet what this call asks ({asked_words(slo)}): the best, {best}, would take "
        f"{foreseen_words(seen)}. Ask for less, or without 'strict'.",
        param="interlock.slo",
    )


def _overrun_milli(slo: Slo, seen: Foreseen) -> int:
    """How far a prediction is over what is asked, where it is farthest: thousandths of the bound."""
    pairs = [(seen.ttft_us, slo.ttft_ms * US_PER_MS), (seen.latency_us, slo.latency_ms * US_PER_MS)]
    asked = [(value, bound) for value, bound in pairs if bound]
    if slo.cost_nusd != UNASKED:
        asked.append((seen.cost_nusd, max(slo.cost_nusd, 1)))
    return max((1000 * value // bound for value, bound in asked), default=0)


def asked_words(slo: Slo) -> str:
    """Like "first byte within 500 ms, at most 0.01 USD"."""
    words = [
        f"{what} within {bound} ms" for what, bound in (("first byte", slo.ttft_ms), ("end", slo.latency_ms)) if bound
    ]
    if slo.cost_nusd != UNASKED:
        words.append(f"at most {usd(slo.cost_nusd)} USD")
    return ", ".join(words)


def foreseen_words(seen: Foreseen) -> str:
    """Like "420 ms to its first byte, 1800 ms in all, 0.002 USD"; what is not known is said to be so."""
    times = ((seen.ttft_us, "to its first byte"), (seen.latency_us, "in all"))
    words = [f"{-(-us // US_PER_MS)} ms {what}" if us >= 0 else f"an unknown time {what}" for us, what in times]
    words.append(f"{usd(seen.cost_nusd)} USD" if seen.cost_nusd >= 0 else "an unknown price")
    return ", ".join(words)


def verdict_words(seen: Foreseen) -> str:
    """What a prediction says, in words."""
    return f"predicted {VERDICTS[seen.verdict]}: {foreseen_words(seen)}"


def usd(nusd: int) -> str:
    """Nano-USD as a decimal number of USD, exactly."""
    whole, rest = divmod(nusd, NUSD_PER_USD)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
