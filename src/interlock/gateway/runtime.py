"""What one worker owns: its log, its view of limits and load, its counters, and the calls in progress."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from interlock.gateway.http.exchange import header_line
from interlock.gateway.learned import Learned
from interlock.gateway.pace import Paces
from interlock.gateway.seats import Seats
from interlock.gateway.tally import Tally
from interlock.routing.explain import header
from interlock.routing.placement import bounds_of
from interlock.routing.score import latency_micro
from interlock.types.identity import DataClass
from interlock.wire.openai import Limits

if TYPE_CHECKING:
    from interlock.errors import LogError
    from interlock.gateway.canary_table import CanaryTable
    from interlock.gateway.feedback import Feedbacks
    from interlock.gateway.idempotency import Claims
    from interlock.gateway.identify import Authenticator
    from interlock.gateway.judge import Judged
    from interlock.gateway.receipts import Receipts
    from interlock.gateway.run import Run
    from interlock.gateway.shadow import Shadowed
    from interlock.gateway.state import State
    from interlock.gateway.states import States
    from interlock.gateway.treasury import Hold, Treasury
    from interlock.gateway.waiting import Waits
    from interlock.gateway.worked import Desk
    from interlock.ledger.log import RecordLog
    from interlock.metering.limits import LimitTable
    from interlock.settings import Settings
    from interlock.sources.board import Board
    from interlock.sources.seats import SeatTable
    from interlock.telemetry.metrics import Metrics
    from interlock.types.clock import Clock
    from interlock.types.decision import RouteDecision
    from interlock.types.record import Outcome

LATENCY_WEIGHT = 8
"""The running mean of a model's first-byte time moves by 1/8 of each new figure."""
SEED_MASK = (1 << 63) - 1
LINES_MAX = 4096
"""Decision headers that are remembered; the same few repeat."""


class Unsettled(NamedTuple):
    """A call whose end did not get into the log when it came. `charged`: what its budgets are charged meanwhile, the
    most that it may be; `recorded`: what the log says when it writes that end later. A call whose intent is lost with
    it was never made."""

    intent_seq: int
    hold: Hold
    charged: tuple[int, ...]
    recorded: tuple[int, ...]


