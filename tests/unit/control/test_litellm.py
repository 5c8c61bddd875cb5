"""A LiteLLM configuration becomes a document that applies; what it cannot say is told; no secret leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.litellm import PROVIDERS, convert
from interlock.control.parse import parse, write_yaml
from interlock.control.plan import flatten
from interlock.control.services import policies
from interlock.control.validate import check
from interlock.errors import ConfigError

CONFIG = """
model_list:
  - model_name: gpt-4o
    litellm_params: &azure
      model: azure/gpt-4o-eu
      api_base: https://acme-eu.openai.azure.com/openai/deployments/x
      api_key: os.environ/AZURE_EU_KEY
      api_version: "2024-02-01"
      rpm: 6
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-ca
      api_base: https://acme-ca.openai.azure.com
      api_key: "a-secret-in-the-file"
      weight: 3
  - model_name: small
    litellm_params:
      model: hosted_vllm/meta-llama/Llama-3.1-8B
      api_base: http://10.1.2.3:8000/v1
      api_key: none
      input_cost_per_token: 0.0000005
      max_parallel_requests: 16
      timeout: 30
    model_info: {mode: chat, output_cost_per_token: 1.5e-6}
  - model_name: small
    litellm_params: {model: openai/meta-llama/Llama-3.1-8B, api_base: "https://me:hidden@gpu.example.com/v1?k=hidden"}
  - model_name: text-embedding-3-small
    litellm_params: {model: text-embedding-3-small}
  - model_name: cloudy
    litellm_params: {model: bedrock/anthropic.claude-3, aws_secret_access_key: hidden-too}
  - model_name: elsewhere
    litellm_params: {model: openai/m, api_base: os.environ/WHERE}
  - model_name: nowhere
    litellm_params: {model: openai/m, api_base: os.environ/NOT_SET}
  - model_name: "groq/*"
    litellm_params: {model: "groq/*", litellm_credential_name: groq}
  - litellm_params: {}
credential_list:
  - {credential_name: groq, credential_values: {api_key: os.environ/MY_GROQ}}
router_settings:
  routing_strategy: least-busy
  model_group_alias: {gpt-4: gpt-4o, tiny: {model: small, hidden: true}, lost: nothing}
  fallbacks: [{gpt-4o: [small]}]
