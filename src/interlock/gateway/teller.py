"""The node tells of its sources: what is in flight, queues, breakers; often while somebody watches, else seldom. And
while somebody watches, of the calls that run.

What it tells is for people. Nothing on this node depends on it, and while the database is away nothing is kept for
later: only the present state is of interest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from interlock.errors import InterlockError
from interlock.gateway.running import RunningCalls
from interlock.settings import Settings
from interlock.storage import nodes, roles
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection
from interlock.types.running import NodeTold
from interlock.types.source import SourceState

log = logging.getLogger("interlock.gateway.node")

WATCHED_S = 1.0
SELDOM_S = 5.0
ANSWER_S = 0.1
"""How long workers have to say which calls run; what comes later is told the next time."""


class Teller:
    """One node's. `states()`: what is known of its sources now; `calls`: of its workers' calls."""

    def __init__(
        self,
        node: str,
        url: str,
        settings: Settings,
        states: Callable[[], list[SourceState]],
        calls: RunningCalls,
    ) -> None:
        self._node = node
        self._states = states
        self._calls = calls
        self._watched = False
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
                self._watched = watched is True
                await asyncio.sleep(SELDOM_S if watched is False else WATCHED_S - ANSWER_S)
        finally:
            await self._database.close()

    async def _tell(self) -> bool | None:
        """Whether somebody watches; None: this node has no row yet."""
        workers = None
        if self._watched:
            self._calls.ask()
            await asyncio.sleep(ANSWER_S)
            workers = self._calls.now()
        try:
            conn = await self._database.get()
            with mapped():
                watched = await nodes.tell(conn, self._node, NodeTold(self._states(), workers))
        except InterlockError as e:
            if not self._failing:
                log.warning("the state of sources cannot be told: %s", e.message)
            self._failing = True
            await self._database.close()
            return False
        self._failing = False
        return watched
