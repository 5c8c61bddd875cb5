"""A worker's side of measured energy: what it did at sources with a meter, told to the node; what the node made of it,
written down.

The node has the meters and hears of all workers' calls, so it does the splitting (`interlock.gateway.metered`); a
worker has the log that its calls are in, so it writes the records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from interlock.errors import LogError
from interlock.gateway.link import Measured, Worked
from interlock.types.record import EnergyMeasured
from interlock.types.usage import Usage

if TYPE_CHECKING:
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.run import Run
    from interlock.ledger.log import RecordLog
    from interlock.types.clock import Clock
    from interlock.types.source import Source

log = logging.getLogger("interlock.gateway")

CALLS_TOLD_MAX = 4096
"""Calls in one message; more go with the next ones."""
CALLS_KEPT_MAX = 65_536
"""Calls that wait to be told. More are lost, and the node is told until when."""
BYTES_PER_TOKEN = 4
"""For the weight of a call whose usage nobody told: about this many bytes make a token."""


class Desk:
    """What one worker has to tell. `metered`: ids of the sources whose meter is at this node."""

    def __init__(self, node: str, record_log: RecordLog, clock: Clock, tell: Callable[[Worked], object]) -> None:
        self.metered: frozenset[str] = frozenset()
        self._node = node
        self._log = record_log
        self._clock = clock
        self._tell = tell
        self._ended: list[tuple[str, int, int, int, int]] = []
        self._lost_ns = 0
        self.ended_ns = 0
        """When the last call at a metered source ended."""
        self.owed = 0
        """Calls that the node was told of and has not said anything about. Too many where it never will."""

    def update(self, sources: Iterable[Source]) -> None:
        """The sources of a new snapshot."""
        self.metered = frozenset(s.id for s in sources if s.meter is not None and s.meter.node == self._node)

    def ended(self, call: int, attempt: Attempt, usage: Usage, now_ns: int, body_bytes: int) -> None:
        """A call at a metered source ended."""
        if usage.origin == "reserved":  # at its bound: not what was worked
            pieces = attempt.relay.chunks if attempt.relay is not None else body_bytes // BYTES_PER_TOKEN
            usage = Usage(usage.prompt_tokens // BYTES_PER_TOKEN, 0, pieces)
        work = attempt.link.meters(attempt.offer).estimate.work(usage)
        if not work:
            return
        self.ended_ns = now_ns
        if len(self._ended) >= CALLS_KEPT_MAX:
            self._lost_ns = now_ns
            return
        self._ended.append((attempt.link.source.id, call, attempt.sent_ns, now_ns, work))

    def report(self, runs: Iterable[Run]) -> None:
        """Tell the node what ended since the last time, and since when others are under way."""
        if not self.metered and not self._ended:
            return
        now_ns = self._clock.mono_ns()
        told, self._ended = self._ended[:CALLS_TOLD_MAX], self._ended[CALLS_TOLD_MAX:]
        opened = dict.fromkeys(self.metered, now_ns)
        for run in runs:
            attempt = run.last_attempt
            if attempt is not None and attempt.sent_ns:
                source_id = attempt.link.source.id
                if source_id in opened:
                    opened[source_id] = min(opened[source_id], attempt.sent_ns)
        for source_id, _, began_ns, _, _ in self._ended:
            if source_id in opened:
                opened[source_id] = min(opened[source_id], began_ns)
        self.owed += len(told)
        self._tell(Worked(self._log.epoch, now_ns, opened, told, self._lost_ns))
        self._lost_ns = 0

    def measured(self, message: Measured) -> None:
        """Write down what the node made of it. What the log does not take is left out: the estimate stays."""
        if message.epoch != self._log.epoch:
            return
        self.owed = max(0, self.owed - len(message.calls))
        wall_ns = self._clock.wall_ns()
        for call, uj in message.calls:
            try:
                self._log.append(EnergyMeasured(call, wall_ns, uj, message.method))
            except LogError as e:
                log.warning("measured energy not recorded", extra={"why": e.message})
                return
