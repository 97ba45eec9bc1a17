"""Rows of numbers with a core and a spurious column, whose group accuracies are known exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from .arguments import random_generator, share, whole_number
from .spurious_dataset import Split, SpuriousDataset
from .spurious_gaussian import SpuriousGaussian

__all__ = ["make_spurious_tabular"]


def make_spurious_tabular(
    *,
    n_train: int = 4000,
    n_validation: int = 1200,
    n_test: int = 4000,
    n_core: int = 5,
    n_noise: int = 50,
    core_margin: float = 1.5,
    spurious_margin: float = 2.5,
    correlation: float = 0.95,
    validation_correlation: float = 0.5,
    test_correlation: float = 0.5,
    random_state: int = 0,
) -> SpuriousDataset:
    r"""Two balanced classes of Gaussian rows: weak core columns, one strong spurious column, columns of noise.

    .. math:: x_{core} \sim N(y \, m_c / \sqrt{k} \cdot 1, I_k), \quad x_{spur} \sim N(a \, m_s, 1), \quad
              x_{noise} \sim N(0, I), \qquad P(a = y) = \rho

    Parameters
    ----------
    n_train, n_validation, n_test : int, even
        Rows; half of them of each class.
    n_core : int, default 5
        k, columns that carry the label, first; the spurious column follows.
    n_noise : int, default 50
        Columns that carry nothing, last.
    core_margin, spurious_margin : float, default 1.5 and 2.5
        :math:`m_c` (above 0) and :math:`m_s`, in standard deviations of a column.
    correlation, validation_correlation, test_correlation : float, default 0.95, 0.5 and 0.5
        :math:`\rho` of the splits, as exact counts: ``round((1 - rho) n / 2)`` rows of each class have a != y.
    random_state : int, default 0
        For all draws.

    Returns
    -------
    SpuriousDataset
        ``y`` and ``s`` are 0 and 1 for -1 and +1 of the formula. ``ceilings``: "bayes_aligned", "bayes_minority" and
        "bayes_average" of the best rule for the training distribution, and "core_only" of the best rule that ignores
        the spurious column: its accuracy in every group. ``exact``: :class:`SpuriousGaussian`.

    Raises
    ------
    DataError
        A number that does not fit.

    Examples
    --------
    >>> data = make_spurious_tabular(n_train=400)
    >>> data.train
    Split(400 rows of shape (56,), groups [190, 10, 10, 190])
    >>> round(data.ceilings["bayes_minority"], 4), round(data.ceilings["core_only"], 4)
    (0.7045, 0.9332)
    """
    exact = SpuriousGaussian(core_margin, spurious_margin, n_core, n_noise)
    asked = (
        ("n_train", n_train, "correlation", correlation),
        ("n_validation", n_validation, "validation_correlation", validation_correlation),
        ("n_test", n_test, "test_correlation", test_correlation),
    )
    plan = [(whole_number(size, n, 2, multiple=2), share(name, correlation)) for size, n, name, correlation in asked]
    random = random_generator(random_state)
    starts = (0, plan[0][0], plan[0][0] + plan[1][0])
    train, validation, test = (
        _draw(exact, n, rho, first, random) for (n, rho), first in zip(plan, starts, strict=True)
    )
    bayes = exact.bayes_group_accuracy(correlation)
    return SpuriousDataset(
        train,
        validation,
        test,
        environments={},
        group_names=[f"y={y}, a={a}" for y in (0, 1) for a in (0, 1)],
        ceilings={f"bayes_{name}": value for name, value in bayes.items()}
        | {"core_only": float(norm.cdf(core_margin))},
        source="simulated",
        description=f"Gaussian rows with a spurious column, correlation {correlation:g}",
        exact=exact,
    )


def _draw(exact: SpuriousGaussian, n: int, correlation: float, first: int, random: np.random.Generator) -> Split:
    """``n`` shuffled rows, numbered from ``first``."""
    label = np.repeat([0, 1], n // 2)
    against = np.tile(np.arange(n // 2) < round((1 - correlation) * n / 2), 2)
    order = random.permutation(n)
    y: NDArray[np.int64] = label[order]
    s: NDArray[np.int64] = np.where(against, 1 - label, label)[order]
    X = random.standard_normal((n, exact.n_features))
    X += np.outer(2 * y - 1, exact.core_margin * exact.core_direction)
    X[:, exact.n_core] += exact.spurious_margin * (2 * s - 1)
    return Split.of(X.astype(np.float32), y, s, np.arange(first, first + n))
