"""The best pruning of a crisp tree for the complexity J."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .tree import Tree, tree_from

__all__ = ["prune"]

NOTHING = 1e-12  # share of the root's impurity below which a gain is rounding


def prune(tree: Tree, costs: NDArray[np.float64]) -> Tree:
    r"""The subtree with the same root of lowest loss plus costs of its splits.

    .. math::
        \mathrm{net}(v) = \mathrm{gain}(v) / n - \mathrm{cost}(j(v)) + \max(0, \mathrm{net}(l))
        + \max(0, \mathrm{net}(r))

    Nodes whose net is not positive become leaves.

    Parameters
    ----------
    tree : Tree
        Crisp, with the weighted means of its rows as values, so that gains are what the splits take off the loss.
    costs : array of shape (q,)
        Price of a split on each feature, in units of the loss, not negative.

    Returns
    -------
    Tree
        Of several best prunings the one with the fewest leaves.

    Notes
    -----
    A dynamic programme, one visit a node: no other pruning has a lower loss plus costs.

    Examples
    --------
    >>> import numpy as np
    >>> from featlearn.trees.grow import grow
    >>> Z, Y, w = np.arange(4.0)[:, None], np.array([[0.0], [0.1], [1.0], [1.0]]), np.ones(4)
    >>> tree = grow(Z, Y, w, 0.0, max_depth=2, min_weight=0.0)
    >>> tree.n_leaves, prune(tree, np.array([0.01])).n_leaves, prune(tree, np.array([1.0])).n_leaves
    (3, 2, 1)
    """
    root = tree.root()
    nodes = root.walk()
    net = np.zeros(tree.n_nodes)
    nothing = NOTHING * tree.impurity[0]
    for v in reversed(tree.split_nodes):
        below = max(0.0, net[tree.children_left[v]]) + max(0.0, net[tree.children_right[v]])
        net[v] = tree.gain[v] / tree.n_node_weight[0] - costs[tree.feature[v]] + below
        if net[v] <= nothing:
            nodes[v].left = nodes[v].right = None
    return tree_from(root)
