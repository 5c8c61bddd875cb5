"""The node tells of its sources: what is in flight, queues, breakers; often while somebody watches, else seldom.

What it tells is for people. Nothing on this node depends on it, and while the database is away nothing is kept for
later: only the present state is of interest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.storage import nodes, roles
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection
from interlock.types.source import SourceState

log = logging.getLogger("interlock.gateway.node")

WATCHED_S = 1.0
SELDOM_S = 5.0


class Teller:
    """One node's. `states()`: what is known of its sources now."""

    def __init__(self, node: str, url: str, settings: Settings, states: Callable[[], list[SourceState]]) -> None:
        self._node = node
        self._states = states
        self._database = NodeConnection(url, settings, roles.NODE)
        self._url = url
        self._failing = False

    async def run(self) -> None:
        """Until cancelled."""
        if not self._url:
            await asyncio.Event().wait()  # a node without a database of its own (tests) tells nobody
        try:
            while True:
                watched = await self._tell()
                await asyncio.sleep(SELDOM_S if watched is False else WATCHED_S)
        finally:
            await self._database.close()

    async def _tell(self) -> bool | None:
        """Whether somebody watches; None: this node has no row yet."""
        try:
            conn = await self._database.get()
            with mapped():
                watched = await nodes.tell(conn, self._node, self._states())
        except InterlockError as e:
            if not self._failing:
                log.warning("the state of sources cannot be told: %s", e.message)
            self._failing = True
            await self._database.close()
            return False
        self._failing = False
        return watched
