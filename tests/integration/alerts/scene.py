"""Control processes with a clock that a test moves, calls in the ledger, a receiver of webhooks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from interlock.control.alerts.sender import AlertSender
from interlock.control.alerts.watch import AlertWatch, Step
from interlock.ledger.proof.merkle import leaf_hash
from interlock.storage import sequencing
from interlock.storage.pool import Store
from interlock.storage.sequencing import Placed
from interlock.testing.clock import FakeClock
from tests.integration.control_client import Running

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The example of the Standard Webhooks specification's libraries."""
NS = 1_000_000_000


@dataclasses.dataclass
class Got:
    """A request that a webhook got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]

    @property
    def type(self) -> str:
        kind: str = json.loads(self.body)["type"]
        return kind


class Receiver:
    """A webhook on loopback. `statuses`: of its next answers, then 204."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 204)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Process:
    """What one control process has of alerts, run by hand under a clock that all share."""

    def __init__(self, running: Running, clock: FakeClock, **settings: Any) -> None:
        control = running.control
        self.clock = clock
        self.tools = dataclasses.replace(
            control.tools, clock=clock, settings=dataclasses.replace(control.settings, **settings)
        )
        self.watch = AlertWatch(control.store, self.tools)
        self.sender = AlertSender(control.store, self.tools)

    def look(self, seconds: float = 0) -> list[tuple[str, str, str]]:
        """Let time pass, evaluate: (rule, subject, what happened) of what did."""
        self.clock.advance(s=seconds)
        return [happened(step) for step in self.watch.once() if step.happened is not None]

    def send(self, seconds: float = 0) -> int:
        """Let time pass, tell."""
        self.clock.advance(s=seconds)
        return self.sender.once()


def happened(step: Step) -> tuple[str, str, str]:
    assert step.happened is not None
    return step.rule.name, step.subject, step.happened.kind


def clock_of_now(running: Running) -> FakeClock:
    """A clock that begins now and moves by hand: rows that the database dates itself are not in its future."""
    return FakeClock(running.control.tools.clock.wall_ns())


def add_calls(
    store: Store, tenant_id: str, at_ns: int, states: list[str], *, source: str = "gpu", status: int = 403
) -> None:
    """Calls ("completed", "failed") and refusals ("refused") at the end of a tenant's tree, admitted at `at_ns`."""
    with store.sequencing() as conn:
        row = conn.execute("SELECT size FROM interlock.ledger_trees WHERE tenant_id = %s", (tenant_id,)).fetchone()
        size = 0 if row is None else int(row[0])
        placed = []
        for position, state in enumerate(states, size):
            kind = "refusal" if state == "refused" else "call"
            said: dict[str, Any] = {"tree": tenant_id, "at": at_ns + position, "kind": kind, "request": f"r{position}",
                                    "result": {"state": state, "status": status}}  # fmt: skip
            leaf = json.dumps(said).encode()
            where = "" if kind == "refusal" else source
            placed.append(
                Placed(
                    position,
                    at_ns + position,
                    kind,
                    f"r{position}",
                    "",
                    "",
                    "",
                    where,
                    "m",
                    state,
                    leaf,
                    leaf_hash(leaf),
                )
            )
        sequencing.place(conn, tenant_id, [], placed)
        conn.execute(
            "INSERT INTO interlock.ledger_trees (tenant_id, size, settled_digest) VALUES (%s, %s, %s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET size = excluded.size",
            (tenant_id, size + len(states), bytes(32)),
        )


def tenant_id(running: Running, name: str) -> str:
    with running.control.store.platform() as conn:
        row = conn.execute("SELECT id FROM interlock.tenants WHERE name = %s", (name,)).fetchone()
    assert row is not None
    return str(row[0])


@contextlib.contextmanager
def emptied(running: Running) -> Iterator[None]:
    """No rule, channel, event or entry of a call is left over for the next test."""
    try:
        yield
    finally:
        with running.control.store.platform() as conn:
            for table in ("alert_events", "alert_rules", "alert_channels"):
                conn.execute(f"DELETE FROM interlock.{table}")
            conn.execute("SET LOCAL ROLE interlock_migrator")
            conn.execute("DELETE FROM interlock.ledger_entries")
            conn.execute("UPDATE interlock.ledger_trees SET size = 0")
