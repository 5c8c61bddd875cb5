"""The ledger through the front door: find a call, prove it, export a range, verify it on the folder alone, offline."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.figures import note

from .stack import Answer, Stack, command, until

SAID = "The signal box at Kirkton is closed on Sundays."


def at(seconds: float) -> str:
    """A time as the command line takes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.fixture(scope="module")
def asked(demo: Stack, rosa: str) -> Answer:
    """A call whose words are known."""
    answer = demo.chat(rosa, text=SAID, max_tokens=4)
    assert answer.status == 200
    return answer


def show(demo: Stack, request_id: str, *more: str) -> Any:
    """The call with its proof, None while that is still on its way."""
    ran = demo.run("ledger", "show", request_id, "-t", "acme", "--json", *more)
    found = ran.json()
    return found if ran.code == 0 and found["proved"] else None


def test_a_call_is_in_the_ledger_and_proved_within_seconds(demo: Stack, asked: Answer) -> None:
    began = time.monotonic()
    until(lambda: show(demo, asked.request_id), 180, "the call to be proved")
    note(f"from an answer to its proof under a signed checkpoint: {time.monotonic() - began:.1f} s")
    found = show(demo, asked.request_id)
    assert found is not None and found["contents"] is None
    (entry,) = found["entries"]
    assert entry["leaf"]["result"]["state"] == "completed"
    assert SAID not in json.dumps(found)
    listed = demo.ok("ledger", "search", "-t", "acme", "--principal", "rosa", "--since", "1h")
    assert asked.request_id in [item["leaf"]["request"] for item in listed["items"]]
    assert demo.ok("ledger", "search", "-t", "acme", "--principal", "nobody")["items"] == []


def test_a_call_is_decided_again_from_its_record_in_the_ledger(demo: Stack, asked: Answer) -> None:
    until(lambda: show(demo, asked.request_id), 180, "the call to be proved")
    told = demo.ok("ledger", "replay", asked.request_id, "-t", "acme")
    assert (told["same"], told["decided"]) == (True, ["resolve", "policy", "route"])
    missing = demo.run("ledger", "replay", "req_0000000000000000_1", "-t", "acme", "--json")
    assert missing.code == 1 and "no call" in missing.out


def test_what_was_said_needs_a_second_grant_and_each_look_is_recorded(demo: Stack, asked: Answer) -> None:
    until(lambda: show(demo, asked.request_id), 180, "the call to be proved")
    refused = demo.run("ledger", "show", asked.request_id, "-t", "acme", "--content", "--json")
    assert refused.code == 1 and "payload_reader" in refused.out
    role = {"principal": "admin", "role": "payload_reader"}
    made = demo.admin("POST", "/roles", role, reason="case 17")
    assert made.status == 201, made.body
    try:
        found = show(demo, asked.request_id, "--content", "-m", "case 17")
        assert found is not None
        contents = found["contents"]
        assert contents["messages"][0]["content"] == SAID
        assert contents["answer"]["choices"][0]["message"]["content"]
    finally:
        assert demo.admin("DELETE", "/roles/admin:payload_reader", reason="done").status == 200
    changes = demo.admin("GET", "/tenants/acme/changes?limit=50").json()["items"]
    looks = [(c["action"], c["object_id"], c["reason"]) for c in changes if c["action"].startswith("ledger.")]
    assert ("ledger.content", asked.request_id, "case 17") in looks
    assert any(action == "ledger.show" and thing == asked.request_id for action, thing, _ in looks)


def test_an_export_is_proved_complete_by_its_folder_alone(demo: Stack, asked: Answer, tmp_path: Path) -> None:
    ended = time.time()
    checkpoint = demo.ok("ledger", "checkpoint", "-t", "acme")

    def complete() -> bool:
        until_s = datetime.fromisoformat(demo.ok("ledger", "checkpoint", "-t", "acme")["complete_until"]).timestamp()
        return until_s > ended

    until(complete, 180, "a checkpoint under which everything until then is there")
    kept = tmp_path / "kept.note"
    kept.write_text(checkpoint["note"])
    folder = tmp_path / "export"
    made = demo.ok("ledger", "export", str(folder), "-t", "acme", "--from", at(ended - 3600), "--to", at(ended))
    assert made["entries"] > 0
    key = checkpoint["keys"][0]
    offline = {"INTERLOCK_HOME": str(tmp_path / "nothing"), "INTERLOCK_CONTROL_URL": "http://127.0.0.1:9"}
    ran = command("ledger", "verify", str(folder), "--key", key, "--seen", str(kept), environment=offline)
    assert (ran.code, ran.err) == (0, ""), ran.out
    assert ran.out.startswith("COMPLETE")
    assert asked.request_id in (folder / "entries.jsonl").read_text()
    assert SAID not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    until_later = at(ended + 86_400)
    demo.ok("ledger", "export", str(tmp_path / "later"), "-t", "acme", "--from", at(ended - 60), "--to", until_later)
    assert verdict(tmp_path / "later", key) == "open tail", "tomorrow has not been"
    shutil.copytree(folder, tmp_path / "changed")
    entries = tmp_path / "changed" / "entries.jsonl"
    entries.write_text(entries.read_text().replace('"state":"completed"', '"state":"failed"', 1))
    assert verdict(tmp_path / "changed", key) == "altered"


def verdict(folder: Path, key: str) -> str:
    """What `ledger verify` says of a folder that is not proved complete."""
    ran = command("ledger", "verify", str(folder), "--key", key, "--json")
    assert ran.code == 3, ran
    return str(ran.json()["verdict"])
