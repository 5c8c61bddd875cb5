"""The pages besides inference that an engine of each kind has: models, version, health, metrics.

Forms taken from vLLM 0.32, llama.cpp's server and the documentation of Ollama's; "openai" and "anthropic" have only
`/v1/models`, each in its form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from interlock.testing import ollama
from interlock.testing.answers import CREATED_S, page
from interlock.testing.script import Load, Received, Script, Step

KINDS = frozenset({"vllm", "llamacpp", "openai", "anthropic", "ollama"})
CONTEXT_LENGTH = 8192
VLLM_VERSION = "0.32.0"


def pages_of(kind: str, models: tuple[str, ...], load: Load) -> dict[str, Script]:
    """Path -> script. `load` is read anew for every metrics page. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown engine kind {kind!r}; known: {sorted(KINDS)}")
    if kind == "openai":
        return {"/v1/models": page({"object": "list", "data": [_openai_model(m) for m in models]})}
    if kind == "anthropic":
        listed = [_anthropic_model(m) for m in models]
        first, last = models[0], models[-1]
        return {"/v1/models": page({"data": listed, "has_more": False, "first_id": first, "last_id": last})}
    if kind == "ollama":
        return ollama.pages_of(models)
    if kind == "vllm":
        listing = {"object": "list", "data": [_vllm_model(m, models[0]) for m in models]}
        return {
            "/v1/models": page(listing),
            "/version": page({"version": VLLM_VERSION}),
            "/health": page(""),
            "/metrics": _vllm_metrics(models[0], load),
        }
    return {
        "/v1/models": page({"object": "list", "data": [_llamacpp_model(m) for m in models]}),
        "/health": page({"status": "ok"}),
        "/props": page(_llamacpp_props(models[0])),
        "/metrics": _llamacpp_metrics(load),
    }


def vllm_refuses(received: Received) -> bool:
    """Whether it is a chat with bounds that contradict each other, as discovery asks."""
    if not received.path.endswith("/chat/completions") or b'"min_tokens"' not in received.body:
        return False
    asked = json.loads(received.body)
    return bool(asked["min_tokens"] > asked.get("max_tokens", CONTEXT_LENGTH))


def vllm_refusal(received: Received, tool_parser: bool) -> Script:
    """The answer to such a chat: about its bounds, or first about its tools if it was started without a parser."""
    words = "min_tokens must be less than or equal to max_tokens=1, got 2."
    if not tool_parser and b'"tools"' in received.body:
        words = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    return page({"error": {"message": words, "type": "BadRequestError", "param": None, "code": 400}}, 400)


def _openai_model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED_S, "owned_by": "scripted"}


def _anthropic_model(name: str) -> dict[str, object]:
    can = {"image_input": {"supported": True}, "structured_outputs": {"supported": False}}
    told = {"max_input_tokens": CONTEXT_LENGTH, "capabilities": can, "lifecycle": "active"}
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-05-22T00:00:00Z"} | told


def _vllm_model(name: str, base: str) -> dict[str, object]:
    """Every model after the first is a LoRA adapter of the first."""
    parent = None if name == base else base
    return _openai_model(name) | {"owned_by": "vllm", "root": name, "parent": parent, "max_model_len": CONTEXT_LENGTH}


def _llamacpp_model(name: str) -> dict[str, object]:
    meta = {"vocab_type": 2, "n_vocab": 49152, "n_ctx_train": CONTEXT_LENGTH, "n_embd": 576, "n_params": 134_515_008}
    return _openai_model(name) | {"owned_by": "llamacpp", "meta": meta}


def _llamacpp_props(name: str) -> dict[str, object]:
    return {
        "default_generation_settings": {"n_ctx": CONTEXT_LENGTH},
        "total_slots": 4,
        "model_path": f"/models/{name}.gguf",
        "modalities": {"vision": False, "audio": False},
        "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
        "build_info": "b6000-scripted",
    }


def _vllm_metrics(model: str, load: Load) -> Script:
    def script(received: Received) -> Iterable[Step]:
        labels = f'{{engine="0",model_name="{model}"}}'
        text = (
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {float(load.running)}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{labels} {float(load.waiting)}\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\n"
            f"vllm:kv_cache_usage_perc{labels} {load.kv_ratio}\n"
            "# TYPE vllm:prefix_cache_queries_total counter\n"
            f"vllm:prefix_cache_queries_total{labels} {float(load.prefix_queries)}\n"
            "# TYPE vllm:prefix_cache_hits_total counter\n"
            f"vllm:prefix_cache_hits_total{labels} {float(load.prefix_hits)}\n"
        )
        return page(text)(received)

    return script


def _llamacpp_metrics(load: Load) -> Script:
    def script(received: Received) -> Iterable[Step]:
        text = (
            "# TYPE llamacpp:requests_processing gauge\n"
            f"llamacpp:requests_processing {load.running}\n"
            "# TYPE llamacpp:requests_deferred gauge\n"
            f"llamacpp:requests_deferred {load.waiting}\n"
        )
        return page(text)(received)

    return script
