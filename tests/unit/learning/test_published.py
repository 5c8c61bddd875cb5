"""What a learner knows and what the gateway decides by are the same; the learner of a tenant, without its database."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from interlock.learning.prompt import read
from interlock.learning.published import SIGNALS, Expectations, Reader
from interlock.learning.trainer import Arm, Outcome, Plan, Told, Trainer
from interlock.types.learned import Weights, Words

from .samples import MODELS, SKILL, TOPICS, texts

ARMS = {name: Arm(price) for name, price in zip(MODELS, (10.0, 1.0, 1.0, 0.2), strict=True)}
PLAN = Plan(outcomes_max=2048)


def taught(number: int, seed: int = 3, plan: Plan = PLAN) -> Trainer:
    """A trainer that was told of outcomes of models drawn at random."""
    rng = np.random.default_rng(seed)
    trainer = Trainer(plan, np.random.default_rng(seed))
    trainer.models(ARMS)
    prompts, topics = texts(number, rng)
    for text, topic in zip(prompts, topics, strict=True):
        model = int(rng.integers(len(MODELS)))
        good = rng.random() < SKILL[model, list(TOPICS).index(topic)]
        trainer.call(told(MODELS[model]))
        trainer.outcome(Outcome(MODELS[model], float(good), "feedback", read(text)))
    return trainer


def told(arm: str, **more: int | bool) -> Told:
    known = {"failed": False, "first_byte_us": 1000, "token_us": 10, "completion_tokens": 50, "cost_nusd": 7}
    return Told(f"s::{arm}", arm, **{**known, "energy_uj": 3, **more})  # type: ignore[arg-type]


def sent(state: tuple[Weights, Words | None]) -> tuple[Expectations, Reader]:
    """The state as a worker has it."""
    weights, words = state
    assert words is not None
    encode = msgspec.msgpack.encode
    return (
        Expectations(msgspec.msgpack.decode(encode(weights), type=Weights)),
        Reader(msgspec.msgpack.decode(encode(words), type=Words)),
    )


def test_the_gateway_expects_what_the_learner_expects() -> None:
    trainer = taught(900)
    expectations, reader = sent(trainer.state(5, 1000))
    estimator = trainer._estimator
    assert estimator is not None and reader.version == 5
    off = []
    for text in texts(80, np.random.default_rng(9))[0]:
        signals = reader.signals(text)
        assert len(signals) == SIGNALS
        estimates = expectations.estimates(signals, 1)
        floats = np.clip(estimator.expected(read(text))[0], 0.01, 0.99)
        off.append(np.abs(floats - np.array([estimates.quality_micro[a] for a in sorted(ARMS)]) / 1e6).max())
    assert np.mean(off) < 0.01 and np.max(off) < 0.05


def test_it_tells_who_is_good_at_what() -> None:
    expectations, reader = sent(taught(1500).state(1, 1000))
    court, oven = "the court of appeal found the clause of the contract void", "whisk butter and flour, roast the onion"
    law = expectations.estimates(reader.signals(court), 1).quality_micro
    food = expectations.estimates(reader.signals(oven), 1).quality_micro
    assert law["lawyer"] > law["cook"] + 200_000 and food["cook"] > food["lawyer"] + 200_000


def test_reading_is_the_same_every_time_and_any_text_can_be_read() -> None:
    _expectations, reader = sent(taught(400).state(1, 1000))
    for text in ("", "\ud800", "x" * 100_000, "\x00", "whisk butter", "何か"):
        assert reader.signals(text) == reader.signals(text)


def test_calls_of_one_task_share_what_is_doubted_of_each_model() -> None:
    """One mapping per task and publication: decisions keep what follows from it for as long as they are given it."""
    expectations, reader = sent(taught(900).state(1, 1000))
    texts = (
        "the court of appeal found the clause void",
        "whisk butter and flour, roast the onion",
        "the clause is void",
    )
    for text in texts:
        first, again = (expectations.estimates(reader.signals(text), 1) for _ in range(2))
        assert first.doubt_micro is again.doubt_micro and first.verbosity_milli is again.verbosity_milli
        assert first.doubt_micro == {a.arm: a.doubts_micro[first.task] for a in expectations.weights.arms}
    assert expectations.estimates(b"", 1).doubt_micro == {a.arm: max(a.doubts_micro) for a in expectations.weights.arms}


def test_without_signals_all_prompts_are_as_one_and_nothing_is_tried_above_the_class() -> None:
    trainer = taught(900)
    expectations, _reader = sent(trainer.state(1, 1000))
    blind = expectations.estimates(b"", 1)
    assert blind.task == -1 and blind.share_micro > 0
    assert blind.quality_micro["large"] > blind.quality_micro["small"] + 200_000
    assert expectations.estimates(b"", 2).share_micro == 0  # above `data_class_max`
    assert expectations.estimates(b"x" * 7, 1) == blind  # signals of another version's length


def test_parts_that_do_not_fit_together_are_refused() -> None:
    weights, words = taught(400).state(1, 1000)
    assert words is not None
    replace = msgspec.structs.replace
    for broken in (replace(words, slots=words.slots[:-2]), replace(words, mean=b""), replace(words, rarity=b"\1")):
        with pytest.raises(ValueError):
            Reader(broken)
    arms = (replace(weights.arms[0], weights=b"\0" * 8), *weights.arms[1:])
    with pytest.raises(ValueError):
        Expectations(replace(weights, arms=arms))


def test_words_come_with_the_state_that_first_uses_them_only() -> None:
    trainer = taught(300)
    first, words = trainer.state(7, 1000)
    second, none = trainer.state(8, 1000)
    assert words is not None and words.version == first.words == second.words == 7 and none is None


def test_nothing_is_tried_before_there_is_an_outcome_and_little_once_the_cold_allowance_is_spent() -> None:
    trainer = Trainer(PLAN, np.random.default_rng(1))
    trainer.models(ARMS)
    trainer.call(told("large", several=True))
    assert trainer.state(1, 0)[0].share_micro == 0
    trainer.outcome(Outcome("large", 1.0, "feedback", None))
    cold, _ = trainer.state(2, 0)
    assert cold.share_micro > 400_000 and cold.money_micro == 2_000_000
    for _ in range(PLAN.cold_calls * len(ARMS)):
        trainer.call(told("small", several=True, tried=True))
    for _ in range(4000):
        trainer.call(told("large", several=True))
    warm, _ = trainer.state(3, 0)
    assert warm.share_micro <= 60_000 and 50_000 <= warm.money_micro <= 100_000  # as much again was left over
    for _ in range(2000):
        trainer.call(told("small", several=True, tried=True))
    assert trainer.state(4, 0)[0].share_micro == 0  # too much was tried: none until it has evened out


def test_a_model_that_degrades_is_noticed_and_one_that_recovers_too() -> None:
    trainer = taught(1200)
    rng = np.random.default_rng(5)

    def quality() -> float:
        expectations = Expectations(trainer.state(1, 0)[0])
        return expectations.estimates(b"", 1).quality_micro["large"] / 1e6

    before = quality()
    prompts = texts(200, rng)[0]
    for text in prompts[:60]:
        trainer.outcome(Outcome("large", float(rng.random() < 0.15), "feedback", read(text)))
    worse = quality()
    for text in prompts[60:140]:
        trainer.outcome(Outcome("large", float(rng.random() < 0.95), "feedback", read(text)))
    assert before > 0.75 and worse < 0.45 and quality() > 0.7


def test_models_come_and_go_and_another_version_begins_with_what_the_one_before_did() -> None:
    trainer = taught(900)
    trainer.models({**ARMS, "large@2": Arm(10.0), "new": Arm(10.0, 0.3)})
    weights, words = trainer.state(2, 0)
    assert words is not None and [a.arm for a in weights.arms] == sorted([*ARMS, "large@2", "new"])
    told_of = {a.arm: a.capabilities for a in weights.arms}
    assert all(c.mean_micro > 600_000 and c.outcomes_milli == 0 for c in told_of["large@2"])
    assert all(c.mean_micro < 500_000 for c in told_of["new"])
    trainer.models({"small": ARMS["small"]})
    assert [a.arm for a in trainer.state(3, 0)[0].arms] == ["small"]
    trainer.models(ARMS)
    assert max(c.outcomes_milli for a in trainer.state(4, 0)[0].arms for c in a.capabilities) > 50_000


def test_profiles_are_of_what_was_seen_and_a_few_failures_prove_little() -> None:
    trainer = Trainer(PLAN, np.random.default_rng(1))
    trainer.models(ARMS)
    for failed in (True, True, False):
        trainer.call(told("large", failed=failed))
    profile = trainer.state(1, 0)[0].profiles[0]
    assert (profile.offer, profile.calls, profile.first_byte_us, profile.cost_nusd) == ("s::large", 3, 1000, 7)
    assert 100_000 < profile.failure_micro < 200_000
    trainer.call(told("cook", first_byte_us=-1, token_us=-1, cost_nusd=-1, energy_uj=-1))
    known = {p.offer: p for p in trainer.state(1, 0)[0].profiles}["s::cook"]
    assert (known.first_byte_us, known.token_us, known.cost_nusd, known.energy_uj) == (-1, -1, -1, -1)


def test_an_arm_whose_answers_are_long_is_said_to_be_so() -> None:
    trainer = Trainer(PLAN, np.random.default_rng(1))
    trainer.models(ARMS)
    for _ in range(20):
        trainer.call(told("large", completion_tokens=300))
        trainer.call(told("small", completion_tokens=100))
    arms = {a.arm: a.verbosity_milli for a in trainer.state(1, 0)[0].arms}
    assert arms["large"] == 1500 and arms["small"] == 500 and arms["cook"] == 1000


def test_what_is_kept_is_bounded() -> None:
    trainer = Trainer(PLAN._replace(outcomes_max=200, arms_max=3), np.random.default_rng(1))
    trainer.models(ARMS)
    for number in range(600):
        trainer.call(told(f"m{number}"))
        trainer.outcome(Outcome("cook", 1.0, "feedback", None))
    weights, _words = trainer.state(1, 0)
    assert len(weights.arms) == 3 and len(weights.profiles) <= 24 and len(trainer._outcomes) == 200
