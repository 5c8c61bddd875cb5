"""Feedback on answers, over two nodes and a real database: whose it is, once of a kind, what the ledger has of it."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.errors import LogError
from interlock.gateway.shipper import Shipper
from interlock.storage import feedback
from interlock.types.feedback import Quality
from interlock.types.identity import LimitSet, PrincipalKind, Recording
from interlock.types.record import Feedback, request_id
from tests.gateway import Who, WorkerHarness
from tests.integration.control_client import Running
from tests.integration.gateway.client import CHAT, Answer, ask, eventually
from tests.integration.ledger.harness import serving, shipper_for, told_until, verified
from tests.integration.ledger.scene import everything

SECRET = "the tenant of flat 12 has a rare disease"
AGENT = {"kind": PrincipalKind.agent, "scopes": ("infer", "assert-user"), "may_act_for": ("prn_acme_alice",)}
PEOPLE = [
    Who("alice"),
    Who("bob"),
    Who("carol", tenant="globex"),
    Who("bot", **AGENT),  # type: ignore[arg-type]
    Who("other-bot", **AGENT),  # type: ignore[arg-type]
    Who("quiet", team="discreet", recording=Recording.metadata),
    Who("slow", limits=LimitSet(requests_per_minute=3)),
]


class Nodes:
    """Two nodes with a worker each, their shippers, and the control process."""

    def __init__(self, running: Running, gateways: list[WorkerHarness], shippers: list[Shipper]) -> None:
        self.running, self.gateways, self.shippers = running, gateways, shippers
        self.store = running.control.store

    def say(self, who: str = "alice", node: int = 0, text: str = "hello", **headers: str) -> str:
        body = {**CHAT, "messages": [{"role": "user", "content": text}]}
        gateway = self.gateways[node]
        answer = ask(gateway, body, key=gateway.key(who), **headers)
        assert answer.status == 200, answer
        return answer.headers["x-interlock-request-id"]

    def give(self, request: str, who: str = "alice", node: int = 0, user: str = "", **said: Any) -> Answer:
        gateway = self.gateways[node]
        headers = {"x_interlock_assert_user": user} if user else {}
        body = {"request_id": request, **said}
        return ask(gateway, body, "/v1/feedback", key=gateway.key(who), **headers)

    def arrive(self, *nodes: int) -> None:
        """What these nodes (all, when none is named) have in their logs is in the ledger."""
        for number in nodes or range(len(self.shippers)):
            self.shippers[number].pass_once()
        self.running.control.sequencer.pass_once()

    def settled(self, *nodes: int) -> None:
        """As `arrive`, and the workers have said since that they told of every call."""
        for number in nodes or range(len(self.gateways)):
            told_until(self.gateways[number])
        self.arrive(*nodes)

    def rows(self, tenant: str = "ten_acme", since: int = -1) -> list[feedback.FeedbackRow]:
        with self.store.tenant(tenant) as conn:
            return feedback.read_since(conn, tenant, since, 100)

    def shown(self, request: str, *, content: bool = False) -> Any:
        query = "?content=true" if content else ""
        return self.running.owner.call("GET", f"/tenants/acme/ledger/calls/{request}{query}")[1]

    def entries(self, request: str) -> list[Any]:
        return [each["leaf"] for each in self.shown(request)["entries"]]


@pytest.fixture
def nodes(running: Running, tmp_path: Path, postgres_migrated_url: str) -> Iterator[Nodes]:
    running.owner.do("POST", "/roles", {"principal": "admin", "role": "payload_reader"})
    with ExitStack() as stack:
        gateways, shippers = [], []
        for name in ("north", "south"):
            home = tmp_path / name
            gateway, _ = stack.enter_context(serving(home, PEOPLE, database_url=postgres_migrated_url, node=name))
            gateways.append(gateway)
            shippers.append(shipper_for(running.control.store, home, name, ledger_checkpoint_s=0))
        yield Nodes(running, gateways, shippers)


def test_who_may_say_something_of_an_answer(nodes: Nodes) -> None:
    own, delegated = nodes.say(), nodes.say("bot", x_interlock_assert_user="alice")
    nodes.settled()
    unknown = [request_id(own.split("_")[1], 1 << 40 | 1), "req_0000000000000000_1", "req_nothing_1", "%00", "x" * 100]
    nothing = nodes.give(unknown[1], thumb="up")
    assert (nothing.status, nothing.error["code"]) == (404, "call_not_found")
    for who, user, node in (("bob", "", 0), ("carol", "", 1), ("bot", "", 0)):
        answer = nodes.give(own, who, node, user, thumb="up")
        assert (answer.status, answer.body) == (404, nothing.body.replace(unknown[1].encode(), own.encode()))
        assert set(answer.headers) == set(nothing.headers)
    for each in unknown[1:]:
        assert nodes.give(each, thumb="up").status == 404, each
    taken = nodes.give(own, node=1, thumb="up")
    assert (taken.status, taken.json["linked"], taken.json["kinds"]) == (200, True, ["thumb"])
    for answer in (
        nodes.give(own, "bot", user="alice", score=1),  # acts for whom the call was of
        nodes.give(delegated, "alice", thumb="down"),  # the delegator
        nodes.give(delegated, "bot", score=0.25),  # the principal
    ):
        assert answer.status == 200, answer
    assert nodes.give(delegated, "other-bot", thumb="up").status == 404
    nodes.arrive()
    rows = [(row.request, row.thumb, row.score_micro, row.reward_micro) for row in nodes.rows()]
    assert rows == [
        (own, None, 1_000_000, 1_000_000),
        (delegated, "down", None, 0),
        (delegated, None, 250_000, 250_000),
        (own, "up", None, 1_000_000),
    ]
    assert nodes.rows("ten_globex") == []


def test_each_kind_is_taken_once_and_the_same_again_is_no_change(nodes: Nodes) -> None:
    call = nodes.say()
    nodes.settled()
    first = nodes.give(call, thumb="up", reason="other")
    assert first.status == 200
    for node in (0, 1):
        assert nodes.give(call, node=node, thumb="up", reason="other").status == 200, "the same again"
        again = nodes.give(call, node=node, thumb="down")
        assert (again.status, again.error["code"], again.error["param"]) == (409, "feedback_given", "thumb")
        mixed = nodes.give(call, node=node, thumb="down", score=0.1)
        assert mixed.status == 409, "all of it or nothing"
    nodes.arrive()
    for node in (0, 1):
        assert nodes.give(call, node=node, thumb="up", reason="other").status == 200
        assert nodes.give(call, node=node, thumb="down").status == 409
    assert nodes.give(call, node=1, score=0.5).status == 200
    nodes.arrive()
    assert [(row.thumb, row.score_micro, row.reason) for row in nodes.rows()] == [
        ("up", None, "other"),
        (None, 500_000, None),
    ]
    assert len(nodes.gateways[0].records_of(Feedback)) == 2, "what counts is not recorded again"


def test_of_many_at_both_nodes_at_once_one_is_taken(nodes: Nodes) -> None:
    call = nodes.say()
    nodes.settled()
    found: list[tuple[int, float]] = []

    def give(number: int) -> None:
        found.append((nodes.give(call, node=number % 2, score=number / 10).status, number / 10))

    askers = [threading.Thread(target=give, args=(number,)) for number in range(10)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(status for status, _ in found) == [200] + [409] * 9
    ((_, score),) = [each for each in found if each[0] == 200]
    nodes.arrive()
    assert [row.score_micro for row in nodes.rows()] == [round(score * 1_000_000)]


@pytest.mark.parametrize("known", [True, False])
def test_a_fresh_call_is_accepted_and_found_when_it_comes(nodes: Nodes, known: bool) -> None:
    if known:
        nodes.settled()  # the call's epoch is known, not only its id
    call = nodes.say()
    early = nodes.give(call, node=1, thumb="down", corrected="better so")
    assert (early.status, early.json["linked"]) == (202, False)
    assert nodes.give(call, node=1, thumb="down", corrected="better so").status == 202
    assert nodes.give(call, "bob", node=1, thumb="up").status == 202, "nobody knows yet whose it is"
    nodes.arrive(1)
    assert nodes.rows() == [], "its call has not come"
    with nodes.store.sequencing() as conn:
        assert conn.execute("SELECT count(*) FROM interlock.feedback_waiting").fetchone() == (3,)
    nodes.arrive(0)
    (row,) = nodes.rows()
    assert (row.request, row.thumb, row.corrected, row.reward_micro, row.source, row.model) == (
        *(call, "down", True, 0, "s", "m"),
    )
    assert row.position == max(each["position"] for each in nodes.shown(call)["entries"])
    assert nodes.rows(since=row.position) == [], "nothing comes twice"
    assert nodes.give(call, node=1, thumb="down").status == 200, "the same as was accepted"
    assert nodes.give(call, node=1, thumb="up").status == 409
    view = nodes.shown(call, content=True)
    assert [each["counts"] for each in view["feedback"]] == [["corrected", "thumb"], [], []]
    assert view["contents"]["feedback"][0]["corrected"] == "better so"
    with nodes.store.sequencing() as conn:
        assert conn.execute("SELECT count(*) FROM interlock.feedback_waiting").fetchone() == (0,)


def test_whoever_reads_on_passes_nothing_over(nodes: Nodes) -> None:
    late, soon = nodes.say(node=0), nodes.say(node=1)
    nodes.give(late, node=1, thumb="up")
    nodes.give(soon, node=1, thumb="up")
    nodes.settled(1)
    first = nodes.rows()
    assert [row.request for row in first] == [soon], "that of the other waits, at a lower place of the tree"
    nodes.arrive(0)
    assert [row.request for row in nodes.rows(since=first[-1].position)] == [late]


def test_what_is_nobodys_counts_nowhere(nodes: Nodes) -> None:
    call = nodes.say()
    assert nodes.give(call, "bob", thumb="down").status == 202
    assert nodes.give(call, "carol", thumb="down").status == 202
    invented = request_id(call.split("_")[1], 1 << 40)
    assert nodes.give(invented, thumb="down").status == 202
    nodes.settled()
    assert nodes.rows() == nodes.rows("ten_globex") == []
    assert nodes.give(call, thumb="up").status == 200, "what others said takes nothing from it"
    with nodes.store.sequencing() as conn:
        (waits,) = conn.execute("SELECT count(*) FROM interlock.feedback_waiting").fetchone() or (0,)
        assert waits == 2, "carol's is in a tree of its own"
        assert feedback.forget(conn, time.time_ns(), 10, 100) == 2


def test_at_most_so_much_waits(nodes: Nodes) -> None:
    epoch = nodes.say().split("_")[1]
    for number in range(4):
        assert nodes.give(request_id(epoch, (1 << 40) + number), thumb="up").status == 202
    nodes.arrive()
    with nodes.store.sequencing() as conn:
        assert feedback.forget(conn, 0, 3, 100) == 1
        left = conn.execute("SELECT request FROM interlock.feedback_waiting ORDER BY entry").fetchall()
    assert [request.rpartition("_")[2] for (request,) in left] == ["10000000001", "10000000002", "10000000003"]


def test_nobody_is_told_that_it_was_taken_before_it_is_on_the_disk(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = nodes.say()
    nodes.settled()
    log, held = nodes.gateways[0].worker.record_log, list[Any]()
    answers: list[Answer] = []
    with monkeypatch.context() as patch:
        patch.setattr(log, "on_durable", lambda seq, then: held.append((seq, then)))
        for said in ({"thumb": "up"}, {"score": 1}):
            asker = threading.Thread(target=lambda said=said: answers.append(nodes.give(call, **said)))
            asker.start()
            eventually(lambda: held)
            time.sleep(0.2)
            assert answers == [], "its record may still be lost"
            _, then = held.pop()
            error = None if "thumb" in said else LogError("the disk is gone")
            nodes.gateways[0].call(lambda then=then, error=error: then(error))
            asker.join()
            assert answers.pop().status == (503 if error else 200)


def test_a_reservation_of_a_worker_that_died_before_it_recorded_is_freed(nodes: Nodes) -> None:
    call = nodes.say()
    nodes.settled()
    taken = nodes.give(call, thumb="up")
    epoch = taken.json["id"].split("_")[1]
    nodes.arrive()
    with psycopg.connect(nodes.store.url, autocommit=True) as conn:
        conn.execute("SELECT set_config('role', 'interlock_migrator', false)")
        conn.execute(
            "UPDATE interlock.call_feedback SET position = NULL, entry = NULL, at_ns = NULL, reward_micro = NULL,"
            " digest = 'x'"
        )
        assert nodes.give(call, node=1, thumb="down").status == 409, "its worker lives: it may still record it"
        conn.execute("UPDATE interlock.ledger_epochs SET whole = true, settled = 99 WHERE epoch = %s", (epoch,))
    assert nodes.give(call, node=1, thumb="down").status == 200
    nodes.arrive(1)
    assert [row.thumb for row in nodes.rows()] == ["down"]


def test_without_the_database_it_is_accepted(nodes: Nodes) -> None:
    call = nodes.say()
    nodes.settled()
    claimant, nodes.gateways[0].claimant = nodes.gateways[0].claimant, None
    assert nodes.give(call, thumb="up").status == 202
    assert nodes.give(call, "bob", thumb="down").status == 202
    nodes.gateways[0].claimant = claimant
    nodes.arrive()
    assert [row.thumb for row in nodes.rows()] == ["up"], "the ledger knows whose call it is"


def test_a_node_that_does_not_answer_is_not_waited_for(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    call = nodes.say()
    nodes.settled()
    monkeypatch.setattr(nodes.gateways[0], "_feedback", lambda _: True)
    began = time.monotonic()
    assert nodes.give(call, thumb="up").status == 202
    assert time.monotonic() - began > 0.9


def test_its_texts_are_the_persons_and_an_erasure_takes_them(nodes: Nodes, tmp_path: Path) -> None:
    call = nodes.say("bot", x_interlock_assert_user="alice")
    nodes.settled()
    assert nodes.give(call, "bot", corrected=SECRET, comment=f"{SECRET}, really").status == 200
    nodes.arrive()
    entry = nodes.entries(call)[1]
    assert entry["who"]["subject"] == "prn_acme_alice" and entry["who"]["principal"] == "prn_acme_bot"
    assert entry["feedback"] | {"id": ""} == {"id": "", "corrected": True, "comment": True, "status": 200}
    assert SECRET not in json.dumps(entry)
    assert nodes.shown(call, content=True)["contents"]["feedback"][0]["corrected"] == SECRET
    nodes.running.owner.do("POST", "/tenants/acme/ledger/erase", {"subject": "prn_acme_alice"})
    assert nodes.shown(call, content=True)["contents"]["feedback"] == [None]
    assert not any(SECRET in row for row in everything(nodes.store.url))
    with nodes.store.tenant("ten_acme") as conn:
        assert conn.execute("SELECT DISTINCT digest FROM interlock.call_feedback").fetchall() == [(b"",)]
    assert [row.corrected for row in nodes.rows()] == [True], "that there was one stays"
    until_ns = time.time_ns()
    nodes.settled()
    report = verified(nodes.running.control, "ten_acme", tmp_path / "export", until_ns)
    assert (report.verdict, report.problems) == ("complete", [])
    assert '"kind":"feedback"' in (tmp_path / "export" / "entries.jsonl").read_text()


@pytest.mark.parametrize("fresh", [False, True])
def test_where_no_contents_are_recorded_there_are_no_texts(nodes: Nodes, fresh: bool) -> None:
    calls = [nodes.say("quiet"), nodes.say("alice", x_interlock_recording="metadata")]
    if not fresh:
        nodes.settled()
    for call, who in zip(calls, ("quiet", "alice"), strict=True):
        answer = nodes.give(call, who, node=int(fresh), thumb="up", corrected=SECRET, comment=SECRET)
        assert answer.status == (202 if fresh else 200)
    records = [each for gateway in nodes.gateways for each in gateway.records_of(Feedback)]
    kept = [bool(each.text or each.comment) for each in records]
    assert kept == [False, fresh], "of a call that nobody knows yet nobody knows how it is recorded"
    nodes.arrive()
    nodes.running.control.sequencer.pass_once()
    assert [(row.thumb, row.corrected) for row in nodes.rows()] == [("up", True)] * 2
    for call in calls:
        assert all(each is None for each in nodes.shown(call, content=True)["contents"].get("feedback", ()))
    with nodes.store.sequencing() as conn:
        assert conn.execute("SELECT count(*) FROM interlock.feedback_waiting").fetchone() == (0,)


def test_texts_that_came_before_their_call_are_not_kept_under_another_persons_key(nodes: Nodes) -> None:
    call = nodes.say("bot", x_interlock_assert_user="alice")
    assert nodes.give(call, "bot", node=1, corrected=SECRET).status == 202
    nodes.arrive()
    assert nodes.entries(call)[1]["who"]["subject"] == "prn_acme_bot", "as far as was known then"
    nodes.running.control.sequencer.pass_once()
    assert nodes.shown(call, content=True)["contents"]["feedback"] == [None]
    assert [row.corrected for row in nodes.rows()] == [True]


def test_it_counts_on_limits_and_costs_nothing(nodes: Nodes) -> None:
    call = nodes.say("slow")
    nodes.settled()
    assert nodes.give(call, "slow", thumb="up").status == 200
    assert nodes.give(call, "slow", thumb="up").status == 200
    refused = nodes.give(call, "slow", thumb="up")
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    nodes.arrive()
    usage = nodes.running.owner.get("/tenants/acme/usage?from=2020-01-01&to=2099-01-01&by=model")
    assert usage["total"]["calls"] == 1


def test_what_is_no_feedback_is_refused_at_the_door(nodes: Nodes) -> None:
    call = nodes.say()
    for said, param in (
        ({}, "thumb"),
        ({"thumb": "sideways"}, "thumb"),
        ({"score": 1.5}, "score"),
        ({"thumb": "up", "score": 0.1}, "score"),
        ({"thumb": "up", "stars": 5}, "stars"),
        ({"thumb": "up", "comment": "x" * 5000}, "comment"),
    ):
        answer = nodes.give(call, **said)
        assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)
    gateway = nodes.gateways[0]
    assert ask(gateway, {}, "/v1/feedback", key="").status == 401
    assert ask(gateway, None, "/v1/feedback", method="GET").status == 405
    assert gateway.records_of(Feedback) == []


def test_reports_have_the_quality_where_somebody_said_something(nodes: Nodes) -> None:
    calls = [nodes.say() for _ in range(4)]
    nodes.settled()
    for call, said in zip(calls, ({"thumb": "up"}, {"thumb": "down"}, {"corrected": "so"}, {}), strict=True):
        if said:
            assert nodes.give(call, **said).status == 200
    assert nodes.give(calls[1], score=0.25).status == 200, "a score is finer than the thumb before"
    nodes.arrive()
    nodes.say("bob")
    nodes.arrive()
    found = nodes.running.owner.get("/tenants/acme/usage?from=2020-01-01&to=2099-01-01&by=principal,model")
    by = {row["by"]["principal"]: row for row in found["rows"]}
    alice, bob = by["prn_acme_alice"], by["prn_acme_bob"]
    assert bob["quality"] is None, "absent stays absent"
    assert alice["quality"] | {"low_micro": 0, "high_micro": 0} == {
        "source": "feedback",
        "calls": 2,
        "mean_micro": 625_000,
        "low_micro": 0,
        "high_micro": 0,
    }
    assert alice["quality"]["low_micro"] < 625_000 < alice["quality"]["high_micro"]
    today = datetime.datetime.now(datetime.UTC).date()
    until = today + datetime.timedelta(days=1)
    with nodes.store.tenant("ten_acme") as conn:
        ((model, quality),) = feedback.summary(conn, "ten_acme", today - datetime.timedelta(days=1), until)
    assert model == ("m",) and isinstance(quality, Quality) and quality[:2] == (2, 625_000)


def test_metrics_count_it(nodes: Nodes) -> None:
    call = nodes.say()
    nodes.settled()
    nodes.give(call, thumb="up", score=1)
    nodes.give(call, "bob", thumb="up")

    def told() -> str:
        return ask(nodes.gateways[0], None, "/metrics", method="GET").body.decode()

    for line in (
        'interlock_feedback_total{kind="thumb",outcome="linked"} 1',
        'interlock_feedback_total{kind="score",outcome="linked"} 1',
        'interlock_feedback_total{kind="thumb",outcome="call_not_found"} 1',
    ):
        eventually(lambda line=line: line in told())


def test_a_call_that_waits_for_its_record_keeps_later_ids_open(nodes: Nodes) -> None:
    gateway = nodes.gateways[0]
    gateway.keys_answered = False
    body = {**CHAT, "messages": [{"role": "user", "content": "waits"}]}
    waiter = threading.Thread(target=lambda: ask(gateway, body, idempotency_key="waits"))
    waiter.start()
    eventually(lambda: gateway.worker.runtime and gateway.worker.runtime.waiting)
    call = nodes.say()
    number = int(call.rpartition("_")[2], 16)
    assert gateway.worker.runtime is not None
    assert gateway.worker.runtime.calls_recorded() < number - 1
    nodes.settled()
    assert nodes.give(call, "bob", thumb="up").status == 202, "one with a smaller number may still come"
    assert nodes.give(call, thumb="up").status == 200
    gateway.call(lambda: [each.end(LogError("over")) for each in list(gateway.worker.runtime.waiting)])  # type: ignore[union-attr]
    waiter.join()
    nodes.settled()
    assert nodes.give(call, "bob", thumb="up").status == 404
