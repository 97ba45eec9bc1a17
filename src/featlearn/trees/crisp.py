"""The crisp tree of lowest complexity that growth, refinement and pruning find on fixed features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .grow import grow
from .lookahead import MAX_FEATURES, grow_looking_ahead
from .prune import prune
from .refine import refine
from .split import SortedRows
from .tree import Tree

__all__ = ["crisp_tree", "loss_of", "objective_of"]

Floats = NDArray[np.float64]


def crisp_tree(
    Z: Floats,
    Y: Floats,
    w: Floats,
    *,
    costs: Floats,
    max_depth: int,
    min_weight: float,
    look_ahead: bool = True,
    refined: bool = True,
) -> Tree:
    r"""Crisp tree of low complexity J, the mean loss plus the costs of the splits.

    .. math:: J = \frac{1}{n} \sum_i \omega_i |f(x_i) - Y_i|^2 + \sum_v \mathrm{cost}(j(v))

    Grown greedily and, with few features, by looking two levels ahead; both trees are refined and pruned, and the one
    of lower J is returned, the greedy one if they are equal.

    Parameters
    ----------
    Z : array of shape (n, q)
        Features.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights of the rows, read as numbers of repetitions, not negative, with a positive sum.
    costs : array of shape (q,)
        Price of a split on each feature, in units of the loss.
    max_depth : int
        Most splits on a path.
    min_weight : float
        Least weight of a leaf.
    look_ahead : bool, default=True
        Try growth that looks ahead, too, when there are at most 8 features.
    refined : bool, default=True
        Refine before pruning.

    Returns
    -------
    Tree

    Notes
    -----
    Refinement minimises J, too, not the loss alone: nodes that became needless are then replaced by one of their
    subtrees, which no pruning of the bottom can do.

    Costs of the parts: :func:`~featlearn.trees.grow.grow`, :func:`~featlearn.trees.lookahead.grow_looking_ahead`,
    :func:`~featlearn.trees.refine.refine`; features are sorted twice.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.random.default_rng(0).standard_normal((400, 2))
    >>> Y = ((Z[:, :1] > 0) != (Z[:, 1:] > 0)).astype(float)
    >>> tree = crisp_tree(Z, Y, np.ones(400), costs=np.full(2, 0.01), max_depth=4, min_weight=5.0)
    >>> tree.n_leaves, loss_of(tree, Z, Y, np.ones(400))
    (4, 0.0)
    """
    ordered = SortedRows.of(Z, w)
    grown = [grow(Z, Y, w, 0.0, max_depth=max_depth, min_weight=min_weight)]
    if look_ahead and Z.shape[1] <= MAX_FEATURES:
        looked = grow_looking_ahead(Z, Y, w, max_depth=max_depth, min_weight=min_weight, ordered=ordered)
        grown += [] if looked is None else [looked]
    if refined:
        grown = [refine(tree, Z, Y, w, min_weight=min_weight, costs=costs, ordered=ordered) for tree in grown]
    pruned = [prune(tree, costs) for tree in grown]
    return min(pruned, key=lambda tree: objective_of(tree, loss_of(tree, Z, Y, w), costs))


def loss_of(tree: Tree, Z: Floats, Y: Floats, w: Floats) -> float:
    """Weighted mean of the squared distance of crisp predictions from the targets."""
    return float((w * np.square(tree.predict(Z) - Y).sum(axis=1)).sum() / w.sum())


def objective_of(tree: Tree, loss: float, costs: Floats) -> float:
    """Complexity J: the loss plus the cost of every split, by its feature."""
    return loss + float(costs[tree.feature[~tree.is_leaf]].sum())
