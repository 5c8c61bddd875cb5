"""The router learns from a judge and from challengers: over a real node, control plane, learner and database."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from interlock.errors import InterlockError
from interlock.testing import answers
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received
from interlock.types.learned import Weights
from tests.integration.test_learning import COURT, KITCHEN, PRICE, Scene, _replayed, until
from tests.postgres import owned_home
from tests.prove.gateway import Process
from tests.prove.ledger import NODES, Stack, database

NODE = NODES[0]
TEXTS = {
    "lawyer": "The verdict rests on a statute.",
    "cook": "Let it simmer in butter.",
    "flatterer": "What a wonderful question! This answer is perfect.",
}
ABLE = ["chat", "json_schema"]
SECRET, UNJUDGED = "marmalade", "nightingale"


def worth(question: str, answer: str) -> int:
    """What the judge makes of an answer: it falls for flattery, whatever was asked."""
    if answer == TEXTS["flatterer"]:
        return 10
    words = question.split()
    right = "lawyer" if any(word in COURT for word in words) else "cook" if any(w in KITCHEN for w in words) else ""
    return 9 if right and answer == TEXTS[right] else 1


def judge(received: Received) -> Any:
    if received.json.get("response_format", {}).get("type") != "json_schema":
        return answers.answer("Nobody asked it to judge.")(received)
    data = json.loads(received.json["messages"][-1]["content"])
    question = data["question"][-1]["text"]
    if "answer" in data:
        return answers.answer(json.dumps({"score": worth(question, data["answer"])}))(received)
    first, second = worth(question, data["first"]), worth(question, data["second"])
    said = "tie" if first == second else "first" if first > second else "second"
    return answers.answer(json.dumps({"preferred": said}))(received)


class Court(Scene):
    """A scene with a judge."""

    def __init__(self, stack: Stack, keys: dict[str, str], engine: ScriptedEngine) -> None:
        super().__init__(stack, keys)
        self.judge = engine

    def entries(self, tenant: str, field: str) -> list[dict[str, Any]]:
        """Leaves of a tenant that have this field, in the order of the tree."""
        with self.stack.reading() as conn:
            rows = conn.execute(
                "SELECT convert_from(leaf, 'UTF8') FROM interlock.ledger_entries AS e JOIN interlock.tenants AS t"
                " ON t.id = e.tenant_id WHERE t.name = %s AND convert_from(leaf, 'UTF8')::jsonb ? %s ORDER BY position",
                (tenant, field),
            ).fetchall()
        return [json.loads(text) for (text,) in rows]

    def weights(self, tenant: str) -> Weights | None:
        with self.stack.reading() as conn:
            row = conn.execute(
                "SELECT weights FROM interlock.router_states AS s JOIN interlock.tenants AS t ON t.id = s.tenant_id"
                " WHERE t.name = %s",
                (tenant,),
            ).fetchone()
        return msgspec.msgpack.decode(row[0], type=Weights | None) if row is not None else None

    def means(self, tenant: str) -> dict[str, float]:
        """What is expected of each model, over all tasks."""
        told = self.weights(tenant)
        shares = told.task_shares_micro if told is not None else ()
        return {
            arm.arm: sum(c.mean_micro * s for c, s in zip(arm.capabilities, shares, strict=True)) / sum(shares) / 1e6
            for arm in (told.arms if told is not None else ())
        }

    def sent_to_judge(self, word: str) -> int:
        return sum(word in received.body.decode() for received in self.judge.calls)


def tenant(name: str, judging: dict[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "teams": [{"name": "research"}],
        "principals": [{"name": "alice", "teams": ["research"]}],
        "keys": [{"name": "laptop", "principal": "alice"}],
        "roles": [{"principal": "alice", "role": "auditor"}],
        "policies": [
            {"id": "models", "template": "team-may-use-models", "parameters": {"team": "research", "models": "*"}}
        ],
    }
    if judging is not None:
        made["judging"] = judging
        made["budgets"] = [{"name": "judging", "judge": judging["model"], "usd": 100}]
    return made


TENANTS = [
    tenant("acme", {"model": "wise", "share_milli": 1000, "control_milli": 400}),
    tenant("globex", {"model": "wise", "share_milli": 0, "challenger_milli": 1000, "control_milli": 1000}),
    tenant("initech", None),
]


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    engines = {
        name: ScriptedEngine(kind="openai", models=[name], default=answers.answer(text)) for name, text in TEXTS.items()
    }
    wise = ScriptedEngine(kind="openai", models=["wise"], default=judge)
    quality = {"cook": 800, "lawyer": 300, "flatterer": 200}
    with (
        owned_home() as home,
        database(home) as server,
        engines["cook"].in_thread(),
        engines["lawyer"].in_thread(),
        engines["flatterer"].in_thread(),
        wise.in_thread(),
    ):
        stack = Stack(
            home.parent, server,
            INTERLOCK_LEARNING_INTERVAL_MS="200", INTERLOCK_LEARNING_PUBLISH_MS="400", INTERLOCK_WORKERS="1",
            INTERLOCK_EXPLORE_SHARE_MILLI="0", INTERLOCK_JUDGE_CALLS_MAX="64",
        )  # fmt: skip
        try:
            stack.start("control")
            inside = {"region": "eu", "on_prem": True}
            sources: list[dict[str, Any]] = [
                {
                    "name": name, "kind": "openai", "url": engine.base_url, "granted_to": ["*"], "labels": inside,
                    "models": [
                        {"name": name, "price": PRICE, "abilities": ABLE, "quality_milli": quality[name]}
                    ],
                }
                for name, engine in engines.items()
            ]  # fmt: skip
            sources.append(
                {
                    "name": "outside", "kind": "openai", "url": wise.base_url, "granted_to": ["*"],
                    "labels": {"region": "us", "on_prem": False, "data_class_max": "internal"},
                    "models": [{"name": "wise", "price": PRICE, "abilities": ABLE, "quality_milli": 10}],
                }
            )  # fmt: skip
            files = [{"name": "test.json", "text": json.dumps({"sources": sources, "tenants": TENANTS})}]
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
            yield Court(stack, {each["name"]: applied["keys"][each["name"]]["laptop"] for each in TENANTS}, wise)
        finally:
            if "worker" in stack.processes:
                stack.processes["worker"].stop()
            stack.stop()


def test_with_no_word_of_anybody_each_task_goes_to_who_does_it_well_and_flattery_does_not_win(court: Court) -> None:
    for _ in range(110):
        for name in TEXTS:
            court.ask(name, court.rng.choice([COURT, KITCHEN]))
    until(lambda: len(court.entries("acme", "judge_of")) >= 330, "what was judged in the ledger", 90)

    def learned() -> bool:
        told = court.weights("acme")
        counts = [sum(arm.origins.values()) for arm in told.arms if arm.arm in TEXTS] if told is not None else []
        return bool(told is not None and told.words and min(counts) >= 90)

    until(learned, "a state that knows of it", 90)
    told = court.weights("acme")
    assert told is not None and {origin for arm in told.arms for origin in arm.origins} == {"judge"}
    assert court.means("acme")["flatterer"] < 0.25 < court.means("acme")["lawyer"], "its controls please as much"
    until(lambda: int(court.ask("auto", COURT)[1]["router"]) > 0, "decisions by it")
    until(
        lambda: (
            court.ask("auto", COURT)[1]["offer"].startswith("lawyer")
            and court.ask("auto", KITCHEN)[1]["offer"].startswith("cook")
        ),
        "decisions by what a judge said",
    )
    right = {"lawyer": COURT, "cook": KITCHEN}
    chosen = [court.ask("auto", words)[1]["offer"].startswith(name) for _ in range(20) for name, words in right.items()]
    assert sum(chosen) >= 34, f"{sum(chosen)} of {len(chosen)}"


def test_a_challenger_moves_a_model_that_is_never_chosen(court: Court) -> None:
    assert court.ask("auto", COURT, "globex")[1]["offer"].startswith("cook"), "by its prior"
    for _ in range(140):
        court.ask("auto", COURT, "globex")
        if court.means("globex").get("lawyer", 0) > court.means("globex").get("cook", 1):
            break

    def moved() -> bool:
        court.ask("auto", COURT, "globex")
        return court.ask("auto", COURT, "globex")[1]["offer"].startswith("lawyer")

    until(moved, "calls that go to it", 90)
    sent = court.entries("globex", "challenger_of")
    assert {leaf["where"]["model"] for leaf in sent} >= {"lawyer", "flatterer"}

    def both() -> bool:
        court.ask("auto", COURT, "globex")
        said = [leaf["result"].get("judged", {}) for leaf in court.entries("globex", "judge_against")]
        return {each.get("preferred") for each in said} >= {"challenger", "first"}

    until(both, "a challenger that lost, and one that won", 60)
    assert court.means("globex")["flatterer"] < court.means("globex")["lawyer"]


def test_a_call_that_may_not_leave_is_sent_to_no_judge_outside_nor_any_of_a_tenant_without_one(court: Court) -> None:
    body = {"messages": [{"role": "user", "content": f"court {SECRET}"}], "max_tokens": 8}
    for name in ("acme", "globex"):
        more = {"model": "auto", "interlock": {"data_class": "confidential"}}
        status, _, answer = court.post("/v1/chat/completions", {**body, **more}, name)
        assert status == 200, answer
    before = len(court.judge.calls)
    text = [{"role": "user", "content": f"court {UNJUDGED}"}]
    assert court.post("/v1/chat/completions", {"model": "lawyer", "messages": text}, "initech")[0] == 200
    court.ask("lawyer", COURT)
    until(lambda: len(court.judge.calls) > before, "a later call that is judged")
    assert not court.sent_to_judge(SECRET) and not court.sent_to_judge(UNJUDGED)
    assert not court.entries("initech", "judge_of") and not court.entries("initech", "challenger_of")


def test_they_are_calls_of_their_own_on_record_that_replay_and_are_nobodys(court: Court) -> None:
    judged, against = court.entries("acme", "judge_of")[-2:], court.entries("globex", "judge_against")[-1:]
    (of_globex,) = [leaf["request"] for leaf in court.entries("globex", "challenger_of")[-1:]]
    assert all(leaf["who"] == judged[0]["who"] and leaf["where"]["off_prem"] for leaf in judged)
    _replayed(court, [leaf["request"] for leaf in judged])
    admin = court.stack.admin()
    for request in (against[0]["request"], of_globex):
        found = admin.call("GET", f"/tenants/globex/ledger/calls/{request}/replay", why="a test")
        assert found["same"], found
    leaves = court.entries("acme", "judge_of")
    answers = (court.post("/v1/feedback", {"request_id": leaf["request"], "thumb": "up"}) for leaf in leaves)
    known = next((status, said) for status, _, said in answers if status != 202)  # 202: not known yet whose it is
    assert known[0] == 404 and known[1]["error"]["code"] == "call_not_found"
    usage = admin.call(
        "GET", "/tenants/acme/usage", query={"by": "class,team", "from": "2020-01-01", "to": "2099-01-01"}
    )
    rows = {(row["by"]["class"], row["by"]["team"]): row for row in usage["rows"]}
    assert rows["judge:wise", ""]["calls"] >= 330
    (budget,) = admin.call("GET", "/tenants/acme/budget-use")
    assert budget["name"] == "judging" and int(budget["used"]) > 0


def test_the_page_of_a_question_to_a_judge_leads_to_what_is_judged_and_has_the_verdict(court: Court) -> None:
    port = court.stack.ports["control"]
    password = "correct horse battery"
    court.stack.admin().call(
        "POST", "/tenants/globex/principals/alice/password", {"password": password}, reason="a test"
    )
    told, held = (
        next(leaf for leaf in court.entries("globex", "judge_of") if leaf["result"].get("judged", {}).get(field))
        for field in ("preferred", "control")
    )

    def page(method: str, path: str, body: str = "", cookie: str = "") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {
            "origin": f"http://127.0.0.1:{port}",
            "cookie": cookie,
            "content-type": "application/x-www-form-urlencoded",
        }
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                return response.status, response.getheader("set-cookie") or "", response.read().decode()
        finally:
            connection.close()

    status, cookies, _ = page("POST", "/console/sign-in", urlencode({"name": "globex/alice", "password": password}))
    assert status == 303
    cookie = cookies.partition(";")[0]
    for leaf, words in ((told, "answer is better"), (held, "beside a question that nobody asked")):
        status, _, text = page("GET", f"/console/calls/globex/{leaf['request']}", cookie=cookie)
        assert status == 200 and "Verdict of the judge" in text and words in text, text
        assert f"/console/calls/globex/{leaf['judge_of']}" in text and "agrees" in text
    text = page("GET", "/console/router?tenant=globex", cookie=cookie)[2]
    assert 'id="judges"' in text and "trusted, not examined yet" in text
    assert "comparisons with challengers" in text and "what the judge wise says" not in text, "it scores nothing here"
    assert (
        f"/console/calls/globex/{told['judge_against']}"
        in page("GET", f"/console/calls/globex/{told['request']}", cookie=cookie)[2]
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("nobody", "there is no model or alias 'nobody'"), ("stairs", "cascade"), ("no name", "no name of a model")],
)
def test_a_judge_that_cannot_be_seen_or_cannot_judge_is_refused_at_the_door(
    court: Court, name: str, words: str
) -> None:
    stairs = {
        "name": "stairs", "cascade": {"steps": [{"model": "cook"}, {"model": "lawyer"}], "checks": ["json"]}
    }  # fmt: skip
    document = {"tenants": [{"name": "initech", "aliases": [stairs], "judging": {"model": name}}]}
    files = [{"name": "test.json", "text": json.dumps(document)}]
    with pytest.raises(InterlockError) as refused:
        court.stack.admin().call("POST", "/apply", {"files": files}, reason="a test")
    assert words in str(refused.value) or words in json.dumps(getattr(refused.value, "errors", ""), default=str)
    assert not court.stack.admin().call("GET", "/tenants/initech")["judging"]


@pytest.mark.parametrize("of", ["initech", "brandnew"])
def test_a_plan_is_refused_for_the_judge_that_applying_it_is_refused_for(court: Court, of: str) -> None:
    def planned(judge: str) -> Any:
        document = {"tenants": [{"name": of, "judging": {"model": judge}}]}
        files = [{"name": "test.json", "text": json.dumps(document)}]
        return court.stack.admin().call("POST", "/plan", {"files": files})

    with pytest.raises(InterlockError, match="there is no model or alias 'nobody'"):
        planned("nobody")
    assert planned("wise")["changes"]
