"""Single looks of the learner, over a real database: what it publishes after each, and what it does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from interlock.control.learning.loop import Learner
from interlock.control.learning.samples import Samples
from interlock.storage import learned
from tests.integration.learner_scene import PUBLISH_MS, Scene, erased, learner_over
from tests.integration.live_scene import add

SOURCES = """
sources:
  - name: gpu
    kind: openai
    url: http://127.0.0.1:9/
    granted_to: ["*"]
    labels: {region: eu, on_prem: true}
    models: [{name: large, version: v1, abilities: [chat, json_schema]}, {name: small}]
tenants:
  - {name: acme, teams: [{name: research}, {name: sales}], judging: {model: large, challenger_milli: 10}}
  - {name: globex}
"""


@pytest.fixture
def scene(postgres_migrated_url: str) -> Iterator[Scene]:
    with learner_over(postgres_migrated_url, SOURCES) as made:
        yield made


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


def test_an_answer_that_a_caller_and_a_judge_speak_of_counts_once_as_the_caller_says(scene: Scene) -> None:
    scene.scored("acme", "small", [(0.9, False)] * 4 + [(0.9, None)] * 2)
    scene.checked("acme", "small", 3)
    scene.look()
    (row,) = scene.owner.get("/tenants/acme/router/quality?by=team,task")["rows"]
    assert row["sources"] == {"feedback": 4, "judge": 6, "validation": 3} and row["count"] == 9
    judged = row["origins"]["judge"]
    assert judged["count"] == 6 and 800_000 < judged["mean_micro"] < 900_000
    assert row["mean_micro"] == round((3_000_000 + 2 * judged["mean_micro"]) / 9)


def test_nothing_of_before_an_erasure_is_published_after_it(scene: Scene) -> None:
    scene.checked("acme", "large@v1", 9)
    scene.look()
    before = scene.state("acme")
    assert before is not None
    scene.checked("acme", "large@v1", 3)
    add(scene.store, scene.ids["acme"], erased(9_000, scene.ids["acme"]))
    time.sleep(PUBLISH_MS / 1000 + 0.05)
    scene.learner.look()
    held = scene.state("acme")
    assert held is not None and held.version == before.version, "what it holds has prompts of who was erased"
    scene.look()
    after, found = scene.state("acme"), scene.quality("acme")
    assert after is not None and found is not None and after.version == before.version + 1 == found.version
    assert found.outcomes == 12, "read again, without what was erased"


def test_a_learner_that_another_took_over_from_puts_no_older_state_in_force(scene: Scene) -> None:
    scene.checked("acme", "large@v1", 3)
    scene.look()
    first = scene.state("acme")
    assert first is not None
    later = msgspec.structs.replace(first, version=first.version + 7)
    with scene.store.tenant(scene.ids["acme"]) as conn:
        assert learned.publish(conn, scene.ids["acme"], later, None)
    scene.checked("acme", "large@v1", 2)
    time.sleep(PUBLISH_MS / 1000 + 0.05)
    scene.learner.look()
    held = scene.state("acme")
    assert held is not None and held.version == later.version, "the one that came late is not in force"
    scene.look()
    after = scene.state("acme")
    assert after is not None and after.version == later.version + 1, "it begins anew after the other one's"


def test_when_one_of_two_judges_loses_trust_the_other_ones_verdicts_stay(scene: Scene) -> None:
    scene.scored("acme", "small", [(0.9, True), (0.1, False)] * 15, judge="keen")
    scene.scored("acme", "small", [(0.9, None)] * 5, judge="wise")
    scene.look()
    assert _judged(scene) == 35
    scene.scored("acme", "small", [(0.4, True), (0.4, False)] * 15, judge="wise")
    scene.look()
    judges = {each["judge"]: each for each in scene.owner.get("/tenants/acme/router")["judges"]}
    assert (judges["keen"]["trusted"], judges["keen"]["why"]) == (True, "agrees")
    assert (judges["wise"]["trusted"], judges["wise"]["why"]) == (False, "constant")
    assert _judged(scene) == 30, "those of the one that knows"
    (row,) = scene.owner.get("/tenants/acme/router/quality?by=team,task")["rows"]
    assert row["sources"] == {"feedback": 60, "judge": 30}
    scene.scored("acme", "small", [(0.9, True), (0.1, False)] * 40, judge="wise")
    scene.look()
    assert _judged(scene) == 30 + 5 + 30 + 80, "and when it is trusted again, all that it said"


def test_the_doctor_names_a_judge_that_is_asked_and_not_trusted_and_no_other(scene: Scene) -> None:
    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = scene.owner.get("/diagnosis")["judges"]
        return found

    def judging(**fields: Any) -> None:
        scene.owner.do("PUT", "/tenants/acme", {"name": "acme", **({"judging": fields} if fields else {})})

    constant = [(0.4, True), (0.4, False)]
    scene.scored("acme", "small", [*constant * 14, (0.4, True)], judge="large@v1")
    scene.look()
    assert told() == [], "too few answers to say anything"
    scene.scored("acme", "small", [(0.4, False)], judge="large@v1")
    scene.scored("acme", "small", constant * 15, judge="gone")
    scene.look()
    assert {each["judge"] for each in scene.owner.get("/tenants/acme/router")["judges"]} == {"gone", "large@v1"}
    expected = {"tenant": "acme", "asked": "large", "judge": "large@v1", "why": "chance", "pairs": 30}
    assert told() == [expected], "the other one is asked no more"
    scene.owner.do("POST", "/aliases", {"name": "wise", "targets": [{"model": "small"}, {"model": "large"}]})
    judging(model="wise")
    assert told() == [{**expected, "asked": "wise"}], "an alias may lead to it"
    judging(model="wise", share_milli=0, challenger_milli=0)
    assert told() == [], "nothing is asked, and nothing paid"
    judging()
    assert told() == []
    judging(model="large")
    assert told() == [expected]
    scene.scored("acme", "small", [(0.9, True), (0.1, False)] * 40, judge="large@v1")
    scene.look()
    assert told() == [], "it is trusted again"


def _judged(scene: Scene) -> int:
    """Outcomes of a model that are of judges, as they are published."""
    state = scene.state("acme")
    assert state is not None
    (count,) = (arm.origins["judge"] for arm in state.arms if arm.arm == "small")
    return count


def test_a_judge_that_loses_trust_is_told_of_once_and_when_it_has_it_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[tuple[str, str, str]]:
        found = [r for r in caplog.records if "judge" in r.__dict__]
        caplog.clear()
        return [(r.levelname, r.__dict__["tenant_id"], r.__dict__["judge"]) for r in found]

    acme, path = scene.ids["acme"], "/tenants/acme/router"
    caplog.set_level(logging.INFO, "interlock.control.learning.loop")
    scene.scored("acme", "small", [(0.9, True), (0.1, False)] * 5)
    scene.look()
    (judge,) = scene.owner.get(path)["judges"]
    assert (judge["trusted"], judge["why"], judge["pairs"]) == (True, "few", 10) and said() == []
    scene.scored("acme", "small", [(0.1, True), (0.9, False)] * 15)
    scene.look()
    found = scene.owner.get(path)
    (judge,) = found["judges"]
    assert (judge["judge"], judge["trusted"], judge["why"]) == ("wise", False, "chance")
    assert judge["pairs"] == 40 and judge["sources"] == {"feedback": 40}
    assert judge["least_milli"] < judge["agreement_milli"] < 0
    assert found["judging"] == {"model": "large", "share_milli": 20, "challenger_milli": 10}
    assert said() == [("WARNING", acme, "wise")]
    scene.checked("acme", "large@v1", 2)
    scene.look()
    again = Learner(scene.store, scene.running.control.settings, scene.running.control.tools.clock)
    scene.checked("acme", "large@v1", 2)
    while again.look():
        pass
    assert said() == [], "nothing is told again, nor by a learner that took over"
    scene.learner = again
    scene.scored("acme", "small", [(0.9, True), (0.1, False)] * 85)
    scene.look()
    (judge,) = scene.owner.get(path)["judges"]
    assert (judge["trusted"], judge["why"]) == (True, "agrees") and judge["least_milli"] > 0
    assert said() == [("INFO", acme, "wise")]
    assert scene.owner.get("/tenants/globex/router")["judges"] == []
    scene.owner.do("POST", f"{path}/reset", {"arm": "small", "reason": "replaced"})
    assert scene.owner.get(path)["judges"] == [], "what is known of it rests on answers of what is forgotten"


def test_what_one_tenant_breaks_keeps_no_other_from_being_learned_of(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.checked("acme", "large@v1", 3)
    scene.checked("globex", "small", 3)
    whole = Samples.of_call

    def breaks(self: Samples, conn: Any, leaf: dict[str, Any]) -> Any:
        if leaf["where"]["model"] == "large":
            raise ValueError("not expected")
        return whole(self, conn, leaf)

    monkeypatch.setattr(Samples, "of_call", breaks)
    scene.look()
    assert scene.state("acme") is None and scene.state("globex") is not None
    monkeypatch.undo()
    scene.look()
    assert scene.state("acme") is not None
