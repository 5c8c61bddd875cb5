"""Conversations at two replicas stay with the one that has them cached, by the engines' own figures."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from interlock.types.record import Intent
from tests.e2e.stack import fetch

from .conftest import note
from .engines import CACHE_BLOCK, MODEL
from .site import Site, seconds

TALKS, TURNS = 6, 4
TWINS = ("twin-near", "twin-far")
WORDS = 110
"""So many that each turn adds a block of the cache or more: about 130 tokens."""
FILLER = "The quick brown fox jumps over the lazy dog and runs far away. "


def talk(site: Site, name: str, model_of: Callable[[int], str]) -> tuple[list[str], int, int]:
    """All turns of one conversation: where each was answered, its prompts' tokens, and those found cached."""
    messages: list[dict[str, str]] = []
    where, asked, cached = [], 0, 0
    for turn in range(TURNS):
        filler = " ".join((FILLER * 10).split()[:WORDS])
        messages.append({"role": "user", "content": f"{name} {turn}. {filler}"})
        body: dict[str, Any] = {"model": model_of(turn), "max_tokens": 4, "messages": messages, "temperature": 0}
        answer = fetch(site.up.gateway, "/v1/chat/completions", site.keys["hooli"], body, timeout_s=300)
        assert answer.status == 200, answer.body
        usage = answer.json()["usage"]
        where.append(site.record(answer.request_id, Intent).route.candidates[0].offer.partition("::")[0])
        asked += usage["prompt_tokens"]
        cached += usage["prompt_tokens_details"]["cached_tokens"]
        messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
    return where, asked, cached


def test_conversations_stay_and_find_more_cached_than_by_turns(site: Site) -> None:
    run = secrets.token_hex(4)

    def conversations(kind: str, model_of: Callable[[int], str]) -> tuple[list[list[str]], float, float]:
        """Where the turns went, the share of prompts found cached, and the seconds that all took."""
        began = time.monotonic()
        found = [talk(site, f"{run} {kind} {n}", model_of) for n in range(TALKS)]
        share = sum(cached for _, _, cached in found) / sum(asked for _, asked, _ in found)
        return [where for where, _, _ in found], share, seconds(began)

    placed, hits, took_s = conversations("placed", lambda _: MODEL)
    spread, other_hits, other_s = conversations("spread", lambda turn: f"{TWINS[turn % 2]}::{MODEL}")
    homes = Counter(where[0] for where in placed)
    note(
        f"placement: {hits:.0%} of prompt tokens cached in {took_s:.0f} s, by turns {other_hits:.0%} in "
        f"{other_s:.0f} s; conversations at each replica: {dict(homes)}"
    )
    assert all(len(set(where)) == 1 for where in placed), placed
    assert all(set(where) == set(TWINS) for where in spread)
    assert hits > 1.5 * other_hits, f"blocks of {CACHE_BLOCK} tokens"
