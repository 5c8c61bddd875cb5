"""A control plane that serves over HTTP, entries for its trees, and browsers that keep the live page's stream open."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec
import uvicorn
from starlette.testclient import TestClient

from interlock.control.app import make_app
from interlock.control.main import Control
from interlock.ledger.proof.merkle import leaf_hash
from interlock.storage import sequencing
from interlock.storage.pool import Store
from interlock.storage.sequencing import Placed

from .control_client import Running

FORM = {"content-type": "application/x-www-form-urlencoded"}


def add(store: Store, tenant_id: str, *leaves: bytes) -> None:
    """Entries at the end of a tenant's tree, as its sequencer places them."""
    with store.sequencing() as conn:
        row = conn.execute("SELECT size FROM interlock.ledger_trees WHERE tenant_id = %s", (tenant_id,)).fetchone()
        size = 0 if row is None else int(row[0])
        placed = []
        for position, leaf in enumerate(leaves, size):
            said: dict[str, Any] = json.loads(leaf)
            placed.append(
                Placed(
                    position, said["at"], said["kind"], said["request"], "", "", "", "", "", "", leaf, leaf_hash(leaf)
                )
            )
        sequencing.place(conn, tenant_id, [], placed)
        conn.execute(
            "INSERT INTO interlock.ledger_trees (tenant_id, size, settled_digest) VALUES (%s, %s, %s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET size = excluded.size",
            (tenant_id, size + len(leaves), bytes(32)),
        )


@contextlib.contextmanager
def serving(running: Running) -> Iterator[int]:
    """The control plane's own pages and API on a port, in a thread."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            make_app(running.control.api), log_config=None, lifespan="off", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert time.monotonic() < deadline, "the pages are not served"
                time.sleep(0.02)
            yield int(sock.getsockname()[1])
        finally:
            running.control.live.stop()
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@contextlib.contextmanager
def beside(running: Running, **settings: Any) -> Iterator[Running]:
    """Another control process of the same installation, with these settings."""
    first = running.control
    control = Control(dataclasses.replace(first.settings, **settings), first.url, discover=running.engines)
    try:
        with TestClient(make_app(control.api), raise_server_exceptions=False) as http:
            yield Running(control, http, running.engines)
    finally:
        control.close()


class Browser:
    """One visitor of one control process."""

    def __init__(self, port: int, name: str, password: str) -> None:
        self.port = port
        self.cookie = ""
        status, headers, _ = self.ask("POST", "/sign-in", urlencode({"name": name, "password": password}))
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, dict[str, str], str]:
        """One request to a page: (status, headers, text)."""
        connection = self._send(method, path, body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text

    def stream(self, **query: str) -> Stream:
        """Open the live page's stream."""
        return Stream(self._send("GET", "/live/stream?" + urlencode(query)))

    def _send(self, method: str, path: str, body: str = "") -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        origin = {"origin": f"http://127.0.0.1:{self.port}"}
        headers = origin | ({"cookie": self.cookie} if self.cookie else {}) | (FORM if body else {})
        connection.request(method, "/console" + path, body or None, headers)
        return connection


class Stream:
    """An open stream. `text`: everything that came."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._answer = connection.getresponse()
        self.status = self._answer.status
        self.text = ""
        if self.status != 200:
            self.text = self._answer.read().decode()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._answer.close()

    def event(self) -> tuple[str, Any] | None:
        """The next event (name, data); None at the stream's end."""
        name = ""
        while line := self._answer.readline().decode():
            self.text += line
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                return name, msgspec.json.decode(line[6:].encode())
        return None

    def until(self, what: str, seconds: float = 60) -> None:
        """Read until it was said."""
        began = time.monotonic()
        while what not in self.text:
            assert self.event() is not None, "the stream ended"
            assert time.monotonic() - began < seconds, f"{what} did not come"
