"""Erasure of a person: nothing that they said can be found or guessed, every proof still holds, and it is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.storage import shipping
from tests.integration.control_client import Admin
from tests.integration.ledger.harness import shipper_for
from tests.integration.ledger.scene import MESSAGE, SECRET, Scene, everything, needles


def test_after_an_erasure_nothing_is_left_to_find_and_every_proof_holds(
    scene: Scene, tmp_path: Path, postgres_migrated_url: str
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
    rows = everything(postgres_migrated_url)
    assert len(rows) > 50
    for needle in needles():
        assert not any(needle in row for row in rows), needle
    status, error = scene.owner.call("GET", f"/tenants/acme/ledger/calls/{alices}/replay")
    assert (status, error["error"]["code"]) == (404, "features_erased")
    until_ns = scene.all_until_now()
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


def test_an_erasure_takes_answers_kept_for_idempotency_keys(scene: Scene) -> None:
    kept = (
        "INSERT INTO interlock.idempotency_keys (tenant_id, principal_id, digest, fingerprint, subject, epoch, request,"
        " state, answer, expires_at) VALUES ('ten_acme', %(p)s::text, sha256(convert_to(%(p)s, 'UTF8')), sha256('r'),"
        " %(p)s, 'e', 'req_1',"
        " 'done', 'sealed', now() + interval '1 day')"
    )
    url = scene.running.control.store.url
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_lender', false)")
        for who in ("alice", "bob"):
            conn.execute(kept, {"p": f"prn_acme_{who}"})
        scene.say(SECRET)
        scene.arrive()
        scene.erase()
        left = conn.execute("SELECT subject FROM interlock.idempotency_keys").fetchall()
    assert left == [("prn_acme_bob",)]
