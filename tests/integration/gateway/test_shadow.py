"""A shadow through a whole worker: what it is sent, what its caller sees, what is recorded and charged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from interlock.routing.canary import SHADOW
from interlock.routing.resolve import resolve
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Script
from interlock.types.budget import Budget
from interlock.types.identity import DataClass, LimitSet
from interlock.types.record import Attempt, Intent, Outcome
from interlock.types.snapshot import Alias, AliasTarget, Shadow
from interlock.types.source import Labels, Price, SourceLimits
from tests.gateway import Who, WorkerHarness, World, model, source, template
from tests.integration.gateway.client import CHAT, ask, connected, eventually, raw_request, serving, when
from tests.integration.gateway.test_workloads import Doors, said, say, waiting

BODY = {**CHAT, "model": "a"}
STREAM = {**BODY, "stream": True}
PRICE = Price(input_nusd_per_mtok=1_000_000_000, output_nusd_per_mtok=1_000_000_000)


def world(share: int = 1000, new: dict[str, Any] | None = None, **more: Any) -> Callable[[str], World]:
    alias = Alias("a", targets=(AliasTarget("old"),), shadow=Shadow(AliasTarget("new"), share))

    def build(url: str) -> World:
        sources = [source("s", url, model("old")), source("t", url, model("new", **(new or {})))]
        return World(sources, aliases=[alias], **more)

    return build


def engine_of(script: Script, first: Script | None = None) -> ScriptedEngine:
    good = first or answers.answer("one two three four")
    return ScriptedEngine(models=("old", "new"), default=lambda r: (script if r.json["model"] == "new" else good)(r))


def sent(engine: ScriptedEngine, name: str = "new") -> int:
    return sum(1 for received in engine.calls if received.json.get("model") == name)


def settled(gateway: WorkerHarness) -> None:
    eventually(lambda: not gateway.worker.runtime.shadows and not gateway.worker.runtime.runs)  # type: ignore[union-attr]


def shadows(gateway: WorkerHarness) -> list[tuple[Intent, Outcome]]:
    ends = {outcome.call: outcome for outcome in gateway.records_of(Outcome)}
    return [(i, ends[i.call]) for i in gateway.records_of(Intent) if i.shadow_of]


def dropped(gateway: WorkerHarness, reason: str) -> int:
    text = ask(gateway, path="/metrics", method="GET", key="").body.decode()
    name = f'interlock_shadows_dropped_total{{reason="{reason}"}}'
    return next((int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(name)), 0)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_a_shadow_is_a_call_of_its_own_that_its_caller_does_not_see(body: dict[str, Any]) -> None:
    with serving(world(), engine_of(answers.answer("one two five"))) as (gateway, engine):
        answer = ask(gateway, body)
        assert answer.status == 200 and b"five" not in answer.body and b"four" in answer.body
        settled(gateway)
        assert (sent(engine, "old"), sent(engine)) == (1, 1)
        ((intent, outcome),) = shadows(gateway)
        assert intent.shadow_of == answer.headers["x-interlock-request-id"]
        assert intent.target.canary == SHADOW and intent.target.model == "new"
        compared = outcome.compared
        assert compared is not None and outcome.state == "completed"
        assert (compared.equal, compared.similarity_milli) == (False, 571)
        assert (compared.first_chars, compared.chars) == (len("one two three four"), len("one two five"))
        assert compared.finish_equal and not compared.json
        (attempt,) = [a for a in gateway.records_of(Attempt) if a.call == intent.call]
        assert attempt.model == "new"
        again = resolve(
            "a", gateway.view.catalog("ten_acme"), now_s=0, seed=intent.route.seed, canary_state=intent.target.canary
        )
        assert again == intent.target
        assert [o.compared for o in gateway.records_of(Outcome) if o.call != intent.call] == [None]


def test_its_record_comes_before_anything_goes_up() -> None:
    off_prem = Labels(region="eu", on_prem=False)
    seen: list[int] = []

    def build(url: str) -> World:
        made = world()(url)
        made.sources[1] = source("t", url, model("new"), labels=off_prem)
        return made

    def script(received: Any) -> Any:
        seen.append(sum(1 for a in gateway.records_of(Attempt) if a.model == "new" and a.off_prem))
        return answers.answer()(received)

    with serving(build, engine_of(script)) as (gateway, _engine):
        ask(gateway, BODY)
        settled(gateway)
        assert seen == [1]


def test_it_delays_nobody_and_is_dropped_when_there_is_no_room() -> None:
    with serving(world(), engine_of(faults.never_answers()), shadows_max=2) as (gateway, engine):
        for _ in range(10):
            assert ask(gateway, BODY).status == 200
        eventually(lambda: sent(engine) == 2)
        assert sent(engine, "old") == 10
        eventually(lambda: dropped(gateway, "saturated") == 8)


@pytest.mark.parametrize("on_prem", [True, False])
def test_a_caller_gets_the_seat_before_it(on_prem: bool) -> None:
    """The shadow's source has one seat, and it is taken: the shadow waits, and whoever comes later is served first."""
    doors = Doors()

    def build(url: str) -> World:
        made = world()(url)
        labels, limits = Labels(region="eu", on_prem=on_prem), SourceLimits(concurrency=1)
        made.sources[1] = source("t", url, model("new"), labels=labels, limits=limits)
        return made

    with serving(build, engine_of(doors.script())) as (gateway, engine), ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, gateway, {**say("hold"), "model": "new"})
        eventually(lambda: sent(engine) == 1)
        assert ask(gateway, {**say("both"), "model": "a"}).status == 200
        eventually(lambda: waiting(gateway) == 1)
        second = pool.submit(ask, gateway, {**say("mine"), "model": "new"})
        eventually(lambda: waiting(gateway) == 2)
        doors.open.set()
        assert first.result(20).status == second.result(20).status == 200
        settled(gateway)
        assert [said(r) for r in engine.calls if r.json["model"] == "new"] == ["hold", "mine", "both"]
        ((_, outcome),) = shadows(gateway)
        assert outcome.state == "completed"


