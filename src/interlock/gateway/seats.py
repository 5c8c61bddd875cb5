"""Calls that wait for a seat: a worker's queue of those for which every source that they may use is full.

A call waits after its intent is recorded and before an attempt is made, in the order of its class, then fairly between
tenants (`interlock.sources.seats`), for at most `queue_wait_ms_<class>`. A seat that a call of this worker frees is
given on at once; what other workers free is seen within POLL_S. While nobody waits for a source, and its engine has
room, nothing of this is on the way of a call.

What may go off-prem because a source of one's own is full is decided here too (`held`). By default an interactive call
goes at once, a batch call after `overflow_wait_ms_batch`, a background call never.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from interlock.errors import NoCandidate, Unauthenticated
from interlock.routing.room import UNBOUNDED, room
from interlock.sources.seats import Head
from interlock.types.identity import Workload

if TYPE_CHECKING:
    from interlock.gateway.links import Link
    from interlock.gateway.run import Run
    from interlock.gateway.runtime import Runtime
    from interlock.gateway.state import State
    from interlock.sources.seats import SeatTable
    from interlock.telemetry.metrics import Metrics
    from interlock.types.decision import Candidate

log = logging.getLogger("interlock.gateway")

POLL_S = 0.002
"""How often a worker whose calls wait looks for seats that others have freed."""
LEASE_NS = 250_000_000
"""How long a source counts as contended after the last look of a worker whose calls wait for it."""
RETRY_S = (1, 10, 60)
"""What a call is told to wait, by class, that found no seat."""
CAPACITY_CODES = frozenset(("upstream_rate_limited", "upstream_overloaded", "upstream_pool_full"))
"""Failures by which a source says that it is full, not that it is broken."""
MS = 1_000_000


class Ticket:
    """One waiting call. `links`: by row, the candidate's rank and its link."""

    __slots__ = ("deadline_ns", "links", "overflow_ns", "run", "since_ns", "tenant")

    def __init__(self, run: Run, tenant: str, since_ns: int, deadline_ns: int, overflow_ns: int) -> None:
        self.run = run
        self.tenant = tenant
        self.since_ns = since_ns
        self.deadline_ns = deadline_ns
        self.overflow_ns = overflow_ns
        self.links: dict[int, tuple[int, Link]] = {}


Queue = dict[tuple[str, Workload], dict[Ticket, None]]
"""Of one row: the waiting calls of each tenant and class, oldest first."""


