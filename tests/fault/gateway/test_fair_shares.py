"""Fair shares of a full source over three worker processes: one tenant floods, one worker is killed under way."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from interlock.gateway.snapshot import SnapshotView
from interlock.gateway.snapshot_folder import SnapshotFolder
from interlock.sources.board import Board
from interlock.types.source import SourceLimits
from tests.gateway import PEPPER, Who, World, source
from tests.ports import free_port
from tests.prove.gateway import Gateway, Process, end
from tests.prove.simulated import noted

SEATS = 6
SHAPE = {"slots": SEATS, "step_base_s": 0.03, "step_per_sequence_s": 0.0}
TOKENS = 8
"""So that a call takes about 250 ms: much longer than callers and workers need for it on a busy machine."""
CALLERS = {"flood": 60, "small": 6, "other": 6}
CALLS = 150
TOLERANCE = 0.15
"""Of a tenant's share."""
USED_MIN = 0.6
PATIENCE_S = 90.0
LOOKS = 4
"""Measurements until one is within the tolerance. What takes the machine from callers or workers for a moment makes one
of them wrong; unfair shares are in each."""


class Caller(threading.Thread):
    """Calls over and over."""

    def __init__(self, port: int, tenant: str, key: str) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()
        self.stopped = threading.Event()
        self._port, self._tenant, self._key = port, tenant, key

    def run(self) -> None:
        body = json.dumps(
            {"model": "m", "max_tokens": TOKENS, "messages": [{"role": "user", "content": f"<{self._tenant}.x>"}]}
        ).encode()
        while not self.stopped.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
            try:
                headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
                connection.request("POST", "/v1/chat/completions", body, headers)
                with connection.getresponse() as answer:
                    answer.read()
                self.statuses[answer.status] += 1
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # its worker was killed
            finally:
                connection.close()


def served(notes: Path, since: int) -> Counter[str]:
    """Whole answers by tenant, of the calls noted after the first `since`."""
    return Counter(line["marker"].partition(".")[0] for line in noted(notes)[since:] if line["whole"])


def run_until(
    gateway: Gateway, notes: Path, people: dict[str, Who], who: dict[str, int], count: int, kill: bool = False
) -> tuple[Counter[str], float]:
    """Let so many callers of these tenants call; what was answered once all of them were there, `count` or more, and
    how many seats were taken meanwhile, on average. `kill`: a worker, while they call, before that."""
    callers = [Caller(gateway.port, name, people[name].key) for name, number in who.items() for _ in range(number)]
    for caller in callers:
        caller.start()
    time.sleep(0.7)
    if kill:
        assert gateway.kill_worker(gateway.workers()[0])
        time.sleep(1.5)
    since, taken = len(noted(notes)), []
    deadline = time.monotonic() + PATIENCE_S
    with Board.open(gateway.home / "node" / "run" / "board.shm", worker=None) as board:
        while len(noted(notes)) - since < count and time.monotonic() < deadline:
            taken.append(board.inflight(board.row("src_own")))
            time.sleep(0.02)
    found = served(notes, since)
    for caller in callers:
        caller.stopped.set()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert {status for caller in callers for status in caller.statuses} == {200}, "nobody was refused"
    assert max(taken) <= SEATS
    return found, statistics.mean(taken)


def unfair(shared: Counter[str]) -> bool:
    """Whether a tenant got more or less than its third."""
    return any(abs(shared[tenant] / shared.total() - 1 / 3) >= TOLERANCE / 3 for tenant in CALLERS)


def test_a_flood_takes_its_share_and_no_more(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "pepper").write_bytes(PEPPER)
    spec = json.dumps({"own": SHAPE})
    engine = Process(["tests.prove.simulated", str(notes), spec], os.environ, tmp_path / "engine.err", ready_fd=False)
    people = {name: Who(name=name, tenant=name) for name in CALLERS}
    gateway = None
    try:
        urls: Any = engine.ready()
        world = World(
            [source("own", urls["own"], limits=SourceLimits(concurrency=SEATS))], people=list(people.values())
        )
        parts, head = world.parts(1)
        folder = SnapshotFolder(tmp_path / "node" / "snapshot", deltas_max=16)
        folder.store(SnapshotView.from_parts(parts, head, cache_max=64), None, parts)
        settings = {
            "log_level": "warning",
            "metrics_interval_ms": 1000,
            "stop_grace_ms": 3000,
            "queue_wait_ms_interactive": 300_000,
        }
        gateway = Gateway(tmp_path, list(people.values()), urls, settings, {}, free_port())
        gateway.start(workers=3)

        looks: list[Counter[str]] = []
        while not looks or unfair(looks[-1]):
            assert len(looks) < LOOKS, looks
            looks.append(run_until(gateway, notes, people, CALLERS, CALLS)[0])
            assert looks[-1].total() >= CALLS, "it takes too long"

        used = [run_until(gateway, notes, people, {"flood": 30}, CALLS // 3, kill=True)[1]]
        while used[-1] <= USED_MIN * SEATS:
            assert len(used) < LOOKS, f"what others do not want is not left over: {used}"
            used.append(run_until(gateway, notes, people, {"flood": 30}, CALLS // 3)[1])

        with Board.open(tmp_path / "node" / "run" / "board.shm", worker=None) as board:
            row = board.row("src_own")
            until = time.monotonic() + 30
            while board.inflight(row) and time.monotonic() < until:
                time.sleep(0.05)
            assert board.inflight(row) == 0, "no seat is lost"
    finally:
        if gateway is not None:
            end(gateway)
        engine.kill()
        engine.wait()