def test_a_share_is_a_share_and_embeddings_have_no_shadow() -> None:
    with serving(world(300), engine_of(answers.answer())) as (gateway, engine):
        for _ in range(60):
            ask(gateway, BODY)
        settled(gateway)
        assert 5 <= sent(engine) <= 35
    with serving(world(), engine_of(answers.answer())) as (gateway, engine):
        assert ask(gateway, {"model": "a", "input": "x"}, "/v1/embeddings").status == 200
        assert ask(gateway, BODY, idempotency_key="k").status == 200
        settled(gateway)
        assert sent(engine) == 0 and sent(engine, "old") == 2


def test_policy_and_data_class_hold_for_it() -> None:
    only_old = template("team-models", "team-may-use-models", "ten_acme", team="research", models=["old"])
    with serving(world(policies=[only_old]), engine_of(answers.answer())) as (gateway, engine):
        assert ask(gateway, BODY).status == 200
        settled(gateway)
        assert sent(engine) == 0 and not shadows(gateway)

    def classed(url: str) -> World:
        made = world()(url)
        labels = Labels(region="eu", on_prem=True, data_class_max=DataClass.internal)
        made.sources[1] = source("t", url, model("new"), labels=labels)
        return made

    with serving(classed, engine_of(answers.answer())) as (gateway, engine):
        assert ask(gateway, BODY, x_interlock_data_class="confidential").status == 200
        settled(gateway)
        assert sent(engine) == 0
        assert ask(gateway, BODY).status == 200
        settled(gateway)
        assert sent(engine) == 1


