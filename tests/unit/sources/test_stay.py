"""How long calls stay at a source, from how many are there and how many ended."""

from __future__ import annotations

import random

from interlock.sources.stay import ENDED_MIN, Stay

SECOND = 1_000_000_000


def looked_at(starts_s: list[float], stays_s: list[float], until_s: float, every_s: float = 0.5) -> list[int]:
    """What each look says, of calls that begin then and stay so long."""
    stay, found, at_s = Stay(), [], 0.0
    while at_s < until_s:
        at_s += every_s
        entered = sum(start <= at_s for start in starts_s)
        ended = sum(start + took <= at_s for start, took in zip(starts_s, stays_s, strict=True))
        found.append(stay.look(round(at_s * SECOND), entered - ended, entered))
    return found


def test_the_mean_stay_is_found_from_counts_alone() -> None:
    rng = random.Random(5)
    starts = [rng.uniform(0, 120) for _ in range(600)]
    stays = [rng.expovariate(1 / 4) for _ in starts]
    found = looked_at(starts, stays, 120)
    assert 3400 < found[-1] < 4600


def test_nothing_is_said_before_some_calls_have_ended_and_what_is_long_past_is_forgotten() -> None:
    starts = [float(n) for n in range(60)] + [60 + n / 4 for n in range(480)]
    stays = [9.0] * 60 + [1.0] * 480
    found = looked_at(starts, stays, 180)
    first = next(i for i, each in enumerate(found) if each >= 0)
    assert (first + 1) * 0.5 >= 9 + ENDED_MIN - 1, "three have ended by then"
    assert found[110] > 6000 and found[-1] < 1400


def test_a_source_without_calls_says_nothing() -> None:
    assert set(looked_at([], [], 20)) == {-1}
