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
    `cap`: calls at the same time; `tokens_max`: tokens per minute; both -1 without a limit.
    """

    first: int
    base: int
    ring: int
    generation: int
    requests_max: int
    total_end: int
    cap: int
    tokens_max: int
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
        lines = self.header_lines().decode().split("\r\n")
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines) if name]

    def header_lines(self) -> bytes:
        """The same as they are sent, each line ended by CR LF."""
        requests, tokens = self._least()
        lines = b""
        if requests is not None:
            left, limit, at_s = requests
            free = reset(until_ms(at_s, self.at_ns)).encode()
            lines = _REQUEST_LINES % (limit, left, free)
        if tokens is not None:
            left, limit, second = tokens
            if requests is None or second != at_s:
                free = reset(until_ms(second, self.at_ns)).encode()
            lines += _TOKEN_LINES % (limit, left, free)
        return lines

    def _least(self) -> tuple[Least | None, Least | None]:
        """For requests and for tokens, of the subject with the least left: (left, limit, second it is counted in)."""
        requests: Least | None = None
        tokens: Least | None = None
        for (_, _, _, _, _, _, _, tpm, (_, _, limits)), second, total in self.parts:
            rpm = limits.requests_per_minute
            if rpm is not None:
                left = rpm - (total & REQUEST_MASK)
                if requests is None or left < requests[0]:
                    requests = (left, rpm, second)
            if tpm >= 0:
                left = tpm - (total >> REQUEST_BITS)
                if tokens is None or left < tokens[0]:
                    tokens = (left, tpm, second)
        return requests, tokens


Least = tuple[int, int, int]
_REQUEST_LINES = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %b\r\n"
)
_TOKEN_LINES = b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %b\r\n"


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
        -1 if tpm is None else tpm,
        subject,
    )


def until_ms(second: int, now_ns: int) -> int:
    """Milliseconds until what was counted in a second has left the window."""
    return (second + WINDOW_S + 1) * 1000 - now_ns // 1_000_000
