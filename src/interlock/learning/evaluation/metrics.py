"""How good a router is, read off its trade-off curve. Definitions are those of the literature and of `pool.json`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np

from interlock.learning.evaluation.data import Numbers

STEPS = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 80)])
"""Prices of cost that a curve is drawn at: quality given up for the dearest model's mean cost."""


class Interval(NamedTuple):
    """Mean over splits, its standard deviation, and a 95 % interval of the mean."""

    mean: float
    spread: float
    low: float
    high: float


def picks(quality: Numbers, cost: Numbers) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Model chosen for each prompt at each price of cost, from what is expected of each; the last by cost alone."""
    scale = cost.mean(0).max()
    chosen = [(quality - step * cost / scale).argmax(1) for step in STEPS]
    return [*chosen, cost.argmin(1)]


def curve(quality: Numbers, cost: Numbers, real_quality: Numbers, real_cost: Numbers) -> list[tuple[float, float]]:
    """(mean cost, mean quality) that come of choosing by the expected ones, at each price of cost."""
    row = np.arange(len(real_quality))
    return [(float(real_cost[row, p].mean()), float(real_quality[row, p].mean())) for p in picks(quality, cost)]


def hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The non-decreasing concave hull from above, by cost."""
    found: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if found and point[1] <= found[-1][1]:
            continue
        while len(found) >= 2:
            (c0, q0), (c1, q1) = found[-2:]
            if (q1 - q0) * (point[0] - c0) > (point[1] - q0) * (c1 - c0):
                break
            found.pop()
        found.append(point)
    return found


def aiq(points: Sequence[tuple[float, float]], real_cost: Numbers) -> float:
    """Mean height of the hull from the cheapest single model's mean cost to the dearest's; left of the hull it is 0."""
    means = real_cost.mean(0)
    low, high = float(means.min()), float(means.max())
    corners = hull(points)
    costs = np.array([c for c, _ in corners])
    heights = np.array([q for _, q in corners])
    stops = np.unique(np.concatenate([[low, high], costs[(costs > low) & (costs < high)]]))
    area = 0.0
    for left, right in pairwise(stops):
        if right > costs[0] and left >= costs[0]:
            area += float(np.interp(left, costs, heights) + np.interp(right, costs, heights)) / 2 * (right - left)
    return area / (high - low)


def cost_at_95(points: Sequence[tuple[float, float]], real_quality: Numbers, real_cost: Numbers) -> float:
    """Lowest cost on the hull at 95 % of the best single model's quality, as a share of its cost; infinite if never."""
    best = int(real_quality.mean(0).argmax())
    goal = 0.95 * float(real_quality[:, best].mean())
    paid = float(real_cost[:, best].mean())
    if paid <= 0:
        return nan
    corners = hull(points)
    if corners[-1][1] < goal:
        return inf
    costs, heights = [c for c, _ in corners], [q for _, q in corners]
    return float(np.interp(goal, heights, costs)) / paid


def gap_recovered(gain: Numbers, weak: Numbers, strong: Numbers) -> tuple[float, float, float]:
    """(APGR, CPT 50 %, CPT 80 %) of sending prompts to the strong model in the order of their expected gain.

    APGR: area under the share of the quality gap that is recovered, over the share of strong calls. CPT x: smallest
    share of strong calls at which x of the gap is recovered. Not a number when the strong model is not better.
    """
    order = np.argsort(-gain, kind="stable")
    steps = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    if steps[-1] <= 0:
        return nan, nan, nan
    recovered = steps / steps[-1]
    area = float((recovered[:-1] + recovered[1:]).mean() / 2)
    half, most = (float(np.argmax(recovered >= x) / len(order)) for x in (0.5, 0.8))
    return area, half, most


_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def interval(values: Sequence[float], test_share: float) -> Interval:
    """Mean over splits with a 95 % interval, widened because splits of the same rows overlap (Nadeau and Bengio)."""
    number = len(values)
    mean = float(np.mean(values))
    if number < 2 or not np.isfinite(values).all():
        return Interval(mean, nan, nan, nan)
    spread = float(np.std(values, ddof=1))
    student = _STUDENT[number - 2] if number - 2 < len(_STUDENT) else 2.12
    half = student * spread * sqrt(1 / number + test_share / (1 - test_share))
    return Interval(mean, spread, mean - half, mean + half)
