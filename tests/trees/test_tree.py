"""Trees of arrays against a walk by hand: paths, predictions crisp and fuzzy, mirrored and renumbered columns."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from featlearn.exceptions import DataError
from featlearn.trees.tree import Node, leaf_tree, share_right, tree_from


def random_node(rng, levels):
    node = Node(rng.normal(size=2), float(rng.uniform(1, 2)), 0.5)
    if levels and (levels == 5 or rng.random() < 0.8):
        node.feature, node.threshold, node.gain = int(rng.integers(0, 5)), float(rng.normal()), 1.0
        node.left, node.right = random_node(rng, levels - 1), random_node(rng, levels - 1)
    return node


def case(seed):
    rng = np.random.default_rng(seed)
    root = random_node(rng, 5)
    return root, tree_from(root), rng.normal(size=(60, 5))


def path_by_hand(tree, row):
    path = [0]
    while tree.children_left[path[-1]] >= 0:
        node = path[-1]
        side = tree.children_right if row[tree.feature[node]] > tree.threshold[node] else tree.children_left
        path.append(int(side[node]))
    return path


def fuzzy_by_hand(node, row, share):
    if node.left is None:
        return node.value
    s = share(row[node.feature] - node.threshold)
    return (1 - s) * fuzzy_by_hand(node.left, row, share) + s * fuzzy_by_hand(node.right, row, share)


@pytest.mark.parametrize("seed", range(10))
def test_apply_path_and_prediction_follow_the_rules_row_by_row(seed):
    _, tree, Z = case(seed)
    paths = [path_by_hand(tree, row) for row in Z]
    np.testing.assert_array_equal(tree.apply(Z), [path[-1] for path in paths])
    np.testing.assert_array_equal(tree.predict(Z), tree.value[[path[-1] for path in paths]])
    indicator = tree.decision_path(Z)
    assert indicator.shape == (60, tree.n_nodes)
    for row, path in zip(indicator.toarray(), paths, strict=True):
        assert np.flatnonzero(row).tolist() == path
    np.testing.assert_array_equal(tree.reach(Z, 0.0), indicator.toarray())
    assert tree.depth >= max(map(len, paths)) - 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("smooth", [False, True])
def test_fuzzy_prediction_is_the_recursion_over_nodes(seed, smooth):
    root, tree, Z = case(seed)
    h = 0.4

    def share(distance):
        return 1 / (1 + np.exp(-np.pi * distance / h)) if smooth else min(1.0, max(0.0, (distance / h + 1) / 2))

    expected = np.stack([fuzzy_by_hand(root, row, share) for row in Z])
    np.testing.assert_allclose(tree.predict_fuzzy(Z, h, smooth), expected, atol=1e-12)
    reach = tree.reach(Z, h, smooth)
    np.testing.assert_allclose(reach[:, tree.is_leaf].sum(1), 1, atol=1e-12)
    for node in tree.split_nodes:
        below = reach[:, tree.children_left[node]] + reach[:, tree.children_right[node]]
        np.testing.assert_allclose(below, reach[:, node], atol=1e-12)


def test_both_shares_have_variance_one_third_and_no_bandwidth_is_a_step():
    u = np.linspace(-12, 12, 200_001)
    for smooth in (False, True):
        density = np.gradient(share_right(u, 0.0, 1.0, smooth), u)
        assert np.trapezoid(density, u) == pytest.approx(1, abs=1e-6)
        assert np.trapezoid(density * u**2, u) == pytest.approx(1 / 3, abs=1e-4)
    np.testing.assert_array_equal(share_right(np.array([-1.0, 0.0, 1e-9]), 0.0, 0.0), [0, 0, 1])


def test_fuzzy_prediction_becomes_crisp_as_the_bandwidth_vanishes():
    _, tree, Z = case(3)
    for smooth in (False, True):
        np.testing.assert_allclose(tree.predict_fuzzy(Z, 1e-9, smooth), tree.predict(Z), atol=1e-12)
    np.testing.assert_allclose(tree.predict_fuzzy(Z, 0.0), tree.predict(Z), atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_nodes_are_in_preorder_and_the_way_to_nodes_and_back_loses_nothing(seed):
    _, tree, _ = case(seed)
    for node in tree.split_nodes:
        assert tree.children_left[node] == node + 1 < tree.children_right[node]
    assert tree.n_leaves == len(tree.split_nodes) + 1
    again = pickle.loads(pickle.dumps(tree_from(tree.root())))
    for field, array in vars(tree).items():
        assert getattr(again, field).dtype == array.dtype
        np.testing.assert_array_equal(getattr(again, field), array, err_msg=field)


def test_linked_nodes_are_a_copy():
    _, tree, _ = case(0)
    before, root = tree.value.copy(), tree.root()
    for node in root.walk():
        node.value += 1
        node.threshold = 9.0
    np.testing.assert_array_equal(tree.value, before)
    assert not (tree.threshold == 9.0).any()


@pytest.mark.parametrize("seed", range(10))
def test_mirrored_tree_predicts_the_same_for_mirrored_columns(seed):
    _, tree, Z = case(seed)
    flipped = np.random.default_rng(seed).random(5) < 0.5
    mirrored, signs = tree.mirrored(flipped), np.where(flipped, -1, 1)
    np.testing.assert_array_equal(mirrored.predict(Z * signs), tree.predict(Z))
    np.testing.assert_allclose(mirrored.predict_fuzzy(Z * signs, 0.3), tree.predict_fuzzy(Z, 0.3), atol=1e-12)
    for node in mirrored.split_nodes:
        assert mirrored.children_left[node] == node + 1
    np.testing.assert_array_equal(mirrored.mirrored(flipped).threshold, tree.threshold)


def test_renumbered_tree_predicts_the_same_for_the_kept_columns():
    _, tree, Z = case(3)
    kept = np.random.default_rng(0).permutation(tree.used_features)
    np.testing.assert_array_equal(tree.renumbered_features(kept).predict(Z[:, kept]), tree.predict(Z))
    with pytest.raises(DataError, match=rf"Got kept features without \[{kept[0]}\]"):
        tree.renumbered_features(kept[1:])


def test_leaf_holds_the_weighted_mean_and_mean_squared_distance():
    rng = np.random.default_rng(0)
    Y, w = rng.normal(size=(30, 3)), rng.uniform(0, 2, 30)
    tree = leaf_tree(Y, w)
    mean = np.average(Y, axis=0, weights=w)
    np.testing.assert_allclose(tree.value[0], mean, rtol=1e-12)
    assert tree.impurity[0] == pytest.approx(np.average(np.square(Y - mean).sum(1), weights=w))
    assert (tree.n_node_weight[0], tree.n_nodes, tree.n_leaves, tree.depth) == (pytest.approx(w.sum()), 1, 1, 0)
    assert tree.used_features.tolist() == []
    np.testing.assert_allclose(tree.predict(rng.normal(size=(4, 2))), np.tile(mean, (4, 1)))
    assert tree.decision_path(np.zeros((4, 2))).toarray().tolist() == [[1]] * 4
