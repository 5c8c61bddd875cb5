"""The pool of the tenants that share outcomes: read of all of them, and given to each without its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from interlock.learning.shared import Given, Pool, prior_of
from interlock.learning.trainer import Said
from interlock.routing.catalog import Catalog
from interlock.settings import Settings
from interlock.storage import router_shared
from interlock.storage.pool import Store
from interlock.types.clock import Clock
from interlock.types.learned import SHARED, arm_of
from interlock.types.source import Offer


class SharedPool:
    """What sharing tenants have given. One thread uses it."""

    def __init__(self, store: Store, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._every_ns = settings.learning_publish_ms * 1_000_000
        self._bounds = Pool(
            settings.learning_shared_outcomes_min,
            settings.learning_shared_tenants_min,
            settings.learning_shared_weight_max,
        )
        self._sharing: frozenset[str] | None = None
        self._read_ns = 0
        self._given: dict[str, dict[str, tuple[int, int]]] = {}

    def look(self, sharing: Collection[str]) -> None:
        """Who shares now. What others gave is removed; what these gave is read again when that is due.

        Raises StoreError when the database is away.
        """
        now_ns, before = self._clock.mono_ns(), self._sharing
        self._sharing = frozenset(sharing)
        if before == self._sharing and (not self._sharing or now_ns - self._read_ns < self._every_ns):
            return
        with self._store.platform() as conn:
            router_shared.keep_only(conn, self._sharing)
            self._given = router_shared.everything(conn)
        self._read_ns = now_ns

    def shares(self, tenant_id: str) -> bool:
        """Whether it gives and gets."""
        return self._sharing is not None and tenant_id in self._sharing

    def priors(self, tenant_id: str, arms: Iterable[str]) -> dict[str, Said]:
        """What the other tenants say of these models; nothing for who does not share."""
        if not self.shares(tenant_id):
            return {}
        found = {arm: prior_of(self._others(tenant_id, arm), self._bounds) for arm in arms}
        return {arm: Said(*each, SHARED) for arm, each in found.items() if each is not None}

    def _others(self, tenant_id: str, arm: str) -> Iterable[Given]:
        """INVARIANT: of tenants that share now, and not of the one that gets it."""
        for other, given in self._given.get(arm, {}).items():
            if other != tenant_id and self.shares(other):
                yield Given(*given)


def common(catalog: Catalog) -> tuple[set[str], set[str]]:
    """(source ids, arms) of what the platform gives a tenant: all that can be shared of."""
    offers = [offer for offer in catalog.by_key.values() if of_platform(offer)]
    return {offer.source.id for offer in offers}, {arm_of(offer.model) for offer in offers}


def of_platform(offer: Offer) -> bool:
    """Whether its source is the platform's, and not a tenant's own."""
    return not offer.source.tenant_id
