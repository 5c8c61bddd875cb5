"""A call of an alias with a running canary: which arm it is on, and what its attempts say about the canary.

Counted is each attempt that ended: one that failed (whatever but a fault of the caller), one that was answered with its
times, one that is still running and already beyond a bound, and a call that found no source of the canary at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from interlock.gateway.canary_table import BESIDE, TRIED
from interlock.routing.canary import CANARY, OFF, RUNNING, STABLE

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.call import Call
    from interlock.gateway.canary_table import CanaryTable, Verdict
    from interlock.gateway.runtime import Runtime
    from interlock.types.snapshot import Alias, Canary

log = logging.getLogger("interlock.gateway")

SILENT_CODES = frozenset(
    ("upstream_refused", "invalid_header", "context_length_exceeded", "upstream_stale", "upstream_pool_full")
)
"""Failures that say nothing about the target: the caller's, or a connection's."""


def state_of(alias: Alias, table: CanaryTable) -> str:
    """What the node adds to the draw of an alias: OFF when it has taken the alias's canary back, else ""."""
    canary = alias.canary
    if canary is None or canary.state != RUNNING:
        return ""
    return OFF if table.ended(canary) else ""


def trial_of(call: Call, runtime: Runtime) -> Trial | None:
    """What follows a call for its alias's canary; None when the canary gets nothing to compare with from it."""
    target, alias = call.target, call.alias
    if target is None or alias is None or alias.canary is None or target.canary not in (CANARY, STABLE):
        return None
    return Trial(alias.canary, TRIED if target.canary == CANARY else BESIDE, call, runtime)


class Trial:
    """One call on one arm."""

    __slots__ = ("_call", "_late", "_runtime", "_table", "arm", "canary")

    def __init__(self, canary: Canary, arm: int, call: Call, runtime: Runtime) -> None:
        self.canary = canary
        self.arm = arm
        self._call = call
        self._runtime = runtime
        self._table = runtime.canaries
        self._late = False

    def failed(self, code: str) -> None:
        """An attempt failed, or none could be made."""
        if code not in SILENT_CODES:
            self._count("failed", calls=0 if self._late else 1, failed=1)
            self._late = False

    def answered(self, first_us: int, total_us: int) -> None:
        """An attempt was answered whole. `first_us` -1 when it was not streamed."""
        if not self._late:
            self._count("answered", first_us=first_us, total_us=total_us)

    def look(self, attempt: Attempt, now_ns: int) -> None:
        """An attempt is running: count it now when it is beyond a bound, so that no verdict waits for its end. Also
        when its call is about to be ended from outside."""
        if self._late or self.arm != TRIED or not attempt.sent_ns or attempt.ended:
            return
        canary, relay = self.canary, attempt.relay
        elapsed_us = (now_ns - attempt.sent_ns) // 1000
        waits = self._call.parsed is not None and self._call.parsed.stream and (relay is None or not relay.first_ns)
        slow_first = waits and 0 < canary.first_byte_ms_max * 1000 < elapsed_us
        slow_total = 0 < canary.total_ms_max * 1000 < elapsed_us
        if slow_first or slow_total:
            self._late = True
            self._count("late", first_us=elapsed_us if slow_first else -1, total_us=elapsed_us if slow_total else -1)

    def _count(self, result: str, calls: int = 1, failed: int = 0, first_us: int = -1, total_us: int = -1) -> None:
        runtime, canary = self._runtime, self.canary
        clock = runtime.clock
        runtime.metrics.canary_attempts.add(("canary" if self.arm == TRIED else "stable", result))
        verdict = self._table.count(
            canary,
            self.arm,
            clock.mono_ns(),
            clock.wall_ns(),
            calls=calls,
            failed=failed,
            first_us=first_us,
            total_us=total_us,
        )
        if verdict is not None:
            self._taken_back(verdict)

    def _taken_back(self, verdict: Verdict) -> None:
        self._runtime.metrics.canary_rollbacks.add((verdict.reason,))
        alias = self._call.alias
        log.error(
            "canary taken back",
            extra={
                "request_id": self._call.id,
                "alias": alias.name if alias is not None else "",
                "canary": self.canary.target.model,
                "why": verdict.words,
            },
        )
