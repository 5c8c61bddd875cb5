"""The signing key is changed: both keys sign that, the new one signs on, and a machine without it signs nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.keyring import Keyring
from interlock.control.sequencer import Sequencer
from interlock.errors import Unavailable
from interlock.ledger.proof.note import VerifierKey, open_note, split_note
from interlock.ledger.proof.rotation import open_rotation
from interlock.ledger.proof.verify import verify_export
from interlock.storage import ledger_read, rotations
from tests.integration.control_client import Admin
from tests.integration.ledger.harness import verified
from tests.integration.ledger.test_changes import PLATFORM, Scene
from tests.integration.ledger.test_ledger_api import control_over_migrated


@pytest.fixture
def scene(postgres_migrated_url: str) -> Iterator[Scene]:
    with control_over_migrated(postgres_migrated_url) as running:
        yield Scene(running, postgres_migrated_url)


def secrets(scene: Scene) -> Path:
    return Path(scene.control.settings.home) / "secrets"


def rotate(scene: Scene) -> Any:
    return scene.owner.do("POST", "/ledger/rotate-key", {})


def newest(scene: Scene, tenant_id: str = "") -> str:
    with scene.store.tenant(tenant_id or scene.acme) as conn:
        found = ledger_read.latest_checkpoint(conn, tenant_id or scene.acme)
    assert found is not None
    return found.note


def signed_by(note: str) -> set[bytes]:
    return {hash_ for _, hash_, _ in split_note(note)[1]}


def hash_of(key: str) -> bytes:
    return VerifierKey.parse(key).hash


def second_machine(scene: Scene, home: Path) -> Sequencer:
    """A control process on another machine, with the keys that there are now."""
    shutil.copytree(secrets(scene), home / "secrets")
    settings = dataclasses.replace(scene.control.settings, home=str(home))
    signers = scene.control.sequencer._signers
    return Sequencer(scene.store, settings, scene.control.tools.clock, signers, Keyring(settings))


def test_the_key_is_changed_and_exports_verify_from_either(scene: Scene, tmp_path: Path) -> None:
    scene.team("before")
    scene.sequence()
    old = scene.owner.get("/tenants/acme/ledger/checkpoint")["keys"]
    done = rotate(scene)
    assert [done["old"]] == old and done["new"] != done["old"] and done["trees"] == 3
    statement = open_rotation(done["statement"])
    assert (statement.old.text, statement.new.text, statement.ledger) == (done["old"], done["new"], "interlock.local")
    file = secrets(scene) / done["file"]
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    for tenant_id in (*scene.ids.values(), PLATFORM):
        assert signed_by(newest(scene, tenant_id)) == {hash_of(done["old"]), hash_of(done["new"])}
    scene.team("after")
    scene.sequence(3)
    for tenant_id in (*scene.ids.values(), PLATFORM):
        assert signed_by(newest(scene, tenant_id)) == {hash_of(done["new"])}
    assert scene.owner.get("/tenants/acme/ledger/checkpoint")["keys"] == [done["new"], done["old"]]
    report = verified(scene.control, scene.acme, tmp_path / "out", scene.claimed())
    assert (report.verdict, report.problems, len(report.keys)) == ("complete", [], 2)
    report = verify_export(tmp_path / "out", [VerifierKey.parse(done["new"])])
    assert (report.verdict, report.problems) == ("complete", [])
    assert scene.audit()["problems"] == scene.audit("platform")["problems"] == []
    scene.owner.do("POST", "/tenants", {"name": "later"})
    scene.ids["later"] = scene.owner.get("/tenants/later")["id"]
    scene.sequence(2)
    verified(scene.control, scene.ids["later"], tmp_path / "later", scene.claimed())
    for key in (done["old"], done["new"]):
        assert verify_export(tmp_path / "later", [VerifierKey.parse(key)]).verdict == "complete"


def test_it_is_on_record_and_quiet_checkpoints_do_not_push_the_change_over_out(scene: Scene, tmp_path: Path) -> None:
    scene.team("before")
    scene.sequence(2)
    done = [rotate(scene), rotate(scene)]
    scene.sequence(4)
    rows = [row for row in scene.owner.get("/changes?limit=50")["items"] if row["action"] == "ledger.rotate_key"]
    assert [row["after"]["key"] for row in reversed(rows)] == [each["new"] for each in done]
    told = [leaf for leaf in scene.leaves(PLATFORM) if leaf["what"]["operation"] == "ledger.rotate_key"]
    assert len(told) == 2
    verified(scene.control, scene.acme, tmp_path / "out", scene.claimed())
    lines = (tmp_path / "out" / "rotations.jsonl").read_text().splitlines()
    assert len(lines) == 2 and not any('"head":null' in line for line in lines)
    for key in (done[0]["old"], done[0]["new"], done[1]["new"]):
        report = verify_export(tmp_path / "out", [VerifierKey.parse(key)])
        assert (report.verdict, report.problems, len(report.keys)) == ("complete", [], 3)


def test_a_machine_without_the_new_key_places_but_signs_nothing_until_it_has_it(scene: Scene, tmp_path: Path) -> None:
    scene.team("before")
    scene.sequence()
    other = second_machine(scene, tmp_path)
    done = rotate(scene)
    before = newest(scene)
    scene.team("after")
    with pytest.raises(Unavailable, match="has no file ledger_signing_key"):
        other.pass_once()
    assert newest(scene) == before, "the old key signs nothing more"
    assert scene.leaves()[-1]["what"]["operation"] == "team.create", "entries get their places all the same"
    shutil.copy(secrets(scene) / done["file"], tmp_path / "secrets" / done["file"])
    other.pass_once()
    assert signed_by(newest(scene)) == {hash_of(done["new"])}
    shutil.move(tmp_path / "secrets" / done["file"], tmp_path / "secrets" / "ledger_signing_key")
    again = Sequencer(scene.store, other._settings, scene.control.tools.clock, [], Keyring(other._settings))
    again.pass_once()
    assert signed_by(newest(scene)) == {hash_of(done["new"])}, "it may take the place of the old file"


def test_a_key_that_cannot_be_kept_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    scene.team("before")
    scene.sequence()
    path = "/ledger/rotate-key"
    assert scene.owner.call("POST", path, {}, reason="")[0] == 400
    files = sorted(secrets(scene).iterdir())
    settings = scene.control.settings
    ring = scene.control.api.keyring
    ring._base = tmp_path / "file" / "ledger_signing_key"
    (tmp_path / "file").write_text("not a folder")
    status, error = scene.owner.call("POST", path, {})
    assert status >= 400 and "cannot be written" in error["error"]["message"]
    ring._base = settings.ledger_signing_key_path()
    assert sorted(secrets(scene).iterdir()) == files, "and no file is left"
    scene.sequence(2)
    with scene.store.platform() as conn:
        (key,) = ring.public(conn)
    open_note(newest(scene), [VerifierKey.parse(key)])


def test_only_an_owner_of_the_platform_may(scene: Scene) -> None:
    for place, name, role in (("acme", "olga", "owner"), ("platform", "adam", "admin")):
        scene.owner.do("POST", f"/tenants/{place}/principals", {"name": name})
        roles = "/roles" if place == "platform" else f"/tenants/{place}/roles"
        scene.owner.do("POST", roles, {"principal": name, "role": role})
        body = {"name": name, "principal": name, "scopes": ["admin"]}
        made = scene.owner.do("POST", f"/tenants/{place}/keys", body)
        assert Admin(scene.owner.http, made["key"]).call("POST", "/ledger/rotate-key", {})[0] == 403


def test_no_tree_is_worked_on_while_the_key_is_changed(scene: Scene) -> None:
    scene.team("before")
    with scene.store.sequencing() as conn:
        rotations.hold(conn)
        scene.sequence()
        assert scene.leaves() == []
    scene.sequence()
    assert len(scene.leaves()) == 2


def test_nothing_is_signed_by_the_old_key_while_others_work(scene: Scene, tmp_path: Path) -> None:
    """Two sequencers and a stream of changes, and the key changes three times meanwhile."""
    scene.team("before")
    scene.sequence()
    stop = threading.Event()
    quick = dataclasses.replace(scene.control.settings, ledger_sequence_ms=10)
    signers, clock = scene.control.sequencer._signers, scene.control.tools.clock
    working = [Sequencer(scene.store, quick, clock, signers, Keyring(quick)) for _ in range(2)]
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in working]
    for thread in threads:
        thread.start()
    for number in range(3):
        scene.team(f"team-{number}")
        time.sleep(0.05)
        rotate(scene)
    stop.set()
    for thread in threads:
        thread.join(60)
    scene.sequence(2)
    first = scene.owner.get("/tenants/acme/ledger/checkpoint")["keys"][-1]
    for tenant_id in (*scene.ids.values(), PLATFORM):
        verified(scene.control, tenant_id, tmp_path / tenant_id, scene.claimed())
        report = verify_export(tmp_path / tenant_id, [VerifierKey.parse(first)])
        assert (report.verdict, report.problems) == ("complete", []), report.problems
