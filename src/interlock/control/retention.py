"""The sweep: removes contents that were kept for as long as their tenant says. Any number of control processes run it,
one at a time works on a tenant."""

from __future__ import annotations

import datetime
import logging
import threading

from interlock.control.keyring import Keyring
from interlock.errors import InterlockError
from interlock.ledger.proof.tiles import TILE
from interlock.settings import Settings
from interlock.storage import pruning, retention, rotations
from interlock.storage.pool import Store, away
from interlock.storage.retention import Place
from interlock.types.clock import Clock

logger = logging.getLogger(__name__)

SOON_S = 60.0
"""After the start, and after a failure: a process that is often restarted must get to it too."""
PAUSE_S = 0.05
"""Between two transactions of a sweep: those who add contents wait for each."""


class RetentionSweeper:
    """`run` is a thread's body; `pass_once` removes what there is to remove now. `removed` counts contents, `pruned`
    entries; `keyring` has what signs what is said of these."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, keyring: Keyring) -> None:
        self.removed = 0
        self.pruned = 0
        self._keyring = keyring
        self.failing = False
        self._store = store
        self._settings = settings
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. What one pass could not do, the next one does."""
        interval_s = self._settings.ledger_retention_s
        wait_s = min(SOON_S, interval_s)
        while not stop.wait(wait_s):
            try:
                wait_s = interval_s
                self.pass_once(stop)
                self.failing = False
            except InterlockError as e:
                wait_s = min(SOON_S, interval_s)
                if not self.failing:
                    logger.log(
                        logging.WARNING if away(e) else logging.ERROR,
                        "retention removes nothing for now: %s",
                        e.message,
                    )
                self.failing = True

    def pass_once(self, stop: threading.Event | None = None) -> None:
        """Remove what is over, of every tenant, in many short transactions. Raises StoreError."""
        with self._store.platform() as conn:
            tenants = retention.tenants(conn)
        for tenant_id in tenants:
            stop = stop or threading.Event()
            removed = self._tenant(tenant_id, stop)
            if removed:
                logger.info("retention removed %d contents of %s", removed, tenant_id)
            pruned = self._prune(tenant_id, stop)
            if pruned:
                logger.info("retention pruned %d entries of %s", pruned, tenant_id)

    def _prune(self, tenant_id: str, stop: threading.Event) -> int:
        settings, now_ns, pruned = self._settings, self._clock.wall_ns(), 0
        while not stop.is_set():
            with self._store.tenant(tenant_id) as conn:
                days = retention.entries_days(conn, tenant_id)
                if not days or not rotations.share(conn):
                    break  # while the key is being changed nothing is signed
                today = min(retention.day_of(now_ns), retention.database_day(conn))
                terms = pruning.Terms(
                    max(0, today - days) * retention.NS_PER_DAY,
                    now_ns,
                    max(1, settings.ledger_retention_batch // TILE),
                    f"{settings.ledger_name}/{tenant_id}",
                    f"retention of entries: {days} days",
                    [self._keyring.current(conn)],
                )
                gone = pruning.prune(conn, tenant_id, terms)
            if not gone:
                break
            pruned += gone
            self.pruned += gone
            stop.wait(PAUSE_S)
        return pruned

    def _tenant(self, tenant_id: str, stop: threading.Event) -> int:
        now_ns = self._clock.wall_ns()
        at = datetime.datetime.fromtimestamp(now_ns / 1e9, datetime.UTC)
        removed = 0
        place: Place | None = Place()
        while place is not None and not stop.is_set():
            with self._store.tenant(tenant_id) as conn:
                step = retention.sweep(
                    conn,
                    tenant_id,
                    place,
                    today=retention.day_of(now_ns),
                    at=at,
                    batch=self._settings.ledger_retention_batch,
                )
            removed += step.removed
            self.removed += step.removed
            place = step.next
            stop.wait(PAUSE_S if place is not None else 0)
        return removed
