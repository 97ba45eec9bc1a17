"""Curves that tame skewed and heavy-tailed columns before a kernel measures distances in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["Curves", "RankCurves", "RobustCurves", "Sample", "curves_from_dict", "fit_curves"]

Vector = NDArray[np.float64]

MAX_KNOTS = 1000


@dataclass(frozen=True)
class Sample:
    """Distinct values of a column, ascending, with the weight that stands on each."""

    values: Vector
    mass: Vector

    @classmethod
    def of(cls, values: Vector, weights: Vector | None = None) -> Sample:
        """Sample of ``values`` (n,); NaN and rows of weight 0 are left out."""
        there = ~np.isnan(values) if weights is None else ~np.isnan(values) & (weights > 0)
        distinct, place = np.unique(values[there], return_inverse=True)
        return cls(distinct, np.bincount(place, None if weights is None else weights[there]).astype(np.float64))

    def quantile(self, level: float) -> float:
        """Smallest value with at least ``level`` of the weight at or below it; midpoint where that is met exactly.

        Weight 2 is the same as a row given twice, and the scale of the weights does not matter.
        """
        below = np.cumsum(self.mass)
        target = level * below[-1]
        first = min(int(np.searchsorted(below, target * (1 - 1e-12))), len(below) - 1)
        exact = abs(below[first] - target) <= 1e-12 * below[-1] and first + 1 < len(below)
        return float((self.values[first] + self.values[first + 1]) / 2 if exact else self.values[first])

    def ranks(self) -> Vector:
        """Weight below each value plus half the weight on it, as a share: ties get the middle of their ranks."""
        return (np.cumsum(self.mass) - self.mass / 2) / self.mass.sum()


class Curves(Protocol):
    """One increasing curve a column."""

    def __call__(self, x: Vector) -> Vector:
        """Curve ``j`` of column ``j``, for x of shape (n, q) without NaN."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which :func:`curves_from_dict` makes the same curves."""


@dataclass(frozen=True)
class RobustCurves:
    r"""Median and interquartile range, then a smooth clip to (-3, 3).

    .. math:: \phi(x) = \frac{s}{\sqrt{1 + (s/3)^2}}, \qquad s = \frac{x - \mathrm{median}}{\mathrm{width}}

    The width is the interquartile range, or the mean distance from the median where more than half of the entries
    are equal and the range is zero.
    """

    center: Vector
    width: Vector

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> RobustCurves:
        """Curves from one sample a column; no column is constant."""
        center, width = [], []
        for sample in samples:
            center.append(sample.quantile(0.5))
            quartiles = sample.quantile(0.75) - sample.quantile(0.25)
            distance = float(np.average(np.abs(sample.values - center[-1]), weights=sample.mass))
            width.append(quartiles if quartiles > 0 else distance)
        return cls(np.array(center), np.array(width))

    def __call__(self, x: Vector) -> Vector:
        """Values of the curves at x of shape (n, q)."""
        # The angle keeps even an overflowing ratio finite: s / sqrt(1 + (s/3)^2) = 3 sin(atan(s/3)).
        with np.errstate(over="ignore"):
            return np.asarray(3 * np.sin(np.arctan((x - self.center) / self.width / 3)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": "robust", "center": self.center.tolist(), "width": self.width.tolist()}


@dataclass(frozen=True)
class RankCurves:
    """Ranks among the training rows, as normal or uniform scores; straight lines between at most 1000 knots.

    Beyond the first and the last knot a curve goes on rising at its average pace and levels off, at most ``reach``
    further: new extremes stay apart from the old ones and yet cannot run away. Normal scores reach one unit further,
    uniform ones to 0 and to 1.
    """

    knots: tuple[Vector, ...]
    scores: tuple[Vector, ...]
    reach: NDArray[np.float64]  # (q, 2): below, above

    @classmethod
    def fit(cls, samples: Iterable[Sample], normal: bool) -> RankCurves:
        """Curves from one sample a column; no column is constant."""
        knots, scores, reach = [], [], []
        for sample in samples:
            values, ranks = sample.values, sample.ranks()
            if len(values) > MAX_KNOTS:
                levels = np.linspace(ranks[0], ranks[-1], MAX_KNOTS)
                # Values a rounding error apart can meet in one knot.
                values, first = np.unique(np.interp(levels, ranks, values), return_index=True)
                ranks = levels[first]
            knots.append(values)
            scores.append(np.asarray(ndtri(ranks)) if normal else ranks)
            reach.append([1.0, 1.0] if normal else [ranks[0], 1 - ranks[-1]])
        return cls(tuple(knots), tuple(scores), np.array(reach).reshape(len(knots), 2))

    def __call__(self, x: Vector) -> Vector:
        """Values of the curves at x of shape (n, q)."""
        y = np.empty_like(x)
        for j, (knots, scores) in enumerate(zip(self.knots, self.scores, strict=True)):
            column = x[:, j]
            pace = (scores[-1] - scores[0]) / (knots[-1] - knots[0])
            below, above = self.reach[j]
            y[:, j] = np.interp(column, knots, scores)
            with np.errstate(over="ignore"):  # a rise without bound is levelled too
                y[:, j] += _levelling(np.maximum(column - knots[-1], 0) * pace, above)
                y[:, j] -= _levelling(np.maximum(knots[0] - column, 0) * pace, below)
        return y

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "rank",
            "knots": [knots.tolist() for knots in self.knots],
            "scores": [scores.tolist() for scores in self.scores],
            "reach": self.reach.tolist(),
        }


def _levelling(rise: Vector, reach: float) -> Vector:
    """0 at 0, slope 1 there, below ``reach`` everywhere."""
    return np.asarray(reach * (1 - reach / (reach + rise)))


def fit_curves(transform: str, samples: Iterable[Sample]) -> Curves:
    """Curves by name: "robust", "quantile" (normal scores), "uniform" (uniform scores); holds one sample at a time."""
    return RobustCurves.fit(samples) if transform == "robust" else RankCurves.fit(samples, transform == "quantile")


def curves_from_dict(plain: dict[str, Any]) -> Curves:
    """Curves that ``to_dict`` described."""
    if plain["kind"] == "robust":
        return RobustCurves(np.array(plain["center"]), np.array(plain["width"]))
    knots = tuple(np.array(knots) for knots in plain["knots"])
    scores = tuple(np.array(scores) for scores in plain["scores"])
    return RankCurves(knots, scores, np.array(plain["reach"], dtype=np.float64).reshape(len(knots), 2))
