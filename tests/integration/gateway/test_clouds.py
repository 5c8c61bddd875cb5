"""Clouds behind their OpenAI-compatible endpoints: scripted engines that answer as their specifications say, with what
each does otherwise than OpenAI, and the `openai` SDK before them.

Azure OpenAI: "v1 API", "Content streaming", "Content filtering". Google: "OpenAI compatibility". Amazon Bedrock:
"Inference using Chat Completions API".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from interlock.control.documents import ModelSpec, SourceSpec
from interlock.control.services.sources import looked, offered, probe
from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.discovery import discover
from interlock.testing.answers import page
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import DONE, STREAM_HEAD, Script, chunk, event, http, steps
from interlock.types.record import Chunk, Outcome
from interlock.types.source import Ability, CredentialRef, Labels, Model, SourceKind
from tests.gateway import WorkerHarness, World, permit_all, source

MESSAGES: Any = [{"role": "user", "content": "Say something."}]
TOOL: Any = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
SAFE = {"hate": {"filtered": False, "severity": "safe"}}


def streamed(*found: dict[str, Any]) -> Script:
    return steps(STREAM_HEAD, *[event(each) for each in found], DONE, chunk(b""))


@contextmanager
def cloud(
    tmp_path: Path, base: str, prefix: str, *models: Model, **credential: str
) -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    """A gateway before a cloud whose API is below `base` and `prefix`."""
    secret = tmp_path / "key"
    secret.write_text("cloud-secret\n")
    with ScriptedEngine(kind="openai").in_thread() as engine:
        there = source(
            "cloud",
            engine.base_url + base,
            *models,
            api_prefix=prefix,
            credential=CredentialRef(file=str(secret), **credential),
            labels=Labels(region="eu", on_prem=False),
        )
        with (
            WorkerHarness(World([there], policies=[permit_all()])) as gateway,
            openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key(), max_retries=0, timeout=15) as client,
        ):
            yield client, gateway, engine


def look(engine: ScriptedEngine, spec: Callable[[str], SourceSpec]) -> tuple[tuple[Model, ...], tuple[str, ...], str]:
    """What is offered, the remarks, and the error, when control looks at a cloud so declared."""
    import datetime

    declared = spec(engine.base_url)
    settings = Settings()
    found = looked(lambda s: discover(s, settings, CredentialStore(settings, {})), probe(declared))
    at = datetime.datetime.now(datetime.UTC)
    models, warnings = offered(declared, found.models, listed=not found.error, at=at)
    return models, found.warnings + warnings, found.error


# -- Azure OpenAI


AZURE = Model("gpt-prod", ("chat", "tools"))


def azure_chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None, "content_filter_results": SAFE}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1757499916,
        "model": "gpt-5-mini-2025-08-07",
        "system_fingerprint": None,
        "choices": [choice],
        "usage": None,
    }


AZURE_FIRST: dict[str, Any] = {
    "id": "",
    "object": "",
    "created": 0,
    "model": "",
    "choices": [],
    "usage": None,
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
}
AZURE_USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


@contextmanager
def azure(tmp_path: Path) -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    with cloud(tmp_path, "/openai", "/v1", AZURE, header="api-key", scheme="") as found:
        yield found


def test_azure_streams_begin_with_the_filters_verdict(tmp_path: Path) -> None:
    with azure(tmp_path) as (client, gateway, engine):
        said = [azure_chunk({"role": "assistant", "content": ""}), azure_chunk({"content": "It works."})]
        late = {**azure_chunk({}), "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]}
        engine.default = streamed(AZURE_FIRST, *said, azure_chunk({}, "stop"), late, AZURE_USAGE)
        chunks = list(client.chat.completions.create(model="gpt-prod", messages=MESSAGES, stream=True))
        assert chunks[0].choices == [] and chunks[0].model_dump()["prompt_filter_results"]
        assert "".join(c.choices[0].delta.content or "" for c in chunks[1:-1]) == "It works."
        sent = engine.requests[-1]
        assert sent.path == "/openai/v1/chat/completions" and sent.header("api-key") == "cloud-secret"
        assert sent.header("authorization") is None and sent.json["model"] == "gpt-prod"
        assert "max_completion_tokens" in sent.json and sent.json["stream_options"] == {"include_usage": True}
        outcome = gateway.records_of(Outcome)[0]
        assert (outcome.state, outcome.served_model) == ("completed", "gpt-5-mini-2025-08-07")
        assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (9, 3)
        assert b"cloud-secret" not in b"".join(p.read_bytes() for p in gateway.folder.rglob("*.log") if p.is_file())


def test_azure_filters_answers_and_prompts(tmp_path: Path) -> None:
    with azure(tmp_path) as (client, gateway, engine):
        whole = azure_chunk({}) | {"object": "chat.completion"}
        choice = {"index": 0, "finish_reason": "content_filter", "message": {"role": "assistant", "content": "It"}}
        engine.script(page({**whole, "choices": [choice], "usage": AZURE_USAGE["usage"]}))
        cut = client.chat.completions.create(model="gpt-prod", messages=MESSAGES)
        assert cut.choices[0].finish_reason == "content_filter"
        assert gateway.records_of(Outcome)[0].finish_reasons == ("content_filter",)
        engine.script(streamed(AZURE_FIRST, azure_chunk({"content": "It"}), azure_chunk({}, "content_filter")))
        chunks = list(client.chat.completions.create(model="gpt-prod", messages=MESSAGES, stream=True))
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        filtered = {"message": "The prompt triggered the policy.", "code": "content_filter", "status": 400}
        engine.script(page({"error": {**filtered, "param": "prompt", "type": None, "innererror": {}}}, 400))
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="gpt-prod", messages=MESSAGES)
        assert refused.value.code == "content_filter" and "triggered" in refused.value.message


def test_azure_lists_models_that_are_not_deployed() -> None:
    with ScriptedEngine(kind="openai").in_thread() as engine:
        engine.pages["/openai/v1/models"] = page({"object": "list", "data": [{"id": "gpt-4o"}, {"id": "gpt-5"}]})
        pin = ModelSpec("gpt-prod", abilities=(Ability.chat, Ability.tools))
        models, warnings, error = look(
            engine,
            lambda url: SourceSpec("azure", SourceKind.openai, url + "/openai", models=(pin,), declared_only=True),
        )
        assert ([m.name for m in models], error) == (["gpt-prod"], "")
        assert not any("does not serve" in words for words in warnings)


# -- Google


GEMINI = Model("gemini-2.5-flash", ("chat", "tools"))


@contextmanager
def gemini(tmp_path: Path) -> Iterator[tuple[openai.OpenAI, WorkerHarness, ScriptedEngine]]:
    with cloud(tmp_path, "/v1beta/openai", "", GEMINI) as found:
        yield found


def gemini_chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    """Without an id, as measured; usage comes with the last piece."""
    choice: dict[str, Any] = {"delta": {"role": "assistant", **delta}, "index": 0}
    if reason:
        choice["finish_reason"] = reason
    return {"choices": [choice], "created": 1, "model": "gemini-2.5-flash", "object": "chat.completion.chunk", **more}


GEMINI_USAGE = {"completion_tokens": 5, "prompt_tokens": 7, "total_tokens": 40}


def gemini_call(call_id: str, **arguments: Any) -> dict[str, Any]:
    signature = {"google": {"thought_signature": "c2ln"}}
    function = {"name": "read", "arguments": json.dumps(arguments)}
    return {"extra_content": signature, "function": function, "id": call_id, "type": "function"}


def test_googles_tool_calls_get_the_index_they_lack(tmp_path: Path) -> None:
    with gemini(tmp_path) as (client, gateway, engine):
        engine.default = streamed(
            gemini_chunk({"tool_calls": [gemini_call("call_1", path="a")]}),
            gemini_chunk({"tool_calls": [gemini_call("call_2", path="b")]}),
            gemini_chunk({}, "stop", usage=GEMINI_USAGE),
        )
        with client.chat.completions.stream(model="gemini-2.5-flash", messages=MESSAGES, tools=[TOOL]) as stream:
            stream.until_done()
            calls = stream.get_final_completion().choices[0].message.tool_calls or []
        assert [json.loads(call.function.arguments) for call in calls] == [{"path": "a"}, {"path": "b"}]
        assert [call.id for call in calls] == ["call_1", "call_2"]
        assert calls[0].model_dump()["extra_content"]["google"]["thought_signature"] == "c2ln"
        recorded = [json.loads(c.raw) for c in gateway.records_of(Chunk)]
        assert [r["choices"][0]["delta"]["tool_calls"][0]["index"] for r in recorded] == [0, 1]
        said: Any = {"role": "assistant", "tool_calls": [call.model_dump(exclude={"index"}) for call in calls]}
        engine.default = page({**gemini_chunk({}), "choices": [{"index": 0, "message": {"content": "x"}}]})
        client.chat.completions.create(model="gemini-2.5-flash", messages=[*MESSAGES, said], tools=[TOOL])
        sent = engine.requests[-1]
        assert sent.path == "/v1beta/openai/chat/completions" and sent.header("authorization") == "Bearer cloud-secret"
        assert sent.json["messages"][1]["tool_calls"][0]["extra_content"]["google"]["thought_signature"] == "c2ln"


def test_googles_usage_comes_with_the_last_piece(tmp_path: Path) -> None:
    with gemini(tmp_path) as (client, gateway, engine):
        engine.default = streamed(
            gemini_chunk({"content": "It "}, usage={"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}),
            gemini_chunk({"content": "works."}, "stop", usage=GEMINI_USAGE),
        )
        chunks = list(client.chat.completions.create(model="gemini-2.5-flash", messages=MESSAGES, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "It works."
        outcome = gateway.records_of(Outcome)[0]
        assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (7, 5)
        assert outcome.state == "completed" and outcome.finish_reasons == ("stop",)


def test_googles_errors_are_in_a_list(tmp_path: Path) -> None:
    with gemini(tmp_path) as (client, _, engine):
        said = {"code": 400, "message": "Please ensure that the request is right.", "status": "INVALID_ARGUMENT"}
        engine.default = steps(http(400, json.dumps([{"error": said}]).encode()))
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="gemini-2.5-flash", messages=MESSAGES)
        assert "Please ensure that the request is right." in refused.value.message and "[{" not in refused.value.message


def test_google_names_its_models_as_resources() -> None:
    with ScriptedEngine(kind="openai").in_thread() as engine:
        names = ("models/gemini-2.5-flash", "models/gemini-embedding-001")
        engine.pages["/v1beta/openai/models"] = page({"object": "list", "data": [{"id": name} for name in names]})
        models, _, error = look(
            engine, lambda url: SourceSpec("gemini", SourceKind.openai, url + "/v1beta/openai", api_prefix="")
        )
        assert ([m.name for m in models], error) == (["gemini-2.5-flash", "gemini-embedding-001"], "")
        assert models[1].abilities == ("embeddings",)


# -- Amazon Bedrock


BEDROCK = Model("openai.gpt-oss-20b-1:0", ("chat", "tools"))


def test_bedrock_without_a_list_of_models() -> None:
    with ScriptedEngine(kind="openai").in_thread() as engine:
        engine.pages["/openai/v1/models"] = page({"Output": {"__type": "UnknownOperationException"}}, 404)
        pin = ModelSpec(BEDROCK.name, abilities=(Ability.chat, Ability.tools))

        def declared(url: str) -> SourceSpec:
            return SourceSpec("bedrock", SourceKind.openai, url + "/openai", models=(pin,), declared_only=True)

        models, warnings, error = look(engine, declared)
        assert ([m.name for m in models], error) == ([BEDROCK.name], "")
        assert "the declared ones are offered" in warnings[0]
        open_to_all = SourceSpec("bedrock", SourceKind.openai, engine.base_url + "/openai")
        assert "has no /v1/models" in look(engine, lambda _: open_to_all)[2]
        engine.pages["/openai/v1/models"] = page({"message": "no"}, 403)
        assert "asks for a credential" in look(engine, declared)[2], "a credential that is missing is no such thing"


def test_bedrock_streams_and_its_errors(tmp_path: Path) -> None:
    with cloud(tmp_path, "/openai", "/v1", BEDROCK) as (client, gateway, engine):
        frame = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1, "model": BEDROCK.name}
        first = {"index": 0, "delta": {"role": "assistant", "content": "<reasoning>Hm.</reasoning>"}}
        usage = {"prompt_tokens": 68, "completion_tokens": 20, "total_tokens": 88}
        engine.script(
            streamed(
                {**frame, "service_tier": "default", "choices": [{**first, "finish_reason": None}]},
                {**frame, "choices": [{"index": 0, "delta": {"content": "It works."}, "finish_reason": None}]},
                {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {**frame, "choices": [], "usage": usage, "amazon-bedrock-guardrailAction": "NONE"},
            ),
            page({"message": "Too many requests, please wait before trying again."}, 429),
            page({"Message": "Authentication failed: the key ends with 42"}, 403),
        )
        chunks = list(client.chat.completions.create(model=BEDROCK.name, messages=MESSAGES, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "<reasoning>Hm.</reasoning>It works."
        assert gateway.records_of(Outcome)[0].usage.prompt_tokens == 68
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=BEDROCK.name, messages=MESSAGES)
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=BEDROCK.name, messages=MESSAGES)
        assert refused.value.code == "upstream_credential" and "42" not in refused.value.message


def test_a_prompt_that_one_cloud_filters_goes_to_no_other(tmp_path: Path) -> None:
    with azure(tmp_path) as (client, gateway, engine), ScriptedEngine(models=("gpt-prod",)).in_thread() as other:
        second = source("other", other.base_url, AZURE, labels=Labels(region="us", on_prem=False))
        gateway.change(World([*gateway.world.sources, second], gateway.world.people, gateway.world.policies))
        engine.default = page({"error": {"message": "Filtered.", "code": "content_filter"}}, 400)
        other.default = engine.default
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="gpt-prod", messages=MESSAGES)
        assert len(engine.requests) + len(other.requests) == 1
