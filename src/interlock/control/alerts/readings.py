"""What a rule reads of each thing that it watches. Pure: from figures that were read before, or were not (None)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from interlock.control.amounts import FIELDS, SCALES, decimal_text
from interlock.types.alert import AlertKind, AlertRule, Reading

if TYPE_CHECKING:
    from interlock.control.alerts.figures import Figures

ALL = ""
"""The subject of a rule that watches one thing only."""


class BudgetUse(NamedTuple):
    """A budget in its current period, in units of its measure. `at_end`: what will be used at its end at the rate so
    far, None when that cannot be told yet. `ends`: not for a window that never does."""

    tenant: str
    name: str
    team: str
    measure: str
    amount: int
    used: int
    at_end: int | None
    ends: bool


class SourceLoad(NamedTuple):
    """A source, by what nodes told of it lately. Of `nodes` nodes, for so many it is `down` (not healthy, or its
    breaker open), and on so many calls `wait` for it. `seats`: of all of them, None without a limit. `queue`: at the
    engine by the newest reading, None when it does not say."""

    name: str
    nodes: int
    down: int
    waits: int
    inflight: int
    seats: int | None
    queue: int | None


def readings(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    """A reading of each thing that a rule watches; None when nothing can be read, so that nothing is known of any."""
    return _READERS[rule.kind](rule, figures)


VALUE_MAX = (1 << 62) - 1
"""Largest value that is kept: what is beyond it is far above any threshold."""


def permille(part: int, whole: int) -> int:
    """A share in thousandths, rounded down, at most `VALUE_MAX`; of nothing, all."""
    return min(part * 1000 // whole, VALUE_MAX) if whole > 0 else 1000


def _budgets(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found = figures.budgets(rule.tenant_id)
    if found is None:
        return None
    outlook = rule.kind is AlertKind.budget_outlook
    out = []
    for each in found:
        if (rule.scope.budget and each.name != rule.scope.budget) or (rule.scope.team not in ("", each.team)):
            continue
        if outlook and not each.ends:
            continue
        used = each.at_end if outlook else each.used
        value = None if used is None else permille(used, each.amount)
        words = "" if used is None else _amounts(each, used, "expected at its end" if outlook else "used")
        out.append(Reading(each.name if rule.tenant_id else f"{each.tenant}/{each.name}", value, words))
    return out


def _amounts(budget: BudgetUse, part: int, of_what: str) -> str:
    """ "9.50 of 12.00 USD used", "40 of 100 calls expected at its end"."""
    scale = SCALES[budget.measure]
    unit = FIELDS[budget.measure] if budget.measure != "nusd" else "USD"
    return f"{decimal_text(part, scale)} of {decimal_text(budget.amount, scale)} {unit} {of_what}"


def _call_failures(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found = figures.calls(rule)
    if found is None:
        return None
    return [_failures(rule, ALL, sum(each.calls for each in found), sum(each.failed for each in found))]


def _source_failures(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found, known = figures.calls(rule), figures.sources(rule.tenant_id)
    if found is None or known is None:
        return None
    by_name = {each.source: each for each in found if each.source}
    names = dict.fromkeys((*(each.name for each in known), *by_name))
    return [
        _failures(rule, name, by_name[name].calls, by_name[name].failed)
        if name in by_name
        else _failures(rule, name, 0, 0)
        for name in names
        if rule.scope.source in ("", name)
    ]


def _failures(rule: AlertRule, subject: str, calls: int, failed: int) -> Reading:
    """Of too few calls no share is made: it is not known."""
    words = f"{failed} of {calls} calls"
    return Reading(subject, permille(failed, calls) if calls >= max(1, rule.count_min) else None, words)


def _sources(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found = figures.sources(rule.tenant_id)
    if found is None:
        return None
    value, words = _OF_SOURCE[rule.kind]
    return [
        Reading(each.name, value(each) if each.nodes else None, words(each))
        for each in found
        if rule.scope.source in ("", each.name)
    ]


_OF_SOURCE: dict[AlertKind, tuple[Callable[[SourceLoad], int | None], Callable[[SourceLoad], str]]] = {
    AlertKind.source_down: (
        lambda each: permille(each.down, each.nodes),
        lambda each: f"down for {each.down} of {each.nodes} nodes",
    ),
    AlertKind.source_queue: (lambda each: each.queue, lambda _: "at the engine"),
    AlertKind.source_seats: (
        lambda each: None if each.seats is None else permille(each.inflight, each.seats),
        lambda each: f"{each.inflight} of {each.seats} seats" if each.seats is not None else "it has no limit",
    ),
    AlertKind.source_waits: (
        lambda each: permille(each.waits, each.nodes),
        lambda each: f"on {each.waits} of {each.nodes} nodes",
    ),
}


def _denials(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found = figures.denied(rule)
    if found is None:
        return None
    words = f"{found.now} calls denied, {found.before} in the time before"
    # fewer than the least that counts are none: that is known, unlike a share of too few calls
    value = found.now * 1000 // max(found.before, 1) if found.now >= max(1, rule.count_min) else 0
    return [Reading(ALL, value, words)]


def _ledger(rule: AlertRule, figures: Figures) -> list[Reading] | None:
    found = None if rule.tenant_id else figures.ledger()
    if found is None:
        return None
    if rule.kind is AlertKind.ledger_inbox:
        return [Reading(ALL, found.inbox, "entries wait")]
    lag = rule.kind is AlertKind.ledger_lag
    seconds = found.lags if lag else found.silent
    words = "not brought to the ledger" if lag else "not heard of"
    return _seconds(seconds.items(), words)


def _seconds(found: Iterable[tuple[str, float]], words: str) -> list[Reading]:
    return [Reading(name, int(seconds), words) for name, seconds in found]


_READERS: dict[AlertKind, Callable[[AlertRule, Figures], list[Reading] | None]] = {
    AlertKind.budget_used: _budgets,
    AlertKind.budget_outlook: _budgets,
    AlertKind.call_failures: _call_failures,
    AlertKind.source_failures: _source_failures,
    AlertKind.source_down: _sources,
    AlertKind.source_queue: _sources,
    AlertKind.source_seats: _sources,
    AlertKind.source_waits: _sources,
    AlertKind.denials: _denials,
    AlertKind.ledger_lag: _ledger,
    AlertKind.ledger_inbox: _ledger,
    AlertKind.node_silent: _ledger,
}
