"""A worker's side of measured energy: what it did at sources with a meter, told to the node; what the node made of it,
written down.

The node has the meters and hears of all workers' calls, so it does the splitting (`interlock.gateway.metered`); a
worker has the log that its calls are in, so it writes the records.

The steps of a cascade are told one by one, each with its own time and work, as minus the number of their call: so the
node takes them for calls, and they are told from the call's own energy. What they took is put together here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from interlock.errors import LogError
from interlock.gateway.link import Measured, Worked
from interlock.ledger.charges import MIXED
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
CASCADES_MAX = 65_536
"""Calls through cascades whose steps wait to be measured. Of the oldest beyond that the estimate stays."""
BYTES_PER_TOKEN = 4
"""For the weight of a call whose usage nobody told: about this many bytes make a token."""


class _Steps:
    """The steps of one call through a cascade. `open`: not measured yet; `whole`: all that worked are measured, or will
    be; `ended`: the call is on record as ended."""

    __slots__ = ("ended", "methods", "open", "uj", "whole")

    def __init__(self) -> None:
        self.ended = False
        self.methods: set[str] = set()
        self.open = self.uj = 0
        self.whole = True


class Desk:
    """What one worker has to tell. `metered`: ids of the sources whose meter is at this node."""

    def __init__(self, node: str, record_log: RecordLog, clock: Clock, tell: Callable[[Worked], object]) -> None:
        self.metered: frozenset[str] = frozenset()
        self._node = node
        self._log = record_log
        self._clock = clock
        self._tell = tell
        self._ended: list[tuple[str, int, int, int, int]] = []
        self._steps: dict[int, _Steps] = {}
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
        self._tell_of(call, attempt, usage, now_ns, body_bytes)

    def step_ended(self, call: int, attempt: Attempt, usage: Usage, now_ns: int, body_bytes: int) -> None:
        """A step of a cascade ended, at whatever source."""
        steps = self._steps.get(call)
        if steps is None:
            if len(self._steps) >= CASCADES_MAX:
                del self._steps[next(iter(self._steps))]
            steps = self._steps[call] = _Steps()
        if attempt.link.source.id not in self.metered:
            steps.whole = False
            return
        told = self._tell_of(-call, attempt, usage, now_ns, body_bytes)
        steps.open += told is True
        steps.whole = steps.whole and told is not None

    def cascade_ended(self, call: int) -> None:
        """A call whose steps were told of has its outcome in the log: from now on its energy may follow."""
        steps = self._steps.get(call)
        if steps is not None:
            steps.ended = True
            self._put_together(call, steps)

    def _tell_of(self, call: int, attempt: Attempt, usage: Usage, now_ns: int, body_bytes: int) -> bool | None:
        """True: it is told; False: there is nothing to tell, or no more; None: there is too much."""
        if attempt.told:
            return False
        attempt.told = True
        if usage.origin == "reserved":  # at its bound: not what was worked
            pieces = attempt.relay.chunks if attempt.relay is not None else body_bytes // BYTES_PER_TOKEN
            usage = Usage(usage.prompt_tokens // BYTES_PER_TOKEN, 0, pieces)
        work = attempt.link.meters(attempt.offer).estimate.work(usage)
        if not work:
            return False
        self.ended_ns = now_ns
        if len(self._ended) >= CALLS_KEPT_MAX:
            self._lost_ns = now_ns
            return None
        self._ended.append((attempt.link.source.id, call, attempt.sent_ns, now_ns, work))
        return True

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
        for call, uj in message.calls:
            if call > 0:
                self._write(call, uj, message.method)
            elif (steps := self._steps.get(-call)) is not None:
                steps.open -= 1
                steps.uj += uj
                steps.methods.add(message.method)
                self._put_together(-call, steps)

    def _put_together(self, call: int, steps: _Steps) -> None:
        """Write down what a cascade took when that is known of all its steps. Where one of them was not metered the
        estimate of the whole stays: a part must not take its place."""
        if not steps.ended or steps.open:
            return
        del self._steps[call]
        if steps.whole and steps.methods:
            self._write(call, steps.uj, steps.methods.pop() if len(steps.methods) == 1 else MIXED)

    def _write(self, call: int, uj: int, method: str) -> None:
        try:
            self._log.append(EnergyMeasured(call, self._clock.wall_ns(), uj, method))
        except LogError as e:
            log.warning("measured energy not recorded", extra={"why": e.message})
