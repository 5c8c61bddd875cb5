"""Calls that two judges scored and compared, one that knows and another one, with people's words of some of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np
from msgspec import structs

from interlock.learning.judged import CONTROL, PREFERENCE, SCORE, Verdict
from interlock.learning.prompt import read
from interlock.learning.trainer import Arm, Outcome, Plan, Trainer

from .samples import MODELS, TOPICS, texts

GOOD, OTHER = "good-judge", "other-judge"
Said = Verdict | Outcome
Scores = Callable[[random.Random, float], float]
"""What the other judge gives an answer that is worth this, 0 or 1."""


def constant(_: random.Random, __: float) -> float:
    return 0.7


def guessed(rng: random.Random, _: float) -> float:
    return rng.random()


def known(rng: random.Random, worth: float) -> float:
    return worth if rng.random() < 0.95 else 1 - worth


def beginning() -> list[Said]:
    """Controls of all models, by both."""
    return [Verdict(CONTROL, by, arm, 0.0, None, "control") for by in (GOOD, OTHER) for arm in MODELS for _ in range(6)]


def calls(number: int, seed: int, other: Scores, *, name: str = "r", said: float = 0.5) -> list[Said]:
    """`said`: share of calls that somebody says something of."""
    rng = random.Random(seed)
    story: list[Said] = []
    prompts, topics = texts(number, np.random.default_rng(seed))
    for n, (text, topic) in enumerate(zip(prompts, topics, strict=True)):
        arm, against = rng.sample(MODELS, 2)
        worth = float(rng.random() < (0.9 if list(TOPICS).index(topic) == MODELS.index(arm) % 3 else 0.3))
        call, prompt = f"{name}{n}", read(text)
        told: list[Said] = [
            Verdict(SCORE, GOOD, arm, known(rng, worth), prompt, call, "", "kitchen", n),
            Verdict(SCORE, OTHER, arm, other(rng, worth), prompt, call, "", "kitchen", n),
        ]
        if rng.random() < 0.3:
            won = float(rng.choice((-1, 0, 1)))
            told += [Verdict(PREFERENCE, by, arm, won, prompt, call, against) for by in (GOOD, OTHER)]
        if rng.random() < said:
            word = Outcome(arm, worth, "feedback", prompt, "kitchen", n, "source", request=call, call=call)
            told.insert(rng.randrange(len(told) + 1), word)
        story += told
    return story


def without(story: Iterable[Said], judge: str) -> list[Said]:
    return [each for each in story if not (isinstance(each, Verdict) and each.judge == judge)]


def unheld(story: Iterable[Said]) -> list[Said]:
    """The same, with nobody's word that a judge could be held against."""
    return [each._replace(request="") if isinstance(each, Outcome) else each for each in story]


def taught(story: Iterable[Said], plan: Plan | None = None) -> Trainer:
    trainer = Trainer(plan or Plan(), np.random.default_rng(11))
    trainer.models({arm: Arm(1.0 + n) for n, arm in enumerate(MODELS)})
    for each in story:
        if isinstance(each, Verdict):
            trainer.verdict(each)
        else:
            trainer.outcome(each)
    return trainer


def learned(trainer: Trainer) -> tuple[object, ...]:
    """All that is published of what was learned, to the last digit: but for the judges, and which model is being tried
    because its outcomes once seemed to fall."""
    weights, words = trainer.state(1, 0)
    arms = tuple(structs.replace(arm, due=False, due_new=False) for arm in weights.arms)
    return structs.replace(weights, arms=arms, judges=()), words, trainer.qualities(1)


def believed(trainer: Trainer) -> dict[str, bool]:
    return {each.judge: each.trusted for each in trainer.judges()}
