"""Evidence: calls that their callers label as parts of documents are found by these names, by a second grant, with
proofs, gaps and totals; names are contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from interlock.cli import ledger_evidence
from interlock.control.main import ledger_signer
from tests.integration.gateway.client import CHAT, Answer, ask
from tests.integration.ledger.scene import Scene, everything

DOCUMENT = "Schadenakte Margarethe Mustermann.pdf"


def part(scene: Scene, chunk: int | None, who: str = "alice", **more: Any) -> Answer:
    own = {"batch": "march", "document": DOCUMENT, **({} if chunk is None else {"chunk": chunk}), **more}
    return ask(scene.gateway, {**CHAT, "interlock": own}, key=scene.gateway.key(who))


def found(scene: Scene, **more: Any) -> Any:
    return scene.owner.do("POST", "/tenants/acme/ledger/evidence", {"document": DOCUMENT, **more})


def numbers(view: Any) -> list[int | None]:
    return [each["chunk"] for each in view["parts"]]


def test_a_document_leads_to_its_chunks_calls_attempts_and_outputs(scene: Scene, tmp_path: Path) -> None:
    first = part(scene, 1, chunks=6)
    second = ask(
        scene.gateway,
        CHAT,
        key=scene.gateway.key("bob"),
        x_interlock_document=DOCUMENT,
        x_interlock_batch="march",
        x_interlock_chunk="3",
        x_interlock_chunks="6",
    )
    again = part(scene, 1)
    part(scene, 2, document="another")
    assert [each.status for each in (first, second, again)] == [200] * 3
    scene.arrive()
    view = found(scene)
    assert numbers(view) == [1, 3] and view["chunks"] == 6
    assert view["missing"] == [{"first": 2, "last": 2}, {"first": 4, "last": 6}] and view["unanswered"] == []
    assert view["subjects"] == ["prn_acme_alice", "prn_acme_bob"]
    ids = [each.headers["x-interlock-request-id"] for each in (first, again)]
    assert [call["request"] for call in view["parts"][0]["calls"]] == ids
    assert (view["totals"]["calls"], view["totals"]["attempts"], view["totals"]["failures"]) == (3, 3, 0)
    assert view["totals"]["prompt_tokens"] > 0 and view["parts"][0]["calls"][0]["contents"] is None
    content = found(scene, content=True, subject="prn_acme_bob")
    assert numbers(content) == [3]
    (call,) = content["parts"][0]["calls"]
    assert call["contents"]["answer"]["choices"] and call["contents"]["record"][0]
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(view))
    key = ledger_signer(scene.running.control.settings).verifier_key.text
    ledger_evidence.check(file, [key])


def test_a_batch_is_told_from_another(scene: Scene) -> None:
    part(scene, 1)
    part(scene, 2, batch="april")
    scene.arrive()
    assert numbers(found(scene)) == [1, 2]
    assert numbers(found(scene, batch="april")) == [2]
    assert scene.owner.call("POST", "/tenants/acme/ledger/evidence", {"document": DOCUMENT, "batch": "may"})[0] == 404


def test_a_chunk_without_an_answer_is_named(scene: Scene) -> None:
    part(scene, 0)
    refused = ask(
        scene.gateway,
        {**CHAT, "model": "nothing", "interlock": {"document": DOCUMENT, "chunk": 1}},
        key=scene.gateway.key("alice"),
    )
    assert refused.status == 404
    part(scene, None)
    scene.arrive()
    view = found(scene)
    assert numbers(view) == [None, 0, 1] and view["unanswered"] == [1] and view["missing"] == []
    assert (view["totals"]["calls"], view["totals"]["refusals"]) == (2, 1)


def test_no_name_is_in_clear_and_after_an_erasure_none_can_be_found_or_confirmed(
    scene: Scene, postgres_migrated_url: str
) -> None:
    part(scene, 1)
    part(scene, 2, who="bob")
    scene.arrive()
    assert numbers(found(scene)) == [1, 2]
    rows = everything(postgres_migrated_url)
    for needle in ("Mustermann", b"Mustermann".hex(), "march"):
        assert not [row for row in rows if needle in row], needle
    scene.erase()
    assert numbers(found(scene)) == [2], "bob's part of it is still there"
    part(scene, 4)
    scene.arrive()
    assert numbers(found(scene, subject="prn_acme_alice")) == [4], "what is said after an erasure is under a new key"


def test_it_takes_the_second_grant_and_a_reason_and_is_recorded_without_the_name(scene: Scene) -> None:
    part(scene, 1)
    scene.arrive()
    found(scene)
    path, asked = "/tenants/acme/ledger/evidence", {"document": DOCUMENT}
    changes = scene.owner.call("GET", "/tenants/acme/changes?limit=20")[1]["items"]
    (look,) = [each for each in changes if each["action"] == "ledger.evidence"]
    assert look["reason"] and "Mustermann" not in json.dumps(look)
    assert scene.owner.call("POST", path, asked, reason="")[0] == 400
    assert scene.owner.call("POST", path, {**asked, "reason": "case 7"}, reason="")[0] == 200
    newest = scene.owner.call("GET", "/tenants/acme/changes?limit=20")[1]["items"]
    assert "case 7" in [each["reason"] for each in newest if each["action"] == "ledger.evidence"]
    assert scene.owner.call("POST", path, {"document": ""})[0] == 400
    assert scene.owner.call("POST", path, {"document": "a\x00b"})[0] == 400
    scene.owner.do("DELETE", "/roles/admin:payload_reader")
    assert scene.owner.call("POST", path, asked)[0] == 403


BAD: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"chunk": 1}, {}, "interlock.document"),
    ({"chunks": 1}, {}, "interlock.document"),
    ({"document": "d", "chunk": -1}, {}, "interlock.chunk"),
    ({"document": "d", "chunk": 1_000_001}, {}, "interlock.chunk"),
    ({"document": "d", "chunks": 0}, {}, "interlock.chunks"),
    ({"document": "d", "chunk": 3, "chunks": 2}, {}, "interlock.chunk"),
    ({"document": "d" * 257}, {}, "interlock.document"),
    ({"batch": "a\nb"}, {}, "interlock.batch"),
    ({"document": "d", "chunk": "1"}, {}, "interlock.chunk"),
    ({}, {"x_interlock_document": "d", "x_interlock_chunk": "-1"}, "interlock.chunk"),
    ({}, {"x_interlock_document": "d", "x_interlock_chunk": "1e3"}, "interlock.chunk"),
    ({}, {"x_interlock_document": "d", "x_interlock_chunk": "9" * 5000}, "interlock.chunk"),
    ({}, {"x_interlock_chunk": "1"}, "interlock.document"),
]


def test_strange_labels_are_refused_at_the_door(scene: Scene) -> None:
    for own, headers, param in BAD:
        body = {**CHAT, "interlock": own} if own else CHAT
        answer = ask(scene.gateway, body, key=scene.gateway.key("alice"), **headers)
        assert (answer.status, answer.error["param"]) == (400, param), (own, headers, answer.body)


@pytest.mark.parametrize("change", ["leaf", "note", "request", "hash", "tree", "empty", "junk"])
def test_a_kept_file_that_was_changed_is_not_proven(scene: Scene, tmp_path: Path, change: str) -> None:
    part(scene, 1)
    scene.arrive()
    view = found(scene)
    call = view["parts"][0]["calls"][0]
    match change:
        case "leaf":
            call["entries"][0]["leaf"]["cost"]["nusd"] += 1
        case "note":
            origin, size, *rest = call["proofs"][0]["checkpoint"].split("\n")
            call["proofs"][0]["checkpoint"] = "\n".join([origin + "x", size, *rest])
        case "request":
            call["request"] = "req_0000000000000000_1"
        case "hash":
            call["proofs"][0]["hashes"].append("00" * 32)
        case "tree":
            call["entries"][0]["leaf"]["tree"] = "ten_globex"
        case "empty":
            call["entries"], call["proofs"] = [], []
        case _:
            view["parts"][0]["calls"] = [7]
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(view))
    key = ledger_signer(scene.running.control.settings).verifier_key.text
    with pytest.raises(typer.Exit) as ended:
        ledger_evidence.check(file, [key])
    assert ended.value.exit_code == 3
