"""How sources are, in words: the first reason that holds."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.control.live.states import HEARD_S, PrefixRates, SourceLine, lines
from interlock.storage.nodes import Told
from interlock.storage.sources import SourceRow
from interlock.types.identity import DataClass
from interlock.types.source import Labels, Model, SourceKind, SourceLimits, SourceState


def source(**changed: Any) -> SourceRow:
    given: dict[str, Any] = {
        "id": "src_1",
        "name": "local",
        "kind": SourceKind.vllm,
        "base_url": "http://x",
        "granted_to": ("*",),
        "models": (Model("m"),),
        "limits": SourceLimits(concurrency=8),
    }
    return SourceRow(**(given | changed))


def state(**changed: Any) -> SourceState:
    given: dict[str, Any] = {
        "id": "src_1",
        "inflight": 0,
        "waiting": 0,
        "running": 0,
        "kv_permille": 100,
        "healthy": True,
        "saturated": False,
        "breaker": "closed",
        "contended": False,
    }
    return SourceState(**(given | changed))


def line(of: SourceRow, *states: SourceState, ended: int = 0, ago_s: float = 1.0) -> SourceLine:
    told = [Told(f"node-{n}", ago_s, [each]) for n, each in enumerate(states)]
    (made,) = lines([of], told, PrefixRates(), {"local": ended}, "no call ended there")
    return made


@pytest.mark.parametrize(
    ("of", "told", "word", "says"),
    [
        ({"drained": True}, {"healthy": False}, "drained", "administrator"),
        ({"engine_state": "loading"}, {}, "loading", "loading"),
        ({"models": (), "discovery_error": "refused"}, {}, "no model", "refused"),
        ({"granted_to": ()}, {}, "granted to nobody", "no tenant"),
        ({}, {"healthy": False, "breaker": "open"}, "down", "nothing is sent"),
        ({}, {"breaker": "open", "saturated": True}, "breaker open", "failed one after another"),
        ({}, {"breaker": "half_open"}, "breaker half open", "try"),
        ({}, {"breaker": "cooling"}, "cooling down", "Retry-After"),
        ({}, {"saturated": True}, "saturated", "(8)"),
        ({}, {"contended": True}, "calls wait", "8 seats"),
        ({}, {"inflight": 1}, "in use", "healthy"),
        ({"labels": Labels(data_class_max=DataClass.internal)}, {}, "idle", "class internal"),
    ],
)
def test_the_first_reason_that_holds_is_told(of: dict[str, Any], told: dict[str, Any], word: str, says: str) -> None:
    made = line(source(**of), state(**told))
    assert made.state == word and says in made.why


def test_nodes_are_put_together() -> None:
    made = line(source(), state(inflight=3), state(inflight=4, breaker="open"))
    assert (made.inflight, made.seats, made.nodes, made.breaker) == (7, 16, 2, "open")
    assert made.why.endswith("on 1 of 2 nodes.")


def test_what_is_old_counts_for_nothing() -> None:
    made = line(source(), state(inflight=3), ago_s=HEARD_S + 1)
    assert (made.state, made.inflight, made.waiting) == ("not heard of", 0, -1)


def test_prefix_hits_are_those_of_lately() -> None:
    rates = PrefixRates()

    def told(queries: int, hits: int) -> list[Told]:
        return [Told("n", 0, [state(prefix_queries=queries, prefix_hits=hits)])]

    rates.note(told(1000, 900), 0)
    assert rates.permille("src_1") == -1, "nothing was looked up since"
    rates.note(told(1100, 925), 30)
    assert rates.permille("src_1") == 250
    for second in range(31, 100):
        rates.note(told(1100, 925), second)
    assert rates.permille("src_1") == -1
    rates.note(told(10, 5), 101)
    rates.note(told(30, 15), 102)
    assert rates.permille("src_1") == 500, "the engine was started anew"
    rates.note([], 103)
    assert rates.permille("src_1") == -1
