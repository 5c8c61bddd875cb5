"""Whatever is known and allowed: a choice stays inside the set and the bounds; a folder is read or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import ConfigError
from interlock.learning.choose import choose
from interlock.learning.evaluation.data import load
from interlock.learning.evaluation.metrics import hull

_value = st.floats(-5, 5)
_candidates = st.lists(
    st.tuples(_value, st.floats(0, 1), st.floats(0, 100), st.booleans()), min_size=1, max_size=50
).filter(lambda c: any(allowed for *_, allowed in c))


@given(_candidates, st.floats(-1, 1), st.floats(-1, 50), st.integers(0, 2**32 - 1))
def test_a_choice_never_leaves_the_allowed_set_nor_its_bounds(
    candidates: list[tuple[float, float, float, bool]], share: float, money: float, seed: int
) -> None:
    values, doubts, costs = (np.array([c[i] for c in candidates]) for i in range(3))
    allowed = np.array([c[3] for c in candidates])
    choice = choose(values, doubts, costs, allowed, share, money, np.random.default_rng(seed))
    chances = choice.propensities
    assert allowed[choice.taken] and choice.propensity > 0
    assert not chances[~allowed].any() and abs(chances.sum() - 1) < 1e-9 and (chances >= 0).all()
    assert values[choice.best] == values[allowed].max()
    assert 1 - chances[choice.best] <= max(share, 0) + 1e-9
    assert chances @ np.maximum(costs - costs[choice.best], 0) <= max(money, 0) + 1e-6


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=30))
def test_no_point_lies_above_the_hull(points: list[tuple[float, float]]) -> None:
    corners = hull(points)
    costs, heights = [c for c, _ in corners], [q for _, q in corners]
    assert costs == sorted(set(costs)) and heights == sorted(set(heights))
    for cost, quality in points:
        if cost >= costs[0]:
            assert quality <= np.interp(cost, costs, heights) + 1e-9


@given(st.dictionaries(st.sampled_from(("prompts.jsonl", "quality.csv.gz", "cost.csv", "pool.json")), st.binary()))
def test_a_folder_of_anything_is_refused_in_one_line(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        try:
            load(Path(name))
        except ConfigError as e:
            assert "\n" not in e.message
        else:
            raise AssertionError("it was taken")
