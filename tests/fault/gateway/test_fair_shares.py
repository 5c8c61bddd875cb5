"""Fair shares of a full source over three worker processes: one tenant floods, one worker is killed under way."""

from __future__ import annotations

import http.client
import json
import os
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
from tests.prove.gateway import Gateway, Process, end, free_port
from tests.prove.simulated import noted

SEATS = 6
SHAPE = {"slots": SEATS, "step_base_s": 0.004, "step_per_sequence_s": 0.0}
TOKENS = 8
"""So that a call takes about 40 ms."""
CALLERS = {"flood": 60, "small": 6, "other": 6}
TOLERANCE = 0.15


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
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # its worker was killed
            finally:
                connection.close()


def served(notes: Path, since: int) -> Counter[str]:
    """Whole answers by tenant, of the calls noted after the first `since`."""
    return Counter(line["marker"].partition(".")[0] for line in noted(notes)[since:] if line["whole"])


def run_for(
    gateway: Gateway, notes: Path, people: dict[str, Who], who: dict[str, int], seconds: float, kill: bool = False
) -> Counter[str]:
    """Let so many callers of these tenants call for a while; what was answered once all of them were there. `kill`: a
    worker, while they call, before that."""
    callers = [Caller(gateway.port, name, people[name].key) for name, count in who.items() for _ in range(count)]
    for caller in callers:
        caller.start()
    time.sleep(0.7)
    if kill:
        assert gateway.kill_worker(gateway.workers()[0])
        time.sleep(1.5)
    since = len(noted(notes))
    time.sleep(seconds)
    found = served(notes, since)
    for caller in callers:
        caller.stopped.set()
    for caller in callers:
        caller.join(20)
    assert {status for caller in callers for status in caller.statuses} == {200}, "nobody was refused"
    return found


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
        settings = {"log_level": "warning", "metrics_interval_ms": 1000, "stop_grace_ms": 3000}
        gateway = Gateway(tmp_path, list(people.values()), urls, settings, {}, free_port())
        gateway.start(workers=3)

        shared = run_for(gateway, notes, people, CALLERS, 3.0)
        whole = shared.total()
        assert whole > 200, shared
        for tenant in CALLERS:
            assert abs(shared[tenant] / whole - 1 / 3) < TOLERANCE / 3, shared

        alone = run_for(gateway, notes, people, {"flood": 30}, 1.5, kill=True)
        print(f"shares {dict(shared)} in 3 s; then {dict(alone)} in 1.5 s")
        assert alone["flood"] / 1.5 > 0.7 * whole / 3.0, "what others do not want is not left over"

        with Board.open(tmp_path / "node" / "run" / "board.shm", worker=None) as board:
            row = board.row("src_own")
            until = time.monotonic() + 5
            while board.inflight(row) and time.monotonic() < until:
                time.sleep(0.05)
            assert board.inflight(row) == 0, "no seat is lost"
    finally:
        if gateway is not None:
            end(gateway)
        engine.kill()
        engine.wait()
