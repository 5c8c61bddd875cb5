"""What a change would make of logged calls, over a real node, ledger, learner and database."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.client import AdminClient
from interlock.cli.main import main
from interlock.errors import InterlockError
from tests.integration.test_learning import COURT, GOOD_AT, KITCHEN, PRICE, Scene, outcomes, scene, until, weights_of
from tests.prove.ledger import _interlock

__all__ = ["scene"]

AT = "/tenants/acme/route/what-if"
NO_LAWYER = {
    "id": "no-lawyer", "cedar": 'forbid(principal, action, resource in Model::"lawyer");'
}  # fmt: skip
TEACHING, AUTO = 70, 110


class Traffic:
    """Calls that were made, and where the calls to `auto` went."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.admin = scene.stack.admin()
        self.auto: list[str] = []
        scene.teach(TEACHING)
        until(lambda: int(scene.ask("auto", COURT, "globex")[1]["router"]) == 0, "the other tenant's calls")
        until(lambda: weights_of(scene).words > 0 and outcomes(scene) > 0.9 * 2 * TEACHING, "what was taught, learned")
        learned = weights_of(scene).version
        until(lambda: int(self.call("auto")["router"]) >= learned, "a state of the router")
        while len(self.auto) < AUTO:
            self.call("auto")
        self.calls = 2 * TEACHING + len(self.auto)
        until(lambda: self.ask()["decisions"]["calls"] == self.calls, "every call in the ledger")
        until(lambda: self.ask()["quality"]["rewarded"] > 0.9 * self.calls, "what was said of the answers")

    def call(self, model: str) -> dict[str, str]:
        scene = self.scene
        words = scene.rng.choice([COURT, KITCHEN])
        request, decision = scene.ask(model, words)
        arm = decision["offer"].partition("::")[0]
        self.auto.append(arm)
        up = scene.rng.random() < (0.95 if words is GOOD_AT[arm] else 0.1)
        scene.post("/v1/feedback", {"request_id": request, "thumb": "up" if up else "down"})
        return decision

    def ask(self, **change: Any) -> dict[str, Any]:
        """What a change would make of the calls."""
        for _ in range(40):
            try:
                found: dict[str, Any] = self.admin.call("POST", AT, change)
                return found
            except InterlockError as e:
                if e.code != "locked":
                    raise
                time.sleep(0.2)
        raise AssertionError("other comparisons did not end")


@pytest.fixture(scope="module")
def traffic(scene: Scene) -> Traffic:
    return Traffic(scene)


def document(**tenant: Any) -> list[dict[str, str]]:
    return [{"name": "x.json", "text": json.dumps({"tenants": [{"name": "acme", **tenant}]})}]


def after(found: dict[str, Any], name: str = "models") -> dict[str, int]:
    return {share["name"]: share["after"] for share in found["decisions"][name] if share["after"]}


def before(found: dict[str, Any], name: str = "models") -> dict[str, int]:
    return {share["name"]: share["before"] for share in found["decisions"][name] if share["before"]}


