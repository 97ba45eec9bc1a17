"""Whether a tree is more than what its search finds in noise: the same fit on permuted targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone

from .._arrays import plain
from .._parameters import check_count
from .._random import generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PermutationReport", "permutation_report"]


@dataclass(frozen=True, eq=False)
class PermutationReport:
    """What a tree explains of its targets, and what the same search explains of permuted ones.

    Attributes
    ----------
    explained : float
        ``1 - J / v``: J the objective of the tree, v the variance of the targets. 0 for a single leaf.
    permuted : array of shape (n_permutations,)
        The same for permuted targets.
    p_value : float
        Share of all fits, the real one among them, that explain as much as the real one.
    """

    explained: float
    permuted: NDArray[np.float64]
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"explained": self.explained, "permuted": self.permuted.tolist(), "p_value": self.p_value}

    def frame(self) -> Any:
        """One row a fit, as a DataFrame: what was fitted, and what was explained."""
        import pandas as pd

        targets = ["given"] + ["permuted"] * len(self.permuted)
        return pd.DataFrame({"targets": targets, "explained": [self.explained, *self.permuted]})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of what was explained of permuted targets, with that of the given ones marked."""
        from ..plots.permutation import plot_permutation

        return plot_permutation(self.to_dict(), ax)


def permutation_report(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    n_permutations: int = 19,
    random_state: int = 0,
) -> PermutationReport:
    r"""Refit a feature tree on permuted targets.

    .. math:: p = \frac{1 + \#\{b : e_b \ge e\}}{1 + B}, \qquad e = 1 - J / v

    Parameters
    ----------
    estimator : FeatureTreeClassifier or FeatureTreeRegressor
        Cloned for every fit, so that it stays as it is.
    X : array of shape (n, d)
    y : array of shape (n,) or (n, K)
    sample_weight : array of shape (n,), optional
        Moves with the targets, so that a weight still counts repetitions of a target.
    n_permutations : int, default 19
        B; the smallest p value there can be is ``1 / (1 + B)``.
    random_state : int, default 0
        Of the permutations.

    Returns
    -------
    PermutationReport

    Raises
    ------
    DataError
        For a number of permutations that is not whole, or below 1.
    KeyboardInterrupt
        When a fit is interrupted: what a search cut short explains cannot be compared.

    Notes
    -----
    ``1 + B`` fits. With many candidates and a low price of splits a tree explains a good part of pure noise: that part
    is what this shows.
    """
    check_count("n_permutations", n_permutations, 1)
    targets = np.asarray(plain(y))
    weights = None if sample_weight is None else np.asarray(plain(sample_weight))
    explained = _explained(estimator, X, targets, weights)
    permuted = np.empty(n_permutations)
    for i in range(n_permutations):
        order = torch.randperm(len(targets), generator=generator(random_state, "permutation", i)).numpy()
        permuted[i] = _explained(estimator, X, targets[order], None if weights is None else weights[order])
    p_value = (1 + np.count_nonzero(permuted >= explained)) / (1 + n_permutations)
    return PermutationReport(explained, permuted, float(p_value))


def _explained(estimator: Any, X: Any, y: NDArray[Any], weights: NDArray[Any] | None) -> float:
    fitted = clone(estimator).fit(X, y, sample_weight=weights)
    if fitted.interrupted_:  # a search cut short explains less, of permuted targets too: p would be too low
        raise KeyboardInterrupt
    return 1 - float(fitted.objective_) / float(fitted.tree_.impurity[0])
