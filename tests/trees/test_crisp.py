"""Crisp trees on fixed features: the better of two growths, in loss plus costs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from random_trees import loss_by_rows, random_tree
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featlearn.trees.crisp import crisp_tree, loss_of, objective_of
from featlearn.trees.grow import grow
from featlearn.trees.lookahead import grow_looking_ahead
from featlearn.trees.prune import prune
from featlearn.trees.refine import refine


def xor(n_rows, seed, n_features=2, noise=0.0):
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n_rows, n_features))
    labels = ((Z[:, 0] > 0) ^ (Z[:, 1] > 0)) ^ (rng.random(n_rows) < noise)
    return Z, np.eye(2)[labels.astype(int)]


@pytest.mark.parametrize("seed", range(4))
def test_xor_on_its_two_features_has_four_leaves_which_greedy_growth_misses(seed):
    Z, Y = xor(400, seed)
    w, settings = np.ones(400), {"costs": np.full(2, 0.01), "max_depth": 4, "min_weight": 5.0}
    tree = crisp_tree(Z, Y, w, **settings)
    assert tree.n_leaves == 4
    assert loss_of(tree, Z, Y, w) == 0
    assert crisp_tree(Z, Y, w, **settings, look_ahead=False, refined=False).n_leaves > 4


@pytest.mark.parametrize("seed", range(4))
def test_of_both_growths_refined_and_pruned_the_better_one_is_returned(seed):
    Z, Y = xor(400, seed, n_features=3, noise=0.1)
    w, costs = np.random.default_rng(seed).integers(0, 3, 400).astype(float), np.array([0.004, 0.008, 0.002])
    shape = {"max_depth": 3, "min_weight": 5.0}
    tree = crisp_tree(Z, Y, w, costs=costs, **shape)
    looked = grow_looking_ahead(Z, Y, w, **shape)
    grown = [grow(Z, Y, w, 0.0, **shape), *([] if looked is None else [looked])]
    finished = [prune(refine(each, Z, Y, w, min_weight=5.0, costs=costs), costs) for each in grown]
    prices = [loss_by_rows(each, Z, Y, w) + sum(costs[j] for j in each.feature if j >= 0) for each in finished]
    assert_allclose(objective_of(tree, loss_of(tree, Z, Y, w), costs), min(prices), rtol=1e-12)
    assert tree.n_node_weight.min() >= 5


@pytest.mark.parametrize("targets", ["labels", "numbers"])
def test_without_costs_refinement_and_lookahead_it_is_scikit_learn_s_tree(targets):
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((300, 4))
    labels = (Z[:, 0] + Z[:, 1] > 0).astype(int) + (Z[:, 2] > 0.5)
    numbers = Z[:, 0] * Z[:, 1] + 0.1 * rng.standard_normal(300)
    peer, y = (DecisionTreeClassifier, labels) if targets == "labels" else (DecisionTreeRegressor, numbers)
    reference = peer(max_depth=4, min_samples_leaf=5, random_state=0).fit(Z, y).tree_
    Y = np.eye(3)[labels] if targets == "labels" else numbers[:, None]
    tree = crisp_tree(
        Z, Y, np.ones(300), costs=np.zeros(4), max_depth=4, min_weight=5.0, look_ahead=False, refined=False
    )
    assert_array_equal(tree.feature, reference.feature)
    splits = ~tree.is_leaf
    assert_allclose(tree.threshold[splits], reference.threshold[splits], rtol=1e-6, atol=1e-6)
    assert_allclose(tree.n_node_weight, reference.weighted_n_node_samples)


def test_costs_choose_the_cheaper_of_two_equal_features():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(200)
    Z, Y, w = np.stack([z, z + 1e-3 * rng.standard_normal(200)], axis=1), np.eye(2)[(z > 0).astype(int)], np.ones(200)
    settings = {"max_depth": 2, "min_weight": 5.0}
    assert crisp_tree(Z, Y, w, costs=np.array([0.01, 0.01]), **settings).n_leaves == 2
    assert crisp_tree(Z, Y, w, costs=np.array([0.6, 0.6]), **settings).n_leaves == 1


def test_loss_and_objective_are_their_definitions():
    rng = np.random.default_rng(0)
    Z, Y, w = rng.standard_normal((50, 3)), rng.standard_normal((50, 2)), rng.integers(0, 3, 50).astype(float)
    tree, costs = random_tree(rng, 5, 3, 2), np.array([0.1, 0.2, 0.4])
    assert_allclose(loss_of(tree, Z, Y, w), loss_by_rows(tree, Z, Y, w), rtol=1e-12)
    expected = 0.7 + sum(costs[j] for j in tree.feature if j >= 0)
    assert_allclose(objective_of(tree, 0.7, costs), expected, rtol=1e-12)


def test_more_than_eight_features_are_grown_greedily():
    Z, Y = xor(200, 0, n_features=9)
    settings = {"costs": np.full(9, 0.004), "max_depth": 3, "min_weight": 5.0}
    tree = crisp_tree(Z, Y, np.ones(200), **settings)
    greedy = crisp_tree(Z, Y, np.ones(200), **settings, look_ahead=False)
    assert_array_equal(tree.threshold, greedy.threshold)


def test_constant_targets_give_one_leaf():
    Z = np.random.default_rng(0).standard_normal((30, 2))
    tree = crisp_tree(Z, np.ones((30, 1)), np.ones(30), costs=np.zeros(2), max_depth=3, min_weight=1.0)
    assert tree.n_leaves == 1
    assert tree.value.tolist() == [[1.0]]


def test_weights_are_repetitions_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    Z, Y = xor(300, 5, n_features=3, noise=0.05)
    w = rng.integers(0, 3, 300).astype(float)
    rows = rng.permutation(np.repeat(np.arange(300), w.astype(int)))
    settings = {"costs": np.full(3, 0.004), "max_depth": 4, "min_weight": 5.0}
    weighted = crisp_tree(Z, Y, w, **settings)
    repeated = crisp_tree(Z[rows], Y[rows], np.ones(len(rows)), **settings)
    assert_array_equal(weighted.feature, repeated.feature)
    assert_array_equal(weighted.threshold, repeated.threshold)
    assert_allclose(weighted.value, repeated.value, rtol=1e-12)
