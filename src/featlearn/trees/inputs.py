"""Columns as the trees see them, centred and of one scale, and rules told in the units of the input again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Inputs", "weighted_mean_and_scale"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Inputs:
    r"""The columns that vary, centred and divided by their standard deviation: :math:`(x - \mu) / \sigma`.

    Attributes
    ----------
    mean, scale : array of shape (d,)
        Weighted mean and standard deviation (denominator n) of the training rows; the scale of a constant column is 1.
    kept : bool array of shape (d,)
        Columns that vary. The others are given to no rule.
    low, high : array of shape (d,)
        Smallest and largest entries of the training rows.
    """

    mean: Array
    scale: Array
    kept: NDArray[np.bool_]
    low: Array
    high: Array

    @classmethod
    def fit(cls, X: Array, w: Array) -> Inputs:
        """Of rows X (n, d) with positive weights w (n,)."""
        mean, scale = weighted_mean_and_scale(X, w)
        return cls(mean, np.where(scale > 0, scale, 1.0), scale > 0, X.min(axis=0), X.max(axis=0))

    def rows(self, X: Array) -> Array:
        """Standardised columns that vary, (n, k)."""
        return np.ascontiguousarray((X[:, self.kept] - self.mean[self.kept]) / self.scale[self.kept])

    def standardized(self, directions: Array) -> Array:
        """Directions v of the input, (q, d), as directions of :meth:`rows`, (q, k): ``v . x`` changes by a constant."""
        return directions[:, self.kept] * self.scale[self.kept]

    def original(self, weights: Array) -> Array:
        """Weights (q, k) of :meth:`rows` as weights (q, d) of the input, 0 for columns that do not vary."""
        return self.spread(weights / self.scale[self.kept])

    def offsets(self, weights: Array) -> Array:
        """What ``original(weights) @ x`` exceeds ``weights @ rows(x)`` by, (q,)."""
        return np.asarray((weights * (self.mean[self.kept] / self.scale[self.kept])).sum(axis=1))

    def spread(self, columns: Array) -> Array:
        """(q, k) as (q, d), with 0 in the columns that do not vary."""
        found = np.zeros((len(columns), len(self.kept)))
        found[:, self.kept] = columns
        return found


def weighted_mean_and_scale(X: Array, w: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of every column; exactly 0 for one that does not vary."""
    share = (w / w.sum())[:, None]
    mean = (share * X).sum(axis=0)
    # A second pass: the rounding of the first mean is as large as a small deviation about a large one.
    mean = mean + (share * (X - mean)).sum(axis=0)
    varies = X.min(axis=0) < X.max(axis=0)
    deviations = X - mean
    # Relative to the largest one: squares of very large and very small numbers are none.
    largest = np.where(varies, np.abs(deviations).max(axis=0), 1.0)
    scale = largest * np.sqrt((share * np.square(deviations / largest)).sum(axis=0))
    return np.where(varies, mean, X[0]), np.where(varies, scale, 0.0)
