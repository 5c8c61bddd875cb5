"""The snapshot on a real stack: how soon a revocation is seen by every worker among 100,000 keys, and what goes on
while PostgreSQL is stopped.

Control process, node and four workers are those of an installation; keys beyond the few that are used are put into the
database by one statement. A revocation is timed from the admin API's answer (it is committed then) to the first 401 of
each worker, asked on a connection of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from interlock.cli.client import AdminClient
from interlock.errors import InterlockError
from interlock.settings import Settings
from interlock.storage import snapshots
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.pool import Store
from tests.postgres import owned_home, patient

from .gateway import Process, workers_of
from .script import STEADY

WORKERS = 4
PRINCIPALS = 10_000
VISIBLE_S_MAX = 1.0
OUTAGE_S = 5.0
LOADED_S = 120.0
POLL_S = 0.005
"""Pause between two questions to the same worker."""

BULK_PRINCIPALS = """
INSERT INTO interlock.principals (id, tenant_id, kind, name, may_act_for, active, created_at, updated_at)
SELECT 'prn_' || lpad(i::text, 20, '0'), %(tenant)s, 'user', 'bulk-' || i, '{}', true, now(), now()
FROM generate_series(1, %(count)s) i
"""
BULK_KEYS = """
INSERT INTO interlock.api_keys (id, tenant_id, principal_id, name, prefix, digest, scopes, not_after_s, data_class,
    revoked, cut, replaces, created_at, updated_at)
SELECT 'key_' || lpad(i::text, 20, '0'), %(tenant)s, 'prn_' || lpad((1 + i %% %(principals)s)::text, 20, '0'),
    'bulk-' || i, 'il_live_bulk', sha256(('bulk ' || i)::bytea), '{infer}', 0, 1, false, false, '', now(), now()
