"""Tenants that share how good models were, over a real database: who gives what, who gets it, and who does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from interlock.cli.main import app as cli
from interlock.storage import router_shared
from interlock.types.learned import SHARED, ArmWeights
from tests.integration.learner_scene import Scene, erased, learner_over
from tests.integration.live_scene import add

NAMES = ("acme", "globex", "initech", "hooli")
TENANTS = "".join(
    f"""
  - name: {name}
    learning_shares: {"false" if name == "hooli" else "true"}
    principals: [{{name: own, kind: user}}, {{name: ada, kind: user}}, {{name: aud, kind: user}}]
    keys:
      - {{name: {name}-own, principal: own, scopes: [admin]}}
      - {{name: {name}-ada, principal: ada, scopes: [admin]}}
      - {{name: {name}-aud, principal: aud, scopes: [admin]}}
    roles:
      - {{principal: own, role: owner}}
      - {{principal: ada, role: admin}}
      - {{principal: aud, role: auditor}}
"""
    for name in NAMES
)
CONFIGURED = f"""
sources:
  - name: gpu
    kind: openai
    url: http://127.0.0.1:9/
    granted_to: ["*"]
    labels: {{region: eu, on_prem: true}}
    models: [{{name: large, version: v1}}, {{name: small}}, {{name: rated, quality_milli: 900}}]
  - name: rack
    kind: openai
    url: http://127.0.0.1:9/
    tenant: acme
    labels: {{region: eu, on_prem: true}}
    models: [{{name: secret-finetune}}, {{name: small}}]
