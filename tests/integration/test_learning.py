"""The router learns from what callers say of answers: over a real node, control plane, learner and database."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from interlock.errors import InterlockError
from interlock.testing.engine import ScriptedEngine
from interlock.types.learned import Weights
from tests.postgres import owned_home
from tests.prove.gateway import Process
from tests.prove.ledger import NODES, Stack, database

NODE = NODES[0]
COURT = ["court", "statute", "appeal", "contract", "liability", "verdict", "clause", "tort", "judge", "evidence"]
KITCHEN = ["simmer", "whisk", "oven", "butter", "onion", "garlic", "recipe", "flour", "saucepan", "roast"]
GOOD_AT = {"lawyer": COURT, "cook": KITCHEN}
PRICE = {"input_usd_per_mtok": 0.2, "output_usd_per_mtok": 0.6}


NOTHING = Weights(0, 0, 0, 0, 0, b"", (), ())


class Scene:
    """A node with two sources, each good at something else, and callers of two tenants."""

    def __init__(self, stack: Stack, keys: dict[str, str]) -> None:
        self.stack = stack
        self.keys = keys
        self.rng = random.Random(4)

    def post(self, path: str, body: dict[str, Any], tenant: str = "acme") -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.ports[NODE], timeout=60)
        try:
            headers = {"authorization": f"Bearer {self.keys[tenant]}", "content-type": "application/json"}
            connection.request("POST", path, json.dumps(body).encode(), headers)
            with connection.getresponse() as response:
                return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(response.read())
        finally:
            connection.close()

    def prompt(self, words: list[str]) -> str:
        return " ".join(self.rng.sample(words, 5) + [f"filler{self.rng.randrange(40)}" for _ in range(6)])

    def ask(self, model: str, words: list[str], tenant: str = "acme", **more: Any) -> tuple[str, dict[str, str]]:
        """(request id, the decision by name) of a call."""
        body = {"model": model, "messages": [{"role": "user", "content": self.prompt(words)}], "max_tokens": 8, **more}
        status, headers, answer = self.post("/v1/chat/completions", body, tenant)
        assert status == 200, answer
        parts = (part.partition("=") for part in headers["x-interlock-decision"].split("; "))
        return headers["x-interlock-request-id"], {name: value or "yes" for name, _, value in parts}

    def teach(self, number: int) -> None:
        """Calls to models by name, and what was thought of the answers."""
        for _ in range(number):
            for model, good in GOOD_AT.items():
                words = self.rng.choice([COURT, KITCHEN])
                call, _ = self.ask(model, words)
                chance = 0.95 if words is good else 0.1
                status, _, said = self.post(
                    "/v1/feedback", {"request_id": call, "thumb": "up" if self.rng.random() < chance else "down"}
                )
                assert status in (200, 202), said

    def learn(self, how: str) -> None:
        """What acme says of learning."""
        document = {"tenants": [{"name": "acme", "learning": how}]}
        files = [{"name": "test.json", "text": json.dumps(document)}]
        self.stack.admin().call("POST", "/apply", {"files": files}, reason="a test")


def until(true: Any, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    cook = ScriptedEngine(kind="openai", models=["cook"])
    lawyer = ScriptedEngine(kind="openai", models=["lawyer"])
    with owned_home() as home, database(home) as server, cook.in_thread(), lawyer.in_thread():
        stack = Stack(
            home.parent, server,
            INTERLOCK_LEARNING_INTERVAL_MS="200", INTERLOCK_LEARNING_PUBLISH_MS="400", INTERLOCK_WORKERS="1",
        )  # fmt: skip
        try:
            stack.start("control")
            sources = [
                {
                    "name": engine.models[0], "kind": "openai", "url": engine.base_url, "granted_to": ["*"],
                    "labels": {"region": "eu", "on_prem": True},
                    "models": [{"name": engine.models[0], "price": PRICE}],
                }
                for engine in (cook, lawyer)
            ]  # fmt: skip
            tenants = [
                {
                    "name": name,
                    "teams": [{"name": "research"}],
                    "principals": [{"name": "alice", "teams": ["research"]}],
                    "keys": [{"name": "laptop", "principal": "alice"}],
                    "policies": [
                        {
                            "id": "models", "template": "team-may-use-models",
                            "parameters": {"team": "research", "models": "*"},
                        }
                    ],
                }
                for name in ("acme", "globex")
            ]  # fmt: skip
            files = [{"name": "test.json", "text": json.dumps({"sources": sources, "tenants": tenants})}]
            applied = stack.admin().call("POST", "/apply", {"files": files}, reason="a test")
            stack.start(NODE)
            worker = Process(
                ["interlock.control.learner"],
                {**stack.environment, "INTERLOCK_HOME": str(stack.base / "control")},
                stack.base / "worker.err",
                ready_fd=True,
            )
            stack.processes["worker"] = worker
            assert worker.ready() is not None
            yield Scene(stack, {name: applied["keys"][name]["laptop"] for name in ("acme", "globex")})
        finally:
            if "worker" in stack.processes:
                stack.processes["worker"].stop()
            stack.stop()


def test_each_task_goes_to_who_does_it_well_and_why_is_on_record(scene: Scene) -> None:
    _, before = scene.ask("auto", COURT)
    assert before["router"] == "0", "nothing is learned yet"
    scene.teach(110)
    until(lambda: int(scene.ask("auto", COURT)[1]["router"]) > 0, "a state of the router")
    until(lambda: weights_of(scene).words > 0 and outcomes(scene) > 150, "a state that knows of what was taught")
    tried = 0
    for _ in range(90):
        tried += "tried" in scene.ask("auto", scene.rng.choice([COURT, KITCHEN]))[1]
    assert 0 < tried < 75, "others are tried while little is known"

    def settled() -> bool:
        return sum("tried" in scene.ask("auto", COURT)[1] for _ in range(10)) <= 2

    until(settled, "the cold allowance spent")
    calls = [(good, scene.ask("auto", words)) for _ in range(30) for good, words in GOOD_AT.items()]
    chosen = [decision["offer"].startswith(good) for good, (_, decision) in calls if "tried" not in decision]
    assert len(chosen) >= 40 and sum(chosen) >= 0.85 * len(chosen), f"{sum(chosen)} of {len(chosen)}"
    _replayed(scene, [request for _, (request, _) in calls[-6:]])
    assert scene.ask("auto", COURT, "globex")[1]["router"] == "0", "another tenant's traffic teaches nothing"


def _replayed(scene: Scene, requests: list[str]) -> None:
    for request in requests:
        found: dict[str, Any] = {}

        def there(request: str = request, found: dict[str, Any] = found) -> bool:
            try:
                found |= scene.stack.admin().call("GET", f"/tenants/acme/ledger/calls/{request}/replay", why="a test")
            except InterlockError:
                return False
            return True

        until(there, "the call in the ledger")
        assert found["same"], found
        assert "route" in found["decided"]


def test_what_was_learned_is_shown_and_what_is_said_of_a_model_counts(scene: Scene) -> None:
    admin = scene.stack.admin()
    shares: dict[str, Any] = {}

    def counted() -> bool:
        shares.update(admin.call("GET", "/tenants/acme/router/shares"))
        return bool(shares["calls"] >= 130)

    until(counted, "decided calls in the ledger")
    assert 0 < shares["tried"] < shares["calls"] and shares["whole"]
    assert {arm for step in shares["steps"] for arm in step["arms"]} == {"cook", "lawyer"}
    assert shares["regret"]["regret_micro"] == max(0, shares["regret"]["best_micro"] - shares["regret"]["got_micro"])
    assert admin.call("GET", "/tenants/globex/router/shares")["calls"] == 0
    report = admin.call("GET", "/tenants/acme/router/quality", query={"by": "model,team"})
    assert {row["by"]["team"] for row in report["rows"]} == {"research"} and len(report["rows"]) == 2
    seen: dict[str, Any] = {}

    def published() -> bool:
        seen.update(admin.call("GET", "/tenants/acme/router/quality", query={"by": "model,team,task"}))
        return bool(seen["basis"] == "outcomes" and seen["window"]["outcomes"] >= 200)

    until(published, "the quality that outcomes have shown")
    assert {row["by"]["team"] for row in seen["rows"]} == {"research"}
    judged: dict[str, list[float]] = {}
    for row in seen["rows"]:
        if row["count"] >= 20 and row["by"]["task"]:
            judged.setdefault(row["by"]["task"], []).append(row["mean_micro"] / 1e6)
            assert row["low_micro"] < row["mean_micro"] < row["high_micro"] and row["origins"]["feedback"]["count"]
    assert max(map(max, judged.values())) > 0.8 and min(map(min, judged.values())) < 0.3, "each is good at its own"
    learner: dict[str, Any] = {}

    def told() -> bool:
        learner.update(admin.call("GET", "/diagnosis")["learner"])
        return bool(learner["published"] >= 1 and learner["outcomes"] >= 200 and learner["entries"] >= 400)

    until(told, "the learner to tell of itself, and of all that was taught")
    assert learner["seen_s_ago"] < 120
    admin.call("PUT", "/tenants/acme/router/arms/cook", {"quality": 0.02, "outcomes": 10_000}, reason="a test")
    state: dict[str, Any] = {}

    def in_force() -> bool:
        state.update(admin.call("GET", "/tenants/acme/router"))
        return not state["waiting"]

    until(in_force, "a state with what was said")
    cook = next(arm for arm in state["arms"] if arm["arm"] == "cook")
    assert cook["mean"]["mean_micro"] < 100_000 and "set by admin" in cook["origins"]
    until(lambda: scene.ask("auto", KITCHEN)[1]["offer"].startswith("lawyer"), "calls that go by it")
    admin.call("DELETE", "/tenants/acme/router/arms/cook", why="a test")

    def unsaid() -> bool:
        arms = admin.call("GET", "/tenants/acme/router")["arms"]
        return all(not name.startswith("set") for arm in arms for name in arm["origins"])

    until(unsaid, "a state without")


def test_what_is_forgotten_stays_forgotten_whatever_the_ledger_has(scene: Scene) -> None:
    admin = scene.stack.admin()
    before = admin.call("GET", "/tenants/acme/router")
    admin.call("POST", "/tenants/acme/router/reset", {"arm": "cook"}, reason="a test")
    scene.teach(2)
    state: dict[str, Any] = {}

    def anew() -> bool:
        state.update(admin.call("GET", "/tenants/acme/router"))
        return {arm["arm"] for arm in state["arms"]} == {"cook", "lawyer"}

    until(anew, "a state of the learner that began anew")
    arms = {arm["arm"]: arm for arm in state["arms"]}
    assert sum(arms["cook"]["origins"].values()) <= 10, "only what came since"
    assert sum(arms["lawyer"]["origins"].values()) >= 100, "the other one is known as before"
    assert state["version"] > before["version"]
    admin.call("POST", "/tenants/acme/router/reset", {}, reason="a test")
    until(lambda: scene.ask("auto", COURT)[1]["router"] == "0", "priors decide")
    time.sleep(1.5)
    assert admin.call("GET", "/tenants/acme/router")["outcomes"] <= 10, "the learner does not bring it back"
    scene.teach(110)
    until(lambda: int(scene.ask("auto", COURT)[1]["router"]) > state["version"], "learned anew")


def test_of_a_call_whose_content_may_not_be_kept_nothing_is_read(scene: Scene) -> None:
    _, decision = scene.ask("auto", COURT, interlock={"recording": "metadata"})
    assert int(decision["router"]) > 0
    request, _ = scene.ask("auto", COURT, interlock={"recording": "metadata"})
    _replayed(scene, [request])


def test_a_tenant_says_whether_it_is_learned_from(scene: Scene) -> None:
    scene.learn("observe")
    until(lambda: scene.ask("auto", COURT)[1]["router"] == "0", "priors decide")
    with scene.stack.reading() as conn:
        assert conn.execute("SELECT 1 FROM interlock.router_states").fetchall(), "and yet it learns"
    scene.learn("off")
    with scene.stack.reading() as conn:
        until(
            lambda: not conn.execute("SELECT 1 FROM interlock.router_states").fetchall(), "what was learned forgotten"
        )


def test_after_an_erasure_nothing_is_learned_of_what_the_person_asked(scene: Scene) -> None:
    scene.learn("on")
    scene.teach(80)
    until(lambda: weights_of(scene).words > 0, "a state that reads prompts")
    before = weights_of(scene).version
    scene.stack.admin().call("POST", "/tenants/acme/ledger/erase", {"subject": "alice"}, reason="a test")

    def forgotten() -> bool:
        found = weights_of(scene)
        return found.version > before and found.words == 0 and outcomes_of(found) > 50

    until(forgotten, "a state of nothing that was erased, in which outcomes still count")
    found, report = NOTHING, dict[str, Any]()

    def of_one_version() -> bool:
        nonlocal found
        found = weights_of(scene)
        report.update(scene.stack.admin().call("GET", "/tenants/acme/router/quality", query={"by": "team,task"}))
        return bool(report["window"]["version"] == found.version)

    until(of_one_version, "the quality of the state in force")
    assert found.words == 0 and not found.centres and all(not arm.weights for arm in found.arms)
    assert {row["by"]["task"] for row in report["rows"]} == {""}, "of no task, as nobody knows what was asked"
    assert sum(row["count"] for row in report["rows"]) > 50
    with scene.stack.reading() as conn:
        words = conn.execute("SELECT words FROM interlock.router_states").fetchone()
    assert words is not None and msgspec.msgpack.decode(words[0]) is None


def outcomes(scene: Scene) -> float:
    """Outcomes that the state in force rests on."""
    return outcomes_of(weights_of(scene))


def outcomes_of(weights: Weights) -> float:
    """Outcomes that a state rests on."""
    return sum(c.outcomes_milli for arm in weights.arms for c in arm.capabilities) / 1000


def weights_of(scene: Scene) -> Weights:
    with scene.stack.reading() as conn:
        row = conn.execute("SELECT weights FROM interlock.router_states").fetchone()
    return msgspec.msgpack.decode(row[0], type=Weights) if row is not None else NOTHING


def test_the_learner_is_one_and_another_takes_over(scene: Scene) -> None:
    scene.learn("on")
    until(lambda: int(scene.ask("auto", COURT)[1]["router"]) > 0, "learned again")
    second = Process(
        ["interlock.control.learner"],
        {**scene.stack.environment, "INTERLOCK_HOME": str(scene.stack.base / "control")},
        scene.stack.base / "worker2.err",
        ready_fd=True,
    )
    assert second.ready() is not None
    try:
        scene.stack.processes["worker"].kill()
        scene.stack.processes["worker"].wait()
        before = int(scene.ask("auto", COURT)[1]["router"])
        scene.teach(3)
        until(lambda: int(scene.ask("auto", COURT)[1]["router"]) > before, "a state of the second learner")
    finally:
        scene.stack.processes["worker"] = second
