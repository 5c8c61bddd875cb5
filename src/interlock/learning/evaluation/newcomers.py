"""How near what is expected of a new model comes to what it does: each model left out in turn, the others known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from interlock.learning.evaluation.data import Data, Numbers
from interlock.learning.kin import Kin, Likeness
from interlock.types.model_names import family_named, parameters_named


class Newcomers(NamedTuple):
    """Mean distance, over the models, between the mean outcome and what is expected before there is any: `alone`, by
    what the others do on average; `by_price`; `by_kin`, by price, size and family, these two as names tell them."""

    alone: float
    by_price: float
    by_kin: float


OTHERS_MIN = 3
"""Of fewer models nothing is to be learned about another."""


def newcomers(data: Data) -> Newcomers | None:
    """Of a folder; None where it has too few models. What is known of the others are the outcomes of all prompts."""
    if len(data.models) <= OTHERS_MIN:
        return None
    nothing = np.zeros(len(data.models))
    prices = data.cost.mean(0) if data.priced else nothing
    sizes = np.array([parameters_named(name) for name in data.models], float)
    families = tuple(map(family_named, data.models))
    ways = (Kin.of_prices(nothing), Kin.of_prices(prices), Kin(prices, sizes, families))
    return Newcomers(*(_distance(data.quality, Likeness(kin)) for kin in ways))


def _distance(quality: Numbers, likeness: Likeness) -> float:
    number, models = quality.shape
    off = []
    for model in range(models):
        seen = np.full(models, float(number))
        seen[model] = 0.0
        won = quality.sum(0)
        won[model] = 0.0
        off.append(abs(float(likeness.expected(seen, won)[model]) - float(quality[:, model].mean())))
    return float(np.mean(off))
