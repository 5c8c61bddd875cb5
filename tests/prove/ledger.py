"""The ledger on two nodes and a PostgreSQL of its own, while everything is killed: each call is in it once, a verifier
calls it complete, and what it says they cost is what the logs say.

Two gateway nodes of two workers, a control process, and a database server that Interlock did not start. Clients call
both nodes all the time. In each round something is killed with SIGKILL: a worker, a shipper, a node with all that is
its, the control process with its sequencer, or the database's server; what does not start again by itself is started.
Or a node's disk is full for a while, fails to make things durable, or takes a part of what is written.
In the end the record logs of both nodes, the clients' own lists, and an export as an auditor gets it must agree.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import Connection

from interlock.cli.client import AdminClient
from interlock.errors import InterlockError
from interlock.gateway.node import SHIPPER_MODULE
from interlock.ledger.reader import tail
from interlock.settings import Settings
from interlock.storage.embedded import EmbeddedPostgres
from interlock.storage.pool import Store
from interlock.types.record import Intent, Interrupted, Outcome, Refusal, request_id
from tests.ports import free_port
from tests.postgres import owned_home, patient

from .gateway import Process, children, command_of, workers_of
from .script import CASCADE, CHEAP, DEAR, FAR, STEADY
from .worker import FAILING, FULL, SHORT

NODES = ("north", "south")
CLIENTS = 3
"""Clients of each node."""
ROUND_S = 0.8
DONE_S = 240.0
FAULTS = {"full disk": FULL, "failing disk": FAILING, "short writes": SHORT}
"""What goes wrong with a node's disk for a while."""
KINDS = (
    "worker",
    "worker",
    "shipper",
    "shipper",
    "node",
    "control",
    "database",
    "worker and shipper",
    *FAULTS,
    "erasure",
)
"""What happens in a round: what is named by a process is killed. An erasure is of who makes all these calls."""


