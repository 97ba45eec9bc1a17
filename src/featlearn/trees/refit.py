"""The numbers of a crisp tree, computed again for given rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tree import Node, Tree, tree_from

__all__ = ["centred", "midpoint", "put_in_place", "refitted"]

Floats = NDArray[np.float64]


def refitted(tree: Tree, Z: Floats, Y: Floats, w: Floats, min_weight: float = 0.0) -> Tree:
    """The crisp tree of the same splits, with the means, weights and gains of these rows.

    Parameters
    ----------
    tree : Tree
        Only its splits are read.
    Z : array of shape (n, q)
        Features.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights of the rows, not negative; rows of weight 0 have no say.
    min_weight : float, default=0.0
        Leaves that hold less, and empty ones, go, the lightest first; what is beside them takes their rows.

    Returns
    -------
    Tree

    Notes
    -----
    Costs ``n (depth + K)`` operations, and ``n depth`` more for each leaf to drop.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.grow import grow
    >>> Z, Y, w = np.arange(4.0)[:, None], np.array([[0.0], [0.0], [1.0], [1.0]]), np.ones(4)
    >>> tree = grow(Z, Y, w, 0.0, max_depth=1, min_weight=1.0)
    >>> refitted(tree, Z + 1, Y, w).value.ravel().round(2).tolist()
    [0.5, 0.0, 0.67]
    """
    if not w.all():
        Z, Y, w = Z[w > 0], Y[w > 0], w[w > 0]
    leaf = tree.apply(Z)
    while (light := _lightest_leaf(tree, np.bincount(leaf, w, tree.n_nodes), min_weight)) is not None:
        tree = _without(tree, light)
        leaf = tree.apply(Z)

    weights = np.bincount(leaf, w, tree.n_nodes).astype(np.float64)
    sums = np.stack([np.bincount(leaf, w * target, tree.n_nodes) for target in Y.T], axis=1)
    leaves = tree.is_leaf
    means, gains = np.zeros(sums.shape), np.zeros(tree.n_nodes)
    means[leaves] = sums[leaves] / weights[leaves, None]
    errors = np.bincount(leaf, w * np.square(Y - means[leaf]).sum(axis=1), tree.n_nodes)
    for v in reversed(tree.split_nodes):
        left, right = tree.children_left[v], tree.children_right[v]
        weights[v] = weights[left] + weights[right]
        means[v] = (weights[left] * means[left] + weights[right] * means[right]) / weights[v]
        # The gain as the distance of two means: differences of large sums would cancel.
        gains[v] = weights[left] * weights[right] / weights[v] * np.square(means[left] - means[right]).sum()
        errors[v] = errors[left] + errors[right] + gains[v]
    return replace(tree, value=means, n_node_weight=weights, gain=gains, impurity=errors / weights)


def centred(tree: Tree, Z: Floats) -> Tree:
    """The crisp tree with thresholds halfway between the rows on both sides; every node must have rows on both."""
    threshold = tree.threshold.copy()
    rows = {0: np.arange(len(Z))}
    for v in tree.split_nodes:
        here = rows.pop(v)
        z = Z[here, tree.feature[v]]
        right = z > threshold[v]
        threshold[v] = midpoint(float(z[~right].max()), float(z[right].min()))
        rows[int(tree.children_left[v])], rows[int(tree.children_right[v])] = here[~right], here[right]
    return replace(tree, threshold=threshold)


def midpoint(low: float, high: float) -> float:
    """Threshold between two values: ``low`` is on its left and ``high`` on its right, also for neighbouring floats."""
    middle = low + (high - low) / 2
    return middle if middle < high else low


def put_in_place(node: Node, of: Node) -> None:
    """Let ``node``, with all below it, stand where ``of`` stands, whose other descendants are lost."""
    vars(of).update(vars(node))


def _lightest_leaf(tree: Tree, weights: NDArray[Any], min_weight: float) -> int | None:
    leaves = np.flatnonzero(tree.is_leaf)
    lightest = int(leaves[np.argmin(weights[leaves])])
    allowed = weights[lightest] > 0 and weights[lightest] >= min_weight * (1 - 1e-9)
    return None if allowed or len(leaves) == 1 else lightest


def _without(tree: Tree, leaf: int) -> Tree:
    """The tree in which what is beside a leaf takes the place of their parent."""
    root = tree.root()
    nodes = root.walk()
    parent = int(np.flatnonzero((tree.children_left == leaf) | (tree.children_right == leaf))[0])
    beside = tree.children_left[parent] + tree.children_right[parent] - leaf
    put_in_place(nodes[beside], nodes[parent])
    return tree_from(root)
