"""What a call is charged: at its end, when that cannot be recorded, and when nobody knows what it used."""

from __future__ import annotations

import abc
import logging
from typing import TYPE_CHECKING

from interlock.gateway.attempt import interrupted_amounts
from interlock.gateway.runtime import Unsettled
from interlock.ledger.charges import NOTHING, charged, cost_of, energy_of, usage_of
from interlock.telemetry.logs import BETWEEN, places
from interlock.types.record import Outcome
from interlock.types.usage import Cost, Energy, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from interlock.errors import InterlockError
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.call import Call
    from interlock.gateway.relay import Relay
    from interlock.gateway.runtime import Runtime
    from interlock.gateway.treasury import Hold
    from interlock.types.record import StepEnd
    from interlock.wire.unstream import Unstream

log = logging.getLogger("interlock.gateway")

NOTHING_USED = Usage(0, 0, 0, "engine")
NO_COST, NO_ENERGY = Cost(0, "none"), Energy()


class Account(abc.ABC):
    """The part of a call's exchange that meters and settles it."""

    call: Call
    runtime: Runtime
    _attempt: Attempt | None = None
    _hold: Hold | None
    _charged: tuple[Hold, tuple[int, ...]] | None = None
    """What budgets were charged when the call ended."""
    _reported: tuple[str, ...] = ()
    """Where defects were that met the call."""

    steps: tuple[StepEnd, ...] = ()
    """Of a cascade: its steps that are over."""
    stop = ""
    """Of a cascade: why its answer is the answer."""
    kept: Unstream | None = None
    """Of a cascade: what its last step streams, to be checked when it has ended."""

    @abc.abstractmethod
    def _unseat(self) -> None:
        """Give the seat back, if the call has one."""

    def _words(self, error: InterlockError) -> str:
        """What of an error's words is kept: a source's may quote what it was asked and what it answered."""
        return error.message if not self.call.recording else ""

    def _metered(self, attempt: Attempt | None, usage: Usage, now_ns: int, body_bytes: int) -> tuple[Cost, Energy]:
        """What the usage cost and took where the call ended."""
        if attempt is None:
            return NO_COST, NO_ENERGY
        rates, estimate = attempt.link.meters(attempt.offer)
        if usage is NOTHING_USED:
            return rates.nothing, estimate.nothing
        desk = self.runtime.desk
        if desk is not None and attempt.link.source.id in desk.metered:
            desk.ended(self.call.number, attempt, usage, now_ns, body_bytes)
        return rates.cost(usage), estimate.energy(usage)

    def _together(self, usage: Usage, cost: Cost, energy: Energy) -> tuple[Usage, Cost, Energy]:
        """What the call took: of a cascade, its steps that are over and what came after them."""
        steps = self.steps
        if not steps:
            return usage, cost, energy
        usages, costs, energies = (
            [s.usage for s in steps],
            [s.cost for s in steps],
            [s.energy for s in steps],
        )
        if usage is not NOTHING_USED:
            usages, costs, energies = [*usages, usage], [*costs, cost], [*energies, energy]
        return usage_of(usages), cost_of(costs), energy_of(energies)

    def _ran(self, usage: Usage) -> bool:
        """Whether a source worked on the call, or may have; of a cascade, after the steps that are over."""
        return self._attempt is not None and usage is not NOTHING_USED

    def _settle(self, usage: Usage, cost: Cost, energy: Energy, now_ns: int) -> tuple[int, ...]:
        """Settle limits and budgets. Returns what each budget is charged."""
        self._unseat()
        call, attempt = self.call, self._attempt
        ran = self._ran(usage)
        call.charged = ran or bool(self.steps)
        if call.admission is not None:
            tokens = usage.total_tokens
            if self.steps:
                tokens += sum(step.usage.total_tokens for step in self.steps)
            self.runtime.limits.settle(call.admission, tokens, now_ns)
            call.limit_lines = call.admission.header_lines
            call.admission = None
        hold = call.hold
        if hold is None:
            return NOTHING
        model = attempt.offer.model.name if attempt is not None else ""
        amounts = charged(hold.charges, ran=ran, model=model, usage=usage, cost=cost, energy=energy, steps=self.steps)
        call.hold, self._charged = None, (hold, amounts)
        self.runtime.treasury.settle(hold, amounts)
        return amounts

    def _settle_failed(self, usage: Usage) -> None:
        """Give back all that a call holds whose end did not come to that, or not to all of it. Its budgets are charged
        what an interrupted call is, unless they were charged already."""
        call, attempt, now_ns = self.call, self._attempt, self.runtime.clock.mono_ns()
        ran = self._ran(usage)
        self._safely(self._unseat)
        call.charged = ran or bool(self.steps)
        admission, call.admission = call.admission, None
        if admission is not None:
            tokens = usage.total_tokens + sum(step.usage.total_tokens for step in self.steps)
            self._safely(self.runtime.limits.settle, admission, tokens, now_ns)
        call.hold, hold = None, self._hold
        if hold is None:
            return
        amounts = hold.settled
        if amounts is None:
            amounts = interrupted_amounts(hold, attempt if ran else None, self.steps)
            self._safely(self.runtime.treasury.settle, hold, amounts)
        self._charged = hold, amounts

    def _failure(self, error: InterlockError, usage: Usage, relay: Relay | None) -> Outcome:
        """The record of a call that fails by what is no fault of a source, with what is known of it. Nothing that was
        said is in it, and it can be made whatever raises."""
        call, attempt, now_ns = self.call, self._attempt, self.runtime.clock.mono_ns()
        cost, energy = NO_COST, NO_ENERGY
        if attempt is not None and usage is not NOTHING_USED:
            cost = attempt.reserved
        try:
            cost, energy = self._metered(attempt, usage, now_ns, 0)
            usage, cost, energy = self._together(usage, cost, energy)
        except Exception as defect:  # noqa: BLE001 - then at what was reserved
            self._report(defect)
        return Outcome(
            call.number,
            now_ns,
            "failed",
            error.status,
            attempt.number if attempt is not None else -1,
            attempt.link.source.name if attempt is not None else "",
            attempt.offer.model.name if attempt is not None else "",
            "",
            (),
            usage,
            (relay.first_ns - call.started_ns) // 1000 if relay is not None and relay.first_ns else 0,
            (now_ns - call.started_ns) // 1000,
            relay.chunks if relay is not None else 0,
            relay.digest.digest() if relay is not None and not call.recording else b"",
            code=error.code,
            words=error.message,
            bytes_sent=relay.bytes_sent if relay is not None else 0,
            cost=cost,
            energy=energy,
            charged=self._charged[1] if self._charged is not None else NOTHING,
            stop=self.stop,
        )

    def _recharge(self, attempt: Attempt | None) -> None:
        """The outcome did not get into the log: until it does, the call is charged as one that was interrupted."""
        if self._charged is None:
            return
        hold, amounts = self._charged
        meanwhile = interrupted_amounts(hold, attempt, self.steps)
        self.runtime.treasury.correct(hold, amounts, meanwhile)
        self.runtime.unsettled.append(Unsettled(self.call.intent_seq, hold, meanwhile, amounts))

    def _safely(self, action: Callable[..., object], *given: object) -> bool:
        """Do it. False when it raised: that is reported, and keeps nothing else from being done."""
        try:
            action(*given)
        except Exception as defect:  # noqa: BLE001 - see above
            self._report(defect)
            return False
        return True

    def _report(self, defect: Exception) -> None:
        """Log a defect of ours, once: what it is and where. Its words may quote what was asked or answered."""
        kind, where = type(defect).__name__, places(defect)
        innermost = f"{kind} {where.partition(BETWEEN)[0]}"
        if innermost not in self._reported:
            self._reported += (innermost,)
            extra = {"request_id": self.call.id, "exception": kind, "places": where}
            log.error("a defect met a call at its end", extra=extra)
