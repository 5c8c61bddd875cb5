"""The Router page in a real browser, over what the demo's own learner made of calls and of what was said of them."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received
from tests.e2e.stack import Stack, fetch, until

from .conftest import Tab

PLACE = "/console/router?tenant=learners"
AT = "/tenants/learners/router"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">{{1000003*7}}"
WORDS = ["statute", "appeal", "liability", "verdict", "clause", "tort", "evidence", "court", "counsel", "damages"]
NAMES = ["total", "index", "queue", "parse", "buffer", "nodes", "merge", "token", "stack", "cache"]
DISHES = ["soup", "bread", "stew", "salad", "curry", "pie", "pasta", "rice", "beans", "cake"]
GOOD = {"lawyer-8b": (0.95, 0.25, 0.6), "coder-8b": (0.3, 0.95, 0.6), "small-1b": (0.5, 0.45, 0.85)}
"""How often an answer of each model to a question of law, of code and of the kitchen is liked."""
PRICE = {"lawyer-8b": 0.4, "coder-8b": 0.4, "small-1b": 0.05, "wise": 0.9}


class Learners(NamedTuple):
    """The tenant that was taught, and its administrator's and auditor's ways in."""

    key: str
    passwords: dict[str, str]


def prompt(kind: int, rng: random.Random) -> str:
    if kind == 0:
        parts = (f"Whether the {rng.choice(WORDS)} bears on the {rng.choice(WORDS)} is in dispute." for _ in range(9))
        return " ".join(parts)
    if kind == 1:
        lines = [f"    {rng.choice(NAMES)} = {rng.choice(NAMES)}[{{{rng.choice(NAMES)}}}];" for _ in range(6)]
        return f"def {rng.choice(NAMES)}({rng.choice(NAMES)}):\n" + "\n".join(lines) + "\n    return;"
    return f"How do I make {rng.choice(DISHES)} with {rng.choice(DISHES)}?"


def judge(received: Received) -> Any:
    """Scores answers as they are liked on average; an answer to a question of no kind, which a control is, gets 0."""
    if "response_format" not in received.json:
        return answers.answer("Nobody asked it to judge.")(received)
    data = json.loads(received.json["messages"][-1]["content"])
    question = data["question"][-1]["text"]
    kinds = [question.startswith(begin) for begin in ("Whether the ", "def ", "How do I make ")]
    liked = sum(GOOD[name][kinds.index(True)] for name in GOOD if any(kinds) and name in data["answer"])
    return answers.answer(json.dumps({"score": round(10 * liked)}))(received)


def teach(demo: Stack, key: str, rng: random.Random, number: int) -> None:
    """Calls, and what is thought of their answers."""
    for n in range(number):
        kind, name = rng.randrange(3), list(GOOD)[n % len(GOOD)]
        answer = demo.chat(key, name, prompt(kind, rng))
        assert answer.status == 200, answer.body
        liked = rng.random() < GOOD[name][kind]
        said = {"request_id": answer.request_id, "thumb": "up" if liked else "down"}
        assert fetch(demo.gateway, "/v1/feedback", key, said).status in (200, 202)


@pytest.fixture(scope="module")
def learners(demo: Stack) -> Iterator[Learners]:
    """A tenant with three models and a judge, taught until the router knows them, and then calls that it decides."""
    engines = [ScriptedEngine(kind="openai", models=(n,), default=answers.answer(f"So {n} thinks.")) for n in GOOD]
    engines.append(ScriptedEngine(kind="openai", models=("wise",), default=judge))
    with contextlib.ExitStack() as running:
        for engine in engines:
            running.enter_context(engine.in_thread())
        sources = [
            {
                "name": f"s-{engine.models[0]}",
                "kind": "openai",
                "url": engine.base_url,
                "granted_to": ["learners"],
                "labels": {"region": "eu", "on_prem": True},
                "models": [
                    {
                        "name": engine.models[0],
                        "abilities": ["chat", "json_schema"],
                        "price": {
                            "input_usd_per_mtok": PRICE[engine.models[0]],
                            "output_usd_per_mtok": PRICE[engine.models[0]],
                        },
                    }
                ],
            }
            for engine in engines
        ]
        policy = {"id": "models", "template": "team-may-use-models", "parameters": {"team": "all", "models": [*PRICE]}}
        tenant = {
            "name": "learners",
            "teams": [{"name": "all"}],
            "principals": [{"name": "alice", "teams": ["all"]}, {"name": "ada"}, {"name": "aud"}],
            "keys": [{"name": "alice", "principal": "alice"}],
            "roles": [{"principal": "ada", "role": "admin"}, {"principal": "aud", "role": "auditor"}],
            "policies": [policy],
            "judging": {"model": "wise", "share_milli": 500},
            "budgets": [{"name": "judging", "judge": "wise", "usd": 100}],
        }
        files = [{"name": "x.json", "text": json.dumps({"sources": sources, "tenants": [tenant]})}]
        applied = demo.admin("POST", "/apply", {"files": files})
        assert applied.status == 200, applied.body
        passwords = {name: f"a long password of {name}" for name in ("ada", "aud")}
        for name, word in passwords.items():
            path = f"/tenants/learners/principals/{name}/password"
            assert demo.admin("POST", path, {"password": word}).status == 200
        key = applied.json()["keys"]["learners"]["alice"]
        try:
            rng = random.Random(5)
            for name in GOOD:
                demo.answers(200, key, name)
            teach(demo, key, rng, 360)
            until(lambda: len(demo.admin("GET", AT).json()["tasks"]) > 1, 180, "tasks to be told apart")
            for _ in range(150):
                demo.chat(key, "auto", prompt(rng.randrange(3), rng))
            until(lambda: demo.admin("GET", AT).json()["judges"][0]["why"] == "agrees", 180, "a judge that is examined")
            until(lambda: demo.admin("GET", f"{AT}/shares").json()["calls"] > 100, 180, "calls decided by it")
            yield Learners(key, passwords)
        finally:
            assert demo.admin("DELETE", "/tenants/learners").status == 200
            for source in sources:
                assert demo.admin("DELETE", f"/sources/{source['name']}").status == 200


def test_what_was_learned_is_shown_to_everybody(learners: Learners, admin: Tab) -> None:
    admin.look(PLACE, "router")
    words = admin.page.inner_text("main")
    assert "lawyer-8b" in words and "best" in words and "outcomes" in words
    assert "code" in words, "tasks have plain words"
    assert admin.page.locator(".lines-chart canvas").count() >= 2
    assert admin.page.locator("nav >> text=Router").count() == 1
    judges = admin.page.inner_text("section[aria-labelledby=judges]")
    assert "The model wise scores 50 % of answers" in judges and "trusted" in judges and "feedback on" in judges
    assert "what the judge wise says" in words and "challengers" not in words, "this tenant has none"
    assert "judge:" in admin.page.inner_text("section[aria-labelledby=models]")
    admin.page.select_option("select[name=department]", index=1)
    admin.page.select_option("select[name=task]", "0")
    admin.press("form[aria-label='Department and task'] button")
    table = "[role=region][aria-label='Quality by department and task']"
    admin.page.wait_for_selector(table)
    shown = admin.page.inner_text(table)
    assert "Task 0" in shown and "Task 1" not in shown and "feedback" in shown and "within" in shown
    admin.go("/console/?tenant=learners&by=model")
    admin.page.wait_for_selector("th:has-text('Quality')")
    admin.page.wait_for_selector("[aria-label='Quality by model and task'] td:has-text('feedback')")
    admin.press("a[aria-label^='Quality'] >> nth=0")
    admin.page.wait_for_url("**/console/router?tenant=learners")


def test_the_command_line_shows_and_changes_the_same(learners: Learners, demo: Stack) -> None:
    found = demo.ok("route", "profiles", "-t", "learners")
    words = demo.run("route", "profiles", "-t", "learners").out
    assert found["version"] > 0 and "Learning is on." in words and "lawyer-8b" in words and "TASK 0" in words
    assert "small-1b" in words and "s-small-1b::small-1b" in words and "feedback" in words
    assert "Judge wise: its verdicts count: its scores go with what people and checks say" in words
    seen = demo.ok("route", "profiles", "-t", "learners", "--by", "model,team,task")
    assert seen["basis"] == "outcomes" and {row["by"]["task"] for row in seen["rows"]} >= {"0", "1"}
    words = demo.run("route", "profiles", "-t", "learners", "--by", "cost_center,task").out
    assert "Seen in the last" in words and "COST CENTER" in words and "feedback 0." in words
    made = demo.ok(
        "route", "set", "coder-8b", "-t", "learners", "--quality", "0.9", "--outcomes", "50", "-m", "measured"
    )
    assert (made["quality_micro"], made["why"]) == (900_000, "measured")
    assert "is set of model coder-8b" in demo.run("route", "unset", "coder-8b", "-t", "learners").out
    assert demo.run("route", "unset", "coder-8b", "-t", "learners").code == 1
    assert demo.run("route", "reset", "-t", "learners", "--model", "nothing").code == 1
    done = demo.ok("route", "reset", "-t", "learners", "--model", "smollm2", "-m", "never used here")
    assert done["arm"] == "smollm2" and done["outcomes"] == 0


def test_a_model_is_set_and_unset_with_a_reason(learners: Learners, tab: Tab, demo: Stack) -> None:
    page = tab.page
    tab.go("/")
    tab.sign_in("learners/ada", learners.passwords["ada"])
    tab.go(PLACE)
    tab.press("summary:has-text('Set what to expect')")
    page.select_option("#f-say-arm", "small-1b")
    page.fill("#f-say-quality", "7")
    page.fill("#f-say-reason", HOSTILE)
    tab.press("form[aria-label=Set] button")
    assert "from 0 to 1" in page.inner_text("[role=alert]")
    assert page.input_value("#f-say-reason") == HOSTILE, "what was typed is kept"
    page.fill("#f-say-quality", "0.2")
    page.fill("#f-say-outcomes", "500")
    tab.press("form[aria-label=Set] button")
    assert "Said of small-1b" in page.inner_text("[role=status]")
    assert HOSTILE in page.inner_text("main") and page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0

    def in_force() -> bool:
        arms = demo.admin("GET", AT).json()["arms"]
        return any(arm["arm"] == "small-1b" and arm["origins"].get("set by ada") == 500 for arm in arms)

    until(in_force, 180, "a state with what was set")
    page.reload()
    assert "set by ada: 500" in page.inner_text("#models >> xpath=ancestor::section")
    tab.press("summary[aria-label='Unset small-1b']")
    page.fill("form[aria-label='Unset small-1b'] [name=reason]", "over")
    tab.press("form[aria-label='Unset small-1b'] button")
    assert "Nothing is set of small-1b" in page.inner_text("[role=status]")


def test_who_may_only_look_is_shown_no_form_and_refused(learners: Learners, tab: Tab, demo: Stack) -> None:
    tab.go("/")
    tab.sign_in("learners/aud", learners.passwords["aud"])
    tab.go(PLACE)
    assert "Quality of models" in tab.page.inner_text("main")
    assert tab.page.locator("main form[method=post]").count() == 0
    csrf = tab.page.get_attribute("body", "data-csrf") or ""
    for path, more in (("say", {"arm": "small-1b", "quality": "0.5", "outcomes": "10"}), ("forget", {"arm": ""})):
        form: dict[str, str | float | bool] = {"csrf": csrf, "tenant": "learners", "reason": "no", **more}
        answer = tab.page.request.post(
            f"{demo.control}/console/router/{path}", form=form, headers={"origin": demo.control}
        )
        assert answer.status == 403, path
    assert tab.page.request.get(f"{demo.control}/console/router?tenant=acme").status == 404
    assert demo.admin("GET", AT).json()["version"] > 0


def test_learning_is_switched_and_forgotten(learners: Learners, admin: Tab, demo: Stack) -> None:
    page = admin.page
    admin.go(PLACE)
    admin.press("summary:has-text('Switch learning')")
    page.select_option("#f-learning", "observe")
    page.fill("#f-switch-reason", "a look first")
    admin.press("form[aria-label='Switch learning'] button")
    assert "Learning of learners is observe" in page.inner_text("[role=status]")
    assert "still go by the priors" in page.inner_text("main")
    assert "Nothing of what is learned leaves learners" in page.inner_text("main")
    admin.press("summary:has-text('Share')")
    page.fill("#f-sharing-reason", "one organisation")
    admin.press("form[aria-label=Sharing] button")
    assert "is shared" in page.inner_text("[role=status]")
    assert demo.admin("GET", f"{AT}/shared").json()["shares"] is True
    admin.press("summary:has-text('End sharing')")
    page.fill("#f-sharing-reason", "enough")
    admin.press("form[aria-label=Sharing] button")
    assert "is not shared any more" in page.inner_text("[role=status]")
    admin.press("summary:has-text('Forget what was learned')")
    page.select_option("#f-forget-arm", "")
    page.fill("#f-forget-reason", "the models were replaced")
    admin.press("form[aria-label=Forget] button")
    assert "is forgotten" in page.inner_text("[role=status]")
    assert demo.admin("GET", AT).json()["version"] == 0
    assert "nothing yet" in page.inner_text("main")
    admin.look(PLACE, "router-empty")
    page.goto(demo.control + PLACE + "&hours=5")
    assert "hours is one of" in page.inner_text("body")
