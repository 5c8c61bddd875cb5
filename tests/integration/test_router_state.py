"""What the router learned, over a real database: who sees it, what is forgotten, what is said of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from interlock.cli.main import app as cli
from interlock.control.live.scores import TaskScores
from interlock.control.services.router import learning_of, shown
from interlock.settings import Settings
from interlock.storage import learned, router_guidance, router_quality
from interlock.types.identity import Tenant
from interlock.types.learned import JudgeTrust, Weights, weights_part
from interlock.types.quality import Qualities, QualityCell

from . import router_samples
from .control_client import Admin, Running, control_over

SOURCES = """
sources:
  - name: gpu
    kind: openai
    url: http://127.0.0.1:9/
    granted_to: ["*"]
    labels: {region: eu, on_prem: true}
    models: [{name: large, version: 2026-01}, {name: small}]
"""
TENANT = """
  - name: NAME
    principals: [{name: dev, kind: user}, {name: ada, kind: user}, {name: aud, kind: user}]
    keys:
      - {name: NAME-dev, principal: dev, scopes: [admin]}
      - {name: NAME-ada, principal: ada, scopes: [admin]}
      - {name: NAME-aud, principal: aud, scopes: [admin]}
    roles:
      - {principal: dev, role: developer}
      - {principal: ada, role: admin}
      - {principal: aud, role: auditor}
"""
AT = "/tenants/acme/router"


class Scene:
    """Two tenants, each with people, and a state of acme's."""

    def __init__(self, running: Running, people: dict[str, Admin]) -> None:
        self.running = running
        self.people = people
        self.store = running.control.store
        with self.store.platform() as conn:
            rows = conn.execute("SELECT name, id FROM interlock.tenants")
            self.ids: dict[str, str] = dict(rows)

    def publish(self, state: Weights, tenant: str = "acme") -> None:
        router_samples.publish(self.store, self.ids[tenant], state)
        self.running.control.compiler.compile_once()

    def current(self, tenant: str = "acme") -> Weights | None:
        with self.store.tenant(self.ids[tenant]) as conn:
            return learned.current(conn, self.ids[tenant])

    def changes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.running.owner.get("/tenants/acme/changes?limit=100")["items"]
        return [each for each in found if each["action"].startswith("router")]


@pytest.fixture(scope="module")
def whole(postgres_url: str) -> Iterator[Scene]:
    with control_over(postgres_url, learning_set_outcomes_max=5_000) as running:
        text = SOURCES + "tenants:" + TENANT.replace("NAME", "acme") + TENANT.replace("NAME", "globex")
        made = running.owner.apply(text)["keys"]
        yield Scene(running, {name: running.as_(key) for keys in made.values() for name, key in keys.items()})


@pytest.fixture
def scene(whole: Scene) -> Scene:
    """With a state of acme's in force, and nothing of globex."""
    whole.publish(router_samples.weights())
    return whole


def test_the_state_is_shown_in_plain_words(scene: Scene) -> None:
    found = scene.people["acme-aud"].get(AT)
    assert (found["learning"], found["in_force"], found["version"]) == ("on", True, 7)
    assert [task["words"] for task in found["tasks"]] == ["long prompts", "much code, few letters", ""]
    assert [task["share_micro"] for task in found["tasks"]] == list(router_samples.SHARES)
    large, small = found["arms"]
    assert (large["arm"], small["arm"]) == ("large@2026-01", "small"), "the best first"
    assert large["mean"]["mean_micro"] == 450_000 + 255_000 + 160_000
    assert large["origins"] == {"feedback": 140, "validation": 40}
    assert small["tasks"][1] == {"mean_micro": 400_000, "low_micro": 320_000, "high_micro": 480_000, "outcomes": 60.0}
    assert found["profiles"][1]["cost_nusd"] is None and found["profiles"][1]["first_byte_us"] == 90_000
    assert found["explore_data_class_max"] == "internal"


def test_a_tenant_sees_its_own_only_and_auditors_change_nothing(scene: Scene) -> None:
    for person in ("globex-ada", "globex-aud"):
        for path in ("", "/history", "/quality", "/shares"):
            assert scene.people[person].call("GET", AT + path)[0] == 404
        assert scene.people[person].call("POST", f"{AT}/reset", {})[0] == 404
        assert scene.people[person].call("PUT", f"{AT}/arms/small", {"quality": 0})[0] == 404
        assert scene.people[person].call("DELETE", f"{AT}/arms/small")[0] == 404
    assert scene.people["globex-aud"].get("/tenants/globex/router")["arms"] == []
    assert scene.people["globex-aud"].get("/tenants/globex/router/history")["states"] == []
    assert scene.people["acme-dev"].call("GET", AT)[0] == 403
    for method, path, body in (
        ("POST", "/reset", {}),
        ("PUT", "/arms/small", {"quality": 0.5}),
        ("DELETE", "/arms/small", None),
    ):
        assert scene.people["acme-aud"].call(method, AT + path, body)[0] == 403
    assert scene.current() == router_samples.weights()


