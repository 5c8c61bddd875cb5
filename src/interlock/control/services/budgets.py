"""Budgets of a tenant, and how far they are used."""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from interlock.control.amounts import FIELDS, SCALES, budget_amount, budget_fields, decimal_text
from interlock.control.documents import BudgetSpec
from interlock.control.services import keys
from interlock.control.services.base import Names, Tx, missing
from interlock.errors import Conflict
from interlock.metering.forecast import forecast
from interlock.metering.periods import END_OF_TIME_S, Period, period
from interlock.storage import budgets, tenants
from interlock.storage.budgets import BudgetRow, Lease
from interlock.storage.table import Stored

LAST_S = 4_102_444_800
"""2100-01-01: what runs out later than that does not run out."""


class Passed(msgspec.Struct, frozen=True):
    """A threshold of a budget that its current period has passed."""

    percent: int
    used: int
    at: datetime.datetime


class Outlook(msgspec.Struct, frozen=True):
    """What is to be expected if use goes on at its average rate since `since`: see `interlock.metering.forecast`.

    `per_day`, `at_end`: in units of the budget's measure. `runs_out`: when the amount is used up, null when the period
    ends before. `at_end`: null for a window that never ends."""

    since: datetime.datetime
    per_day: int
    runs_out: datetime.datetime | None
    at_end: int | None


class BudgetUse(msgspec.Struct, frozen=True):
    """How far the current period of a budget is used, in units of `measure` (calls, tokens, nano-USD, microjoules).

    `used`: what entries of the ledger were charged. `held`: what running calls and gateways hold besides, or what is on
    its way to the ledger. `left`: what is still to be had. `text`: amount and use in words. `outlook`: null when too
    little was used, or for too short a time, to tell.
    """

    name: str
    on: str
    measure: str
    window: str
    hard: bool
    start: datetime.datetime
    end: datetime.datetime | None
    amount: int
    used: int
    held: int
    left: int
    percent: float
    alerts: list[Passed]
    text: str
    outlook: Outlook | None


class Details(NamedTuple):
    """A budget as it is kept, how far it is used, and the leases that gateways hold on its period."""

    stored: Stored[BudgetRow]
    use: BudgetUse
    leases: list[Lease]


class _Subject(NamedTuple):
    kind: str
    name: str


def spec_of(budget: BudgetRow, names: Names) -> BudgetSpec:
    """The declared form of a budget."""
    subject = names.of(budget.subject) if budget.kind in ("team", "principal") else budget.subject
    given: dict[str, Any] = {} if budget.kind == "tenant" else {budget.kind: subject}
    given |= budget_fields(budget.measure, budget.amount)
    return BudgetSpec(name=budget.name, window=budget.window, hard=budget.hard, alerts=budget.alerts, **given)


def find(tx: Tx, tenant_id: str, name: str) -> Stored[BudgetRow]:
    """The budget of that name. Raises NotFound."""
    found = budgets.by_name(tx.conn, tenant_id, name)
    if found is None:
        raise missing("budget", name)
    return found


def create(tx: Tx, tenant_id: str, spec: BudgetSpec) -> Stored[BudgetRow]:
    """A new budget. Raises Conflict when the name is taken, NotFound without what it is on."""
    most = tx.tools.settings.budgets_max
    if len(budgets.page(tx.conn, tenant_id=tenant_id, limit=most)) >= most:
        raise Conflict(f"the tenant has {most} budgets, the most it may have (budgets_max)", code="too_many")
    empty = BudgetRow(tx.tools.new_id("budget"), tenant_id, spec.name)
    return budgets.insert(tx.conn, _with(tx, empty, spec), tx.by)


def update(tx: Tx, tenant_id: str, spec: BudgetSpec, revision: int | None = None) -> Stored[BudgetRow]:
    """Everything but the name. What the current period was charged stays charged. Raises NotFound, Conflict."""
    return budgets.update(tx.conn, _with(tx, find(tx, tenant_id, spec.name).value, spec), tx.by, revision=revision)


def delete(tx: Tx, tenant_id: str, name: str, revision: int | None = None) -> None:
    """Raises NotFound, Conflict."""
    budgets.delete(tx.conn, find(tx, tenant_id, name).value.id, tx.by, revision=revision)


