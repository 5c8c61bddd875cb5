"""What decisions need NumPy for, started before a call needs it: many models, and what was learned.

NumPy takes memory and a tenth of a second to start, and a worker of few models, of which nothing was learned, never
needs it. One that does has it before it says that it is ready. Where a later snapshot is the first to need it, it
starts in a thread, and the snapshot is taken when it is there.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from interlock.routing.facts import MANY, facts_of
from interlock.types.learned import weights_part

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from interlock.gateway.link import NewSnapshot
    from interlock.gateway.snapshot import SnapshotView

MODULES = ("interlock.learning.published", "interlock.routing.table")


def missing(view: SnapshotView) -> bool:
    """Whether calls under this snapshot may need what was not started yet."""
    if all(name in sys.modules for name in MODULES):
        return False
    if any(tenant.learning == "on" and view.part_hash(weights_part(tenant.id)) for tenant in view.tenants):
        return True
    return len(view.offers) >= MANY and len({facts_of(offer).worth for offer in view.offers}) >= MANY


def start_columns() -> None:
    """Import it. Beside a running loop this holds up nothing for long, as long as NumPy's library starts no threads of
    its own, for which a worker has no use."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import interlock.learning.published
    import interlock.routing.table  # noqa: F401 - to have them


class Columns:
    """Starts it beside a running loop. `take` is given the newest snapshot that waited for it, or `refuse` is."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[NewSnapshot], None],
        refuse: Callable[[NewSnapshot, str], None],
    ) -> None:
        self._loop = loop
        self._take = take
        self._refuse = refuse
        self._starting: asyncio.Future[None] | None = None
        self._waiting: NewSnapshot | None = None

    def must_wait(self, view: SnapshotView, message: NewSnapshot) -> bool:
        """Whether this snapshot is to be taken later. One that waited before it is not taken any more."""
        self._waiting = message if missing(view) else None
        if self._waiting is not None and self._starting is None:
            self._starting = self._loop.run_in_executor(None, start_columns)
            self._starting.add_done_callback(self._started)
        return self._waiting is not None

    def _started(self, starting: asyncio.Future[None]) -> None:
        self._starting = None
        message, self._waiting = self._waiting, None
        if message is None or starting.cancelled():
            return
        error = starting.exception()
        if error is None:
            self._take(message)
        else:
            self._refuse(message, str(error))
