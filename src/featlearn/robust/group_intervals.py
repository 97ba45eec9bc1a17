"""How sure accuracies of groups are, how sure their minimum is, and how low it would be if all groups were equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from .groups import GroupLabels

__all__ = ["equal_draws", "metric_draws", "minimum_interval", "shuffled_draws", "value_of", "wilson_interval"]

Floats = NDArray[np.float64]
Metric = Callable[[Any, Any], float]


def wilson_interval(n_correct: Any, n: Any, confidence: float = 0.95) -> tuple[Floats, Floats]:
    r"""Wilson's score interval of a proportion.

    .. math:: \frac{p + z^2 / 2n}{1 + z^2 / n} \pm
              \frac{z}{1 + z^2 / n} \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}}, \qquad p = k / n

    Parameters
    ----------
    n_correct : int or integer array of any shape
        Successes ``k``.
    n : int or integer array of the same shape
        Trials; nan comes back where there are none.
    confidence : float, default 0.95
        Between 0 and 1.

    Returns
    -------
    low, high : float arrays
        Between 0 and 1.

    Notes
    -----
    It never leaves the unit interval, and has a width for 0 of n and n of n, which the normal approximation has not.

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Examples
    --------
    >>> low, high = wilson_interval([600, 0, 50], [642, 10, 50])
    >>> low.round(5).tolist(), high.round(5).tolist()
    ([0.91275, 0.0, 0.92865], [0.95124, 0.27753, 1.0])
    """
    successes, trials = np.asarray(n_correct, dtype=np.float64), np.asarray(n, dtype=np.float64)
    trials = np.where(trials > 0, trials, np.nan)
    z = float(norm.ppf(0.5 + confidence / 2))
    p, scale = successes / trials, 1 + z**2 / trials
    centre = (p + z**2 / (2 * trials)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    # Rounding would leave 0 of n and n of n a hair inside of their exact ends.
    low = np.where(successes == 0, np.minimum(trials, 0.0), centre - half)
    high = np.where(successes == trials, np.minimum(trials, 1.0), centre + half)
    return low, high


def minimum_interval(n_correct: Any, n: Any, confidence: float = 0.95) -> tuple[float, float]:
    r"""Interval of the smallest of several proportions, which holds it with at least the given confidence.

    .. math:: \Bigl[\min_g L(k_g, n_g; \tfrac{a}{2}), \; \min_g U(k_g, n_g; \tfrac{a}{2 G})\Bigr],
              \qquad a = 1 - \mathrm{confidence}

    with Clopper and Pearson's exact bounds, ``P(L(k; a) > p) <= a`` and ``P(U(k; a) < p) <= a``.

    Parameters
    ----------
    n_correct, n : integer array of shape (G,)
        Successes and trials; groups without trials are left out.
    confidence : float, default 0.95
        Between 0 and 1.

    Returns
    -------
    low, high : float
        The smallest observed proportion lies between them.

    Notes
    -----
    The lower end is above the smallest proportion only if it is so in the group that has it: one chance in ``2 / a``,
    however many groups there are. The upper end is below it only if some group's bound is below its own proportion: G
    chances, which is why each has a G-th of the risk. No independence is asked for, so groups may share rows.

    Percentiles of resampled rows, the usual choice, hold much less. A group whose rows are all right is all right in
    every sample, so the interval of three rows of three is a point; and the minimum of a sample is lower than that of
    the groups, once more than the observed one is already. The combination is this library's own.

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
    26 (1934).

    Examples
    --------
    >>> low, high = minimum_interval([50, 3, 3, 50], [50, 3, 3, 50])
    >>> round(low, 4), high
    (0.2924, 1.0)
    """
    successes, trials = np.asarray(n_correct), np.asarray(n)
    k, m = successes[trials > 0], trials[trials > 0]
    risk = (1 - confidence) / 2
    # Bounds of none and of all are 0 and 1, where the beta distribution has no shape.
    low = np.where(k == 0, 0.0, beta.ppf(risk, np.maximum(k, 1), m - k + 1))
    high = np.where(k == m, 1.0, beta.ppf(1 - risk / len(k), k + 1, np.maximum(m - k, 1)))
    return float(low.min()), float(high.min())


def equal_draws(accuracy: float, labels: GroupLabels, draws: int, rng: np.random.Generator) -> Floats:
    """Accuracies of the groups when every row is correct with the same probability.

    Parameters
    ----------
    accuracy : float
        That probability.
    labels : GroupLabels
        Groups of the rows, which may overlap: then they share outcomes.
    draws : int
        Simulated outcomes.
    rng : Generator
        What draws them.

    Returns
    -------
    array of shape (draws, G)
        nan for groups without rows.
    """
    if not labels.overlapping:
        return _ratio(rng.binomial(labels.counts, accuracy, size=(draws, len(labels))), labels.counts)
    kinds, sizes = _kinds(labels.masks)
    members = kinds.astype(np.float64)
    drawn = (rng.binomial(sizes, accuracy) for _ in range(draws))
    return np.array([_ratio(hits @ members, labels.counts) for hits in drawn])


def metric_draws(
    metric: Metric, y_true: Any, y_pred: Any, labels: GroupLabels, n_boot: int, rng: np.random.Generator
) -> Floats:
    """Values of any metric in bootstrap samples of each group, of shape (n_boot, G).

    Rows are resampled within each group; all together where groups overlap. Costs ``n_boot * G`` calls of the metric.
    """
    n, masks = len(y_true), labels.masks
    if labels.overlapping:
        samples = (rng.integers(n, size=n) for _ in range(n_boot))
        rows = ([drawn[masks[drawn, group]] for group in range(len(labels))] for drawn in samples)
    else:
        members = [np.flatnonzero(mask) for mask in masks.T]
        rows = ([rng.choice(own, len(own)) if len(own) else own for own in members] for _ in range(n_boot))
    return _metric_of(metric, y_true, y_pred, labels, rows)


def shuffled_draws(
    metric: Metric, y_true: Any, y_pred: Any, labels: GroupLabels, draws: int, rng: np.random.Generator
) -> Floats:
    """Values of any metric in groups of the same sizes and overlaps whose rows are shuffled, of shape (draws, G)."""
    members = [np.flatnonzero(mask) for mask in labels.masks.T]
    orders = (rng.permutation(len(y_true)) for _ in range(draws))
    return _metric_of(metric, y_true, y_pred, labels, ([order[own] for own in members] for order in orders))


def value_of(metric: Metric, y_true: Any, y_pred: Any, name: str) -> float:
    """The metric of some rows; nan without rows. What it raises leaves with the name of the rows as a note."""
    if not len(y_true):
        return float("nan")
    try:
        return float(metric(y_true, y_pred))
    except Exception as error:
        error.add_note(f"The metric was called with {len(y_true)} rows of {name}; it must return one number.")
        raise


# --- parts ------------------------------------------------------------------------------------------------------------


def _metric_of(
    metric: Metric, y_true: Any, y_pred: Any, labels: GroupLabels, samples: Iterator[list[NDArray[np.intp]]]
) -> Floats:
    return np.array(
        [
            [value_of(metric, y_true[own], y_pred[own], name) for own, name in zip(rows, labels.names, strict=True)]
            for rows in samples
        ]
    )


def _kinds(table: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Distinct rows, in an order of their own, and how often each occurs."""
    kinds, sizes = np.unique(table, axis=0, return_counts=True)
    return kinds, sizes.astype(np.int64)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)
