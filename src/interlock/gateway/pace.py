"""How quickly offers answer, as this worker has seen it: what objectives of calls are predicted from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.types.slo import NOT_KNOWN, Pace

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.types.record import Outcome

WEIGHT = 8
"""A new value counts for an eighth."""
_FIRST, _TOKEN, _TOKENS, _WHOLE = range(4)


class Paces:
    """Moving means of at most `most` offers. For a new one beyond that the least recently used goes: used is one that
    answers a call, or is allowed for a call with objectives."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._means: dict[str, list[int]] = {}
        """The least recently used first."""

    def saw(self, attempt: Attempt, outcome: Outcome, first_us: int) -> None:
        """A call ended with this attempt, the only one that its outcome is of. `first_us`: from being sent to its first
        byte, -1: none came."""
        key = attempt.offer.key
        means = self._used(key)
        if means is None:
            if len(self._means) >= self._most:
                del self._means[next(iter(self._means))]
            means = self._means[key] = [NOT_KNOWN] * 4
        streamed = attempt.relay is not None
        if streamed and first_us >= 0:
            _move(means, _FIRST, first_us)
        if outcome.state != "completed" or outcome.usage.origin != "engine":
            return
        tokens, total_us = outcome.usage.completion_tokens, (outcome.mono_ns - attempt.sent_ns) // 1000
        if tokens:
            _move(means, _TOKENS, tokens)
        if not streamed:
            _move(means, _WHOLE, total_us)
        elif tokens and first_us >= 0:
            _move(means, _TOKEN, (total_us - first_us) // tokens)

    def of(self, offer: str, learned: Pace | None) -> Pace | None:
        """What is known of an offer: as seen here, else as learned from the ledger; None where neither is."""
        means = self._used(offer)
        if means is None or learned is None:
            return learned if means is None else Pace(*means)
        known = (learned.first_us, learned.token_us, learned.tokens, learned.whole_us)
        return Pace(*[mean if mean >= 0 else other for mean, other in zip(means, known, strict=True)])

    def _used(self, offer: str) -> list[int] | None:
        """What is known of an offer, which is now the one that was used last."""
        means = self._means.pop(offer, None)
        if means is not None:
            self._means[offer] = means
        return means


def _move(means: list[int], which: int, value: int) -> None:
    mean = means[which]
    means[which] = value if mean < 0 else mean + (value - mean) // WEIGHT