FROM generate_series(1, %(count)s) i
"""


def prove(*, keys: int, revocations: int, seed: int, progress: bool = True) -> dict[str, Any]:
    """Set up, revoke `revocations` keys one after the other, stop PostgreSQL, start it again; returns the evidence."""
    failures: list[str] = []
    with owned_home() as home, _database(home) as server, _stack(home, server) as (admin, port, node):
        names = [f"shown-{number}" for number in range(revocations + 3)]
        secrets = _configure(admin, home, names)
        loaded_s = _fill(server, home, admin, keys)
        if progress:
            sys.stderr.write(f"snapshot: {keys} keys in the workers after {loaded_s:.1f} s\n")
        workers = _connections(port)
        _until(lambda: all(w.models(secrets[names[-1]]) == 200 for w in workers), LOADED_S, "the keys to be known")
        seen = [_revoke(admin, workers, name, secrets[name]) for name in names[:revocations]]
        slowest = max(max(each) for each in seen)
        if slowest > VISIBLE_S_MAX:
            failures.append(f"a revocation was seen by all workers only after {slowest:.3f} s")
        outage = _outage(server, admin, workers, secrets[names[-1]], names[-3], secrets[names[0]], failures)
        outage["back_s"] = _back(server, admin, workers, names[-2], secrets[names[-2]], failures)
        rss = {str(pid): _rss_mb(pid) for pid in workers_of(node.pid)}
    each_worst = [max(each) for each in seen]
    evidence = {
        "seed": seed,
        "keys": keys,
        "workers": len(workers),
        "revocations": revocations,
        "seen_by_all_s_median": round(statistics.median(each_worst), 4),
        "seen_by_all_s_max": round(slowest, 4),
        "seen_by_one_s_median": round(statistics.median(s for each in seen for s in each), 4),
        "loaded_s": round(loaded_s, 2),
        "worker_rss_mb": rss,
        "outage": outage,
        "failures": failures,
    }
    if progress:
        sys.stderr.write(f"snapshot: {json.dumps({k: v for k, v in evidence.items() if k != 'failures'})}\n")
    return evidence


class Worker:
    """A kept connection, which always leads to the same worker."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            status, body = self._ask("GET", "/ready", "")
            assert status == 200, body
            self.epoch = str(json.loads(body)["epoch"])
        except BaseException:
            self.close()
            raise

    def models(self, key: str) -> int:
        """Status of a listing with this key: 200, or 401 when it does not count."""
        return self._ask("GET", "/v1/models", key)[0]

    def chat(self, key: str, marker: str) -> int:
        """Status of a completion with this key."""
        body = {"model": "near-model", "messages": [{"role": "user", "content": marker}], "max_tokens": 50}
        return self._ask("POST", "/v1/chat/completions", key, json.dumps(body).encode())[0]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _ask(self, method: str, path: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._connection.request(method, path, body=body, headers=headers)
        response = self._connection.getresponse()
        return response.status, response.read()


@contextlib.contextmanager
def _database(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home, patient(home))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _stack(home: Path, server: EmbeddedPostgres) -> Iterator[tuple[AdminClient, int, Process]]:
    """Engines, control process and node; the admin API, the gateway's port, the node."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("INTERLOCK_")},
        "INTERLOCK_HOME": str(home),
        "INTERLOCK_DATABASE_URL": server.url,
        "INTERLOCK_WORKERS": str(WORKERS),
        "INTERLOCK_GATEWAY_PORT": "0",
        "INTERLOCK_CONTROL_PORT": "0",
        "INTERLOCK_LOG_LEVEL": "warning",
    }
    started: list[Process] = []

    def start(module: str, *arguments: str, ready_fd: bool = True) -> dict[str, Any]:
        log = home / f"{module}.err"
        started.append(Process([module, *arguments], environment, log, ready_fd=ready_fd))
        said = started[-1].ready()
        assert said is not None, f"{module} did not start: {log.read_text()[-2000:]}"
        return said

    try:
        engines = start("tests.prove.engine", str(home / "engine.notes"), ready_fd=False)
        control = start("interlock.control.main")
        (home / "engine.url").write_text(engines[STEADY])
        gateway = start("interlock.gateway.node")
        admin = AdminClient(control["url"], (home / "secrets" / "admin_key").read_text().strip())
        yield admin, int(gateway["port"]), started[-1]
    finally:
        for process in reversed(started):
            process.stop()


def _configure(admin: AdminClient, home: Path, names: list[str]) -> dict[str, str]:
    """A source, a tenant and a few keys by document; returns the secrets of the keys by name."""
    document = {
        "sources": [
            {
                "name": "steady",
                "kind": "openai",
                "url": (home / "engine.url").read_text(),
                "granted_to": ["acme"],
                "labels": {"region": "eu", "on_prem": True},
            }
        ],
        "tenants": [
            {
                "name": "acme",
                "teams": [{"name": "research"}],
                "principals": [{"name": "alice", "teams": ["research"]}],
                "keys": [{"name": name, "principal": "alice"} for name in names],
                "policies": [
                    {
                        "id": "research-models",
                        "template": "team-may-use-models",
                        "parameters": {"team": "research", "models": "*"},
                    }
                ],
            }
        ],
    }
    files = [{"name": "proof.json", "text": json.dumps(document)}]
    applied = admin.call("POST", "/apply", {"files": files}, reason="a proof")
    secrets: dict[str, str] = applied["keys"]["acme"]
    return secrets


def _fill(server: EmbeddedPostgres, home: Path, admin: AdminClient, keys: int) -> float:
    """Put `keys` keys into the database; returns the seconds until the node runs on a snapshot with them."""
    with Store(server.url, Settings(home=str(home), database_statement_timeout_ms=120_000)) as store:
        with store.platform() as conn:
            row = conn.execute("SELECT id FROM interlock.tenants WHERE name = 'acme'").fetchone()
            assert row is not None
            conn.execute(BULK_PRINCIPALS, {"tenant": row[0], "count": PRINCIPALS})
            conn.execute(BULK_KEYS, {"tenant": row[0], "count": keys, "principals": PRINCIPALS})
            before = admin.call("GET", "/snapshot")["version"]
            snapshots.mark_everything(conn)
        started = time.monotonic()

    def loaded() -> bool:
        said = admin.call("GET", "/snapshot")
        return said["version"] > before and all(
            node["behind"] == 0 and node["snapshot_version"] == said["version"] for node in said["nodes"]
        )

    _until(loaded, LOADED_S, "the snapshot to reach the workers")
    return time.monotonic() - started


def _connections(port: int) -> list[Worker]:
    """One connection to each worker."""
    found: dict[str, Worker] = {}
    for _ in range(500):
        worker = Worker(port)
        if worker.epoch in found:
            worker.close()
        found.setdefault(worker.epoch, worker)
        if len(found) == WORKERS:
            return list(found.values())
    raise AssertionError(f"only {len(found)} of {WORKERS} workers were met")


def _revoke(admin: AdminClient, workers: list[Worker], name: str, secret: str) -> list[float]:
    """Revoke one key; returns, for each worker, the seconds from the answer to its first refusal."""
    revoked = threading.Event()
    answered_ns = 0

    def ask(worker: Worker) -> int:
        assert worker.models(secret) == 200
        revoked.wait()
        while worker.models(secret) != 401:
            time.sleep(POLL_S)
        return time.monotonic_ns()

    with ThreadPoolExecutor(len(workers)) as pool:
        waiting = [pool.submit(ask, worker) for worker in workers]
        time.sleep(0.05)
        try:
            admin.call("POST", f"/tenants/acme/keys/{name}/revoke", {}, reason="a proof")
            answered_ns = time.monotonic_ns()
        finally:
            revoked.set()
        return [max(0.0, (each.result(20) - answered_ns) / 1e9) for each in waiting]


def _outage(
    server: EmbeddedPostgres,
    admin: AdminClient,
    workers: list[Worker],
    good: str,
    name: str,
    revoked: str,
    failures: list[str],
) -> dict[str, Any]:
    """Stop PostgreSQL; what was allowed is served by every worker, what was not is refused."""
    server.stop()
    if server.pid is not None:
        failures.append("PostgreSQL did not stop")
    until, calls = time.monotonic() + OUTAGE_S, 0
    while time.monotonic() < until:
        for number, worker in enumerate(workers):
            calls += 1
            status = worker.chat(good, f"outage:{number}:0:{calls}")
            if status != 200:
                failures.append(f"without PostgreSQL an allowed call was answered {status}")
            if worker.models(revoked) != 401:
                failures.append("without PostgreSQL a revoked key was let through")
    try:
        admin.call("POST", f"/tenants/acme/keys/{name}/revoke", {}, reason="a proof")
        failures.append("without PostgreSQL the admin API claimed to have changed something")
    except InterlockError:
        pass  # that is what it has to say
    return {"seconds": OUTAGE_S, "calls_served": calls, "failures": len(failures)}


def _back(
    server: EmbeddedPostgres, admin: AdminClient, workers: list[Worker], name: str, secret: str, failures: list[str]
) -> float:
    """Start PostgreSQL again; seconds until a revocation made then was seen by all workers."""
    server.start()
    started = time.monotonic()

    def revoked() -> bool:
        try:
            admin.call("POST", f"/tenants/acme/keys/{name}/revoke", {}, reason="a proof")
        except InterlockError:
            return False
        return True

    try:
        _until(revoked, 30, "the admin API to come back")
        _until(lambda: all(worker.models(secret) == 401 for worker in workers), 30, "a revocation after the outage")
    except AssertionError as e:
        failures.append(str(e))
    return round(time.monotonic() - started, 2)


def _until(done: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.02)


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGESIZE") / 1e6, 1)
