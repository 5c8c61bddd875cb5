"""What one worker owns: its log, its view of limits and load, its counters, and the calls in progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.routing.resolve import mix
from interlock.routing.score import latency_micro
from interlock.wire.openai import Limits

if TYPE_CHECKING:
    from interlock.gateway.identify import Authenticator
    from interlock.gateway.run import Run
    from interlock.gateway.state import State
    from interlock.ledger.log import RecordLog
    from interlock.metering.limits import LimitTable
    from interlock.settings import Settings
    from interlock.sources.board import Board
    from interlock.telemetry.metrics import Metrics
    from interlock.types.clock import Clock
    from interlock.types.record import Outcome

LATENCY_WEIGHT = 8
"""The running mean of a model's first-byte time moves by 1/8 of each new figure."""
LATENCIES_MAX = 4096


class Runtime:
    """Everything the stages need besides the call. `state` changes with each snapshot; the rest is for life."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        log: RecordLog,
        limits: LimitTable,
        board: Board,
        metrics: Metrics,
        authenticator: Authenticator,
        state: State,
        seed: int,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.log = log
        self.limits = limits
        self.board = board
        self.metrics = metrics
        self.authenticator = authenticator
        self.state = state
        self.runs: set[Run] = set()
        self.draining = False
        self.body_limits = Limits(settings.messages_max, settings.template_tokens_per_message)
        self.latencies: dict[str, int] = {}
        """First-byte latency by offer key, in millionths, as this worker has seen it. Recorded with each decision's
        candidates, so that a replay does not need it."""
        self.on_finished: Callable[[Run, Outcome], None] | None = None
        self._mean_us: dict[str, int] = {}
        self._seed = seed

    def seed(self, number: int) -> int:
        """The seed of a call's draws: spread over calls and workers, recorded with the decision."""
        return mix(self._seed, number) >> 1

    def observe_latency(self, offer: str, first_byte_us: int) -> None:
        """Follow a model's time to first byte."""
        mean = self._mean_us.get(offer)
        if mean is None and len(self._mean_us) >= LATENCIES_MAX:
            return
        mean = first_byte_us if mean is None else mean + (first_byte_us - mean) // LATENCY_WEIGHT
        self._mean_us[offer] = mean
        self.latencies[offer] = latency_micro(mean)

    def finished(self, run: Run, outcome: Outcome) -> None:
        """A call's outcome was recorded: tell whoever traces."""
        if self.on_finished is not None:
            self.on_finished(run, outcome)

    def sweep(self, now_ns: int) -> None:
        """Time-outs and keep-alives of everything in progress. Called several times a second."""
        for link in self.state.links.values():
            link.pool.sweep(now_ns / 1e9)
        for run in list(self.runs):
            run.sweep(now_ns)
