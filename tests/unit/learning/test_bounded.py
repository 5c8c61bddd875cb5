"""What a learner holds is bounded by its plan, however many prompts, models and offers come and go."""

from __future__ import annotations

import numpy as np

from interlock.learning.prompt import read
from interlock.learning.trainer import ARMS_KEPT, Arm, Outcome, Plan, Told, Trainer


def test_what_is_held_does_not_grow_with_what_was_seen() -> None:
    plan = Plan(outcomes_max=256, arms_max=6, words_max=64)
    trainer = Trainer(plan, np.random.default_rng(1))
    sizes = []
    for generation in range(80):
        arms = [f"model-{generation}-{n}" for n in range(4)]
        trainer.models({arm: Arm(1.0 + n) for n, arm in enumerate(arms)})
        for n in range(24):
            arm = arms[n % 4]
            trainer.call(Told(f"s{generation}::{arm}", arm, False, 1000, 10, 50, 1, 1, several=True, tried=n % 8 == 0))
            words = " ".join(f"w{generation * 24 + n * k}" for k in range(30))
            trainer.outcome(Outcome(arm, float(n % 2), "feedback", read(words)))
        weights, _ = trainer.state(generation + 1, 0)
        assert len(weights.arms) == 4 and {arm.arm for arm in weights.arms} == set(arms)
        assert all(arm.origins == {"feedback": 6} for arm in weights.arms), "those that there are stay known"
        most = ARMS_KEPT * plan.arms_max
        assert max(len(trainer._profiles), len(trainer._lengths), len(trainer._origins), len(weights.profiles)) <= most
        assert len(trainer._outcomes) <= plan.outcomes_max
        sizes.append((len(trainer._profiles), len(trainer._lengths), len(trainer._origins), len(trainer._outcomes)))
    assert sizes[-1] == sizes[len(sizes) // 2], "what is held has stopped to grow"
