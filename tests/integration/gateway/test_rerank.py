"""Rerank and score as governed operations: a scripted engine that answers as vLLM documents it, and llama.cpp's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.discovery import discover
from interlock.testing import answers
from interlock.testing.answers import page
from interlock.testing.engine import ScriptedEngine
from interlock.types.budget import Budget
from interlock.types.record import Intent, Outcome, Refusal
from interlock.types.source import Price, Source, SourceKind
from tests.engines import Engine, llamacpp_engine
from tests.gateway import WorkerHarness, World, model, source
from tests.integration.gateway.client import ask, serving

RERANK: dict[str, Any] = {"model": "m", "query": "a red signal", "documents": ["the sky", "a red light", "a signal"]}
SCORE: dict[str, Any] = {"model": "m", "text_1": "a red signal", "text_2": ["the sky", "a red light"]}


def judge(url: str, *abilities: str) -> Source:
    return source("judge", url, model(abilities=abilities or ("rerank", "score")), kind=SourceKind.vllm)


@pytest.fixture
def served() -> Iterator[tuple[WorkerHarness, ScriptedEngine]]:
    with serving(lambda url: World([judge(url)])) as pair:
        yield pair


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_reranking(served: tuple[WorkerHarness, ScriptedEngine], path: str) -> None:
    gateway, engine = served
    answer = ask(gateway, {**RERANK, "top_n": 2}, path)
    assert answer.status == 200 and answer.headers["x-interlock-source"] == "judge"
    assert [r["index"] for r in answer.json["results"]] == [2, 1]
    assert answer.json == answers.judged({**RERANK, "top_n": 2}, "m")
    sent = engine.calls[0]
    assert sent.path == "/v1/rerank" and sent.json == {**RERANK, "top_n": 2}
    intent, outcome = gateway.records_of(Intent)[0], gateway.records_of(Outcome)[0]
    assert (intent.features.operation, intent.parameters) == ("rerank", {"top_n": 2})
    assert (outcome.state, outcome.usage.prompt_tokens, outcome.usage.origin) == ("completed", 16, "engine")
    assert intent.features.prompt_tokens_max >= outcome.usage.prompt_tokens and json.loads(intent.body) == {
        **RERANK,
        "top_n": 2,
    }
    assert json.loads(outcome.body)["results"]


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
def test_scoring(served: tuple[WorkerHarness, ScriptedEngine], path: str) -> None:
    gateway, engine = served
    answer = ask(gateway, SCORE, path)
    assert [entry["index"] for entry in answer.json["data"]] == [0, 1] and engine.calls[0].path == "/v1/score"
    assert gateway.records_of(Outcome)[0].usage.prompt_tokens == 11


def test_only_models_that_can_are_asked_and_policy_holds() -> None:
    with serving(lambda url: World([judge(url, "embeddings")])) as (gateway, engine):
        assert ask(gateway, RERANK, "/v1/rerank").error["code"] == "model_cannot"
        assert not engine.calls
    with serving(lambda url: World([judge(url)], policies=[])) as (gateway, engine):
        assert ask(gateway, SCORE, "/v1/score").status == 404
        assert not engine.calls and gateway.records_of(Refusal)[0].operation == "score"
    with serving(lambda url: World([judge(url)])) as (gateway, engine):
        assert ask(gateway, {**RERANK, "priority": 3}, "/v1/rerank").status == 403
        assert ask(gateway, {**RERANK, "documents": []}, "/v1/rerank").error["param"] == "documents"
        listed = ask(gateway, None, "/v1/models", method="GET").json["data"]
        assert [entry["id"] for entry in listed] == ["m"] and not engine.calls


def test_what_is_no_answer_and_what_was_not_counted(served: tuple[WorkerHarness, ScriptedEngine]) -> None:
    gateway, engine = served
    engine.script(page({"data": []}), answers.answer(usage=False))
    assert ask(gateway, RERANK, "/v1/rerank").error["code"] == "upstream_malformed"
    assert ask(gateway, RERANK, "/v1/rerank").status == 200
    usage = gateway.records_of(Outcome)[-1].usage
    intent = gateway.records_of(Intent)[-1]
    assert (usage.origin, usage.prompt_tokens) == ("reserved", intent.features.prompt_tokens_max)


def test_a_budget_holds() -> None:
    def poor(url: str) -> World:
        judged = source("judge", url, model(abilities=("rerank",), price=Price(10**9, 10**9, 10**9)))
        return World([judged], budgets=[Budget("b", "ten_acme", "b", "principal", ("prn_acme_alice",), "tokens", 150)])

    with serving(poor) as (gateway, engine):
        gateway.purse = {"b": 150}
        assert ask(gateway, RERANK, "/v1/rerank").status == 200
        assert ask(gateway, {**RERANK, "documents": ["a red light"] * 40}, "/v1/rerank").status == 429
        assert len(engine.calls) == 1


@pytest.fixture(scope="module")
def reranker() -> Iterator[Engine]:
    with llamacpp_engine(slots=1, context_length=512, reranks=True) as engine:
        yield engine


def test_llamacpps_own_endpoint(reranker: Engine) -> None:
    settings = Settings()
    found = discover(
        Source("src_1", "judge", SourceKind.llamacpp, reranker.base_url), settings, CredentialStore(settings, {})
    )
    assert "rerank" in found.models[0].abilities
    world = World([source("judge", reranker.base_url, *found.models, kind=SourceKind.llamacpp)])
    with WorkerHarness(world) as gateway:
        answer = ask(gateway, {**RERANK, "model": reranker.model}, "/v1/rerank")
        assert sorted(r["index"] for r in answer.json["results"]) == [0, 1, 2]
        intent, outcome = gateway.records_of(Intent)[0], gateway.records_of(Outcome)[0]
        assert outcome.usage.origin == "engine"
        assert 0 < outcome.usage.prompt_tokens <= intent.features.prompt_tokens_max
        assert ask(gateway, {**SCORE, "model": reranker.model}, "/v1/score").error["code"] == "model_cannot"
