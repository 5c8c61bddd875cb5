"""Looking at sources: at once when one is registered or asked to be refreshed, and every `discovery_interval_s`.

Engines whose supervisors have fallen silent are found on the same rounds."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from interlock.control.services import engines, sources
from interlock.control.services.base import Tools, Tx
from interlock.control.services.sources import Discover, Found
from interlock.errors import InterlockError, NotFound
from interlock.settings import Settings
from interlock.storage import sources as stored_sources
from interlock.storage.changes import Author
from interlock.storage.pool import Store
from interlock.types.source import Source

logger = logging.getLogger(__name__)

_LOOKS_AT_ONCE = 4
RETRY_S = 5
"""How often a source that did not answer is asked again, when `discovery_interval_s` is longer."""


def look(settings: Settings) -> Discover:
    """A function that asks a source for its models and never raises: its errors are in `Found.error`."""

    def found(source: Source) -> Found:
        from interlock.sources.discovery import discover

        return sources.looked(lambda s: discover(s, settings), source)

    return found


class DiscoveryLoop:
    """Keeps what is known of every source's models and versions fresh."""

    def __init__(self, store: Store, tools: Tools, discover: Discover) -> None:
        self._store = store
        self._tools = tools
        self._discover = discover

    def round(self, stop: threading.Event, *, silent_only: bool = False) -> int:
        """Look at every source once (or those that did not answer the last time). Returns how many offer something
        else than before. Raises StoreError."""
        with self._store.platform() as conn:
            rows = stored_sources.page(conn, limit=self._tools.settings.sources_max)
            by = Author("system", "discovery", "its supervisor was not heard of", self._tools.now())
            for lost in engines.expire(Tx(conn, by, self._tools), rows):
                logger.warning("the supervisor of the engine of source %s is lost", lost, extra={"source": lost})
        if silent_only:
            rows = [row for row in rows if row.value.discovery_error or row.value.discovered_at is None]
        changed = 0
        with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
            names = [row.value.name for row in rows]
            looks = pool.map(self._discover, [sources.probe(sources.spec_of(row.value)) for row in rows])
            for name, found in zip(names, looks, strict=True):
                if stop.is_set():
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
                changed += self._store_found(name, found)
        return changed

    def _store_found(self, name: str, found: Found) -> bool:
        by = Author("system", "discovery", "the source was looked at", self._tools.now())
        try:
            with self._store.platform() as conn:
                tx = Tx(conn, by, self._tools)
                before = sources.find(tx, name).value.discovery_error
                changed = sources.refresh(tx, name, found)
        except NotFound:
            return False  # removed meanwhile
        if found.error and found.error != before:
            logger.warning("source %s: %s", name, found.error, extra={"source": name})
        elif before and not found.error:
            logger.info("source %s answers again", name, extra={"source": name})
        return changed

    def run(self, stop: threading.Event) -> None:
        """Rounds until `stop`. An outage of the database is waited out."""
        failing = False
        interval_s = self._tools.settings.discovery_interval_s
        waited_s = 0
        while not stop.wait(min(RETRY_S, interval_s)):
            waited_s += min(RETRY_S, interval_s)
            try:
                self.round(stop, silent_only=waited_s < interval_s)
                waited_s = waited_s if waited_s < interval_s else 0
                failing = False
            except InterlockError as e:
                if not failing:
                    logger.warning("sources cannot be looked at for now: %s", e.message)
                failing = True
