"""Conversations of the Responses API in the ledger and in their own store: kept once, and gone with their person."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.control_client import Running
from tests.integration.gateway.client import Answer, ask
from tests.integration.ledger.harness import serving
from tests.integration.ledger.scene import SECRET, Scene, everything, needles


@pytest.fixture
def scene(running: Running, tmp_path: Path, postgres_migrated_url: str) -> Iterator[Scene]:
    """As the others', with a node's keeper of stored responses before the same database."""
    running.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    with serving(tmp_path, database_url=postgres_migrated_url) as (gateway, _engine):
        yield Scene(running, gateway, tmp_path)


def say(scene: Scene, text: str, previous: str | None = None, who: str = "alice", **more: Any) -> Answer:
    body = {"model": "m", "input": text, "previous_response_id": previous, **more}
    return ask(scene.gateway, body, "/v1/responses", scene.gateway.key(who))


def count(url: str, table: str) -> int:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        row = conn.execute(f"SELECT count(*) FROM interlock.{table}").fetchone()
        assert row is not None
        return int(row[0])


def test_each_turn_is_in_the_ledger_with_what_was_really_asked_and_costs_once(
    scene: Scene, postgres_migrated_url: str
) -> None:
    previous, grown = None, []
    for turn in range(5):
        answer = say(scene, f"question {turn}", previous)
        assert answer.json["store"] is True, answer.body
        previous = answer.json["id"]
        scene.arrive()
        grown.append((count(postgres_migrated_url, "ledger_contents"), count(postgres_migrated_url, "ledger_lists")))
    contents = scene.contents(answer.headers["x-interlock-request-id"])
    said = [item["content"][0]["text"] for item in contents["input"]]
    assert said[0::2] == [f"question {turn}" for turn in range(5)] and len(said) == 9
    assert contents["request"]["previous_response_id"] and contents["answer"]["choices"]
    steps = [tuple(b - a for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(grown)]
    assert steps[1:] == [steps[1]] * 3, "a turn adds what it said, not what was said before"
    assert steps[-1][1] == 2
    view = scene.owner.get(f"/tenants/acme/ledger/calls/{answer.headers['x-interlock-request-id']}")
    assert view["entries"][0]["leaf"]["what"]["dialect"] == "responses"
    status, replayed = scene.owner.call(
        "GET", f"/tenants/acme/ledger/calls/{answer.headers['x-interlock-request-id']}/replay"
    )
    assert (status, replayed["decided"]) == (200, ["resolve", "policy", "route"]), (
        "its record is read and decided again"
    )


def test_an_erasure_leaves_nothing_of_a_conversation(scene: Scene, postgres_migrated_url: str) -> None:
    first = say(scene, SECRET)
    second = say(scene, f"again: {SECRET}", first.json["id"], stream=True)
    bobs = say(scene, "something else", who="bob").json["id"]
    scene.arrive()
    assert second.status == 200 and count(postgres_migrated_url, "stored_responses") == 3
    rows = everything(postgres_migrated_url)
    assert not any(needle in row for needle in needles() for row in rows), "sealed while it is there, too"
    scene.erase()
    assert count(postgres_migrated_url, "stored_responses") == count(postgres_migrated_url, "stored_response_keys") == 1
    rows = everything(postgres_migrated_url)
    assert len(rows) > 50
    for needle in needles():
        assert not any(needle in row for row in rows), needle
    gone = ask(scene.gateway, None, f"/v1/responses/{first.json['id']}", method="GET")
    assert gone.status == 404 and say(scene, "and?", first.json["id"]).status == 404
    assert say(scene, "a new beginning").json["store"] is True
    kept = ask(scene.gateway, None, f"/v1/responses/{bobs}", key=scene.gateway.key("bob"), method="GET")
    assert kept.status == 200 and json.loads(kept.body)["output"]