class Client(threading.Thread):
    """Calls one node, over and over; remembers what it was told of which call."""

    def __init__(self, port: int, key: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.told: dict[str, bool] = {}
        """By request id, whether the whole answer arrived."""
        self.stopped = threading.Event()
        self._port = port
        self._key = key
        self._random = random.Random(seed)
        self._said = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._call()
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    def _call(self) -> None:
        streamed = self._random.random() < 0.5
        self._said += 1
        turns = [{"role": "user", "content": f"turn {n} of {self.name}"} for n in range(1 + self._said % 4)]
        body = {"model": "near-model", "messages": turns, "max_tokens": 20, "stream": streamed}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
            with connection.getresponse() as response:
                identifier = response.headers.get("x-interlock-request-id", "")
                if identifier and response.status != 503:
                    self.told[identifier] = False
                text = response.read()
                if response.status == 200 and (not streamed or text.rstrip().endswith(b"data: [DONE]")):
                    self.told[identifier] = True
        finally:
            connection.close()


class Stack:
    """All processes of the proof, each of which may be killed and is started again."""

    def __init__(self, base: Path, server: EmbeddedPostgres, **environment: str) -> None:
        self.base = base
        self.server = server
        self.ports = {name: free_port() for name in (*NODES, "control")}
        self.processes: dict[str, Process] = {}
        shared = base / "control" / "secrets"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("INTERLOCK_")},
            "INTERLOCK_DATABASE_URL": server.url,
            "INTERLOCK_WORKERS": "2",
            "INTERLOCK_LOG_LEVEL": "error",
            "INTERLOCK_PEPPER_FILE": str(shared / "pepper"),
            "INTERLOCK_LEDGER_KEY_FILE": str(shared / "ledger_key"),
            "INTERLOCK_LEDGER_SIGNING_KEY_FILE": str(shared / "ledger_signing_key"),
            "INTERLOCK_LEDGER_CHECKPOINT_S": "1",
            "INTERLOCK_LEDGER_QUIET_CHECKPOINT_S": "1",
            "INTERLOCK_CONTROL_PORT": str(self.ports["control"]),
            **environment,
        }
        shared.mkdir(parents=True, mode=0o700)
        for name in ("pepper", "ledger_key", "ledger_signing_key"):
            (shared / name).write_text(os.urandom(32).hex() + "\n")

    def start(self, name: str) -> dict[str, Any]:
        """Start a process by name; what it said when it was ready."""
        home = self.base / name
        home.mkdir(mode=0o700, exist_ok=True)
        environment = {**self.environment, "INTERLOCK_HOME": str(home)}
        if name in NODES:
            environment |= {"INTERLOCK_NODE": name, "INTERLOCK_GATEWAY_PORT": str(self.ports[name])}
            environment["PROVE_FAULTS"] = str(self._faults(name))
            arguments = ["tests.prove.node"]
        elif name == "control":
            arguments = ["interlock.control.main"]
        else:
            arguments = ["tests.prove.engine", str(self.base / "engine.notes")]
        log = self.base / f"{name}.err"
        process = self.processes[name] = Process(arguments, environment, log, ready_fd=name != "engine")
        said = process.ready()
        assert said is not None, f"{name} did not start: {log.read_text()[-2000:]}"
        return said

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection[Any]]:
        """A look at the database, across tenants."""
        with Store(self.server.url, Settings()) as store, store.platform() as conn:
            yield conn

    def admin(self) -> AdminClient:
        """The admin API, as the first administrator."""
        key = (self.base / "control" / "secrets" / "admin_key").read_text().strip()
        return AdminClient(f"http://127.0.0.1:{self.ports['control']}", key)

    def _faults(self, node: str) -> Path:
        return self.base / f"{node}.faults"

    def kill(self, kind: str, rng: random.Random) -> None:
        """Kill something of this kind, and see to it that it is there again; or let a node's disk misbehave."""
        node = rng.choice(NODES)
        pid = self.processes[node].pid
        if kind in FAULTS:
            self._faults(node).write_text(FAULTS[kind])
            time.sleep(rng.uniform(0.1, 0.6))
            self._faults(node).unlink()
            return
        if kind == "node":
            for child in children(pid):
                _kill(child)
            self._again(node)
        elif kind == "control":
            self._again("control")
        elif kind == "database":
            server_pid = self.server.pid
            if server_pid is not None:
                _kill(server_pid)
            time.sleep(rng.uniform(0, 0.5))
            self.server.start()
        elif kind == "erasure":
            with contextlib.suppress(InterlockError):  # nothing is there yet, or the database is just coming back
                self.admin().call("POST", "/tenants/acme/ledger/erase", {"subject": "alice"}, reason="a proof")
        if "worker" in kind and (workers := workers_of(pid)):
            _kill(rng.choice(workers))
        if "shipper" in kind:
            for child in children(pid):
                if SHIPPER_MODULE.encode() in command_of(child):
                    _kill(child)

    def _again(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.wait()
        until = time.monotonic() + 120
        while True:
            try:
                self.start(name)
                return
            except AssertionError:
                # what it left behind has not ended yet, or the database is just coming back
                if time.monotonic() > until:
                    raise
                time.sleep(0.3)

    def stop(self) -> None:
        """Stop everything in good order, the nodes first."""
        for name in (*NODES, "control", "engine"):
            if name in self.processes:
                self.processes[name].stop()


def prove(*, rounds: int, seed: int, progress: bool = True) -> dict[str, Any]:
    """Kill for `rounds` rounds; returns the evidence."""
    rng = random.Random(f"ledger {seed}")
    failures: list[str] = []
    killed: Counter[str] = Counter()
    with owned_home() as home, database(home) as server:
        stack = Stack(home.parent, server)
        try:
            money = {"name": "money", "principal": "alice", "usd": 1_000_000, "window": "total"}
            key, began = set_up(stack, money)
            clients = [Client(stack.ports[node], key, seed * 100 + n) for n in range(CLIENTS) for node in NODES]
            for client in clients:
                client.start()
            for number in range(rounds):
                kind = rng.choice(KINDS)
                killed[kind] += 1
                time.sleep(rng.uniform(0.1, ROUND_S))
                stack.kill(kind, rng)
                if progress:
                    told = sum(len(client.told) for client in clients)
                    sys.stderr.write(f"ledger {number + 1}/{rounds} {kind}: {told} calls\n")
            time.sleep(1.0)
            for client in clients:
                client.stopped.set()
            for client in clients:
                client.join(90)
            ended = time.time()
            figures = _settle_and_judge(stack, clients, began, ended, failures)
        finally:
            stack.stop()
    return {"seed": seed, "rounds": rounds, "killed": dict(killed), **figures, "failures": failures}


def set_up(stack: Stack, *budgets: dict[str, Any]) -> tuple[str, float]:
    """Start everything; a key, and when it began."""
    engines = stack.start("engine")
    stack.start("control")
    document = {
        "sources": [
            {
                "name": "steady",
                "kind": "openai",
                "url": engines[STEADY],
                "granted_to": ["acme"],
                "labels": {"region": "eu", "on_prem": True},
                "models": [_priced("near-model", 0.2, 0.6), _priced(CHEAP, 0.1, 0.3)],
            },
            {
                "name": "far",
                "kind": "openai",
                "url": engines[FAR],
                "granted_to": ["acme"],
                "labels": {"region": "eu", "on_prem": False, "data_class_max": "internal"},
                "models": [_priced(DEAR, 0.4, 1.2)],
            },
        ],
        "tenants": [
            {
                "name": "acme",
                "teams": [{"name": "research"}],
                "principals": [{"name": "alice", "teams": ["research"]}],
                "keys": [{"name": "laptop", "principal": "alice"}],
                "budgets": budgets,
                "aliases": [
                    {"name": CASCADE, "cascade": {"steps": [{"model": CHEAP}, {"model": DEAR}], "checks": ["finish"]}}
                ],
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
    applied = stack.admin().call("POST", "/apply", {"files": files}, reason="a proof")
    began = time.time() - 1
    for node in NODES:
        stack.start(node)
    return str(applied["keys"]["acme"]["laptop"]), began


def _priced(name: str, input_usd: float, output_usd: float) -> dict[str, Any]:
    return {"name": name, "price": {"input_usd_per_mtok": input_usd, "output_usd_per_mtok": output_usd}}


def _settle_and_judge(
    stack: Stack, clients: list[Client], began: float, ended: float, failures: list[str]
) -> dict[str, Any]:
    """Stop the nodes, wait for the ledger, export, verify, compare."""
    admin = stack.admin()

    def complete() -> bool:
        try:
            until = datetime.fromisoformat(admin.call("GET", "/tenants/acme/ledger/checkpoint")["complete_until"])
        except InterlockError:
            return False
        return until.timestamp() > ended

    _until(complete, DONE_S, "a checkpoint under which everything is in the ledger", failures)
    for node in NODES:
        stack.processes[node].stop()
    folder = stack.base / "export"
    environment = {
        **os.environ,
        "INTERLOCK_CONTROL_URL": f"http://127.0.0.1:{stack.ports['control']}",
        "INTERLOCK_ADMIN_KEY": (stack.base / "control" / "secrets" / "admin_key").read_text().strip(),
    }
    span = ("--from", _at(began), "--to", _at(ended))
    _interlock(environment, "ledger", "export", str(folder), "-t", "acme", *span)
    trusted = admin.call("GET", "/tenants/acme/ledger/checkpoint")["keys"][0]
    report = _interlock(environment, "ledger", "verify", str(folder), "--key", trusted)
    if report.get("verdict") != "complete":
        failures.append(f"the export is not complete: {report}")
    entries = [json.loads(line) for line in (folder / "entries.jsonl").read_bytes().splitlines()]
    return _judge(stack, clients, entries, failures)


def _judge(stack: Stack, clients: list[Client], entries: list[Any], failures: list[str]) -> dict[str, Any]:
    calls = [entry for entry in entries if entry["kind"] in ("call", "refusal")]
    times = Counter(entry["request"] for entry in calls)
    twice = [request for request, count in times.items() if count > 1]
    if twice:
        failures.append(f"{len(twice)} calls are in the ledger more than once, such as {twice[0]}")
    erasures = sum(entry["kind"] == "erasure" for entry in entries)
    state = {entry["request"]: entry["result"]["state"] for entry in calls}
    told = {request: whole for client in clients for request, whole in client.told.items()}
    for request, whole in told.items():
        if request not in state:
            failures.append(f"{request} was answered and is not in the ledger")
        elif whole and state[request] != "completed":
            failures.append(f"{request} was answered whole and is {state[request]} in the ledger")
    logged, cost = _logged(stack)
    if missing := logged - state.keys():
        failures.append(f"{len(missing)} calls of the logs are not in the ledger, such as {min(missing)}")
    if beyond := state.keys() - logged:
        failures.append(f"{len(beyond)} calls of the ledger are in no log, such as {min(beyond)}")
    billed = sum(entry["cost"]["nusd"] for entry in calls if "cost" in entry)
    if billed != cost:
        failures.append(f"the ledger says {billed} nano-USD, the logs say {cost}")
    summed = stack.admin().call("GET", "/tenants/acme/usage", query={"from": "2000-01-01", "to": "2100-01-01"})["total"]
    if (summed["nusd"], summed["calls"]) != (cost, sum(entry["kind"] == "call" for entry in calls)):
        failures.append(f"usage sums up to {summed}, the logs to {cost} nano-USD")
    (budget,) = stack.admin().call("GET", "/tenants/acme/budget-use")
    if budget["used"] != cost:
        failures.append(f"the budget was charged {budget['used']} nano-USD, the logs say {cost}")
    if not told or not cost or "completed" not in state.values():
        failures.append("nothing was proved: no calls, or none that cost anything")
    return {
        "calls": len(calls),
        "answered_whole": sum(told.values()),
        "states": dict(Counter(state.values())),
        "nano_usd": billed,
        "erasures": erasures,
    }


def _logged(stack: Stack) -> tuple[set[str], int]:
    """Calls in the logs of both nodes, and what they cost together."""
    calls: set[str] = set()
    costs: dict[str, int] = {}
    for node in NODES:
        for one in tail(stack.base / node / "node" / "log"):
            record = one.stored.record
            match record:
                case Intent() | Refusal():
                    calls.add(request_id(one.epoch, record.call))
                case Outcome():
                    # of two the first holds: a disk that was full may have kept what it was not known to keep
                    costs.setdefault(request_id(one.epoch, record.call), record.cost.nusd)
                case Interrupted():
                    costs[request_id(record.epoch, record.call)] = record.cost.nusd
    return calls, sum(costs.values())


def _interlock(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "interlock.cli.main", *arguments, "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    try:
        found: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        found = {"error": ran.stdout[-500:] + ran.stderr[-500:]}
    return found


@contextlib.contextmanager
def database(home: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the proof's own."""
    server = EmbeddedPostgres(home, patient(home))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _until(done: Callable[[], bool], seconds: float, what: str, failures: list[str]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            failures.append(f"waited {seconds:.0f} s in vain for {what}")
            return
        time.sleep(0.1)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
