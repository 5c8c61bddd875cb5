"""How quickly offers answer, for scores: at most so many are followed, and a new one is always among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from interlock.gateway.runtime import Runtime
from interlock.routing.score import latency_micro


def test_the_offer_that_was_longest_without_an_answer_makes_room_for_a_new_one() -> None:
    runtime = cast("Any", SimpleNamespace(_mean_us={}, _offers_max=3, latencies={}))
    for offer in ("a", "b", "c", "a", "d"):
        Runtime.observe_latency(runtime, offer, 50_000)
    known = dict.fromkeys(("c", "a", "d"), latency_micro(50_000))
    assert runtime.latencies == known and list(runtime._mean_us) == list(known)
    for _ in range(60):
        Runtime.observe_latency(runtime, "c", 4_000_000)
    assert runtime.latencies["c"] > latency_micro(1_000_000)
    Runtime.observe_latency(runtime, "e", 1_000)
    assert "a" not in runtime.latencies and runtime.latencies["e"] == latency_micro(1_000)
