"""Refinement: never a higher loss, one-split problems against all cuts, leaf weights, fixed points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from random_trees import loss_by_rows, random_tree

from featlearn.trees.refine import refine
from featlearn.trees.refit import centred, midpoint, refitted
from featlearn.trees.tree import leaf_tree, tree_from


def problem(seed, n_rows=80, n_features=3, n_outputs=2, ties=False):
    rng = np.random.default_rng(seed)
    Z, w = rng.standard_normal((n_rows, n_features)), rng.integers(0, 4, n_rows).astype(float)
    if ties:
        Z = np.round(2 * Z)
    Y = rng.normal(size=(n_rows, n_outputs), scale=0.3)
    Y[:, 0] += (Z[:, 0] > 0) ^ (Z[:, 1] > 0.2)
    return random_tree(rng, 5, n_features, n_outputs), Z, Y, w


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(8))
def test_no_pass_raises_the_loss_and_the_end_is_a_fixed_point(seed, ties):
    tree, Z, Y, w = problem(seed, ties=ties)
    losses = [loss_by_rows(tree, Z, Y, w)]
    losses += [loss_by_rows(refine(tree, Z, Y, w, max_passes=passes), Z, Y, w) for passes in range(11)]
    assert np.diff(losses).max() < 1e-12
    assert losses[-1] < losses[1]
    end = refine(tree, Z, Y, w, max_passes=100)
    again = refine(end, Z, Y, w)
    assert_array_equal(again.threshold, end.threshold)
    assert_array_equal(again.feature, end.feature)


def test_a_perfect_tree_is_left_alone():
    tree, Z, _, w = problem(0)
    Y = tree.predict(Z)
    tree = centred(refitted(tree, Z, Y, w), Z[w > 0])
    refined = refine(tree, Z, Y, w)
    assert_array_equal(refined.feature, tree.feature)
    assert_array_equal(refined.threshold, tree.threshold)


def lowest_loss_of_one_split(Z, Y, w, values, min_weight):
    """All cuts of all features with the values of the two leaves fixed, and no split at all."""
    errors = np.stack([w * ((Y - value) ** 2).sum(axis=1) for value in values])
    losses = [] if w.sum() < min_weight else [errors[0].sum(), errors[1].sum()]
    for z in Z.T:
        for threshold in np.unique(z[w > 0]):
            right = z > threshold
            if min(w[right].sum(), w[~right].sum()) >= max(min_weight, 1):
                losses.append(errors[0][~right].sum() + errors[1][right].sum())
    return min(losses) / w.sum()


@pytest.mark.parametrize("min_weight", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_one_pass_over_one_split_finds_the_best_of_all_cuts(ties, min_weight):
    for seed in range(10):
        _, Z, Y, w = problem(seed, ties=ties)
        root = leaf_tree(Y, w).root()
        root.feature, root.threshold = 2, 0.1
        root.left, root.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
        start = refitted(tree_from(root), Z, Y, w)
        assert start.n_node_weight[1:].min() >= 20
        refined = refine(start, Z, Y, w, min_weight=min_weight, max_passes=1)
        best = lowest_loss_of_one_split(Z, Y, w, start.value[1:], min_weight)
        # The values of the end are means, so they lose no more than those of the start on the same sides.
        sides = refined.apply(Z)
        kept = start.value[sides] if refined.n_leaves == 2 else None
        assert kept is not None
        assert_allclose((w * ((Y - kept) ** 2).sum(axis=1)).sum() / w.sum(), best, rtol=1e-12)
        assert refined.n_node_weight[refined.is_leaf].min() >= min_weight


@pytest.mark.parametrize("min_weight", [3.0, 8.0, 20.0, 60.0])
@pytest.mark.parametrize("seed", range(6))
def test_leaves_keep_their_least_weight(seed, min_weight):
    tree, Z, Y, w = problem(seed, n_rows=150)
    legal = refitted(tree, Z, Y, w, min_weight)
    refined = refine(tree, Z, Y, w, min_weight=min_weight)
    assert refined.n_node_weight[refined.is_leaf].min() >= min_weight
    assert loss_by_rows(refined, Z, Y, w) <= loss_by_rows(legal, Z, Y, w) + 1e-12


def test_a_subtree_takes_the_place_of_a_node_that_only_harms():
    Z = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0], [1, 0]])
    Y, w = Z[:, 1:].copy(), np.ones(5)
    root = leaf_tree(Y, w).root()
    root.feature, root.threshold = 0, 0.5
    root.left, root.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    root.right.feature, root.right.threshold = 1, 0.5
    root.right.left, root.right.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    refined = refine(tree_from(root), Z, Y, w)
    assert refined.n_leaves == 2
    assert refined.feature[0] == 1
    assert loss_by_rows(refined, Z, Y, w) == 0


@pytest.mark.parametrize("seed", range(6))
def test_with_costs_it_is_the_complexity_that_never_rises(seed):
    tree, Z, Y, w = problem(seed)
    costs = np.array([0.004, 0.008, 0.03])

    def price(tree):
        return loss_by_rows(tree, Z, Y, w) + sum(costs[j] for j in tree.feature if j >= 0)

    prices = [price(tree)]
    prices += [price(refine(tree, Z, Y, w, costs=costs, max_passes=passes)) for passes in range(6)]
    assert np.diff(prices).max() < 1e-12
    assert prices[-1] < prices[1]


def test_with_costs_a_split_that_is_needless_goes_and_the_cheaper_of_two_features_is_tested():
    z = np.arange(8.0)
    Z, Y, w = np.stack([z, z], axis=1), (z[:, None] > 3).astype(float), np.ones(8)
    root = leaf_tree(Y, w).root()
    root.feature, root.threshold = 0, 1.5
    root.left, root.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    root.right.feature, root.right.threshold = 0, 3.5
    root.right.left, root.right.right = leaf_tree(Y, w).root(), leaf_tree(Y, w).root()
    tree = tree_from(root)
    assert refine(tree, Z, Y, w).n_leaves == 3
    refined = refine(tree, Z, Y, w, costs=np.array([0.02, 0.01]))
    assert (refined.n_leaves, refined.feature[0], refined.threshold[0]) == (2, 1, 3.5)


def test_weights_are_repetitions_and_the_order_of_rows_does_not_matter():
    tree, Z, Y, w = problem(3)
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(Z)), w.astype(int)))
    refined = refine(tree, Z, Y, w, min_weight=4.0)
    repeated = refine(tree, Z[rows], Y[rows], np.ones(len(rows)), min_weight=4.0)
    assert_array_equal(refined.feature, repeated.feature)
    assert_array_equal(refined.threshold, repeated.threshold)
    assert_allclose(refined.value, repeated.value, rtol=1e-12)


def test_refitting_gives_means_gains_and_impurities_of_the_rows():
    tree, Z, Y, w = problem(4)
    tree = refitted(tree, Z, Y, w)
    passes = tree.decision_path(Z).toarray()
    for v in range(tree.n_nodes):
        at = passes[:, v] > 0
        mean = w[at] @ Y[at] / w[at].sum()
        assert_allclose(tree.value[v], mean, rtol=1e-12)
        assert_allclose(tree.n_node_weight[v], w[at].sum())
        assert_allclose(tree.impurity[v], (w[at] @ (Y[at] - mean) ** 2).sum() / w[at].sum(), rtol=1e-12)
    errors = tree.n_node_weight * tree.impurity
    for v in tree.split_nodes:
        fall = errors[v] - errors[tree.children_left[v]] - errors[tree.children_right[v]]
        assert_allclose(tree.gain[v], fall, atol=1e-12)


def test_thresholds_are_halfway_between_rows_with_weight():
    tree, Z, Y, w = problem(5)
    tree = refine(tree, Z, Y, w)
    passes = tree.decision_path(Z).toarray()
    for v in tree.split_nodes:
        z = Z[(passes[:, v] > 0) & (w > 0), tree.feature[v]]
        t = tree.threshold[v]
        assert_allclose(t, (z[z <= t].max() + z[z > t].min()) / 2, rtol=1e-15)


def test_midpoint_parts_neighbouring_floats():
    low = 1.0
    high = np.nextafter(low, 2)
    assert low <= midpoint(low, high) < high
    assert midpoint(1.0, 3.0) == 2.0
