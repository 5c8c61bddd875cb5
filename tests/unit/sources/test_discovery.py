"""Discovery: what is made of each kind's answers, and an error in words for every way it can go wrong."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from interlock.errors import ConfigError, UpstreamError
from interlock.settings import Settings
from interlock.sources.credentials import CredentialStore
from interlock.sources.discovery import Discovered, discover
from interlock.testing import faults
from interlock.testing.answers import page
from interlock.testing.engine import ScriptedEngine
from interlock.testing.script import Script, http, steps
from interlock.types.source import CredentialRef, Source, SourceKind, TlsRef
from tests.unit.sources.certificates import Authority
from tests.unit.sources.proxy import ConnectProxy, connect_proxy

SETTINGS = Settings(discovery_timeout_ms=2000)


def _look(url: str, kind: str, settings: Settings = SETTINGS, **fields: Any) -> Discovered:
    store = CredentialStore(settings, {"KEY": "secret", "PROXY": "user:pass"})
    return discover(Source("src_1", "local", SourceKind(kind), url, **fields), settings, store)


def _served(kind: str, pages: dict[str, Script], models: tuple[str, ...] = ("m",)) -> ScriptedEngine:
    engine = ScriptedEngine(kind=kind, models=models)
    if kind == "vllm":
        engine.pages["/openapi.json"] = _openapi("/v1/chat/completions")
    engine.pages.update(pages)
    return engine


def _openapi(*paths: str) -> Script:
    return page({"openapi": "3.1.0", "paths": {path: {} for path in paths}})


def test_vllm_with_an_adapter() -> None:
    pages = {"/openapi.json": _openapi("/v1/chat/completions", "/v1/completions", "/v1/models")}
    with _served("vllm", pages, ("base", "adapter")).in_thread() as engine:
        found = _look(engine.base_url, "vllm")
    assert (found.engine, found.engine_version, found.warnings) == ("vllm", "0.32.0", ())
    base, adapter = found.models
    assert (base.name, base.parent, base.context_length) == ("base", "", 8192)
    assert (adapter.name, adapter.parent, adapter.context_length) == ("adapter", "base", 8192)
    assert set(base.abilities) == {"chat", "completions", "tools", "json_schema", "logprobs"}
    assert all(type(ability) is str for ability in base.abilities)


def test_vllm_without_a_tool_parser() -> None:
    with _served("vllm", {}, ("base", "adapter")).in_thread() as engine:
        engine.tool_parser = False
        found = _look(engine.base_url, "vllm")
        assert engine.calls == [], "nothing that makes the model work"
        (question,) = [r for r in engine.requests if r.method == "POST"]
        assert json.loads(question.body)["max_tokens"] == 1, "if it did after all, for one token"
    assert {model.abilities for model in found.models} == {("chat", "completions", "json_schema", "logprobs")}
    assert "no tool parser" in found.warnings[0]


@pytest.mark.parametrize(
    "answer",
    [faults.never_answers(), faults.closes_at_once(), page({}), page("", 404), page({"error": {"message": "no"}}, 400)],
    ids=["silent", "closes", "taken", "unknown", "other"],
)
def test_tools_are_assumed_when_the_question_is_not_answered(answer: Script) -> None:
    with _served("vllm", {"/v1/chat/completions": answer}).in_thread() as engine:
        found = _look(engine.base_url, "vllm", Settings(discovery_timeout_ms=200))
    assert "tools" in found.models[0].abilities
    assert found.warnings == ()


def test_vllm_that_embeds() -> None:
    with _served("vllm", {"/openapi.json": _openapi("/v1/embeddings", "/v1/models")}).in_thread() as engine:
        assert _look(engine.base_url, "vllm").models[0].abilities == ("embeddings",)


def test_vllm_without_a_list_of_endpoints() -> None:
    with _served("vllm", {"/openapi.json": page("", 404)}).in_thread() as engine:
        found = _look(engine.base_url, "vllm")
    assert "chat" in found.models[0].abilities
    assert len(found.warnings) == 1


def test_endpoints_that_are_not_listed_in_time() -> None:
    with _served("vllm", {"/openapi.json": faults.never_answers()}).in_thread() as engine:
        found = _look(engine.base_url, "vllm", Settings(discovery_timeout_ms=200))
    assert "chat" in found.models[0].abilities


def test_an_adapter_takes_its_parents_context_length() -> None:
    listing = {
        "data": [
            {"id": "base", "max_model_len": 4096, "parent": None},
            {"id": "adapter", "max_model_len": None, "parent": "base"},
        ]
    }
    with _served("vllm", {"/v1/models": page(listing)}).in_thread() as engine:
        assert [m.context_length for m in _look(engine.base_url, "vllm").models] == [4096, 4096]


def test_llamacpp() -> None:
    pages = {path: page({"error": {}}, 501) for path in ("/v1/embeddings", "/v1/rerank")}
    with _served("llamacpp", pages).in_thread() as engine:
        found = _look(engine.base_url, "llamacpp")
        assert [r.method for r in engine.requests] == ["GET", "GET", "POST", "POST"]
        assert {r.body for r in engine.requests[2:]} == {b"{}"}, "nothing that makes the model work"
    assert (found.engine, found.engine_version) == ("llama.cpp", "b6000-scripted")
    assert (found.models[0].context_length, found.models[0].parameters_m) == (8192, 135)
    assert set(found.models[0].abilities) == {"chat", "completions", "tools", "json_schema", "logprobs"}


@pytest.mark.parametrize("silent", ["/v1/embeddings", "/v1/rerank"])
def test_a_llamacpp_that_is_silent_about_one_thing_cannot_do_it(silent: str) -> None:
    refusing = page({"error": {}}, 400)
    pages = {"/v1/embeddings": refusing, "/v1/rerank": refusing, silent: faults.never_answers()}
    with _served("llamacpp", pages).in_thread() as engine:
        (model,) = _look(engine.base_url, "llamacpp", Settings(discovery_timeout_ms=300)).models
    assert {"embeddings", "rerank"} - set(model.abilities) == {silent.removeprefix("/v1/")}


def test_llamacpp_abilities_follow_its_properties() -> None:
    props = {
        "default_generation_settings": {"n_ctx": 1024},
        "chat_template": "{{ messages }}",
        "chat_template_caps": {"supports_tools": False},
        "modalities": {"vision": True},
        "build_info": "b1-x",
    }
    refusing = page({"error": {}}, 400)
    pages = {"/props": page(props), "/v1/embeddings": refusing, "/v1/rerank": refusing}
    with _served("llamacpp", pages).in_thread() as engine:
        (model,) = _look(engine.base_url, "llamacpp").models
    assert set(model.abilities) == {"chat", "completions", "json_schema", "logprobs", "vision", "embeddings", "rerank"}
    assert model.context_length == 1024


def test_openai_abilities_are_assumed_and_said_to_be() -> None:
    models = ("gpt-9", "text-embedding-3-small", "whisper-1", "BAAI/bge-m3")
    listing = {"data": [{"id": m, "context_length": 1000} for m in models]}
    with _served("openai", {"/v1/models": page(listing)}).in_thread() as engine:
        found = _look(engine.base_url, "openai")
    by_name = {m.name: m for m in found.models}
    assert "vision" in by_name["gpt-9"].abilities
    assert by_name["text-embedding-3-small"].abilities == ("embeddings",)
    assert by_name["whisper-1"].abilities == ()
    assert by_name["BAAI/bge-m3"].abilities == ("embeddings",)
    assert by_name["gpt-9"].context_length == 1000
    assert any("assumed" in words for words in found.warnings)


def test_a_better_kind_is_suggested() -> None:
    listing = {"data": [{"id": "m", "owned_by": "vllm"}]}
    with _served("openai", {"/v1/models": page(listing)}).in_thread() as engine:
        assert any("vllm" in words for words in _look(engine.base_url, "openai").warnings)


def test_the_credential_and_the_prefix_are_used() -> None:
    engine = ScriptedEngine(kind="openai")
    engine.pages = {"/base/api/models": page({"data": [{"id": "m"}]})}
    with engine.in_thread():
        ref = CredentialRef(env="KEY", header="api-key", scheme="")
        found = _look(engine.base_url + "/base/", "openai", api_prefix="/api", credential=ref)
        assert [m.name for m in found.models] == ["m"]
        assert engine.requests[0].header("api-key") == "secret"


@pytest.mark.parametrize(
    ("kind", "answer", "code", "words"),
    [
        ("vllm", page({}, 401), "credential_refused", "none is configured"),
        ("vllm", page({}, 404), "not_a_source", "has no /v1/models"),
        ("vllm", page({}, 503), "source_not_ready", "may still be loading"),
        ("vllm", page({}, 500), "not_a_source", "status 500"),
        ("openai", faults.redirects(), "not_a_source", "redirects"),
        ("openai", steps(http(200, b"<html>", "text/html; charset=utf-8")), "not_a_source", "text/html"),
        ("openai", steps(http(200, b"[1, 2")), "not_a_source", "not a list of models"),
        ("openai", page({"data": {}}), "not_a_source", "not a list of models"),
        ("openai", steps(http(200, b"[" * 100_000)), "not_a_source", "not a list of models"),
        ("openai", faults.garbage(), "upstream_invalid_response", ""),
        ("openai", faults.closes_at_once(), "upstream_closed", ""),
        ("openai", faults.wrong_content_length(), "upstream_cut_off", ""),
        ("openai", faults.both_lengths(), "upstream_invalid_response", ""),
        ("openai", faults.huge_head(), "upstream_invalid_response", ""),
        ("llamacpp", page({"data": [{"id": "m", "owned_by": "somebody"}]}), "wrong_kind", "llama.cpp"),
    ],
)
def test_errors_in_words(kind: str, answer: Script, code: str, words: str) -> None:
    engine = ScriptedEngine(kind="openai")
    engine.pages = {"/v1/models": answer, "/props": page({}, 404)}
    with engine.in_thread(), pytest.raises(UpstreamError) as e:
        _look(engine.base_url, kind)
    assert e.value.code == code
    assert "'local'" in e.value.message
    assert words in e.value.message


def test_a_refused_credential_is_not_shown() -> None:
    engine = ScriptedEngine(kind="openai")
    engine.pages = {"/v1/models": page({}, 403)}
    with engine.in_thread(), pytest.raises(UpstreamError, match="refused its credential") as e:
        _look(engine.base_url, "openai", credential=CredentialRef(env="KEY"))
    assert "secret" not in e.value.message


def test_llamacpp_is_not_vllm() -> None:
    with ScriptedEngine(kind="llamacpp").in_thread() as engine:
        engine.pages["/version"] = page({}, 404)
        with pytest.raises(UpstreamError, match="does not look like vLLM"):
            _look(engine.base_url, "vllm")


def test_time_and_size_are_bounded() -> None:
    quick = Settings(discovery_timeout_ms=150, probe_bytes_max=10_000)
    slow = faults.drip(page({"data": []}), size=1, between_ms=20)
    for answer, code in (
        (faults.never_answers(), "discovery_timeout"),
        (faults.head_then_silence(), "discovery_timeout"),
        (slow, "discovery_timeout"),
        (faults.huge(1_000_000), "upstream_too_large"),
    ):
        engine = ScriptedEngine(kind="openai")
        engine.pages = {"/v1/models": answer}
        with engine.in_thread(), pytest.raises(UpstreamError) as e:  # an answer that drips has come in the end
            _look(engine.base_url, "openai", quick)
        assert e.value.code == code


def test_odd_models_are_left_out() -> None:
    listing = {"data": [{"id": ""}, {"id": 3}, "x", {"id": "a\nb"}, {"id": "x" * 300}, {"id": "ok"}, {"id": "ok"}]}
    with _served("openai", {"/v1/models": page(listing)}).in_thread() as engine:
        found = _look(engine.base_url, "openai")
        assert [m.name for m in found.models] == ["ok"]
        few = Settings(models_per_source_max=1)
        engine.pages["/v1/models"] = page({"data": [{"id": "a"}, {"id": "b"}]})
        found = _look(engine.base_url, "openai", few)
        assert [m.name for m in found.models] == ["a"]
        assert any("first 1 models" in words for words in found.warnings)


def test_urls_and_connections() -> None:
    with pytest.raises(ConfigError, match="base_url"):
        _look("engine:8000", "openai")
    with ScriptedEngine(kind="openai").in_thread() as engine:
        url = engine.base_url
    with pytest.raises(UpstreamError, match="refused the connection") as e:
        _look(url, "openai")
    assert e.value.code == "connect_failed"
    with pytest.raises(UpstreamError) as e:
        _look("http://no-such-host.invalid", "openai")
    assert e.value.code == "name_not_resolved"
    with pytest.raises(UpstreamError) as e:
        _look("http://a", "openai", credential=CredentialRef(env="NOT_SET"))
    assert e.value.code == "credential_missing"


def test_tls_and_client_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    client = authority.issue("client")
    context = authority.server_context("localhost", client_ca=authority.ca)
    tls = TlsRef(ca_file=str(authority.ca), cert_file=str(client.cert), key_file=str(client.key))
    with ScriptedEngine(kind="openai", tls=context).in_thread() as engine:
        url = f"https://localhost:{engine.port}"
        assert _look(url, "openai", tls=tls).models[0].name == "mock"
        with pytest.raises(UpstreamError) as e:
            _look(url, "openai")
        assert e.value.code == "tls_failed"


@contextmanager
def _proxy_in_thread(**options: Any) -> Iterator[ConnectProxy]:
    """The proxy on a loop of its own, for synchronous callers."""
    loop = asyncio.new_event_loop()
    started: asyncio.Future[ConnectProxy] = loop.create_future()
    over = asyncio.Event()

    async def serve() -> None:
        async with connect_proxy(**options) as proxy:
            started.set_result(proxy)
            await over.wait()

    ready = loop.create_task(serve())
    loop.run_until_complete(started)
    thread = Thread(target=loop.run_until_complete, args=(ready,))
    thread.start()
    try:
        yield started.result()
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def test_through_an_egress_proxy(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context: ssl.SSLContext = authority.server_context("localhost")
    with (
        ScriptedEngine(kind="openai", tls=context).in_thread() as engine,
        _proxy_in_thread(authorization="Basic dXNlcjpwYXNz") as proxy,
    ):
        fields: dict[str, Any] = {
            "tls": TlsRef(ca_file=str(authority.ca)),
            "egress_proxy": f"http://127.0.0.1:{proxy.port}",
        }
        url = f"https://localhost:{engine.port}"
        found = _look(url, "openai", egress_proxy_credential=CredentialRef(env="PROXY"), **fields)
        assert found.models[0].name == "mock"
        assert proxy.targets[0] == f"localhost:{engine.port}"
        with pytest.raises(UpstreamError) as e:
            _look(url, "openai", **fields)
        assert e.value.code == "proxy_failed"


def test_anthropic_tells_what_its_models_can() -> None:
    able = {"image_input": {"supported": True}, "structured_outputs": {"supported": False}}
    listed = {"data": [
        {"type": "model", "id": "claude-a", "max_input_tokens": 200_000, "capabilities": able, "lifecycle": "active"},
        {"type": "model", "id": "claude-b"},
        {"type": "model", "id": "claude-c", "lifecycle": "retired"},
    ], "has_more": False}  # fmt: skip
    with _served("anthropic", {"/v1/models": page(listed)}).in_thread() as engine:
        found = _look(engine.base_url, "anthropic")
        (asked,) = engine.requests
    assert asked.header("anthropic-version") == "2023-06-01"
    a, b = found.models
    assert (a.name, a.abilities, a.context_length) == ("claude-a", ("chat", "tools", "vision"), 200_000)
    assert (b.name, b.abilities) == ("claude-b", ("chat", "tools", "vision", "json_schema"))
    assert len(found.warnings) == 1 and "assumed" in found.warnings[0]