def test_what_fails_at_the_shadow_touches_neither_caller_nor_source() -> None:
    def one_source(url: str) -> World:
        made = world()(url)
        made.sources = [source("s", url, model("old"), model("new"))]
        return made

    with serving(one_source, engine_of(answers.error(500)), breaker_failures=1, breaker_open_ms=60_000) as (
        gateway,
        engine,
    ):
        for _ in range(6):
            assert ask(gateway, BODY).status == 200
            settled(gateway)
        assert sent(engine) == 6
        assert {outcome.state for _, outcome in shadows(gateway)} == {"failed"}
        row = gateway.board.row("src_s")
        assert gateway.board.breaker_state(row, 0) == "closed"


def test_a_call_that_failed_or_whose_caller_left_has_no_shadow() -> None:
    with serving(world(), engine_of(answers.answer(), answers.error(500))) as (gateway, engine):
        assert ask(gateway, BODY).status == 502
        settled(gateway)
        assert sent(engine) == 0
    with serving(world(), engine_of(answers.answer(), faults.never_answers())) as (gateway, engine):
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, BODY))
            eventually(lambda: sent(engine, "old") == 1)
        settled(gateway)
        assert sent(engine) == 0


def test_without_a_budget_of_its_own_it_goes_only_where_that_is_free() -> None:
    with serving(world(new={"price": PRICE}), engine_of(answers.answer())) as (gateway, engine):
        assert ask(gateway, BODY).status == 200
        settled(gateway)
        assert sent(engine) == 0
        eventually(lambda: dropped(gateway, "no_budget") == 1)


def test_it_counts_on_its_own_budget_and_on_nothing_of_its_callers() -> None:
    mine = Budget("bdg_mine", "ten_acme", "mine", "principal", ("prn_acme_alice",), "calls", 100)
    its = Budget("bdg_shadow", "ten_acme", "its", "shadow", ("a",), "calls", 2)
    whole = Budget("bdg_whole", "ten_acme", "whole", "tenant", ("ten_acme",), "calls", 100)
    people = [Who(limits=LimitSet(requests_per_minute=4))]
    made = world(new={"price": PRICE}, budgets=[mine, its, whole], people=people)
    with serving(made, engine_of(answers.answer())) as (gateway, engine):
        gateway.purse = {"bdg_mine": 100, "bdg_shadow": 2, "bdg_whole": 100}
        for _ in range(4):
            assert ask(gateway, BODY).status == 200, "limits are not touched by shadows"
            settled(gateway)
        assert sent(engine) == 2 and sent(engine, "old") == 4
        assert [[c.budget for c in i.charges] for i, _ in shadows(gateway)] == [["bdg_shadow", "bdg_whole"]] * 2
        assert [o.charged for _, o in shadows(gateway)] == [(1, 1)] * 2
        eventually(lambda: dropped(gateway, "budget_exceeded") == 2)
        assert ask(gateway, BODY).status == 429


def test_an_answer_that_is_too_large_is_not_compared() -> None:
    long = answers.answer("word " * 2000)
    with serving(world(), engine_of(long), shadow_answer_bytes_max=4096) as (gateway, _engine):
        assert ask(gateway, BODY).status == 200
        settled(gateway)
        ((_, outcome),) = shadows(gateway)
        assert outcome.state == "completed" and outcome.compared is None
    with serving(world(), engine_of(answers.answer(), long), shadow_answer_bytes_max=4096) as (gateway, engine):
        assert ask(gateway, STREAM).status == 200
        settled(gateway)
        assert sent(engine) == 0
        eventually(lambda: dropped(gateway, "answer_too_large") == 1)


def test_a_snapshot_without_the_shadow_ends_it_at_once() -> None:
    changed = threading.Event()
    with serving(world(), engine_of(answers.answer(), when(changed, answers.answer()))) as (gateway, engine):
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, BODY))
            eventually(lambda: sent(engine, "old") == 1)
            gateway.world.aliases = [Alias("a", targets=(AliasTarget("old"),))]
            gateway.change(gateway.world)
            changed.set()
            eventually(lambda: len(gateway.records_of(Outcome)) == 1)
            settled(gateway)
        assert sent(engine) == 0
        eventually(lambda: dropped(gateway, "changed") == 1)
