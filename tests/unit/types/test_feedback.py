"""What feedback is worth, and how sure a mean of it is."""

from __future__ import annotations

import random

import pytest

from interlock.types.feedback import MICRO, Given, quality, reward


@pytest.mark.parametrize(
    ("thumb", "score_micro", "worth"),
    [
        ("up", -1, MICRO),
        ("down", -1, 0),
        ("", 250_000, 250_000),
        ("up", 700_000, 700_000),
        ("down", 0, 0),
        ("", -1, None),
    ],
)
def test_a_reward_is_the_score_else_the_thumb_and_what_is_missing_is_missing(
    thumb: str, score_micro: int, worth: int | None
) -> None:
    assert reward(thumb, score_micro) == worth


def test_kinds_are_those_that_were_given() -> None:
    assert Given("req_1", thumb="up", text="so").kinds == ("thumb", "corrected")
    assert Given("req_1", score_micro=0, comment="x").kinds == ("score",)
    assert Given("req_1").kinds == ()


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3: 81/263, 15/148, 0/20, 1/29
    for positive, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        found = quality(of, positive * MICRO)
        assert found is not None
        assert (found.low_micro, found.high_micro) == (
            pytest.approx(low * MICRO, abs=60),
            pytest.approx(high * MICRO, abs=60),
        )
    none = quality(20, 0)
    assert none is not None and (none.mean_micro, none.low_micro) == (0, 0)
    assert none.high_micro == pytest.approx(0.1611 * MICRO, abs=60)
    assert quality(0, 0) is None


def test_it_holds_the_mean_of_graded_rewards_at_least_as_often_as_it_says() -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(2000):
        scores = [round(rng.betavariate(2, 1) * MICRO) for _ in range(12)]
        found = quality(len(scores), sum(scores))
        assert found is not None and 0 <= found.low_micro <= found.mean_micro <= found.high_micro <= MICRO
        held += found.low_micro <= 2 / 3 * MICRO <= found.high_micro
    assert held / 2000 > 0.95


def test_it_holds_the_mean_of_preferences_which_vary_more() -> None:
    rng = random.Random(8)
    held = 0
    for _ in range(2000):
        worths = [0.5 + rng.choice((-1, -1, 0, 1, 1)) for _ in range(30)]
        squares = round(sum(worth * worth for worth in worths) * MICRO)
        found = quality(30, round(sum(worths) * MICRO), squares)
        assert found is not None and 0 <= found.low_micro <= found.mean_micro <= found.high_micro <= MICRO
        held += found.low_micro <= MICRO / 2 <= found.high_micro
    assert held / 2000 > 0.94
    beyond = [quality(3, worth * MICRO, 12 * MICRO) for worth in (-3, 6)]
    assert [each.mean_micro for each in beyond if each is not None] == [0, MICRO]
