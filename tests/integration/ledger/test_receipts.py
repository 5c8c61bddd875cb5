"""Receipts, from the answer's head to an export of the real ledger that has their calls."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from interlock.ledger.proof.receipt import Signed
from tests.integration.gateway.client import CHAT, Answer, ask
from tests.integration.ledger.harness import serving
from tests.integration.ledger.scene import SECRET, Scene

NAME = "x-interlock-receipt"


def asked(scene: Scene, body: dict[str, Any] | bytes, who: str = "alice", **headers: str) -> Answer:
    return ask(scene.gateway, body, key=scene.gateway.key(who), **{"x_interlock_receipt": "true", **headers})


def test_each_kind_of_answer_has_a_receipt_whose_entry_is_in_the_ledger(scene: Scene, tmp_path: Path) -> None:
    body = json.dumps({**CHAT, "messages": [{"role": "user", "content": SECRET}]}).encode()
    whole = asked(scene, body)
    streamed = asked(scene, {**CHAT, "stream": True})
    refused = asked(scene, {**CHAT, "model": "nothing"})
    unread = asked(scene, b"{")
    answers = (whole, streamed, refused, unread)
    assert [each.status for each in answers] == [200, 200, 404, 400]
    receipts = [Signed.parse(each.headers[NAME]) for each in answers]
    for answer, signed in zip(answers, receipts, strict=True):
        said = signed.receipt
        assert said.request == answer.headers["x-interlock-request-id"]
        assert (said.tenant, said.status, said.operation) == ("ten_acme", answer.status, "chat")
        assert abs(said.at - time.time_ns()) < 60_000_000_000
    assert receipts[0].is_of(body=body, answer=whole.body) and not receipts[0].is_of(body=body + b" ")
    assert [bool(each.receipt.answer) for each in receipts] == [True, False, False, False]
    scene.arrive()
    scene.all_until_now()
    report = scene.verify(tmp_path / "out", time.time_ns() + 1_000_000_000, receipts=receipts)
    assert report.verdict != "altered"
    assert [each.verdict for each in report.receipts] == ["recorded"] * 4
    entries = (tmp_path / "out" / "entries.jsonl").read_text()
    assert receipts[0].receipt.body in entries and receipts[0].blind.hex() not in entries


def test_what_did_not_reach_the_ledger_is_proven_omitted(scene: Scene, tmp_path: Path) -> None:
    kept = Signed.parse(asked(scene, CHAT).headers[NAME])
    answer = asked(scene, CHAT)
    gone = Signed.parse(answer.headers[NAME])
    asked(scene, CHAT, who="carol")
    scene.shipper.pass_once()
    with scene.running.control.store.platform() as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', true)")
        conn.execute("DELETE FROM interlock.ledger_inbox WHERE n = 2 AND tenant_id = 'ten_acme'")
        conn.execute("UPDATE interlock.ledger_shipped SET n = 1 WHERE tenant_id = 'ten_acme'")
    time.sleep(1.3)  # the receipt's instant may be a second before its entry's
    scene.arrive()
    scene.all_until_now()
    report = scene.verify(tmp_path / "out", time.time_ns() + 60_000_000_000, receipts=[kept, gone])
    assert report.verdict == "open tail", report
    assert [each.verdict for each in report.receipts] == ["recorded", "omitted"], report.receipts


def test_who_does_not_ask_gets_none_and_nonsense_is_refused_at_the_door(scene: Scene) -> None:
    plain = ask(scene.gateway, CHAT)
    assert plain.status == 200 and NAME not in plain.headers
    assert NAME not in asked(scene, CHAT, x_interlock_receipt="false").headers
    wrong = asked(scene, CHAT, x_interlock_receipt="please")
    assert (wrong.status, wrong.error["param"]) == (400, NAME) and NAME not in wrong.headers
    stranger = ask(scene.gateway, CHAT, key="sk-nobody", x_interlock_receipt="true")
    assert stranger.status == 401 and NAME not in stranger.headers


@pytest.mark.parametrize("stream", [False, True])
def test_an_installation_may_give_receipts_to_everybody(tmp_path: Path, stream: bool) -> None:
    with serving(tmp_path, ledger_receipts="all") as (gateway, _):
        for headers in ({}, {"x_interlock_receipt": "false"}):
            answer = ask(gateway, {**CHAT, "stream": stream}, **headers)
            signed = Signed.parse(answer.headers[NAME])
            assert signed.receipt.request == answer.headers["x-interlock-request-id"]


def test_metadata_recording_keeps_the_commitment_and_nothing_to_guess_by(scene: Scene) -> None:
    signed = Signed.parse(asked(scene, CHAT, x_interlock_recording="metadata").headers[NAME])
    scene.arrive()
    view = scene.owner.call("GET", f"/tenants/acme/ledger/calls/{signed.receipt.request}")[1]
    assert view["entries"][0]["leaf"]["receipt"] == signed.receipt.body
