"""Exports with what was said: by the second grant, recorded, each word held against the entry; erased stays erased."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidTag

from interlock.control.main import ledger_signer
from interlock.ledger import vault
from interlock.ledger.proof.findings import Report
from interlock.ledger.proof.verify import verify_export
from interlock.ledger.vault import SubjectKey
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.scene import SECRET, Scene
from tests.unit.ledger.compressors import by_a_mac, naming

LATER_NS = 9_000_000_000_000_000_000


def exported(scene: Scene, folder: Path, from_ns: int = 0, to_ns: int = LATER_NS) -> None:
    """The export as the command writes it."""
    from interlock.cli.ledger import write_export

    write_export(_Client(scene), folder, "acme", from_ns, to_ns, "case 4", payloads=True)  # type: ignore[arg-type]


class _Client:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def lines(self, path: str, *, reason: str, query: dict[str, Any]) -> Any:
        answer = self._scene.running.http.get(
            f"/admin/v1{path}",
            params=query,
            headers={"authorization": f"Bearer {self._scene.owner.key}", "x-interlock-reason": reason},
        )
        assert answer.status_code == 200, answer.text
        return (json.loads(line) for line in answer.text.splitlines())


def opened(folder: Path) -> list[str]:
    return [path.read_text() for path in (folder / "opened").rglob("*.txt")]


def verified(scene: Scene, folder: Path) -> Report:
    return verify_export(folder, [ledger_signer(scene.running.control.settings).verifier_key])


def test_what_was_said_is_in_the_export_and_proven(scene: Scene, tmp_path: Path) -> None:
    request = scene.say(SECRET)
    answer = ask(scene.gateway, {**CHAT, "stream": True})
    scene.arrive()
    exported(scene, tmp_path / "out")
    report = verified(scene, tmp_path / "out")
    assert report.verdict == "open tail" and report.opened == report.contents > 4, report
    texts = opened(tmp_path / "out")
    assert any(SECRET in text for text in texts)
    leaves = [json.loads(line) for line in (tmp_path / "out" / "entries.jsonl").read_text().splitlines()]
    (leaf,) = [each for each in leaves if each.get("request") == request]
    (said,) = [each["id"] for each in leaf["contents"] if each["role"] == "answer"]
    assert json.loads((tmp_path / "out" / "opened" / said[:2] / f"{said}.txt").read_text())["choices"]
    assert answer.status == 200
    changes = scene.owner.call("GET", "/tenants/acme/changes?limit=50")[1]["items"]
    (look,) = [each for each in changes if each["action"] == "ledger.export"]
    assert (look["after"]["payloads"], look["reason"]) == (True, "case 4")


def test_what_was_said_outside_of_the_range_stays_encrypted(scene: Scene, tmp_path: Path) -> None:
    scene.say(SECRET)
    time.sleep(0.02)
    now_ns = time.time_ns()
    scene.say("and later this")
    scene.arrive()
    exported(scene, tmp_path / "out", from_ns=now_ns)
    texts = opened(tmp_path / "out")
    assert any("and later this" in text for text in texts) and not any(SECRET in text for text in texts)
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert verified(scene, tmp_path / "out").verdict == "open tail"


def test_erased_shows_as_erased_also_when_that_was_after_the_range(scene: Scene, tmp_path: Path) -> None:
    scene.say(SECRET)
    scene.say("what bob said", who="bob")
    scene.arrive()
    to_ns = scene.all_until_now()
    scene.erase()
    scene.arrive()
    exported(scene, tmp_path / "out", to_ns=to_ns)
    report = verified(scene, tmp_path / "out")
    assert report.verdict in ("complete", "open tail") and report.opened, report
    texts = opened(tmp_path / "out")
    assert any("what bob said" in text for text in texts) and not any(SECRET in text for text in texts)


def test_payloads_take_the_second_grant_and_a_reason(scene: Scene) -> None:
    scene.say(SECRET)
    scene.arrive()
    scene.owner.do("DELETE", "/roles/admin:payload_reader")
    path = f"/tenants/acme/ledger/export?from_ns=0&to_ns={LATER_NS}&payloads=true"
    assert scene.owner.call("GET", path)[0] == 403
    scene.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    assert scene.owner.call("GET", path, reason="")[0] == 400


def test_contents_from_before_are_read_and_stay_encrypted_in_exports(scene: Scene, tmp_path: Path) -> None:
    """Their names cannot be opened one by one: nothing would show that a plaintext is theirs."""
    with naming(by_a_mac):
        request = scene.say(SECRET)
        scene.arrive()
    assert json.dumps(scene.contents(request)).count(SECRET) == 1
    exported(scene, tmp_path / "out")
    report = verified(scene, tmp_path / "out")
    assert (report.verdict, report.opened) == ("open tail", 0) and report.contents > 2


def test_no_key_of_a_subject_leaves(scene: Scene, tmp_path: Path) -> None:
    """With everything of an export nothing opens that it does not open itself."""
    scene.say(SECRET)
    time.sleep(0.02)
    now_ns = time.time_ns()
    scene.say("and later this")
    scene.arrive()
    exported(scene, tmp_path / "out", from_ns=now_ns)
    salts = [msgspec.json.decode(line)["salt"] for line in (tmp_path / "out" / "opened.jsonl").read_text().splitlines()]
    assert salts
    for path in (tmp_path / "out" / "contents").rglob("*.bin"):
        data = path.read_bytes()
        for salt in salts:
            key = SubjectKey(bytes.fromhex(salt))
            with pytest.raises((vault.VaultError, InvalidTag)):
                key.open(bytes.fromhex(path.stem), data, bytes_max=1 << 20)
