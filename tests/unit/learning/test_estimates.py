"""Tasks found in traffic, and the estimates of capability made over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from interlock.learning.fit import Design, Fitted
from interlock.learning.kin import UNKNOWN, Kin
from interlock.learning.linear import WIDTH, Linear, features
from interlock.learning.prompt import Prompt, read
from interlock.learning.tasks import OF_MODEL, Tasks
from interlock.learning.understanding import Understanding, unit
from tests.unit.learning.samples import SKILL, TOPICS, texts


@pytest.fixture(scope="module")
def understood() -> tuple[Understanding, list[str]]:
    """What 600 made-up prompts teach, and their topics."""
    rng = np.random.default_rng(3)
    made, names = texts(600, rng)
    return Understanding([read(t) for t in made], rng), names


def test_tasks_found_without_labels_are_the_topics(understood: tuple[Understanding, list[str]]) -> None:
    understanding, _names = understood
    made, names = texts(300, np.random.default_rng(4))
    task = understanding.views([read(t) for t in made]).task
    pure = sum(
        max(sum(n == name for n, t in zip(names, task, strict=True) if t == k) for name in TOPICS) for k in set(task)
    )
    assert pure / len(made) > 0.9


def test_learning_is_the_same_for_the_same_seed_and_unknown_words_are_no_trouble() -> None:
    made, _ = texts(150, np.random.default_rng(5))
    prompts = [read(t) for t in made]
    one, two = (Understanding(prompts, np.random.default_rng(1)) for _ in range(2))
    assert (one.tasks == two.tasks).all()
    meaning, surface = one.view(read("zzz qqq"))
    assert not meaning.any() and np.isfinite(surface).all()


def test_one_prompt_and_a_batch_are_understood_alike(understood: tuple[Understanding, list[str]]) -> None:
    understanding, _ = understood
    prompts = [read(t) for t in texts(5, np.random.default_rng(6))[0]]
    views = understanding.views(prompts)
    for n, prompt in enumerate(prompts):
        meaning, _surface = understanding.view(prompt)
        assert (
            np.allclose(unit(meaning), views.meaning[n], atol=1e-6) and understanding.task_of(meaning) == views.task[n]
        )


def test_a_cell_without_outcomes_borrows_from_its_model_and_its_task() -> None:
    table = Tasks(Kin.of_prices([1.0, 1.0, 1.0]), 2, 0.0)
    assert (table.expected() == UNKNOWN).all()
    for _ in range(200):
        table.learn(0, 0, 1.0)  # model 0 is good at task 0,
        table.learn(1, 0, 1.0)
        table.learn(1, 1, 0.0)  # and task 1 is hard for model 1
    cells = table.expected()
    assert cells[0, 0] > 0.9 > cells[0, 1] > cells[1, 1]
    assert table.capability(0, 1).outcomes == 0
    assert table.capability(0, 1).high - table.capability(0, 1).low > 2 * (
        table.capability(0, 0).high - table.capability(0, 0).low
    )


def test_a_new_model_is_expected_to_do_what_models_of_its_price_do() -> None:
    table = Tasks(Kin.of_prices([0.1, 0.2, 0.4, 4.0, 8.0, 6.0]), 1, 0.0)
    for _ in range(300):
        for model, outcome in enumerate((0.3, 0.35, 0.4, 0.8, 0.85)):
            table.learn(model, 0, outcome)
    assert table.expected()[5, 0] > 0.65


def test_intervals_hold_what_they_promise() -> None:
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(200):
        truth = rng.uniform(0.2, 0.8)
        table = Tasks(Kin.of_prices([1.0, 1.0]), 1, 0.0)
        for _ in range(int(3 * OF_MODEL)):
            table.learn(0, 0, float(rng.random() < truth))
        cell = table.capability(0, 0)
        held += cell.low <= truth <= cell.high
    assert held / 200 > 0.88


@pytest.mark.parametrize("kind", ["tasks", "linear"])
def test_a_model_that_changes_is_learned_anew(kind: str) -> None:
    def after(fade: float) -> float:
        table, linear = Tasks(Kin.of_prices([1.0, 1.0]), 1, fade), Linear(2, fade)
        seen = np.zeros(WIDTH)
        seen[0] = 1
        for n in range(3000):
            outcome = 0.9 if n < 2500 else 0.1
            table.learn(0, 0, outcome)
            table.learn(1, 0, 0.5)
            linear.learn(0, seen, outcome)
            linear.learn(1, seen, 0.5)
        return float((table.expected()[:, 0] if kind == "tasks" else linear.expected(seen))[0])

    assert after(0.01) < 0.25
    assert after(0.0) > 0.6


def test_the_linear_estimate_learns_who_does_what_and_its_doubt_shrinks(
    understood: tuple[Understanding, list[str]],
) -> None:
    understanding, _ = understood
    rng = np.random.default_rng(9)
    linear = Linear(4, 0.0)
    made, names = texts(1500, rng)
    first = None
    for text, name in zip(made, names, strict=True):
        seen = features(*understanding.view(read(text)))
        first = linear.doubt(seen) if first is None else first
        model = int(rng.integers(4))
        linear.learn(model, seen, float(rng.random() < SKILL[model, list(TOPICS).index(name)]))
    law = features(*understanding.view(read("court statute appeal verdict")))
    cooking = features(*understanding.view(read("whisk butter onion oven")))
    assert linear.expected(law)[1] > linear.expected(law)[2] + 0.2
    assert linear.expected(cooking)[2] > linear.expected(cooking)[1] + 0.2
    assert first is not None and (linear.doubt(law) < 0.6 * first).all()


def test_fitted_weights_say_what_the_topics_say(understood: tuple[Understanding, list[str]]) -> None:
    understanding, _ = understood
    rng = np.random.default_rng(10)
    made, names = texts(600, rng)
    topic = [list(TOPICS).index(n) for n in names]
    truth = SKILL[:, topic].T
    prompts = [read(t) for t in made]

    def view(some: Sequence[Prompt]) -> Design:
        return Design(understanding, some)

    fitted = Fitted(view, prompts[:400], (rng.random((400, 4)) < truth[:400]).astype(float), rng)
    error = np.abs(fitted.predict(Design(understanding, prompts[400:])) - truth[400:]).mean()
    assert error < 0.5 * np.abs(truth[400:] - truth[:400].mean(0)).mean()
