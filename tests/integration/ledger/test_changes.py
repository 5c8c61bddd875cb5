"""Administrative changes in the ledger: each is an entry, none is lost or doubled, and a changed row is found out."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from interlock.control.sequencer import Sequencer
from interlock.ledger.control_entry import EPOCH
from interlock.storage import changes, ledger_read
from interlock.storage.changes import Author, Change
from tests.integration.control_client import Admin, Running
from tests.integration.ledger.harness import verified
from tests.integration.ledger.test_ledger_api import control_over_migrated
from tests.integration.ledger.test_sequencing import entries

PLATFORM = "ten_platform"
NAME = "margarethe-von-trotta"
REASON = "her salary is 7310 a month"


class Scene:
    """A control plane with two tenants, and their trees."""

    def __init__(self, running: Running, url: str) -> None:
        self.running, self.url = running, url
        self.control, self.store, self.owner = running.control, running.control.store, running.owner
        for tenant in ("acme", "globex"):
            self.owner.do("POST", "/tenants", {"name": tenant})
        self.ids = {name: self.owner.get(f"/tenants/{name}")["id"] for name in ("acme", "globex")}
        self.acme = self.ids["acme"]

    def sequence(self, times: int = 1) -> None:
        for _ in range(times):
            for tenant_id in (*self.ids.values(), PLATFORM):
                while self.control.sequencer.sequence(tenant_id) >= 500:
                    pass

    def leaves(self, tenant_id: str = "", kind: str = "change") -> list[Any]:
        found = [msgspec.json.decode(leaf) for _, _, leaf in entries(self.store, tenant_id or self.acme)]
        return [leaf for leaf in found if leaf["kind"] == kind]

    def team(self, name: str, tenant: str = "acme") -> None:
        self.owner.do("POST", f"/tenants/{tenant}/teams", {"name": name})

    def claimed(self) -> int:
        with self.store.tenant(self.acme) as conn:
            found = ledger_read.latest_checkpoint(conn, self.acme)
        return found.complete_ns if found is not None else 0

    def as_owner_of_the_database(self, statement: str, *args: Any) -> int:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
            return conn.execute(statement.encode(), args).rowcount

    def audit(self, tenant: str = "acme") -> Any:
        return self.owner.get(f"/tenants/{tenant}/ledger/changes-audit")


@pytest.fixture
def scene(postgres_migrated_url: str) -> Iterator[Scene]:
    with control_over_migrated(postgres_migrated_url) as running:
        yield Scene(running, postgres_migrated_url)


def by(reason: str = "a test") -> Author:
    return Author("prn_somebody", "somebody", reason, datetime.now(UTC))


def change(tenant_id: str, number: int = 0) -> Change:
    return Change(tenant_id, "team.update", "team", f"team_{number}", None, {"number": number})


def test_every_change_is_an_entry_of_the_tree_it_concerns(scene: Scene, tmp_path: Path) -> None:
    body = {"name": NAME}
    made = scene.owner.call("POST", "/tenants/acme/principals", body, REASON)[1]["item"]
    scene.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    scene.sequence()
    rows = scene.owner.get("/tenants/acme/changes?limit=100")["items"]
    last = scene.leaves()[-1]
    assert (last["what"], last["request"]) == (
        {"operation": "principal.create", "object": "principal"},
        f"chg_{rows[0]['id']}",
    )
    assert last["who"] == {"principal": rows[0]["actor_id"]} and last["rows"][0]["object"] == made["id"]
    told = [row["id"] for leaf in scene.leaves() for row in leaf["rows"]]
    assert sorted(told) == sorted(row["id"] for row in rows)
    assert [leaf["n"] for leaf in scene.leaves()] == list(range(1, len(told) + 1))
    assert {leaf["epoch"] for leaf in scene.leaves()} == {EPOCH}
    operations = {leaf["what"]["operation"] for leaf in scene.leaves(PLATFORM)}
    assert {"role.create", "principal.create", "key.create"} <= {each.replace("binding", "role") for each in operations}
    text = json.dumps(scene.leaves())
    assert NAME not in text and REASON not in text and "margarethe" not in text
    view = scene.owner.get(f"/tenants/acme/ledger/calls/{last['request']}")
    assert [entry["leaf"]["kind"] for entry in view["entries"]] == ["change"] and len(view["proofs"]) == 1
    found = scene.owner.get("/tenants/acme/ledger/entries?kind=change&limit=200")["items"]
    assert len(found) == len(told)
    until_ns = time.time_ns()
    scene.sequence(2)
    report = verified(scene.control, scene.acme, tmp_path / "export", until_ns)
    assert (report.verdict, report.problems) == ("complete", [])
    assert report.in_range > len(told), "the look and the search, too"
    report = verified(scene.control, PLATFORM, tmp_path / "platform", until_ns)
    assert (report.verdict, report.problems) == ("complete", [])
    assert scene.audit()["problems"] == scene.audit("platform")["problems"] == []


def test_a_change_that_is_taken_back_leaves_no_number_out(scene: Scene) -> None:
    scene.team("one")
    with pytest.raises(RuntimeError), scene.store.tenant(scene.acme) as conn:
        changes.record(conn, change(scene.acme), by())
        raise RuntimeError
    assert scene.owner.call("POST", "/tenants/acme/teams", {"name": "one"})[0] == 409
    scene.team("two")
    scene.sequence()
    numbers = [leaf["n"] for leaf in scene.leaves()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) == 3
    assert scene.audit()["problems"] == []


def test_nothing_is_claimed_beyond_a_change_that_is_being_made(scene: Scene, tmp_path: Path) -> None:
    scene.team("one")
    scene.sequence()
    with scene.store.tenant(scene.acme) as conn:
        before = scene.claimed()
        changes.record(conn, change(scene.acme), by())
        scene.sequence(3)
        assert scene.claimed() == before, "what is not committed may still come"
    scene.sequence(2)
    assert scene.claimed() > max(leaf["at"] for leaf in scene.leaves())
    assert len(scene.leaves()) == 3
    report = verified(scene.control, scene.acme, tmp_path / "export", scene.claimed())
    assert (report.verdict, report.problems) == ("complete", [])


def test_nothing_is_claimed_beyond_a_change_that_waits(scene: Scene, tmp_path: Path) -> None:
    for number in range(3):
        with scene.store.tenant(scene.acme) as conn:
            changes.record(conn, change(scene.acme, number), by())
    scene.control.sequencer._settings = dataclasses.replace(scene.control.settings, ledger_batch_entries=1)
    for _ in range(3):
        scene.control.sequencer.sequence(scene.acme)
    assert len(scene.leaves()) == 3
    scene.sequence(2)
    report = verified(scene.control, scene.acme, tmp_path / "export", scene.claimed())
    assert (report.verdict, report.problems) == ("complete", [])


def test_an_instant_is_after_what_was_claimed(scene: Scene, tmp_path: Path) -> None:
    """Of a control process whose clock is behind, or a request that was long on its way to the database."""
    scene.team("one")
    scene.sequence(2)
    old = msgspec.structs.replace(by(), at=datetime(2020, 1, 1, tzinfo=UTC))
    claimed = scene.claimed()
    with scene.store.tenant(scene.acme) as conn:
        changes.record(conn, change(scene.acme), old)
    scene.sequence(2)
    assert scene.leaves()[-1]["at"] > claimed
    report = verified(scene.control, scene.acme, tmp_path / "export", scene.claimed())
    assert (report.verdict, report.problems) == ("complete", [])


def test_several_processes_change_at_once_and_every_claim_holds(scene: Scene, tmp_path: Path) -> None:
    """Transactions over two tenants, in both orders, while two sequencers work: nobody deadlocks, nothing is lost."""
    errors: list[BaseException] = []
    pairs = [(scene.ids["acme"], scene.ids["globex"]), (scene.ids["globex"], scene.ids["acme"])]

    def write(number: int) -> None:
        try:
            for step in range(25):
                with scene.store.platform() as conn:
                    for tenant_id in pairs[number % 2]:
                        changes.record(conn, change(tenant_id, step), by())
                        time.sleep(0.001)
        except BaseException as e:
            errors.append(e)

    stop = threading.Event()
    other = Sequencer(scene.store, scene.control.settings, scene.control.tools.clock, scene.control.sequencer._signers)
    scene.control.sequencer._settings = dataclasses.replace(scene.control.settings, ledger_sequence_ms=10)
    working = [threading.Thread(target=each.run, args=(stop,)) for each in (other, scene.control.sequencer)]
    writing = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (*working, *writing):
        thread.start()
    for thread in writing:
        thread.join(60)
    stop.set()
    for thread in working:
        thread.join(60)
    assert errors == []
    scene.sequence(2)
    for name, tenant_id in scene.ids.items():
        leaves = scene.leaves(tenant_id)
        assert [leaf["n"] for leaf in leaves] == list(range(1, 102))
        report = verified(scene.control, tenant_id, tmp_path / name, max(leaf["at"] for leaf in leaves))
        assert (report.verdict, report.problems) == ("complete", [])
        assert scene.audit(name)["problems"] == []


def test_a_program_that_looks_all_day_does_not_flood_the_tree(scene: Scene) -> None:
    scene.sequence()
    before = len(scene.leaves())
    scene.control.sequencer._settings = dataclasses.replace(scene.control.settings, ledger_checkpoint_s=3600)
    for _ in range(60):
        scene.owner.get("/tenants/acme/ledger/entries")
    scene.team("between")
    scene.control.sequencer.pass_once()
    assert len(scene.leaves()) == before + 1, "they wait for a checkpoint, and hold up nothing"
    waiting = scene.audit()
    assert (waiting["problems"], waiting["waiting"]) == ([], 60)
    scene.control.sequencer._settings = scene.control.settings
    scene.sequence(2)
    looks = [leaf for leaf in scene.leaves() if leaf["what"]["operation"] == "ledger.search"]
    assert [len(leaf["rows"]) for leaf in looks] == [60]
    assert looks[0]["at"] == min(row["at"] for row in looks[0]["rows"])
    found = scene.audit()
    assert (found["problems"], found["waiting"]) == ([], 0)


TAMPERED: dict[str, tuple[tuple[str, ...], str]] = {
    "reason": (("UPDATE interlock.changes SET reason = 'harmless' WHERE id = {id}",), "change {id} is not as it was"),
    "author": (("UPDATE interlock.changes SET actor = 'eve' WHERE id = {id}",), "change {id} is not as it was"),
    "value": (
        ("UPDATE interlock.changes SET after = jsonb_set(after, '{{name}}', '\"x\"') WHERE id = {id}",),
        "change {id} is not as it was",
    ),
    "when": (
        ("UPDATE interlock.changes SET at = at - interval '1 microsecond' WHERE id = {id}",),
        "change {id} is not as it was",
    ),
    "salt": (("UPDATE interlock.changes SET salt = decode(repeat('00', 32), 'hex') WHERE id = {id}",), "is not as it"),
    "no-salt": (("UPDATE interlock.changes SET salt = NULL WHERE id = {id}",), "change {id} is gone"),
    "tenant": (("UPDATE interlock.changes SET tenant_id = 'ten_x' WHERE id = {id}",), "change {id} is not as it was"),
    "gone": (("DELETE FROM interlock.changes WHERE id = {id}",), "change {id} is gone"),
    "gone-with-its-entry": (
        (
            "DELETE FROM interlock.changes WHERE id = {id}",
            "DELETE FROM interlock.ledger_entries WHERE request = 'chg_{id}'",
        ),
        "does not follow number",
    ),
    "gone-with-its-last-entry": (
        (
            "DELETE FROM interlock.changes WHERE id ="
            " (SELECT max(id) FROM interlock.changes WHERE tenant_id = '{acme}')",
            "DELETE FROM interlock.ledger_entries WHERE tenant_id = '{acme}' AND position ="
            " (SELECT max(position) FROM interlock.ledger_entries WHERE tenant_id = '{acme}')",
        ),
        "the newest checkpoint counts",
    ),
    "entry": (
        (
            "UPDATE interlock.changes SET reason = 'harmless' WHERE id = {id}",
            "UPDATE interlock.ledger_entries SET leaf = convert_to(replace(convert_from(leaf, 'UTF8'),"
            " '\"digest\":\"', '\"digest\":\"0'), 'UTF8') WHERE request = 'chg_{id}'",
        ),
        "is not the one that was signed",
    ),
    "added": (
        (
            "INSERT INTO interlock.changes (at, tenant_id, actor_id, actor, reason, request_id, action, object_kind,"
            " object_id, salt) SELECT at, tenant_id, actor_id, actor, reason, '', action, object_kind, object_id, salt"
            " FROM interlock.changes WHERE id = {id}",
        ),
        "is in no entry of the ledger",
    ),
    "added-as-if-old": (
        (
            "INSERT INTO interlock.changes (at, tenant_id, actor_id, actor, reason, request_id, action, object_kind,"
            " object_id) SELECT at, tenant_id, actor_id, actor, reason, '', action, object_kind, object_id"
            " FROM interlock.changes WHERE id = {id}",
        ),
        "is in no entry of the ledger, though earlier ones are",
    ),
    "checkpoint": (
        ("UPDATE interlock.ledger_checkpoints SET note = replace(note, 'at 1', 'at 2')",),
        "the newest checkpoint cannot be trusted",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_row_that_was_tampered_with_is_found_out(scene: Scene, what: str) -> None:
    for name in ("one", "two", "three"):
        scene.team(name)
    scene.sequence(2)
    assert scene.audit()["problems"] == []
    scene.sequence(2)
    target = scene.leaves()[2]["rows"][0]["id"]
    statements, words = TAMPERED[what]
    for statement in statements:
        assert scene.as_owner_of_the_database(statement.format(id=target, acme=scene.acme)) >= 1
    found = scene.audit()["problems"]
    assert any(words.format(id=target) in each for each in found), found


def test_rows_from_before_are_counted_apart(scene: Scene) -> None:
    scene.team("one")
    scene.sequence()
    ids = [row["id"] for leaf in scene.leaves() for row in leaf["rows"]]
    scene.as_owner_of_the_database(
        "INSERT INTO interlock.changes (id, at, tenant_id, actor_id, actor, reason, request_id, action, object_kind,"
        " object_id) OVERRIDING SYSTEM VALUE SELECT -5, at, tenant_id, actor_id, actor, reason, '', action,"
        " object_kind, object_id FROM interlock.changes WHERE id = %s",
        ids[0],
    )
    found = scene.audit()
    assert (found["older"], found["problems"]) == (1, [])


def test_the_platforms_tree_is_for_who_administers_the_platform(scene: Scene) -> None:
    for role in ("auditor", "owner"):
        name = f"local-{role}"
        scene.owner.do("POST", "/tenants/platform/principals", {"name": name})
        scene.owner.do("POST", "/tenants/platform/roles", {"principal": name, "role": role})
        made = scene.owner.do("POST", "/tenants/platform/keys", {"name": name, "principal": name, "scopes": ["admin"]})
        local = Admin(scene.owner.http, made["key"])
        for path in ("changes-audit", "entries", "checkpoint"):
            assert local.call("GET", f"/tenants/platform/ledger/{path}")[0] == 403, (role, path)
