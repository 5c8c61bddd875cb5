"""The way out: a pool of HTTP/1.1 connections to one source, made for the hot path.

No task, no timer and no await per request: `Pool.send` takes an idle connection and writes; answers come as callbacks
(`Handler`); `Pool.sweep`, called by the worker every 100 to 250 ms, does all time-outs. A time-out is therefore never
early and at most one sweep late. What needs awaiting, opening a connection, happens in a task of its own.

Limits: connections and idle connections per pool, one call a connection, a bounded head. Bodies are not held here:
`Call.pause` stops reading, and the kernel's window stops the source.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from interlock.errors import UpstreamError, UpstreamTimeout
from interlock.settings import Settings
from interlock.sources.connection import Connection, Handler, TakeChunk
from interlock.sources.credentials import CredentialStore
from interlock.sources.dial import Proxy, Target, dial
from interlock.sources.requests import split_url
from interlock.sources.tls import TlsContext
from interlock.types.source import Source, SourceKind

__all__ = ["Call", "Deadlines", "Handler", "Pool", "Proxy", "Target", "deadlines_of", "target_of"]


class Deadlines(NamedTuple):
    """Time-outs of one call in seconds, from `Pool.send` on (`between_events_s`: from the last event)."""

    connect_s: float
    first_event_s: float
    between_events_s: float
    total_s: float


def deadlines_of(source: Source, settings: Settings) -> Deadlines:
    """The source's own time-outs, or the settings'. Make once per source."""
    own = source.timeouts

    def seconds(ms: int | None, default: int) -> float:
        return (default if ms is None else ms) / 1000

    first_event_ms = settings.first_event_timeout_ms
    if source.kind is SourceKind.ollama:
        first_event_ms += settings.model_load_timeout_ms

    return Deadlines(
        seconds(own.connect_ms, settings.connect_timeout_ms),
        seconds(own.first_event_ms, first_event_ms),
        seconds(own.between_events_ms, settings.between_events_timeout_ms),
        seconds(own.total_ms, settings.total_timeout_ms),
    )


def target_of(source: Source, credentials: CredentialStore) -> Target:
    """Where and how a source is reached, one `Target` per pool. Raises ConfigError when a URL of the source is wrong.

    Files and secrets are looked at when a connection is opened, not here.
    """
    scheme, host, port, _ = split_url(source.base_url, "base_url")
    proxy = None
    if source.egress_proxy:
        proxy_scheme, proxy_host, proxy_port, _ = split_url(source.egress_proxy, "egress_proxy")
        proxy = Proxy(
            proxy_host,
            proxy_port,
            TlsContext(None) if proxy_scheme == "https" else None,
            functools.partial(credentials.proxy_authorization, source) if source.egress_proxy_credential else None,
        )
    return Target(source.name, host, port, TlsContext(source.tls) if scheme == "https" else None, proxy)


class Call:
    """One request under way. Made by `Pool.send`."""

    __slots__ = (
        "begun",
        "bytes_seen",
        "conn",
        "count_bytes",
        "data",
        "deadlines",
        "event_seen",
        "handler",
        "last",
        "paused",
        "pool",
        "started",
    )

    def __init__(
        self, pool: Pool, data: bytes | list[bytes], handler: Handler, deadlines: Deadlines, count_bytes: bool
    ) -> None:
        self.pool = pool
        self.data = data
        self.handler: Handler | None = handler
        self.deadlines = deadlines
        self.count_bytes = count_bytes
        self.conn: Connection | None = None
        self.started = -1.0
        self.last = -1.0
        self.begun = False
        self.bytes_seen = False
        self.event_seen = False
        self.paused = False

    @property
    def sent(self) -> bool:
        """The request was handed to a connection: the source may have seen it."""
        return self.conn is not None

    def event(self) -> None:
        """The handler saw a data event: with `count_bytes=False` only this holds the event time-outs off."""
        self.event_seen = True

    def take_chunks(self, take: TakeChunk) -> None:
        """Have whole chunks of a chunked body given to `take`, where they come as such, instead of to `on_body`.

        For `on_head` to call. They are not counted as events: see `event`.
        """
        if self.conn is not None and self.handler is not None:
            self.conn.chunk_taker = take

    def cancel(self) -> None:
        """Close the connection, so that the source stops working on it. No callback follows. Idempotent."""
        if self.handler is None:
            return
        self.pool.done(self)
        if self.conn is not None:
            self.conn.abort()

    def pause(self) -> None:
        """Stop reading the answer: what is already read may still arrive. The event time-outs stand still."""
        if not self.paused and self.handler is not None:
            self.paused = True
            if self.conn is not None and self.conn.open:
                self.conn.transport.pause_reading()

    def resume(self) -> None:
        """Read on after `pause`."""
        if self.paused:
            self.paused = False
            if self.handler is not None and self.conn is not None and self.conn.open:
                self.conn.transport.resume_reading()

    def expired(self, now: float) -> str:
        """The code of the time-out that has passed, or "". Called by `Pool.sweep` only."""
        if self.started < 0:
            self.started = self.last = now
            return ""
        limits = self.deadlines
        if now - self.started >= limits.total_s:
            return "total_timeout"
        if self.conn is None:
            return "connect_timeout" if now - self.started >= limits.connect_s else ""
        if self.bytes_seen if self.count_bytes else self.event_seen:
            self.bytes_seen = self.event_seen = False
            self.begun = True
            self.last = now
        elif self.paused:
            self.last = now
        elif not self.begun:
            return "first_event_timeout" if now - self.started >= limits.first_event_s else ""
        elif now - self.last >= limits.between_events_s:
            return "between_events_timeout"
        return ""


_TIMEOUT_WORDS = {
    "connect_timeout": "could not be connected within {:g} s",
    "first_event_timeout": "sent no event within {:g} s",
    "between_events_timeout": "fell silent for {:g} s in the middle of its answer",
    "total_timeout": "did not finish within {:g} s",
}


class _Dial:
    """A connection being opened: since when, as the sweep saw it, and how long it may take."""

    __slots__ = ("limit_s", "since")

    def __init__(self, limit_s: float) -> None:
        self.since = -1.0
        self.limit_s = limit_s


class Pool:
    """Connections of one worker to one source. Everything is called on the event loop's thread."""

    def __init__(self, target: Target, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self.loop = loop
        self.head_bytes_max = settings.head_bytes_max
        self.idle_ms = settings.pool_idle_ms
        self.generation = 0
        self._connections_max = settings.pool_connections_max
        self._idle_max = settings.pool_idle_max
        self._tls_check_s = settings.credential_check_ms / 1000
        self._tls_check_at = 0.0
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[Call] = deque()
        self._active: dict[Call, None] = {}
        self._dials: dict[asyncio.Task[None], _Dial] = {}
        self._closed = False
        self._empty: asyncio.Future[None] | None = None

    # -- hot path

    def send(
        self,
        data: bytes | list[bytes],
        handler: Handler,
        *,
        deadlines: Deadlines,
        count_bytes: bool = True,
        fresh: bool = False,
    ) -> Call:
        """Send a whole request (head and body) and return at once; `handler` hears of everything that follows.

        `count_bytes`: any body byte counts as an event for the time-outs; False leaves that to `Call.event`.
        `fresh`: open a connection rather than use an idle one, where there is room.
        Errors (UpstreamError) only reach `handler.on_error`, later: `upstream_pool_full`, `upstream_pool_closed`, those
        of `dial`, `upstream_closed`, `upstream_cut_off`, `upstream_invalid_response` and the time-outs
        (UpstreamTimeout): `connect_timeout`, `first_event_timeout`, `between_events_timeout`, `total_timeout`.
        `upstream_stale`: the source had most likely closed a kept connection before the request came; nothing is sent
        again here, as whoever sends twice has to say so in the record.
        """
        call = Call(self, data, handler, deadlines, count_bytes)
        self._active[call] = None
        idle = self._idle
        while idle and not (fresh and self._room()):
            conn = idle.pop()
            if conn.open:
                conn.start(call, self.loop.time())
                return call
        self._wait_for_connection(call)
        return call

    def done(self, call: Call) -> None:
        """Forget a call that has ended. Called by the connection."""
        call.handler = None
        call.data = b""
        self._active.pop(call, None)

    def release(self, conn: Connection) -> None:
        """Take back a connection whose call has ended. Called by the connection."""
        if conn.generation != self.generation:
            conn.abort()
            self._dial_for_waiting()
            return
        waiting = self._waiting
        while waiting:
            call = waiting.popleft()
            if call.handler is not None:
                conn.start(call, self.loop.time())
                return
        if self._closed or len(self._idle) >= self._idle_max:
            conn.abort()
            return
        conn.idle_since = -1.0
        self._idle.append(conn)

    # -- opening

    def _wait_for_connection(self, call: Call) -> None:
        if self._closed:
            self._fail_soon(call, self.error("upstream_pool_closed", "is being removed from this gateway"))
        elif len(self._dials) <= len(self._waiting) and not self._room():
            words = f"has all its {self._connections_max} connections in use"
            self._fail_soon(call, self.error("upstream_pool_full", words))
        else:
            self._waiting.append(call)
            self._dial_for_waiting()

    def _room(self) -> bool:
        return len(self._connections) + len(self._dials) < self._connections_max

    def _dial_for_waiting(self) -> None:
        # INVARIANT: a dial for each waiting call, whichever of them a connection then serves
        while len(self._dials) < len(self._waiting) and self._room():
            task = self.loop.create_task(self._dial())
            self._dials[task] = _Dial(self._waiting[len(self._dials)].deadlines.connect_s)
            task.add_done_callback(self._dialed)

    async def _dial(self) -> None:
        conn = Connection(self)
        error: UpstreamError | None = self.error("upstream_closed", "closed the connection at once")
        try:
            await dial(self.target, conn, self.loop)
            if conn.open:
                error = None
        except UpstreamError as e:
            error = e
        except (OSError, ValueError) as e:
            error = self.error("connect_failed", f"could not be connected: {e}")
        except asyncio.CancelledError:
            if conn.open:
                conn.abort()
            raise
        if error is None:
            self.release(conn)
        else:
            self._fail_first_waiting(error)

    def _dialed(self, task: asyncio.Task[None]) -> None:
        del self._dials[task]
        self._notify_if_empty()
        self._dial_for_waiting()
        if not task.cancelled():
            task.result()  # a defect is not kept silent

    def _fail_first_waiting(self, error: UpstreamError) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            if call.handler is not None:
                self._fail(call, error)
                return

    def made(self, conn: Connection) -> None:
        """A connection is open. Called by the connection."""
        self._connections.add(conn)

    def lost(self, conn: Connection) -> None:
        """A connection is gone. Called by the connection."""
        self._connections.discard(conn)
        self._notify_if_empty()

    # -- errors and time

    def error(self, code: str, what: str) -> UpstreamError:
        """An error in words that start with the source's name (never its address: a caller may read them)."""
        return UpstreamError(f"source {self.target.name!r} {what}", code=code)

    def _fail(self, call: Call, error: UpstreamError) -> None:
        handler = call.handler
        self.done(call)
        if handler is not None:
            self.tell(handler, error)

    def tell(self, handler: Handler, error: UpstreamError) -> None:
        """Tell a call that it failed. What it raises at that is reported, and hurts no other call."""
        try:
            handler.on_error(error)
        except Exception as e:  # noqa: BLE001 - a defect of the call's owner: the pool goes on for all others
            self.report(e)

    def report(self, error: BaseException) -> None:
        """Tell the log of a defect in a call's owner."""
        self.loop.call_exception_handler({"message": "a response handler raised", "exception": error})

    def _fail_soon(self, call: Call, error: UpstreamError) -> None:
        self.loop.call_soon(self._fail, call, error)

    def sweep(self, now: float) -> None:
        """Enforce the time-outs and let go of connections that idled too long. `now`: monotonic seconds.

        Call every 100 to 250 ms, always with the same clock.
        """
        late = [(call, code) for call in self._active if (code := call.expired(now))]
        for call, code in late:
            handler = call.handler
            if handler is None:
                continue
            limit = getattr(call.deadlines, code.removesuffix("_timeout") + "_s")
            call.cancel()
            words = f"source {self.target.name!r} {_TIMEOUT_WORDS[code].format(limit)}"
            self.tell(handler, UpstreamTimeout(words, code=code))
        if self._idle:
            self._sweep_idle(now)
        for task, dialing in list(self._dials.items()):
            if dialing.since < 0:
                dialing.since = now
            elif now - dialing.since >= dialing.limit_s:
                task.cancel()
        while self._waiting and self._waiting[0].handler is None:
            self._waiting.popleft()
        if now >= self._tls_check_at:
            self._tls_check_at = now + self._tls_check_s
            self._check_tls()

    def _check_tls(self) -> None:
        target = self.target
        changed = target.tls is not None and target.tls.check()
        if target.proxy is not None and target.proxy.tls is not None:
            changed = target.proxy.tls.check() or changed
        if changed:
            self.renew()

    def _sweep_idle(self, now: float) -> None:
        kept = []
        for conn in self._idle:
            if conn.idle_since < 0:
                conn.idle_since = now
            if not conn.open:
                continue
            if (now - conn.idle_since) * 1000 >= conn.idle_ms_max:
                conn.abort()
            else:
                kept.append(conn)
        self._idle = kept

    def renew(self) -> None:
        """Use no connection for another call that is open now: certificates or the address have changed."""
        self.generation += 1
        self._abort_all(self._idle)
        self._idle = []

    # -- figures and the end

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def idle(self) -> int:
        """Open connections without a call."""
        return sum(conn.open for conn in self._idle)

    @property
    def active(self) -> int:
        """Calls that have not ended."""
        return len(self._active)

    def retire(self) -> None:
        """Take no new call; let running ones end and close each connection after its call."""
        self._closed = True
        self._abort_all(self._idle)
        self._idle = []

    async def close(self) -> None:
        """Cut what still runs (`on_error`, code `upstream_pool_closed`), close everything, wait until it is closed."""
        self.retire()
        for call in list(self._active):
            handler = call.handler
            call.cancel()
            if handler is not None:
                handler.on_error(self.error("upstream_pool_closed", "is being removed from this gateway"))
        self._waiting.clear()
        for task in list(self._dials):
            task.cancel()
        self._abort_all(self._connections)
        if self._connections or self._dials:
            self._empty = self.loop.create_future()
            await self._empty

    def _abort_all(self, connections: Iterable[Connection]) -> None:
        for conn in list(connections):
            conn.abort()

    def _notify_if_empty(self) -> None:
        if self._empty is not None and not self._connections and not self._dials and not self._empty.done():
            self._empty.set_result(None)
