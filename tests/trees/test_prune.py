"""Pruning against the list of all prunings."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from random_trees import loss_by_rows, random_tree

from featlearn.trees.prune import prune
from featlearn.trees.refit import refitted
from featlearn.trees.tree import leaf_tree, tree_from


def all_prunings(tree):
    """Every set of nodes that can become leaves, each as a tree."""

    def choices(v):
        if tree.children_left[v] < 0:
            return [frozenset()]
        left, right = choices(tree.children_left[v]), choices(tree.children_right[v])
        return [frozenset([v]), *(a | b for a in left for b in right)]

    for stops in choices(0):
        root = tree.root()
        nodes = root.walk()
        for v in stops:
            nodes[v].left = nodes[v].right = None
        yield tree_from(root)


def price(tree, Z, Y, w, costs):
    return loss_by_rows(tree, Z, Y, w) + sum(costs[j] for j in tree.feature if j >= 0)


@pytest.mark.parametrize("scale", [0.003, 0.02, 0.1])
def test_no_other_pruning_is_cheaper(scale):
    rng = np.random.default_rng(0)
    sizes = set()
    for n_splits in [1, 2, 3, 4, 5, 5, 5, 5]:
        Z, w = rng.standard_normal((60, 3)), rng.integers(1, 4, 60).astype(float)
        Y = np.stack([Z[:, 0] * Z[:, 1] > 0, Z[:, 2] > rng.normal(size=60)], axis=1).astype(float)
        tree = refitted(random_tree(rng, n_splits, 3, 2), Z, Y, w)
        costs = scale * rng.uniform(0.5, 2, 3)
        pruned = prune(tree, costs)
        best = min(price(other, Z, Y, w, costs) for other in all_prunings(tree))
        assert_allclose(price(pruned, Z, Y, w, costs), best, rtol=1e-12)
        sizes.add(pruned.n_leaves)
    assert len(sizes) > 1 or scale == 0.1


def test_without_costs_only_splits_without_gain_go():
    Z = np.arange(8.0)[:, None]
    Y = np.array([0, 0, 0, 0, 1, 1, 1, 2.0])[:, None]
    w = np.ones(8)
    root = leaf_tree(Y, w).root()

    def split(node, at, rows):
        node.feature, node.threshold = 0, at
        node.left, node.right = (leaf_tree(Y[part], w[part]).root() for part in (rows[Z[rows, 0] <= at], rows))
        return node.left, node.right

    left, right = split(root, 3.5, np.arange(8))
    split(left, 1.5, np.arange(4))
    split(right, 6.5, np.arange(4, 8))
    tree = refitted(tree_from(root), Z, Y, w)
    assert tree.n_leaves == 4
    pruned = prune(tree, np.zeros(1))
    assert pruned.n_leaves == 3
    assert loss_by_rows(pruned, Z, Y, w) == 0


def test_a_split_without_gain_stays_for_the_gain_below():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    Y, w = (corners[:, :1] != corners[:, 1:]).astype(float), np.ones(4)
    root = leaf_tree(Y, w).root()
    root.feature, root.threshold = 0, 0.5
    root.left, root.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    for child in (root.left, root.right):
        child.feature, child.threshold = 1, 0.5
        child.left, child.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    tree = refitted(tree_from(root), corners, Y, w)
    assert tree.gain[0] == 0
    assert prune(tree, np.full(2, 0.05)).n_leaves == 4
    assert prune(tree, np.full(2, 0.1)).n_leaves == 1  # three splits cost more than the variance, .25
