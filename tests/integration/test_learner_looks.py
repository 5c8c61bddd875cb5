"""Single looks of the learner, over a real database: what it publishes after each, and what it does not."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.control.learning.loop import Learner
from interlock.storage import learned, router_quality
from interlock.types.learned import Weights
from interlock.types.quality import Qualities
from tests.integration.control_client import Running, control_over
from tests.integration.live_scene import add
from tests.unit.control.live.leaves import leaf

SOURCES = """
sources:
  - name: gpu
    kind: openai
    url: http://127.0.0.1:9/
    granted_to: ["*"]
    labels: {region: eu, on_prem: true}
    models: [{name: large, version: v1}, {name: small}]
tenants:
  - {name: acme, teams: [{name: research}, {name: sales}]}
"""


class Scene:
    """A learner whose looks are counted, and entries for it to read."""

    def __init__(self, running: Running) -> None:
        self.store = running.control.store
        self.owner = running.owner
        with self.store.platform() as conn:
            self.ids: dict[str, str] = dict(conn.execute("SELECT name, id FROM interlock.tenants").fetchall())
            rows = conn.execute("SELECT name, id FROM interlock.teams")
            self.teams: dict[str, str] = dict(rows)
        self.learner = Learner(self.store, running.control.settings, running.control.tools.clock)
        self.calls = 0

    def checked(self, tenant: str, arm: str, passed: int, failed: int = 0, team: str = "") -> None:
        """Calls whose answers were checked."""
        leaves = []
        for good in [True] * passed + [False] * failed:
            self.calls += 1
            leaves.append(entry(self.calls, self.ids[tenant], arm, good, self.teams.get(team, "")))
        add(self.store, self.ids[tenant], *leaves)

    def look(self) -> None:
        while self.learner.look():
            pass

    def state(self, tenant: str) -> Weights | None:
        with self.store.tenant(self.ids[tenant]) as conn:
            return learned.current(conn, self.ids[tenant])

    def quality(self, tenant: str) -> Qualities | None:
        with self.store.tenant(self.ids[tenant]) as conn:
            return router_quality.current(conn, self.ids[tenant])


def entry(number: int, tenant_id: str, arm: str, passed: bool, team: str) -> bytes:
    """A leaf of a call whose answer was found to be as asked, or not."""
    model, _, version = arm.partition("@")
    figures: dict[str, Any] = {
        "tokens": {"prompt": 9, "cached": 0, "completion": 3, "origin": "engine"},
        "cost": {"nusd": 5, "price": "source"},
        "energy": {"uj": 0, "method": ""},
    }
    step = {
        "model": model, "version": version, "given": True, "checks": ["json:passed" if passed else "json:failed"],
        **figures,
    }  # fmt: skip
    made = json.loads(
        leaf(number, time.time(), tree=tenant_id, request=f"req_{number}", what__operation="chat", who__team=team)
    )
    made["where"] |= {"model": model, "version": version}
    made["result"] |= {"finish": ["stop"]}
    made |= {"contents": [], "decided": {"router": 0}, "cascade": {"tried": [step]}, **figures}
    return json.dumps(made).encode()


def erased(number: int, tenant_id: str) -> bytes:
    """An entry that says that somebody was erased."""
    made = {"v": 1, "tree": tenant_id, "kind": "erasure", "at": time.time_ns(), "request": f"req_{number}"}
    return json.dumps(made).encode()


@pytest.fixture(scope="module")
def scene(postgres_url: str) -> Iterator[Scene]:
    with control_over(postgres_url, learning_publish_ms=100) as running:
        key = Path(running.control.settings.ledger_key_path())
        key.parent.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            key.write_text(secrets.token_hex(32))
            key.chmod(0o600)
        running.owner.apply(SOURCES)
        yield Scene(running)


def test_what_is_published_is_by_department_and_of_its_state(scene: Scene) -> None:
    scene.checked("acme", "large@v1", 3, 1, team="research")
    scene.checked("acme", "small", 1, 4, team="sales")
    scene.look()
    state, found = scene.state("acme"), scene.quality("acme")
    assert state is not None and found is not None and found.version == state.version
    assert [(c.team, c.arm, c.task, c.origin, c.outcomes, c.reward_micro) for c in found.cells] == sorted([
        (scene.teams["research"], "large@v1", -1, "validation", 4, 3_000_000),
        (scene.teams["sales"], "small", -1, "validation", 5, 1_000_000),
    ])  # fmt: skip
    assert 0 < found.since_ns < found.until_ns <= time.time_ns()
    report = scene.owner.get("/tenants/acme/router/quality?by=team,task")
    assert {(row["by"]["team"], row["count"]) for row in report["rows"]} == {("research", 4), ("sales", 5)}


def test_nothing_of_before_an_erasure_is_published_after_it(scene: Scene) -> None:
    scene.checked("acme", "large@v1", 9)
    time.sleep(0.2)
    scene.look()
    before = scene.state("acme")
    assert before is not None
    scene.checked("acme", "large@v1", 3)
    add(scene.store, scene.ids["acme"], erased(9_000, scene.ids["acme"]))
    time.sleep(0.2)
    scene.learner.look()
    held = scene.state("acme")
    assert held is not None and held.version == before.version, "what it holds has prompts of who was erased"
    scene.look()
    after, found = scene.state("acme"), scene.quality("acme")
    assert after is not None and found is not None and after.version == before.version + 1 == found.version
    assert found.outcomes == 21, "read again, without what was erased"