def _body_limits(settings: Settings) -> Limits:
    return Limits(
        settings.messages_max,
        settings.template_tokens_per_message,
        settings.json_depth_max,
        settings.answers_max,
        settings.image_tokens_max,
    )


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
        canaries: CanaryTable,
        seats: SeatTable,
        metrics: Metrics,
        authenticator: Authenticator,
        state: State,
        treasury: Treasury,
        claims: Claims,
        receipts: Receipts,
        states: States,
        feedbacks: Feedbacks,
        seed: int,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.log = log
        self.limits = limits
        self.board = board
        self.canaries = canaries
        self.metrics = metrics
        self.authenticator = authenticator
        self.state = state
        self.treasury = treasury
        self.claims = claims
        self.receipts = receipts
        self.states = states
        self.learned = Learned(settings.learned_tenants_max)
        self.feedbacks = feedbacks
        self.runs: set[Run] = set()
        self.seats = Seats(seats, self)
        self.waiting: set[Waits] = set()
        """Calls that wait for a share of a budget, for their idempotency keys, for stored responses, or for an engine
        that is starting; and feedback that waits to know whose call it is of."""
        self.cold = 0
        """How many of them wait for an engine."""
        self.confirmed_ns = board.snapshot_confirmed()[1]
        """When the snapshot was last confirmed (Unix nanoseconds), as of the last sweep."""
        self.swept_ns = clock.mono_ns()
        """The monotonic clock as of the last sweep: near enough for keep-alives."""
        self.snapshot_age_max_s = tuple(settings.snapshot_age_max_s(c) for c in DataClass)
        self.draining = False
        self.unsettled: list[Unsettled] = []
        self.shadows: set[Shadowed] = set()
        """Calls that are to be compared with their aliases' shadows, until that is done."""
        self.judged: set[Judged] = set()
        """Calls whose answers are judged, until that is done."""
        self.body_limits = _body_limits(settings)
        self.placement = bounds_of(settings)
        """The bounds on placing replicas; None: calls are not placed by their conversations."""
        self.latencies: dict[str, int] = {}
        """First-byte latency by offer key, in millionths, as this worker has seen it. Recorded with each decision's
        candidates, so that a replay does not need it."""
        self.paces = Paces(settings.offers_followed_max)
        """How quickly offers answer, for calls with objectives."""
        self.on_finished: Callable[[Run, Outcome], None] | None = None
        self.desk: Desk | None = None
        """Where calls at metered sources are told; None while there is no such source."""
        self._mean_us: dict[str, int] = {}
        self._offers_max = settings.offers_followed_max
        self._seed = seed
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._lines: dict[tuple[str, int, bool, str, int, int, int, int, bool], bytes] = {}

    def calls_recorded(self) -> int:
        """Every call of this worker up to this number has its first record in the log, or will never have one."""
        return min((each.call_number for each in self.waiting if each.call_number), default=self.log.calls + 1) - 1

    def seed(self, number: int) -> int:
        """The seed of a call's draws, recorded with the decision. Who draws spreads it (`routing.resolve.mix`)."""
        return self._seed + number & SEED_MASK

    def observe_latency(self, offer: str, first_byte_us: int) -> None:
        """Follow a model's time to first byte."""
        mean = self._mean_us.pop(offer, None)
        if mean is None and len(self._mean_us) >= self._offers_max:  # the one that was longest without an answer
            gone = next(iter(self._mean_us))
            del self._mean_us[gone], self.latencies[gone]
        moved = first_byte_us if mean is None else mean + (first_byte_us - mean) // LATENCY_WEIGHT
        self._mean_us[offer] = moved
        if moved != mean:
            self.latencies[offer] = latency_micro(moved)

    def tally(self, operation: str, source: str, model: str) -> Tally:
        """The counters of one operation at one offer, held ready so that counting a call costs no look-ups."""
        tally = self._tallies.get((operation, source, model))
        if tally is None:
            if len(self._tallies) >= self._offers_max:
                self.publish_tallies()
                self._tallies.clear()
            tally = self._tallies[operation, source, model] = Tally(self.metrics, operation, source, model)
        return tally

    def publish_tallies(self) -> None:
        """Bring what was counted since the last time into the metrics."""
        for tally in self._tallies.values():
            tally.publish()

    def decision_line(self, decision: RouteDecision, rank: int) -> bytes:
        """The `x-interlock-decision` header line of the candidate that was tried."""
        chosen = decision.candidates[rank]
        count, milli = len(decision.candidates), (chosen.score_micro + 500) // 1000
        seen = decision.foreseen[rank].verdict if decision.foreseen else -1
        tried = decision.best != "" and not rank
        key = (chosen.offer, milli, chosen.overflow, decision.mode, rank, count, decision.router_version, seen, tried)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= LINES_MAX:
                self._lines.clear()
            line = self._lines[key] = header_line(b"x-interlock-decision", header(decision, rank).encode())
        return line

    def settle_late(self) -> None:
        """Charge calls whose ends the log could not take what they are charged there, now that it takes records again.
        Call now and then."""
        if self.unsettled and self.log.refusal is None:
            late, self.unsettled = self.unsettled, []
            # by now the log has appended the ends that it owed
            self.log.on_durable(self.log.appended_seq, partial(self._settled_late, late))

    def _settled_late(self, late: list[Unsettled], error: LogError | None) -> None:
        if error is not None:
            self.unsettled += late
            return
        for each in late:
            made = not self.log.lost(each.intent_seq)
            self.treasury.correct(each.hold, each.charged, each.recorded if made else (0,) * len(each.charged))

    def sweep(self, now_ns: int) -> None:
        """Time-outs and keep-alives of everything in progress. Called several times a second."""
        self.swept_ns = now_ns
        self.confirmed_ns = self.board.snapshot_confirmed()[1]
        self.limits.flush()
        self.settle_late()
        for link in self.state.links.values():
            link.pool.sweep(now_ns / 1e9)
        for run in list(self.runs):
            try:
                run.sweep(now_ns)
            except Exception as defect:  # noqa: BLE001 - of one call, and no other's business
                run.broke(defect)
        for waiting in list(self.waiting):
            waiting.sweep(now_ns)
        self.seats.sweep(now_ns)
        self.treasury.sweep(now_ns)
        self.receipts.sweep()
