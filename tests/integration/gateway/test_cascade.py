"""A cascade through a whole worker: what is tried, held, given, recorded and charged."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from interlock.control.learning.samples import told_of, verdicts_of
from interlock.ledger.entry import call_entry, encode_leaf
from interlock.ledger.proof import shape
from interlock.ledger.reader import epochs, find_call
from interlock.ledger.recovery import recover
from interlock.ledger.vault import SubjectKey
from interlock.routing.explain import explain_call
from interlock.routing.replay import replay
from interlock.testing import answers, faults
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Received, Script, http, steps
from interlock.types.budget import Budget
from interlock.types.clock import SystemClock
from interlock.types.record import Attempt, AttemptEnd, Intent, Outcome, Refusal, StepEnd, request_id
from interlock.types.snapshot import Alias, Cascade, CascadeStep
from interlock.types.source import Labels, Price, SourceKind
from tests.fault.gateway.test_record_first import SHORT_S, Disk, calling, disk
from tests.gateway import WorkerHarness, World, model, source, template
from tests.integration.gateway.client import CHAT, WAIT_S, ask, connected, events, eventually, raw_request, serving
from tests.integration.gateway.test_budgets import purse
from tests.unit.ledger.support import open_log, run

__all__ = ["disk"]

BODY = {**CHAT, "model": "a", "max_tokens": 5}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
GOOD, BAD = '{"a": 1}', "no JSON at all"
CHEAP = Price(10**9, 10**9, 2 * 10**9)
DEAR = Price(10**10, 10**10, 2 * 10**10)
MODELS = ("one", "two", "three")
Build = Callable[[str], World]


def world(
    *steps: str,
    checks: tuple[str, ...] = ("json",),
    labels: Labels | None = None,
    given: dict[str, Any] | None = None,
    **more: Any,
) -> Build:
    cascade = Cascade(tuple(CascadeStep(step) for step in steps or MODELS[:2]), checks, **(given or {}))
    alias = Alias("a", cascade=cascade)

    def build(url: str) -> World:
        prices = {"one": CHEAP, "two": DEAR, "three": DEAR}
        sources = [
            source(f"s-{name}", url, model(name, price=prices[name]), **({"labels": labels} if labels else {}))
            for name in MODELS
        ]
        return World(sources, aliases=[alias], **more)

    return build


def engine_of(**scripts: Script) -> ScriptedEngine:
    """By model, how it answers; otherwise with JSON."""
    fine = answers.answer(GOOD)
    return ScriptedEngine(models=MODELS, default=lambda r: scripts.get(r.json["model"], fine)(r))


def said(answer: Any) -> str:
    text: str = json.loads(answer.body)["choices"][0]["message"]["content"]
    return text


def asked(engine: ScriptedEngine) -> list[str]:
    return [received.json["model"] for received in engine.calls]


def steps_of(gateway: WorkerHarness) -> list[StepEnd]:
    return gateway.records_of(StepEnd)


def test_an_answer_that_passes_is_given_and_nothing_else_is_asked() -> None:
    with serving(world(), engine_of()) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and said(answer) == GOOD
        assert asked(engine) == ["one"]
        assert answer.headers["x-interlock-cascade"] == "step=1/2; checks=json:passed"
        (step,) = steps_of(gateway)
        (outcome,) = gateway.records_of(Outcome)
        assert (step.step, step.passed, step.checks, step.body) == (0, True, ("json:passed",), b"")
        assert outcome.stop == "passed" and outcome.cost == step.cost and outcome.usage == step.usage


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_an_answer_that_does_not_pass_is_never_seen_and_the_next_step_is_asked(body: dict[str, Any]) -> None:
    with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, engine):
        answer = ask(gateway, body)
        assert answer.status == 200 and b"no JSON" not in answer.body and b"no JSON" not in str(answer.headers).encode()
        assert asked(engine) == ["one", "two"]
        first, second = steps_of(gateway)
        (outcome,) = gateway.records_of(Outcome)
        assert (first.model, first.passed, first.checks) == ("one", False, ("json:failed",))
        assert BAD.encode() in first.body
        assert outcome.model == "two" and outcome.attempt == 1
        assert outcome.cost.nusd == first.cost.nusd + second.cost.nusd and first.cost.nusd > 0 < second.cost.nusd
        assert outcome.usage.total_tokens == first.usage.total_tokens + second.usage.total_tokens
        if "stream" in body:
            assert answer.headers["x-interlock-cascade"] == "step=2/2; checks=json:failed"
            assert [e["choices"] for e in events(answer.body)[:-1]][-1] == []
            assert outcome.stop == "passed" and second.checks == ("json:passed",)
        else:
            assert said(answer) == GOOD
            assert answer.headers["x-interlock-cascade"] == "step=2/2; checks=json:failed,json:passed"
            assert outcome.stop == "passed" and second.checks == ("json:passed",)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_metrics_count_what_a_step_took_on_its_own_model(body: dict[str, Any]) -> None:
    with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, _):
        for _ in range(2):
            assert ask(gateway, body).status == 200
        wanted = {'interlock_requests_total{operation="chat",outcome="completed"} 2'}
        for name in MODELS[:2]:
            steps = [step for step in steps_of(gateway) if step.model == name]
            offer = f'source="s-{name}",model="{name}"'
            wanted |= {
                f"interlock_cost_nusd_total{{{offer}}} {sum(step.cost.nusd for step in steps)}",
                f'interlock_tokens_total{{{offer},kind="prompt"}} {sum(step.usage.prompt_tokens for step in steps)}',
                f'interlock_attempts_total{{source="s-{name}",outcome="ok"}} {len(steps)}',
            }
        eventually(lambda: wanted <= set(ask(gateway, path="/metrics", method="GET", key="").body.decode().split("\n")))


def test_a_held_step_of_a_stream_is_given_as_a_stream() -> None:
    with serving(world(), engine_of()) as (gateway, engine):
        answer = ask(gateway, STREAM)
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer.body)[:-1]
        text = "".join(c["delta"].get("content", "") for e in told for c in e["choices"])
        assert text == GOOD and told[-1]["usage"]["total_tokens"] > 0 and answer.body.endswith(b"data: [DONE]\n\n")
        assert "stream" not in engine.calls[0].json and "stream_options" not in engine.calls[0].json
        assert answer.headers["x-interlock-cascade"] == "step=1/2; checks=json:passed"


def test_each_step_has_its_record_before_anything_goes_up() -> None:
    seen: list[tuple[int, int]] = []

    def script(text: str) -> Script:
        def run(received: Received) -> Any:
            seen.append((len(gateway.records_of(Attempt)), len(steps_of(gateway))))
            return answers.answer(text)(received)

        return run

    off_prem = Labels(region="eu", on_prem=False)
    engine = engine_of(one=script(BAD), two=script(BAD), three=script(GOOD))
    with serving(world(*MODELS, labels=off_prem), engine) as (gateway, _):
        assert ask(gateway, BODY).status == 200
        assert seen == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_a_second_step_goes_to_an_outside_source_when_its_record_is_durable(disk: Disk, body: dict[str, Any]) -> None:
    def holds(received: Received) -> Any:
        disk.hold()
        return answers.answer(BAD)(received)

    engine = engine_of(one=holds)
    with serving(world(labels=Labels(region="eu", on_prem=False)), engine) as (gateway, _):
        with calling(gateway, body) as found:
            assert disk.waiting.wait(WAIT_S)
            time.sleep(SHORT_S)
            assert asked(engine) == ["one"] and not found
            disk.let_go()
            eventually(lambda: found)
        assert found[0].status == 200 and asked(engine) == ["one", "two"]


def test_the_decision_replays() -> None:
    with serving(world(*MODELS), engine_of(one=answers.answer(BAD))) as (gateway, _):
        ask(gateway, BODY)
        (intent,) = gateway.records_of(Intent)
        assert [c.offer for c in intent.route.candidates] == ["s-one::one", "s-two::two", "s-three::three"]
        assert replay(intent, gateway.view.catalog("ten_acme").by_key).differences == ()
        told = explain_call(intent, steps_of(gateway))
        assert "of a later step" in told.order[1] and told.tried[0].startswith("step 1 in attempt 0: json:failed, ")


def test_a_step_that_policy_does_not_allow_is_left_out() -> None:
    policies = [template("team-models", "team-may-use-models", "ten_acme", team="research", models=["one", "three"])]
    with serving(world(*MODELS, policies=policies), engine_of(one=answers.answer(BAD))) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and asked(engine) == ["one", "three"]
        assert answer.headers["x-interlock-cascade"] == "step=3/3; checks=json:failed,json:passed"
        (intent,) = gateway.records_of(Intent)
        assert [c.offer for c in intent.route.candidates] == ["s-one::one", "s-three::three"]


def test_a_step_fails_over_and_then_the_next_one_is_tried() -> None:
    with serving(world(), engine_of(one=answers.error(500))) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and asked(engine) == ["one", "two"]
        assert [e.code for e in gateway.records_of(AttemptEnd)] == ["upstream_error"]
        assert [s.step for s in steps_of(gateway)] == [1]


def test_what_there_is_is_given_when_the_next_step_fails() -> None:
    with serving(world(), engine_of(one=answers.answer(BAD), two=answers.error(500))) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and said(answer) == BAD and asked(engine) == ["one", "two"]
        assert answer.headers["x-interlock-cascade"] == "step=1/2; checks=json:failed; stop=failed"
        (outcome,) = gateway.records_of(Outcome)
        assert (outcome.model, outcome.attempt, outcome.stop, outcome.state) == ("one", 0, "failed", "completed")


@pytest.mark.parametrize(("most", "models"), [(800_000, ["one"]), (2_000_000, ["one", "two"])])
def test_money_stops_it(most: int, models: list[str]) -> None:
    with serving(world(given={"money_nusd_max": most}), engine_of(one=answers.answer(BAD))) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and asked(engine) == models
        (outcome,) = gateway.records_of(Outcome)
        assert steps_of(gateway)[0].cost.nusd < most and outcome.cost.nusd <= most
        if len(models) == 1:
            assert said(answer) == BAD
            assert answer.headers["x-interlock-cascade"] == "step=1/2; checks=json:failed; stop=money"


def test_time_stops_it() -> None:
    given = {"time_ms_max": 300}
    slow = engine_of(one=answers.answer(BAD), two=faults.never_answers())
    with serving(world(given=given), slow) as (
        gateway,
        engine,
    ):
        answer = ask(gateway, BODY)
        assert said(answer) == BAD and asked(engine) == ["one", "two"]
        first, second = steps_of(gateway)
        assert (second.code, second.usage.origin) == ("time", "reserved")
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.stop == "time" and outcome.cost.nusd == first.cost.nusd + second.cost.nusd


def test_what_is_too_large_to_be_held_is_not_given() -> None:
    engine = engine_of(one=answers.answer("x" * 5000))
    with serving(world(), engine, cascade_answer_bytes_max=2048) as (gateway, _):
        answer = ask(gateway, BODY)
        assert said(answer) == GOOD
        assert [e.code for e in gateway.records_of(AttemptEnd)] == ["upstream_too_large"]


def limited(measure: str, amount: int, kind: str = "tenant", on: str = "ten_acme") -> Budget:
    return Budget(f"bdg_{measure}_{kind}_{on}", "ten_acme", f"{kind} {measure}", kind, (on,), measure, amount)


@pytest.mark.parametrize("last", [answers.answer(GOOD), answers.error(500)], ids=["answers", "fails"])
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_budgets_are_charged_for_every_step_and_reserved_for_all(body: dict[str, Any], last: Script) -> None:
    budgets = [
        limited("nusd", 10**9),
        limited("tokens", 10**6),
        limited("calls", 10),
        limited("nusd", 10**9, "model", "one"),
        limited("nusd", 10**9, "model", "two"),
    ]
    with serving(world(budgets=budgets), engine_of(one=answers.answer(BAD), two=last)) as (gateway, _):
        purse(gateway)
        assert ask(gateway, body).status == 200
        (intent,) = gateway.records_of(Intent)
        (outcome,) = gateway.records_of(Outcome)
        first, *more = steps_of(gateway)
        costs = [first.cost.nusd, sum(step.cost.nusd for step in more)]
        assert costs[0] > 0 and (costs[1] > 0) == (len(more) == 1)
        reserved = {c.budget: c.reserved for c in intent.charges}
        charged = dict(zip([c.budget for c in intent.charges], outcome.charged, strict=True))
        assert charged == {
            "bdg_nusd_tenant_ten_acme": sum(costs),
            "bdg_tokens_tenant_ten_acme": sum(step.usage.total_tokens for step in (first, *more)),
            "bdg_calls_tenant_ten_acme": 1,
            "bdg_nusd_model_one": costs[0],
            "bdg_nusd_model_two": costs[1],
        }
        assert reserved["bdg_nusd_tenant_ten_acme"] == reserved["bdg_nusd_model_one"] + reserved["bdg_nusd_model_two"]
        bounds = [attempt.reserved.nusd for attempt in gateway.records_of(Attempt)]
        assert reserved["bdg_nusd_tenant_ten_acme"] == sum(bounds)
        assert reserved["bdg_calls_tenant_ten_acme"] == 1
        assert all(charged[budget] <= reserved[budget] for budget in charged)


def test_a_budget_that_is_too_small_for_all_steps_leaves_the_dearest_out() -> None:
    with serving(world(budgets=[limited("nusd", 200_000)]), engine_of(one=answers.answer(BAD))) as (gateway, engine):
        purse(gateway)
        answer = ask(gateway, BODY)
        (intent,) = gateway.records_of(Intent)
        assert answer.status == 200 and said(answer) == BAD and asked(engine) == ["one"], intent.charges
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.stop == "last" and outcome.charged[0] == steps_of(gateway)[0].cost.nusd


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
def test_a_caller_who_leaves_stops_it_and_is_charged_for_what_ran(body: dict[str, Any]) -> None:
    slow = engine_of(one=answers.answer(BAD), two=faults.never_answers())
    with serving(world(*MODELS, budgets=[limited("nusd", 10**9)]), slow) as (gateway, engine):
        purse(gateway)
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, body))
            eventually(lambda: asked(engine) == ["one", "two"])
        eventually(lambda: len(gateway.records_of(Outcome)) == 1)
        (outcome,) = gateway.records_of(Outcome)
        first, second = gateway.records_of(Attempt)
        (step,) = steps_of(gateway)
        assert outcome.state == "disconnected" and outcome.usage.origin == "reserved"
        assert outcome.charged == (step.cost.nusd + second.reserved.nusd,) == (outcome.cost.nusd,)
        assert asked(engine) == ["one", "two"] and first.number == step.attempt


def test_a_kept_open_stream_gets_its_answer_behind_comments() -> None:
    slow = engine_of(one=answers.answer(GOOD, delay_ms=900))
    with serving(world(), slow, keepalive_comment_ms=100) as (gateway, _):
        answer = ask(gateway, STREAM)
        assert answer.status == 200 and answer.body.startswith(b":")
        text = "".join(c["delta"].get("content", "") for e in events(answer.body)[:-1] for c in e["choices"])
        assert text == GOOD


def test_confidence_is_asked_of_sources_that_can_tell_it_and_is_not_shown() -> None:
    told = {"content": [{"token": "x", "logprob": -2.0, "bytes": None, "top_logprobs": []}]}

    def with_logprobs(received: Received) -> Any:
        message = {"role": "assistant", "content": "sure"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        if received.json.get("logprobs"):
            choice["logprobs"] = told
        return answers.page({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})(received)

    for least, models in ((100, ["one"]), (200, ["one", "two"])):
        given = {"confidence_min_milli": least}

        def build(url: str, given: dict[str, Any] = given) -> World:
            made = world(checks=("confidence",), given=given)(url)
            made.sources[0] = source("s-one", url, model("one", abilities=("chat", "logprobs")))
            return made

        with serving(build, engine_of(one=with_logprobs, two=with_logprobs)) as (gateway, engine):
            answer = ask(gateway, BODY)
            assert answer.status == 200 and b"logprobs" not in answer.body and asked(engine) == models
            assert engine.calls[0].json["logprobs"] is True and all("logprobs" not in c.json for c in engine.calls[1:])
            verdict = "passed" if len(models) == 1 else "failed"
            assert steps_of(gateway)[0].checks == (f"confidence:{verdict}",)


def test_a_source_that_tells_no_confidence_is_not_passed() -> None:
    def build(url: str) -> World:
        made = world(checks=("confidence",), given={"confidence_min_milli": 1})(url)
        made.sources[:2] = [source(f"s-{name}", url, model(name, abilities=("chat",))) for name in ("one", "two")]
        return made

    with serving(build, engine_of()) as (gateway, engine):
        assert ask(gateway, BODY).status == 200 and asked(engine) == ["one", "two"]
        assert "logprobs" not in engine.calls[0].json
        assert [(step.checks, step.passed) for step in steps_of(gateway)] == [
            (("confidence:unknown",), False),
            ((), False),
        ]


def test_no_content_is_kept_of_a_call_that_keeps_none() -> None:
    with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, _):
        body = {**BODY, "interlock": {"recording": "metadata"}}
        assert ask(gateway, body).status == 200
        assert [step.body for step in steps_of(gateway)] == [b"", b""]
        assert steps_of(gateway)[0].checks == ("json:failed",)


def test_embeddings_do_not_cascade() -> None:
    with serving(world(), engine_of()) as (gateway, engine):
        answer = ask(gateway, {"model": "a", "input": "x"}, path="/v1/embeddings")
        intents = gateway.records_of(Intent)
        assert not steps_of(gateway) and (not intents or intents[0].target.model == "one"), answer
        refusals = gateway.records_of(Refusal)
        assert all(r.target is not None and r.target.model == "one" and not r.target.steps for r in refusals)
        assert intents or refusals
        assert "two" not in asked(engine)


def test_messages_of_anthropics_dialect_cascade() -> None:
    body = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, engine):
            answer = ask(gateway, {**body, "stream": stream}, path="/v1/messages")
            assert answer.status == 200 and b"no JSON" not in answer.body and asked(engine) == ["one", "two"]
            assert (b"message_stop" in answer.body) == stream and b'a\\"' in answer.body
        with serving(world(), engine_of()) as (gateway, engine):
            answer = ask(gateway, {**body, "stream": stream}, path="/v1/messages")
            assert answer.status == 200 and asked(engine) == ["one"] and b'a\\"' in answer.body
            assert (b"message_stop" in answer.body) == stream


def _run_and_wait(url: str, folder: str) -> None:
    """A worker of its own process, whose only call is at its second step when it is killed."""
    with WorkerHarness(world(budgets=limits())(url), Path(folder)) as gateway:
        purse(gateway)
        ask(gateway, BODY)


def limits() -> list[Budget]:
    on_models = [limited("nusd", 10**9, "model", name) for name in ("one", "two")]
    return [limited("nusd", 10**9), limited("tokens", 10**6), *on_models]


def test_a_worker_that_is_killed_between_leaves_what_it_spent_and_reserved(tmp_path: Path) -> None:
    engine = engine_of(one=answers.answer(BAD), two=faults.never_answers())
    with engine.in_thread():
        process = multiprocessing.get_context("spawn").Process(
            target=_run_and_wait, args=(engine.base_url, str(tmp_path))
        )
        process.start()
        try:
            eventually(lambda: asked(engine) == ["one", "two"], 30)
        finally:
            process.kill()
            process.join()
    folder = tmp_path / "log"

    async def recovered() -> None:
        log = open_log(folder)
        assert [each.interrupted for each in recover(folder, into=log, clock=SystemClock())] == [1]
        await log.close()

    run(recovered)
    (epoch, _) = epochs(folder)
    call = find_call(folder, request_id(epoch, 1))
    assert call is not None and call.interrupted is not None and call.intent is not None
    (step,), (_, second) = call.step_ends, call.attempts
    leaf = call_entry(call, 5, None).leaf
    assert leaf["result"]["state"] == "interrupted" and leaf["tokens"]["origin"] == "reserved"
    assert call.interrupted.cost.nusd == leaf["cost"]["nusd"] == step.cost.nusd + second.reserved.nusd
    charged = {each["budget"]: each["charged"] for each in leaf["budgets"]}
    reserved = {charge.budget: charge.reserved for charge in call.intent.charges}
    assert charged == {
        "bdg_nusd_tenant_ten_acme": step.cost.nusd + second.reserved.nusd,
        "bdg_tokens_tenant_ten_acme": reserved["bdg_tokens_tenant_ten_acme"],
        "bdg_nusd_model_one": step.cost.nusd,
        "bdg_nusd_model_two": second.reserved.nusd,
    }
    assert all(charged[name] <= reserved[name] for name in reserved)
    assert [each["model"] for each in leaf["cascade"]["tried"]] == ["one"]


def test_its_entry_shows_the_steps_and_what_they_cost() -> None:
    engine = engine_of(one=answers.answer(BAD), two=answers.error(500))
    with serving(world(budgets=limits()), engine) as (gateway, _):
        purse(gateway)
        assert ask(gateway, BODY).status == 200
        epoch = epochs(gateway.folder / "log")[0]
        call = find_call(gateway.folder / "log", request_id(epoch, 1))
        assert call is not None
        leaf = call_entry(call, 5, SubjectKey(bytes(range(32)))).leaf
        (step,) = leaf["cascade"]["tried"]
        assert (leaf["cascade"]["steps"], leaf["cascade"]["stop"]) == (2, "failed")
        assert (step["model"], step["given"], step["passed"], step["checks"]) == ("one", True, False, ["json:failed"])
        assert step["cost"] == leaf["cost"] and step["tokens"] == leaf["tokens"]
        assert (leaf["where"]["model"], leaf["where"]["name"], leaf["where"]["attempts"]) == ("one", "s-one", 2)
        assert shape.read(encode_leaf({**leaf, "epoch": epoch, "n": 1}) + b"\n") is not None
        assert list(verdicts_of(leaf)) == [("one", False)]
        told = told_of(leaf)
        assert (told.arm, told.failed, told.cost_nusd) == ("one", False, step["cost"]["nusd"])
        assert BAD not in encode_leaf(leaf).decode()


def test_an_idempotency_key_gets_the_one_answer_again() -> None:
    with serving(world(), engine_of(one=answers.answer(BAD))) as (gateway, engine):
        first = ask(gateway, BODY, idempotency_key="once")
        again = ask(gateway, BODY, idempotency_key="once")
        assert (first.status, again.status) == (200, 200) and first.body == again.body
        assert asked(engine) == ["one", "two"] and again.headers["x-interlock-replayed"] == "true"


def test_a_step_fails_over_among_its_own_sources() -> None:
    broken = ScriptedEngine(models=MODELS, default=answers.error(500))
    with broken.in_thread():

        def build(url: str) -> World:
            made = world()(url)
            made.sources.append(source("a-one", broken.base_url, model("one", price=CHEAP)))
            return made

        with serving(build, engine_of()) as (gateway, engine):
            for number in range(12):  # each of its own, so that none is sent where the one before went
                answer = ask(gateway, {**BODY, "messages": [{"role": "user", "content": f"number {number}"}]})
                assert answer.status == 200 and answer.headers["x-interlock-cascade"].startswith("step=1/2")
            assert set(asked(engine)) == {"one"} and broken.calls
            assert {attempt.model for attempt in gateway.records_of(Attempt)} == {"one"}


@pytest.mark.parametrize("one", [GOOD, BAD], ids=["first", "second"])
def test_the_openai_sdk_sees_one_answer(one: str) -> None:
    with (
        serving(world(), engine_of(one=answers.answer(one))) as (gateway, _),
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=WAIT_S) as client,
    ):
        messages: Any = [{"role": "user", "content": "hi"}]
        whole = client.chat.completions.create(model="a", messages=messages, max_tokens=5)
        assert whole.choices[0].message.content == GOOD and whole.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(model="a", messages=messages, max_tokens=5, stream=True)
        pieces = [choice for event in stream for choice in event.choices]
        assert "".join(piece.delta.content or "" for piece in pieces) == GOOD
        assert pieces[-1].finish_reason == "stop"


def test_a_model_of_anthropics_kind_may_be_a_step() -> None:
    messages = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "one",
        "content": [{"type": "text", "text": BAD}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 3},
    }

    def build(url: str) -> World:
        made = world()(url)
        made.sources[0] = source("s-one", url, model("one", price=CHEAP), kind=SourceKind.anthropic)
        return made

    for body, path in ((BODY, "/v1/chat/completions"), ({**BODY, "messages": CHAT["messages"]}, "/v1/messages")):
        for stream in (False, True):
            with serving(build, engine_of(one=answers.page(messages))) as (gateway, engine):
                answer = ask(gateway, {**body, "stream": stream}, path=path)
                assert answer.status == 200 and b"no JSON" not in answer.body and asked(engine) == ["one", "two"]
                first = steps_of(gateway)[0]
                assert first.checks == ("json:failed",) and first.usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("one", [GOOD, BAD], ids=["first", "second"])
def test_the_responses_api_cascades(one: str, stream: bool) -> None:
    with serving(world(), engine_of(one=answers.answer(one))) as (gateway, engine):
        body = {"model": "a", "input": "hi", "max_output_tokens": 5, "store": False, "stream": stream}
        answer = ask(gateway, body, path="/v1/responses")
        assert answer.status == 200 and b"no JSON" not in answer.body and b'a\\"' in answer.body
        assert asked(engine) == (["one"] if one == GOOD else ["one", "two"])
        assert (b"response.completed" in answer.body) == stream


@pytest.mark.parametrize("ends", ["disconnected", "cut"])
def test_nothing_of_a_held_answer_is_left_behind_when_a_worker_stops(ends: str) -> None:
    slow = engine_of(one=answers.answer(BAD), two=faults.never_answers())
    with serving(world(), slow) as (gateway, engine):
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM))
            eventually(lambda: asked(engine) == ["one", "two"])
            if ends == "cut":
                gateway.stop(grace_ms=50)
        eventually(lambda: [outcome.state for outcome in gateway.records_of(Outcome)] == [ends])
        (outcome,) = gateway.records_of(Outcome)
        assert outcome.body == b"" and outcome.attempt == 1 and outcome.stop == ""
        assert outcome.cost.nusd == steps_of(gateway)[0].cost.nusd + gateway.records_of(Attempt)[1].reserved.nusd


def test_an_answer_that_is_no_utf8_where_nobody_reads_it_is_a_step_that_failed() -> None:
    choices = b'[{"index":0,"message":{"content":"{}"},"finish_reason":"stop"}]'
    good = b'{"id":"x","model":"one","more":"\xff","choices":%b}' % choices
    with serving(world(), engine_of(one=steps(http(200, good)))) as (gateway, engine):
        answer = ask(gateway, BODY)
        assert answer.status == 200 and said(answer) == GOOD
        assert asked(engine) == ["one", "two"]


def test_a_callers_schema_that_is_none_is_not_passed() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"required": [{}]}}}
    with serving(world(), engine_of()) as (gateway, _):
        answer = ask(gateway, {**BODY, "response_format": form})
        assert answer.status == 200
        assert [step.checks for step in steps_of(gateway)] == [("json:unknown",)] * 2
