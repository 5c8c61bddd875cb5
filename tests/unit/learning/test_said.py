"""What an administrator says of a model, beside what was learned; and how tasks look."""

from __future__ import annotations

import numpy as np

from interlock.control.services.router_reports import regret
from interlock.control.services.task_words import SIGNALS, described
from interlock.learning.prompt import SURFACE, read
from interlock.learning.published import Expectations
from interlock.learning.trainer import Arm, Outcome, Plan, Said, Trainer
from interlock.storage.routed import Routed
from interlock.types.learned import SET, ArmWeights, Capability, Weights


def taught(outcomes: int = 300) -> Trainer:
    """Two models, one good at long prompts of law and one at short ones with code."""
    rng = np.random.default_rng(3)
    trainer = Trainer(Plan(), rng)
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    for n in range(outcomes):
        law = bool(rng.integers(2))
        text = "the court held that the clause binds " * 20 if law else f"x[{n % 7}] = {{y}}; return z;"
        arm = "ab"[n % 2]
        chance = 0.9 if law == (arm == "a") else 0.2
        trainer.outcome(Outcome(arm, float(rng.random() < chance), "feedback", read(text)))
    return trainer


def cells(weights: Weights, arm: str) -> ArmWeights:
    return next(each for each in weights.arms if each.arm == arm)


def test_it_counts_as_that_many_outcomes_and_changes_no_other_model() -> None:
    trainer = taught()
    before, _ = trainer.state(1, 0)
    seen = sum(c.outcomes_milli for c in cells(before, "a").capabilities) / 1000
    trainer.said({"a": Said(0.0, round(seen))})
    after, _ = trainer.state(2, 0)
    for was, now in zip(cells(before, "a").capabilities, cells(after, "a").capabilities, strict=True):
        assert abs(now.mean_micro - was.mean_micro / 2) < 5_000, "as many said as seen: half way"
        assert now.outcomes_milli == was.outcomes_milli, "what was seen is what was seen"
    assert cells(after, "b") == cells(before, "b")
    assert cells(after, "a").origins == {"feedback": 150, SET: round(seen)}
    signals = bytes(Expectations(before)._linear.shape[1] - 1)  # type: ignore[union-attr]
    learned, said = (Expectations(w).estimates(signals, 0).quality_micro for w in (before, after))
    assert abs(said["a"] - learned["a"] / 2) < 5_000 and said["b"] == learned["b"], "decisions go by it too"
    trainer.said({})
    again, _ = trainer.state(3, 0)
    assert again.arms == before.arms, "unsaid, it leaves no trace"


def test_of_a_model_that_nobody_saw_only_that_counts_and_surely() -> None:
    trainer = Trainer(Plan(), np.random.default_rng(1))
    trainer.models({"a": Arm(1.0), "b": Arm(1.0)})
    trainer.said({"a": Said(0.8, 400)})
    weights, _ = trainer.state(1, 0)
    (cell,) = cells(weights, "a").capabilities
    assert cell.mean_micro == 800_000 and cell.high_micro - cell.low_micro < 100_000
    (other,) = cells(weights, "b").capabilities
    assert other.high_micro - other.low_micro > 900_000
    assert weights.share_micro == 0, "without outcomes nothing is tried"


def test_tasks_are_told_in_plain_words() -> None:
    assert tuple(name for name, _, _ in SIGNALS) == SURFACE
    weights, _ = taught().state(1, 0)
    words = described(weights.surfaces, len(weights.task_shares_micro))
    assert any("long prompts" in each for each in words), words
    assert any("many digits" in each for each in words), words
    assert described(b"", 2) == ["", ""]
    assert described(bytes(len(SIGNALS)), 1) == [""], "nothing tells it apart"
    assert described(weights.surfaces + b"\x00", len(words)) == [""] * len(words), "of another version: nothing is said"


def cell(mean: int) -> Capability:
    return Capability(mean, mean, mean, 50_000)


def test_what_was_given_up_is_as_its_formula_says() -> None:
    arms = (
        ArmWeights("a", b"", (0, 0), (cell(900_000), cell(200_000))),
        ArmWeights("b@2", b"", (0, 0), (cell(300_000), cell(800_000))),
    )
    weights = Weights(1, 1, 0, 0, 0, b"", (750_000, 250_000), arms)
    found = [Routed(0, "a", "", False, 30), Routed(0, "b", "2", True, 10), Routed(0, "gone", "", False, 99)]
    # best .75 * .9 + .25 * .8 = .875; a .725, b .425; got (30 * .725 + 10 * .425) / 40 = .65
    told = regret(weights, found)
    assert told is not None
    assert told == (type(told))(40, 875_000, 650_000, 225_000, 112_500)
    assert regret(None, found) is None and regret(weights, [found[2]]) is None
    only = Weights(1, 1, 0, 0, 0, b"", (1_000_000,), (ArmWeights("a", b"", (0,), (cell(500_000),)),))
    even = regret(only, [found[0]])
    assert even is not None and even.regret_micro == 0