def unused(tx: Tx, tenant_id: str, kind: str, subject: str, name: str) -> None:
    """Raise Conflict while a budget is on this team or principal."""
    for stored in budgets.on(tx.conn, tenant_id, kind, subject):
        raise Conflict(f"budget {stored.value.name!r} is on {kind} {name!r}", code="still_used")


def _with(tx: Tx, budget: BudgetRow, spec: BudgetSpec) -> BudgetRow:
    kind, name = subject_of(spec)
    subject = name
    if kind == "team":
        subject = tx.names.team(budget.tenant_id, name)
    elif kind == "principal":
        subject = tx.names.principal(budget.tenant_id, name)
    elif kind == "key":
        keys.find(tx, budget.tenant_id, name)
    measure, amount = budget_amount(spec)
    return msgspec.structs.replace(
        budget,
        kind=kind,
        subject=subject,
        measure=measure,
        amount=amount,
        window=spec.window,
        hard=spec.hard,
        alerts=tuple(sorted(set(spec.alerts))),
    )


def subject_of(spec: BudgetSpec) -> _Subject:
    """What a declared budget is on: (kind, name)."""
    for kind in ("team", "principal", "key", "model", "shadow", "judge"):
        name = getattr(spec, kind)
        if name:
            return _Subject(kind, name)
    return _Subject("tenant", "")


def uses(tx: Tx, tenant_id: str) -> list[BudgetUse]:
    """How far each budget of a tenant is used now, by name."""
    zone = _zone(tx, tenant_id)
    rows = budgets.page(tx.conn, tenant_id=tenant_id, limit=tx.tools.settings.budgets_max)
    now_s = int(tx.by.at.timestamp())
    found = [_use(tx, row, period(row.value.window, zone, now_s), now_s) for row in rows]
    return sorted(found, key=lambda each: each.name)


def details(tx: Tx, tenant_id: str, name: str) -> Details:
    """One budget with all that is known of its current period. Raises NotFound."""
    stored = find(tx, tenant_id, name)
    now_s = int(tx.by.at.timestamp())
    current = period(stored.value.window, _zone(tx, tenant_id), now_s)
    use = _use(tx, stored, current, now_s)
    return Details(stored, use, budgets.leases(tx.conn, stored.value.id, current.start_s))


def _zone(tx: Tx, tenant_id: str) -> ZoneInfo:
    found = tenants.get(tx.conn, tenant_id)
    if found is None:
        raise missing("tenant", tenant_id)
    return ZoneInfo(found.value.time_zone)


def _use(tx: Tx, stored: Stored[BudgetRow], current: Period, now_s: int) -> BudgetUse:
    budget, (start_s, end_s) = stored.value, current
    used, held = budgets.use(tx.conn, budget.id, start_s)
    subject = tx.names.of(budget.subject) if budget.kind in ("team", "principal") else budget.subject
    scale = SCALES[budget.measure]
    unit = FIELDS[budget.measure] if budget.measure != "nusd" else "USD"
    percent = used * 100 / budget.amount if budget.amount else 100.0
    return BudgetUse(
        budget.name,
        f"{budget.kind} {subject}".strip(),
        budget.measure,
        budget.window,
        budget.hard,
        _instant(start_s),
        None if end_s == END_OF_TIME_S else _instant(end_s),
        budget.amount,
        used,
        held,
        max(budget.amount - used - held, 0),
        round(percent, 2),
        [Passed(each.percent, each.used, each.at) for each in budgets.alerts(tx.conn, budget.id, start_s)],
        f"{decimal_text(used, scale)} of {decimal_text(budget.amount, scale)} {unit} used",
        _outlook(stored, used, current, now_s),
    )


def _outlook(stored: Stored[BudgetRow], used: int, current: Period, now_s: int) -> Outlook | None:
    since_s = max(current.start_s, int(stored.created_at.timestamp()))
    found = forecast(used, stored.value.amount, since_s, now_s, current.end_s)
    if found is None:
        return None
    runs_out = None if found.runs_out_s is None or found.runs_out_s > LAST_S else _instant(found.runs_out_s)
    return Outlook(_instant(since_s), found.per_day, runs_out, found.at_end)


def _instant(at_s: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC)
