"""Greedy growth against scikit-learn's tree, a recursion by hand, and in memory and threads."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from featlearn.trees.grow import grow
from featlearn.trees.split import best_split

FIELDS = (
    "children_left", "children_right", "feature", "threshold", "value", "n_node_weight", "gain", "impurity",
)  # fmt: skip


def two_rules(n, seed=0, q=4, outputs=2):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, q))
    labels = (Z[:, 0] > 0.3).astype(int) + (Z[:, 1] - 0.2 * Z[:, 2] > -0.1)
    labels[rng.random(n) < 0.1] = 0
    return Z, np.eye(max(outputs, 3))[labels], rng.uniform(0.5, 2, n)


def assert_same(one, other):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_no_bandwidth_grows_the_tree_of_scikit_learn_for_classes(backend, depth):
    Z, Y, w = two_rules(400)
    Z = Z.astype(np.float32).astype(float)  # theirs splits in single precision
    # Leaves of some rows, for with two left any column separates them and theirs takes one at random.
    tree = grow(Z, Y, w, 0.0, max_depth=depth, min_weight=0.01 * w.sum(), backend=backend)
    theirs = DecisionTreeClassifier(max_depth=depth, min_weight_fraction_leaf=0.01, random_state=0)
    theirs = theirs.fit(Z, Y.argmax(1), sample_weight=w).tree_
    np.testing.assert_array_equal(tree.children_left, theirs.children_left)
    np.testing.assert_array_equal(tree.children_right, theirs.children_right)
    np.testing.assert_array_equal(tree.feature, theirs.feature)
    inner = ~tree.is_leaf
    np.testing.assert_allclose(tree.threshold[inner], theirs.threshold[inner], rtol=1e-12)
    np.testing.assert_allclose(tree.value, theirs.value[:, 0], atol=1e-12)
    np.testing.assert_allclose(tree.n_node_weight, theirs.weighted_n_node_samples, rtol=1e-12)
    np.testing.assert_allclose(tree.impurity, theirs.impurity, atol=1e-12)
    np.testing.assert_array_equal(tree.apply(Z), theirs.apply(Z.astype(np.float32)))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_no_bandwidth_grows_the_tree_of_scikit_learn_for_several_targets(backend):
    rng = np.random.default_rng(2)
    Z = rng.normal(size=(300, 5)).astype(np.float32).astype(float)  # theirs splits in single precision
    Y = np.column_stack([Z[:, 0] * Z[:, 1], np.sin(2 * Z[:, 2])]) + 0.1 * rng.normal(size=(300, 2)) + 7.0
    tree = grow(Z, Y, np.ones(300), 0.0, max_depth=4, min_weight=5.0, backend=backend)
    theirs = DecisionTreeRegressor(max_depth=4, min_samples_leaf=5, random_state=0).fit(Z, Y)
    np.testing.assert_array_equal(tree.feature, theirs.tree_.feature)
    np.testing.assert_allclose(tree.predict(Z), theirs.predict(Z), atol=1e-10)
    # Theirs is the mean over targets, ours the sum.
    np.testing.assert_allclose(tree.impurity, 2 * theirs.tree_.impurity, atol=1e-10)


def test_fuzzy_growth_is_best_splits_of_members_one_after_another():
    Z, Y, w = two_rules(300, seed=1)
    h, least = 0.2, 8.0

    def by_hand(weights, levels):
        """Nodes in preorder as (feature, threshold, gain, value, weight)."""
        member = weights > 0
        node = [-2, np.nan, 0.0, np.average(Y[member], axis=0, weights=weights[member]), weights.sum()]
        split = best_split(Z, Y, weights, h, least) if levels else None
        if split is None or split.gain / w.sum() < 0.001:
            return [node]
        s = np.clip((Z[:, split.feature] - split.threshold + h) / (2 * h), 0, 1)
        node[:3] = split.feature, split.threshold, split.gain
        return [node, *by_hand(weights * (1 - s), levels - 1), *by_hand(weights * s, levels - 1)]

    tree, nodes = grow(Z, Y, w, h, max_depth=4, min_weight=least, min_gain=0.001), by_hand(w, 4)
    assert tree.n_nodes == len(nodes) > 7
    for place, field in enumerate(("feature", "threshold", "gain", "value", "n_node_weight")):
        np.testing.assert_allclose(getattr(tree, field), np.stack([node[place] for node in nodes]), rtol=1e-9)
    assert tree.n_node_weight.min() >= least * (1 - 1e-9)


def test_values_and_impurities_are_averages_with_reach():
    Z, Y, w = two_rules(300, seed=3)
    tree = grow(Z, Y, w, 0.3, max_depth=3, min_weight=5.0)
    weights = w[:, None] * tree.reach(Z, 0.3)
    np.testing.assert_allclose(tree.n_node_weight, weights.sum(0), rtol=1e-10)
    np.testing.assert_allclose(tree.value, (weights.T @ Y) / weights.sum(0)[:, None], atol=1e-10)
    distances = np.square(Y[:, None] - tree.value).sum(2)
    np.testing.assert_allclose(tree.impurity, (weights * distances).sum(0) / weights.sum(0), atol=1e-10)


def test_gains_add_up_to_the_fall_of_the_loss():
    Z, Y, w = two_rules(300, seed=4)
    tree = grow(Z, Y, w, 0.0, max_depth=5, min_weight=5.0)
    loss = w @ np.square(tree.predict(Z) - Y).sum(1)
    assert loss == pytest.approx(tree.impurity[0] * w.sum() - tree.gain.sum(), rel=1e-10)


@pytest.mark.parametrize("h", [0.0, 0.1, 0.5])
def test_backends_grow_the_same_tree(h):
    Z, Y, w = two_rules(3000, seed=5)
    one, other = (grow(Z, Y, w, h, max_depth=5, min_weight=10.0, backend=backend) for backend in ("numpy", "numba"))
    np.testing.assert_array_equal(one.feature, other.feature)
    np.testing.assert_allclose(one.threshold, other.threshold, rtol=1e-10)
    np.testing.assert_allclose(one.gain, other.gain, rtol=1e-10)


@pytest.mark.parametrize("h", [0.0, 0.1])
def test_tree_is_bitwise_the_same_on_any_number_of_threads(h):
    Z, Y, w = two_rules(20_000, seed=6, q=8)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(grow(Z, Y, w, h, max_depth=4, min_weight=5.0))
    finally:
        torch.set_num_threads(before)
    assert found[0].n_leaves > 8
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_weight_is_repetition_and_rows_of_weight_zero_do_not_exist():
    Z, Y, _ = two_rules(200, seed=7)
    w = np.random.default_rng(7).integers(0, 4, 200)
    rows = np.repeat(np.arange(200), w)
    for h in (0.0, 0.2):
        one = grow(Z, Y, w.astype(float), h, max_depth=4, min_weight=10.0)
        other = grow(Z[rows], Y[rows], np.ones(len(rows)), h, max_depth=4, min_weight=10.0)
        np.testing.assert_array_equal(one.feature, other.feature)
        np.testing.assert_allclose(one.threshold, other.threshold, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(one.value, other.value, atol=1e-9)


def test_min_gain_is_per_unit_of_weight_and_stops_growth():
    Z, Y, w = two_rules(400, seed=8)
    full = grow(Z, Y, w, 0.1, max_depth=5, min_weight=5.0)
    limit = float(np.median(full.gain[~full.is_leaf])) / w.sum()
    short = grow(Z, Y, w, 0.1, max_depth=5, min_weight=5.0, min_gain=limit)
    assert 1 < short.n_leaves < full.n_leaves
    assert (short.gain[~short.is_leaf] / w.sum() >= limit).all()
    assert grow(Z, Y, 10 * w, 0.1, max_depth=5, min_weight=50.0, min_gain=limit).n_leaves == short.n_leaves
    assert grow(Z, Y, w, 0.1, max_depth=0, min_weight=5.0).n_nodes == 1
    assert grow(Z, Y, w, 0.1, max_depth=5, min_weight=w.sum()).n_nodes == 1


def test_memory_is_linear_in_rows_and_does_not_grow_with_depth():
    def peak(n, depth):
        Z, Y, w = two_rules(n, seed=9, q=6)
        grow(Z[:500], Y[:500], w[:500], 0.0, max_depth=1, min_weight=5.0, backend="numba")  # loads numba
        tracemalloc.start()
        try:
            grow(Z, Y, w, 0.05, max_depth=depth, min_weight=5.0, backend="numba")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large, deep = peak(10_000, 4), peak(40_000, 4), peak(40_000, 9)
    assert large < 4.4 * small
    assert deep < 1.5 * large
    assert large < 40_000 * 6 * 60  # bytes a number of Z: orders and values, of a node and its children
