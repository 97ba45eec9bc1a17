"""The exponent of a power law with its interval, and what the interval says of a quantity that should not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["FEWEST_SIZES", "Slope", "Verdict", "judge", "power_law_slope"]

Verdict = Literal["flat", "depends", "undecided"]

FEWEST_SIZES = 3
NAN = float("nan")


@dataclass(frozen=True)
class Slope:
    """Estimated exponent and its confidence interval; nan where it cannot be estimated.

    Attributes
    ----------
    value, low, high : float
        Exponent and the ends of its interval.
    n : int
        Values it was estimated from.
    """

    value: float
    low: float
    high: float
    n: int


def power_law_slope(sizes: Sequence[float], values: Sequence[float], confidence: float = 0.95) -> Slope:
    r"""Exponent of ``value = c * size^slope`` by ordinary least squares of the logarithms.

    .. math:: \hat\beta = \frac{\sum_i (u_i - \bar u)(v_i - \bar v)}{\sum_i (u_i - \bar u)^2}, \qquad
              \hat\beta \pm t_{N-2} \sqrt{\frac{\sum_i r_i^2}{(N - 2) \sum_i (u_i - \bar u)^2}},

    with :math:`u = \log \text{size}`, :math:`v = \log \text{value}` and residuals r.

    Parameters
    ----------
    sizes, values : sequences of N positive numbers
        One pair a measurement; a size may occur many times.
    confidence : float, default 0.95
        Probability that the interval covers the exponent, if the logarithms scatter normally and alike at every size.

    Returns
    -------
    Slope
        All nan with fewer than three values or fewer than three distinct sizes: two sizes cannot tell a power law from
        anything else.

    Notes
    -----
    Costs O(N). A curve that is no power law has residuals too: the interval widens with them.

    Examples
    --------
    >>> slope = power_law_slope([1, 2, 4, 8], [3, 6, 12, 24])
    >>> round(slope.value, 6), round(slope.high - slope.low, 6)
    (1.0, 0.0)
    """
    u, v = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(values, dtype=np.float64))
    n = len(u)
    if len(np.unique(u)) < FEWEST_SIZES:
        return Slope(NAN, NAN, NAN, n)
    u, v = u - u.mean(), v - v.mean()
    spread = float(u @ u)
    value = float(u @ v) / spread
    residuals = v - value * u
    error = float(np.sqrt(residuals @ residuals / ((n - 2) * spread)))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 2)) * error
    return Slope(value, value - half, value + half, n)


def judge(slope: Slope, tolerance: float) -> Verdict:
    """Whether the whole interval lies within ``[-tolerance, tolerance]``, or outside of it, or neither.

    Parameters
    ----------
    slope : Slope
        From :func:`power_law_slope`.
    tolerance : float
        Largest exponent that still counts as no dependence.

    Returns
    -------
    "flat", "depends" or "undecided"
        Undecided also where there is no interval.
    """
    if -tolerance <= slope.low and slope.high <= tolerance:
        return "flat"
    return "depends" if slope.low > tolerance or slope.high < -tolerance else "undecided"
