"""The engine's prefix cache is shared within a tenant and never across tenants, by the engine's own figures."""

from __future__ import annotations

import secrets

from tests.e2e.stack import Answer, until

from .conftest import note
from .engines import CACHE_BLOCK, MODEL
from .site import Site

HITS, QUERIES = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"


def test_hits_within_a_tenant_and_none_across(site: Site) -> None:
    secret = secrets.token_hex(4)
    prompt = f"The plan {secret}. " + "The quick brown fox jumps over the lazy dog. " * 20
    site.tap.bodies()
    salts: list[str] = []

    def ask(tenant: str) -> tuple[int, int, Answer]:
        """(tokens found in the cache by the engine's metrics, by the answer's usage, answer)."""
        before, queried = (site.near.metric(name) for name in (HITS, QUERIES))
        answer = site.chat(tenant, f"tapped-pass::{MODEL}", prompt, max_tokens=1)
        assert answer.status == 200, answer.body
        (salt,) = {
            body["cache_salt"] for body in site.tap.bodies()
        }  # sent twice when a kept connection was just closed
        salts.append(salt)
        until(lambda: site.near.metric(QUERIES) > queried, 10, "the engine to count the prompt")
        hits = int(site.near.metric(HITS) - before)
        return hits, answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], answer

    first, again, other, other_again, last = (
        ask(tenant) for tenant in ("initech", "initech", "umbrella", "umbrella", "initech")
    )
    assert first[:2] == (0, 0)
    assert again[:2] == (CACHE_BLOCK, CACHE_BLOCK)
    assert other[:2] == (0, 0), "what another tenant has asked leaves no trace in the answer's time"
    assert other_again[:2] == (CACHE_BLOCK, CACHE_BLOCK)
    assert last[:2] == (CACHE_BLOCK, CACHE_BLOCK)
    assert site.outcome(again[2].request_id).usage.cached_tokens == CACHE_BLOCK
    assert salts[0] == salts[1] == salts[4] != salts[2] == salts[3]
    assert len(salts[0]) == 32
    hits = [answer[0] for answer in (first, again, other, other_again, last)]
    length = first[2].json()["usage"]["prompt_tokens"]
    note(f"prefix cache: tokens hit of {length} when tenants one, one, two, two, one ask the same: {hits}")
    said = site.near.metric(HITS)
    shown = ("interlock_source_prefix_tokens", "tapped-pass")
    until(lambda: site.gauge(*shown, kind="hit") == said, 10, "the gateway's own metrics to show it")


def test_a_caller_cannot_choose_its_salt(site: Site) -> None:
    denied = site.chat("initech", f"tapped-pass::{MODEL}", cache_salt="that of another tenant")
    assert (denied.status, denied.error["code"]) == (403, "policy_denied")