tenants: {TENANTS}
"""


@pytest.fixture
def scene(postgres_migrated_url: str) -> Iterator[Scene]:
    with learner_over(postgres_migrated_url, CONFIGURED) as made:
        yield made


def arm(scene: Scene, tenant: str, name: str) -> ArmWeights | None:
    state = scene.state(tenant)
    return next((each for each in state.arms if each.arm == name), None) if state is not None else None


def shared(scene: Scene, tenant: str, name: str) -> int:
    """As how many outcomes what others have seen of a model counts."""
    found = arm(scene, tenant, name)
    return found.origins.get(SHARED, 0) if found is not None else 0


def mean(scene: Scene, tenant: str, name: str) -> float:
    found = arm(scene, tenant, name)
    assert found is not None
    return found.capabilities[0].mean_micro / 1e6


def gives(scene: Scene, tenant: str) -> dict[str, tuple[int, float]]:
    with scene.store.tenant(scene.ids[tenant]) as conn:
        return {s.arm: (round(s.outcomes_milli / 1000), s.mean_micro / 1e6) for s in
                router_shared.of_tenant(conn, scene.ids[tenant])}  # fmt: skip


def looks(scene: Scene, number: int = 2) -> None:
    """What is given at one is there for the others at the next."""
    for _ in range(number):
        scene.look()


def say(scene: Scene, tenant: str, share: bool, who: str = "own") -> int:
    """Status of having a tenant share, or not."""
    file = f"tenants:\n  - name: {tenant}\n    learning_shares: {str(share).lower()}\n"
    body = {"files": [{"name": "test.yaml", "text": file}], "reason": "a test"}
    return int(scene.people[who if "-" in who else f"{tenant}-{who}"].call("POST", "/apply", body)[0])


def test_what_two_others_have_seen_counts_and_own_outcomes_overrule_it(scene: Scene) -> None:
    scene.checked("acme", "large@v1", 27, 3)
    scene.checked("globex", "large@v1", 18, 12)
    scene.checked("acme", "rated", 30)
    scene.checked("globex", "rated", 30)
    looks(scene)
    assert gives(scene, "acme")["large@v1"][0] in (29, 30) and abs(gives(scene, "acme")["large@v1"][1] - 0.9) < 0.01
    assert shared(scene, "initech", "large@v1") == 20 and abs(mean(scene, "initech", "large@v1") - 0.75) < 0.011
    assert shared(scene, "initech", "small") == 0, "nobody has seen it"
    assert shared(scene, "initech", "rated") == 0, "its source says what to expect"
    assert shared(scene, "acme", "large@v1") == 0, "one other is too few: nobody's figure is shown by itself"
    assert scene.state("hooli") is None and gives(scene, "hooli") == {}
    scene.checked("initech", "large@v1", 0, 200)
    looks(scene)
    assert mean(scene, "initech", "large@v1") < 0.15, "its own outcomes overrule what others said"
    assert shared(scene, "acme", "large@v1") == 20 and shared(scene, "globex", "large@v1") == 20
    scene.checked("hooli", "large@v1", 90)
    before = gives(scene, "acme"), gives(scene, "globex"), gives(scene, "initech")
    looks(scene)
    assert gives(scene, "hooli") == {} and shared(scene, "hooli", "large@v1") == 0
    assert before == (gives(scene, "acme"), gives(scene, "globex"), gives(scene, "initech")), "nothing comes back"


def test_of_a_tenants_own_sources_nothing_leaves(scene: Scene) -> None:
    scene.checked("acme", "secret-finetune", 40, source="rack")
    scene.checked("acme", "small", 40, source="rack")
    scene.checked("acme", "small", 0, 20)
    looks(scene)
    found = gives(scene, "acme")
    assert set(found) == {"small"} and found["small"] == (20, 0.0), "of the platform's small, and not of its own"
    assert scene.owner.get("/tenants/acme/router/shared")["gives"][0]["mean_micro"] == 0


def test_who_leaves_takes_its_figures_along_and_gets_none(scene: Scene) -> None:
    for name in ("acme", "globex", "initech"):
        scene.checked(name, "small", 20, 10)
    looks(scene)
    assert shared(scene, "initech", "small") == 20
    assert say(scene, "globex", share=False) == 200
    scene.look()
    with scene.store.platform() as conn:
        there = router_shared.everything(conn)
    assert set(there["small"]) == {scene.ids["acme"], scene.ids["initech"]}
    assert shared(scene, "initech", "small") == 0 and shared(scene, "globex", "small") == 0
    with scene.store.tenant(scene.ids["globex"]) as conn:
        router_shared.publish(conn, scene.ids["globex"], {"small": (5, 5)})
        assert router_shared.of_tenant(conn, scene.ids["globex"]) == [], "whatever the learner believes"
    scene.people["acme-ada"].do("POST", "/tenants/acme/router/reset", {"arm": "small"})
    assert gives(scene, "acme") == {}, "what was forgotten is given no more"
    looks(scene)
    scene.checked("initech", "small", 1)
    add(scene.store, scene.ids["initech"], erased(9_000, scene.ids["initech"]))
    looks(scene)
    assert gives(scene, "initech")["small"][0] in (30, 31), "read again after an erasure"
    scene.people["initech-ada"].do("POST", "/tenants/initech/router/reset")
    assert gives(scene, "initech") == {}


def test_an_owner_decides_and_it_is_on_record(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert say(scene, "hooli", share=True, who="ada") == 403
    assert say(scene, "hooli", share=True, who="acme-own") in (403, 404)
    assert scene.owner.get("/tenants/hooli/router")["shares"] is False
    assert say(scene, "hooli", share=True) == 200
    assert say(scene, "hooli", share=False, who="ada") == 403, "nor does an administrator end it"
    assert scene.owner.get("/tenants/hooli/router")["shares"] is True
    newest = scene.owner.get("/tenants/hooli/changes?limit=5")["items"][0]
    assert (newest["action"], newest["actor"]) == ("tenant.update", "own") and newest["reason"] == "a test"
    assert newest["after"]["learning_shares"] is True and not newest["before"].get("learning_shares")
    for person in ("acme-own", "acme-aud"):
        assert scene.people[person].call("GET", "/tenants/hooli/router/shared")[0] == 404
    scene.checked("hooli", "small", 3, 1)
    looks(scene)
    found = scene.people["hooli-aud"].get("/tenants/hooli/router/shared")
    assert found["shares"] and found["gives"][0]["arm"] == "small" and found["gets"] == {}

    class Client:
        def call(self, *_: object) -> object:
            return found

    monkeypatch.setattr("interlock.cli.router.client_of", lambda *_: Client())
    said = CliRunner().invoke(cli, ["route", "shared", "--tenant", "hooli"])
    assert said.exit_code == 0 and "hooli shares" in said.stdout and "0.75" in said.stdout


def test_what_a_tenant_gives_is_its_own_to_see(scene: Scene) -> None:
    for name in ("acme", "globex"):
        scene.checked(name, "small", 20)
    looks(scene)
    with scene.store.tenant(scene.ids["acme"]) as conn:
        assert set(router_shared.everything(conn)["small"]) == {scene.ids["acme"]}, "row-level security"
        assert router_shared.of_tenant(conn, scene.ids["globex"]) == []
