"""The loss of a fuzzy tree and its slopes in the features and thresholds, the tree itself held fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .tree import share_right

if TYPE_CHECKING:
    from .tree import Tree

__all__ = ["loss_and_gradient"]

Floats = NDArray[np.float64]


def loss_and_gradient(tree: Tree, Z: Floats, Y: Floats, w: Floats, h: float) -> tuple[float, Floats, Floats]:
    r"""Mean squared loss of the smooth fuzzy tree, with its gradients.

    .. math::
        \mathcal{L} = \frac{1}{n} \sum_i \omega_i |f(x_i) - Y_i|^2, \qquad
        \frac{\partial \mathcal{L}}{\partial z_{ij}} = \sum_{v: j(v) = j} \mathrm{reach}_v(x_i)
        \big\langle f_R - f_L, \tfrac{2 \omega_i}{n} (f - Y_i) \big\rangle \frac{F'((z_{ij} - t_v) / h)}{h}

    with ``n`` the sum of the weights, ``F(u) = 1 / (1 + exp(-pi u))``, and ``f_L``, ``f_R`` the outputs of the two
    subtrees of ``v``. The slope in ``t_v`` is minus the sum over rows of that node's term.

    Parameters
    ----------
    tree : Tree
        Its splits, thresholds and leaf values are used as they are.
    Z : array of shape (n, q)
        Features.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights of the rows, not negative, with a positive sum.
    h : float
        Bandwidth in units of the features, positive.

    Returns
    -------
    loss : float
        In squared units of ``Y``.
    by_features : array of shape (n, q)
        Slope of the loss in every feature of every row; zero for features that no split tests.
    by_thresholds : array of shape (m,)
        Slope of the loss in every threshold; zero at leaves.

    Notes
    -----
    Costs about ``10 n`` operations a split and two matrix products of ``n x leaves x K``; memory of ``4 n m`` numbers
    for ``m`` nodes. Outputs of subtrees enter only through their product with the slope of the loss, so that one number
    a row and node goes up the tree, whatever ``K`` is.

    The smooth ``F`` has the variance of the box with which trees are grown, 1/3: the box itself has no slope outside
    its window. This loss and its gradient are the library's own.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.gradient import loss_and_gradient
    >>> from featlearn.trees.grow import grow
    >>> Z, Y, w = np.array([[-1.0], [1.0]]), np.array([[0.0], [1.0]]), np.ones(2)
    >>> tree = grow(Z, Y, w, 0.0, max_depth=1, min_weight=0.0)
    >>> loss, by_features, by_thresholds = loss_and_gradient(tree, Z, Y, w, 1.0)
    >>> bool(by_features[0, 0] > 0 > by_features[1, 0])  # moving the rows apart makes the split sharper
    True
    """
    splits, leaves = np.flatnonzero(~tree.is_leaf), np.flatnonzero(tree.is_leaf)
    features = tree.feature[splits]
    right = np.zeros((tree.n_nodes, len(Z)))
    right[splits] = share_right(Z.T[features], tree.threshold[splits, None], h, smooth=True)
    reach = _reach(tree, splits, right)

    residual = reach[leaves].T @ tree.value[leaves] - Y
    per_row = w / w.sum()
    loss = float((per_row * np.einsum("nk,nk->n", residual, residual)).sum())

    # <f_v, dloss/df> of every node: leaves first, then each split from its two children.
    along = np.empty_like(right)
    along[leaves] = tree.value[leaves] @ (residual * (2 * per_row)[:, None]).T
    by_features, by_thresholds = np.zeros((Z.shape[1], len(Z))), np.zeros(tree.n_nodes)
    for v in splits[::-1]:  # children come after their parent
        left_along = along[tree.children_left[v]]
        step = along[tree.children_right[v]] - left_along
        along[v] = left_along + right[v] * step
        slope = reach[v] * step * (right[v] * (1 - right[v]) * (np.pi / h))
        by_features[tree.feature[v]] += slope
        by_thresholds[v] = -slope.sum()
    return loss, by_features.T, by_thresholds


def _reach(tree: Tree, splits: NDArray[np.intp], right: Floats) -> Floats:
    """Weight (m, n) with which every row is at every node."""
    reach = np.empty_like(right)
    reach[0] = 1.0
    for v in splits:
        to_right = reach[v] * right[v]
        reach[tree.children_right[v]] = to_right
        reach[tree.children_left[v]] = reach[v] - to_right
    return reach
