"""Rows, each once and in an order of their own: what makes a weight the same as repeating a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DistinctRows", "distinct_rows"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DistinctRows:
    """Rows that differ in X or y, sorted, with the sums of their weights.

    Sums of floats depend on their order, and learned features on the last digit of sums: only rows that are sorted and
    merged give the same tree, bit for bit, for permuted rows, and for weights as for repetitions.

    Attributes
    ----------
    X : array of shape (m, d)
    y : array of shape (m,) or (m, K)
    w : array of shape (m,)
    place : int array of shape (n,)
        Which of them every given row is.
    original : pair of arrays of shape (n, d) and (n,) or (n, K)
        The given rows.
    """

    X: Floats
    y: NDArray[Any]
    w: Floats
    place: NDArray[np.intp]
    original: tuple[Floats, NDArray[Any]]

    def given(self, which: NDArray[np.intp]) -> tuple[Floats, NDArray[Any]]:
        """X and y of the given rows that are among ``which`` of the distinct ones, repetitions as they were."""
        chosen = np.zeros(len(self.X), dtype=bool)
        chosen[which] = True
        X, y = self.original
        return X[chosen[self.place]], y[chosen[self.place]]


def distinct_rows(X: Floats, y: NDArray[Any], w: Floats) -> DistinctRows:
    """Merge equal rows of X (n, d) and y (n,) or (n, K), labels or numbers, with weights w (n,).

    Notes
    -----
    A stable sort by every column, ``n (d + K) log n`` operations.
    """
    codes = np.unique(y, return_inverse=True)[1].reshape(len(y), -1)
    keys = [*codes.T, *X.T]
    order = np.lexsort(keys[::-1])
    new = np.zeros(len(order), dtype=bool)
    new[0] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    place = np.empty(len(order), np.intp)
    place[order] = np.cumsum(new) - 1
    first = order[new]
    # The weights of equal rows, added from the smallest: their order says nothing either.
    by_weight = np.lexsort((w, place))
    weights = np.add.reduceat(w[by_weight], np.flatnonzero(new))
    return DistinctRows(X[first], y[first], weights, place, (X, y))
