"""Makes permanent what nodes have decided: a canary that one node took back is taken back everywhere, on record."""

from __future__ import annotations

import logging
import threading

from interlock.control.services import canaries
from interlock.control.services.base import Tools, Tx
from interlock.errors import InterlockError, NotFound
from interlock.storage import canaries as reports
from interlock.storage.changes import Author
from interlock.storage.pool import Store

logger = logging.getLogger(__name__)

LOOK_S = 0.5


class CanaryKeeper:
    """Looks for reports of nodes. `taken_back`: how many canaries it has ended."""

    def __init__(self, store: Store, tools: Tools) -> None:
        self._store = store
        self._tools = tools
        self.taken_back = 0

    def once(self) -> int:
        """Carry out what was reported; how many canaries were ended. Raises StoreError."""
        ended: list[reports.Report] = []
        with self._store.platform() as conn:
            for told in reports.take(conn):
                by = Author("system", "canary watch", f"node {told.node} took it back: {told.words}", self._tools.now())
                try:
                    if canaries.take_back(Tx(conn, by, self._tools), told):
                        ended.append(told)
                except NotFound:
                    continue  # removed meanwhile
        for told in ended:
            logger.error(
                "the canary of alias %s was taken back: %s",
                told.alias,
                told.words,
                extra={"alias": told.alias, "tenant": told.tenant_id, "node": told.node},
            )
        self.taken_back += len(ended)
        return len(ended)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. An outage of the database is waited out."""
        failing = False
        while not stop.wait(LOOK_S):
            try:
                self.once()
                failing = False
            except InterlockError as e:
                if not failing:
                    logger.warning("reports of canaries cannot be read for now: %s", e.message)
                failing = True
