"""What each kind of rule reads of figures, and that what is not known is not taken for nothing."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from interlock.control.alerts.figures import Figures, Ledger, _load
from interlock.control.alerts.readings import VALUE_MAX, BudgetUse, SourceLoad, readings
from interlock.control.alerts.sender import AlertSender
from interlock.control.alerts.watch import AlertWatch
from interlock.control.services.base import Tools
from interlock.errors import StoreError
from interlock.settings import Settings
from interlock.storage.alert_figures import Calls, Denied
from interlock.storage.nodes import Told
from interlock.storage.sources import SourceRow
from interlock.testing.clock import FakeClock
from interlock.types.alert import KINDS, AlertKind, AlertRule, AlertScope
from interlock.types.source import SourceKind, SourceLimits, SourceState


class Known:
    """Stands for what was read from the database; None: it could not be."""

    def __init__(self, **known: Any) -> None:
        self._known = known

    def calls(self, _: AlertRule) -> Any:
        return self._known.get("calls")

    def denied(self, _: AlertRule) -> Any:
        return self._known.get("denied")

    def budgets(self, _: str) -> Any:
        return self._known.get("budgets")

    def sources(self, _: str) -> Any:
        return self._known.get("sources")

    def ledger(self) -> Any:
        return self._known.get("ledger")


def read(
    kind: AlertKind, *, tenant: str = "ten_1", count_min: int = 0, scope: AlertScope | None = None, **known: Any
) -> Any:
    rule = AlertRule("alr_1", tenant, "r", kind, 1, count_min=count_min, scope=scope or AlertScope())
    found = readings(rule, cast(Figures, Known(**known)))
    return None if found is None else [(each.subject, each.value) for each in found]


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_cannot_be_read_is_not_nothing(kind: AlertKind) -> None:
    assert read(kind, tenant="") is None


BUDGETS = [
    BudgetUse("acme", "month", "research", "calls", 100, 95, 140, ends=True),
    BudgetUse("acme", "ever", "", "nusd", 1_000_000_000, 0, None, ends=False),
    BudgetUse("acme", "young", "", "tokens", 1000, 3, None, ends=True),
    BudgetUse("acme", "nothing", "", "calls", 0, 0, 0, ends=True),
]


def test_budgets() -> None:
    used = read(AlertKind.budget_used, budgets=BUDGETS)
    assert used == [("month", 950), ("ever", 0), ("young", 3), ("nothing", 1000)]
    assert read(AlertKind.budget_used, tenant="", budgets=BUDGETS)[0] == ("acme/month", 950)
    outlook = read(AlertKind.budget_outlook, budgets=BUDGETS)
    assert outlook == [("month", 1400), ("young", None), ("nothing", 1000)], (
        "too young is unknown, endless is no matter"
    )
    assert read(AlertKind.budget_used, budgets=BUDGETS, scope=AlertScope(team="research")) == [("month", 950)]
    assert read(AlertKind.budget_used, budgets=BUDGETS, scope=AlertScope(budget="ever")) == [("ever", 0)]


def test_a_share_of_next_to_nothing_is_a_value_that_can_be_kept() -> None:
    tiny = [BudgetUse("acme", "tiny", "", "nusd", 1, 1 << 60, 1 << 80, ends=True)]
    for kind in (AlertKind.budget_used, AlertKind.budget_outlook):
        ((_, value),) = read(kind, budgets=tiny)
        assert value == VALUE_MAX < 1 << 63


class Turns(threading.Event):
    """Lets a loop turn twice."""

    turns = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.turns += 1
        return self.turns > 2


@pytest.mark.parametrize("loop", [AlertWatch, AlertSender])
@pytest.mark.parametrize("error", [KeyError("Mars/Olympus"), StoreError("away")])
def test_whatever_goes_wrong_alerts_are_looked_at_again(loop: Any, error: Exception) -> None:
    class Failing(loop):  # type: ignore[misc]
        looked = 0

        def once(self, event_id: str = "") -> Any:
            self.looked += 1
            raise error

    made = Failing(cast(Any, None), Tools(Settings(), FakeClock(), bytes, lambda n: 0, b""))
    made.run(Turns())
    assert made.looked == 2


def test_calls_and_denials() -> None:
    calls = [Calls("a", 10, 1), Calls("b", 2, 2), Calls("", 3, 3)]
    load = [SourceLoad("a", 1, 0, 0, 0, None, None), SourceLoad("c", 1, 0, 0, 0, None, None)]
    assert read(AlertKind.call_failures, calls=calls) == [("", 400)]
    assert read(AlertKind.call_failures, calls=calls, count_min=16) == [("", None)], "too few to tell"
    assert read(AlertKind.call_failures, calls=[]) == [("", None)]
    by_source = read(AlertKind.source_failures, calls=calls, sources=load, count_min=3)
    assert by_source == [("a", 100), ("c", None), ("b", None)]
    assert read(AlertKind.source_failures, calls=calls, sources=None) is None
    assert read(AlertKind.denials, denied=Denied(50, 10), count_min=20) == [("", 5000)]
    assert read(AlertKind.denials, denied=Denied(19, 0), count_min=20) == [("", 0)], "too few are none"
    assert read(AlertKind.denials, denied=Denied(20, 0), count_min=20) == [("", 20_000)]


def test_sources() -> None:
    load = [SourceLoad("a", 4, 1, 3, 5, 10, 7), SourceLoad("silent", 0, 0, 0, 0, None, None),
            SourceLoad("free", 1, 0, 0, 5, None, None)]  # fmt: skip
    assert read(AlertKind.source_down, sources=load) == [("a", 250), ("silent", None), ("free", 0)]
    assert read(AlertKind.source_waits, sources=load) == [("a", 750), ("silent", None), ("free", 0)]
    assert read(AlertKind.source_seats, sources=load) == [("a", 500), ("silent", None), ("free", None)]
    assert read(AlertKind.source_queue, sources=load) == [("a", 7), ("silent", None), ("free", None)]
    assert read(AlertKind.source_queue, sources=load, scope=AlertScope(source="a")) == [("a", 7)]


def test_the_ledger_is_the_platforms() -> None:
    ledger = Ledger(17, {"n1": 3.9}, {"n1": 90.5})
    assert read(AlertKind.ledger_inbox, tenant="", ledger=ledger) == [("", 17)]
    assert read(AlertKind.ledger_lag, tenant="", ledger=ledger) == [("n1", 90)]
    assert read(AlertKind.node_silent, tenant="", ledger=ledger) == [("n1", 3)]
    for kind in (AlertKind.ledger_inbox, AlertKind.ledger_lag, AlertKind.node_silent):
        assert read(kind, tenant="ten_1", ledger=ledger) is None, "whatever a rule says, a tenant reads nothing of it"


def test_the_load_of_a_source_is_that_of_nodes_that_were_heard_of() -> None:
    row = SourceRow("src_1", "gpu", SourceKind.vllm, "http://x", limits=SourceLimits(concurrency=4))

    def state(inflight: int, waiting: int, healthy: bool, breaker: str, contended: bool) -> SourceState:
        return SourceState("src_1", inflight, waiting, 1, -1, healthy, False, breaker, contended)

    told = [
        Told("n1", 3.0, [state(4, 9, True, "closed", True)]),
        Told("n2", 1.0, [state(2, 5, True, "open", False)]),
        Told("n3", 2.0, [state(0, -1, False, "closed", False)]),
        Told("gone", 60.0, [state(4, 99, False, "open", True)]),
    ]
    assert _load(row, told) == SourceLoad("gpu", 3, 2, 1, 6, 12, 5)
    assert _load(row, told[3:]) == SourceLoad("gpu", 0, 0, 0, 0, None, None), "not known, rather than idle"
