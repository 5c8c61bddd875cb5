"""A source in words."""

from __future__ import annotations

from typing import Any

from interlock.cli.sources import told

OFFER = {"name": "m", "parent": "", "version": "", "context_length": 0, "abilities": ["chat", "tools"]}
BARE: dict[str, Any] = {
    "name": "gpu-1",
    "kind": "vllm",
    "url": "http://gpu-1:8000",
    "tenant": "",
    "granted_to": [],
    "labels": {},
    "limits": {},
    "price": None,
    "drained": False,
    "engine": "",
    "engine_version": "",
    "discovered_at": None,
    "discovery_error": "it refused the connection",
    "warnings": [],
    "offers": [],
}


def test_what_was_not_given_is_told_as_what_it_means() -> None:
    assert told(BARE) == [
        "gpu-1: vllm at http://gpu-1:8000, in use",
        "  engine    ?, never looked at",
        "  error     it refused the connection",
        "  for       nobody: it is granted to no tenant",
        "  labels    no region, on-prem, data of any class",
        "  limits    saturated above 8 waiting requests, until 2 wait",
    ]


def test_what_was_given_and_found() -> None:
    lines = told(
        BARE
        | {
            "granted_to": ["acme", "globex"],
            "labels": {"region": "eu", "on_prem": False, "data_class_max": "internal", "extra": {"zone": "b"}},
            "limits": {"concurrency": 32, "waiting_max": 16, "waiting_resume": 4},
            "price": {"input_usd_per_mtok": 0.1, "cached_input_usd_per_mtok": 0, "output_usd_per_mtok": "0.2"},
            "drained": True,
            "engine": "vllm",
            "engine_version": "0.32.0",
            "discovered_at": "2026-01-01T00:00:00Z",
            "discovery_error": "",
            "warnings": ["The engine has no tool parser."],
            "offers": [OFFER, OFFER | {"name": "sql", "parent": "m", "version": "v2", "context_length": 1024}],
        }
    )
    assert lines == [
        "gpu-1: vllm at http://gpu-1:8000, drained",
        "  engine    vllm 0.32.0, looked at 2026-01-01T00:00:00Z",
        "  for       acme, globex",
        "  labels    region eu, outside the trust boundary, data up to internal, zone=b",
        "  limits    saturated above 16 waiting requests, until 4 wait; at most 32 of a node's calls at a time",
        "  price     0.1 USD (0 where cached) in, 0.2 USD out, per million tokens",
        "  warning   The engine has no tool parser.",
        "  offers    m (context unknown; chat, tools)",
        "  offers    sql (adapter of m; version v2; context 1024; chat, tools)",
    ]


def test_who_may_be_given_it() -> None:
    assert "  for       every tenant" in told(BARE | {"granted_to": ["*"]})
    assert "  for       tenant acme, which owns it" in told(BARE | {"tenant": "acme"})
