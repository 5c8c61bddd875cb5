"""The node: parent of the workers, and everything that is not on the hot path.

    python -m interlock.gateway.node [--ready-fd N] [--parent PID]

Life of a node: lock the home, create the shared memory, bind the address, take the stored snapshot or wait for the
database's first one, start the workers, say that it is ready once all of them are. Then, until told to stop: follow
the snapshot, watch the sources, keep issuers' keys fresh, replace workers that die, write this node's row and counts.

Folders under `<home>/node/`: `run` (shared memory, counts, `node.json`), `snapshot`, `jwks`, `log`.
A home has one node at a time: `lock` is held by it and by nobody else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from interlock import __version__
from interlock.errors import ConfigError, InterlockError, Unavailable
from interlock.gateway.canary_keeper import CanaryKeeper
from interlock.gateway.canary_table import CanaryTable
from interlock.gateway.claimant import Claimant
from interlock.gateway.feed import DatabaseStore, SnapshotFeed, Store
from interlock.gateway.keeper import Keeper
from interlock.gateway.lender import Lender
from interlock.gateway.link import (
    CallsTold,
    Configure,
    FeedbackClaim,
    KeyClaim,
    KeyEnd,
    LeaseReturned,
    LeaseWanted,
    NewSnapshot,
    Rejected,
    State,
    Worked,
)
from interlock.gateway.listen import Listening
from interlock.gateway.metered import MeterService
from interlock.gateway.running import RunningCalls
from interlock.gateway.slots import RETIRED_EXIT, Slot
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.gateway.teller import Teller
from interlock.identity.certificate import check as check_certificate
from interlock.identity.certificate import gateway_pair
from interlock.identity.jwks import JwksFetcher
from interlock.metering.limits import LimitTable
from interlock.settings import Settings, load
from interlock.sources.board import Board
from interlock.sources.meters import Meter, open_meter
from interlock.sources.seats import SeatTable
from interlock.storage.nodes import Node as NodeRow
from interlock.telemetry.logs import setup_logging
from interlock.telemetry.metrics import Metrics, fill_process
from interlock.types.clock import Clock, SystemClock
from interlock.types.source import EnergyMeter, Source, SourceState

log = logging.getLogger("interlock.gateway.node")

WORKER_MODULE = "interlock.gateway.worker"
TICK_S = 1.0
"""How often workers are asked for a sign of life and rows of removed sources are given back."""
PARENT_POLL_S = 0.5
SERVICE_PAUSE_S = 1.0
"""Pause before a background service that failed is started again."""
SHIPPER_MODULE = "interlock.gateway.shipper"
GOODBYE_S = 2.5
"""How long the background services may take to end."""


class Watcher(Protocol):
    """Follows the health and load of sources, and publishes them on the board."""

    def update(self, sources: Sequence[Source]) -> None:
        """Follow these sources and no others."""

    def states(self) -> list[SourceState]:
        """What is known of them now."""

    async def run(self) -> None:
        """Until cancelled."""


class Running(msgspec.Struct, frozen=True):
    """What a node says once it is ready, and what `run/node.json` holds. `workers`: their process ids."""

    pid: int
    url: str
    port: int
    workers: tuple[int, ...]
    snapshot: int


class GatewayNode:
    """One node. `run` returns when it was stopped; `stop` may be called from a signal handler of the loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        store: Store | None = None,
        watcher: Callable[[Board, Settings, Clock, Metrics], Watcher] | None = None,
        meter: Callable[[EnergyMeter], Meter] = open_meter,
        ready: Callable[[Running], None] = lambda _running: None,
        worker_module: str = WORKER_MODULE,
    ) -> None:
        """`store`: where snapshots come from (default: the database of the settings); `watcher`: what follows the
        sources' load (default: LoadWatcher); `meter` opens energy meters. Opens nothing yet. Raises ConfigError without
        a store or a database."""
        if store is None and not settings.database_url:
            raise ConfigError("database_url is not set: a gateway needs the database of its cell", param="database_url")
        self.settings = settings
        self.clock = clock
        self.name = settings.node or socket.gethostname()
        self.run_dir = settings.home_path("node", "run")
        self.workers = settings.workers or len(os.sched_getaffinity(0))
        self._store = store or DatabaseStore(settings.database_url, settings)
        self._watcher = watcher or load_watcher
        self._meter = meter
        self._ready = ready
        self._worker_module = worker_module
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._started_at = datetime.now(UTC)
        self._is_ready = False
        self._jwks_seen: bytes | None = None
        self._hours: dict[str, int] = {}
        """Declared price of an hour of each source that has one, in nano-USD."""

    def stop(self) -> None:
        """Begin to stop: no new connections, running calls finish within `stop_grace_ms`. Idempotent."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. Raises ConfigError or Unavailable when the node cannot start."""
        check_certificate(gateway_pair(self.settings))
        for folder in ("run", "snapshot", "jwks", "log"):
            self.settings.home_path("node", folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_home_lock(self.settings.home_path("node", "lock")))
            self._open(stack)
            await self._serve()

    # -- start

    def _open(self, stack: contextlib.ExitStack) -> None:
        settings, run_dir = self.settings, self.run_dir
        self.listening = stack.enter_context(
            contextlib.closing(Listening(settings.gateway_host, settings.gateway_port))
        )
        self.board = stack.enter_context(
            contextlib.closing(
                Board.create(
                    run_dir / "board.shm", rows=2 * settings.sources_max, workers=self.workers, settings=settings
                )
            )
        )
        self.canaries = stack.enter_context(contextlib.closing(CanaryTable.create(run_dir / "canaries.shm", settings)))
        self.limits = stack.enter_context(
            contextlib.closing(
                LimitTable.create(run_dir / "limits.shm", slots=settings.limit_slots, workers=self.workers)
            )
        )
        self.seats = stack.enter_context(
            contextlib.closing(
                SeatTable.create(
                    run_dir / "seats.shm",
                    rows=2 * settings.sources_max,
                    tenants=settings.queue_tenants_max,
                    workers=self.workers,
                )
            )
        )
        self.metrics = Metrics(run_dir, "node", settings, self.clock)
        self.jwks = JwksFetcher(settings.home_path("node", "jwks"), settings, self.clock, on_fetch=self._on_fetch)
        self.watcher = self._watcher(self.board, settings, self.clock, self.metrics)
        self.feed = SnapshotFeed(
            self._store,
            SnapshotFolder(settings.home_path("node", "snapshot"), deltas_max=settings.snapshot_deltas_max),
            settings,
            self.clock,
            prepare=self._prepare,
            on_snapshot=self._on_snapshot,
            on_confirmed=self.board.confirm_snapshot,
            describe=self._describe,
        )
        self.slots = [
            Slot(
                number,
                self,
                self.clock,
                module=self._worker_module,
                silent_ms_max=settings.worker_silent_ms_max,
            )
            for number in range(self.workers)
        ]
        self.meters = MeterService(
            self.name, lambda: self.slots, self.metrics, self.clock, settings.energy_sample_ms, self._meter
        )
        self.lender = Lender(self.name, settings.database_url, settings, self.clock, lambda: self.slots)
        self.claimant = Claimant(settings.database_url, settings, lambda: self.slots)
        self.canary_keeper = CanaryKeeper(
            self.name, settings.database_url, settings, self.canaries, settings.home_path("node", "canaries.json")
        )
        self.canary_keeper.load()
        self.keeper = Keeper(settings.database_url, settings, lambda: self.slots)
        self.calls_now = RunningCalls(lambda: self.slots, settings.live_running_max)
        self.teller = Teller(self.name, settings.database_url, settings, self.watcher.states, self.calls_now)
        self.metrics.before_publish(self._fill)

    async def _serve(self) -> None:
        if self.feed.load() and self.feed.view is not None:
            self._follow(self.feed.view)
        services = [
            asyncio.create_task(self._service(name, run))
            for name, run in (
                ("snapshot feed", self.feed.run),
                ("load watcher", self.watcher.run),
                ("issuer keys", self.jwks.run),
                ("energy meters", self.meters.run),
                ("lender", self.lender.run),
                ("claimant", self.claimant.run),
                ("canaries", self.canary_keeper.run),
                ("keeper", self.keeper.run),
                ("teller", self.teller.run),
                ("housekeeping", self._housekeeping),
            )
        ]
        shipper = asyncio.create_task(self._service("shipper", self._shipper))
        lives: list[asyncio.Task[None]] = []
        try:
            await self._first_snapshot()
            lives = [asyncio.create_task(slot.run()) for slot in self.slots]
            await self._stopping.wait()
        finally:
            # Calls finish while the services still run: a source's load and the snapshot stay current to the end.
            self.listening.close()
            await asyncio.gather(*(slot.stop(self.settings.stop_grace_ms) for slot in self.slots))
            await asyncio.gather(*lives, return_exceptions=True)
            for task in (*services, shipper):
                task.cancel()
            await asyncio.wait(services, timeout=GOODBYE_S + 1)
            # INVARIANT: no process is left behind. What is waited for here is killed when it does not end in time.
            await asyncio.wait((shipper,))
            (self.run_dir / "node.json").unlink(missing_ok=True)
            log.info("node stopped")

    async def _first_snapshot(self) -> None:
        """Wait for a snapshot to serve: the stored one, or the first that the database has."""
        while self.feed.view is None and not self._stopping.is_set():
            self._changed.clear()
            waits = [asyncio.ensure_future(e.wait()) for e in (self._changed, self._stopping)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    async def _service(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep a background service going: calls are served without it, so its failure must not end the node."""
        while True:
            try:
                await run()
            except Exception:
                log.exception("%s failed and is started again", name)
            await asyncio.sleep(SERVICE_PAUSE_S)

    async def _shipper(self) -> None:
        """Keep the shipper running. It brings what the workers wrote last before it ends."""
        if not self.settings.database_url:
            await asyncio.Event().wait()  # a node without a database of its own (tests) ships nothing
        environment = {
            **os.environ,
            "INTERLOCK_HOME": str(self.settings.home_path()),
            "INTERLOCK_DATABASE_URL": self.settings.database_url,
            "INTERLOCK_NODE": self.name,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            SHIPPER_MODULE,
            "--parent",
            str(os.getpid()),
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        log.error("the shipper ended by itself (exit code %s) and is started again", code)
        if code == RETIRED_EXIT:
            log.error("this node was retired while it was away: its workers are replaced")
            for slot in self.slots:
                await slot.renew(self.settings.stop_grace_ms)

    # -- what the feed says

    def _prepare(self, view: SnapshotView) -> None:
        """A worker that takes this snapshot over finds a row for each of its sources."""
        for source in view.sources:
            self.board.row(source.id)

    def _on_snapshot(self, view: SnapshotView, file: str) -> None:
        self._follow(view)
        for slot in self.slots:
            slot.send(NewSnapshot(view.version, file))
        self._changed.set()

    def _follow(self, view: SnapshotView) -> None:
        self.watcher.update(view.sources)
        self.meters.update(view.sources)
        self.canary_keeper.follow(view)
        hours = {source.name: max((m.price.hour_nusd for m in source.models), default=0) for source in view.sources}
        self._hours = {name: hour_nusd for name, hour_nusd in hours.items() if hour_nusd}
        issuers = view.part_hash("issuers")
        if issuers != self._jwks_seen:
            self._jwks_seen = issuers
            self.jwks.update(view.issuers)

    def _describe(self) -> NodeRow | None:
        ready = [slot for slot in self.slots if slot.ready]
        return NodeRow(
            name=self.name,
            workers=len(ready),
            snapshot_version=min((slot.snapshot for slot in ready), default=0),
            seen_at=datetime.now(UTC),
            started_at=self._started_at,
            version=__version__,
            address=self._url(),
        )

    # -- what the slots ask (Host)

    def configure(self, slot: int, generation: int) -> tuple[Configure, socket.socket]:
        """See `slots.Host`."""
        sock = self.listening.socket_for(slot)
        home = self.settings.home_path
        settings = dataclasses.asdict(self.settings)
        settings["database_url"] = ""  # workers never talk to the database
        settings["home"] = str(home())
        return Configure(
            settings=settings,
            node=self.name,
            slot=slot,
            workers=self.workers,
            generation=generation,
            run_dir=str(self.run_dir),
            snapshot_dir=str(home("node", "snapshot")),
            jwks_dir=str(home("node", "jwks")),
            log_dir=str(home("node", "log")),
            listen_fd=sock.fileno(),
            port=self.listening.port,
        ), sock

    def pausing(self, slot: int) -> None:
        """See `slots.Host`."""
        self.listening.give_up(slot)

    def died(self, slot: int) -> None:
        """See `slots.Host`."""
        self.board.clear_worker(slot)
        self.limits.clear_worker(slot)
        self.seats.clear_worker(slot)
        self.meters.died(slot)
        self.lender.died(slot)
        self.calls_now.died(slot)
        if not self._stopping.is_set():
            self.metrics.worker_restarts.add()

    def changed(self) -> None:
        """See `slots.Host`."""
        running = self.running()
        if self._stopping.is_set():
            return
        write_json(self.run_dir / "node.json", running)
        if not self._is_ready and all(slot.ready for slot in self.slots):
            self._is_ready = True
            log.info("node serves on %s with %d workers", running.url, self.workers)
            self._ready(running)

    def rejected(self, slot: int, message: Rejected) -> None:
        """See `slots.Host`."""
        log.error(
            "worker %d keeps snapshot %d, it cannot load %d: %s", slot, message.keeps, message.snapshot, message.words
        )

    def refresh_keys(self, issuer_id: str) -> None:
        """See `slots.Host`."""
        self.jwks.request(issuer_id)

    def worked(self, slot: int, message: Worked) -> None:
        """See `slots.Host`."""
        self.meters.worked(slot, message)

    def lease(self, slot: int, message: LeaseWanted | LeaseReturned) -> None:
        """See `slots.Host`."""
        if isinstance(message, LeaseWanted):
            self.lender.wanted(slot, message)
        else:
            self.lender.returned(slot, message)

    def key(self, slot: int, message: KeyClaim | KeyEnd | FeedbackClaim) -> None:
        """See `slots.Host`."""
        if isinstance(message, KeyEnd):
            self.claimant.ended(slot, message)
        else:
            self.claimant.claim(slot, message)

    def state(self, slot: int, message: State) -> None:
        """See `slots.Host`."""
        self.keeper.ask(slot, message)

    def calls(self, slot: int, message: CallsTold) -> None:
        """See `slots.Host`."""
        self.calls_now.told(slot, message)

    # -- the rest

    def running(self) -> Running:
        """What this node is now."""
        return Running(
            pid=os.getpid(),
            url=self._url(),
            port=self.listening.port,
            workers=tuple(slot.pid for slot in self.slots),
            snapshot=self.feed.view.version if self.feed.view is not None else 0,
        )

    def _url(self) -> str:
        return f"{'https' if self.settings.tls_cert_file else 'http'}://{self.listening.url}"

    async def _housekeeping(self) -> None:
        """Every second: signs of life, rows of removed sources. At the metrics' interval: this process's counts."""
        interval_s = self.settings.metrics_interval_ms / 1000
        looked_ns = 0
        while True:
            await asyncio.sleep(min(interval_s, TICK_S))
            now_ns = self.clock.mono_ns()
            if now_ns - looked_ns >= TICK_S * 1e9:
                looked_ns = now_ns
                for slot in self.slots:
                    slot.look()
                self._retire_rows()
            self.metrics.publish()

    def _retire_rows(self) -> None:
        """Give back the rows of removed sources, once every worker runs on a snapshot without them."""
        view = self.feed.view
        if view is not None and all(slot.ready and slot.snapshot >= view.version for slot in self.slots):
            self.board.retire({source.id for source in view.sources}, view.version)
            self.canary_keeper.retire()

    def _fill(self, metrics: Metrics) -> None:
        metrics.workers.set((), sum(1 for slot in self.slots if slot.ready))
        metrics.snapshot_rejected.follow((), self.feed.rejections)
        if self.feed.view is not None:
            metrics.snapshot_version.set((), self.feed.view.version)
        metrics.hour_price.clear()
        for source, hour_nusd in self._hours.items():
            metrics.hour_price.set((source,), hour_nusd)
        confirmed_ns = self.board.snapshot_confirmed()[1]
        metrics.snapshot_age_seconds.set((), max(self.clock.wall_ns() - confirmed_ns, 0) // 1000)
        fill_process(metrics, "node")

    def _on_fetch(self, ok: bool) -> None:
        self.metrics.jwks_fetches.add(("ok" if ok else "failed",))


def load_watcher(board: Board, settings: Settings, clock: Clock, metrics: Metrics) -> Watcher:
    """The watcher of a real node."""
    from interlock.sources.load import LoadWatcher

    return LoadWatcher(board, settings, clock, metrics=metrics)


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Replace a small file by a value as JSON; readers see the old or the new one. Raises OSError."""
    staged = path.with_name(f"{path.name}.new")
    staged.write_bytes(msgspec.json.encode(value) + b"\n")
    staged.replace(path)


@contextlib.contextmanager
def _home_lock(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another gateway runs on this home: {path} is locked") from None
        yield
    finally:
        os.close(fd)


async def _until_orphaned(node: GatewayNode, parent: int) -> None:
    """Stop the node when the process that started it is gone."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for this
        await asyncio.sleep(PARENT_POLL_S)
    log.warning("the process that started this node is gone")
    node.stop()


async def serve(settings: Settings, ready: Callable[[Running], None], parent: int | None = None) -> None:
    """Run a node until SIGTERM or SIGINT, or until process `parent` is gone."""
    node = GatewayNode(settings, SystemClock(), ready=ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stop)
    watch = asyncio.create_task(_until_orphaned(node, parent)) if parent is not None else None
    try:
        await node.run()
    finally:
        if watch is not None:
            watch.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code; a failure is one line of JSON, on stderr or, before it is ready, to whoever
    waits for that."""
    parser = argparse.ArgumentParser(prog="python -m interlock.gateway.node", description=__doc__)
    parser.add_argument("--ready-fd", type=int, help="file descriptor that one line of JSON is written to when ready")
    parser.add_argument("--parent", type=int, help="process id without which this node stops")
    given = parser.parse_args(arguments)

    def ready(running: Running) -> None:
        if given.ready_fd is not None:
            with os.fdopen(given.ready_fd, "wb") as out:
                out.write(msgspec.json.encode(running) + b"\n")
            given.ready_fd = None

    try:
        settings = load()
        setup_logging(settings.log_level, "node", settings=settings)
        asyncio.run(serve(settings, ready, given.parent))
    except InterlockError as e:
        failure = json.dumps({"error": e.code, "message": e.message, "param": e.param}) + "\n"
        os.write(sys.stderr.fileno() if given.ready_fd is None else given.ready_fd, failure.encode())
        return 2 if isinstance(e, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
