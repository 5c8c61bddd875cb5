"""Counters of calls that ended, kept per operation and offer and brought into the metrics when these are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.telemetry.metrics import Metrics
    from interlock.types.record import Outcome, StepEnd

STATES = ("completed", "failed", "cut", "disconnected", "refused")


class Tally:
    """What happened at one offer since the last `publish`. Plain integers: a call costs a microsecond, not five."""

    __slots__ = (
        "_cached",
        "_completion",
        "_events",
        "_first_seconds",
        "_labels",
        "_metrics",
        "_nusd",
        "_ok",
        "_operation",
        "_prompt",
        "_seconds",
        "_states",
        "_uj",
    )

    def __init__(self, metrics: Metrics, operation: str, source: str, model: str) -> None:
        self._metrics = metrics
        self._operation = operation
        self._labels = (source, model)
        self._states = dict.fromkeys(STATES, 0)
        self._ok = self._prompt = self._cached = self._completion = self._events = self._nusd = self._uj = 0
        self._seconds = metrics.request_seconds.observer((operation,))
        self._first_seconds = metrics.first_byte_seconds.observer(self._labels)

    def count(self, outcome: Outcome, first_us: int, events: int, steps: Sequence[StepEnd] = ()) -> None:
        """One call ended. `first_us`: time to the first byte of the answer in microseconds, -1 without one. `steps`: of
        a cascade, those that are over, which have been counted where they ran."""
        state = outcome.state
        self._states[state] += 1
        if state == "completed" and not steps:
            self._ok += 1
        usage = outcome.usage
        self._prompt += usage.prompt_tokens
        self._cached += usage.cached_tokens
        self._completion += usage.completion_tokens
        self._events += events
        self._nusd += outcome.cost.nusd
        self._uj += outcome.energy.uj
        self._seconds(outcome.total_us)
        if first_us >= 0:
            self._first_seconds(first_us)

        for step in steps:
            self._took(step, -1)

    def step(self, end: StepEnd) -> None:
        """A step of a cascade is over: what it took counts here, whichever answer is given."""
        self._took(end, 1)
        if not end.code:
            self._ok += 1

    def _took(self, end: StepEnd, sign: int) -> None:
        self._prompt += sign * end.usage.prompt_tokens
        self._cached += sign * end.usage.cached_tokens
        self._completion += sign * end.usage.completion_tokens
        self._nusd += sign * end.cost.nusd
        self._uj += sign * end.energy.uj

    def publish(self) -> None:
        """Add to the metrics what was counted, and start again from zero."""
        metrics = self._metrics
        source, model = self._labels
        for state, count in self._states.items():
            if count:
                metrics.requests.add((self._operation, state), count)
                self._states[state] = 0
        for kind, count in (("prompt", self._prompt), ("cached", self._cached), ("completion", self._completion)):
            if count:
                metrics.tokens.add((source, model, kind), count)
        if self._nusd:
            metrics.cost.add(self._labels, self._nusd)
        if self._uj:
            metrics.energy.add(self._labels, self._uj)
        if self._ok:
            metrics.attempts.add((source, "ok"), self._ok)
        if self._events:
            metrics.stream_events.add((source,), self._events)
        self._ok = self._prompt = self._cached = self._completion = self._events = self._nusd = self._uj = 0
