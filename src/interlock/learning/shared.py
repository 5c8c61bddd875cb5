"""What tenants that share outcomes give each other: of each model how many outcomes there were, and their mean. Pure.

A tenant gives only of what it has seen itself, at sources of the platform, and gets the mean of the others. What it
gets is in nothing that it gives, so that no figure comes back to whom it came from, and none grows by going round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from interlock.learning.trainer import Outcome

KEEP = 0.998
"""What is left of an outcome's weight after each later one of its model: about the last 500 count."""
MICRO = 1_000_000
STEP = 100
"""What others get is rounded to hundredths: it changes seldom, and tells less of any one of them."""


class Given(NamedTuple):
    """What a tenant gives of a model: outcomes in thousandths (older ones count for less), and their mean reward in
    millionths of [0, 1]."""

    outcomes_milli: int
    mean_micro: int


class Pool(NamedTuple):
    """Bounds. `outcomes_min`: outcomes of others that have to stand behind a figure, of at least `tenants_min` of them;
    `weight_max`: as how many outcomes it counts at most."""

    outcomes_min: int = 30
    tenants_min: int = 2
    weight_max: int = 20


class OwnOutcomes:
    """Faded sums of one tenant's outcomes by model and source. Not thread-safe. `pairs_max`: that are held; the one
    that was heard of first goes."""

    def __init__(self, pairs_max: int) -> None:
        self._sums: dict[tuple[str, str], list[float]] = {}
        self._pairs_max = pairs_max

    def take(self, seen: Outcome) -> None:
        """One more. Of an outcome whose source is not known nothing is held, as it could be the tenant's own."""
        if not seen.source:
            return
        key = (seen.arm, seen.source)
        if key not in self._sums and len(self._sums) >= self._pairs_max:
            self._sums.pop(next(iter(self._sums)))
        sums = self._sums.setdefault(key, [0.0, 0.0])
        sums[0] = sums[0] * KEEP + 1
        sums[1] = sums[1] * KEEP + seen.reward

    def given(self, sources: Collection[str], arms: Collection[str]) -> dict[str, Given]:
        """What leaves the tenant: of these models, and of what these sources answered, alone. `sources`: ids."""
        sums: dict[str, list[float]] = {}
        for (arm, source), (outcomes, rewards) in self._sums.items():
            if source in sources and arm in arms:
                whole = sums.setdefault(arm, [0.0, 0.0])
                whole[0] += outcomes
                whole[1] += rewards
        return {arm: Given(round(1000 * n), round(MICRO * total / n)) for arm, (n, total) in sorted(sums.items())}


def prior_of(others: Iterable[Given], pool: Pool) -> tuple[float, int] | None:
    """(expected outcome in [0, 1], as how many outcomes it counts) of what others give of a model; None: too little.

    Of each tenant at most a `tenants_min`th of `outcomes_min` counts, and all together have to come to `outcomes_min`.
    So there are at least `tenants_min` of them, none weighs more than a `tenants_min`th, and whatever one of them says
    moves the figure by no more than that.
    """
    most = 1000 * pool.outcomes_min // pool.tenants_min
    weights = [(min(each.outcomes_milli, most), each.mean_micro) for each in others]
    total = sum(weight for weight, _ in weights)
    if total < most * pool.tenants_min:
        return None
    mean = sum(weight * mean for weight, mean in weights) / total / MICRO
    return round(STEP * mean) / STEP, min(pool.weight_max, total // 1000)
