"""A worker's shares of budgets: reserved before a call, settled after it, asked for from the node when they run out.

INVARIANT: what this worker's calls have reserved and were charged of a period is at most what it was given of it
(`storage.leases`), but for a source that used more than the bound it was told. The worker's own count is never above
the database's: what it gives back is taken off here before it is taken off there.

Nothing here waits. `take` answers at once; a call that does not get its share asks (`want`) and is told (`Waiter`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from interlock.errors import InterlockError, LimitExceeded, Unavailable
from interlock.gateway.link import LeaseGranted, LeaseRecalled, LeaseRefused, LeaseReturned, LeaseWanted
from interlock.metering.book import BudgetBook
from interlock.metering.periods import END_OF_TIME_S, period
from interlock.settings import Settings
from interlock.types.budget import Budget, Charge
from interlock.types.clock import Clock

WANT_FACTOR = 8
"""A first share is enough for about this many calls like the one that asks."""
STEP_MAX = 1 << 60
ANSWER_WAITS = 3
"""After so many times `lease_wait_ms` an answer is not waited for any more."""
BUSY_NS = 1_000_000_000
"""A share that was used up within this time was too small: the next one is twice as large."""
SECOND_NS = 1_000_000_000
STEPS_MAX = 4096
"""Budgets of which it is remembered how large a share was enough."""


class Need(NamedTuple):
    """What a call may take of a budget. `model`: of a budget on a model, its name."""

    budget: Budget
    amount: int
    model: str


class Waiter(Protocol):
    """A call that waits for a share."""

    def again(self) -> None:
        """Something changed: try again."""


class Lease:
    """What this worker holds of one period. `left` may still be reserved; `out` is reserved by running calls."""

    __slots__ = (
        "asked_need",
        "asked_ns",
        "asking",
        "budget",
        "end_s",
        "granted_ns",
        "left",
        "out",
        "prefetch_ns",
        "refused",
        "refused_need",
        "refused_until_ns",
        "start_s",
        "step",
        "used_ns",
        "waiters",
    )

    def __init__(self, budget: Budget, start_s: int, end_s: int) -> None:
        self.budget = budget
        self.start_s = start_s
        self.end_s = end_s
        self.left = 0
        self.out = 0
        self.step = 0
        self.asking = False
        self.asked_need = 0
        self.asked_ns = 0
        self.granted_ns = 0
        self.used_ns = 0
        self.prefetch_ns = 0
        self.refused: LeaseRefused | None = None
        self.refused_need = 0
        self.refused_until_ns = 0
        self.waiters: list[Waiter] = []


class Short(NamedTuple):
    """A share that is too small for what was needed of it."""

    lease: Lease
    need: int


class Hold:
    """What one call has reserved. `charges`: the same as its record has it. To be settled once, or released; `settled`:
    what it was charged then."""

    __slots__ = ("charges", "leases", "settled")

    def __init__(self, charges: tuple[Charge, ...], leases: tuple[Lease | None, ...]) -> None:
        self.charges = charges
        self.leases = leases
        self.settled: tuple[int, ...] | None = None


class Treasury:
    """All shares of one worker, on its event loop. `tell` sends to the node; False when it is not there."""

    def __init__(
        self,
        epoch: str,
        settings: Settings,
        clock: Clock,
        tell: Callable[[LeaseWanted | LeaseReturned], bool],
        when_durable: Callable[[Callable[[bool], None]], None],
    ) -> None:
        """`when_durable(then)`: calls `then` with True when everything recorded so far is durable, with False when that
        cannot be any more."""
        self._when_durable = when_durable
        self._epoch = epoch
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._leases: dict[tuple[str, int], Lease] = {}
        self._now: dict[str, Lease] = {}
        """The current period's share of each budget."""
        self._steps: dict[str, int] = {}
        """How large a share of a budget was when it was given back unused. To begin small again would make the first
        calls after a pause wait for one share after the other, each twice as large as the last."""
        self._swept_ns = 0

    # -- calls

    def take(self, needs: Sequence[Need], zone: ZoneInfo, wall_ns: int) -> Hold | Short:
        """Reserve all of this, or nothing and say where it is short. `wall_ns`: the call's admission instant."""
        at_s = wall_ns // SECOND_NS
        leases: list[Lease | None] = []
        charges: list[Charge] = []
        for budget, amount, model in needs:
            if budget.hard:
                lease = self._now.get(budget.id)
                if lease is None or lease.budget is not budget or not lease.start_s <= at_s < lease.end_s:
                    lease = self._lease(budget, zone, at_s)
                if lease.left < amount:
                    return Short(lease, amount)
                leases.append(lease)
                charges.append(Charge(budget.id, budget.measure, lease.start_s, amount, model))
            else:
                leases.append(None)
                charges.append(Charge(budget.id, budget.measure, period(budget.window, zone, at_s).start_s, 0, model))
        now_ns = self._clock.mono_ns()
        for lease, charge in zip(leases, charges, strict=True):
            if lease is not None:
                lease.left -= charge.reserved
                lease.out += charge.reserved
                lease.used_ns = now_ns
                if lease.left < lease.step // 2 and not lease.asking and now_ns >= lease.prefetch_ns:
                    self._ask(lease, 0, now_ns)
        return Hold(tuple(charges), tuple(leases))

    def refusal(self, short: Short) -> InterlockError | None:
        """The error for a call that is short, if the answer is known already; else it has to ask."""
        lease, need = short
        refused = lease.refused
        if refused is None or need < lease.refused_need or self._clock.mono_ns() >= lease.refused_until_ns:
            return None
        return refusal_error(lease, need, refused, self._clock.wall_ns() // SECOND_NS)

    def want(self, short: Short, waiter: Waiter) -> None:
        """Ask the node for what is short; the waiter is told when something has changed."""
        lease, need = short
        lease.waiters.append(waiter)
        if not lease.asking:
            self._ask(lease, need, self._clock.mono_ns())

    def forget(self, waiter: Waiter) -> None:
        """The waiter waits no more."""
        for lease in self._leases.values():
            if waiter in lease.waiters:
                lease.waiters.remove(waiter)

    def settle(self, hold: Hold, charged: tuple[int, ...]) -> None:
        """The call has ended: what it was charged takes the place of what it reserved."""
        now_ns = self._clock.mono_ns()
        hold.settled = charged
        for charge, lease, amount in zip(hold.charges, hold.leases, charged, strict=True):
            if lease is not None:
                lease.out -= charge.reserved
                lease.left += charge.reserved - amount
                lease.used_ns = now_ns
        # Only now: what wakes other calls may raise, and all of this one is settled by then.
        for charge, lease, amount in zip(hold.charges, hold.leases, charged, strict=True):
            if lease is not None and lease.waiters and charge.reserved > amount:
                self._wake(lease)

    def correct(self, hold: Hold, charged: Sequence[int], again: Sequence[int]) -> None:
        """A settled call turns out to be charged something else."""
        for lease, before, after in zip(hold.leases, charged, again, strict=True):
            if lease is not None:
                lease.left -= after - before

    def release(self, hold: Hold) -> None:
        """The call was not made after all."""
        self.settle(hold, (0,) * len(hold.charges))

    # -- what the node says

    def granted(self, message: LeaseGranted) -> None:
        """A share, or more of one."""
        lease = self._leases.get((message.budget, message.start_s))
        if message.epoch != self._epoch or lease is None:
            return  # given to a period that is over here: it stays unused
        now_ns = self._clock.mono_ns()
        lease.asking = False
        lease.refused = None
        lease.left += message.amount
        if not message.amount:  # nothing to be had in advance
            lease.prefetch_ns = now_ns + self._settings.lease_retry_ms * 1_000_000
        if now_ns - lease.granted_ns < BUSY_NS:
            lease.step = min(lease.step * 2, STEP_MAX)
        lease.granted_ns = now_ns
        self._wake(lease)

    def refused(self, message: LeaseRefused) -> None:
        """No share of that size."""
        lease = self._leases.get((message.budget, message.start_s))
        if message.epoch != self._epoch or lease is None:
            return
        lease.asking = False
        retry_ns = self._clock.mono_ns() + self._settings.lease_retry_ms * 1_000_000
        lease.prefetch_ns = retry_ns
        if lease.asked_need:
            lease.refused, lease.refused_need, lease.refused_until_ns = message, lease.asked_need, retry_ns
        self._wake(lease)

    def recalled(self, message: LeaseRecalled) -> None:
        """Somebody else needs what can be spared. Answered even with nothing."""
        lease = self._leases.get((message.budget, message.start_s))
        spare = self._spare(lease) if lease is not None and message.asker != self._epoch else 0
        self._give_back(lease, LeaseReturned(self._epoch, message.budget, message.start_s, spare, message.number))

    def update(self, book: BudgetBook) -> None:
        """The budgets of a new snapshot: shares of changed ones are given back, so that new amounts hold at once."""
        for lease in list(self._leases.values()):
            budget = book.by_id.get(lease.budget.id)
            if budget == lease.budget:
                lease.budget = budget
                continue
            if budget is not None and budget.window == lease.budget.window:
                lease.budget = budget
            lease.refused = None
            self._return(lease)
            self._wake(lease)

    def sweep(self, now_ns: int) -> None:
        """Give back what is not used, forget periods that are over. Called several times a second."""
        if now_ns - self._swept_ns < SECOND_NS:
            return
        self._swept_ns = now_ns
        now_s = self._clock.wall_ns() // SECOND_NS
        idle_ns = self._settings.lease_idle_s * SECOND_NS
        late_ns = now_ns - ANSWER_WAITS * self._settings.lease_wait_ms * 1_000_000
        for key, lease in list(self._leases.items()):
            if lease.asking and lease.asked_ns < late_ns:
                lease.asking = False  # the node was started anew, or is stuck: whoever needs it asks again
                self._wake(lease)
            over = now_s >= lease.end_s
            if (over or now_ns - lease.used_ns > idle_ns) and not lease.waiters and not lease.asking:
                enough = lease.step
                self._return(lease)
                lease.step = enough
                if not lease.out:
                    self._remember(lease)
                    del self._leases[key]
                    if self._now.get(lease.budget.id) is lease:
                        del self._now[lease.budget.id]

    # -- inside

    def _lease(self, budget: Budget, zone: ZoneInfo, at_s: int) -> Lease:
        start_s, end_s = period(budget.window, zone, at_s)
        lease = self._leases.get((budget.id, start_s))
        if lease is None:
            lease = self._leases[budget.id, start_s] = Lease(budget, start_s, end_s)
            lease.step = self._steps.pop(budget.id, 0)
        lease.budget, lease.end_s = budget, end_s
        lease.used_ns = self._clock.mono_ns()
        self._now[budget.id] = lease
        return lease

    def _remember(self, lease: Lease) -> None:
        if lease.step:
            if len(self._steps) >= STEPS_MAX:
                self._steps.clear()
            self._steps[lease.budget.id] = lease.step

    def _ask(self, lease: Lease, need: int, now_ns: int) -> None:
        lease.step = max(lease.step, need * WANT_FACTOR)
        lease.asking = True
        lease.asked_need = need
        lease.asked_ns = lease.used_ns = now_ns
        short = max(need - lease.left, 0)
        wanted = LeaseWanted(
            self._epoch, lease.budget.tenant_id, lease.budget.id, lease.start_s, short, max(lease.step, short)
        )
        if not self._tell(wanted):
            lease.asking = False

    def _return(self, lease: Lease) -> None:
        spare = self._spare(lease)
        if spare:
            self._give_back(lease, LeaseReturned(self._epoch, lease.budget.id, lease.start_s, spare, 0))

    def _give_back(self, lease: Lease | None, returned: LeaseReturned) -> None:
        """INVARIANT: what calls did not use leaves this worker when that is durable. A call whose end is lost is
        charged what it had reserved, and that must not be spent twice. What cannot leave stays."""

        def now(durable: bool) -> None:
            if (not durable or not self._tell(returned)) and lease is not None:
                lease.left += returned.amount

        self._when_durable(now)

    def _spare(self, lease: Lease) -> int:
        spare = max(lease.left, 0)
        lease.left -= spare
        lease.step = 0
        return spare

    def _wake(self, lease: Lease) -> None:
        waiters, lease.waiters = lease.waiters, []
        for waiter in waiters:
            waiter.again()


def refusal_error(lease: Lease, need: int, refused: LeaseRefused, now_s: int) -> InterlockError:
    """Why a call is not admitted on a budget, and when it may be."""
    budget = lease.budget
    who = "the tenant" if budget.kind == "tenant" else f"this {budget.kind}"
    name = f"The budget {budget.name!r} of {who}"
    if refused.why == "unavailable":
        return Unavailable(
            f"{name} cannot be asked for a share just now; try again.",
            code="budget_unavailable",
            headers={"retry-after": "1"},
        )
    if need > refused.amount >= 0:
        error = LimitExceeded(
            f"This call may take more than {name[0].lower()}{name[1:]} gives in a whole {_words(budget.window)}; "
            "ask for less, for example with a smaller max_tokens.",
            code="budget_too_small",
        )
        error.kind, error.retryable = "insufficient_quota", False
        return error
    if refused.used + need <= refused.amount:
        return LimitExceeded(
            f"What is left of {name[0].lower()}{name[1:]} is held by calls in progress, or by some that have just"
            " ended; try again.",
            code="budget_reserved",
            headers={"retry-after": "1"},
        )
    ends = "" if lease.end_s >= END_OF_TIME_S else "; it begins anew with the next period"
    headers = {} if lease.end_s >= END_OF_TIME_S else {"retry-after": str(max(lease.end_s - now_s, 1))}
    error = LimitExceeded(f"{name} is used up{ends}.", code="budget_exceeded", headers=headers)
    error.kind, error.retryable = "insufficient_quota", False
    return error


def _words(window: str) -> str:
    return "period" if window == "total" or window[0].isdigit() else window
