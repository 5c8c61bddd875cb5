"""A worker's shares of budgets, against a node that answers by hand."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from interlock.errors import InterlockError
from interlock.gateway.link import LeaseGranted, LeaseRecalled, LeaseRefused, LeaseReturned, LeaseWanted
from interlock.gateway.treasury import Hold, Need, Short, Treasury
from interlock.metering.book import BudgetBook
from interlock.settings import Settings
from interlock.testing.clock import FakeClock
from interlock.types.budget import Budget, Charge
from interlock.types.identity import Tenant

UTC = ZoneInfo("UTC")
EPOCH = "e" * 16
DAY_S = 86_400
NOON_NS = (20_000 * DAY_S + 43_200) * 1_000_000_000


def budget(measure: str = "calls", amount: int = 10, *, hard: bool = True, model: str = "") -> Budget:
    kind, subject = ("model", model) if model else ("tenant", "ten_a")
    return Budget(f"bdg_{measure}_{model}", "ten_a", measure, kind, (subject,), measure, amount, "day", hard)


class Desk:
    """A treasury, what it said to the node, and what waits for the disk."""

    def __init__(self, **settings: int) -> None:
        self.said: list[LeaseWanted | LeaseReturned] = []
        self.undurable: list[Callable[[bool], None]] = []
        self.clock = FakeClock(NOON_NS)
        self.durable = True
        self.treasury = Treasury(EPOCH, Settings(**settings), self.clock, self._tell, self._when_durable)

    def _tell(self, message: LeaseWanted | LeaseReturned) -> bool:
        self.said.append(message)
        return True

    def _when_durable(self, then: Callable[[bool], None]) -> None:
        if self.durable:
            then(True)
        else:
            self.undurable.append(then)

    def take(self, *needs: tuple[Budget, int]) -> Hold | Short:
        wanted = [Need(each, amount, each.subjects[0] if each.kind == "model" else "") for each, amount in needs]
        return self.treasury.take(wanted, UTC, self.clock.wall_ns())

    def grant(self, to: Budget, amount: int, epoch: str = EPOCH) -> None:
        self.treasury.granted(LeaseGranted(epoch, to.id, 20_000 * DAY_S, amount))

    def refuse(self, of: Budget, why: str = "spent", used: int = 0) -> None:
        self.treasury.refused(LeaseRefused(EPOCH, of.id, 20_000 * DAY_S, why, used, of.amount))

    def recall(self, of: Budget, asker: str = "other") -> LeaseReturned:
        self.said.clear()
        self.treasury.recalled(LeaseRecalled(of.id, 20_000 * DAY_S, 7, asker))
        (answer,) = self.said
        assert isinstance(answer, LeaseReturned)
        return answer


class Waiter:
    def __init__(self) -> None:
        self.told = 0

    def again(self) -> None:
        self.told += 1


def held(taken: Hold | Short) -> Hold:
    assert isinstance(taken, Hold)
    return taken


def short(taken: Hold | Short) -> Short:
    assert isinstance(taken, Short)
    return taken


def test_a_call_reserves_what_it_may_take_and_is_settled_at_what_it_took() -> None:
    desk, tokens = Desk(), budget("tokens", 1000)
    desk.treasury.want(short(desk.take((tokens, 60))), Waiter())
    assert desk.said == [LeaseWanted(EPOCH, "ten_a", tokens.id, 20_000 * DAY_S, 60, 480)]
    desk.grant(tokens, 100)
    hold = held(desk.take((tokens, 60)))
    assert hold.charges == (Charge(tokens.id, "tokens", 20_000 * DAY_S, 60),)
    assert short(desk.take((tokens, 60))).need == 60
    desk.treasury.settle(hold, (10,))
    assert isinstance(desk.take((tokens, 90)), Hold)
    assert isinstance(desk.take((tokens, 1)), Short)


def test_all_budgets_are_reserved_or_none() -> None:
    desk, calls, tokens = Desk(), budget("calls"), budget("tokens")
    for each in (calls, tokens):
        desk.take((each, 1))
        desk.grant(each, 1)
    assert short(desk.take((calls, 1), (tokens, 2))).lease.budget is tokens
    assert isinstance(desk.take((calls, 1), (tokens, 1)), Hold)


def test_a_soft_budget_needs_no_share() -> None:
    desk, soft = Desk(), budget(hard=False)
    hold = held(desk.take((soft, 1)))
    assert hold.charges == (Charge(soft.id, "calls", 20_000 * DAY_S, 0),) and not desk.said
    desk.treasury.settle(hold, (1,))


def test_what_is_given_back_is_gone_here_before_it_is_gone_there() -> None:
    desk, calls = Desk(), budget()
    desk.take((calls, 1))
    desk.grant(calls, 5)
    first = held(desk.take((calls, 1)))
    desk.durable = False
    desk.said.clear()
    desk.treasury.recalled(LeaseRecalled(calls.id, 20_000 * DAY_S, 7, "other"))
    assert isinstance(desk.take((calls, 1)), Short), "what is on its way back is still used here"
    assert not desk.said, "it left before the records of the calls that did not use it were durable"
    desk.undurable.pop()(True)
    assert desk.said == [LeaseReturned(EPOCH, calls.id, 20_000 * DAY_S, 4, 7)]
    desk.treasury.release(first)
    desk.durable = True
    assert desk.recall(calls).amount == 1
    assert desk.recall(calls).amount == 0


def test_what_cannot_be_given_back_stays() -> None:
    desk, calls = Desk(), budget()
    desk.take((calls, 1))
    desk.grant(calls, 5)
    desk.durable = False
    desk.said.clear()
    desk.treasury.recalled(LeaseRecalled(calls.id, 20_000 * DAY_S, 7, "other"))
    desk.undurable.pop()(False)
    assert not desk.said and isinstance(desk.take((calls, 5)), Hold)


def test_an_answer_that_never_comes_is_not_waited_for_for_ever() -> None:
    desk, calls, waiter = Desk(lease_wait_ms=100), budget(), Waiter()
    desk.treasury.want(short(desk.take((calls, 1))), waiter)
    desk.treasury.sweep(desk.clock.mono_ns())
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    assert len(desk.said) == 1
    desk.clock.advance(s=2)
    desk.treasury.sweep(desk.clock.mono_ns())
    assert waiter.told == 1
    desk.treasury.want(short(desk.take((calls, 1))), waiter)
    assert len(desk.said) == 2


def test_a_recall_for_oneself_gives_nothing_back() -> None:
    desk, calls = Desk(), budget()
    desk.take((calls, 1))
    desk.grant(calls, 5)
    assert desk.recall(calls, asker=EPOCH).amount == 0
    assert isinstance(desk.take((calls, 5)), Hold)


def test_more_than_was_reserved_is_charged_too() -> None:
    desk, tokens = Desk(), budget("tokens", 100)
    desk.take((tokens, 10))
    desk.grant(tokens, 20)
    desk.treasury.settle(held(desk.take((tokens, 10))), (18,))
    assert isinstance(desk.take((tokens, 3)), Short)
    assert isinstance(desk.take((tokens, 2)), Hold)


def test_an_outcome_that_is_lost_is_charged_what_was_reserved() -> None:
    desk, tokens = Desk(), budget("tokens", 100)
    desk.take((tokens, 10))
    desk.grant(tokens, 20)
    hold = held(desk.take((tokens, 10)))
    desk.treasury.settle(hold, (1,))
    desk.treasury.correct(hold, (1,), (10,))
    assert isinstance(desk.take((tokens, 11)), Short)
    assert isinstance(desk.take((tokens, 10)), Hold)


def test_waiters_are_told_in_their_order_of_every_answer() -> None:
    desk, calls = Desk(), budget()
    waiters = [Waiter(), Waiter()]
    for waiter in waiters:
        desk.treasury.want(short(desk.take((calls, 1))), waiter)
    assert len(desk.said) == 1, "one question at a time"
    desk.grant(calls, 1)
    assert [waiter.told for waiter in waiters] == [1, 1]
    hold = held(desk.take((calls, 1)))
    desk.treasury.want(short(desk.take((calls, 1))), waiters[0])
    desk.treasury.want(short(desk.take((calls, 1))), waiters[1])
    desk.treasury.forget(waiters[1])
    desk.treasury.settle(hold, (0,))
    assert [waiter.told for waiter in waiters] == [2, 1]


def test_a_refusal_is_remembered_for_calls_as_large_and_for_a_while() -> None:
    desk, tokens = Desk(lease_retry_ms=1000), budget("tokens", 100)
    desk.treasury.want(short(desk.take((tokens, 50))), Waiter())
    desk.refuse(tokens, used=90)
    taken = short(desk.take((tokens, 60)))
    error = desk.treasury.refusal(taken)
    assert error is not None and error.code == "budget_exceeded" and error.status == 429 and not error.retryable
    assert int(error.headers["retry-after"]) == DAY_S // 2
    assert desk.treasury.refusal(short(desk.take((tokens, 49)))) is None, "a smaller call may fit"
    desk.clock.advance(ns=1_000_000_000)
    assert desk.treasury.refusal(taken) is None


@pytest.mark.parametrize(
    ("why", "used", "need", "code", "status"),
    [
        ("spent", 100, 1, "budget_exceeded", 429),
        ("spent", 40, 60, "budget_reserved", 429),
        ("held", 40, 60, "budget_reserved", 429),
        ("spent", 0, 101, "budget_too_small", 429),
        ("unavailable", -1, 1, "budget_unavailable", 503),
    ],
)
def test_the_words_of_a_refusal(why: str, used: int, need: int, code: str, status: int) -> None:
    desk, tokens = Desk(), budget("tokens", 100)
    taken = short(desk.take((tokens, need)))
    desk.treasury.want(taken, Waiter())
    desk.refuse(tokens, why, used)
    error = desk.treasury.refusal(taken)
    assert isinstance(error, InterlockError)
    assert (error.code, error.status) == (code, status) and "'tokens'" in error.message


def test_it_asks_in_advance_and_not_again_and_again_in_vain() -> None:
    desk, calls = Desk(lease_retry_ms=1000), budget(amount=1000)
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    desk.grant(calls, 8)
    desk.said.clear()
    for _ in range(4):
        assert isinstance(desk.take((calls, 1)), Hold)
        desk.clock.advance(ns=1_000)
    assert not desk.said
    assert isinstance(desk.take((calls, 1)), Hold)
    (asked,) = desk.said
    assert isinstance(asked, LeaseWanted) and asked.need == 0 and asked.want >= 8
    desk.grant(calls, 0)
    assert isinstance(desk.take((calls, 1)), Hold)
    assert len(desk.said) == 1
    desk.clock.advance(ns=1_000_000_000)
    assert isinstance(desk.take((calls, 1)), Hold)
    assert len(desk.said) == 2


def test_answers_of_another_life_are_not_ours() -> None:
    desk, calls = Desk(), budget()
    desk.take((calls, 1))
    desk.grant(calls, 5, epoch="f" * 16)
    assert isinstance(desk.take((calls, 1)), Short)


def test_what_is_not_used_goes_back_and_so_does_what_is_left_of_a_changed_budget() -> None:
    desk, calls = Desk(lease_idle_s=10), budget()
    desk.take((calls, 1))
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    desk.grant(calls, 5)
    desk.said.clear()
    desk.treasury.sweep(desk.clock.mono_ns())
    assert not desk.said
    desk.clock.advance(ns=11_000_000_000)
    desk.treasury.sweep(desk.clock.mono_ns())
    assert desk.said == [LeaseReturned(EPOCH, calls.id, 20_000 * DAY_S, 5, 0)]
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    desk.grant(calls, 5)
    desk.said.clear()
    smaller = budget(amount=2)
    desk.treasury.update(BudgetBook([smaller], [Tenant("ten_a", "a")]))
    assert desk.said == [LeaseReturned(EPOCH, calls.id, 20_000 * DAY_S, 5, 0)]
    assert isinstance(desk.take((smaller, 1)), Short)


def _wish(desk: Desk) -> int:
    """What was last asked for, if there is plenty."""
    return [each for each in desk.said if isinstance(each, LeaseWanted)][-1].want


@pytest.mark.parametrize("runs_on", [False, True])
def test_after_a_pause_the_first_share_is_as_large_as_the_last_one_had_to_be(runs_on: bool) -> None:
    desk, calls = Desk(lease_idle_s=10), budget(amount=1_000_000)
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    first = _wish(desk)
    for _ in range(5):  # each is used up at once, and so the next one is twice as large
        amount = _wish(desk)
        desk.grant(calls, amount)
        desk.clock.advance(ms=100)
        for _ in range(amount):
            desk.treasury.settle(held(desk.take((calls, 1))), (1,))
        desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    last = _wish(desk)
    assert last >= 16 * first
    desk.grant(calls, 2)
    running = held(desk.take((calls, 1)))
    if not runs_on:
        desk.treasury.settle(running, (1,))
    desk.said.clear()
    for _ in range(3):
        desk.clock.advance(s=11)
        desk.treasury.sweep(desk.clock.mono_ns())
    assert [each.amount for each in desk.said if isinstance(each, LeaseReturned)] == [1], "what is left goes back"
    desk.treasury.want(short(desk.take((calls, 1))), Waiter())
    assert _wish(desk) >= last, "and not for the few calls that do for a budget which nobody has used"


def test_a_new_period_begins_at_nothing() -> None:
    desk, calls = Desk(), budget()
    desk.take((calls, 1))
    desk.grant(calls, 5)
    late = held(desk.take((calls, 1)))
    desk.clock.advance(ns=43_200 * 1_000_000_000)
    assert short(desk.take((calls, 1))).lease.start_s == 20_001 * DAY_S
    desk.treasury.settle(late, (0,))
    assert isinstance(desk.take((calls, 1)), Short), "a call of yesterday gave something to today"
