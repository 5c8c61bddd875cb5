"""People who talk through a worker, and the control plane whose ledger it goes to."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from interlock.gateway.shipper import Shipper
from interlock.ledger.proof.verify import Report
from tests.gateway import WorkerHarness
from tests.integration.control_client import Admin, Running
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.harness import shipper_for, told_until, verified

SECRET = "the tenant of flat 12 has a rare disease"
MESSAGE = {"role": "user", "content": SECRET}


class Scene:
    """A worker, its shipper, and what people say through it."""

    def __init__(self, running: Running, gateway: WorkerHarness, home: Path) -> None:
        self.running, self.gateway, self.home = running, gateway, home
        self.shipper: Shipper = shipper_for(running.control.store, home, ledger_checkpoint_s=0)
        self.owner: Admin = running.owner

    def say(self, text: str, who: str = "alice") -> str:
        """A call; its request id."""
        body = {**CHAT, "messages": [{**MESSAGE, "content": text}]}
        return ask(self.gateway, body, key=self.gateway.key(who)).headers["x-interlock-request-id"]

    def arrive(self) -> None:
        """Everything said so far is in the ledger. (Twice: a pass that meets an erasure leaves it to the next.)"""
        for _ in range(2):
            self.shipper.pass_once()
            self.sequence()

    def all_until_now(self) -> int:
        """As `arrive`, and the ledger knows that nothing before is missing; the instant (in ns)."""
        now_ns = time.time_ns()
        told_until(self.gateway, now_ns)
        self.arrive()
        return now_ns

    def sequence(self) -> None:
        for tenant_id in ("ten_acme", "ten_globex"):
            self.running.control.sequencer.sequence(tenant_id)

    def erase(self, who: str = "alice") -> Any:
        return self.owner.do("POST", "/tenants/acme/ledger/erase", {"subject": f"prn_acme_{who}"})

    def contents(self, request: str) -> Any:
        return self.owner.call("GET", f"/tenants/acme/ledger/calls/{request}?content=true")[1]["contents"]

    def verify(self, folder: Path, to_ns: int, **how: Any) -> Report:
        """An export of everything until then, verified."""
        return verified(self.running.control, "ten_acme", folder, to_ns, **how)


def everything(url: str) -> list[str]:
    """Every row of every table, as text."""
    rows = []
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        tables = conn.execute(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = 'interlock' AND relkind = 'r'"
        ).fetchall()
        for (table,) in tables:
            rows += [row for (row,) in conn.execute(f'SELECT t::text FROM interlock."{table}" AS t')]
    return rows


def needles() -> list[str]:
    """What somebody who guesses would look for: the words, and hashes of them and of the message."""
    guesses = [SECRET.encode(), json.dumps(MESSAGE).encode(), msgspec.json.encode(MESSAGE)]
    digests = [
        hashlib.new(name, guess).hexdigest() for guess in guesses for name in ("md5", "sha1", "sha256", "sha512")
    ]
    return [SECRET, SECRET.encode().hex(), *digests]
