"""The node's side of canaries: what its workers took back is kept over a restart, and told to the control plane.

The verdict holds on this node from the moment it falls; nothing here is in its way. The control plane makes it hold
everywhere: it changes the alias, on record, and all nodes follow with the next snapshot. While the database is away the
verdict waits, and this node goes on without the canary.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from interlock.errors import InterlockError, Unavailable
from interlock.gateway.canary_table import Verdict
from interlock.routing.canary import RUNNING
from interlock.storage import canaries, roles
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection

if TYPE_CHECKING:
    from interlock.gateway.canary_table import CanaryTable
    from interlock.gateway.snapshot import SnapshotView
    from interlock.settings import Settings

log = logging.getLogger("interlock.gateway.node")

LOOK_S = 0.2
RETRY_S = 1.0


class CanaryKeeper:
    """One node's keeper. `follow`, `retire` are called from the loop that `run` works on."""

    def __init__(self, node: str, url: str, settings: Settings, table: CanaryTable, path: Path) -> None:
        """`path`: where verdicts are kept over a restart."""
        self._node = node
        self._table = table
        self._path = path
        self._database = NodeConnection(url, settings, roles.LENDER) if url else None
        self._running: dict[str, tuple[str, str]] = {}
        self._kept: dict[str, Verdict] = {}
        self._told: set[str] = set()
        self._failing = False

    def load(self) -> None:
        """Take back what was taken back before this node started. Call before the workers run."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Verdict])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as e:
            log.error("%s cannot be read: canaries are judged anew: %s", self._path, e)
            return
        for canary_id, verdict in kept.items():
            try:
                self._table.end(canary_id, verdict)
            except (Unavailable, ValueError) as e:
                log.error("canary %s: its verdict is not taken over: %s", canary_id, e)
                continue
            self._kept[canary_id] = verdict

    def follow(self, view: SnapshotView) -> None:
        """Watch the canaries of this snapshot."""
        self._running = {
            alias.canary.id: (alias.tenant_id, alias.name)
            for alias in view.aliases
            if alias.canary is not None and alias.canary.state == RUNNING
        }

    def retire(self) -> None:
        """Forget canaries that no snapshot in use has any more."""
        self._table.retire(self._running)
        gone = self._kept.keys() - self._running.keys()
        if gone:
            for canary_id in gone:
                del self._kept[canary_id]
                self._told.discard(canary_id)
            self._store()

    async def run(self) -> None:
        """Look and tell until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self._look()
                if self._database is None or self._told >= self._kept.keys():
                    continue
                try:
                    await self._tell()
                    self._failing = False
                except InterlockError as e:
                    if not self._failing:
                        log.warning("canaries that were taken back cannot be told yet: %s", e.message)
                    self._failing = True
                    await self._database.close()
                    await asyncio.sleep(RETRY_S)
        finally:
            if self._database is not None:
                await self._database.close()

    def _look(self) -> None:
        found = False
        for canary_id, (_, alias) in self._running.items():
            if canary_id in self._kept:
                continue
            verdict = self._table.verdict(canary_id)
            if verdict is not None:
                self._kept[canary_id] = verdict
                found = True
                log.warning("the canary of alias %s was taken back on this node: %s", alias, verdict.words)
        if found:
            self._store()

    async def _tell(self) -> None:
        assert self._database is not None  # noqa: S101 - asked by `run`
        for canary_id, verdict in list(self._kept.items()):
            place = self._running.get(canary_id)
            if canary_id in self._told or place is None:
                continue
            conn = await self._database.get()
            with mapped():
                async with conn.transaction():
                    await canaries.report(
                        conn, canaries.Report(canary_id, self._node, place[0], place[1], verdict.at_ns, verdict.words)
                    )
            self._told.add(canary_id)

    def _store(self) -> None:
        staged = self._path.with_name(f"{self._path.name}.new")
        try:
            staged.write_bytes(msgspec.json.encode(self._kept))
            staged.replace(self._path)
        except OSError as e:
            log.error("%s cannot be written: a restart would judge canaries anew: %s", self._path, e.strerror)
