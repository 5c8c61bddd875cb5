"""What sharing tenants give each other: bounds that hold for whatever any of them says, and what leaves at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.control.learning.samples import placed
from interlock.learning.shared import STEP, Given, OwnOutcomes, Pool, prior_of
from interlock.learning.trainer import Arm, Outcome, Plan, Said, Trainer
from interlock.types.learned import SHARED, ArmWeights

givens = st.builds(Given, st.integers(1, 500_000), st.integers(0, 1_000_000))
pools = st.builds(Pool, st.integers(2, 200), st.integers(2, 9), st.integers(1, 50))
ROUNDED = 1 / STEP + 1e-9


@given(st.lists(givens, max_size=12), pools, givens, givens)
def test_one_tenant_moves_the_figure_by_its_part_at_most(
    others: list[Given], pool: Pool, said: Given, lie: Given
) -> None:
    honest, dishonest = prior_of([*others, said], pool), prior_of([*others, lie], pool)
    if honest is not None and dishonest is not None:
        assert abs(honest[0] - dishonest[0]) <= 1 / pool.tenants_min + ROUNDED
    alone = prior_of([lie] * (pool.tenants_min - 1), pool)
    assert alone is None, "fewer tenants than it takes tell nothing, whatever they say"


@given(st.lists(givens, max_size=12), pools)
def test_a_figure_is_of_enough_outcomes_of_enough_tenants_and_bounded(others: list[Given], pool: Pool) -> None:
    found = prior_of(others, pool)
    most = 1000 * pool.outcomes_min // pool.tenants_min
    assert (found is not None) == (sum(min(o.outcomes_milli, most) for o in others) >= most * pool.tenants_min)
    if found is not None:
        assert len(others) >= pool.tenants_min
        assert min(o.mean_micro for o in others) / 1e6 - ROUNDED <= found[0]
        assert found[0] <= max(o.mean_micro for o in others) / 1e6 + ROUNDED
        assert 0 < found[1] <= pool.weight_max or pool.outcomes_min < 2
        assert prior_of(others[::-1], pool) == found, "in whatever order"


def test_the_figure_is_as_the_formula_says() -> None:
    assert prior_of([Given(500_000, 900_000), Given(15_000, 100_000)], Pool()) == (0.5, 20), "15 of each count"
    assert prior_of([Given(500_000, 900_000), Given(14_999, 100_000)], Pool()) is None
    three = [Given(10_000, 900_000), Given(10_000, 600_000), Given(10_000, 300_000)]
    assert prior_of(three, Pool()) == (0.6, 20)
    assert prior_of(three, Pool(tenants_min=4)) is None


def outcome(arm: str, source: str, reward: float) -> Outcome:
    return Outcome(arm, reward, "feedback", None, "team_1", 5, source)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("", "own", "gpu", "gpu2")), st.sampled_from((0.0, 1.0))))
)
def test_only_what_the_platforms_sources_answered_leaves(told: list[tuple[str, str, float]]) -> None:
    own = OwnOutcomes(100)
    for arm, source, reward in told:
        own.take(outcome(arm, source, reward))
    found = own.given({"gpu", "gpu2"}, {"a"})
    counted = [(s, r) for a, s, r in told if a == "a" and s in ("gpu", "gpu2")]
    assert set(found) == ({"a"} if counted else set())
    if counted:
        assert found["a"].outcomes_milli <= 1000 * len(counted)
        assert 0 <= found["a"].mean_micro <= 1_000_000
        if all(r == 1.0 for _, r in counted):
            assert found["a"].mean_micro == 1_000_000, "what own sources answered is in no figure"
    assert own.given(set(), {"a", "b"}) == {} == own.given({"gpu"}, set())


def test_old_outcomes_fade_and_what_is_held_is_bounded() -> None:
    own = OwnOutcomes(2)
    for _ in range(3_000):
        own.take(outcome("a", "gpu", 0.0))
    for _ in range(1_000):
        own.take(outcome("a", "gpu", 1.0))
    found = own.given({"gpu"}, {"a"})["a"]
    assert found.outcomes_milli <= 500_000 and found.mean_micro > 800_000
    for source in ("one", "two", "three"):
        own.take(outcome("b", source, 1.0))
    assert set(own.given({"gpu", "one", "two", "three"}, {"a", "b"})) == {"b"}
    assert own.given({"one", "two", "three"}, {"b"})["b"].outcomes_milli == 2_000


def trainer(**arms: Arm) -> Trainer:
    made = Trainer(Plan(), np.random.default_rng(1))
    made.models(arms or {"a@1": Arm(1.0), "b": Arm(1.0, 0.8), "c": Arm(0.0)})
    return made


def known(of: Trainer, arm: str) -> tuple[float, dict[str, int]]:
    weights, _ = of.state(1, 0)
    found: ArmWeights = next(each for each in weights.arms if each.arm == arm)
    return found.capabilities[0].mean_micro / 1e6, found.origins


def test_it_stands_in_the_place_of_the_price_and_of_nothing_else() -> None:
    made = trainer()
    everything = {arm: Said(0.3, 20, SHARED) for arm in ("a@1", "b", "c", "gone")}
    made.shared(everything)
    assert known(made, "a@1") == (0.3, {SHARED: 20}) == known(made, "c")
    assert SHARED not in known(made, "b")[1], "its source says what to expect"
    made.said({"a@1": Said(0.9, 50)})
    assert known(made, "a@1") == (0.9, {"set": 50}), "an administrator's word counts instead"
    made.said({})
    for _ in range(200):
        made.outcome(outcome("a@1", "gpu", 1.0))
    assert known(made, "a@1")[0] > 0.85 and known(made, "a@1")[1] == {"feedback": 200, SHARED: 20}
    made.models({"a@1": Arm(1.0), "a@2": Arm(1.0)})
    made.shared({"a@2": Said(0.3, 20, SHARED)})
    assert SHARED not in known(made, "a@2")[1] and known(made, "a@2")[0] > 0.8, "the version before tells more"
    made.shared({})
    assert SHARED not in known(made, "a@1")[1], "taken back it leaves no trace"


def test_what_was_got_is_in_nothing_that_is_given() -> None:
    made = trainer()
    for _ in range(10):
        made.outcome(outcome("a@1", "gpu", 1.0))
    before = made.given({"gpu"}, {"a@1", "c"})
    made.shared({arm: Said(0.0, 20, SHARED) for arm in ("a@1", "c")})
    made.state(1, 0)
    assert made.given({"gpu"}, {"a@1", "c"}) == before and set(before) == {"a@1"}


LEAF: dict[str, Any] = {
    "request": "req_1", "who": {"team": "team_1"}, "at": 7, "where": {"source": "src_1", "model": "a", "version": "1"},
}  # fmt: skip
STEP_OF = {"model": "a", "version": "1"}


@pytest.mark.parametrize(
    ("arm", "steps", "source"),
    [
        ("a@1", [], "src_1"),
        ("a@1", [STEP_OF], "src_1"),
        ("a@1", [STEP_OF, STEP_OF], ""),
        ("b", [], ""),
        ("a@2", [STEP_OF], ""),
    ],
)
def test_an_outcome_is_of_a_source_only_where_that_is_sure(arm: str, steps: list[Any], source: str) -> None:
    leaf = LEAF | ({"cascade": {"tried": steps}} if steps else {})
    found = placed(Outcome(arm, 1.0, "validation", None), leaf)
    assert (found.team, found.at_ns, found.source, found.call) == ("team_1", 7, source, "req_1")
