"""The worker process: one thread, one event loop, one epoch of the record log. Started by the node, never by hand.

python -m interlock.gateway.worker     (file descriptors and configuration come over the link, nothing in arguments)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from interlock import __version__
from interlock.errors import ConfigError, InterlockError, LogError, SnapshotError, Unauthenticated
from interlock.gateway.app import Gateway
from interlock.gateway.canary_table import CanaryTable
from interlock.gateway.columns import Columns, missing, start_columns
from interlock.gateway.feedback import Feedbacks
from interlock.gateway.garbage import collect_rarely
from interlock.gateway.http.fallback import Fallback
from interlock.gateway.http.protocol import Server
from interlock.gateway.idempotency import Claims
from interlock.gateway.identify import Authenticator
from interlock.gateway.link import (
    CallsTold,
    Configure,
    FeedbackAnswer,
    KeyAnswer,
    LeaseGranted,
    LeaseRecalled,
    LeaseRefused,
    Measured,
    NewSnapshot,
    Ready,
    RefreshKeys,
    Rejected,
    Reload,
    Runs,
    StateAnswer,
    StatePart,
    Stop,
    TellCalls,
    ToNode,
    ToWorker,
    worker_end,
)
from interlock.gateway.links import Link, open_link
from interlock.gateway.receipts import Receipts
from interlock.gateway.running import running_calls
from interlock.gateway.runtime import Runtime
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.gateway.state import State, build_state
from interlock.gateway.states import States
from interlock.gateway.trace import tell
from interlock.gateway.treasury import Treasury
from interlock.gateway.waiting import shutdown_error
from interlock.gateway.worked import Desk
from interlock.identity.certificate import ServerTls, gateway_pair
from interlock.identity.jwks import KeyStore
from interlock.identity.tokens import TokenVerifier
from interlock.ledger.log import RecordLog
from interlock.ledger.recovery import recover_beside
from interlock.metering.limits import LimitTable
from interlock.settings import Settings
from interlock.sources.board import Board
from interlock.sources.credentials import CredentialStore
from interlock.sources.seats import SeatTable
from interlock.telemetry.exposition import render
from interlock.telemetry.logs import setup_logging
from interlock.telemetry.metrics import Metrics, fill_process
from interlock.telemetry.tracing import Tracer, open_tracer
from interlock.types.clock import SystemClock
from interlock.types.record import Alive
from interlock.types.snapshot import FORMAT, Head, root_hash

if TYPE_CHECKING:
    from interlock.types.clock import Clock
    from interlock.types.source import Source

log = logging.getLogger("interlock.gateway.worker")

SWEEP_S = 0.1
"""How often time-outs are looked at."""
POLL_S = 0.02
"""How often a drain looks whether the last call has ended."""
FINISH_NS = 1_000_000_000
"""How long calls that were cut at the end of the grace may take to record their outcome."""
LAST_MEASURED_NS = 2_000_000_000
"""How long a worker that stops waits for what its last calls took; longer where meters are read more seldom."""
OPEN_FILES_MAX = 1_048_576
"""Open files a worker asks for at most."""
LIMIT_CHANGES_MAX = 64
"""Settled calls that may wait for the next admission, or the next sweep, to be counted down."""
PEPPER_BYTES_MIN = 32
NO_SNAPSHOT = SnapshotView.from_parts([], Head(0, root_hash({}), FORMAT, 0), cache_max=16)
"""What a worker runs on before it has been told anything: nobody is known, nothing is allowed."""


class Worker:
    """One worker from its configuration to its last record."""

    def __init__(self, config: Configure, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.clock = clock
        self.loop = loop
        self.settings = settings = Settings(**config.settings)
        run_dir = Path(config.run_dir)
        self.board = Board.open(run_dir / "board.shm", worker=config.slot, settings=settings)
        self.canaries = CanaryTable.open(run_dir / "canaries.shm", settings)
        self.limits = LimitTable.open(
            run_dir / "limits.shm",
            worker=config.slot,
            wait_ms=settings.limit_lock_wait_ms,
            changes_max=LIMIT_CHANGES_MAX,
        )
        self.seats = SeatTable.open(run_dir / "seats.shm", worker=config.slot, wait_ms=settings.limit_lock_wait_ms)
        self.metrics = Metrics(run_dir, str(config.slot), settings, clock)
        self.snapshots = SnapshotFolder(
            Path(config.snapshot_dir),
            deltas_max=settings.snapshot_deltas_max,
            catalogs_max=settings.tenant_cache_max,
        )
        self.credentials = CredentialStore(settings)
        self.pepper = read_pepper(settings)
        self.send: Callable[[ToNode], bool] = lambda _: False
        self.view: SnapshotView | None = None
        self.runtime: Runtime | None = None
        self.server: Server | None = None
        self.stopped = loop.create_future()
        self._links: dict[str, Link] = {}
        self._retired: set[Link] = set()
        self._listener: asyncio.Server | None = None
        self._fallback: Fallback | None = None
        self._tls: ServerTls | None = None
        self._stopping = False
        self._recovery: asyncio.Task[None] | None = None
        self._columns = Columns(loop, self._take, self._refuse)
        self._tracer: Tracer | None = None
        self._swept_ns = clock.mono_ns()
        self._lag_us = 0

    # -- start

    async def start(self) -> None:
        """Open the log, load the snapshot, recover what dead workers left, and accept connections."""
        config, settings = self.config, self.settings
        keys = KeyStore(Path(config.jwks_dir), settings, self.clock, lambda issuer: self._tell(RefreshKeys(issuer)))
        self.tokens = TokenVerifier((), keys, settings, self.clock)
        receipts = Receipts(self.clock, settings.ledger_receipts)
        self.record_log = RecordLog.open(
            Path(config.log_dir),
            node=config.node,
            slot=config.slot,
            version=__version__,
            settings=settings,
            loop=self.loop,
            clock=self.clock,
            receipt_key=receipts.public,
        )
        self.record_log.on_failure(self._log_failed)
        self.view = self.snapshots.load(settings.principal_cache_max) or NO_SNAPSHOT
        if missing(self.view):
            start_columns()
        self.treasury = Treasury(
            self.record_log.epoch, settings, self.clock, lambda message: self.send(message), self._when_durable
        )
        self.claims = Claims(self.record_log.epoch, self.pepper, lambda message: self.send(message))
        self.states = States(self.record_log.epoch, self.pepper, lambda message: self.send(message))
        self.feedbacks = Feedbacks(self.record_log.epoch, lambda message: self.send(message))
        self.runtime = Runtime(
            settings=settings,
            clock=self.clock,
            log=self.record_log,
            limits=self.limits,
            board=self.board,
            canaries=self.canaries,
            seats=self.seats,
            metrics=self.metrics,
            authenticator=Authenticator(self.pepper, self.tokens, self.clock, settings.principal_cache_max),
            state=self._state(self.view, None),
            treasury=self.treasury,
            claims=self.claims,
            receipts=receipts,
            states=self.states,
            feedbacks=self.feedbacks,
            seed=secrets.randbits(63),
        )
        self.tokens.update(self.view.issuers)
        self.desk = Desk(config.node, self.record_log, self.clock, self._tell)
        self._meter_sources(self.view)
        self.metrics.before_publish(self._fill_metrics)
        self._tracer = open_tracer(settings, __version__, config.node, os.urandom)
        if self._tracer is not None:
            self.runtime.on_finished = tell(self._tracer)
            self.metrics.before_publish(self._tracer.fill)
        gateway = Gateway(self.runtime, lambda: render(Path(config.run_dir), settings, self.clock))
        self.server = Server(gateway, settings, self.clock)
        await self._listen()
        self._every(SWEEP_S, self._sweep)
        self._every(settings.metrics_interval_ms / 1000, self.metrics.publish)
        self._every(settings.credential_check_ms / 1000, self._check_credentials)
        self._every(settings.energy_sample_ms / 1000, self._report_work)
        self._every(settings.log_alive_ms / 1000, self._say_alive)
        if self._tls is not None:
            self._every(settings.tls_reload_interval_ms / 1000, self._check_certificate)
        collect_rarely()
        self._tell(Ready(self.view.version))
        self._recovery = self.loop.create_task(self._recover())

    async def _recover(self) -> None:
        """Find the calls that dead workers left open. A failure ends this worker: it holds their epochs' locks."""
        try:
            done = await recover_beside(Path(self.config.log_dir), into=self.record_log, clock=self.clock)
        except (InterlockError, OSError) as e:
            log.error("recovery of the record log failed", extra={"why": str(e)})
            self.stop(self.settings.stop_grace_ms)
            return
        for recovered in done:
            self.metrics.log_interrupted.add((), recovered.interrupted)
            if recovered.interrupted:
                log.warning(
                    "interrupted calls recovered",
                    extra={"epoch": recovered.epoch, "interrupted": recovered.interrupted},
                )

    async def _listen(self) -> None:
        assert self.server is not None  # noqa: S101 - made by start
        settings = self.settings
        if settings.tls_cert_file:
            self._tls = ServerTls(gateway_pair(settings))
        sock = socket.socket(fileno=self.config.listen_fd)
        sock.setblocking(False)
        if settings.gateway_server == "uvicorn":
            self._fallback = Fallback(self.server.app, settings, self.clock, sock)
            await self._fallback.start()
            return
        if settings.gateway_server != "native":
            raise ConfigError("gateway_server must be native or uvicorn", param="gateway_server")
        self._listener = await self.loop.create_server(
            self.server.protocol,
            sock=sock,
            ssl=self._tls.context if self._tls is not None else None,
            backlog=settings.listen_backlog,
        )

    def _every(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` every `seconds` until the worker stops; an error in it is logged, not fatal."""

        def tick() -> None:
            try:
                action()
            except Exception:
                log.exception("periodic task failed")
            if not self.stopped.done():
                self.loop.call_later(seconds, tick)

        self.loop.call_later(seconds, tick)

    # -- snapshots

    def on_message(self, message: ToWorker) -> None:
        """What the node says."""
        if isinstance(message, NewSnapshot):
            self._take(message)
        elif isinstance(message, Stop):
            self.stop(message.grace_ms)
        elif isinstance(message, Reload):
            self.credentials.check(float("inf"))
        elif isinstance(message, Measured):
            self.desk.measured(message)
        elif isinstance(message, TellCalls):
            self._tell_calls(message.most)
        elif self.runtime is not None:
            self._from_database(message)

    def _from_database(self, message: ToWorker) -> None:
        """What the node says of budgets, idempotency keys, stored responses and feedback."""
        if isinstance(message, LeaseGranted):
            self.treasury.granted(message)
        elif isinstance(message, LeaseRefused):
            self.treasury.refused(message)
        elif isinstance(message, LeaseRecalled):
            self.treasury.recalled(message)
        elif isinstance(message, KeyAnswer):
            self.claims.answered(message)
        elif isinstance(message, StatePart):
            self.states.part(message)
        elif isinstance(message, StateAnswer):
            self.states.answered(message)
        elif isinstance(message, FeedbackAnswer):
            self.feedbacks.answered(message)

    def _take(self, message: NewSnapshot) -> None:
        runtime = self.runtime
        if runtime is None or self.view is None:
            return  # still starting: the stored snapshot that is about to be loaded is at least as new
        try:
            view = self.snapshots.advance(self.view, message.file, self.settings.principal_cache_max)
            if view is None:
                raise SnapshotError(f"{message.file} does not hold snapshot {message.version}")
            if self._columns.must_wait(view, message):
                return
            state = self._state(view, runtime.state)
        except (InterlockError, OSError, ValueError) as e:
            self._refuse(message, str(e))
            return
        old = self.view
        if view is old:
            return
        before = runtime.state
        self.view, runtime.state = view, state
        if old.part_hash("issuers") != view.part_hash("issuers"):
            self.tokens.update(view.issuers)
        self._meter_sources(view)
        if old.book is not view.book:
            self.treasury.update(view.book)
        self._cut_revoked(view)
        runtime.seats.recheck(state)
        self._retire_links(before, state)
        self._tell(Runs(view.version))

    def _refuse(self, message: NewSnapshot, why: str) -> None:
        assert self.view is not None  # noqa: S101 - snapshots are taken after start
        self.metrics.snapshot_rejected.add()
        log.error("snapshot rejected", extra={"version": message.version, "keeps": self.view.version, "why": why})
        self._tell(Rejected(message.version, self.view.version, why))

    def _state(self, view: SnapshotView, before: State | None) -> State:
        by_id = {source.id: source for source in view.sources}
        return build_state(
            view,
            before,
            link=lambda source_id: self._link(by_id[source_id]),
            settings=self.settings,
            salt_secret=self.pepper,
        )

    def _link(self, source: Source) -> Link:
        """The link to a source: the one in use while the source has not changed, else a new one."""
        link = self._links.get(source.id)
        if link is None or link.source != source:
            link = open_link(source, self.board.row(source.id), self.credentials, self.settings, self.loop)
            self._links[source.id] = link
        return link

    def _retire_links(self, before: State, after: State) -> None:
        """Set aside the links that the new snapshot has no use for: calls that began on them go on."""
        for source_id, link in before.links.items():
            if after.links.get(source_id) is not link:
                self._retired.add(link)
        for source_id in self._links.keys() - after.links.keys():
            del self._links[source_id]

    def _sweep_retired(self, now_ns: int) -> None:
        """Time-outs of calls that began on an earlier snapshot; a link without any is closed."""
        assert self.runtime is not None  # noqa: S101 - links are retired after start
        states = {id(run.call.state): run.call.state for run in self.runtime.runs}.values()
        in_use = {link for state in states for link in state.links.values()}
        for link in list(self._retired):
            if link in in_use:
                link.pool.sweep(now_ns / 1e9)
            else:
                self._retired.discard(link)
                self.loop.create_task(link.pool.close())

    def _when_durable(self, then: Callable[[bool], None]) -> None:
        """Tell when everything recorded so far is durable, or cannot become so."""
        self.record_log.on_durable(self.record_log.appended_seq, lambda e: then(e is None))

    def _meter_sources(self, view: SnapshotView) -> None:
        assert self.runtime is not None  # noqa: S101 - called after start
        self.desk.update(view.sources)
        self.runtime.desk = self.desk if self.desk.metered else None

    def _say_alive(self) -> None:
        """Let the ledger know how far this epoch's log tells everything, also while nobody calls."""
        assert self.runtime is not None  # noqa: S101 - periodic tasks begin after start
        with contextlib.suppress(LogError):
            self.record_log.append(Alive(self.clock.wall_ns(), self.runtime.calls_recorded()))

    def _report_work(self) -> None:
        assert self.runtime is not None  # noqa: S101 - periodic tasks begin after start
        self.desk.report(self.runtime.runs)

    def _tell_calls(self, most: int) -> None:
        if self.runtime is not None:
            self._tell(CallsTold(running_calls(self.runtime, self.clock.mono_ns(), most)))

    def _cut_revoked(self, view: SnapshotView) -> None:
        """End running calls of keys that were revoked with `cut`."""
        runtime = self.runtime
        assert runtime is not None  # noqa: S101 - called after start
        for run in list(runtime.runs):
            identity = run.call.identity
            if identity is None or not identity.digest:
                continue
            key = view.key(identity.digest)
            if key is not None and key.revoked and key.cut:
                run.cut(Unauthenticated("The API key was revoked while this call ran.", code="revoked_api_key"))

    # -- periodic

    def _sweep(self) -> None:
        now_ns = self.clock.mono_ns()
        self._lag_us = max(self._lag_us, (now_ns - self._swept_ns) // 1000 - int(SWEEP_S * 1e6))
        self._swept_ns = now_ns
        assert self.server is not None and self.runtime is not None and self.view is not None  # noqa: S101
        self.server.sweep(now_ns)
        self.runtime.sweep(now_ns)
        if self._retired:
            self._sweep_retired(now_ns)
        self.board.set_worker_state(pid=os.getpid(), snapshot_version=self.view.version, calls=len(self.runtime.runs))

    def _check_credentials(self) -> None:
        self.credentials.check(self.clock.mono_ns() / 1e9)

    def _check_certificate(self) -> None:
        assert self._tls is not None  # noqa: S101 - called only with TLS
        try:
            if self._tls.refresh():
                log.info("certificate reloaded")
        except ConfigError as e:
            log.error("certificate not reloaded, the old one stays", extra={"why": e.message})

    def _fill_metrics(self, metrics: Metrics) -> None:
        assert self.server is not None and self.runtime is not None and self.view is not None  # noqa: S101
        self.runtime.publish_tallies()
        self.runtime.seats.fill(metrics)
        stats = self.record_log.stats()
        metrics.log_records.follow((), stats.records)
        metrics.log_bytes.follow((), stats.bytes)
        metrics.log_fsyncs.follow((), stats.fsyncs)
        metrics.log_pending_bytes.set((), stats.pending_bytes)
        metrics.log_refusing.set((), 1 if self.record_log.refusal is not None else 0)
        metrics.inflight.set((), len(self.runtime.runs))
        metrics.connections.set((), len(self.server.connections))
        metrics.snapshot_version.set((), self.view.version)
        confirmed_ns = self.board.snapshot_confirmed()[1]
        age_us = max(self.clock.wall_ns() - confirmed_ns, 0) // 1000
        metrics.snapshot_age_seconds.set((), age_us)
        metrics.loop_lag_seconds.set((), self._lag_us)
        self._lag_us = 0
        metrics.log_fsync_seconds.follow((), stats.fsync_us_sum)
        fill_process(metrics, "worker")

    # -- failure and stop

    def _log_failed(self, error: LogError) -> None:
        """The record log takes nothing more: running calls end unrecorded; a fatal failure ends this worker too."""
        assert self.runtime is not None  # noqa: S101 - the log fails after start, or start itself raises
        for run in list(self.runtime.runs):
            run.log_failed(error)
        for waiting in list(self.runtime.waiting):
            waiting.end(error)
        if self.record_log.failed:
            # Durability can never be claimed again in this epoch: the node starts a new worker with a new one.
            self.stop(0)

    def _tell(self, message: ToNode) -> None:
        self.send(message)

    def stop(self, grace_ms: int) -> None:
        """Accept nothing more, let running calls finish, close the epoch. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self.loop.create_task(self._stop(grace_ms))

    async def _stop(self, grace_ms: int) -> None:
        if self._recovery is not None and self.record_log.failed:
            self._recovery.cancel()
        deadline_ns = self.clock.mono_ns() + grace_ms * 1_000_000
        if self._listener is not None:
            self._listener.close()
        if self._fallback is not None:
            self._fallback.stop_accepting()
        runtime = self.runtime
        if runtime is not None and self.server is not None:
            runtime.draining = True
            self.server.drain()
            while (runtime.runs or runtime.waiting) and self.clock.mono_ns() < deadline_ns:  # noqa: ASYNC110 - calls end in callbacks
                await asyncio.sleep(POLL_S)
            for run in list(runtime.runs):
                run.cut(shutdown_error())
            for waiting in list(runtime.waiting):
                waiting.end(shutdown_error())
            give_up_ns = self.clock.mono_ns() + FINISH_NS
            while (runtime.runs or self.server.connections) and self.clock.mono_ns() < give_up_ns:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            await self._last_measured(deadline_ns)
            self.metrics.publish()
        if self._recovery is not None:
            await asyncio.wait([self._recovery], timeout=FINISH_NS / 1e9)
        await self.record_log.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        if self._fallback is not None:
            await self._fallback.close()
        for link in (*self._links.values(), *self._retired):
            await link.pool.close()
        if not self.stopped.done():
            self.stopped.set_result(None)

    async def _last_measured(self, deadline_ns: int) -> None:
        """Give the node the time to tell what the last calls at metered sources took, as far as the grace allows."""
        if not self.desk.ended_ns:
            return
        wait_ns = max(2 * self.settings.energy_sample_ms * 1_000_000, LAST_MEASURED_NS)
        until_ns = min(deadline_ns, self.desk.ended_ns + wait_ns)
        self._report_work()
        while self.desk.owed and self.clock.mono_ns() < until_ns:  # noqa: ASYNC110 - answers come in callbacks
            await asyncio.sleep(POLL_S)


def read_pepper(settings: Settings) -> bytes:
    """The secret that API keys are hashed under. Raises ConfigError when there is none or it is too short."""
    path = settings.pepper_path()
    try:
        pepper = path.read_bytes().strip()
    except OSError as e:
        raise ConfigError(f"{path}: the pepper cannot be read: {e.strerror}", param="pepper_file") from None
    if len(pepper) < PEPPER_BYTES_MIN:
        raise ConfigError(f"{path}: the pepper must be at least {PEPPER_BYTES_MIN} bytes", param="pepper_file")
    return pepper


def raise_file_limit() -> int:
    """Let this process open as many files as it may, since each stream takes two: the usual soft limit is 1,024.

    Returns the limit that now holds.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if wanted > soft >= 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


async def serve() -> None:
    """Be a worker on the link it inherited until told to stop, or until the node is gone."""
    loop = asyncio.get_running_loop()
    configured: asyncio.Future[Configure] = loop.create_future()
    worker: Worker | None = None

    def on_message(message: ToWorker) -> None:
        if isinstance(message, Configure):
            configured.set_result(message)
        elif worker is not None:
            worker.on_message(message)

    def on_closed(_error: object) -> None:
        if worker is not None:
            worker.stop(worker.settings.stop_grace_ms)
        elif not configured.done():
            configured.cancel()

    end = await worker_end(on_message, on_closed)
    config = await configured
    settings = Settings(**config.settings)
    setup_logging(settings.log_level, f"worker-{config.slot}", settings=settings)
    raise_file_limit()
    worker = Worker(config, SystemClock(), loop)
    worker.send = end.send
    await worker.start()
    await worker.stopped
    end.close()


def main() -> None:
    """Entry point. There are no arguments: the link is inherited, and everything comes over it."""
    # Ctrl-C in a terminal reaches the whole process group: the node tells us when to stop, over the link.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvloop.run(serve())


if __name__ == "__main__":
    main()
