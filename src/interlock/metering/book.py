"""The budgets that hold for callers, found by who they are. Pure; made once for each snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from zoneinfo import ZoneInfo

from interlock.types.budget import Budget
from interlock.types.identity import Tenant

UTC = ZoneInfo("UTC")


class TenantBook:
    """The budgets of one tenant. `by_model`: those on models, by the model's name."""

    __slots__ = ("_by_subject", "by_model", "zone")

    def __init__(self, zone: ZoneInfo = UTC) -> None:
        self.zone = zone
        self.by_model: dict[str, tuple[Budget, ...]] = {}
        self._by_subject: dict[tuple[str, str], tuple[Budget, ...]] = {}

    def add(self, budget: Budget) -> None:
        """Enter a budget."""
        for subject in budget.subjects:
            if budget.kind == "model":
                self.by_model[subject] = (*self.by_model.get(subject, ()), budget)
            else:
                key = (budget.kind, subject)
                self._by_subject[key] = (*self._by_subject.get(key, ()), budget)

    def of(self, tenant_id: str, team_id: str, principal_id: str, key_id: str) -> tuple[Budget, ...]:
        """The budgets that a caller's calls count on, whatever model answers."""
        found = self._by_subject
        if not found:
            return ()
        own = (("key", key_id), ("principal", principal_id), ("team", team_id), ("tenant", tenant_id))
        return tuple(budget for each in own for budget in found.get(each, ()))

    def of_shadow(self, tenant_id: str, alias: str) -> tuple[Budget, ...]:
        """The budgets that the shadow calls of an alias count on: its own and those on the tenant as a
        whole, but none of its callers'."""
        return self._beside("shadow", alias, tenant_id)

    def of_judge(self, tenant_id: str, judge: str) -> tuple[Budget, ...]:
        """The budgets that what is asked of a judge, and challengers, count on: likewise."""
        return self._beside("judge", judge, tenant_id)

    def _beside(self, kind: str, name: str, tenant_id: str) -> tuple[Budget, ...]:
        return (*self._by_subject.get((kind, name), ()), *self._by_subject.get(("tenant", tenant_id), ()))


NO_BUDGETS = TenantBook()


class BudgetBook:
    """All budgets of a snapshot. Raises ZoneInfoNotFoundError (a KeyError) when this machine lacks a time zone."""

    def __init__(self, budgets: Iterable[Budget] = (), tenants: Iterable[Tenant] = ()) -> None:
        self.by_id: dict[str, Budget] = {}
        self._tenants: dict[str, TenantBook] = {}
        zones = {tenant.id: tenant.time_zone for tenant in tenants}
        for budget in budgets:
            self.by_id[budget.id] = budget
            book = self._tenants.get(budget.tenant_id)
            if book is None:
                book = self._tenants[budget.tenant_id] = TenantBook(ZoneInfo(zones.get(budget.tenant_id, "UTC")))
            book.add(budget)

    def of(self, tenant_id: str) -> TenantBook:
        """A tenant's budgets."""
        return self._tenants.get(tenant_id, NO_BUDGETS)
