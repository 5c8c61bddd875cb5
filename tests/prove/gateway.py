"""A gateway of real processes on a stored snapshot, with the engines of the proof; no database at all.

Only processes that this module has started are ever killed: the node, and the node's own children.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interlock.gateway.node import SHIPPER_MODULE
from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.types.snapshot import Alias, Cascade, CascadeStep
from interlock.types.source import Price
from tests.gateway import PEPPER, Who, World, model, permit_all, source
from tests.ports import free_port

from .script import CASCADE, CHEAP, DEAR, FAR, MODELS, SHAKY, STEADY

PRICES = {
    CHEAP: {"price": Price(2 * 10**8, 10**8, 6 * 10**8)},
    DEAR: {"price": Price(3 * 10**9, 3 * 10**9, 15 * 10**9)},
}
ROOT = Path(__file__).parents[2]
START_S = 120.0
GONE_S = 60.0
START_TRIES = 5
"""A node that was killed leaves workers that hold the port until they have noticed: it is started again."""


class Process:
    """A process of ours that says one line of JSON when it is ready."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, ready_fd: bool) -> None:
        reading, writing = os.pipe()
        fd_arguments = ["--ready-fd", str(writing), "--parent", str(os.getpid())] if ready_fd else []
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments, *fd_arguments],
                env=dict(environment),
                pass_fds=(writing,) if ready_fd else (),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if ready_fd else writing,
                stderr=stderr,
                cwd=ROOT,
            )
        os.close(writing)
        self._reading = reading
        self.pid = self._process.pid

    def ready(self) -> dict[str, Any] | None:
        """What it said when it was ready; None when it ended before."""
        line, deadline = b"", time.monotonic() + START_S
        with os.fdopen(self._reading, "rb", buffering=0) as pipe:
            while not line.endswith(b"\n"):
                if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise TimeoutError(f"process {self._process.args!r} was not ready within {START_S:.0f} s")
                more = pipe.read(65_536)
                if not more:
                    self._process.wait()
                    return None
                line += more
        said: dict[str, Any] = json.loads(line)
        return said

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL; does not wait."""
        if self.running:
            self._process.kill()

    def stop(self) -> int:
        """SIGTERM, then SIGKILL when it takes too long; returns its exit code."""
        if self.running:
            self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and kill it when that does not come."""
        try:
            return self._process.wait(GONE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@dataclasses.dataclass
class Gateway:
    """Home, node and engines of a proof. `port` stays the same over all lives of the node."""

    home: Path
    people: list[Who]
    engines: dict[str, str]
    settings: dict[str, Any]
    environment: dict[str, str]
    port: int
    node: Process | None = None
    start_failures: int = 0

    def start(self, **settings: Any) -> None:
        """Start the node and wait until all its workers serve. `settings` are added to those of before."""
        self.settings.update(settings)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("INTERLOCK_")},
            **self.environment,
            **{f"INTERLOCK_{name.upper()}": str(value) for name, value in self.settings.items()},
            "INTERLOCK_HOME": str(self.home),
            "INTERLOCK_GATEWAY_PORT": str(self.port),
            "INTERLOCK_PEPPER_FILE": str(self.home / "pepper"),
            # Nothing listens there: what the stored snapshot allows goes on without a database.
            "INTERLOCK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        }
        for _ in range(START_TRIES):
            self.node = Process(["tests.prove.node"], environment, self.home / "node.err", ready_fd=True)
            if self.node.ready() is not None:
                return
            self.start_failures += 1
            time.sleep(0.1)
        raise RuntimeError(f"the node does not start: {(self.home / 'node.err').read_text()[-2000:]}")

    def workers(self) -> list[int]:
        """Process ids of the node's workers that live."""
        return [pid for pid in workers_of(self.node.pid) if alive(pid)] if self.node is not None else []

    def kill_worker(self, pid: int) -> bool:
        """SIGKILL to a child of our node; False when it is none any more."""
        if self.node is None or pid not in children(self.node.pid):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def stop(self) -> int:
        """Stop the node in good order; returns its exit code."""
        return self.node.stop() if self.node is not None else 0

    @property
    def log(self) -> Path:
        """The folder of the record log."""
        return self.home / "node" / "log"


@contextlib.contextmanager
def gateway(people: list[Who] | None = None, **settings: Any) -> Iterator[Gateway]:
    """A home with a stored snapshot, and running engines; the node is started by the caller."""
    people = people or [Who()]
    with tempfile.TemporaryDirectory(prefix="interlock-prove-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        (home / "pepper").write_bytes(PEPPER)
        engine = Process(
            ["tests.prove.engine", str(home / "engine.notes")], os.environ, home / "engine.err", ready_fd=False
        )
        made = None
        try:
            urls = engine.ready()
            assert urls is not None, "the engines did not start"
            store_snapshot(home, urls, people)
            made = Gateway(
                home,
                people,
                urls,
                {
                    "metrics_interval_ms": 1000,
                    "breaker_failures": 1_000_000,
                    "log_level": "warning",
                    "stop_grace_ms": 3000,
                    **settings,
                },
                {"PROVE_SYNCS": str(home / "syncs")},
                free_port(),
            )
            yield made
        finally:
            if made is not None:
                end(made)
            engine.kill()
            engine.wait()


def end(made: Gateway) -> None:
    """End all that is left of a gateway."""
    left = made.workers()
    made.stop()
    for pid in left:
        wait_gone(pid)


def store_snapshot(home: Path, urls: dict[str, str], people: list[Who]) -> None:
    """What the database would have told the node."""
    world = World(
        sources=[
            source(
                name,
                urls[name],
                *(model(m, **PRICES.get(m, {})) for m in MODELS[name]),
                **({} if name != FAR else {"labels": far_labels()}),
            )
            for name in (STEADY, FAR, SHAKY)
        ],
        people=people,
        policies=[permit_all(features=("multiply",))],
        aliases=[Alias(CASCADE, cascade=Cascade((CascadeStep(CHEAP), CascadeStep(DEAR)), ("finish",)))],
    )
    parts, head = world.parts(1)
    folder = SnapshotFolder(home / "node" / "snapshot", deltas_max=16)
    folder.store(SnapshotView.from_parts(parts, head, cache_max=64), None, parts)


def far_labels() -> Any:
    """A source outside the trust boundary, which may see what these callers send."""
    from interlock.types.identity import DataClass
    from interlock.types.source import Labels

    return Labels(region="eu", on_prem=False, data_class_max=DataClass.internal)


def workers_of(pid: int) -> list[int]:
    """Process ids of a node's workers: its children but the shipper."""
    return [child for child in children(pid) if SHIPPER_MODULE.encode() not in command_of(child)]


def command_of(pid: int) -> bytes:
    """The command line of a process, b"" when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """Process ids of a process's children, none when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid: int) -> None:
    """Wait until a process has ended. Raises TimeoutError."""
    deadline = time.monotonic() + GONE_S
    while alive(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not end")
        time.sleep(0.005)
