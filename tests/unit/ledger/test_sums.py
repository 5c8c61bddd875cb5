"""Where a call counts, and where what it took does: of a cascade each step at its own source and model."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from interlock.ledger.charges import interrupted
from interlock.ledger.sums import Key, Leaf, Sums, decode_leaf, key_of, lines_of, sums_of
from interlock.types.budget import Charge
from interlock.types.record import StepEnd
from interlock.types.usage import Cost, Energy, Usage

UTC = ZoneInfo("UTC")
KWH = 3_600_000_000_000
"""Microjoules."""


def took(tokens: int, nusd: int, uj: int, factor: int = 0, origin: str = "engine") -> dict[str, Any]:
    return {
        "tokens": {"prompt": tokens, "cached": tokens // 2, "completion": tokens // 4, "origin": origin},
        "cost": {"nusd": nusd},
        "energy": {"uj": uj, "low_uj": uj // 2, "high_uj": uj * 2, "ug_per_kwh": factor},
    }


def step(model: str, *figures: Any, **more: Any) -> dict[str, Any]:
    return {"source": f"s-{model}", "model": model, **took(*figures, **more)}


def leaf(whole: dict[str, Any], *steps: dict[str, Any], given: str = "large", state: str = "completed") -> Leaf:
    made = {
        "tree": "ten_1", "at": 0, "kind": "call", "who": {"team": "team_1"}, "what": {"class": "c"},
        "where": {"name": f"s-{given}", "model": given}, "result": {"state": state}, **whole,
    }  # fmt: skip
    if steps:
        made["cascade"] = {"steps": 3, "tried": list(steps)}
    return decode_leaf(msgspec.json.encode(made))


def by_model(found: Leaf) -> dict[str, Sums]:
    out: dict[str, Sums] = {}
    for key, each in lines_of(found, UTC):
        assert (key.team_id, key.request_class, key.source) == ("team_1", "c", f"s-{key.model}")
        out[key.model] = out.get(key.model, Sums()).plus(each)
    return out


def test_each_step_counts_where_it_ran_and_the_call_once() -> None:
    whole = took(44, 1005, 3 * KWH, 400, "reserved")
    whole["energy"].update(low_uj=KWH + KWH // 2, high_uj=6 * KWH)
    found = leaf(whole, step("small", 40, 5, KWH, 200), step("large", 4, 1000, 2 * KWH, 500, origin="reserved"))
    sums = by_model(found)
    assert {model: each.nusd for model, each in sums.items()} == {"small": 5, "large": 1000}
    assert {model: (each.calls, each.steps) for model, each in sums.items()} == {"small": (0, 1), "large": (1, 1)}
    assert sums["small"].reserved_nusd == 0 and sums["large"].reserved_nusd == 1000, "one of them told what it used"
    assert (sums["small"].prompt_tokens, sums["small"].cached_tokens, sums["small"].completion_tokens) == (40, 20, 10)
    assert (sums["small"].co2e_ug, sums["large"].co2e_ug) == (200, 1000), "each by the grid that it ran on"
    total = sums["small"].plus(sums["large"])
    assert total == sums_of(found) and (total.nusd, total.uj, total.calls, total.failures) == (1005, 3 * KWH, 1, 0)


def test_what_came_after_the_steps_counts_where_the_call_ended() -> None:
    found = leaf(took(100, 900, 50, origin="reserved"), step("small", 40, 100, 20), given="large", state="disconnected")
    sums = by_model(found)
    assert sums["small"] == Sums(0, 0, 0, 40, 20, 10, 100, 0, 20, 10, 40, unplaced_uj=20, steps=1)
    assert sums["large"] == Sums(1, 0, 1, 60, 30, 15, 800, 800, 30, 15, 60, unplaced_uj=30)


def test_an_answer_of_a_step_before_the_last_is_a_call_of_its_model() -> None:
    found = leaf(took(50, 30, 0), step("small", 40, 10, 0), step("large", 10, 20, 0), given="small")
    sums = by_model(found)
    assert (sums["small"].calls, sums["small"].nusd, sums["large"].calls, sums["large"].nusd) == (1, 10, 0, 20)


@pytest.mark.parametrize("steps", [(), (step("small", 4, 1, 0), step("large", 4, 9, 0))], ids=["none", "too much"])
def test_a_call_is_one_line_without_steps_and_where_they_contradict_it(steps: tuple[dict[str, Any], ...]) -> None:
    found = leaf(took(10, 9, 8, 3_600), *steps)
    assert lines_of(found, UTC) == [(key_of(found, UTC), sums_of(found))]
    assert sums_of(found) == Sums(1, 0, 0, 10, 5, 2, 9, 0, 8, 4, 16)


@pytest.mark.parametrize(
    ("slo", "counted"),
    [
        (None, (0, 0)),
        ({"ttft_ms": 9, "ttft": "met", "cost": "met", "outcome": "met"}, (1, 1)),
        ({"ttft_ms": 9, "ttft": "met", "cost": "missed", "outcome": "missed"}, (1, 0)),
        ({"ttft_ms": 9, "ttft": "unknown", "outcome": "unknown"}, (1, 0)),
        ({"ttft_ms": 9}, (1, 0)),
    ],
    ids=["none", "met", "missed", "unknown", "interrupted"],
)
def test_objectives_are_the_calls_and_count_once(slo: dict[str, Any] | None, counted: tuple[int, int]) -> None:
    whole = took(50, 30, 0) | ({} if slo is None else {"slo": slo})
    sums = by_model(leaf(whole, step("small", 40, 10, 0), step("large", 10, 20, 0)))
    assert (sums["small"].slo_calls, sums["small"].slo_met) == (0, 0), "a step is no call"
    assert (sums["large"].slo_calls, sums["large"].slo_met) == counted
    total = sums_of(leaf(whole))
    assert (total.slo_calls, total.slo_met) == counted


def test_a_refusal_for_its_objective_is_no_call_that_had_one() -> None:
    refused = leaf({"kind": "refusal", "slo": {"ttft_ms": 9, "strict": True}})
    assert sums_of(refused) == Sums(refusals=1)


def test_a_refusal_is_one_line() -> None:
    refused = decode_leaf(b'{"tree": "ten_1", "at": 0, "kind": "refusal", "what": {"model": "m"}}')
    assert lines_of(refused, UTC) == [(Key(key_of(refused, UTC).day, "", "", "", "m", ""), Sums(refusals=1))]


def test_budgets_of_a_call_that_was_interrupted_take_what_their_models_steps_took() -> None:
    """Only where something was under way does what was reserved stand for what nobody knows."""
    over = StepEnd(1, 0, 0, 1, "small", False, (), (), Usage(10, 0, 5, "engine"), Cost(7), Energy(3, 3, 3), b"")
    charges = [
        Charge(f"{measure} {model}", measure, 0, 1000 if model != "small" else 0, model)
        for measure in ("tokens", "nusd", "uj", "calls")
        for model in ("small", "large", "")
    ]
    named = {charge.budget: 0 for charge in charges}
    ran = dict(zip(named, interrupted(charges, ran=True, model="large", cost=Cost(90), steps=[over]), strict=True))
    assert [ran[f"tokens {model}"] for model in ("small", "large", "")] == [15, 1000, 1000]
    assert [ran[f"nusd {model}"] for model in ("small", "large", "")] == [7, 90, 97]
    assert [ran[f"uj {model}"] for model in ("small", "large", "")] == [3, 1000, 1000]
    assert [ran[f"calls {model}"] for model in ("small", "large", "")] == [1, 1, 1]
    none = dict(zip(named, interrupted(charges, ran=False, model="", cost=Cost(), steps=[over]), strict=True))
    assert [none[f"{measure} "] for measure in ("tokens", "nusd", "uj", "calls")] == [15, 7, 3, 1]
    assert [none[f"{measure} large"] for measure in ("tokens", "nusd", "uj", "calls")] == [0, 0, 0, 0]
