"""An admitted call: what of it is counted where, and the headers that say what is left."""

from __future__ import annotations

from typing import NamedTuple

from interlock.metering.hit import Subject, reset
from interlock.metering.shared import WORD

WINDOW_S = 60
REQUEST_BITS = 26
"""67 million requests a minute: more than the lock lets through."""
REQUEST_MASK = (1 << REQUEST_BITS) - 1
COUNT_MAX = (1 << 64) - 1
"""2.7e11 tokens a minute; what would count more is refused."""


class Place(NamedTuple):
    """Where a subject is counted, with its limits as the hot path compares them.

    `first`: first byte of the slot; `base`, `ring`: words where slot and ring begin. `requests_max`: requests per
    minute, all that can be counted where there is no limit. `total_end`: the first total that is too many tokens.
    `cap`: calls at the same time, -1 without a limit. `counts_tokens`: whether tokens are counted at all.
    """

    first: int
    base: int
    ring: int
    generation: int
    requests_max: int
    total_end: int
    cap: int
    counts_tokens: bool
    subject: Subject


Part = tuple[Place, int, int]
"""One call on one subject: place, the second it is counted in, the total with it."""
Change = tuple[Place, int, int]
"""What a settled call changes: place, second, by how much the total."""


class Admission:
    """One admitted call: what was reserved where. To be given to `LimitTable.settle` when the call has ended."""

    __slots__ = ("at_ns", "parts", "settled", "tokens")

    def __init__(self, parts: list[Part], tokens: int, at_ns: int) -> None:
        self.parts = parts
        self.tokens = tokens
        self.at_ns = at_ns
        """The instant of admission, on the monotonic clock: the one that limits are exact for."""
        self.settled = False

    def headers(self) -> list[tuple[str, str]]:
        """The `x-ratelimit-*` fields, for requests and for tokens each of the subject with the least left.

        `remaining` is what was left at admission, this call counted at its reservation; `reset` is how long, in whole
        seconds rounded up, until nothing counts any more if nothing is asked meanwhile.
        """
        return [
            (f"x-ratelimit-{field}-{what}", value)
            for what, least in zip(("requests", "tokens"), self._least(), strict=True)
            if least is not None
            for field, value in zip(("limit", "remaining", "reset"), self._values(*least), strict=True)
        ]

    def header_lines(self) -> bytes:
        """The same as they are sent, each line ended by CR LF."""
        requests, tokens = self._least()
        lines = ""
        if requests is not None:
            lines = _REQUEST_LINES % self._values(*requests)
        if tokens is not None:
            lines += _TOKEN_LINES % self._values(*tokens)
        return lines.encode()

    def _least(self) -> tuple[Least | None, Least | None]:
        """For requests and for tokens, of the subject with the least left: (left, limit, second it is counted in)."""
        requests: Least | None = None
        tokens: Least | None = None
        for place, second, total in self.parts:
            limits = place.subject.limits
            rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
            if rpm is not None:
                left = rpm - (total & REQUEST_MASK)
                if requests is None or left < requests[0]:
                    requests = (left, rpm, second)
            if tpm is not None:
                left = tpm - (total >> REQUEST_BITS)
                if tokens is None or left < tokens[0]:
                    tokens = (left, tpm, second)
        return requests, tokens

    def _values(self, left: int, limit: int, second: int) -> tuple[str, str, str]:
        return str(limit), str(left), reset(until_ms(second, self.at_ns))


Least = tuple[int, int, int]
_REQUEST_LINES, _TOKEN_LINES = (
    "".join(f"x-ratelimit-{field}-{what}: %s\r\n" for field in ("limit", "remaining", "reset"))
    for what in ("requests", "tokens")
)


def place_of(subject: Subject, base: int, ring: int, generation: int) -> Place:
    """The place whose slot and ring begin at the words `base` and `ring`; all of them 0: not known yet."""
    rpm, tpm, cap = subject.limits.requests_per_minute, subject.limits.tokens_per_minute, subject.limits.concurrency
    return Place(
        base * WORD,
        base,
        ring,
        generation,
        REQUEST_MASK if rpm is None else rpm,
        COUNT_MAX + 1 if tpm is None else min(tpm + 1 << REQUEST_BITS, COUNT_MAX + 1),
        -1 if cap is None else max(cap, 0),
        tpm is not None,
        subject,
    )


def until_ms(second: int, now_ns: int) -> int:
    """Milliseconds until what was counted in a second has left the window."""
    return (second + WINDOW_S + 1) * 1000 - now_ns // 1_000_000