litellm_settings: {drop_params: true, max_budget: 100, budget_duration: 30d}
general_settings: {master_key: sk-hidden, database_url: "postgresql://u:hidden@db/x"}
environment_variables: {REDIS_PASSWORD: hidden}
guardrails: [{x: hidden}]
"""
SECRETS = ("a-secret-in-the-file", "hidden@", "=hidden", "hidden-too", "sk-hidden")


def sound(document: dict[str, Any]) -> None:
    """The document is one that `apply` takes."""
    read, places = parse([("imported.yaml", write_yaml(document))])
    entries = flatten(read, places)
    check(entries, entries, places, policies.check, deletes=False)


def test_a_configuration_becomes_a_document_and_the_rest_is_told() -> None:
    found = convert(CONFIG, tenant="acme", environment={"WHERE": "https://x.example.com/v1"})
    sound(found.document)
    sources = {s["name"]: s for s in found.document["sources"]}
    assert sources["azure"] == {
        "name": "azure",
        "kind": "openai",
        "url": "https://acme-eu.openai.azure.com",
        "granted_to": ["acme"],
        "api_prefix": "/openai/v1",
        "labels": {"on_prem": False, "data_class_max": "internal"},
        "models": [{"name": "gpt-4o-eu"}],
        "declared_only": True,
        "credential": {"env": "AZURE_EU_KEY", "header": "api-key", "scheme": ""},
    }
    assert sources["azure-2"]["credential"]["env"] == "AZURE_2_API_KEY"
    vllm = sources["hosted-vllm"]
    assert (vllm["kind"], vllm["url"], vllm["labels"]) == ("vllm", "http://10.1.2.3:8000", {"on_prem": True})
    assert vllm["limits"] == {"concurrency": 16} and vllm["timeouts"] == {"total_ms": 30_000}
    price = {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": "1.5"}
    assert vllm["models"] == [{"name": "meta-llama/Llama-3.1-8B", "price": price}] and "credential" not in vllm
    assert sources["openai"]["url"] == "https://gpu.example.com"
    assert sources["openai-2"]["credential"] == {"env": "OPENAI_API_KEY"}
    assert sources["groq"]["credential"] == {"env": "MY_GROQ"} and sources["groq"]["models"] == []
    (tenant,) = found.document["tenants"]
    aliases = {a["name"]: a["targets"] for a in tenant["aliases"]}
    assert (
        aliases["gpt-4o"]
        == aliases["gpt-4"]
        == [
            {"model": "gpt-4o-eu", "source": "azure"},
            {"model": "gpt-4o-ca", "source": "azure-2", "weight": 3},
        ]
    )
    assert aliases["tiny"] == aliases["small"]
    assert set(aliases) == {"gpt-4o", "gpt-4", "small", "tiny", "elsewhere"}
    assert tenant["budgets"] == [{"name": "litellm", "usd": "100", "window": "30d"}]
    assert tenant["policies"][0]["parameters"]["models"] == "*", "the wildcard's models have no names yet"
    told = "\n".join(found.notes)
    for words in (
        "AZURE_2_API_KEY",
        "'cloudy' was not imported: provider bedrock",
        "variable NOT_SET",
        "model_list[9]: not imported",
        "litellm_params.api_version",
        "litellm_params.rpm",
        "lost: there is no such model group",
        "router_settings.fallbacks",
        "router_settings.routing_strategy",
        "litellm_settings.drop_params",
        "general_settings.master_key",
        "environment_variables.REDIS_PASSWORD",
        "guardrails was not imported",
        "user name, password, query",
    ):
        assert words in told, words


def test_no_secret_leaves() -> None:
    found = convert(CONFIG, environment={"WHERE": "https://x.example.com"})
    everything = json.dumps([found.document, found.notes]) + write_yaml(found.document)
    assert [secret for secret in SECRETS if secret in everything] == []


SECRET = "zZ-secret-9"
_leaves = st.sampled_from(
    [SECRET, f"https://u:{SECRET}@h.example.com/v1", f"os.environ/{SECRET}", 1, None, True, [SECRET]]
)
_fields = st.sampled_from(
    ["api_key", "api_base", "base_url", "extra_headers", "organization", "timeout", "weight", "rpm", "api_version"]
)
_models = st.sampled_from([f"{p}/m" for p in PROVIDERS] + ["bedrock/m", "m", "openai/*"])


@given(
    st.lists(
        st.tuples(_models, st.dictionaries(_fields, st.one_of(_leaves, st.dictionaries(_fields, _leaves)))), min_size=1
    ),
    st.dictionaries(st.sampled_from(["master_key", "database_url", "max_budget"]), _leaves),
)
def test_whatever_is_in_the_file_no_value_of_a_field_that_may_be_secret_leaves(
    entries: list[tuple[str, dict[str, Any]]], settings: dict[str, Any]
) -> None:
    listed = [{"model_name": f"g{i}", "litellm_params": {"model": m, **p}} for i, (m, p) in enumerate(entries)]
    text = yaml.safe_dump({"model_list": listed, "general_settings": settings, "litellm_settings": settings})
    try:
        found = convert(text)
    except ConfigError as e:
        assert SECRET not in e.message
        return
    assert SECRET not in json.dumps([found.document, found.notes])
    kinds = {"openai", "vllm"}
    known = [s for s in found.document["sources"] if s["kind"] in kinds]
    names = {s["name"] for s in known}
    (tenant,) = found.document["tenants"]
    aliases = [a for a in tenant.get("aliases", []) if {t["source"] for t in a["targets"]} <= names]
    sound({"sources": known, "tenants": [{**tenant, "aliases": aliases}]})


@pytest.mark.parametrize(
    ("model", "kind", "url", "header"),
    [
        ("anthropic/claude-x", "anthropic", "https://api.anthropic.com", "x-api-key"),
        ("claude-x", "anthropic", "https://api.anthropic.com", "x-api-key"),
        ("ollama/llama3", "ollama", "http://127.0.0.1:11434", None),
        ("ollama_chat/llama3", "ollama", "http://127.0.0.1:11434", None),
        ("gemini/g", "openai", "https://generativelanguage.googleapis.com", None),
    ],
)
def test_kinds_of_sources(model: str, kind: str, url: str, header: str | None) -> None:
    found = convert(f"model_list: [{{model_name: g, litellm_params: {{model: {model}}}}}]")
    (source,) = found.document["sources"]
    assert (source["kind"], source["url"]) == (kind, url)
    assert source.get("credential", {}).get("header") == header


@pytest.mark.parametrize(
    "text", ["", "[]", "a: b", "model_list: []", "model_list: [{model_name: x}]", "a: [", "a: &x [*x]"]
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        convert(text)
