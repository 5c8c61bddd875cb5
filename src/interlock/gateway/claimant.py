"""The node's side of idempotency keys and of feedback: brings claims to the database, and how claimed calls ended.

In the order in which workers say it. While the database is away, claims are refused (a call that may have been made
must not be made again), and ends are kept, up to `ENDS_KEPT_BYTES_MAX`; an end that is lost leaves its key claimed
until it expires. Feedback is then answered with "unavailable": its worker takes it, and the ledger finds its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import Rollback

from interlock.errors import InterlockError
from interlock.gateway.link import FeedbackAnswer, FeedbackClaim, KeyAnswer, KeyClaim, KeyEnd
from interlock.storage import claims, feedback, roles
from interlock.storage.faults import mapped
from interlock.storage.notify import NodeConnection
from interlock.types.record import parse_request_id

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from interlock.settings import Settings

log = logging.getLogger("interlock.gateway.node")

ENDS_KEPT_BYTES_MAX = 64 * 1_048_576
END_BYTES = 512
"""What an end takes besides its answer."""
RETRY_S = 0.2
IDLE_S = 5.0


class Worker(Protocol):
    """A slot of the node, as far as this module needs it."""

    number: int

    def send(self, message: KeyAnswer | FeedbackAnswer, /) -> bool:
        """Tell the worker; False when there is none."""


class Claimant:
    """One node's claimant. `claim`, `ended` are called from the loop that `run` works on."""

    def __init__(self, url: str, settings: Settings, workers: Callable[[], Sequence[Worker]]) -> None:
        self._settings = settings
        self._workers = workers
        self._database = NodeConnection(url, settings, roles.LENDER)
        self._queue: deque[tuple[int, KeyClaim | KeyEnd | FeedbackClaim]] = deque()
        self._kept = 0
        self._changed = asyncio.Event()
        self._failing = False

    def claim(self, slot: int, message: KeyClaim | FeedbackClaim) -> None:
        """A call asks for its key, or feedback for its call. Always answered."""
        self._queue.append((slot, message))
        self._changed.set()

    def ended(self, slot: int, message: KeyEnd) -> None:
        """A call that has a key ended."""
        size = len(message.answer) + END_BYTES
        if self._kept + size > ENDS_KEPT_BYTES_MAX:
            log.error("the end of a call with an idempotency key is not kept: too many wait for the database")
            return
        self._kept += size
        self._queue.append((slot, message))
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._changed.wait()
                self._changed.clear()
                try:
                    while self._queue:
                        await self._next()
                    self._failing = False
                except InterlockError as e:
                    await self._fail(e)
        finally:
            await self._database.close()

    async def _next(self) -> None:
        slot, message = self._queue[0]
        conn = await self._database.get()
        if isinstance(message, FeedbackClaim):
            answer = await self._feedback(conn, message)
            self._queue.popleft()
            self._tell(slot, answer)
            return
        with mapped():
            async with conn.transaction():
                if isinstance(message, KeyEnd):
                    m = message
                    await claims.end(conn, m.tenant_id, m.principal_id, m.digest, m.request, m.state, m.answer)
                else:
                    found = await claims.claim(conn, self._claim(message))
        self._queue.popleft()
        if isinstance(message, KeyEnd):
            self._kept -= len(message.answer) + END_BYTES
        else:
            self._tell(slot, KeyAnswer(message.epoch, message.number, *found))

    async def _feedback(self, conn: AsyncConnection[Any], message: FeedbackClaim) -> FeedbackAnswer:
        m = message
        wanted = feedback.Claim(
            *(m.tenant_id, m.request, *parse_request_id(m.request), m.giver, m.feedback_id, m.digests, m.recent),
            *(m.thumb, m.score_micro),
        )
        with mapped():
            async with conn.transaction() as transaction:
                found = await feedback.claim(conn, wanted)
                if found.state == "given":
                    raise Rollback(transaction)  # what else it says is not taken either
        return FeedbackAnswer(m.epoch, m.number, *found)

    def _claim(self, message: KeyClaim) -> claims.Claim:
        m = message
        return claims.Claim(
            m.tenant_id,
            m.principal_id,
            m.digest,
            m.fingerprint,
            m.subject,
            m.epoch,
            m.request,
            self._settings.idempotency_keep_s,
        )

    async def _fail(self, error: InterlockError) -> None:
        """The database is away: claims are refused, ends stay."""
        if not self._failing:
            log.warning("idempotency keys cannot be honoured: %s", error.message)
        self._failing = True
        await self._database.close()
        waiting, self._queue = self._queue, deque()
        for slot, message in waiting:
            if isinstance(message, KeyClaim):
                self._tell(slot, KeyAnswer(message.epoch, message.number, "unavailable"))
            elif isinstance(message, FeedbackClaim):
                self._tell(slot, FeedbackAnswer(message.epoch, message.number, "unavailable"))
            else:
                self._queue.append((slot, message))
        await asyncio.sleep(RETRY_S)
        if self._queue:
            self._changed.set()

    def _tell(self, slot: int, message: KeyAnswer | FeedbackAnswer) -> None:
        for worker in self._workers():
            if worker.number == slot:
                worker.send(message)
