"""Erasure of a person: nothing that they said can be found or guessed, every proof still holds, and it is on record."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from interlock.gateway.shipper import Shipper
from interlock.ledger.proof.verify import Report
from interlock.storage import shipping
from tests.gateway import WorkerHarness
from tests.integration.control_client import Admin, Running
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.harness import PEOPLE, serving, shipper_for, verified
from tests.integration.ledger.test_ledger_api import control_over_migrated

SECRET = "the tenant of flat 12 has a rare disease"
MESSAGE = {"role": "user", "content": SECRET}


@pytest.fixture
def running(postgres_empty_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with control_over_migrated(postgres_empty_url) as it:
        secrets = Path(it.control.settings.home) / "secrets"
        monkeypatch.setattr(
            "tests.integration.ledger.harness.MASTER", bytes.fromhex((secrets / "ledger_key").read_text().strip())
        )
        with it.control.store.platform() as conn:  # the world of the worker, as the database has it
            for tenant in sorted({who.tenant for who in PEOPLE}):
                conn.execute(
                    "INSERT INTO interlock.tenants (id, name, time_zone, active, created_at, updated_at)"
                    " VALUES (%s, %s, 'UTC', true, now(), now())",
                    (f"ten_{tenant}", tenant),
                )
        yield it


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

    def sequence(self) -> None:
        for tenant_id in ("ten_acme", "ten_globex"):
            self.running.control.sequencer.sequence(tenant_id)

    def erase(self, who: str = "alice") -> Any:
        return self.owner.do("POST", "/tenants/acme/ledger/erase", {"subject": f"prn_acme_{who}"})

    def contents(self, request: str) -> Any:
        return self.owner.call("GET", f"/tenants/acme/ledger/calls/{request}?content=true")[1]["contents"]

    def verify(self, folder: Path, to_ns: int) -> Report:
        """An export of everything until then, verified."""
        return verified(self.running.control, "ten_acme", folder, to_ns)


@pytest.fixture
def scene(running: Running, tmp_path: Path) -> Iterator[Scene]:
    running.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    with serving(tmp_path) as (gateway, _engine):
        yield Scene(running, gateway, tmp_path)


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


def test_after_an_erasure_nothing_is_left_to_find_and_every_proof_holds(
    scene: Scene, tmp_path: Path, postgres_empty_url: str
) -> None:
    alices, bobs = scene.say(SECRET), scene.say("something else", "bob")
    scene.arrive()
    assert scene.contents(alices)["messages"] == [MESSAGE]
    done = scene.erase()
    assert (done["keys"], done["contents"] >= 3) == (1, True)
    later = scene.say("a new beginning")
    scene.arrive()
    assert set(scene.contents(alices).values()) == {None}
    assert scene.contents(bobs)["messages"][0]["content"] == "something else", "nobody else's"
    assert scene.contents(later)["messages"][0]["content"] == "a new beginning", "what follows is kept again"
    rows = everything(postgres_empty_url)
    assert len(rows) > 50
    for needle in needles():
        assert not any(needle in row for row in rows), needle
    status, error = scene.owner.call("GET", f"/tenants/acme/ledger/calls/{alices}/replay")
    assert (status, error["error"]["code"]) == (404, "features_erased")
    until_ns = time.time_ns()
    time.sleep(0.3)  # the worker says that it is there
    scene.arrive()
    report = scene.verify(tmp_path / "export", until_ns)
    assert (report.verdict, report.problems) == ("complete", []), report
    entries = (tmp_path / "export" / "entries.jsonl").read_text().splitlines()
    (tombstone,) = [json.loads(line) for line in entries if '"kind":"erasure"' in line]
    assert tombstone["subject"] == "prn_acme_alice"
    changes = scene.owner.get("/tenants/acme/changes?limit=100")["items"]
    assert [c["object_id"] for c in changes if c["action"] == "ledger.erase"] == ["prn_acme_alice"]


def test_the_nodes_logs_forget_too(scene: Scene) -> None:
    scene.say(SECRET)
    scene.arrive()
    scene.erase()
    scene.gateway.stop()
    last = shipper_for(scene.running.control.store, scene.home, log_keep_s=0)
    last.pass_once()
    last.pass_once()
    last.trim()
    files = [path for path in (scene.home / "log").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_a_call_that_was_made_before_and_arrives_after_brings_no_content(scene: Scene) -> None:
    scene.say("first")
    scene.arrive()
    late = scene.say(SECRET)
    scene.erase()
    new = scene.say("after it")
    scene.arrive()
    assert scene.contents(late) == {}
    view = scene.owner.get(f"/tenants/acme/ledger/calls/{late}")
    assert view["entries"][0]["leaf"]["erased"] is True
    assert scene.contents(new)["messages"][0]["content"] == "after it"
    again = scene.erase()
    assert again["keys"] == 1
    scene.arrive()
    assert set(scene.contents(new).values()) == {None}


def test_an_erasure_between_sealing_and_shipping_is_noticed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say("first")
    scene.arrive()
    late = scene.say(SECRET)
    real = shipping.hold_keys
    happened: list[str] = []

    def erased_meanwhile(conn: Any, names: Any) -> bool:
        if not happened:
            happened.append("erased")
            scene.erase()
        return real(conn, names)

    monkeypatch.setattr(shipping, "hold_keys", erased_meanwhile)
    scene.arrive()
    assert happened and scene.contents(late) == {}


def test_who_may_erase_and_what_cannot_be(scene: Scene) -> None:
    scene.say("first")
    scene.arrive()
    path = "/tenants/acme/ledger/erase"
    for subject, status in (("", 400), ("nobody", 404), ("x\x1f2", 400), ("a\x00", 400)):
        assert scene.owner.call("POST", path, {"subject": subject})[0] == status, subject
    assert scene.owner.call("POST", path, {"subject": "prn_acme_alice"}, reason="")[0] == 400
    for role, status in (("admin", 403), ("auditor", 403)):
        scene.owner.do("POST", "/tenants/acme/principals", {"name": role})
        scene.owner.do("POST", "/tenants/acme/roles", {"principal": role, "role": role})
        body = {"name": f"{role}-key", "principal": role, "scopes": ["admin"]}
        made = scene.owner.do("POST", "/tenants/acme/keys", body)
        assert Admin(scene.owner.http, made["key"]).call("POST", path, {"subject": "prn_acme_alice"})[0] == status
    scene.erase()
    assert scene.owner.call("POST", path, {"subject": "prn_acme_alice"})[0] == 404, "there is nothing left"
