"""Better splits for a crisp tree that is there already: one node after the other, the rest held fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .refit import centred, put_in_place, refitted
from .split import SortedRows
from .tree import Node, Tree, tree_from

__all__ = ["refine"]

MAX_PASSES = 10
ROUNDING = 1e-12  # share of the root's sum of squares below which a decrease is none

Floats = NDArray[np.float64]


def refine(
    tree: Tree,
    Z: Floats,
    Y: Floats,
    w: Floats,
    *,
    min_weight: float = 0.0,
    costs: Floats | None = None,
    max_passes: int = MAX_PASSES,
    ordered: SortedRows | None = None,
) -> Tree:
    r"""Alternating optimisation of the nodes of a crisp tree.

    For a node with its rows, and the losses ``l_i`` and ``r_i`` of each in the left and the right subtree as they are,

    .. math:: \min_{j, t} \sum_{z_{ij} \le t} l_i + \sum_{z_{ij} > t} r_i

    plus the cost of j is accepted when it is a decrease. So is one of the two subtrees in place of the node, which is
    the case of ``t`` beyond all rows, and saves the costs of the other one. Nodes are visited from the root down; then
    values become the means of the leaves, and all begins again, until nothing changes.

    Parameters
    ----------
    tree : Tree
        Its splits are where the search starts.
    Z : array of shape (n, q)
        Features.
    Y : array of shape (n, K)
        Targets.
    w : array of shape (n,)
        Weights of the rows, not negative.
    min_weight : float, default=0.0
        Least weight of a leaf. Leaves of the given tree that hold less on these rows are dropped first; after that, of
        all thresholds those are compared that leave each leaf below the node enough.
    costs : array of shape (q,), optional
        Price of a split on each feature, in units of the mean loss; 0 if not given.
    max_passes : int, default=10
        Visits of the whole tree.
    ordered : SortedRows, optional
        Those of ``Z`` and ``w``, if they are known.

    Returns
    -------
    Tree
        Refitted to the rows (:func:`refitted`). Its loss plus costs are never above those of the given tree, unless
        that one has leaves lighter than ``min_weight``.

    Notes
    -----
    One sort a feature, then ``n q depth`` operations and ``n m K`` for the losses in each pass; memory of ``3 n m``
    numbers for ``m`` nodes. The idea to optimise one node at a time is published; the exact search over single
    features, the part about leaf weights and the constants are the library's own.

    References
    ----------
    M. A. Carreira-Perpinan and P. Tavallali, Alternating optimization of decision trees, with application to learning
    sparse oblique trees, NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.tree import Node, tree_from
    >>> Z, Y, w = np.arange(4.0)[:, None], np.array([[0.0], [0.0], [1.0], [1.0]]), np.ones(4)
    >>> root = Node.of(Y, w)
    >>> root.feature, root.threshold, root.left, root.right = 0, 2.5, Node.of(Y[:3], w[:3]), Node.of(Y[3:], w[3:])
    >>> refine(tree_from(root), Z, Y, w).threshold[0]
    np.float64(1.5)
    """
    ordered = SortedRows.of(Z, w) if ordered is None else ordered
    if len(ordered.rows) < len(w):
        Z, Y, w = Z[ordered.rows], Y[ordered.rows], w[ordered.rows]
        ordered = replace(ordered, rows=np.arange(len(w)))
    # Losses are summed over rows here, so that prices are those of the mean times the weight.
    prices = np.zeros(Z.shape[1]) if costs is None else costs * w.sum()
    tree = refitted(tree, Z, Y, w, min_weight)
    for _ in range(max_passes):
        changed = _visit(tree, ordered, Z, Y, w, prices, min_weight)
        if changed is None:
            break
        tree = refitted(changed, Z, Y, w, min_weight)
    return centred(tree, Z)


def _visit(
    tree: Tree, ordered: SortedRows, Z: Floats, Y: Floats, w: Floats, prices: Floats, min_weight: float
) -> Tree | None:
    """One pass over the nodes from the root down; None when nothing was changed."""
    from ._refine_numba import below  # numba loads at first use

    loss, leaf = below(tree.children_left, tree.children_right, tree.feature, tree.threshold, tree.value, Z, Y, w)
    smallest = ROUNDING * tree.impurity[0] * tree.n_node_weight[0]
    root = tree.root()
    ids = {id(node): v for v, node in enumerate(root.walk())}
    changed = False
    waiting: list[tuple[Node, SortedRows]] = [(root, ordered)]
    while waiting:
        node, members = waiting.pop()
        if node.left is None or node.right is None:
            continue
        v, left, right = ids[id(node)], ids[id(node.left)], ids[id(node.right)]
        rows = members.rows
        bound = loss[v, rows].sum() + prices[node.feature] - smallest
        all_left = loss[left, rows].sum() - _price(node.right, prices)
        all_right = loss[right, rows].sum() - _price(node.left, prices)
        feature, threshold, total = _best_cut(members, loss, leaf, w, (left, right), prices, min_weight)
        if min(all_left, all_right) <= min(total, bound):
            child = node.left if all_left <= all_right else node.right
            ids[id(node)] = ids[id(child)]
            put_in_place(child, node)
            waiting.append((node, members))
            changed = True
            continue
        if total < bound:
            node.feature, node.threshold = feature, threshold
            changed = True
        to_right = Z[rows, node.feature] > node.threshold
        for child, share in ((node.left, ~to_right), (node.right, to_right)):
            if child.left is not None and share.any():
                waiting.append((child, members.only(share)))
    return tree_from(root) if changed else None


def _price(node: Node, prices: Floats) -> float:
    return float(sum(prices[below.feature] for below in node.walk() if below.left is not None))


def _best_cut(
    members: SortedRows,
    loss: Floats,
    leaf: NDArray[np.int32],
    w: Floats,
    children: tuple[int, int],
    prices: Floats,
    min_weight: float,
) -> tuple[int, float, float]:
    """Feature, threshold and sum of losses and price of the best cut at a node; infinite when none is allowed."""
    from ._refine_numba import best_cut  # numba loads at first use

    left, right = children
    rows = members.rows
    cut: tuple[int, float, float] = best_cut(
        members.values, members.orders, loss[left, rows], loss[right, rows], leaf[left, rows], leaf[right, rows],
        w[rows], prices, len(loss), min_weight,
    )  # fmt: skip
    return cut