def test_past_states_are_the_tenants_own_newest_first(scene: Scene) -> None:
    for version in range(8, 14):
        scene.publish(router_samples.weights(version, good=500_000 + version))
    scene.publish(router_samples.weights(99, good=1), "globex")
    found = scene.people["acme-aud"].get(f"{AT}/history?limit=3")
    assert found["there"] >= 7 and len(found["states"]) == 3
    versions = [each["version"] for each in found["states"]]
    assert versions[0] == 13 and versions == sorted(versions, reverse=True) and 99 not in versions
    assert found["states"][0]["arms"]["large@2026-01"] == round(500_013 * 0.5) + 255_000 + 160_000
    assert scene.people["acme-aud"].call("GET", f"{AT}/history?limit=0")[0] == 400
    globex = scene.people["globex-aud"].get("/tenants/globex/router/history")
    assert [each["version"] for each in globex["states"]] == [99]
    with scene.store.tenant(scene.ids["globex"]) as conn:
        learned.clear(conn, scene.ids["globex"])


def test_forgetting_one_model_takes_it_out_and_is_on_record(scene: Scene) -> None:
    before = len(scene.changes())
    done = scene.people["acme-ada"].do("POST", f"{AT}/reset", {"arm": "small", "reason": "its weights were replaced"})
    assert done["arm"] == "small" and done["outcomes"] == 180
    left = scene.current()
    assert left is not None and [each.arm for each in left.arms] == ["large@2026-01"] and left.version == 8
    newest = scene.changes()[0]
    assert len(scene.changes()) == before + 1
    assert (newest["action"], newest["actor"], newest["reason"]) == ("router.reset", "ada", "its weights were replaced")
    assert newest["after"]["arm"] == "small" and newest["before"]["version"] == 7
    with scene.store.tenant(scene.ids["acme"]) as conn:
        now = router_guidance.guidance(conn, scene.ids["acme"])
    at = done["position"]
    assert now.forgotten("small", at) and not now.forgotten("small", at + 1)
    assert not now.forgotten("large@2026-01", at)
    assert scene.people["acme-ada"].call("POST", f"{AT}/reset", {"arm": "small"})[0] == 404


def test_forgetting_everything_leaves_nothing_and_what_was_said(scene: Scene) -> None:
    scene.people["acme-ada"].do("PUT", f"{AT}/arms/large@2026-01", {"quality": 0.75, "outcomes": 300})
    scene.people["acme-ada"].do("POST", f"{AT}/reset")
    assert scene.current() is None
    found = scene.people["acme-aud"].get(AT)
    assert (found["version"], found["in_force"], found["arms"]) == (0, False, [])
    assert [each["arm"] for each in found["waiting"]] == ["large@2026-01"]
    scene.running.control.compiler.compile_once()
    with scene.store.platform() as conn:
        states, _ = learned.history(conn, scene.ids["acme"], 5)
    assert states[0].weights is None, "the snapshot has nothing of it"
    with scene.store.tenant(scene.ids["acme"]) as conn:
        now = router_guidance.guidance(conn, scene.ids["acme"])
    assert now.forgotten("large@2026-01", now.resets[""].position) and set(now.resets) == {""}
    scene.people["acme-ada"].do("DELETE", f"{AT}/arms/large@2026-01")


def test_what_is_said_of_a_model_is_on_record_and_bounded(scene: Scene) -> None:
    ada, path = scene.people["acme-ada"], f"{AT}/arms/large@2026-01"
    made = ada.do("PUT", path, {"quality": 0.25, "outcomes": 400, "reason": "our evaluation of March"})
    assert (made["quality_micro"], made["outcomes"], made["by"]) == (250_000, 400, "ada")
    assert made["why"] == "our evaluation of March"
    said = scene.changes()[0]
    assert (said["action"], said["reason"]) == ("router_prior.set", "our evaluation of March")
    assert ada.do("PUT", path, {"quality": 0.5, "outcomes": 5_000})["quality_micro"] == 500_000
    assert ada.call("PUT", path, {"quality": 0.5, "outcomes": 5_001})[0] == 400
    assert ada.call("PUT", path, {"quality": 1.5})[0] == 400
    assert ada.call("PUT", path, {"quality": 0.5}, reason="")[0] == 400
    assert ada.call("PUT", f"{AT}/arms/nothing/of/the/kind", {"quality": 0.5})[0] == 404
    arms = (router_samples.arm("large@2026-01", (1, 2, 3), set=5_000),)
    scene.publish(msgspec.structs.replace(router_samples.weights(), arms=arms))
    found = ada.get(AT)
    assert found["arms"][0]["origins"] == {"set by ada": 5_000} and found["waiting"] == []
    ada.do("DELETE", path)
    assert scene.changes()[0]["action"] == "router_prior.delete"
    assert ada.call("DELETE", path)[0] == 404
    assert scene.people["globex-ada"].get("/tenants/globex/router")["waiting"] == []