class Seats:
    """The queue of one worker, and its view of the node's table."""

    def __init__(self, table: SeatTable, runtime: Runtime) -> None:
        settings = runtime.settings
        self._table = table
        self._runtime = runtime
        self._wait_ns = tuple(
            ms * MS
            for ms in (
                settings.queue_wait_ms_interactive,
                settings.queue_wait_ms_batch,
                settings.queue_wait_ms_background,
            )
        )
        self.overflow_wait_ns = tuple(
            ms * MS
            for ms in (
                settings.overflow_wait_ms_interactive,
                settings.overflow_wait_ms_batch,
                settings.overflow_wait_ms_background,
            )
        )
        self._promote_ns = settings.queue_promote_ms * MS
        self._waiting: tuple[dict[Ticket, None], ...] = tuple({} for _ in Workload)
        self._rows: dict[int, Queue] = {}
        self.counted: dict[int, dict[str, int]] = {}
        """By contended row, this worker's calls in flight of each tenant."""
        self._timer: asyncio.TimerHandle | None = None

    # -- on the way of a call

    def enter(self, run: Run, link: Link, now_ns: int) -> bool:
        """Take a seat for a call that has just come, if nobody who waits goes before it."""
        row, workload = link.row, run.call.workload
        if not self._runtime.board.contended(row, now_ns):
            return self._take(link, workload, now_ns)
        tenant = _tenant(run)
        if (tenant, workload) in self._rows.get(row, ()):
            return False
        self._count(row)
        head = Head(tenant, link.source.shares.get(tenant, 1), workload, now_ns)
        taken = self._table.seat(
            row, (head,), now_ns, self._promote_ns, lambda level: self._take(link, level, now_ns), post=False
        )
        if taken < 0:
            return False
        self.counted[row][tenant] = self.counted[row].get(tenant, 0) + 1
        return True

    def held(self, run: Run, candidate: Candidate, now_ns: int) -> bool:
        """Whether a call that could go off-prem must wait for a source of its own that is full."""
        wait_ns = self.overflow_wait_ns[run.call.workload]
        if run.freed:
            return False
        if wait_ns >= 0 and run.waiting_ns and now_ns - run.waiting_ns >= wait_ns:
            return False
        return candidate.overflow or any(not link.off_prem for link in run.full.values()) or sent_away(run)

    def wait(self, run: Run) -> bool:
        """Let a call wait that found no seat; False when it may not."""
        call, runtime = run.call, self._runtime
        now_ns = runtime.clock.mono_ns()
        workload = call.workload
        overflow_ns = self.overflow_wait_ns[workload]
        if not run.full and (overflow_ns < 0 or not sent_away(run)):
            return False
        began_ns = run.waiting_ns or now_ns
        deadline_ns = began_ns + self._wait_ns[workload]
        if now_ns >= deadline_ns or not self._make_place(workload):
            return False
        run.waiting_ns = began_ns
        ticket = Ticket(
            run,
            _tenant(run),
            began_ns,
            deadline_ns,
            began_ns + overflow_ns if run.spared >= 0 and overflow_ns >= 0 else 0,
        )
        for rank, link in run.full.items():
            ticket.links.setdefault(link.row, (rank, link))
        run.ticket = ticket
        self._waiting[workload][ticket] = None
        for row in ticket.links:
            self._rows.setdefault(row, {}).setdefault((ticket.tenant, workload), {})[ticket] = None
            runtime.board.contend(row, now_ns + LEASE_NS)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._poll)
        return True

    def left(self, run: Run, row: int) -> None:
        """A call has given its seat back at a row that is counted: the next one may have it."""
        counted = self.counted[row]
        tenant = _tenant(run)
        counted[tenant] = max(0, counted.get(tenant, 0) - 1)
        self._table.count(row, counted)
        if row in self._rows:
            asyncio.get_running_loop().call_soon(self._pump, row)

    def leave(self, ticket: Ticket, how: str) -> None:
        """Take a call out of the queue."""
        run = ticket.run
        workload = run.call.workload
        run.ticket = None
        del self._waiting[workload][ticket]
        for row in ticket.links:
            queue = self._rows[row]
            tickets = queue[ticket.tenant, workload]
            del tickets[ticket]
            if not tickets:
                del queue[ticket.tenant, workload]
            if not queue:
                del self._rows[row]
                self._table.withdraw(row)
        waited_ns = self._runtime.clock.mono_ns() - ticket.since_ns
        run.waited_ms = waited_ns // MS
        metrics = self._runtime.metrics
        metrics.queue_waits.add((workload.name, how))
        metrics.queue_wait_seconds.observe_us((workload.name,), waited_ns // 1000)

    # -- now and then

    def sweep(self, now_ns: int) -> None:
        """Calls that have waited long enough; sources that nobody waits for any more, or others do."""
        for waiting in self._waiting:
            for ticket in list(waiting):
                if now_ns >= ticket.deadline_ns:
                    self.leave(ticket, "timed_out")
                    ticket.run.refused(self._too_long(ticket))
                elif ticket.overflow_ns and now_ns >= ticket.overflow_ns:
                    self.leave(ticket, "overflowed")
                    ticket.run.released()
        board = self._runtime.board
        rows = [link.row for link in self._runtime.state.links.values() if board.contended(link.row, now_ns)]
        for row in self.counted.keys() - set(rows):
            del self.counted[row]
            self._table.count(row, {})
        for row in rows:
            # anew each time: what entered just before the source was contended has not been counted
            self.counted.pop(row, None)
            self._count(row)

    def recheck(self, state: State) -> None:
        """A new snapshot: calls of keys that were revoked, or whose sources are gone, do not wait on."""
        for waiting in self._waiting:
            for ticket in list(waiting):
                identity = ticket.run.call.identity
                key = state.view.key(identity.digest) if identity is not None and identity.digest else None
                if key is not None and key.revoked:
                    ticket.run.cut(
                        Unauthenticated("The API key was revoked while this call waited.", code="revoked_api_key")
                    )
                elif any(link.source.id not in state.links for _, link in ticket.links.values()):
                    self.leave(ticket, "gone")
                    run = ticket.run
                    run.full = {rank: link for rank, link in run.full.items() if link.source.id in state.links}
                    if not self.wait(run):
                        run.refused(_no_seat("The sources that this call waited for are gone.", "no_candidate", run))

    def fill(self, metrics: Metrics) -> None:
        """Bring the queue's length into the metrics."""
        for workload, waiting in zip(Workload, self._waiting, strict=True):
            metrics.queue_waiting.set((workload.name,), len(waiting))

    # -- seats

    def _take(self, link: Link, level: int, now_ns: int) -> bool:
        board = self._runtime.board
        most = room(link.source.limits, board.reading(link.row, now_ns))[1 if level else 0]
        return board.enter(link.row, most if most < UNBOUNDED else None, queued=True)

    def _poll(self) -> None:
        self._timer = None
        for row in list(self._rows):
            self._pump(row)
        if self._rows:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._poll)

    def _pump(self, row: int) -> None:
        """Give this worker's calls the seats of a source that are theirs."""
        runtime = self._runtime
        while queue := self._rows.get(row):
            now_ns = runtime.clock.mono_ns()
            runtime.board.contend(row, now_ns + LEASE_NS)
            self._count(row)
            tickets = [next(iter(each)) for each in queue.values()]
            link = tickets[0].links[row][1]
            shares = link.source.shares
            heads = [Head(t.tenant, shares.get(t.tenant, 1), t.run.call.workload, t.since_ns) for t in tickets]
            taken = self._table.seat(
                row,
                heads,
                now_ns,
                self._promote_ns,
                lambda level, link=link, now_ns=now_ns: self._take(link, level, now_ns),  # type: ignore[misc]
                post=True,
            )
            if taken < 0:
                return
            ticket = tickets[taken]
            counted = self.counted[row]
            counted[ticket.tenant] = counted.get(ticket.tenant, 0) + 1
            rank, link = ticket.links[row]
            self.leave(ticket, "seated")
            ticket.run.seated(rank, link)

    def _count(self, row: int) -> None:
        """Count this worker's calls at a row by tenant from now on, for all workers to see."""
        if row in self.counted:
            return
        counted: dict[str, int] = {}
        for run in self._runtime.runs:
            if run.seat == row:
                counted[_tenant(run)] = counted.get(_tenant(run), 0) + 1
        self.counted[row] = counted
        self._table.count(row, counted)

    def _make_place(self, workload: Workload) -> bool:
        """Room for one more waiting call: the youngest of the least urgent gives way to one that is more urgent."""
        if sum(map(len, self._waiting)) < self._runtime.settings.queue_calls_max:
            return True
        for waiting in reversed(self._waiting[workload + 1 :]):
            if waiting:
                ticket = next(reversed(waiting))
                self.leave(ticket, "displaced")
                ticket.run.refused(_no_seat("More urgent calls wait, and the queue is full.", "queue_full", ticket.run))
                return True
        return False

    def _too_long(self, ticket: Ticket) -> NoCandidate:
        run = ticket.run
        seconds = self._wait_ns[run.call.workload] // 1_000_000_000
        words = f"No allowed source had a seat for this {run.call.workload.name} call within {seconds} s."
        return _no_seat(words, "queue_timeout", run)


def _no_seat(words: str, code: str, run: Run) -> NoCandidate:
    return NoCandidate(words, code=code, headers={"retry-after": str(RETRY_S[run.call.workload])})


def _tenant(run: Run) -> str:
    identity = run.call.identity
    assert identity is not None  # noqa: S101 - stage order
    return identity.tenant_id


def sent_away(run: Run) -> bool:
    """Whether the source of one's own that was tried last said that it is full."""
    attempt, error = run.last_attempt, run.last_error
    return attempt is not None and not attempt.link.off_prem and error is not None and error.code in CAPACITY_CODES
