"""What is seen of a prompt."""

from __future__ import annotations

import time

import numpy as np
import pytest

from interlock.learning.prompt import HEAD_CHARS, SLOTS, SURFACE, TAIL_CHARS, read


def _surface(text: str) -> dict[str, float]:
    return dict(zip(SURFACE, read(text).surface.tolist(), strict=True))


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\ud800", "\x00", "日本語の質問です", "a" * 100_000])
def test_any_text_can_be_read(text: str) -> None:
    prompt = read(text)
    assert len(prompt.surface) == len(SURFACE) and np.isfinite(prompt.surface).all()
    assert len(prompt.slots) == len(prompt.weights)


def test_words_and_pairs_count_once_each_and_order_makes_other_pairs() -> None:
    one = read("the dog bites the man")
    assert (np.diff(one.slots) > 0).all() and one.slots.max() < SLOTS
    assert len(one.slots) == 4 + 4
    assert one.weights.max() == pytest.approx(1 + np.log(2))
    other = read("the man bites the dog")
    assert 4 < len(set(one.slots.tolist()) & set(other.slots.tolist())) < 8


def test_case_does_not_matter_to_words_but_shows_on_the_surface() -> None:
    assert read("Torque").slots.tolist() == read("torque").slots.tolist()
    assert _surface("TORQUE")["share of capitals"] > _surface("torque")["share of capitals"]


def test_the_surface_tells_forms_apart() -> None:
    choice = _surface("Which?\nA. one\nB. two\nC. three")
    assert choice["options"] == pytest.approx(np.log1p(3), abs=1e-6)
    assert choice["question marks"] > 0
    assert _surface("def f(x):\n    return {x: [x]}")["code"] > _surface("define a function of x")["code"]
    assert _surface("12 + 30 = 42")["numbers"] == pytest.approx(np.log1p(3), abs=1e-6)
    assert _surface("Frage auf 日本語")["share outside ASCII"] > 0
    mixed = _surface("ab_1 2.5,7 é")
    assert mixed["digits"] == pytest.approx(np.log1p(4)) and mixed["numbers"] == pytest.approx(np.log1p(2))
    assert mixed["share of letters"] == pytest.approx(3 / 13) and mixed["share outside ASCII"] == pytest.approx(1 / 13)


def test_of_a_long_text_head_and_tail_are_read_and_no_more() -> None:
    head, tail = "alpha " * (HEAD_CHARS // 6), "omega " * (TAIL_CHARS // 6)
    whole = read(head + "middle " * 50_000 + tail)
    assert not set(read("middle").slots.tolist()) & set(whole.slots.tolist())
    assert set(read("alpha").slots.tolist()) | set(read("omega").slots.tolist()) <= set(whole.slots.tolist())


TEXT = ("word and other words, " * 500)[: HEAD_CHARS + TAIL_CHARS]


def _took(text: str) -> float:
    """Least CPU seconds of several readings."""

    def once() -> float:
        begin = time.process_time()
        for _ in range(5):
            read(text)
        return time.process_time() - begin

    return min(once() for _ in range(5))


def test_a_long_text_takes_no_longer_than_what_is_read_of_it() -> None:
    assert _took(TEXT * 100) < 4 * _took(TEXT)


@pytest.mark.parametrize("part", ["\n", " ", " \n", "a ", "1.", "é ", "_", "(", "(a", "{}", "::", "A. "])
def test_no_text_takes_much_longer_than_another(part: str) -> None:
    assert _took((part * len(TEXT))[: len(TEXT)]) < 15 * _took(TEXT)
