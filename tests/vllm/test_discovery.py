"""What Interlock finds out about real vLLM servers by asking them."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

import pytest

from interlock.sources.fields import FieldClass, classify
from interlock.types.source import SourceKind
from interlock.wire.fields import FOREIGN
from tests.e2e.stack import fetch, until

from .engines import ADAPTER, CONTEXT, MODEL, PYTHON, SLOTS, VERSION, missing
from .site import Site

_FIELDS = """
import json
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
forms = {"chat": ChatCompletionRequest, "completions": CompletionRequest, "embeddings": EmbeddingCompletionRequest}
print(json.dumps({operation: sorted(form.model_fields) for operation, form in forms.items()}))
"""


def test_models_context_version_and_adapter(site: Site) -> None:
    near, far = (site.up.ok("source", "show", name) for name in ("near", "far"))
    assert (near["engine"], near["engine_version"]) == ("vllm", VERSION)
    (model,) = near["offers"]
    assert (model["name"], model["context_length"]) == (MODEL, CONTEXT)
    assert set(model["abilities"]) == {"chat", "completions", "json_schema", "logprobs"}
    assert "no tool parser" in near["warnings"][0]
    models = {model["name"]: model for model in far["offers"]}
    assert set(models) == {MODEL, ADAPTER}
    assert models[ADAPTER]["parent"] == MODEL
    assert models[ADAPTER]["context_length"] == CONTEXT, "an adapter takes its parent's"
    assert "tools" in models[MODEL]["abilities"]
    assert far["warnings"] == []


def test_discovery_makes_no_model_work(site: Site) -> None:
    counts = ("vllm:request_success_total", "vllm:generation_tokens_total", "vllm:prompt_tokens_total")
    before = [[instance.metric(name) for name in counts] for instance in site.vllm.values()]
    for name in site.vllm:
        site.up.ok("source", "refresh", name)
    assert [[instance.metric(name) for name in counts] for instance in site.vllm.values()] == before


def test_callers_see_the_models_they_may_use(site: Site) -> None:
    def listed(tenant: str) -> set[str]:
        answer = fetch(site.up.gateway, "/v1/models", site.keys[tenant])
        return {model["id"] for model in answer.json()["data"]}

    assert listed("acme") == {MODEL, ADAPTER, "wordy"}
    assert listed("globex") == {MODEL}


def test_an_adapter_is_a_model_of_its_own(site: Site) -> None:
    given: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answers = [site.chat("acme", name, **given) for name in (f"far::{MODEL}", ADAPTER)]
    assert [answer.status for answer in answers] == [200, 200]
    base, adapted = (answer.json() for answer in answers)
    assert (base["model"], adapted["model"]) == (MODEL, ADAPTER)
    assert base["choices"][0]["message"]["content"] != adapted["choices"][0]["message"]["content"]
    assert site.outcome(answers[1].request_id).served_model == ADAPTER
    denied = site.chat("globex", ADAPTER)
    assert denied.status == 404, "globex may use the base model only, and may not learn of others"


def test_load_is_read_from_the_engine(site: Site) -> None:
    """The requests go to the engine directly: nothing of them is in the gateway's own counts."""
    body = {"model": MODEL, "max_tokens": 100, "ignore_eos": True, "prompt": "Once upon a time"}
    clients = [threading.Thread(target=site.near.post, args=("/v1/completions", body)) for _ in range(SLOTS + 3)]
    for client in clients:
        client.start()
    try:
        until(lambda: site.near.queue() == (3, SLOTS), 30, "the engine's queue")
        until(lambda: site.gauge("interlock_source_waiting", "near") == 3, 10, "the gateway to see the queue")
        assert site.gauge("interlock_source_running", "near") == SLOTS
        assert site.gauge("interlock_source_kv_ratio", "near") > 0
        assert site.gauge("interlock_source_inflight", "near") == 0
        assert site.gauge("interlock_source_saturated", "near") == 1
        assert site.gauge("interlock_source_waiting", "far") == 0
    finally:
        for client in clients:
            client.join()


def test_every_request_field_of_this_version_is_known() -> None:
    why = missing()
    if why:
        pytest.skip(why)
    said = subprocess.run([str(PYTHON), "-c", _FIELDS], check=True, capture_output=True, text=True, timeout=300).stdout
    forms: dict[str, list[str]] = json.loads(said.splitlines()[-1])
    assert set(forms) == {"chat", "completions", "embeddings"}
    for operation, fields in forms.items():
        kinds = {field: classify(SourceKind.vllm, operation, field) for field in fields if field not in FOREIGN}
        assert {f for f, kind in kinds.items() if kind in (FieldClass.unknown, FieldClass.foreign)} == set(), operation
