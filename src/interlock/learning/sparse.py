"""Rows of few entries as three flat arrays, and the products that fitting needs. numpy alone: no scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interlock.learning.prompt import Floats, Prompt


class Rows:
    """A sparse matrix by rows, with the same entries sorted by column for products with its transpose."""

    def __init__(self, indices: NDArray[np.int64], values: Floats, starts: NDArray[np.int64], width: int) -> None:
        """`starts`: one entry per row and one more for the end. `width`: number of columns."""
        self.width = width
        self._by_row = (indices, values, starts)
        rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        order = np.argsort(indices, kind="stable")
        ends = np.searchsorted(indices[order], np.arange(width + 1))
        self._by_column = (rows[order], values[order], ends)

    def packed(self) -> tuple[Rows, NDArray[np.int64]]:
        """(the same rows over the columns that are not empty, the numbers of these columns)."""
        indices, values, starts = self._by_row
        columns, dense = np.unique(indices, return_inverse=True)
        return Rows(dense, values, starts, len(columns)), columns

    def times(self, matrix: Floats) -> Floats:
        """The product with a matrix of `width` rows."""
        return _product(*self._by_row, matrix)

    def transposed_times(self, matrix: Floats) -> Floats:
        """The product of the transpose with a matrix of as many rows as this has."""
        return _product(*self._by_column, matrix)


def _product(indices: NDArray[np.int64], values: Floats, starts: NDArray[np.int64], matrix: Floats) -> Floats:
    """Column by column: a gather from one column stays in the cache, which is ten times faster than rows at once."""
    columns = np.ascontiguousarray(matrix.T)
    out = np.zeros((matrix.shape[1], len(starts) - 1), np.float32)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        for n, column in enumerate(columns):
            out[n, filled] = np.add.reduceat(column.take(indices) * values, starts[filled])
    return np.ascontiguousarray(out.T)


def document_counts(prompts: Sequence[Prompt], width: int) -> NDArray[np.int64]:
    """In how many prompts each slot occurs."""
    if not prompts:
        return np.zeros(width, np.int64)
    return np.bincount(np.concatenate([p.slots for p in prompts]), minlength=width)
