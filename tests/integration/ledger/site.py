"""A control process over HTTP in a thread, with its sequencer, and a node's log that calls come in by."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import threading
import time
from pathlib import Path

import msgspec

from interlock.cli.client import connect
from interlock.control.main import listen, run_control
from interlock.gateway.shipper import Shipper
from interlock.storage.migrate import migrate
from interlock.storage.pool import Store
from tests.e2e.stack import INTERLOCK, clean_environment
from tests.integration.control_client import Engines
from tests.integration.ledger.harness import settings_for, shipper_for
from tests.ports import free_port
from tests.unit.ledger.support import intent, open_log, outcome


class Site:
    """A control process in a thread, and a node's log with its shipper."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home
        home.mkdir()
        self.settings = settings_for(
            home, control_port=0, stop_grace_ms=1000, ledger_checkpoint_s=0, ledger_quiet_checkpoint_s=1
        )
        migrate(url, self.settings)
        self.store = Store(url, self.settings)
        self.shipper: Shipper = shipper_for(self.store, home)
        self.control_url = ""
        self.start()
        client = connect(self.settings)
        client.call("POST", "/tenants", {"name": "acme"}, reason="test")
        self.tenant_id = client.call("GET", "/tenants/acme")["id"]

    def start(self) -> None:
        ready = threading.Event()
        self._stop = threading.Event()
        port = int(self.control_url.rsplit(":", 1)[1]) if self.control_url else free_port()
        sock = listen(dataclasses.replace(self.settings, control_port=port))
        self.control_url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._thread = threading.Thread(
            target=run_control,
            args=(self.settings, self.url),
            kwargs={"sock": sock, "stop": self._stop, "ready": lambda _: ready.set(), "discover": Engines()},
        )
        self._thread.start()
        assert ready.wait(120)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.store.close()

    def add(self, count: int) -> None:
        """Calls that ended, in the inbox of the sequencer."""

        async def record() -> None:
            log = open_log(self.home / "log")
            for call in range(1, count + 1):
                log.append(msgspec.structs.replace(intent(call), tenant_id=self.tenant_id, wall_ns=time.time_ns()))
                log.append(outcome(call, body=b"{}"))
            await log.close()

        asyncio.run(record())
        self.shipper.pass_once()

    def size(self) -> int:
        """Entries in the tree."""
        with self.store.tenant(self.tenant_id) as conn:
            row = conn.execute("SELECT size FROM interlock.ledger_trees").fetchone()
        return 0 if row is None else row[0]

    def leaves(self) -> list[bytes]:
        """Every leaf of the tree, in order."""
        with self.store.tenant(self.tenant_id) as conn:
            return [leaf for (leaf,) in conn.execute("SELECT leaf FROM interlock.ledger_entries ORDER BY position")]

    def arguments(self, *more: str) -> list[str]:
        return ["ledger", "follow", "-t", "acme", "--home", str(self.home), "--url", self.control_url, *more]

    def follower(self, *more: str) -> subprocess.Popen[bytes]:
        """`interlock ledger follow` as a process of its own."""
        words = [str(INTERLOCK), *self.arguments("--interval", "0.1", *more)]
        return subprocess.Popen(
            words, env=clean_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
