"""What is counted, and the answer when a limit is reached."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from interlock.errors import InterlockError, LimitExceeded, Unavailable
from interlock.types.identity import LimitSet

REQUESTS = "requests_per_minute"
TOKENS = "tokens_per_minute"
CONCURRENCY = "concurrency"

TABLE_FULL = "limit_table_full"
COUNTERS_STUCK = "limits_unavailable"
EXCEEDED = "rate_limit_exceeded"
NEVER_FITS = "limit_too_small"
"""The call asks for more than the limit gives in a whole minute: asking again does not help."""

CONCURRENCY_RETRY_MS = 1000
"""Suggested wait when a concurrency limit is reached: when a call ends is not known beforehand."""
UNAVAILABLE_RETRY_MS = 5000

_UNITS = {REQUESTS: "requests per minute", TOKENS: "tokens per minute", CONCURRENCY: "calls at the same time"}


class Subject(NamedTuple):
    """Who a limit is counted on. `kind` is "key", "principal" or "team"; `id` is unique within its kind."""

    kind: str
    id: str
    limits: LimitSet


class LimitHit(msgspec.Struct, frozen=True):
    """Why a call is not admitted; nothing of it was counted on any subject.

    `limit` is the field of `LimitSet`, `value` its value, `used` what counts against it now, `asked` what the call
    wanted on top. `retry_after_ms` is the shortest wait after which it can succeed if nobody else asks (0: waiting
    does not help). `reset_ms`: until nothing that counts now counts any more (0 for concurrency).
    """

    kind: str
    id: str
    limit: str
    value: int
    used: int
    asked: int
    retry_after_ms: int
    reset_ms: int
    code: str
    words: str

    def headers(self) -> list[tuple[str, str]]:
        """`retry-after` (seconds, rounded up), `retry-after-ms` (read by OpenAI's SDKs), and `x-ratelimit-*`.

        The latter are of the limit that was reached, before this call.
        """
        fields = []
        if self.retry_after_ms:
            fields.append(("retry-after", str(-(-self.retry_after_ms // 1000))))
            fields.append(("retry-after-ms", str(self.retry_after_ms)))
        if self.limit in (REQUESTS, TOKENS):
            name = "requests" if self.limit == REQUESTS else "tokens"
            fields.append((f"x-ratelimit-limit-{name}", str(self.value)))
            fields.append((f"x-ratelimit-remaining-{name}", str(max(0, self.value - self.used))))
            fields.append((f"x-ratelimit-reset-{name}", reset(self.reset_ms)))
        return fields

    def error(self) -> InterlockError:
        """The error to answer with: LimitExceeded (429), or Unavailable (503) when counting is impossible."""
        headers = dict(self.headers())
        if self.code in (TABLE_FULL, COUNTERS_STUCK):
            return Unavailable(self.words, code=self.code, headers=headers)
        error = LimitExceeded(self.words, code=self.code, headers=headers)
        if self.code == NEVER_FITS:
            error.retryable = False
        return error


def reached(
    subject: Subject, limit: str, value: int, used: int, asked: int, *, retry_after_ms: int, reset_ms: int
) -> LimitHit:
    """The answer for one reached limit."""
    who = f"{subject.kind} {subject.id}"
    never = asked > value
    if never and value > 0:
        words = f"This call needs up to {asked} tokens and {who} may use {value} {_UNITS[limit]}; ask for less."
    elif never:
        words = f"The limit of {who} is {value} {_UNITS[limit]}; an administrator can raise it."
    elif limit == CONCURRENCY:
        words = f"{who} may have {value} {_UNITS[limit]} and has {used}; wait for one to end.".capitalize()
    else:
        wait = duration(retry_after_ms)
        more = f" and this call needs up to {asked}" if limit == TOKENS else ""
        words = f"{who} has used {used} of its {value} {_UNITS[limit]}{more}; ask again in {wait}.".capitalize()
    return LimitHit(
        subject.kind,
        subject.id,
        limit,
        value,
        used,
        asked,
        0 if never else retry_after_ms,
        reset_ms,
        NEVER_FITS if never else EXCEEDED,
        words,
    )


def table_full(subject: Subject, slots: int) -> LimitHit:
    """No place to count this subject: it is refused, because uncounted would be unlimited."""
    words = f"This node counts {slots} keys, principals and teams at a time and has no place for {subject.kind} \
{subject.id}; raise limit_slots or ask again later."
    return LimitHit(subject.kind, subject.id, "", 0, 0, 0, UNAVAILABLE_RETRY_MS, 0, TABLE_FULL, words)


def counters_stuck() -> LimitHit:
    """Another worker holds the counters and does not let go: without them nobody is admitted."""
    words = "The limit counters of this node are held by a process that does not answer; ask again later."
    return LimitHit("", "", "", 0, 0, 0, UNAVAILABLE_RETRY_MS, 0, COUNTERS_STUCK, words)


def duration(ms: int) -> str:
    """A duration as OpenAI's rate-limit headers write it: "0s", "20ms", "1.5s", "1m0s"."""
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms // 1000}s" if ms % 1000 == 0 else f"{ms / 1000:.3f}".rstrip("0") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds


def reset(ms: int) -> str:
    """A duration rounded up to whole seconds, in the same writing."""
    seconds = -(-ms // 1000)
    return _RESETS[seconds] if 0 <= seconds < len(_RESETS) else duration(seconds * 1000)


_RESETS = tuple(duration(seconds * 1000) for seconds in range(64))
