"""One snapshot made usable by a worker. A call keeps the state it began with, so that it never mixes versions."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from interlock.gateway.links import Link
from interlock.metering.cost import bound_nusd
from interlock.policy.engine import PolicyEngine
from interlock.policy.trial import Trials

if TYPE_CHECKING:
    from interlock.gateway.snapshot import SnapshotView
    from interlock.settings import Settings
    from interlock.sources.board import Board, Rows
    from interlock.types.snapshot import PolicyText
    from interlock.types.source import Offer

ROWS_MAX = 512
"""Tuples of offers of which the rows are remembered."""


class State:
    """A snapshot, the policies compiled from it, and the links to its sources. Immutable but for its caches."""

    def __init__(
        self,
        view: SnapshotView,
        policy: PolicyEngine,
        links: dict[str, Link],
        salt_secret: bytes,
        salts_max: int,
        trials: Trials | None = None,
    ) -> None:
        self.view = view
        self.version = view.version
        self.root = view.root
        self.policy = policy
        self.trials = trials
        """Policies that only report; None when there are none."""
        self.links = links
        """By source id."""
        self._salt_secret = salt_secret
        self.placement_key = hmac.digest(salt_secret, b"placement", hashlib.sha256)
        """What conversations are hashed under: the same on all nodes of the installation."""
        self._salts: dict[str, str] = {}
        self._salts_max = salts_max
        self._rows: dict[int, tuple[Sequence[Offer], tuple[str, ...], Rows]] = {}

    def rows(self, offers: Sequence[Offer], board: Board) -> tuple[tuple[str, ...], Rows]:
        """(ids of the sources of these offers, their rows on the board) in one order. Remembered per tuple of offers:
        pass the same tuple, and the worker's one board. It is of these links, and goes with them."""
        found = self._rows.get(id(offers))
        if found is not None:
            return found[1:]
        by_row = {self.links[offer.source.id].row: offer.source.id for offer in offers}
        rows = board.rows_of(by_row)
        ids = tuple([by_row[row] for row in rows.numbers])
        if type(offers) is tuple:  # anything else could change and keep its identity
            if len(self._rows) >= ROWS_MAX:
                self._rows.clear()
            self._rows[id(offers)] = offers, ids, rows
        return ids, rows

    def cache_salt(self, tenant_id: str) -> str:
        """The tenant's prefix-cache salt: same tenant, same cache; another tenant cannot guess or share it."""
        salt = self._salts.get(tenant_id)
        if salt is None:
            if len(self._salts) >= self._salts_max:
                self._salts.clear()
            digest = hmac.digest(self._salt_secret, b"cache-salt\0" + tenant_id.encode(), hashlib.sha256)
            salt = self._salts[tenant_id] = digest.hex()[:32]
        return salt


def build_state(
    view: SnapshotView,
    before: State | None,
    *,
    link: Callable[[str], Link],
    settings: Settings,
    salt_secret: bytes,
) -> State:
    """The state of a new snapshot; policies are compiled again only when something they depend on has changed."""

    def engine(policies: Sequence[PolicyText]) -> PolicyEngine:
        return PolicyEngine(
            policies,
            view.tenants,
            view.teams,
            view.sources,
            settings.decision_cache_max,
            tenants_max=settings.policy_tenants_max,
            callers_max=settings.policy_callers_max,
            bound=bound_nusd,
        )

    if before is not None and _same_policies(before.view, view):
        policy = before.policy
    else:
        policy = engine(view.policies)
        for tenant in view.tenants[: settings.policy_tenants_prepared]:
            policy.slice(tenant.id)  # parsed now, some ms each, so that no tenant's first call waits for it
    trials = None
    if view.trials:
        same = before is not None and policy is before.policy and _same_parts(before.view, view, "trials")
        trials = before.trials if same and before is not None else Trials(view.trials, view.policies, engine)
    links = {source.id: link(source.id) for source in view.sources}
    return State(view, policy, links, salt_secret, settings.tenant_cache_max, trials)


def _same_policies(old: SnapshotView, new: SnapshotView) -> bool:
    return _same_parts(old, new, "policies", "tenants", "teams", "sources")


def _same_parts(old: SnapshotView, new: SnapshotView, *names: str) -> bool:
    return all(old.part_hash(name) == new.part_hash(name) for name in names)
