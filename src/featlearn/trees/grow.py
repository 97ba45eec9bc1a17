r"""Greedy growth of a tree, fuzzy or crisp, on fixed features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .split import Backend, SortedRows, backend_for, best_sorted_split
from .tree import Node, Tree, share_right, tree_from

__all__ = ["grow"]

Array = NDArray[np.float64]


def grow(
    Z: Array,
    Y: Array,
    w: Array,
    h: float,
    *,
    max_depth: int,
    min_weight: float,
    min_gain: float = 0.0,
    backend: Backend = "auto",
) -> Tree:
    r"""The tree whose every node takes the best split of its members.

    A node splits into members of weights :math:`w_i s_i` on the right and :math:`w_i (1 - s_i)` on the left, s the
    shares of :func:`~featlearn.trees.split.best_split`; a value is the weighted mean of the targets of a node's
    members.

    Parameters
    ----------
    Z : array of shape (n, q)
        Columns of standard deviation about 1.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights, read as numbers of repetitions, one at least positive.
    h : float
        Half-width of the fuzzy transition, at least 1e-3; 0 for crisp sides (CART).
    max_depth : int
        Most splits on a path.
    min_weight : float
        Least weight of a leaf.
    min_gain : float, default 0
        A split has to lower the mean loss over all rows, gain over sum of w, by as much.
    backend : {"auto", "numpy", "numba"}
        Who sweeps over the thresholds.

    Returns
    -------
    Tree

    Notes
    -----
    Every column is sorted once; below, orders are filtered by membership. Costs O(n q log n + n q K) time a level of
    crisp nodes and about 30 q bytes of memory a row, whatever the depth; a row on a fuzzy threshold belongs to both
    sides and counts twice below it.

    The values of a fuzzy tree minimise the sum of reach times squared distance, an upper bound of the squared error of
    its predictions.

    Examples
    --------
    >>> Z = np.array([[1.0], [2.0], [3.0], [4.0]])
    >>> tree = grow(Z, np.array([[0.0], [2.0], [5.0], [5.0]]), np.ones(4), 0.0, max_depth=2, min_weight=1)
    >>> tree.threshold.tolist(), tree.predict(Z).ravel().tolist()
    ([2.5, 1.5, nan, nan, nan], [0.0, 2.0, 5.0, 5.0])
    """
    whole = SortedRows.of(Z, w)
    if backend == "auto":  # once for all nodes, so that one tree is one computation
        backend = backend_for(len(whole.rows), Z.shape[1])
    members = w[whole.rows]
    root, least = Node.of(Y[whole.rows], members), min_gain * members.sum()
    # Children wait on a stack and parents are let go: rows waiting are never more than those of one level.
    waiting = [(root, whole, members, max_depth)]
    del whole
    while waiting:
        node, ordered, members, levels = waiting.pop()
        if levels == 0:
            continue
        split = best_sorted_split(ordered, Y[ordered.rows], members, h, min_weight, backend=backend)
        if split is None or split.gain < least:
            continue
        node.feature, node.threshold, node.gain = split.feature, split.threshold, split.gain
        right = share_right(Z[ordered.rows, split.feature], split.threshold, h)
        children = []
        for share in (1 - right, right):
            keep = share > 0
            weights = (members * share)[keep]
            child = Node.of(Y[ordered.rows[keep]], weights)
            children.append(child)
            if levels > 1:
                waiting.append((child, ordered.only(keep), weights, levels - 1))
        node.left, node.right = children
    return tree_from(root)
