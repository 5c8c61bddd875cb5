"""What a call is expected to cost: from the log alone, in its unit, right in the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from interlock.learning.costs import FittedCosts
from interlock.learning.fit import Design
from interlock.learning.prompt import Prompt, read
from interlock.learning.understanding import Understanding

LONG, SHORT = "derive and explain each step of the proof of this theorem", "name the capital of this country"


def _log(rng: np.random.Generator, number: int = 400) -> tuple[list[Prompt], NDArray[np.float64]]:
    """Prompts of two kinds; one takes answers ten times as long, of the second of three models twenty times."""
    long = rng.random(number) < 0.5
    texts = [f"{LONG if one else SHORT} number {n}" for n, one in enumerate(long)]
    noise = rng.lognormal(0.0, 0.3, (number, 3))
    by_kind = np.where(long[:, None], [1.0, 20.0, 0.0], [0.1, 1.0, 0.0])
    return [read(text) for text in texts], by_kind * noise


def _viewed(prompts: Sequence[Prompt], rng: np.random.Generator) -> Callable[[Sequence[Prompt]], Design]:
    understanding = Understanding(prompts, rng)
    return lambda some: Design(understanding, some)


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_costs_follow_the_prompt_and_are_right_in_the_mean(unit: float) -> None:
    rng = np.random.default_rng(1)
    prompts, costs = _log(rng)
    view = _viewed(prompts, rng)
    fitted = FittedCosts(view, prompts, costs * unit, np.random.default_rng(2))
    assert fitted.predict(view(prompts)).mean(0) == pytest.approx(costs.mean(0) * unit, rel=1e-4)
    long, short = fitted.predict(view([read(f"{LONG} number 1000"), read(f"{SHORT} number 1000")])) / unit
    assert 5 < long[0] / short[0] < 15 and 10 < long[1] / short[1] < 30, "each model's own"
    assert 0.7 < long[0] < 1.4 and 14 < long[1] < 28, "in the unit of the log"
    assert long[2] == short[2] == 0, "what is free stays free"


def test_single_calls_that_cost_nothing_do_not_make_a_model_free() -> None:
    rng = np.random.default_rng(3)
    prompts, costs = _log(rng)
    costs[::10] = 0
    view = _viewed(prompts, rng)
    found = FittedCosts(view, prompts, costs, np.random.default_rng(4)).predict(view(prompts))
    assert np.isfinite(found).all() and (found[:, :2] > 0).all()
    assert found.mean(0) == pytest.approx(costs.mean(0), rel=1e-4)
