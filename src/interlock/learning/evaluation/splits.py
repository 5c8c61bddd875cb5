"""Divisions of rows into learning and testing, the same as scikit-learn's `train_test_split` for the same seed.

Published figures on these data were made with it, and figures are comparable only over the same rows. numpy freezes
the stream of `RandomState` for this purpose.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def split(rows: int, test_share: float, seed: int, groups: NDArray[np.int64] | None) -> tuple[Rows, Rows]:
    """(rows to learn from, rows to test), in random order; with `groups`, each in proportion in both."""
    rng = RandomState(seed)
    tested = ceil(rows * test_share)
    learned = rows - tested
    if groups is None:
        order = rng.permutation(rows)
        return order[tested:], order[:tested]
    counts = np.bincount(groups)
    members = np.split(np.argsort(groups, kind="mergesort"), np.cumsum(counts)[:-1])
    of_learned = _proportional(counts, learned, rng)
    of_tested = _proportional(counts - of_learned, tested, rng)
    learn: list[int] = []
    test: list[int] = []
    for group, first, second in zip(members, of_learned, of_tested, strict=True):
        shuffled = group[rng.permutation(len(group))]
        learn.extend(shuffled[:first])
        test.extend(shuffled[first : first + second])
    return rng.permutation(np.array(learn)), rng.permutation(np.array(test))


def _proportional(counts: NDArray[np.int64], draws: int, rng: RandomState) -> NDArray[np.int64]:
    """`draws` divided over groups by their size, the remainder to those that lost most by rounding down."""
    exact = counts / counts.sum() * draws
    given = np.floor(exact)
    missing = int(draws - given.sum())
    lost = exact - given
    for value in np.sort(np.unique(lost))[::-1]:
        if missing <= 0:
            break
        (where,) = np.where(lost == value)
        chosen = rng.choice(where, size=min(len(where), missing), replace=False)
        given[chosen] += 1
        missing -= len(chosen)
    whole: Rows = given.astype(np.int64)
    return whole
