"""A gateway worker with its log, and the shipper and sequencer that make a ledger of it in a real database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.control.main import Control, ledger_signer
from interlock.control.services.ledger import Export, key_name
from interlock.gateway.shipper import Shipper
from interlock.ledger.proof.folder import ExportWriter, Manifest
from interlock.ledger.proof.verify import Report, verify_export
from interlock.ledger.vault import KeyWrapper, SubjectKey
from interlock.native.scan import native
from interlock.settings import Settings
from interlock.storage import ledger_read
from interlock.storage.ledger_keys import LedgerKeys
from interlock.storage.pool import Store
from interlock.testing.engine import ScriptedEngine
from interlock.types.clock import SystemClock
from interlock.types.record import Alive
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import eventually
from tests.native import use

MASTER = bytes(range(32))
PEOPLE = [Who("alice"), Who("bob"), Who("carol", tenant="globex")]


def settings_for(home: Path, **given: Any) -> Settings:
    """Settings of a home whose ledger keys are there."""
    secrets = home / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    (secrets / "ledger_key").write_text(MASTER.hex() + "\n")
    (secrets / "ledger_signing_key").write_text(bytes(reversed(MASTER)).hex() + "\n")
    return Settings(home=str(home), database_connect_timeout_ms=2000, **given)


def shipper_for(store: Store, home: Path, node: str = "test", **given: Any) -> Shipper:
    """A shipper of the log of `home`."""
    return Shipper(store, home / "log", node, settings_for(home, **given), SystemClock(), os.urandom)


@contextmanager
def serving(
    home: Path, people: list[Who] | None = None, **settings: Any
) -> Iterator[tuple[WorkerHarness, ScriptedEngine]]:
    """A worker before one engine, its log in `home`."""
    home.mkdir(exist_ok=True)
    with ExitStack() as stack:
        engine = stack.enter_context(ScriptedEngine(models=("m",)).in_thread())
        world = World([source("s", engine.base_url)], people or PEOPLE)
        yield stack.enter_context(WorkerHarness(world, home, log_alive_ms=50, **settings)), engine


def told_until(gateway: WorkerHarness, at_ns: int = 0) -> None:
    """Wait until the worker has said in its log that it told of every call until then (0: until now)."""
    at_ns = at_ns or SystemClock().wall_ns()
    eventually(lambda: any(each.wall_ns > at_ns for each in gateway.records_of(Alive)), 30)


def inbox(store: Store) -> list[dict[str, Any]]:
    """The leaves that wait in the inbox, in their order."""
    with store.sequencing() as conn:
        rows = conn.execute("SELECT tenant_id, epoch, n, leaf FROM interlock.ledger_inbox ORDER BY id").fetchall()
    leaves = []
    for tenant_id, epoch, n, leaf in rows:
        value = msgspec.json.decode(leaf)
        assert (value["tree"], value["epoch"], value["n"]) == (tenant_id, epoch, n)
        assert leaf == msgspec.json.encode(value, order="sorted")
        leaves.append(value)
    return leaves


def opened(store: Store, leaf: dict[str, Any]) -> dict[str, Any]:
    """The contents of an entry by role, decrypted; each must be what its reference says."""
    keys = LedgerKeys(KeyWrapper(MASTER, os.urandom), os.urandom, 100)
    tenant_id, subject = leaf["tree"], key_name(leaf)
    out: dict[str, Any] = {}
    with store.shipping() as conn:
        for each in leaf["contents"]:
            key = keys.named(conn, tenant_id, subject)

            def read(name: bytes, key: SubjectKey = key) -> tuple[Any, bytes]:
                data = ledger_read.content(conn, tenant_id, subject, name)
                assert data is not None
                return msgspec.json.decode(key.open(name, data, bytes_max=1 << 30)), sha256(data).digest()

            if "list" in each:
                items = ledger_read.list_items(conn, tenant_id, subject, bytes.fromhex(each["list"]))
                assert len(items) == each["count"]
                found = [read(name) for name in items]
                digest = bytes(32)
                for _, one in found:
                    digest = sha256(digest + one).digest()
                assert digest.hex() == each["digest"]
                out[each["role"]] = [value for value, _ in found]
            else:
                value, digest = read(bytes.fromhex(each["id"]))
                assert digest.hex() == each["sha256"]
                out[each["role"]] = value
    return out


def verified(control: Control, tenant_id: str, folder: Path, to_ns: int, *, from_ns: int = 0, **how: Any) -> Report:
    """An export of everything of a tenant until then, verified, with and without the native part, which must have been
    sure of each entry that Interlock wrote. `how`: for `verify_export`."""
    key = ledger_signer(control.settings).verifier_key
    made = Export(control.store, control.settings, tenant_id, from_ns, to_ns, [key.text])
    write(made, folder, key.text)
    report = verify_export(folder, [key], **how)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, None)
        assert verify_export(folder, [key], **how) == report
    assert not unsure(folder, tenant_id)
    return report


def unsure(folder: Path, tenant_id: str) -> list[bytes]:
    """Entries of an export that the native part leaves to the code in Python: they take four times as long. It always
    leaves erasures, and text that is not of printable ASCII or needs an escape."""
    fast, lines = native(), (folder / "entries.jsonl").read_bytes().splitlines(keepends=True)
    usual = [each for each in lines if each.isascii() and b"\\" not in each and b'"kind":"erasure"' not in each]
    return [each for each in usual if fast and not fast.heads(each, 0, tenant_id, 0, 0).lines]


def write(made: Export, folder: Path, key: str) -> None:
    """An export into a new folder."""
    head = {name: value for name, value in made.manifest.items() if name != "keys"}
    writer = ExportWriter(folder, Manifest.decode(msgspec.json.encode(head)), [key])
    for kind, value in made.lines():
        if kind == "start":
            writer.start(value["size"], [bytes.fromhex(each) for each in value["hashes"]], value["counts"])
        elif kind == "checkpoint":
            writer.checkpoint(value["note"], value["coverage"].encode())
        elif kind == "pruned":
            writer.pruned(value["note"], value["state"].encode())
        elif kind == "rotation":
            writer.rotation(value["statement"], value["head"])
        elif kind in ("settled", "entry"):
            getattr(writer, kind)(value.encode())
    writer.close()