def test_how_far_judges_are_believed_is_told_in_plain_words(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    judges = (
        JudgeTrust("large@2026-01", True, "few", waiting=3),
        JudgeTrust("wise", False, "chance", {"feedback": 50, "validation": 12}, 40, -170),
    )
    scene.publish(router_samples.weights(judges=judges))
    found = scene.people["acme-aud"].get(AT)
    young, lost = found["judges"]
    assert (young["trusted"], young["waiting"], young["pairs"], young["agreement_milli"]) == (True, 3, 0, None)
    assert (lost["judge"], lost["trusted"], lost["pairs"], lost["least_milli"]) == ("wise", False, 62, -170)
    assert "no more than chance" in lost["words"] and found["judging"] is None
    found["judging"] = {"model": "wise", "share_milli": 50, "challenger_milli": 10}
    monkeypatch.setattr("interlock.cli.router.client_of", lambda *_: _Client(found))
    said = CliRunner().invoke(cli, ["route", "profiles", "--tenant", "acme"])
    assert said.exit_code == 0, said.output
    words = " ".join(said.stdout.split())
    assert "wise scores 5.0 % of answers; 1.0 % of calls" in words
    assert "Judge wise: its verdicts count for nothing: its scores go with what people and checks say no more" in words
    assert "(62 compared: feedback 50, validation 12; correlation 0.04, at least -0.17 at 95 %)" in words
    assert "Judge large@2026-01: its verdicts count" in words and "3 verdicts wait for controls" in words


def test_a_model_that_is_tried_on_purpose_is_marked_with_why(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    state = router_samples.weights()
    worse, new = state.arms
    arms = (msgspec.structs.replace(worse, due=True), msgspec.structs.replace(new, due=True, due_new=True))
    state = msgspec.structs.replace(state, arms=arms)
    scene.publish(state)
    found = scene.people["acme-aud"].get(AT)
    assert [(each["arm"], each["tried_for"]) for each in found["arms"]] == [
        ("large@2026-01", "worse"), ("small", "new"),
    ]  # fmt: skip
    assert {each.tried_for for each in shown(state, {}, "observe").arms} == {""}, "priors decide: nothing is tried"
    assert {each.tried_for for each in shown(router_samples.weights(), {}, "on").arms} == {""}
    monkeypatch.setattr("interlock.cli.router.client_of", lambda *_: _Client(found))
    words = CliRunner().invoke(cli, ["route", "profiles", "--tenant", "acme"]).stdout
    assert "large@2026-01 is tried on purpose: its answers became worse" in words
    assert "small is tried on purpose: it is new" in words


def test_quality_by_task_is_of_the_state_and_otherwise_of_feedback(scene: Scene) -> None:
    aud = scene.people["acme-aud"]
    by_task = aud.get(f"{AT}/quality?by=model,task")
    assert len(by_task["rows"]) == 6 and by_task["tasks"]["1"] == "much code, few letters"
    assert by_task["rows"][0]["sources"] == {"feedback": 140, "validation": 40}
    assert aud.get(f"{AT}/quality?by=model,team")["rows"] == []
    assert by_task["basis"] == "state" and by_task["window"] is None
    for wrong in ("model,nothing", "model,model", "principal,task", "day,task", "tenant"):
        assert aud.call("GET", f"{AT}/quality?by={wrong}")[0] == 400, wrong
    assert aud.get(f"{AT}/shares?hours=48")["regret"] is None
    assert aud.call("GET", f"{AT}/shares?hours=5000")[0] == 400


def seen(version: int, team: str) -> Qualities:
    """Outcomes of a team with model large in two tasks, of two origins, and of nobody's team with model small."""
    cells = (
        QualityCell("", "small", 0, "retry", 5, 1_000_000),
        QualityCell(team, "large@2026-01", 0, "feedback", 10, 9_000_000),
        QualityCell(team, "large@2026-01", 0, "validation", 30, 9_000_000),
        QualityCell(team, "large@2026-01", 2, "feedback", 3, 3_000_000),
    )
    return Qualities(version, 3, 48, 4096, 1_790_000_000 * 10**9, 1_790_000_500 * 10**9, cells)


def test_quality_by_department_and_task_is_what_was_seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    aud, tenant_id = scene.people["acme-aud"], scene.ids["acme"]
    assert aud.get(f"{AT}/quality?by=model,team,task")["rows"] == [], "of this state nothing was published"
    team = scene.running.owner.do("POST", "/tenants/acme/teams", {"name": "court", "cost_center": "4711"})["item"]["id"]
    with scene.store.tenant(tenant_id) as conn:
        router_quality.publish(conn, tenant_id, seen(7, team))
    found = aud.get(f"{AT}/quality?by=model,team,task")
    assert (found["basis"], found["tasks"]["0"]) == ("outcomes", "long prompts")
    assert found["window"] == {
        "outcomes": 48, "outcomes_max": 4096, "version": 7,
        "since": "2026-09-21T14:13:20Z", "until": "2026-09-21T14:21:40Z",
    }  # fmt: skip
    row = next(row for row in found["rows"] if row["by"] == {"model": "large@2026-01", "team": "court", "task": "0"})
    assert (row["count"], row["mean_micro"], row["sources"]) == (40, 450_000, {"feedback": 10, "validation": 30})
    assert row["origins"]["feedback"]["mean_micro"] == 900_000 and row["origins"]["validation"]["count"] == 30
    assert row["low_micro"] < row["mean_micro"] < row["high_micro"]
    centers = aud.get(f"{AT}/quality?by=cost_center,task")["rows"]
    assert {(r["by"]["cost_center"], r["by"]["task"], r["count"]) for r in centers} == {
        ("", "0", 5), ("4711", "0", 40), ("4711", "2", 3),
    }  # fmt: skip
    assert [r["count"] for r in aud.get(f"{AT}/quality?by=task")["rows"]] == [45, 3]
    monkeypatch.setattr("interlock.cli.router.client_of", lambda *_: _Client(found))
    said = CliRunner().invoke(cli, ["route", "profiles", "--tenant", "acme", "--by", "model,team,task"])
    assert said.exit_code == 0 and "Seen in the last 48 outcomes, of at most 4096" in said.stdout
    assert "feedback 0.90 of 10, validation 0.30 of 30" in said.stdout and "court" in said.stdout
    scores = TaskScores(scene.store, scene.running.control.tools)
    assert [(s.model, s.task_class) for s in scores(tenant_id)][:2] == [
        ("large@2026-01", "0: long prompts"), ("small", "0: long prompts"),
    ]  # fmt: skip
    assert list(scores("")) == list(scores(scene.ids["globex"])) == []


def test_what_was_seen_goes_with_its_state_and_is_its_tenants_own(scene: Scene) -> None:
    tenant_id, ada = scene.ids["acme"], scene.people["acme-ada"]

    def current(of: str = "acme") -> Qualities | None:
        with scene.store.tenant(scene.ids[of]) as conn:
            return router_quality.current(conn, tenant_id)

    with scene.store.tenant(tenant_id) as conn:
        router_quality.publish(conn, tenant_id, seen(7, "tem_1"))
    assert current() == seen(7, "tem_1") and current("globex") is None
    scene.publish(router_samples.weights(8))
    assert current() is None, "of a state that is no more, whose tasks were others"
    with scene.store.tenant(tenant_id) as conn:
        router_quality.publish(conn, tenant_id, seen(8, "tem_1"))
    ada.do("POST", f"{AT}/reset", {"arm": "small"})
    left = current()
    assert left is not None and left.version == 9 and left.outcomes == 43
    assert {cell.arm for cell in left.cells} == {"large@2026-01"}
    ada.do("POST", f"{AT}/reset")
    with scene.store.platform() as conn:
        there = conn.execute("SELECT count(*) FROM interlock.router_quality WHERE tenant_id = %s", (tenant_id,))
        assert there.fetchone() == (0,), "forgotten with all that was learned"


class _Client:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def call(self, *_: Any, **__: Any) -> Any:
        return self._answer


def test_learning_that_the_installation_does_not_do_is_off() -> None:
    acme = Tenant(id="ten_a", name="acme")
    assert learning_of(acme, Settings()) == "on"
    assert learning_of(acme, Settings(learning="off")) == "off" and learning_of(None, Settings()) == "off"
    assert not shown(router_samples.weights(), {}, "observe").in_force


def test_the_part_of_another_tenant_is_never_read(scene: Scene) -> None:
    assert weights_part(scene.ids["acme"]) != weights_part(scene.ids["globex"])
    with scene.store.tenant(scene.ids["globex"]) as conn:
        assert learned.current(conn, scene.ids["acme"]) is None
        assert router_guidance.all_of(conn, scene.ids["acme"]) == []
