"""What rules read, from the database: once a look for all rules that want the same, each in the name that it is for.

INVARIANT: what a tenant's rule reads of calls and budgets is read in a transaction of that tenant, so that row-level
security holds whatever is asked; of sources it is told those that are the tenant's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import psycopg
from psycopg import Connection

from interlock.control.alerts.readings import BudgetUse, SourceLoad
from interlock.control.live.states import BREAKERS, HEARD_S
from interlock.errors import InterlockError
from interlock.metering.forecast import forecast
from interlock.metering.periods import END_OF_TIME_S, period
from interlock.settings import Settings
from interlock.storage import alert_figures, nodes, roles, sources
from interlock.storage.alert_figures import BudgetFigures, Calls, Denied
from interlock.storage.nodes import Told
from interlock.storage.pool import Store
from interlock.storage.sources import SourceRow
from interlock.types.alert import AlertRule

logger = logging.getLogger(__name__)

BUDGETS_MAX = 10_000
NODES_MAX = 1000
NS = 1_000_000_000
_T = TypeVar("_T")


class Ledger(NamedTuple):
    """Of the installation: entries that wait for their place; by node, seconds of silence and of lag."""

    inbox: int
    silent: dict[str, float]
    lags: dict[str, float]


class Figures:
    """One look, at `now_ns` (Unix nanoseconds). What cannot be read is None, and its rules learn nothing."""

    def __init__(self, store: Store, settings: Settings, now_ns: int) -> None:
        self._store = store
        self._settings = settings
        self._now_ns = now_ns
        self._read: dict[tuple[object, ...], Any] = {}
        self.failed = ""
        """Why the last of what could not be read could not."""

    def calls(self, rule: AlertRule) -> list[Calls] | None:
        """Calls within the rule's window, by source."""
        since_ns = self._now_ns - rule.window_s * NS

        def read() -> list[Calls]:
            with self._of(rule.tenant_id) as conn:
                return alert_figures.calls(conn, rule.tenant_id, rule.scope.team, since_ns)

        return self._once(("calls", rule.tenant_id, rule.scope.team, rule.window_s), read)

    def denied(self, rule: AlertRule) -> Denied | None:
        """Denied calls within the rule's window and the one before it."""
        window_ns = rule.window_s * NS
        since_ns = self._now_ns - window_ns

        def read() -> Denied:
            with self._of(rule.tenant_id) as conn:
                return alert_figures.denied(conn, rule.tenant_id, rule.scope.team, since_ns, window_ns)

        return self._once(("denied", rule.tenant_id, rule.scope.team, rule.window_s), read)

    def budgets(self, tenant_id: str) -> list[BudgetUse] | None:
        """The budgets of a tenant, of all of them for the platform, in their current periods."""

        def read() -> list[BudgetUse]:
            now_s = self._now_ns // NS
            with self._of(tenant_id) as conn:
                rows = alert_figures.budgets(conn, tenant_id, BUDGETS_MAX)
                periods = [period(row.window, ZoneInfo(row.time_zone), now_s) for row in rows]
                used = alert_figures.used(conn, [(r.id, p.start_s) for r, p in zip(rows, periods, strict=True)])
            return [
                _budget(row, used[row.id], each.start_s, each.end_s, now_s)
                for row, each in zip(rows, periods, strict=True)
            ]

        return self._once(("budgets", tenant_id), read)

    def sources(self, tenant_id: str) -> list[SourceLoad] | None:
        """The load of a tenant's own sources; for the platform of all."""

        def read() -> tuple[list[SourceRow], list[Told]]:
            with self._store.platform() as conn:
                rows = sources.page(conn, limit=self._settings.sources_max)
                return [stored.value for stored in rows], nodes.told(conn, NODES_MAX)

        found = self._once(("sources",), read)
        if found is None:
            return None
        return [_load(row, found[1]) for row in found[0] if tenant_id in ("", row.tenant_id)]

    def ledger(self) -> Ledger | None:
        """Of the installation: no tenant's rule asks."""

        def read() -> Ledger:
            with self._store.platform() as conn:
                silent = alert_figures.silent(conn, NODES_MAX)
                roles.take(conn, roles.SEQUENCER)
                gone = alert_figures.retired(conn)
                lags = alert_figures.lags(conn, self._now_ns)
                waiting = alert_figures.inbox(conn)
            return Ledger(waiting, {node: s for node, s in silent.items() if node not in gone}, lags)

        return self._once(("ledger",), read)

    @contextmanager
    def _of(self, tenant_id: str) -> Iterator[Connection[Any]]:
        opened = self._store.tenant(tenant_id) if tenant_id else self._store.platform()
        with opened as conn:
            yield conn

    def _once(self, what: tuple[object, ...], read: Callable[[], _T]) -> _T | None:
        if what not in self._read:
            try:
                self._read[what] = read()
            except (InterlockError, psycopg.Error, ValueError) as e:
                self.failed = e.message if isinstance(e, InterlockError) else type(e).__name__
                self._read[what] = None
        found: _T | None = self._read[what]
        return found


def _budget(row: BudgetFigures, used: int, start_s: int, end_s: int, now_s: int) -> BudgetUse:
    found = forecast(used, row.amount, max(start_s, row.created_s), now_s, end_s)
    at_end = found.at_end if found is not None else 0 if used <= 0 else None
    return BudgetUse(row.tenant, row.name, row.team, row.measure, row.amount, used, at_end, ends=end_s != END_OF_TIME_S)


def _load(row: SourceRow, told: list[Told]) -> SourceLoad:
    heard = sorted((each for each in told if each.seconds_ago < HEARD_S), key=lambda each: each.seconds_ago)
    states = [state for each in heard for state in each.states if state.id == row.id]
    cap = row.limits.concurrency
    queues = [state.waiting for state in states if state.waiting >= 0]
    return SourceLoad(
        row.name,
        len(states),
        sum(not state.healthy or state.breaker == BREAKERS[0] for state in states),
        sum(state.contended for state in states),
        sum(state.inflight for state in states),
        cap * len(states) if cap is not None and states else None,
        queues[0] if queues else None,
    )
