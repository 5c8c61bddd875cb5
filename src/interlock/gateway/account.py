"""What a call is charged: at its end, when that cannot be recorded, and when nobody knows what it used."""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING

from interlock.errors import LogError
from interlock.gateway.attempt import interrupted_amounts
from interlock.gateway.runtime import Unsettled
from interlock.ledger.charges import NOTHING, charged, cost_of, energy_of, usage_of
from interlock.types.record import Outcome
from interlock.types.usage import Cost, Energy, Usage

if TYPE_CHECKING:
    from interlock.errors import InterlockError
    from interlock.gateway.attempt import Attempt
    from interlock.gateway.call import Call
    from interlock.gateway.runtime import Runtime
    from interlock.gateway.treasury import Hold
    from interlock.types.record import StepEnd
    from interlock.wire.unstream import Unstream

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

    def _settle(self, usage: Usage, cost: Cost, energy: Energy, now_ns: int) -> tuple[int, ...]:
        """Settle limits and budgets. Returns what each budget is charged."""
        self._unseat()
        call, attempt = self.call, self._attempt
        ran = attempt is not None and usage is not NOTHING_USED
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
        self.runtime.treasury.settle(hold, amounts)
        call.hold, self._charged = None, (hold, amounts)
        return amounts

    def _record_failure(self, attempt: Attempt | None, error: LogError) -> None:
        """Let the log know how the call ended: it writes that when it takes records again, so that the call does not
        stay open in it."""
        call, runtime = self.call, self.runtime
        usage = call.unknown_usage() if attempt is not None else NOTHING_USED
        now_ns = runtime.clock.mono_ns()
        cost, energy = self._metered(attempt, usage, now_ns, 0)
        usage, cost, energy = self._together(usage, cost, energy)
        outcome = Outcome(
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
            0,
            (now_ns - call.started_ns) // 1000,
            code=error.code,
            words=error.message,
            cost=cost,
            energy=energy,
            charged=interrupted_amounts(self._hold, attempt, self.steps) if self._hold is not None else NOTHING,
        )
        with contextlib.suppress(LogError):
            runtime.log.append(outcome)

    def _recharge(self, attempt: Attempt | None) -> None:
        """The outcome did not get into the log: until it does, the call is charged as one that was interrupted."""
        if self._charged is None:
            return
        hold, amounts = self._charged
        meanwhile = interrupted_amounts(hold, attempt, self.steps)
        self.runtime.treasury.correct(hold, amounts, meanwhile)
        self.runtime.unsettled.append(Unsettled(self.call.intent_seq, hold, meanwhile, amounts))

    def _settle_unrecorded(self) -> None:
        """Settle a call whose end is not recorded as recovery will: at what was reserved."""
        call, attempt = self.call, self._attempt
        hold, call.hold = call.hold, None
        self._settle(call.unknown_usage(), NO_COST, NO_ENERGY, self.runtime.clock.mono_ns())
        if hold is not None:
            amounts = interrupted_amounts(hold, attempt, self.steps)
            self.runtime.treasury.settle(hold, amounts)
            self.runtime.unsettled.append(Unsettled(call.intent_seq, hold, amounts, amounts))
