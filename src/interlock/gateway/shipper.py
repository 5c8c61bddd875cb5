"""The shipper: brings a node's record log to the database, where the ledger is made of it.

    python -m interlock.gateway.shipper [--parent PID]

A process of its own beside the workers, started and watched by the node: what it does costs calls nothing but
processor time, and it may die at any point. While the database is away, records wait on the disk; how much may wait
is `log_disk_bytes_max`, above which the gateway refuses calls rather than forget them.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from interlock.errors import ConfigError, Conflict, InterlockError
from interlock.gateway.epoch_shipper import EpochShipper, finder
from interlock.gateway.garbage import NEW_OF_A_BATCH, collect_rarely
from interlock.gateway.slots import RETIRED_EXIT
from interlock.ledger.files import Files
from interlock.ledger.folder import (
    CLOSED,
    RECOVERED,
    birth_lock,
    epoch_ms,
    epochs,
    recovering_in,
    segment_path,
    segments,
)
from interlock.ledger.trim import drop_epoch, drop_segments, finish_drops
from interlock.ledger.vault import KeyWrapper
from interlock.settings import Settings, load
from interlock.storage import retirement, shipping
from interlock.storage.ledger_keys import LedgerKeys, read_key
from interlock.storage.pool import Store, away
from interlock.telemetry.logs import setup_logging
from interlock.telemetry.metrics import Metrics
from interlock.types.clock import Clock, SystemClock

log = logging.getLogger("interlock.gateway.shipper")

PARENT_POLL_S = 0.25
NICE = 10
"""Where processor time is scarce calls come first: records can wait on the disk, callers cannot."""
RETRY_S = 1.0
TRIM_S = 60.0
"""How often the log is looked through for what may be removed."""
REFUSED_S_MAX = 10.0
"""How long workers may write to epochs that were given up, before the node is asked to replace them. New ones need some
of it to recover what the old ones left."""
LAST_PASS_S = 1.5
"""How long the shipper goes on after it was asked to stop, to bring what the workers wrote last."""


class Shipper:
    """Ships the epochs of one log folder. One thread uses it."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        node: str,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises ConfigError when the master key cannot be read."""
        master = KeyWrapper(read_key(settings.ledger_key_path(), "the ledger's master key"), random)
        self.keys = LedgerKeys(
            *(master, random, settings.ledger_keys_max, store.shipping), sealed_bytes_max=settings.ledger_sealed_bytes
        )
        self.shipped = 0
        self.met_conflict = False
        """Whether the last pass left an epoch to the next one: another shipper was there, or somebody was erased."""
        self._store = store
        self._folder = folder
        self._node = node
        self._settings = settings
        self._clock = clock
        self._files = Files()
        self._find = finder(folder)
        self._running: dict[str, EpochShipper] = {}
        self._settled: set[str] = set()
        self._refused: list[str] = []

    def pass_once(self, until_s: float = float("inf")) -> None:
        """Bring everything that the log holds now, oldest epoch first. Raises StoreError, OSError; then try again.
        Raises Conflict (`retired`), in the end, while a worker writes to an epoch that was given up.

        `until_s`: on the monotonic clock, when to leave the rest for another time.
        """
        self.met_conflict = False
        for state in self._register():
            known = self._running.get(state.epoch)
            if known is None:
                with self._store.shipping() as conn:
                    counts = shipping.counts(conn, state.epoch)
                known = self._running[state.epoch] = EpochShipper(
                    self._folder, state, counts, self.keys, self._settings, self._find, self._files
                )
            self._ship(known, until_s)
        whole = [name for name, each in self._running.items() if each.done]
        if whole:
            with self._store.shipping() as conn:
                shipping.settle(conn, whole)
        if self._refused:
            raise Conflict(
                f"this node was retired while it was away, and epoch {self._refused[0]} given up: what its worker takes"
                " is not in the ledger until it is replaced",
                code="retired",
            )

    def trim(self) -> None:
        """Remove from the log what has been in the ledger for `log_keep_s`. Raises OSError."""
        if not self._folder.is_dir():
            return
        before_s = self._clock.wall_ns() / 1e9 - self._settings.log_keep_s
        finish_drops(self._folder)
        telling = {other for name in self._running for other in recovering_in(self._folder, name)}
        self._settled -= {name for name in self._settled - telling if drop_epoch(self._folder, name, before_s)}
        for name, each in self._running.items():
            if name in telling:
                continue  # it tells how the calls of a dead one were interrupted
            drop_segments(self._folder, name, each.resume_segment, before_s, self._files)

    def close(self) -> None:
        """Release every file."""
        for each in self._running.values():
            each.close()
        self._running.clear()

    def _register(self) -> list[shipping.Epoch]:
        """Those of our epochs that are not settled, as the database knows them; it knows all of them afterwards."""
        if not self._folder.is_dir():
            names: list[str] = []
            now_ns = self._clock.wall_ns()
        else:
            with birth_lock(self._files, self._folder):
                now_ns = self._clock.wall_ns()
                names = epochs(self._folder)
        open_ones = {name: epoch_ms(name) * 1_000_000 for name in names if name not in self._settled}
        with self._store.shipping() as conn:
            states = shipping.register(conn, self._node, open_ones, now_ns)
            given_up = retirement.given_up(conn, list(open_ones))
        self._refused = [name for name in given_up if not self._take_leave(name)]
        unsettled = {state.epoch for state in states}
        self._settled.update(name for name in open_ones if name not in unsettled and name not in self._refused)
        for name in self._running.keys() - unsettled:
            self._running.pop(name).close()
        return states

    def _take_leave(self, epoch: str) -> bool:
        """An epoch that was given up when this node was retired: whether it is over, and the database knows it."""
        if not any((self._folder / epoch / mark).exists() for mark in (CLOSED, RECOVERED)):
            return False
        paths = [segment_path(self._folder, epoch, index) for index in segments(self._folder, epoch)]
        last_ns = (
            max((path.stat().st_mtime_ns for path in paths), default=0)
            + self._settings.ledger_clock_skew_ms * 1_000_000
        )
        with self._store.shipping() as conn:
            retirement.returned(conn, self._node, epoch, last_ns)
        log.error(
            "this node was retired while it was away: what had not arrived of epoch %s is not in the ledger, and its"
            " log goes after log_keep_s",
            epoch,
        )
        return True

    def _ship(self, each: EpochShipper, until_s: float) -> None:
        before = each.shipped_seq
        try:
            while each.ship(self._store) and time.monotonic() < until_s:
                pass
        except BaseException as e:
            self._running.pop(each.epoch).close()
            if not isinstance(e, Conflict):
                raise
            log.warning("%s", e.message)
            self.met_conflict = True
        finally:
            self.shipped += each.shipped_seq - before


