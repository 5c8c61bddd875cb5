"""Nodes whose compressors give other bytes of the same text keep one ledger, and it verifies as complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.errors import StoreError
from interlock.gateway import epoch_shipper
from interlock.gateway.shipper import Shipper
from interlock.ledger.proof.verify import Report
from interlock.storage import shipping
from interlock.types.clock import SystemClock
from tests.gateway import WorkerHarness
from tests.integration.gateway.client import CHAT, ask
from tests.integration.ledger.harness import serving, shipper_for, told_until
from tests.integration.ledger.scene import Scene
from tests.integration.ledger.test_payloads import exported, opened, verified
from tests.unit.ledger.compressors import by_the_text, compressing, level_of, naming

OURS, THEIRS = level_of(1), level_of(9)
SUBJECT = "prn_acme_alice"
SAID = b"now this and now that"


def said(turn: int) -> dict[str, str]:
    """A message that the two compressors give other bytes of."""
    text = f"turn {turn}: {SAID.decode()}, and then this again, " * 20 + json.dumps(list(range(turn, turn + 30)))
    assert OURS(text.encode()) != THEIRS(text.encode())
    return {"role": "user", "content": text}


class Node:
    """A worker, and how its shipper compresses."""

    def __init__(self, scene: Scene, gateway: WorkerHarness, home: Path, name: str) -> None:
        self._scene, self._home, self._name = scene, home, name
        self.gateway = gateway
        self.shipper = self._new()

    def _new(self) -> Shipper:
        return shipper_for(self._scene.running.control.store, self._home, self._name, ledger_checkpoint_s=0)

    def restart(self) -> None:
        """Another shipper of the same log, that knows what the database says."""
        self.shipper.close()
        self.shipper = self._new()

    def say(self, messages: list[dict[str, str]]) -> str:
        """A turn of alice's; its request id."""
        answer = ask(self.gateway, {**CHAT, "messages": messages}, key=self.gateway.key("alice"))
        assert answer.status == 200
        return answer.headers["x-interlock-request-id"]

    def ship(self, deflate: Any) -> None:
        with compressing(deflate):
            self.shipper.pass_once()
        self._scene.sequence()


@pytest.fixture
def ours(scene: Scene, tmp_path: Path) -> Node:
    return Node(scene, scene.gateway, tmp_path, "test")


@pytest.fixture
def theirs(scene: Scene, tmp_path: Path) -> Iterator[Node]:
    home = tmp_path / "theirs"
    with serving(home) as (gateway, _engine):
        yield Node(scene, gateway, home, "theirs")


def complete(scene: Scene, nodes: dict[Node, Any], folder: Path) -> Report:
    """An export with payloads of everything until now, as it is verified."""
    now_ns = SystemClock().wall_ns()
    for node, deflate in nodes.items():
        told_until(node.gateway, now_ns)
        node.ship(deflate)
    exported(scene, folder, to_ns=now_ns)
    return verified(scene, folder)


def forms_of(scene: Scene) -> int:
    """Messages of alice's that are stored in more than one form."""
    with scene.running.control.store.shipping() as conn:
        rows = conn.execute("SELECT id, data FROM interlock.ledger_contents WHERE subject = %s", (SUBJECT,)).fetchall()
        key = scene.shipper.keys.of(conn, "ten_acme", SUBJECT).key
    texts = [text for name, data in rows if SAID in (text := key.open(name, data, bytes_max=1 << 20))]
    return len(texts) - len(set(texts))


def test_a_conversation_over_two_nodes_that_compress_otherwise(
    scene: Scene, ours: Node, theirs: Node, tmp_path: Path
) -> None:
    messages, requests = [], []
    for turn in range(6):
        messages.append(said(turn))
        node, deflate = ((ours, OURS), (theirs, THEIRS))[turn % 2]
        requests.append(node.say(messages))
        if turn > 1:  # the first two are shipped by both at once
            node.ship(deflate)
    for node, deflate in ((theirs, THEIRS), (ours, OURS)):
        node.ship(deflate)
    report = complete(scene, {ours: OURS, theirs: THEIRS}, tmp_path / "out")
    assert (report.verdict, report.problems) == ("complete", []), report
    assert report.opened == report.contents and report.entries == 6
    assert forms_of(scene) >= 5, "each node kept its own form of what both were told"
    texts = {text for text in opened(tmp_path / "out") if SAID.decode() in text}
    assert {json.loads(text)["content"] for text in texts} == {each["content"] for each in messages}
    for turn, request in enumerate(requests):
        assert scene.contents(request)["messages"] == messages[: turn + 1]


def test_a_shipper_that_begins_again_with_another_compressor(
    scene: Scene, ours: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, after a batch that did not get through."""
    messages = [said(0)]
    ours.say(messages)
    ours.ship(OURS)
    messages.append(said(1))
    ours.say(messages)

    ship = shipping.ship

    def lost(*args: Any) -> None:
        ship(*args)
        raise psycopg.OperationalError("the connection is lost")

    with monkeypatch.context() as failing, compressing(OURS):
        failing.setattr(epoch_shipper.shipping, "ship", lost)
        with pytest.raises(StoreError, match="the connection is lost"):
            ours.shipper.pass_once()
    ours.restart()
    messages.append(said(2))
    ours.say(messages)
    report = complete(scene, {ours: THEIRS}, tmp_path / "out")
    assert (report.verdict, report.entries) == ("complete", 3), report
    assert report.opened == report.contents and forms_of(scene) == 1


def test_what_was_removed_and_is_said_again_in_another_form_stays_missing(
    scene: Scene, ours: Node, tmp_path: Path
) -> None:
    """What the first entry names is gone, and nothing else has its name: that is no alteration."""
    first = ours.say([said(0)])
    ours.ship(OURS)
    with scene.running.control.store.tenant("ten_acme") as conn:  # as retention does
        for table in ("ledger_contents", "ledger_lists"):
            assert conn.execute(f"DELETE FROM interlock.{table} WHERE subject = %s", (SUBJECT,)).rowcount
    ours.restart()
    again = ours.say([said(0)])
    report = complete(scene, {ours: THEIRS}, tmp_path / "out")
    assert report.verdict == "not complete" and all("missing" in each for each in report.problems), report
    assert report.opened == report.contents > 0
    assert scene.contents(again)["messages"] == [said(0)] and scene.contents(first)["messages"] is None


def test_a_conversation_goes_on_over_an_upgrade(scene: Scene, ours: Node, tmp_path: Path) -> None:
    """What was named by its text alone stays as it is, and what is said again is kept under another name."""
    messages = [said(0)]
    before = ours.say(messages)
    with naming(by_the_text):
        ours.ship(OURS)
    messages.append(said(1))
    after = ours.say(messages)
    report = complete(scene, {ours: THEIRS}, tmp_path / "out")
    assert (report.verdict, report.opened) == ("complete", report.contents), report
    assert forms_of(scene) == 1
    assert [scene.contents(each)["messages"] for each in (before, after)] == [messages[:1], messages]
