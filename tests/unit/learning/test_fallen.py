"""A model that became worse, or is new, has a part of what is tried, until it is as it was, or known; not for ever."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from interlock.learning.published import Expectations
from interlock.learning.trainer import Arm, Outcome, Plan, Told, Trainer
from interlock.learning.trials import DUE_TIMES


def call(trainer: Trainer, arm: str, *, tried: bool) -> None:
    trainer.call(Told(arm, arm, False, -1, -1, 0, 1, -1, several=True, tried=tried))


def marked(trainer: Trainer, new: Collection[str] = ()) -> set[str]:
    weights, _ = trainer.state(1, 0)
    assert {arm.arm for arm in weights.arms if arm.due_new} == set(new), "those that are new are told apart"
    known = Expectations(weights).estimates(b"", 0).due
    assert known == {arm.arm for arm in weights.arms if arm.due}
    return set(known)


def outcomes(trainer: Trainer, arm: str, reward: float, number: int) -> None:
    for _ in range(number):
        trainer.outcome(Outcome(arm, reward, "feedback", None))


def fallen(plan: Plan) -> Trainer:
    trainer = Trainer(plan, np.random.default_rng(1))
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    trainer.state(1, 0)
    for arm in ("a", "b"):
        outcomes(trainer, arm, 0.9, 120)
    assert marked(trainer) == set()
    outcomes(trainer, "a", 0.0, 100)
    return trainer


def test_a_model_that_became_worse_is_marked_until_it_is_the_best_again() -> None:
    trainer = fallen(Plan())
    assert marked(trainer) == {"a"}
    call(trainer, "a", tried=False)  # a call that was decided before anybody knew
    assert marked(trainer) == {"a"}
    outcomes(trainer, "a", 1.0, 60)
    call(trainer, "a", tried=True)
    assert marked(trainer) == {"a"}, "it is not the best yet"
    call(trainer, "a", tried=False)
    assert marked(trainer) == set()


def test_a_model_that_became_better_is_not_marked() -> None:
    trainer = Trainer(Plan(), np.random.default_rng(1))
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    trainer.state(1, 0)
    outcomes(trainer, "a", 0.1, 120)
    outcomes(trainer, "a", 1.0, 60)
    assert marked(trainer) == set()


def test_it_is_tried_so_often_and_no_more() -> None:
    plan = Plan(cold_calls=3)
    trainer = fallen(plan)
    for _ in range(DUE_TIMES * plan.cold_calls - 1):
        call(trainer, "a", tried=True)
    assert marked(trainer) == {"a"}
    call(trainer, "a", tried=True)
    assert marked(trainer) == set()


def test_a_model_that_is_gone_is_marked_no_more() -> None:
    trainer = fallen(Plan())
    trainer.models({"b": Arm(1.0)})
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    assert marked(trainer) == set()


def test_a_model_that_is_new_is_marked_and_one_that_comes_back_is_not() -> None:
    trainer = Trainer(Plan(cold_calls=2), np.random.default_rng(1))
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    assert marked(trainer) == set(), "all are new"
    outcomes(trainer, "a", 0.9, 10)
    outcomes(trainer, "b", 0.9, 10)
    trainer.models({"a": Arm(1.0), "b": Arm(1.0), "c": Arm(1.0)})
    assert marked(trainer, {"c"}) == {"c"}
    outcomes(trainer, "c", 0.9, 1)
    assert marked(trainer, {"c"}) == {"c"}
    outcomes(trainer, "c", 0.9, 1)
    assert marked(trainer) == set(), "so many outcomes"
    trainer.models({"a": Arm(1.0)})
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    assert marked(trainer) == set(), "of the one that comes back something is known"


def test_where_nothing_is_tried_nothing_has_a_part() -> None:
    assert marked(fallen(Plan(share=0.0))) == set()
