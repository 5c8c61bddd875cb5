"""The embedded PostgreSQL while something runs on it: started, started again when it ends by itself, stopped."""

from __future__ import annotations

import dataclasses
import logging
import time

from interlock.errors import InterlockError, StoreError
from interlock.settings import Settings
from interlock.storage.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

LOOK_S = 0.5
PAUSE_MAX_S = 10.0
RESTART_TIMEOUT_MS = 2000
"""One try to start it again: whoever waits for it must stay able to stop. A server that is still recovering after
that is found running by the next try."""


class KeptPostgres:
    """The server of one home. `keep` is called again and again, and returns soon."""

    def __init__(self, settings: Settings) -> None:
        home = settings.home_path()
        self._cluster = home / "postgres" / "data" / "PG_VERSION"
        self._first = EmbeddedPostgres(home, settings)
        quick = dataclasses.replace(settings, embedded_start_timeout_ms=RESTART_TIMEOUT_MS)
        self._again = EmbeddedPostgres(home, quick)
        self._next_look = 0.0
        self._pause_s = LOOK_S

    def start(self) -> str:
        """Make it run; returns its URL. Raises StoreError, ConfigError."""
        return self._first.start()

    def keep(self) -> None:
        """Start it again when it is gone. A failure is logged, and tried again after a growing pause."""
        now = time.monotonic()
        if now < self._next_look:
            return
        if self._first.pid is None:
            logger.error("the embedded PostgreSQL has ended and is started again")
            try:
                # INVARIANT: a new, empty cluster is made by `start` only, never in place of one that was in use
                if not self._cluster.exists():
                    raise StoreError(f"{self._cluster.parent}: the data is gone", code="store_start")
                self._again.start()
            except InterlockError as e:
                logger.error("the embedded PostgreSQL could not be started: %s", e.message)
                self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
            else:
                self._pause_s = LOOK_S
        self._next_look = time.monotonic() + self._pause_s

    def stop(self) -> None:
        """Stop it. Raises StoreError when it does not go."""
        self._again.stop()
        self._first.stop()
