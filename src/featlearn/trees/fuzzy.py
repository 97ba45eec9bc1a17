"""A crisp tree made fuzzy: the same splits, crossed gradually, and the means that go with that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .tree import Tree

__all__ = ["fuzzy_tree"]

Floats = NDArray[np.float64]


def fuzzy_tree(tree: Tree, Z: Floats, Y: Floats, w: Floats, h: float) -> Tree:
    r"""The tree with the means, weights and gains of memberships at bandwidth h.

    .. math:: W_v = \sum_i w_i r_{iv}, \qquad V_v = \sum_i w_i r_{iv} Y_i / W_v

    Parameters
    ----------
    tree : Tree
        Crisp; its splits stay.
    Z, Y, w : arrays of shape (n, q), (n, K) and (n,)
    h : float

    Returns
    -------
    Tree
        A node that no row reaches keeps its mean, with weight 0.

    Notes
    -----
    Means of memberships are not the values of least squared error: they minimise the sum of ``r |Y - V|^2``, an upper
    bound of the loss.
    """
    shares = tree.reach(Z, h) * w[:, None]
    weights = shares.sum(axis=0)
    there = weights > 0
    safe = np.where(there, weights, 1.0)
    value = np.where(there[:, None], shares.T @ Y / safe[:, None], tree.value)
    squares = np.square(Y).sum(axis=1)
    impurity = np.where(there, np.maximum(shares.T @ squares / safe - np.square(value).sum(axis=1), 0.0), 0.0)
    gain = np.zeros(tree.n_nodes)
    power = weights * np.square(value).sum(axis=1)
    for v in tree.split_nodes:
        gain[v] = max(power[tree.children_left[v]] + power[tree.children_right[v]] - power[v], 0.0)
    return replace(tree, value=value, n_node_weight=weights, gain=gain, impurity=impurity)
