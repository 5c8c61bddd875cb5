"""Idempotency keys at a whole worker: one call, one charge, the same answer to whoever asks again."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from interlock.gateway.link import KeyAnswer, KeyClaim, KeyEnd
from interlock.testing import answers, faults
from interlock.types.budget import Budget
from interlock.types.record import Intent, Outcome, Refusal
from tests.gateway import Who, WorkerHarness, World, source
from tests.integration.gateway.client import (
    CHAT,
    WAIT_S,
    Answer,
    ask,
    connected,
    events,
    eventually,
    raw_request,
    read_until,
    serving,
    when,
)

STREAM = {**CHAT, "stream": True}
KEY = "order-7341"
CALLS = Budget("bdg_1", "ten_acme", "calls", "tenant", ("ten_acme",), "calls", 50)


def world(url: str) -> World:
    return World([source("s", url)], [Who(), Who("bob")], budgets=[CALLS])


def again(gateway: WorkerHarness, body: dict[str, Any] | None = None, key: str = KEY, **headers: str) -> Answer:
    gateway.purse = gateway.purse or {CALLS.id: 50}
    return ask(gateway, body or CHAT, idempotency_key=key, **headers)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "streamed"])
def test_a_repeated_request_gets_the_first_answer_and_is_neither_run_nor_charged(body: dict[str, Any]) -> None:
    with serving(world) as (gateway, engine):
        engine.script(answers.answer("the first answer"), answers.answer("another answer"))
        first, second = again(gateway, body), again(gateway, body)
        assert first.status == second.status == 200 and first.body == second.body
        assert len(engine.calls) == 1 and "x-interlock-replayed" not in first.headers
        assert second.headers["x-interlock-replayed"] == "true"
        for name in ("x-interlock-request-id", "x-interlock-source", "content-type"):
            assert second.headers[name] == first.headers[name]
        (refusal,) = gateway.records_of(Refusal)
        assert (refusal.code, refusal.status) == ("idempotent_replay", 200)
        assert first.headers["x-interlock-request-id"] in refusal.words
        assert len(gateway.records_of(Intent)) == 1 and [sum(o.charged) for o in gateway.records_of(Outcome)] == [1]


def test_another_key_and_another_caller_are_other_calls() -> None:
    with serving(world) as (gateway, engine):
        assert again(gateway).status == again(gateway, key='"order-7342"').status == 200
        assert ask(gateway, CHAT, key=gateway.key("bob"), idempotency_key=KEY).status == 200
        assert len(engine.calls) == 3
        assert again(gateway, key="order-7342").headers["x-interlock-replayed"] == "true", (
            "quoted or not, it is one key"
        )


def test_another_request_under_the_same_key_is_refused() -> None:
    with serving(world) as (gateway, engine):
        assert again(gateway).status == 200
        refused = again(gateway, {**CHAT, "temperature": 1})
        assert (refused.status, refused.error["code"]) == (422, "idempotency_key_reused")
        assert len(engine.calls) == 1


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "caf\xe9", "a\tb"])
def test_a_key_that_is_none_is_met_at_the_door(key: str) -> None:
    with serving(world) as (gateway, engine):
        refused = again(gateway, key=key)
        assert refused.status == 400 and refused.error["param"] == "idempotency-key" and not engine.calls


def test_who_went_away_finds_the_answer() -> None:
    with serving(world, idempotency_wait_ms=4000) as (gateway, engine):
        gateway.purse = {CALLS.id: 50}
        engine.script(answers.answer("slow words that come one by one", between_ms=60))
        with connected(gateway) as sock:
            sock.sendall(raw_request(gateway, STREAM, f"idempotency-key: {KEY}"))
            read_until(sock, b"slow")
        found = again(gateway, STREAM)
        assert found.status == 200 and found.headers["x-interlock-replayed"] == "true"
        assert events(found.body)[-1] == "[DONE]" and b"by" in found.body and b"slow" in found.body
        assert [o.state for o in gateway.records_of(Outcome)] == ["completed"] and len(engine.calls) == 1


def test_a_call_in_progress_is_waited_for_and_then_refused() -> None:
    with serving(world, idempotency_wait_ms=300) as (gateway, engine):
        gateway.purse = {CALLS.id: 50}
        over, found = threading.Event(), list[Answer]()
        engine.script(when(over, answers.answer("late")))
        asking = threading.Thread(target=lambda: found.append(again(gateway)))
        asking.start()
        eventually(lambda: engine.calls)
        refused = again(gateway)
        assert (refused.status, refused.error["code"]) == (409, "idempotency_in_progress")
        assert refused.headers["retry-after"] == "1"
        over.set()
        asking.join(2 * WAIT_S)
        assert found[0].status == 200 and len(engine.calls) == 1


def test_a_call_that_was_not_made_leaves_its_key_free() -> None:
    with serving(world) as (gateway, engine):
        gateway.purse = {CALLS.id: 0}
        assert ask(gateway, CHAT, idempotency_key=KEY).error["code"] == "budget_exceeded"
        assert not gateway.keys
        gateway.purse = {CALLS.id: 50}
        gateway.change(world(engine.base_url))
        engine.script(faults.closes_at_once())
        eventually(lambda: ask(gateway, CHAT, idempotency_key=KEY).status == 502)
        assert ask(gateway, CHAT, idempotency_key=KEY).status == 200
        assert ask(gateway, CHAT, idempotency_key=KEY).headers["x-interlock-replayed"] == "true"


def test_a_stream_that_broke_was_made_and_is_not_made_again() -> None:
    with serving(world) as (gateway, engine):
        engine.script(faults.dies_mid_stream())
        assert again(gateway, STREAM).body.endswith(b"<cut>")
        refused = again(gateway, STREAM)
        assert (refused.status, refused.error["code"]) == (409, "idempotency_interrupted")
        assert len(engine.calls) == 1


def test_an_answer_that_is_too_large_is_told_to_be_gone() -> None:
    with serving(world, idempotency_answer_bytes_max=100) as (gateway, engine):
        assert again(gateway).status == 200
        refused = again(gateway)
        assert (refused.status, refused.error["code"]) == (409, "idempotency_answer_gone")
        assert len(engine.calls) == 1


def test_without_the_node_nothing_is_made() -> None:
    with serving(world, idempotency_wait_ms=200) as (gateway, engine):
        gateway.keys_answered = False
        refused = again(gateway)
        assert (refused.status, refused.error["code"]) == (503, "idempotency_unavailable") and not engine.calls
        # the claim succeeds later: nobody makes the call any more, so the key must become free
        claim = next(each for each in gateway.told if isinstance(each, KeyClaim))
        gateway.keys[claim.tenant_id, claim.principal_id, claim.digest] = (claim, "running", b"")
        gateway.call(lambda: gateway.worker.on_message(KeyAnswer(claim.epoch, claim.number, "fresh", claim.request)))
        assert [each.state for each in gateway.told if isinstance(each, KeyEnd)] == ["free"] and not gateway.keys


def test_what_is_kept_does_not_show_what_was_said_nor_the_key() -> None:
    with serving(world) as (gateway, engine):
        engine.script(answers.answer("the secret of the seven dwarfs"))
        again(gateway)
        (claim, state, sealed), *_ = gateway.keys.values()
        assert state == "done" and b"dwarfs" not in sealed and KEY.encode() not in sealed
        assert len(claim.digest) == len(claim.fingerprint) == 32


def test_a_sealed_answer_that_was_changed_is_not_given() -> None:
    with serving(world) as (gateway, _engine):
        again(gateway)
        ((name, (claim, _, sealed)),) = gateway.keys.items()
        gateway.keys[name] = (claim, "done", sealed[:-1] + bytes([sealed[-1] ^ 1]))
        refused = again(gateway)
        assert (refused.status, refused.error["code"]) == (409, "idempotency_answer_gone")


@pytest.mark.parametrize("recording", ["prompt_only", "metadata"])
def test_an_answer_that_is_not_to_be_kept_is_not_kept_for_its_key(recording: str) -> None:
    with serving(world) as (gateway, engine):
        assert again(gateway, x_interlock_recording=recording).status == 200
        assert [each.answer for each in gateway.told if isinstance(each, KeyEnd)] == [b""]
        refused = again(gateway, x_interlock_recording=recording)
        assert (refused.status, refused.error["code"]) == (409, "idempotency_answer_gone")
        assert len(engine.calls) == 1