def run(settings: Settings, stop: threading.Event, clock: Clock) -> int:
    """Ship until `stop`; the exit code. Raises ConfigError."""
    node = settings.node or socket.gethostname()
    folder = settings.home_path("node", "log")
    metrics = Metrics(settings.home_path("node", "run"), "shipper", settings, clock)
    collect_rarely(NEW_OF_A_BATCH)
    with Store(settings.database_url, settings, name="shipper") as store:
        shipper: Shipper | None = None
        failing = False
        refused_at_s: float | None = None
        trim_at_s = 0.0
        while True:
            stopping = stop.is_set()
            wait_s = settings.ledger_ship_ms / 1000
            try:
                shipper = shipper or Shipper(store, folder, node, settings, clock)
                shipped = shipper.shipped
                until_s = time.monotonic() + LAST_PASS_S if stopping else float("inf")
                shipper.pass_once(until_s)
                if stopping and shipper.met_conflict:
                    shipper.pass_once(until_s)
                metrics.ledger_shipped.add((), shipper.shipped - shipped)
                if time.monotonic() >= trim_at_s:
                    trim_at_s = time.monotonic() + TRIM_S
                    shipper.trim()
                failing, refused_at_s = False, None
            except (InterlockError, OSError) as e:
                wait_s = RETRY_S
                if isinstance(e, Conflict) and e.code == "retired":
                    refused_at_s = refused_at_s or time.monotonic()
                if not failing:
                    level = logging.WARNING if away(e) or isinstance(e, ConfigError) else logging.ERROR
                    log.log(level, "records wait in the log: %s", e)
                failing = True
            metrics.ledger_failing.set((), int(failing))
            metrics.publish()
            refused = refused_at_s is not None and time.monotonic() - refused_at_s > REFUSED_S_MAX
            if stopping or refused:
                break
            stop.wait(wait_s)
        if shipper is not None:
            shipper.close()
    return RETIRED_EXIT if refused and not stopping else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m interlock.gateway.shipper", description=__doc__)
    parser.add_argument("--parent", type=int, help="process id without which this process stops")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the node says when to stop
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = load()
    setup_logging(settings.log_level, "shipper", settings=settings)
    os.nice(NICE)
    if given.parent is not None:
        threading.Thread(target=_until_orphaned, args=(given.parent, stop), daemon=True).start()
    return run(settings, stop, SystemClock())


def _until_orphaned(parent: int, stop: threading.Event) -> None:
    while not stop.wait(PARENT_POLL_S):
        if os.getppid() != parent:
            stop.set()


if __name__ == "__main__":
    sys.exit(main())
