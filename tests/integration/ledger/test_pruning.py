"""Entries that were kept long enough lose their text; what is left proves itself, and says what is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.cli.main import main
from interlock.control.keyring import Keyring
from interlock.control.main import ledger_signer
from interlock.control.retention import RetentionSweeper
from interlock.control.services.ledger import Export
from interlock.errors import Conflict
from interlock.settings import Settings
from interlock.storage import ledger_read, pruning, retention
from interlock.storage.retention import NS_PER_DAY
from interlock.testing.clock import FakeClock
from tests.integration.ledger.scene import Scene, everything
from tests.unit.ledger.support import attempt, intent, open_log, outcome, written

MANY = 10_000
"""Rows in one transaction: more than there are."""


class Old:
    """A ledger that grows, and a control process some days later."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene, self._patch = scene, monkeypatch
        self.requests: list[str] = []

    def grow(self, *counts: int, subject: str = "prn_acme_zoe") -> None:
        """A worker that lives for so many calls; the tree is signed after each of the counts."""
        asyncio.run(self._grow(counts, subject))

    async def _grow(self, counts: tuple[int, ...], subject: str) -> None:
        log = open_log(self.scene.home / "log")
        call = 0
        for count in counts:
            for _ in range(count):
                call += 1
                first: Any = intent(call, body=b"{}")
                first = msgspec.structs.replace(
                    first, tenant_id="ten_acme", principal_id=subject, delegator_id="", wall_ns=time.time_ns()
                )
                for record in (first, attempt(call), outcome(call)):
                    log.append(record)
                self.requests.append(f"req_{log.epoch}_{call:x}")
            await written(log)
            await asyncio.to_thread(self.scene.arrive)
        await log.close()
        await asyncio.to_thread(self.scene.arrive)

    def sweep(self, days: int, batch: int = MANY) -> int:
        """A pass of retention so many days later; how many entries it pruned."""
        now_ns = time.time_ns() + days * NS_PER_DAY
        self._patch.setattr(retention, "database_day", lambda _: now_ns // NS_PER_DAY)
        control = self.scene.running.control
        settings = Settings(home=control.settings.home, ledger_retention_batch=batch)
        keyring = Keyring(control.settings)
        sweeper = RetentionSweeper(control.store, settings, FakeClock(wall_ns=now_ns), keyring)
        sweeper.pass_once()
        return sweeper.pruned

    def keep(self, entries: int) -> None:
        body = {"name": "acme", "retention": {"contents_days": 10, "entries_days": entries}}
        self.scene.owner.do("PUT", "/tenants/acme", body)

    def size(self) -> int:
        return int(self.scene.owner.get("/tenants/acme/ledger/checkpoint")["size"])


@pytest.fixture
def old(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Old:
    monkeypatch.setattr("interlock.control.retention.PAUSE_S", 0.0)
    return Old(scene, monkeypatch)


def complete(scene: Scene, folder: Path) -> Any:
    """An export of everything until now, verified; its report."""
    until_ns = scene.all_until_now()
    report = scene.verify(folder, until_ns)
    assert (report.verdict, report.problems) == ("complete", []), report
    return report


def test_old_entries_lose_their_text_and_the_rest_proves_itself(
    scene: Scene, old: Old, tmp_path: Path, postgres_migrated_url: str
) -> None:
    old.grow(100, 200)
    old.grow(1, 300, 50)
    month = f"from={datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}&to={datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
    usage = scene.owner.get(f"/tenants/acme/usage?by=model&{month}")
    old.keep(20)
    before_ns = time.time_ns()
    assert old.sweep(20) == 0, "twenty whole days"
    assert old.sweep(21) == 512 and old.sweep(22) == 0, "whole tiles only"
    report = complete(scene, tmp_path / "one")
    assert report.pruned == 512 and "but for the pruned range [0, 512)" in report.words
    assert "retention of entries: 20 days" in report.words
    rows = everything(postgres_migrated_url)
    gone, there = old.requests[:512], old.requests[512:]
    assert not any(request in row for row in rows for request in gone[::37])
    assert all(any(request in row for row in rows) for request in there[::37])
    status, error = scene.owner.call("GET", f"/tenants/acme/ledger/calls/{gone[3]}")
    assert status == 404 and "pruned" in error["error"]["message"]
    shown = scene.owner.get(f"/tenants/acme/ledger/calls/{there[3]}")
    assert shown["proofs"][0]["position"] == 515
    assert scene.owner.get(f"/tenants/acme/usage?by=model&{month}") == usage, "sums stay"
    old.grow(200, 200)
    control = scene.running.control
    whole = Export(control.store, control.settings, "ten_acme", before_ns + 120 * 10**9, time.time_ns(), [])
    assert "pruned" not in whole.manifest, "what begins after it needs no statement"
    assert old.sweep(23) == (old.size() // 256 - 2) * 256 > 0
    assert complete(scene, tmp_path / "two").pruned == old.size() // 256 * 256


def test_it_is_proved_whatever_was_signed_between(scene: Scene, old: Old, tmp_path: Path) -> None:
    """Tile by tile, with checkpoints at odd sizes, and none within some of the tiles."""
    random_ = random.Random(7)
    for _ in range(3):
        old.grow(*[random_.choice((1, 90, 256, 400)) for _ in range(3)])
    old.keep(20)
    size, steps = old.size(), 0
    store = scene.running.control.store
    key = ledger_signer(scene.running.control.settings)
    while True:
        with store.tenant("ten_acme") as conn:
            terms = pruning.Terms(1 << 62, time.time_ns(), 1, "interlock.local/ten_acme", "a test", [key])
            gone = pruning.prune(conn, "ten_acme", terms)
        if not gone:
            break
        steps += 1
        assert gone == 256
        report = complete(scene, tmp_path / str(steps))
        assert report.pruned == 256 * steps
        manifest = json.loads((tmp_path / str(steps) / "manifest.json").read_text())
        assert manifest["start_size"] <= manifest["pruned"] == 256 * steps
    assert steps == size // 256 >= 3


def test_it_is_proved_after_quiet_checkpoints(scene: Scene, old: Old, tmp_path: Path) -> None:
    """Of the checkpoints of one size those between the first and the last go: the statement names the first."""

    def sign() -> int:
        scene.running.control.sequencer.sequence("ten_acme")
        with scene.running.control.store.tenant("ten_acme") as conn:
            found = ledger_read.latest_checkpoint(conn, "ten_acme")
        assert found is not None
        return found.at_ns

    old.keep(20)
    sign()  # the change is an entry too: from here on the tree grows by calls only
    old.grow(255)
    assert old.size() == 256
    assert len({sign() for _ in range(3)}) == 3
    assert old.sweep(21) == 256
    assert len({sign() for _ in range(3)}) == 3
    assert old.size() == 256
    assert complete(scene, tmp_path / "one").pruned == 256


def test_the_command_line_exports_and_verifies_it(
    scene: Scene, old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old.grow(300)
    old.keep(20)
    assert old.sweep(21) == 256
    until_ns = scene.all_until_now()
    control = scene.running.control
    key = ledger_signer(control.settings).verifier_key.text

    class Client:
        def lines(self, *_: object, **__: object) -> Any:
            made = Export(control.store, control.settings, "ten_acme", 0, until_ns, [key])
            for line in (["manifest", made.manifest], *made.lines()):
                yield msgspec.json.decode(msgspec.json.encode(line))

    monkeypatch.setattr("interlock.cli.ledger.client_of", lambda *_: Client())
    folder = tmp_path / "out"
    assert main(["ledger", "export", str(folder), "-t", "acme", "--from", "2020-01-01"]) == 0
    capsys.readouterr()
    assert main(["ledger", "verify", str(folder), "--key", key]) == 0
    assert "COMPLETE" in (said := capsys.readouterr().out) and "but for the pruned range [0, 256)" in said
    (folder / "pruned.note").unlink()
    assert main(["ledger", "verify", str(folder), "--key", key]) == 3
    assert "ALTERED" in capsys.readouterr().out


def test_nothing_from_the_first_entry_under_a_hold_on_is_pruned(scene: Scene, old: Old) -> None:
    old.grow(300)
    old.grow(1, subject="prn_acme_alice")
    old.grow(400)
    old.keep(20)
    path = "/tenants/acme/ledger/holds"
    alices = scene.owner.do("POST", path, {"subject": "prn_acme_alice"})["id"]
    everybodys = scene.owner.do("POST", path, {})["id"]
    assert old.sweep(21) == 0
    scene.owner.do("POST", f"{path}/{everybodys}/release", {})
    assert old.sweep(21) == 256
    scene.owner.do("POST", f"{path}/{alices}/release", {})
    assert old.sweep(21) == 256


def test_what_no_checkpoint_has_signed_is_not_pruned(scene: Scene, old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    old.grow(200)
    sequencer = scene.running.control.sequencer
    later = dataclasses.replace(sequencer._settings, ledger_checkpoint_s=10**6)
    monkeypatch.setattr(sequencer, "_settings", later)
    old.grow(200)
    old.keep(20)
    assert old.size() == 200 and old.sweep(21) == 0
    monkeypatch.undo()
    scene.arrive()
    old.grow(1)
    assert old.size() >= 401
    with scene.running.control.store.tenant("ten_acme") as conn:
        terms = pruning.Terms(1 << 62, 5, 9, "interlock.local/ten_acme", "x", [ledger_signer(sequencer._settings)])
        assert pruning.prune(conn, "ten_acme", terms) == 256


def test_an_export_from_which_entries_are_pruned_meanwhile_is_broken_off(scene: Scene, old: Old) -> None:
    old.grow(300)
    control = scene.running.control
    made = Export(control.store, control.settings, "ten_acme", 0, time.time_ns(), [])
    lines = made.lines()
    next(lines)
    old.keep(20)
    assert old.sweep(21) == 256
    with pytest.raises(Conflict, match="pruned meanwhile"):
        list(lines)


@pytest.mark.parametrize(
    ("retention_", "status"),
    [
        ({"contents_days": 30, "entries_days": 30}, 200),
        ({"contents_days": 31, "entries_days": 30}, 400),
        ({"contents_days": 0, "entries_days": 30}, 400),
        ({"contents_days": 30, "by_data_class": {"public": 0}, "entries_days": 30}, 400),
        ({"contents_days": 30, "by_data_class": {"restricted": 40}, "entries_days": 30}, 400),
    ],
)
def test_entries_are_kept_as_long_as_their_contents(scene: Scene, retention_: dict[str, Any], status: int) -> None:
    found, answer = scene.owner.call("PUT", "/tenants/acme", {"name": "acme", "retention": retention_})
    assert found == status and (status == 200 or "kept longer than their entries" in answer["error"]["message"])


def test_changes_are_still_held_against_the_ledger_where_entries_were_pruned(scene: Scene, old: Old) -> None:
    old.keep(30)
    old.grow(600)
    before = scene.owner.get("/tenants/acme/ledger/changes-audit")
    assert before["problems"] == [] and before["rows"]
    assert old.sweep(31) >= 256
    old.keep(40)
    scene.arrive()
    after = scene.owner.get("/tenants/acme/ledger/changes-audit")
    assert after["problems"] == [] and after["rows"] and after["older"] > before["older"]


def test_who_signs_what_was_pruned_is_who_might_at_that_time(scene: Scene, old: Old, tmp_path: Path) -> None:
    old.keep(30)
    old.grow(700)
    assert old.sweep(31) >= 256  # by a clock that is a month ahead: after the change of keys that follows
    scene.owner.do("POST", "/ledger/rotate-key", {})
    until_ns = scene.all_until_now()
    report = scene.verify(tmp_path / "replaced", until_ns)
    assert report.verdict == "altered" and "signed by a key that had been replaced before" in report.problems[0]
    old.grow(300)
    assert old.sweep(62) >= 256
    report = complete(scene, tmp_path / "new")
    assert report.pruned > 512 and report.keys[-1].replaced is None