def test_without_a_change_everything_is_as_it_was_recorded(traffic: Traffic) -> None:
    found = traffic.ask()
    told = found["decisions"]
    assert told["again"] == told["calls"] == traffic.calls and told["whole"] and not told["left_out"]
    assert told["changed"] == told["denied"] == told["permitted"] == told["drifted"] == 0
    lawyers = traffic.auto.count("lawyer") + TEACHING
    assert before(found) == after(found) == {"lawyer": lawyers, "cook": traffic.calls - lawyers}
    assert [g["name"] for g in told["teams"]] == ["research"] and told["tried_before"] == told["tried_after"] > 0
    quality = found["quality"]
    assert quality["tells"] and quality["unsupported"] == 0
    for method in quality["methods"]:
        assert method["difference"]["mean"] == 0 and method["before"]["low"] < method["before"]["mean"]
    cost = found["figures"][0]
    assert cost["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0} and cost["basis"] == {"logged": traffic.calls}


def test_a_policy_denies_some_and_sends_others_elsewhere(traffic: Traffic) -> None:
    policies = [*_policies(traffic.admin), NO_LAWYER]
    found = traffic.ask(files=document(policies=policies))
    told, lawyers = found["decisions"], traffic.auto.count("lawyer")
    assert found["changes"] == [{"operation": "create", "kind": "policy", "name": "no-lawyer"}]
    assert told["denied"] == TEACHING and told["model_changed"] == told["changed"] == TEACHING + lawyers
    assert after(found) == {"cook": traffic.calls - TEACHING, "": TEACHING}
    quality = found["quality"]
    assert quality["methods"], "calls that stay with the cook have rewards"
    for method in quality["methods"]:
        assert method["after"]["low"] <= method["after"]["mean"] <= method["after"]["high"]
    dr = next(m for m in quality["methods"] if m["name"] == "dr")
    assert dr["after"]["mean"] < dr["before"]["mean"], "the cook knows little of the law"
    assert quality["effective"] < quality["rewarded"] and quality["largest"] > 1
    assert _policies(traffic.admin) == policies[:-1], "nothing is changed"


def test_it_says_what_activation_then_does(traffic: Traffic) -> None:
    policies = _policies(traffic.admin)
    files = document(policies=[*policies, NO_LAWYER])
    said = traffic.ask(files=files)
    traffic.admin.call("POST", "/apply", {"files": files}, reason="a test")
    try:
        found = traffic.ask()
        assert before(found) == after(said) and before(found, "sources") == after(said, "sources")
        assert found["decisions"]["drifted"] == said["decisions"]["changed"]
    finally:
        traffic.admin.call("DELETE", "/tenants/acme/policies/no-lawyer", why="a test")


def test_prices_are_exact_and_named_calls_stay(traffic: Traffic) -> None:
    dear = {**PRICE, "input_usd_per_mtok": 10 * PRICE["input_usd_per_mtok"], "output_usd_per_mtok": 6.0}
    sources = [_source(traffic.admin, name) for name in ("cook", "lawyer")]
    for source in sources:
        source["models"][0]["price"] = dear
    files = [{"name": "x.json", "text": json.dumps({"sources": sources})}]
    found = traffic.ask(files=files)
    cost = found["figures"][0]
    assert {c["kind"] for c in found["changes"]} == {"source"}
    assert found["decisions"]["model_changed"] == 0 and cost["basis"] == {"logged": traffic.calls}
    assert cost["after"]["mean"] == pytest.approx(10 * cost["before"]["mean"], rel=0.02)
    assert cost["difference"]["low"] > 0


def test_what_had_no_chance_is_said(traffic: Traffic) -> None:
    found = traffic.ask(explore_share_milli=0)
    assert found["decisions"]["tried_after"] == 0 and found["quality"]["unsupported"] == 0
    unlearned = traffic.ask(files=document(learning="observe"))
    assert unlearned["decisions"]["model_changed"] > 0
    new = _source(traffic.admin, "cook")
    new |= {"name": "bakery", "declared_only": True, "models": [{"name": "baker", "quality_milli": 1000}]}
    new["models"][0]["price"] = {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}
    files = [{"name": "x.json", "text": json.dumps({"sources": [new]})}]
    found = traffic.ask(files=files, weights={"quality": 1.0})
    share = after(found)["baker"] / traffic.calls
    assert share > 0.3, "every call to auto goes to the new model"
    quality = found["quality"]
    assert not quality["tells"] and any("had no chance" in why for why in quality["why"])
    assert quality["unsupported"] > 0.25 and quality["untried"][0]["model"] == "baker"
    assert found["figures"][1]["unknown"] > 0, "nobody knows how fast it is"
    assert any("bakery::baker" in note for note in found["notes"])
    gone = traffic.ask(without=["cook"])
    assert after(gone) == {"lawyer": traffic.calls - TEACHING, "": TEACHING}


def test_who_may_ask_and_what_is_refused(traffic: Traffic) -> None:
    admin, port = traffic.admin, traffic.scene.stack.ports["control"]
    for name, role in (("audit", "auditor"), ("dev", "developer"), ("globe", "owner")):
        place = "globex" if name == "globe" else "acme"
        admin.call("POST", f"/tenants/{place}/principals", {"name": name}, reason="a test")
        admin.call("POST", f"/tenants/{place}/roles", {"principal": name, "role": role}, reason="a test")
        wish = {"name": name, "principal": name, "scopes": ["admin"]}
        key = admin.call("POST", f"/tenants/{place}/keys", wish, reason="a test")["key"]
        client = AdminClient(f"http://127.0.0.1:{port}", key)
        if name == "audit":
            assert client.call("POST", AT, {})["decisions"]["calls"] == traffic.calls
            with pytest.raises(InterlockError, match=r"source|platform|role"):
                sources = [{**_source(admin, "cook"), "url": "http://127.0.0.1:1"}]
                client.call("POST", AT, {"files": [{"name": "x", "text": json.dumps({"sources": sources})}]})
            continue
        with pytest.raises(InterlockError):
            client.call("POST", AT, {})
        if name == "globe":
            mine = client.call("POST", "/tenants/globex/route/what-if", {})["decisions"]
            assert 0 < mine["calls"] < 50 and mine["again"] == mine["calls"]
    for wrong in (
        {"mode": "fast"}, {"weights": {"quality": -1}}, {"weights": {}}, {"without": ["nobody"]}, {"since_ns": -1},
        {"explore_share_milli": 501}, {"files": [{"name": "x", "text": "tenants: 3"}]},
    ):  # fmt: skip
        with pytest.raises(InterlockError):
            admin.call("POST", AT, wrong)
    with traffic.scene.stack.reading() as conn:
        rows = conn.execute("SELECT count(*) FROM interlock.changes WHERE action = 'ledger.route_what_if'").fetchone()
        assert rows is not None and rows[0] >= 2, "every look is on record"


def test_the_command_tells_it_and_draws_it(
    traffic: Traffic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**traffic.scene.stack.environment, "INTERLOCK_HOME": str(traffic.scene.stack.base / "control")}
    url = f"http://127.0.0.1:{traffic.scene.stack.ports['control']}"
    picture = tmp_path / "x.svg"
    found = _interlock(
        environment, "route", "what-if", "--tenant", "acme", "--weights", "eco:quality=1", "--learning", "observe",
        "--since", "1h", "--plot", str(picture), "--url", url,
    )  # fmt: skip
    assert found["decisions"]["calls"] == traffic.calls and found["changes"][0]["kind"] == "tenant"
    drawn = picture.read_text()
    assert drawn.startswith("<svg") and "<title" in drawn and "<desc" in drawn
    monkeypatch.setenv("INTERLOCK_HOME", environment["INTERLOCK_HOME"])
    arguments = ["route", "what-if", "--tenant", "globex", "--url", url, "--plot", str(tmp_path / "y.svg")]
    capsys.readouterr()
    assert main(arguments) == 1 and not (tmp_path / "y.svg").exists()
    said = capsys.readouterr()
    assert "The data cannot tell of quality: no call has a reward" in said.out and "nothing to plot" in said.err
    assert main([*arguments, "--weights", "speed=1"]) == 1 and "write [MODE:]quality" in capsys.readouterr().err


def test_a_call_whose_record_was_erased_is_said_to_be_left_out(traffic: Traffic) -> None:
    traffic.admin.call("POST", "/tenants/globex/ledger/erase", {"subject": _subject(traffic)}, reason="a test")
    found = traffic.admin.call("POST", "/tenants/globex/route/what-if", {})
    told = found["decisions"]
    assert told["again"] == 0 and told["left_out"] == {"erased": told["calls"]}
    assert not found["quality"]["tells"] and "no call has a reward" in found["quality"]["why"][0]
    assert all(figure["before"] is None for figure in found["figures"])


def _subject(traffic: Traffic) -> str:
    items = traffic.admin.call("GET", "/tenants/globex/ledger/entries", query={"kind": "call"}, why="a test")["items"]
    return str(items[0]["leaf"]["who"]["subject"])


def _policies(admin: AdminClient) -> list[dict[str, Any]]:
    items = admin.call("GET", "/tenants/acme/policies")["items"]
    kept = [("id", "template", "parameters") if item.get("template") else ("id", "cedar", "words") for item in items]
    return [{name: item[name] for name in names if item.get(name)} for item, names in zip(items, kept, strict=True)]


def _source(admin: AdminClient, name: str) -> dict[str, Any]:
    found = admin.call("GET", "/export", query={"form": "json"})["sources"]
    return dict(next(source for source in found if source["name"] == name))
